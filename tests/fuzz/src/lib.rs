//! What must hold for every input.
//!
//! `cargo xtask fuzz` runs the targets with the stable compiler; `cargo fuzz run TARGET --fuzz-dir
//! tests/fuzz` does with cargo-fuzz and a nightly one. `corpus/TARGET` holds inputs that say
//! something: every kind of answer, and whatever broke a promise once. The inputs are text wherever
//! that is possible, so that people and dictionaries can write them.
//!
//! | file | its promise |
//! | --- | --- |
//! | `config.rs` | a configuration is refused with places and reasons, or keeps its own rules |
//! | `descriptor.rs` | who differs is counted apart, on every wire; nothing leaves its slot |
//! | `metadata.rs` | what is not valid never opens a route; a `Struct` is read as it was written |
//! | `maps.rs` | a header map is read within its bytes |
//! | `reply.rs` | no reply gives more than was asked for, or says a thing and its opposite |
//! | `fuzz_targets/world.rs` | the invariants of `tests/sim`, for any order of events |
//! | `fixture.rs` | a configuration with every language and every source of entries |
//! | `input.rs` | requests and replies out of text; protobuf messages out of values |

extern crate alloc;

// What `maps.rs` holds finds it here, as it does in the filter.
use quota_gate::request;

pub mod config;
pub mod descriptor;
pub mod fixture;
pub mod input;
pub mod maps;
pub mod metadata;
pub mod reply;

/// Says what does not hold.
#[macro_export]
macro_rules! hold {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            panic!($($text)+);
        }
    };
}

/// Whether a log may have it: on one line, without control characters.
#[must_use]
pub fn is_one_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// Whether it may go out in a header: printable, on one line.
#[must_use]
pub fn is_clean(value: &[u8]) -> bool {
    value.iter().all(|byte| matches!(byte, 0x20..=0x7e))
}
