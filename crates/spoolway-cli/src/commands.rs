//! One module a command. Each has one function, which returns the exit code.

pub(crate) mod audit;
pub(crate) mod cleanup;
pub(crate) mod demo;
pub(crate) mod keys;
pub(crate) mod replay;
pub(crate) mod send;
pub(crate) mod serve;
pub(crate) mod stats;
pub(crate) mod torture;
