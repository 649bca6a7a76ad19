//! A pretend Envoy in virtual time: it loads the shipped module and calls it as Envoy would.
//!
//! The module is run by an interpreter that counts instructions exactly, on a clock that only the
//! caller moves, so a run is a function of its seed and its script. What the host does follows what
//! was seen on real Envoys; where a test finds the two apart, the real one is right.
//!
//! - `module`: the file, compiled once, and the host functions it is linked to
//! - `host`: the proxy: workers, streams, configuration pushes, the queue of events
//! - `vm`: one worker's instance of the module, and what the host keeps for it
//! - `imports`: the functions that the module calls; `status` their results
//! - `process`: what all workers share: clock, shared data, metrics, log, backend
//! - `stream`: a request on its way; `property`: what the host tells of it
//! - `call`: callouts and how they end; `headers`: header maps and how they are handed over
//! - `cost`: instructions and calls to the host; `random`: seeded numbers
//!
//! What it can't show: time spent (only instructions are), the bytes on a wire, and races within
//! one callback (those are imitated: see [`Options::races_per_mille`]).

mod call;
mod cost;
mod headers;
mod host;
mod imports;
mod module;
mod process;
mod property;
mod random;
mod status;
mod stream;
mod vm;

pub use call::{Backend, Call, End, Ending};
pub use cost::{Costs, Tally};
pub use headers::Headers;
pub use host::{Host, Options, Refused};
pub use module::Module;
pub use process::{Level, LogLine, Metrics};
pub use random::Random;
pub use status::Status;
pub use stream::{Fate, LocalReply, Request, Stream, StreamId};

/// Nanoseconds in a millisecond: time is given in nanoseconds everywhere.
pub const MILLISECOND: u64 = 1_000_000;
