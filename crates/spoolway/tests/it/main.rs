//! Outbox, producer, consumer and inbox together: real files, sockets and processes.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests, fail like them"
)]

mod blocking;
mod kills;
mod parts;
mod place;
mod plain;
mod relay;
mod restart;
