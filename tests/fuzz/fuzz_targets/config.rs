//! Any bytes as a configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quota_gate_fuzz::config::hold(bytes));
