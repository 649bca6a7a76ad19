//! The gate: takes events, owns the tables, orders the steps, emits effects.

pub mod breaker;
pub mod cache;
pub mod lease;
pub mod local_limit;
pub mod slots;
mod table;
