//! What was in force, and when: phases as they were really put in place.

use std::time::{Duration, Instant};

use crate::plan::{Class, Ends, Phase};

/// A phase that was put in place.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) phase: Phase,
    /// Before the first of it was done.
    pub(crate) from: Instant,
    /// When all of it was done.
    pub(crate) done: Instant,
}

/// The phases so far, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timeline(pub(crate) Vec<Entry>);

impl Timeline {
    /// The phases that something may have met that began and ended at these times. What a phase
    /// leaves behind (a connection that is reset, a worker that has the old endpoints) counts as
    /// its own for a while.
    pub(crate) fn between(&self, from: Instant, until: Instant) -> &[Entry] {
        let first = self.0.partition_point(|entry| {
            // Over is a phase when the next is in place.
            self.after(entry)
                .is_some_and(|next| next.done + LINGERS < from)
        });
        let behind = self.0.partition_point(|entry| entry.from <= until);
        self.0.get(first..behind).unwrap_or_default()
    }

    fn after(&self, entry: &Entry) -> Option<&Entry> {
        let first = self.0.first()?.phase.number;
        let index = usize::try_from(entry.phase.number - first + 1).ok()?;
        self.0.get(index)
    }
}

impl Entry {
    pub(crate) fn class(&self, backend: usize) -> Class {
        let weather = self.phase.weather.get(backend);
        Class::of(weather.and_then(|weather| weather.fault.as_ref()))
    }

    pub(crate) fn ends(&self, backend: usize) -> Ends {
        let weather = self.phase.weather.get(backend);
        weather.map_or(Ends::Backend, |weather| weather.ends)
    }
}

/// Workers take endpoints and configurations a moment after they were accepted, and a connection
/// from before may end badly now.
const LINGERS: Duration = Duration::from_secs(1);
