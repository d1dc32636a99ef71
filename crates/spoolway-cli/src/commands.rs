//! One module a command, or a few that belong together. Each has a function, which returns the exit code.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod cleanup;
pub(crate) mod dead;
pub(crate) mod demo;
pub(crate) mod keys;
pub(crate) mod replay;
pub(crate) mod send;
pub(crate) mod serve;
pub(crate) mod sockets;
pub(crate) mod stats;
pub(crate) mod torture;
pub(crate) mod transfer;
