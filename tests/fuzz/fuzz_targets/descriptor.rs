//! Any two requests, and what they are counted as.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quota_gate_fuzz::descriptor::hold(bytes));
