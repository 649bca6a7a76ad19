//! A real Envoy, a quota backend that misbehaves on request and an upstream, as one value.
//!
//! Everything listens on free ports of 127.0.0.1 and stops when the [`Rig`] is dropped, also when
//! the test panics (then with the end of Envoy's log) and when the test process is killed. The face
//! is synchronous; a tokio runtime works behind it, so call it from plain tests, not async ones.
//!
//! `QUOTA_GATE_ENVOY` (or `ENVOY_BIN`) says which Envoy to run, `QUOTA_GATE_WASM` which module to
//! load; `cargo xtask test e2e` sets both.
//!
//! ```no_run
//! use std::time::Duration;
//! use envoy_harness::{Fault, Rig, Route};
//! use serde_json::json;
//!
//! let rig = Rig::builder()
//!     .plugin(json!({"backends": {"quota": {"cluster": "quota-backend"}} /* … */}))
//!     .route(Route::prefix("/pay").name("pay").quota(json!({"policy": "gold"})))
//!     .start();
//! rig.backend().limit("tenant=acme", 1, Duration::from_secs(60)).fail_next(1, Fault::Hang);
//!
//! let response = rig.request("GET", "/pay").header("x-tenant-id", "acme").h2().send();
//!
//! response.expect_status(503).expect_json("/code", "quota_unavailable");
//! assert_eq!(rig.backend().expect_checks(1)[0].entry("tenant"), Some("acme"));
//! rig.upstream().expect_requests(0);
//! rig.envoy().expect_metric("quota_gate_failures", &[("cause", "timeout")], 1);
//! assert_eq!(rig.envoy().expect_access_log(1)[0].field("cause"), Some("timeout"));
//! ```
//!
//! The map:
//! - [`Rig`] and [`RigBuilder`]; [`Route`] and [`Cluster`] say what Envoy is configured with. What
//!   has no method of its own is laid over Envoy's configuration as JSON (`hcm`, `wasm`, …).
//! - [`Envoy`]: metrics, log, access log ([`LogEntry`]), memory and CPU time, the admin interface.
//! - [`Backend`]: limits, rejected keys, faults ([`Fault`]) and the journal of checks ([`Check`]).
//!   Its [`Books`] and what it says of them ([`answer`]) also serve where it would be too slow.
//! - [`Program`]: a server that is not ours, on a [`Port`] of its own; killed, frozen, thawed.
//! - [`Endpoints`]: a cluster's endpoints, which can change while Envoy runs.
//! - [`Upstream`]: echoes, with a journal of requests ([`Seen`]); [`llm`]: it answers chat
//!   completions as well, and Envoy's filters find what they used.
//! - [`Request`] and [`Response`], [`Pending`] for many at once and for clients that leave,
//!   [`Connection`] for keep-alive, [`Crowd`] for thousands at once, [`Raw`] for bytes by hand.
//! - [`capabilities`]: what the module may be restricted to; `QUOTA_GATE_RESTRICT=1` does it.
//! - [`jwt`]: Envoy's jwt_authn filter and tokens for it; see [`RigBuilder::filter_before`].
//! - [`eventually`](eventually::eventually) waits for a condition; nothing sleeps.

mod builder;
mod rig;

mod access_log;
mod bootstrap;
pub mod capabilities;
mod cluster;
mod ecds;
mod endpoints;
mod envoy;
pub mod jwt;
pub mod llm;
mod metrics;
mod route;

mod accounts;
mod backend;
mod books;
mod fault;
mod wire;

mod hold;
mod upstream;

mod program;
#[cfg(feature = "redis")]
mod redis;

mod client;
mod crowd;
mod raw;
mod response;

mod body;
mod child;
pub mod eventually;
mod journal;
mod server;

pub use access_log::LogEntry;
pub use backend::{Backend, Check, Told};
pub use books::{Books, Charge, Count, Descriptor};
pub use builder::{BACKEND, RigBuilder};
pub use client::{Connection, Pending, Protocol, Request, send_all};
pub use cluster::Cluster;
pub use crowd::Crowd;
pub use ecds::Push;
pub use endpoints::Endpoints;
pub use envoy::{Envoy, Validation, binary, module, validate, version};
pub use fault::Fault;
pub use metrics::Sample;
pub use program::{Port, Program};
pub use raw::Raw;
#[cfg(feature = "redis")]
pub use redis::Redis;
pub use response::Response;
pub use rig::Rig;
pub use route::Route;
pub use server::Answer;
pub use upstream::{Seen, Upstream, digest};
pub use wire::{QuotaHeaders, Wire, answer};
