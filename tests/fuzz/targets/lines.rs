//! Any bytes as a stream of lines.

#![no_main]

#[path = "../checks/chunks.rs"]
mod chunks;
#[path = "../checks/envelope.rs"]
mod envelope;
#[path = "../checks/lines.rs"]
mod lines;

libfuzzer_sys::fuzz_target!(|input: &[u8]| lines::check(input));
