//! The gate: takes events, owns the tables, orders the steps, emits effects.

pub mod slots;
