//! A proxy-wasm HTTP filter that asks a quota backend about each request.
//!
//! A pure core takes events (a request, a reply, a close, a tick), each with the time it happened
//! at, and gives back effects; the host carries them out. The files, from what is asked to what is
//! answered:
//!
//! | file | its room |
//! |---|---|
//! | `time.rs` | time as the host tells it: wall readings in, a clock that never runs backwards out |
//! | `request.rs` | what the filter sees of a request |
//! | `shared.rs` | state that the workers of a process share |
//! | `config.rs` | a configuration that is already valid |
//! | `config/keys.rs`, `config/form.rs` | every key, declared once, and the forms of its texts |
//! | `config/value.rs`, `config/protobuf.rs` | what was sent, as a tree |
//! | `config/parse.rs`, `config/check.rs`, `config/node.rs` | tree and keys side by side |
//! | `config/build.rs`, `config/custom.rs` | a checked tree to a configuration |
//! | `config/units.rs`, `config/timestamp.rs` | durations, statuses, times |
//! | `config/problem.rs` | what is wrong, and where: the text that operators read |
//! | `route.rs`, `metadata.rs` | which policy a request gets |
//! | `descriptor.rs` | who is asking and for what: descriptor, key, cost |
//! | `language.rs` | what a backend's language is made of, as data |
//! | `wire.rs`, `wire/preset.rs`, `wire/template.rs` | how a check is asked |
//! | `wire/reply.rs`, `wire/json.rs`, `wire/structured.rs` | how a reply is read |
//! | `decision.rs` | what is decided and why: reasons, causes, codes |
//! | `denial.rs`, `fields.rs` | a denial as the client sees it; the fields that tell of a limit |
//! | `metrics.rs` | every metric, and what has changed since the last flush |
//! | `gate.rs` | the gate: takes events, orders the steps, emits effects |
//! | `gate/check.rs`, `gate/pending.rs` | asking the backend, and who waits for what |
//! | `gate/reply.rs`, `gate/answer.rs`, `gate/release.rs` | how a call ends, how a stream leaves |
//! | `gate/cache.rs`, `gate/lease.rs` | what is remembered, what is granted ahead |
//! | `gate/local_limit.rs` | the limit without a backend |
//! | `gate/breaker.rs`, `gate/breaker/record.rs`, `gate/breaker/record/layout.rs` | when not to call |
//! | `gate/watch.rs`, `gate/report.rs`, `gate/status.rs` | what operators are told |
//! | `gate/slots.rs`, `gate/table.rs`, `gate/index.rs`, `sorted.rs` | stores, all of them bounded |
//! | `text.rs`, `pairs.rs` | bytes made safe to send; header maps as the ABI has them |
//! | `host.rs`, `host/vm.rs`, `host/view.rs` | the proxy-wasm host: contexts and callbacks |
//! | `host/abi.rs` | every import and export, and the only unsafe code |

// The shipped module must not panic: a trap hangs every stream that the VM has paused.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::unwrap_in_result,
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::float_arithmetic,
        clippy::wildcard_enum_match_arm,
        clippy::let_underscore_must_use,
        clippy::mod_module_files,
        clippy::print_stdout,
        clippy::print_stderr,
        clippy::dbg_macro
    )
)]
#![deny(unsafe_code, missing_docs)]

// Plain `#[test]` functions run under Node, too.
#[cfg(all(test, target_arch = "wasm32"))]
#[macro_use]
extern crate wasm_test;

pub mod config;
pub mod decision;
pub mod denial;
pub mod descriptor;
pub mod fields;
pub mod gate;
#[cfg(all(target_arch = "wasm32", feature = "host"))]
mod host;
pub mod language;
pub mod metadata;
pub mod metrics;
#[cfg(any(test, all(target_arch = "wasm32", feature = "host")))]
mod pairs;
pub mod request;
pub mod route;
pub mod shared;
pub mod sorted;
pub mod text;
pub mod time;
pub mod wire;
