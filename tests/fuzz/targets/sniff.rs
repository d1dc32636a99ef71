//! Any bytes as a whole connection.

#![no_main]

#[path = "../checks/chunks.rs"]
mod chunks;
#[path = "../checks/sniff.rs"]
mod sniff;

libfuzzer_sys::fuzz_target!(|input: &[u8]| sniff::check(input));
