//! How fast one backend is told of use: a window that grows with what it takes, and one report at a
//! time after a pause while it takes nothing.
//!
//! ```text
//!   sending, window 1, 2, 4 … 64 ──a report fails──> paused ──pause over──> one report
//!        ▲                                             ▲                      │   │
//!        └──────────────── counted ────────────────────┼──────────────────────┘   │
//!                                                      └── twice as long ─ fails ─┘
//! ```
//!
//! The breaker is respected, but reports neither open nor close it: a report's path that is wrong
//! must not cut off the checks.

use core::time::Duration;

use crate::descriptor::hash64;
use crate::time::{Instant, nanos};

/// The pace of one backend.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    seed: u64,
    under_way: u32,
    failures: u32,
    window: u32,
    quiet_until: Instant,
}

impl Sender {
    /// Nothing is known yet; the seed makes the pauses of workers differ.
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            seed,
            under_way: 0,
            failures: 0,
            window: WINDOW_FIRST,
            quiet_until: Instant(0),
        }
    }

    /// How many reports may go out now.
    pub(super) fn room(&self, now: Instant) -> u32 {
        if now < self.quiet_until {
            return 0;
        }
        let window = if self.failures == 0 { self.window } else { 1 };
        window.saturating_sub(self.under_way).min(PER_TICK)
    }

    /// Notes that a report goes out.
    pub(super) const fn sent(&mut self) {
        self.under_way = self.under_way.saturating_add(1);
    }

    /// Notes that the backend has answered a report.
    pub(super) fn answered(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
        self.window = if self.failures > 0 {
            1
        } else {
            self.window.saturating_mul(2).min(WINDOW_MAX)
        };
        self.failures = 0;
    }

    /// Notes that a report has failed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        let longest = PAUSE
            .saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX))
            .min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        // Between half of it and all, so that workers do not come back together.
        let half = nanos(longest) / 2;
        let spread = hash64(&now.0.to_le_bytes(), self.seed);
        let more = spread.checked_rem(half.max(1)).unwrap_or(0);
        self.quiet_until = now.after(Duration::from_nanos(half.saturating_add(more)));
    }
}

/// Reports under way at once, before anything is known.
const WINDOW_FIRST: u32 = 8;

/// Reports under way at once to one backend, per worker.
const WINDOW_MAX: u32 = 64;

/// Reports that go out in one tick: 1,600 in a second.
const PER_TICK: u32 = 32;

/// How long the first failure keeps reports back.
const PAUSE: Duration = Duration::from_millis(100);

/// How long failures keep reports back at most.
const PAUSE_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant(millis * 1_000_000)
    }

    fn send_all(sender: &mut Sender, now: Instant) -> u32 {
        let room = sender.room(now);
        (0..room).for_each(|_| sender.sent());
        room
    }

    #[test]
    fn a_backend_that_takes_nothing_gets_one_report_at_a_time() {
        let mut sender = Sender::new(1);
        assert_eq!(send_all(&mut sender, at(0)), 8);
        (0..8).for_each(|_| sender.failed(at(0)));
        assert_eq!(sender.room(at(49)), 0);
        // Eight failures at once: the pause is at its longest.
        assert_eq!(send_all(&mut sender, at(5_000)), 1);
        assert_eq!(sender.room(at(5_000)), 0);
    }

    #[test]
    fn after_a_recovery_the_window_grows_from_one() {
        let mut sender = Sender::new(1);
        sender.sent();
        sender.failed(at(0));
        let mut rooms = Vec::new();
        for round in 1..10 {
            let room = send_all(&mut sender, at(round * 1_000));
            rooms.push(room);
            (0..room).for_each(|_| sender.answered());
        }
        assert_eq!(rooms[..4], [1, 1, 2, 8]);
        assert_eq!(rooms[8], 32);
    }

    #[test]
    fn workers_pause_for_different_times() {
        let ends = [1, 2, 3].map(|seed| {
            let mut sender = Sender::new(seed);
            (0..6).for_each(|_| sender.failed(at(0)));
            sender.quiet_until
        });
        assert!(ends[0] != ends[1] && ends[1] != ends[2]);
        assert!(ends.iter().all(|end| (at(1_600)..=at(3_200)).contains(end)));
    }
}
