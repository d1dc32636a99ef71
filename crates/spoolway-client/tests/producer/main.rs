//! The producer against a consumer written by hand and a real queue file.

#![allow(clippy::unwrap_used, reason = "in tests a failure is a panic")]

mod batch;
mod close;
mod confirm;
mod file;
mod fork;
mod full;
mod key;
mod open;
mod resume;
mod socket;
mod support;
