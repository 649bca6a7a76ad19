//! Time as the host tells it: wall-clock readings in, a clock that never runs backwards out.
//!
//! The host has one clock, the system's, and it may be set at any moment. Deadlines, leases and
//! caches need one that only goes forward; the end of an emergency and epoch times in replies need
//! the wall itself. Both are kept here and never mixed: they are different types.

use alloc::string::String;
use core::time::Duration;

use crate::text::decimal_of;

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
        self.last()
    }

    /// The moment of the last reading.
    #[must_use]
    pub const fn last(&self) -> Instant {
        Instant(self.last.0.saturating_add(self.behind))
    }
}

/// A duration in nanoseconds, saturating at `u64::MAX` (584 years).
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    whole(duration, NANOS_PER_SEC, duration.subsec_nanos())
}

/// A duration in whole milliseconds, rounded down, saturating.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    whole(duration, 1_000, duration.subsec_millis())
}

/// So many parts of a second and the `rest`, without 128 bits, which take a call to multiply. From
/// the last second on that still fits it is the end of time.
#[inline(never)]
fn whole(duration: Duration, per_second: u64, rest: u32) -> u64 {
    let seconds = duration.as_secs();
    if seconds < u64::MAX.checked_div(per_second).unwrap_or(0) {
        let parts = seconds.wrapping_mul(per_second);
        parts.wrapping_add(u64::from(rest))
    } else {
        u64::MAX
    }
}

/// A wall time as RFC 3339 in UTC, to the second: `2027-01-31T22:00:00Z`.
#[must_use]
pub fn rfc3339(wall: Wall) -> String {
    let seconds = wall.0.checked_div(NANOS_PER_SEC).unwrap_or(0);
    let (days, second) = (seconds / SECS_PER_DAY, seconds % SECS_PER_DAY);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut text = String::with_capacity(20);
    for (number, digits, behind) in [
        (year, 4, "-"),
        (month, 2, "-"),
        (day, 2, "T"),
        (hour, 2, ":"),
        (minute, 2, ":"),
        (second, 2, "Z"),
    ] {
        text.push_str(&decimal_of(number, digits));
        text.push_str(behind);
    }
    text
}

/// Year, month and day of a day counted from the Unix epoch (Howard Hinnant, "chrono-compatible
/// low-level date algorithms", `civil_from_days`, for days that are not negative).
const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days.saturating_add(719_468);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let leaps = (day_of_era / 1_460).saturating_add(day_of_era / 146_096);
    let year_of_era = day_of_era
        .saturating_add(day_of_era / 36_524)
        .saturating_sub(leaps)
        / 365;
    let before = year_of_era
        .saturating_mul(365)
        .saturating_add(year_of_era / 4);
    let day_of_year = day_of_era.saturating_sub(before.saturating_sub(year_of_era / 100));
    // Months from March, so that the leap day is the year's last.
    let shifted = day_of_year.saturating_mul(5).saturating_add(2) / 153;
    let before = shifted.saturating_mul(153).saturating_add(2) / 5;
    let day = day_of_year.saturating_sub(before).saturating_add(1);
    let month = if shifted < 10 {
        shifted.saturating_add(3)
    } else {
        shifted.saturating_sub(9)
    };
    let year = era.saturating_mul(400).saturating_add(year_of_era);
    (
        if month <= 2 {
            year.saturating_add(1)
        } else {
            year
        },
        month,
        day,
    )
}

const SECS_PER_DAY: u64 = 86_400;
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
    fn tells_a_wall_time_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_801_432_800, "2027-01-31T22:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(Wall::from_secs(seconds)), text);
        }
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
