//! A client and a server on a real socket.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests, fail like them"
)]

mod access;
mod client;
mod file;
mod server;
mod sockets;
mod support;
