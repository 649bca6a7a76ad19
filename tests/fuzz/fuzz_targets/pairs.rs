//! Any bytes as a header map from the host.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quota_gate_fuzz::maps::hold(bytes));
