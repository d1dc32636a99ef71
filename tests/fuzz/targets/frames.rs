//! Any bytes as a stream of frames.

#![no_main]

#[path = "../checks/chunks.rs"]
mod chunks;
#[path = "../checks/frames.rs"]
mod frames;

libfuzzer_sys::fuzz_target!(|input: &[u8]| frames::check(input));
