//! Any bytes as a route's metadata, and as a `Struct`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quota_gate_fuzz::metadata::hold(bytes));
