//! The queue on a disk that loses power, fails, and rots: the code as it is in production, under a
//! VFS of our own (`spoolway-faultfs`).
//!
//! Each run is drawn from a seed, which is printed when it fails; `SPOOLWAY_SEED=7 cargo test -p
//! spoolway-queue --test faultfs` runs that one alone.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests, fail like them"
)]

mod check;
mod cuts;
mod damage;
mod errors;
mod ledger;
mod life;
mod quarantine;
mod support;
