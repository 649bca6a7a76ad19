//! The simulation's worlds, with each of their choices read off the input: whatever happens to
//! gates in whatever order, the invariants of `tests/sim` hold. `SIM_TRACE=1` tells what happens.
#![no_main]

#[path = "../../sim/events.rs"]
mod events;
#[path = "../../sim/invariants.rs"]
mod invariants;
#[path = "../../sim/model.rs"]
mod model;
#[path = "../../sim/tables.rs"]
mod tables;
#[path = "../../sim/world.rs"]
mod world;

use std::env;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, tape)) = bytes.split_first() else {
        return;
    };
    let traced = env::var_os("SIM_TRACE").is_some();
    let few = first % 2 == 1;
    let mut world = world::World::of(events::Random::of_tape(tape), few, traced);
    world.run_tape(STEPS_MAX);
});

/// Most inputs are over long before; on the others next to nothing happens.
const STEPS_MAX: u64 = 2_000;
