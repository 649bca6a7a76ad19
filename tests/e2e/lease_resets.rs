//! Promise: what is held when the backend's window ends is spent afterwards as far as
//! `docs/tuning.md` says, and no further: by two Envoys that share real books.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use envoy_harness::eventually::{eventually, now};
use envoy_harness::{BACKEND, Cluster, QuotaHeaders, Rig, RigBuilder};
use serde_json::json;

use crate::gated::{Gated, config, start};
use crate::leases::{leases, load};

/// Two Envoys of one worker each, which share the books of the first one's backend.
struct Fleet {
    envoys: [Gated; 2],
}

impl Fleet {
    /// `told` is what the backend says of its window.
    fn start(told: QuotaHeaders) -> Self {
        let lease = json!({"max_units": MAX_UNITS, "ttl": "10s"});
        let config = config(&json!({"lease": lease, "cache": {"deny_ttl": "0s"}}));
        let builder = || -> RigBuilder { Rig::builder().concurrency(1).plugin(config.clone()) };
        let first = start(builder());
        first.backend().quota_headers(told);
        first.backend().limit("tenant=hot", LIMIT, WINDOW);
        let shared = Cluster::new(BACKEND).endpoint(first.backend().address());
        let second = start(builder().cluster(shared));
        Self {
            envoys: [first, second],
        }
    }

    fn rigs(&self) -> [&Rig; 2] {
        [&self.envoys[0], &self.envoys[1]]
    }

    fn events(&self, name: &str) -> u64 {
        self.rigs().map(|rig| leases(rig, name)).iter().sum()
    }

    /// When the window ends that the last check fell into: it began with its first charge.
    fn window_end(&self) -> Instant {
        let checks = self.envoys[0].backend().checks();
        let first = checks.first().expect("a check").at + WINDOW;
        checks.iter().fold(first, |end, check| {
            if check.at >= end {
                check.at + WINDOW
            } else {
                end
            }
        })
    }

    /// A calm window, at whose end units are held; then, so long after its end, a rush. Returns
    /// the units that were held, and what passed from the end to the end of the next window.
    #[track_caller]
    fn rush_after_a_reset(&self, later: Duration) -> (u64, u64) {
        load(&self.rigs(), CLIENTS, 200);
        let end = self.window_end();
        eventually("the window has ended", || {
            // The backend counts from a moment after it saw the check.
            (now() >= end + Duration::from_millis(100) + later).then_some(())
        });
        let held = eventually("units are held", || {
            let held = self
                .events("granted_units")
                .checked_sub(self.events("spent_units"))?;
            (held > 0).then_some(held)
        });

        let told = load(&self.rigs(), CLIENTS, 2000);

        let denied = told.denied.load(Ordering::Relaxed);
        assert!(denied > 0, "the limit was not reached");
        let checks = self.envoys[0].backend().checks();
        let began = checks.iter().find(|check| check.at >= end);
        let next = began.expect("a check after the end").at + WINDOW;
        let passed = self.rigs().map(|rig| {
            let seen = rig.upstream().seen();
            let within = |at: Instant| at >= end && at < next;
            seen.iter().filter(|seen| within(seen.at)).count() as u64
        });
        self.expect_books();
        (held, passed.iter().sum())
    }

    /// Nothing passed that the backend has not charged, in whichever window.
    #[track_caller]
    fn expect_books(&self) {
        let charged = self.envoys[0].backend().charged();
        let charged = charged.get("tenant=hot").copied().expect("an account");
        let passed: usize = self
            .rigs()
            .map(|rig| rig.upstream().seen().len())
            .iter()
            .sum();
        assert!(
            passed as i64 <= charged,
            "{passed} passed, {charged} charged"
        );
    }
}

#[test]
fn after_a_reset_that_was_told_exactly_nothing_is_spent_that_was_held() {
    let fleet = Fleet::start(QuotaHeaders::Millis);

    let (held, passed) = fleet.rush_after_a_reset(Duration::ZERO);

    assert!(passed <= LIMIT, "{passed} passed, {held} were held");
    assert!(passed > LIMIT / 2, "only {passed} passed");
}

#[test]
fn after_a_reset_that_was_told_in_seconds_what_was_held_is_void_within_one_of_them() {
    let fleet = Fleet::start(QuotaHeaders::Draft);

    let (held, passed) = fleet.rush_after_a_reset(Duration::from_secs(1));

    assert!(passed <= LIMIT, "{passed} passed, {held} were held");
    assert!(passed > LIMIT / 2, "only {passed} passed");
}

#[test]
fn right_after_a_reset_that_was_told_in_seconds_each_worker_spends_one_lease_at_most() {
    let fleet = Fleet::start(QuotaHeaders::Draft);

    let (held, passed) = fleet.rush_after_a_reset(Duration::ZERO);

    let bound = LIMIT + WORKERS * MAX_UNITS;
    assert!(passed <= bound, "{passed} passed, {held} were held");
}

#[test]
fn after_a_reset_that_was_not_told_each_worker_spends_what_it_held_and_one_lease_at_most() {
    let fleet = Fleet::start(QuotaHeaders::None);

    let (held, passed) = fleet.rush_after_a_reset(Duration::ZERO);

    assert!(held <= WORKERS * MAX_UNITS, "{held} held");
    let bound = LIMIT + WORKERS * MAX_UNITS;
    assert!(passed <= bound, "{passed} passed, {held} were held");
    // The error is there: tell the reset.
    assert!(passed > LIMIT, "{passed} passed, {held} were held");
}

/// Units in a window.
const LIMIT: u64 = 600;

const WINDOW: Duration = Duration::from_secs(3);

const MAX_UNITS: u64 = 100;

/// Of both Envoys.
const WORKERS: u64 = 2;

const CLIENTS: usize = 8;
