//! A proxy-wasm HTTP filter that asks a quota backend about each request.

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
