//! The consumer from outside: raw bytes over real sockets, rows in real queue files.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod crowd;
mod delivery;
mod http;
mod lifecycle;
mod ndjson;
mod protocol;
mod sinks;
mod spool_directory;
mod support;
