//! What happens without a request: breakers move, an emergency begins and ends, tables are counted.

use alloc::string::String;
use core::time::Duration;

use super::breaker::State;
use super::{Effect, Gate, Level, Turn};
use crate::metrics::{Metric, Table};
use crate::text::{self, decimal, hex_of};
use crate::time::{Instant, millis, rfc3339};

/// What a worker has already told of the gate's state.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    ticks: u64,
    configuration: bool,
    emergency: Option<Instant>,
    /// A newer configuration has come, and no request since.
    replaced: bool,
}

impl Gate {
    /// Notes that a newer configuration has come, perhaps in place of this one, which then only
    /// lives on for the streams that it has. Until a request shows that it is still in use, it
    /// leaves the gauges and the emergency to the newer one: a tunnel may stay open for days.
    pub const fn handle_replaced(&mut self) {
        self.watched.replaced = true;
    }

    /// Notes that a request has come to this configuration.
    pub(super) const fn note_use(&mut self) {
        self.watched.replaced = false;
    }

    /// Moves the breakers, and keeps the gauges of backends true without traffic.
    pub(super) fn tick_backends(&mut self, turn: &mut Turn<'_>) {
        let resend = self.watched.ticks.is_multiple_of(GAUGES_EVERY);
        self.watched.ticks = self.watched.ticks.wrapping_add(1);
        if resend && !self.watched.replaced {
            self.tell_timeouts();
        }
        for index in 0..self.breakers.len() {
            let Some(breaker) = self.breakers.get_mut(index).and_then(Option::as_mut) else {
                // The gauge is the process's, and may be left over from a breaker that a push has
                // taken away.
                if resend && !self.watched.replaced {
                    self.metrics
                        .record(Metric::BreakerState(index), State::Closed.gauge());
                }
                continue;
            };
            let before = breaker.state();
            breaker.handle_tick(turn.wall, turn.shared);
            let after = breaker.state();
            if (resend || before != after) && !self.watched.replaced {
                self.metrics
                    .record(Metric::BreakerState(index), after.gauge());
            }
            self.tell_transitions(index);
        }
    }

    /// Tells how long the most impatient policy of each backend waits: what its calls' durations
    /// are to be held against. A backend that no policy asks has none.
    fn tell_timeouts(&mut self) {
        for index in 0..self.config.backends.len() {
            let policies = self.config.policies.iter();
            let asking = policies.filter(|policy| policy.backend == index);
            if let Some(shortest) = asking.map(|policy| policy.timeout).min() {
                self.metrics
                    .record(Metric::Timeout(index), millis(shortest));
            }
        }
    }

    /// Logs the changes that this worker has made; the others see them and keep silent.
    pub(super) fn tell_transitions(&mut self, backend: usize) {
        let Some(breaker) = self.breakers.get_mut(backend).and_then(Option::as_mut) else {
            return;
        };
        while let Some(change) = breaker.poll_transition() {
            if !change.mine {
                continue;
            }
            if !self.watched.replaced {
                self.metrics
                    .record(Metric::BreakerState(backend), change.to.gauge());
            }
            let level = if change.to == State::Open {
                self.metrics.add(Metric::BreakerTrips(backend), 1);
                Level::Warn
            } else {
                Level::Info
            };
            let name = self
                .config
                .backends
                .get(backend)
                .map_or("", |backend| &backend.name);
            let (from, to, why) = (change.from.code(), change.to.code(), change.why.text());
            let mut line = text::fill("backend {}: breaker {} -> {}: {}", &[name, from, to, &why]);
            if let Some(open_for) = change.open_for {
                line.push_str(&text::fill(
                    "; open for {}ms",
                    &[&decimal(millis(open_for))],
                ));
            }
            self.effects.push_back(Effect::Log(level, line));
        }
    }

    /// Tells, once per process, that a configuration is at work, and that an emergency begins,
    /// lasts and ends.
    pub(super) fn tell_state(&mut self, turn: &mut Turn<'_>) {
        if !self.watched.configuration {
            self.watched.configuration = true;
            if self.is_mine(turn, "configuration", u64::MAX) {
                let parts = [
                    self.config.backends.len(),
                    self.config.policies.len(),
                    self.config.routes.len(),
                ];
                let [backends, policies, routes] = parts.map(|part| decimal(text::count(part)));
                let line = text::fill(
                    "configuration {}: {} backends, {} policies, {} routes",
                    &[
                        &hex_of(self.config.fingerprint, 16),
                        &backends,
                        &policies,
                        &routes,
                    ],
                );
                self.effects.push_back(Effect::Log(Level::Info, line));
            }
        }
        if self.watched.replaced {
            return;
        }
        let active = self
            .declared(turn.wall)
            .map(|emergency| (emergency.mode, emergency.until));
        match (active, self.watched.emergency) {
            (Some((mode, until)), told) => {
                if told.is_some_and(|told| turn.now.since(told) < EMERGENCY_EVERY) {
                    return;
                }
                self.watched.emergency = Some(turn.now);
                self.metrics.record(Metric::EmergencyActive, 1);
                let period = turn.wall.0.checked_div(EMERGENCY_EVERY_NANOS).unwrap_or(0);
                let what = text::fill("{} is active until {}", &[mode.code(), &rfc3339(until)]);
                self.tell_emergency(turn, period.max(1), &what);
            }
            (None, Some(_)) => {
                self.watched.emergency = None;
                self.metrics.record(Metric::EmergencyActive, 0);
                self.tell_emergency(turn, 0, "is over");
            }
            (None, None) => {
                if self.watched.ticks == 1 {
                    self.metrics.record(Metric::EmergencyActive, 0);
                }
            }
        }
    }

    /// Tells that an emergency ends because its configuration does.
    pub(super) fn tell_end(&mut self, turn: &mut Turn<'_>) {
        // Where a newer configuration has declared an emergency of its own, that goes on.
        if self.watched.emergency.is_some() && self.spoke_last(turn, "emergency") {
            self.tell_emergency(turn, 0, "ends with its configuration");
        }
    }

    /// Whether the last to speak of this was a worker with the same configuration.
    fn spoke_last(&self, turn: &mut Turn<'_>, what: &str) -> bool {
        let (told, _) = turn.shared.load(&told_key(what));
        told.starts_with(&self.config.fingerprint.to_le_bytes())
    }

    /// Tells of a new state of the emergency, and why there is one.
    fn tell_emergency(&mut self, turn: &mut Turn<'_>, state: u64, what: &str) {
        if self.is_mine(turn, "emergency", state)
            && let Some(emergency) = &self.config.emergency
        {
            let line = text::fill("emergency {}: {}", &[what, &emergency.reason]);
            self.effects.push_back(Effect::Log(Level::Warn, line));
        }
    }

    /// Whether this worker is the first of the process to speak of a state of this configuration.
    /// The slot holds the configuration's fingerprint and a number for the state.
    fn is_mine(&self, turn: &mut Turn<'_>, what: &str, state: u64) -> bool {
        let key = told_key(what);
        let mut record = self.config.fingerprint.to_le_bytes().to_vec();
        record.extend_from_slice(&state.to_le_bytes());
        let (told, version) = turn.shared.load(&key);
        told != record && turn.shared.store(&key, &record, version)
    }

    /// Counts what full tables let go, what could not be booked, and what happened to leases.
    pub(super) fn count_tables(&mut self) {
        for (table, evictions) in [
            (Table::Cache, self.cache.take_evictions()),
            (Table::Lease, self.leases.take_evictions()),
            (Table::LocalLimit, self.local.take_evictions()),
        ] {
            if evictions > 0 {
                self.metrics.add(Metric::Evictions(table), count(evictions));
            }
        }
        let contended = self.local.take_contended();
        if contended > 0 {
            self.metrics
                .add(Metric::LocalLimitContended, count(contended));
        }
        for (event, times) in self.leases.take_counts().events() {
            if times > 0 {
                self.metrics.add(Metric::Leases(event), count(times));
            }
        }
        for backend in 0..self.breakers.len() {
            let now = i64::from(self.pending.calls_to(backend));
            let Some(told) = self.pending_told.get_mut(backend) else {
                continue;
            };
            self.metrics
                .add(Metric::Pending(backend), now.saturating_sub(*told));
            *told = now;
        }
    }
}

fn told_key(what: &str) -> String {
    ["quota_gate/1/told/", what].concat()
}

fn count(times: u64) -> i64 {
    i64::try_from(times).unwrap_or(i64::MAX)
}

/// How often an active emergency is told again: nobody is to forget it, nor to drown in it.
const EMERGENCY_EVERY: Duration = Duration::from_secs(60);
const EMERGENCY_EVERY_NANOS: u64 = 60_000_000_000;

/// Gauges are process-wide and every worker sets them; a stale one is put right within this many
/// ticks (one second).
const GAUGES_EVERY: u64 = 50;
