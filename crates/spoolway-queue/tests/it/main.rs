//! The queue on real files.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests, fail like them"
)]

mod adopt;
mod child;
mod claims;
mod dead;
mod delivery;
mod faults;
mod files;
mod inbox;
mod maintenance;
mod outbox;
mod poller;
mod producers;
mod replay;
mod support;
mod transfer;
mod versions;
mod wake;
mod writers;
