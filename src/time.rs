//! Time as the host tells it: wall-clock readings in, a clock that never runs backwards out.
//!
//! The host has one clock, the system's, and it may be set at any moment. Deadlines, leases and
//! caches need one that only goes forward; the end of an emergency and epoch times in replies need
//! the wall itself. Both are kept here and never mixed: they are different types.

use std::time::Duration;

/// A reading of the system's clock, in nanoseconds since the Unix epoch. It may jump both ways.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Wall(pub u64);

impl Wall {
    /// The wall time `seconds` after the Unix epoch.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(NANOS_PER_SEC))
    }

    /// The wall time `millis` milliseconds after the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(NANOS_PER_MILLI))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The wall time `duration` later, saturating.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

/// A moment on the gate's own clock, in nanoseconds from an arbitrary start. It never decreases.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Instant(pub u64);

impl Instant {
    /// The moment `duration` later, saturating.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Makes a clock that never runs backwards out of wall-clock readings that may.
///
/// When the wall jumps back, the clock stands still for that one reading and goes on from there.
/// When it jumps forward, time is believed to have passed: waits end early, which is the safe side.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    last: Wall,
    behind: u64,
}

impl Clock {
    /// The moment of a wall-clock reading.
    pub fn read(&mut self, wall: Wall) -> Instant {
        self.behind = self
            .behind
            .saturating_add(self.last.0.saturating_sub(wall.0));
        self.last = wall;
        Instant(wall.0.saturating_add(self.behind))
    }
}

/// A duration in nanoseconds, saturating at `u64::MAX` (584 years).
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A duration in whole milliseconds, rounded down, saturating.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const NANOS_PER_SEC: u64 = 1_000_000_000;
const NANOS_PER_MILLI: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stands_still_while_the_wall_jumps_back_and_goes_on_from_there() {
        let mut clock = Clock::default();

        assert_eq!(clock.read(Wall(1_000)), Instant(1_000));
        assert_eq!(clock.read(Wall(200)), Instant(1_000));
        assert_eq!(clock.read(Wall(250)), Instant(1_050));
        assert_eq!(clock.read(Wall(5_000)), Instant(5_800));
    }

    #[test]
    fn saturates_at_both_ends() {
        assert_eq!(
            Instant(u64::MAX).after(Duration::from_secs(1)),
            Instant(u64::MAX)
        );
        assert_eq!(Instant(1).since(Instant(2)), Duration::ZERO);
        assert_eq!(nanos(Duration::MAX), u64::MAX);
    }
}
