//! Any reply to every language.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quota_gate_fuzz::reply::hold(bytes));
