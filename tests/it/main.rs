//! The program as its users run it: real processes, real sockets, real files, real signals.

mod activation;
mod audit;
mod bench;
mod clients;
mod damage;
mod dead;
mod dedup;
mod delivery;
mod documents;
mod faults;
mod foreign;
mod idle;
mod keys;
mod readme;
mod replay;
mod sockets;
mod spool_directory;
mod standby;
mod supervisor;
mod support;
mod torture;
mod upkeep;
