//! The program as its users run it: real processes, real sockets, real files, real signals.

mod delivery;
mod faults;
mod foreign;
mod readme;
mod support;
mod torture;
