//! The promises, on a real Envoy: the same names as in `tests/spec`, and what only a host can show.

mod gated;

mod allow_and_deny;
mod answers;
mod breaker;
mod cache;
mod config_problems;
mod denial;
mod descriptor;
mod emergency;
mod failure_mode;
mod hostile_bytes;
mod lease_resets;
mod leases;
mod lessons;
mod line_breaks;
mod matrix;
mod metrics;
mod own_backend;
mod page;
mod parity;
mod presets;
mod reload;
mod restricted;
mod routes;
mod settle;
mod settle_crowd;
mod throttlecrab;
mod timeouts;
