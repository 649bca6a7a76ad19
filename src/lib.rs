//! A proxy-wasm HTTP filter that asks a quota backend about each request.
//!
//! The core is a set of state machines without input or output: time, requests and replies come in
//! as arguments, effects go out. Only `host` touches the proxy, so the same core runs natively,
//! under Node, in simulation and in Envoy.
//!
//! # What holds
//! 1. Nothing outside `host` reads a clock, a random source, an environment, or calls the host.
//! 2. No byte from a client, a backend or an operator can panic the filter.
//! 3. A stream that waits is released exactly once, by its deadline plus one tick.
//! 4. Every table has a bound and a stated rule when it is full, and a counter says so.
//! 5. Every request gets exactly one decision with one reason; its code is the same word in the
//!    answer, the access log, the metrics and the log.
//! 6. A configuration with a problem is refused whole, with all its problems.
//! 7. No key, header value or token is in a log line, a metric or an answer.
//!
//! # The map
//! Imports go downwards only.
//!
//! | file | its room |
//! | --- | --- |
//! | `host.rs` | the host: `host/abi.rs` speaks to it, `host/view.rs` looks, `host/vm.rs` acts |
//! | `pairs.rs` | header maps as the host serializes them |
//! | `gate.rs` | takes events, orders the steps of a decision, emits effects |
//! | `gate/check.rs` | asking the backend: who joins, who may call, until when |
//! | `gate/answer.rs` | what the end of a call means for everybody who waits |
//! | `gate/release.rs` | failure modes, shadow, the access log's text |
//! | `gate/pending.rs` | checks that have no reply yet |
//! | `gate/reply.rs` | how a call ended, and what that says of the backend |
//! | `gate/bounds.rs` | how much the tables of one worker may hold |
//! | `gate/cache.rs` | decisions remembered for a while |
//! | `gate/lease.rs` | units granted ahead of need |
//! | `gate/table.rs`, `gate/index.rs` | the store of the two |
//! | `gate/breaker.rs` | when not to call a backend |
//! | `gate/breaker/record.rs`, `gate/breaker/record/layout.rs` | what workers share of that |
//! | `gate/local_limit.rs` | the limit that the process keeps by itself |
//! | `gate/slots.rs` | a fixed number of slots in what the workers share |
//! | `gate/settle.rs` | what requests really used, once their streams are over |
//! | `gate/settle/usage.rs` | what a response says of that |
//! | `gate/settle/ledger.rs` | units by key, until they are told |
//! | `gate/settle/tally.rs` | what became of requests since the last tick |
//! | `gate/settle/telling.rs`, `gate/settle/sender.rs` | what is told when, and how fast |
//! | `gate/watch.rs` | what happens without a request |
//! | `gate/report.rs` | the log, with bounds |
//! | `gate/status.rs` | the status page |
//! | `route.rs`, `metadata.rs` | which policy a request gets |
//! | `descriptor.rs` | who is asking, the key, the cost |
//! | `wire.rs` | a check as bytes, a reply understood |
//! | `wire/preset.rs` | the languages that are built in |
//! | `wire/template.rs`, `wire/reply.rs` | the one engine for all of them |
//! | `wire/json.rs`, `wire/structured.rs` | values out of bodies and header fields |
//! | `language.rs` | what a language is made of |
//! | `denial.rs`, `fields.rs` | a denial as the client sees it; what tells it of its limit |
//! | `metrics.rs` | every metric, and what has changed |
//! | `config.rs` | a configuration that is valid |
//! | `config/parse.rs` | the only door to it |
//! | `config/keys.rs` | every key, declared once |
//! | `config/check.rs`, `config/form.rs` | text held against the declaration |
//! | `config/build.rs`, `config/node.rs`, `config/custom.rs` | what passed, as types |
//! | `config/settle.rs` | the terms by which use is told afterwards |
//! | `config/problem.rs` | what is wrong, and where |
//! | `config/value.rs`, `config/json.rs`, `config/protobuf.rs` | the text as a tree |
//! | `config/units.rs`, `config/timestamp.rs` | durations, numbers, times |
//! | `decision.rs` | reasons, causes and their codes |
//! | `request.rs`, `response.rs`, `shared.rs` | what the host must show |
//! | `text.rs`, `sorted.rs`, `time.rs` | bytes made safe, small maps, time |
//! | `heap.rs` | the module's memory |
//!
//! # Large and rare steps stand alone
//! They are marked `#[inline(never)]`. V8 compiles the whole module with its optimising compiler
//! when it is loaded, and keeps memory by the largest function: with these marks an Envoy has 3.6
//! MB less. And what is rare takes no registers and no stack of what every request goes through.

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
// Of the standard library, what ships would only get the texts of panics, which nobody sees.
#![cfg_attr(all(target_arch = "wasm32", feature = "host", not(test)), no_std)]

extern crate alloc;

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
#[cfg(any(test, target_arch = "wasm32"))]
mod heap;
#[cfg(all(target_arch = "wasm32", feature = "host"))]
mod host;
pub mod language;
pub mod metadata;
pub mod metrics;
#[cfg(any(test, all(target_arch = "wasm32", feature = "host")))]
mod pairs;
pub mod request;
pub mod response;
pub mod route;
pub mod shared;
pub mod sorted;
pub mod text;
pub mod time;
pub mod wire;

#[cfg(target_arch = "wasm32")]
#[global_allocator]
static HEAP: heap::Heap = heap::Heap::new();

/// Nothing comes here, see above; and if it did, a trap is all that a host understands.
#[cfg(all(target_arch = "wasm32", feature = "host", not(test)))]
#[panic_handler]
fn trap(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
