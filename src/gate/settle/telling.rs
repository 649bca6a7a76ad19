//! Telling the backends: what goes out when, what its end means, what is given up.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::super::reply::{CallEnd, classify, head_start, is_late};
use super::super::{CallId, Effect, Gate, Level, Outgoing, TICK, Turn};
use super::ledger::Batch;
use super::signed;
use crate::decision::{AllowReason, CheckError};
use crate::metrics::Metric;
use crate::shared::Shared;
use crate::text::{self, decimal, hex_of};
use crate::time::{Instant, Wall, millis};
use crate::wire::{Check, Told, Wire};

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Report {
    id: String,
    pub(super) batch: Batch,
    sent: Instant,
    /// How long before that the host's timer for it may have begun to count.
    head_start: Duration,
}

impl Report {
    fn backend(&self) -> usize {
        self.batch.policy.backend
    }

    fn timeout(&self) -> Duration {
        let terms = self.batch.terms();
        terms.map_or(Duration::ZERO, |terms| terms.timeout)
    }

    /// When its end counts as lost: after its timeout the host has two ticks to tell of it.
    fn is_lost(&self, now: Instant) -> bool {
        now >= self
            .sent
            .after(self.timeout())
            .after(TICK.saturating_mul(2))
    }
}

/// What the end of a report says of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    /// It has not been counted.
    Again,
    /// It never will be.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What reports can be known by: no two of a process share one, nor, as far as the seed goes, two
/// of different processes.
#[derive(Debug)]
pub(super) struct Ids {
    seed: u64,
    worker: Option<u64>,
    last: u64,
}

impl Ids {
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            seed,
            worker: None,
            last: 0,
        }
    }

    fn next(&mut self, shared: &mut dyn Shared) -> String {
        let worker = match self.worker {
            Some(worker) => worker,
            None => *self.worker.insert(draw_number(shared)),
        };
        self.last = self.last.wrapping_add(1);
        let (worker, last) = (hex_of(worker, 1), hex_of(self.last, 1));
        text::fill("{}-{}-{}", &[&hex_of(self.seed, 16), &worker, &last])
    }
}

/// A number that nobody else in the process has drawn, unless the workers get in each other's way
/// all the time.
fn draw_number(shared: &mut dyn Shared) -> u64 {
    let mut number = 0;
    for _ in 0..DRAWS {
        let (bytes, version) = shared.load(NUMBERS);
        let last = bytes.try_into().map_or(0, u64::from_le_bytes);
        number = last.wrapping_add(1);
        if shared.store(NUMBERS, &number.to_le_bytes(), version) {
            break;
        }
    }
    number
}

impl Gate {
    /// Tells what is due, as fast as the backends take it, and gives up what is too old.
    pub(in super::super) fn tick_settlements(&mut self, turn: &mut Turn<'_>) {
        if !self.settlements.is_empty() {
            self.forget_lost_reports(turn.now);
            self.tell_again(turn);
            self.tell_due(turn);
            self.drop_old(turn.now);
        }
        self.count_settlements();
        self.tell_dropped(turn.now);
    }

    /// The host forgets the gate's root, and with it whatever is under way: the next root's ticks
    /// tell the rest.
    pub(in super::super) fn end_settlements(&mut self, now: Instant) {
        for id in self.settlements.under_way_where(&|_| true) {
            self.end_report(now, id, Fate::Unknown, "ended");
        }
        self.count_settlements();
    }

    /// Drops what has not been told: there is nobody left to do it.
    pub fn handle_give_up(&mut self, wall: Wall) {
        let now = self.clock.read(wall);
        // Of what is under way nobody will hear either.
        for id in self.settlements.under_way_where(&|_| true) {
            self.end_report(now, id, Fate::Unknown, "ended");
        }
        for batch in self.settlements.ledger.take_all() {
            self.drop_batch(&batch, "ended");
        }
        for report in core::mem::take(&mut self.settlements.again) {
            self.drop_batch(&report.batch, "ended");
        }
        self.count_settlements();
        self.settlements.spoken = None;
        self.tell_dropped(now);
    }

    /// Takes the end of a report. A call that is none changes nothing.
    #[inline(never)]
    pub(in super::super) fn finish_report(
        &mut self,
        turn: &mut Turn<'_>,
        id: CallId,
        end: CallEnd<'_>,
    ) {
        let Some(report) = self.settlements.under_way.get(&id.0) else {
            return;
        };
        let elapsed = turn.now.since(report.sent);
        let late = is_late(elapsed.saturating_add(report.head_start), report.timeout());
        let wire = self.wires.get(report.backend());
        let result = classify(end, late).and_then(|raw| {
            let wire = wire.ok_or(CheckError::Internal)?;
            wire.decode_report(&raw)
        });
        match result {
            Ok(()) => self.report_counted(id),
            Err(cause) => self.end_report(turn.now, id, fate(cause), cause.code()),
        }
    }

    /// Whether the reply to a report is read with its body; `None` where the call is none.
    pub(in super::super) fn reads_report_body(&self, call: CallId) -> Option<bool> {
        let report = self.settlements.under_way.get(&call.0)?;
        let wire = self.wires.get(report.backend());
        Some(wire.is_some_and(Wire::reads_report_body))
    }

    fn report_counted(&mut self, id: CallId) {
        let Some(report) = self.settlements.under_way.remove(&id.0) else {
            return;
        };
        let backend = report.backend();
        if let Some(sender) = self.settlements.senders.get_mut(backend) {
            sender.answered();
        }
        self.metrics
            .add(Metric::SettlementReports(backend, "counted"), 1);
        let units = report.batch.units;
        let what = if units < 0 { "taken_back" } else { "reported" };
        self.count_units(backend, what, signed(units.unsigned_abs()));
    }

    fn end_report(&mut self, now: Instant, id: CallId, fate: Fate, result: &'static str) {
        let Some(report) = self.settlements.under_way.remove(&id.0) else {
            return;
        };
        let backend = report.backend();
        self.metrics
            .add(Metric::SettlementReports(backend, result), 1);
        if let Some(sender) = self.settlements.senders.get_mut(backend) {
            match fate {
                Fate::Refused => sender.answered(),
                Fate::Again | Fate::Unknown => sender.failed(now),
            }
        }
        let drops_unknown = report
            .batch
            .terms()
            .is_some_and(|terms| terms.drops_unknown);
        let why = match fate {
            Fate::Refused => Some("refused"),
            Fate::Unknown if drops_unknown => Some("unknown"),
            Fate::Again | Fate::Unknown if report.batch.is_too_old(now) => Some("too_old"),
            Fate::Again | Fate::Unknown => None,
        };
        match why {
            Some(why) => self.drop_batch(&report.batch, why),
            None => self.settlements.again.push(*report),
        }
    }

    fn forget_lost_reports(&mut self, now: Instant) {
        let lost = |report: &Report| report.is_lost(now);
        for id in self.settlements.under_way_where(&lost) {
            self.end_report(now, id, Fate::Unknown, CheckError::Timeout.code());
        }
    }

    /// Sends once more what was told in vain.
    fn tell_again(&mut self, turn: &mut Turn<'_>) {
        for mut report in core::mem::take(&mut self.settlements.again) {
            let backend = report.backend();
            if self.room(turn, backend) == 0 {
                self.settlements.again.push(report);
            } else {
                report.sent = turn.now;
                self.send(report);
            }
        }
    }

    /// Sends what has been gathered.
    fn tell_due(&mut self, turn: &mut Turn<'_>) {
        let mut room: Vec<u32> = (0..self.wires.len())
            .map(|backend| self.room(turn, backend))
            .collect();
        let wires = &self.wires;
        let due = self.settlements.ledger.take_due(turn.now, |batch| {
            match room.get_mut(batch.policy.backend) {
                Some(room) if *room > 0 && can_be_told(batch, wires) => {
                    *room = room.saturating_sub(1);
                    true
                }
                Some(_) | None => false,
            }
        });
        for mut batch in due {
            // Use and its opposite have met: there is nothing to tell.
            if batch.units == 0 {
                continue;
            }
            let wire = self.wires.get(batch.policy.backend);
            let most = wire.and_then(Wire::report_most);
            if let Some(rest) = most.and_then(|most| batch.take_above(most)) {
                // It has the place of what is sent, and its turn on the next tick.
                self.enter(rest);
            }
            let id = self.settlements.ids.next(turn.shared);
            self.send(Report {
                id,
                batch,
                sent: turn.now,
                head_start: Duration::ZERO,
            });
        }
    }

    /// How many reports may go out to a backend now.
    fn room(&self, turn: &Turn<'_>, backend: usize) -> u32 {
        if self.is_cut_off(backend, turn.wall) {
            return 0;
        }
        let sender = self.settlements.senders.get(backend);
        sender.map_or(0, |sender| sender.room(turn.now))
    }

    fn send(&mut self, mut report: Report) {
        let backend = report.backend();
        let batch = &report.batch;
        let message = self.wires.get(backend).and_then(|wire| {
            wire.encode_report(&Check {
                entries: batch.key.entries(&batch.policy),
                cost: batch.units.unsigned_abs(),
                cost_min: None,
                policy: &batch.policy.name,
                quota: batch.policy.quota,
                route: None,
                request_id: None,
                peek: false,
                told: Some(Told {
                    id: &report.id,
                    requests: batch.requests,
                    unchecked: batch.unchecked.map(AllowReason::code),
                    units: batch.units,
                }),
            })
        });
        let Some(message) = message else {
            // The configuration's parser lets no such policy through.
            return self.drop_batch(&report.batch, "refused");
        };
        if let Some(sender) = self.settlements.senders.get_mut(backend) {
            sender.sent();
        }
        let timeout_ms = u32::try_from(millis(report.timeout()))
            .unwrap_or(u32::MAX)
            .max(1);
        report.head_start = head_start(report.sent, self.ticked, report.timeout());
        let id = self.pending.next_id();
        self.settlements.under_way.insert(id.0, Box::new(report));
        self.effects.push_back(Effect::Call(Outgoing {
            id,
            backend,
            message,
            timeout_ms,
        }));
    }

    /// Gives up what waits for too long.
    fn drop_old(&mut self, now: Instant) {
        for batch in self.settlements.ledger.take_old(now) {
            let why = match can_be_told(&batch, &self.wires) {
                true => "too_old",
                false => "not_taken_back",
            };
            self.drop_batch(&batch, why);
        }
        for report in core::mem::take(&mut self.settlements.again) {
            if report.batch.is_too_old(now) {
                self.drop_batch(&report.batch, "too_old");
            } else {
                self.settlements.again.push(report);
            }
        }
    }

    pub(super) fn drop_batch(&mut self, batch: &Batch, why: &'static str) {
        let backend = batch.policy.backend;
        let units = batch.units.unsigned_abs();
        let metric = Metric::SettlementDroppedUnits(backend, why);
        self.metrics.add(metric, signed(units));
        let place = (backend, why);
        match self.settlements.dropped.get_mut(&place) {
            Some(sum) => *sum = sum.saturating_add(units),
            None => self.settlements.dropped.insert(place, units),
        }
    }

    pub(super) fn count_units(&mut self, backend: usize, what: &'static str, units: i64) {
        if units != 0 {
            self.metrics.add(Metric::SettledUnits(backend, what), units);
        }
    }

    /// Brings the metrics up to date: what became of requests, and how much waits.
    pub(in super::super) fn count_settlements(&mut self) {
        self.count_tallies();
        let idle = self.settlements.told.iter().all(|told| *told == 0);
        if idle && self.settlements.is_empty() {
            return;
        }
        let mut now = vec![0_i64; self.settlements.told.len()];
        for batch in self.settlements.batches() {
            if let Some(count) = now.get_mut(batch.policy.backend) {
                *count = count.saturating_add(1);
            }
        }
        for (backend, (told, now)) in self.settlements.told.iter_mut().zip(now).enumerate() {
            let metric = Metric::SettlementsPending(backend);
            self.metrics.add(metric, now.saturating_sub(*told));
            *told = now;
        }
    }

    /// Hands over what became of requests since the last time.
    fn count_tallies(&mut self) {
        for (backend, tally) in self.settlements.tallies.iter_mut().enumerate() {
            let Some(tally) = tally.take() else { continue };
            for (how, requests) in tally.requests() {
                if requests != 0 {
                    self.metrics
                        .add(Metric::Settlements(backend, how), requests);
                }
            }
            for (what, units) in tally.units() {
                if units != 0 {
                    self.metrics.add(Metric::SettledUnits(backend, what), units);
                }
            }
        }
    }

    /// Logs what has been dropped, a line a second at most for each backend and reason.
    fn tell_dropped(&mut self, now: Instant) {
        let spoken = self.settlements.spoken;
        if self.settlements.dropped.is_empty()
            || spoken.is_some_and(|spoken| now.since(spoken) < LINE_EVERY)
        {
            return;
        }
        self.settlements.spoken = Some(now);
        for ((backend, why), units) in self.settlements.dropped.drain() {
            let name = self
                .config
                .backends
                .get(backend)
                .map_or("", |backend| &backend.name);
            let line = text::fill(
                "backend {}: {} units of use are dropped: {}",
                &[name, &decimal(units), why],
            );
            self.effects.push_back(Effect::Log(Level::Warn, line));
        }
    }
}

/// Whether there is a way to tell of a batch: what can't be taken back waits for use that makes up
/// for it.
fn can_be_told(batch: &Batch, wires: &[Wire]) -> bool {
    let wire = wires.get(batch.policy.backend);
    batch.units >= 0 || wire.is_some_and(Wire::takes_back)
}

/// What a report's failure says of it.
const fn fate(cause: CheckError) -> Fate {
    match cause {
        // The host has not sent it, or the backend has said that it could not count it now.
        CheckError::Dispatch
        | CheckError::BreakerOpen
        | CheckError::DeadlineTooShort
        | CheckError::TooManyPending
        | CheckError::Status(408 | 425 | 429) => Fate::Again,
        CheckError::Status(400..=499) => Fate::Refused,
        CheckError::Status(_) => Fate::Again,
        CheckError::BadReply
        | CheckError::Internal
        | CheckError::Timeout
        | CheckError::Unreachable => Fate::Unknown,
    }
}

/// The slot of the numbers that workers draw.
const NUMBERS: &str = "quota_gate/1/settle/numbers";

/// Tries to draw a number of its own.
const DRAWS: u32 = 16;

/// As for failures of checks.
const LINE_EVERY: Duration = Duration::from_secs(1);
