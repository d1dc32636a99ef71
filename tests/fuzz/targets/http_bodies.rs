//! Any bytes as what an HTTP request says of messages.

#![no_main]

#[path = "../checks/envelope.rs"]
mod envelope;
#[path = "../checks/http_bodies.rs"]
mod http_bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| http_bodies::check(input));
