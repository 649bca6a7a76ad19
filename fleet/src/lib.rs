//! A fleet of gates beside an ideal backend, in virtual time.
//!
//! The gates are the filter's own core, driven as the host drives them: requests, calls that take
//! time, ticks. The backend keeps exact books. What the fleet let through is held against what
//! exact books would have let through, request by request, and against the bounds that the core
//! promises. A run is a function of its [`Setting`]; nothing reads a clock.
//!
//! | file | its room |
//! | --- | --- |
//! | `setting.rs` | what a run is made of, and what came of it |
//! | `study.rs` | the runs that show one thing together |
//! | `world.rs` | workers, their requests, calls and ticks |
//! | `books.rs` | the backend: fixed windows or a token bucket |
//! | `measure.rs` | what was let through, held against exact books |
//! | `bounds.rs` | the promises as formulas, and which of them a run broke |

#![deny(missing_docs)]

pub mod books;
pub mod bounds;
mod measure;
pub mod setting;
pub mod study;
mod world;

pub use setting::{Mode, Outcome, Setting, Told};
pub use study::{Plan, Report, study};
pub use world::run;
