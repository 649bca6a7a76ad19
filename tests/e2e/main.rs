//! The promises, on a real Envoy: the same names as in `tests/spec`, and what only a host can show.

mod gated;

mod allow_and_deny;
mod config_problems;
mod denial;
mod failure_mode;
mod hostile_bytes;
mod matrix;
mod timeouts;
