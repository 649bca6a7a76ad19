//! The end of a call: what its reply means for everybody who waits, and for the tables.

use super::breaker;
use super::cache::Answer;
use super::lease::Grant;
use super::pending::{Call, Purpose, Waiter};
use super::reply::{CallEnd, classify, is_late};
use super::{CallId, Gate, StreamId, Turn, Visit, is_peek};
use crate::decision::{AllowReason, CheckError, Decision, DenyReason, Told};
use crate::metrics::{CalloutResult, Metric};
use crate::time::{Instant, millis};
use crate::wire::{Reply, ReplyOutcome};

impl Gate {
    /// Takes the end of a call. A call that is not known (any more) changes nothing: its reply is
    /// late, doubled, or was never asked for.
    pub(super) fn finish(&mut self, turn: &mut Turn<'_>, id: CallId, end: CallEnd<'_>) {
        let Some(call) = self.pending.take(id) else {
            return self.finish_report(turn, id, end);
        };
        let elapsed = turn.now.since(call.since);
        let made = !matches!(end, CallEnd::Refused);
        let late = is_late(elapsed.saturating_add(call.head_start), call.timeout);
        let reply = classify(end, late).and_then(|raw| {
            let wire = self.wires.get(call.backend).ok_or(CheckError::Internal)?;
            wire.decode(&raw)
        });
        let reply = reply.map(|reply| {
            if is_peek(&call.policy) {
                peeked(reply)
            } else {
                reply
            }
        });
        self.metrics
            .add(Metric::Callouts(call.backend, result_of(&reply)), 1);
        if made {
            self.metrics
                .record(Metric::CalloutDuration(call.backend), millis(elapsed));
        }
        if reply.is_ok() {
            self.report.answered(call.backend, turn.wall);
        }
        self.tell_breaker(turn, &call, reply.as_ref().err().copied());
        match call.purpose {
            Purpose::Check(cost) => self.end_check(turn, call, cost, reply),
            Purpose::Lease(units) | Purpose::Renewal(units) => {
                self.end_lease(turn, call, units, reply);
            }
        }
    }

    /// Releases the streams whose deadline has passed, each one alone.
    pub(super) fn release_overdue(&mut self, turn: &mut Turn<'_>) {
        while let Some(stream) = self.pending.overdue(turn.now) {
            let Some(waiter) = self.pending.release(stream) else {
                break;
            };
            self.release_failed(turn, stream, waiter, CheckError::Timeout);
        }
    }

    /// Forgets the calls whose end was never told. Nobody waits for them any more.
    pub(super) fn forget_lost(&mut self, turn: &mut Turn<'_>) {
        while let Some(id) = self.pending.lost(turn.now) {
            self.finish(turn, id, CallEnd::Host(504));
        }
    }

    /// Counts everything in flight as unanswered. The calls are forgotten with it, for the gauge of
    /// calls in flight is the process's and outlives the gate.
    pub(super) fn abandon(&mut self, turn: &mut Turn<'_>) {
        while let Some(stream) = self.pending.any_waiter() {
            let Some(waiter) = self.pending.release(stream) else {
                break;
            };
            self.release_failed(turn, stream, waiter, CheckError::Timeout);
        }
        self.pending.forget_calls();
    }

    fn end_check(
        &mut self,
        turn: &mut Turn<'_>,
        call: Call,
        cost: u64,
        reply: Result<Reply, CheckError>,
    ) {
        if let Ok(reply) = &reply {
            self.remember(turn.now, &call, reply, cost);
            if call.policy.lease.is_some() {
                self.leases
                    .observed(turn.now, call.key.as_bytes(), &reply.limits);
            }
        }
        let granted = matches!(&reply, Ok(reply) if is_grant(reply));
        let mut unclaimed = granted;
        for stream in call.waiters {
            let Some(waiter) = self.pending.release(stream) else {
                continue;
            };
            match &reply {
                // Where several share the check, it has charged for one.
                Ok(reply) => {
                    let charged = core::mem::take(&mut unclaimed);
                    self.release_shared(turn.now, stream, waiter, decision_of(reply), charged);
                }
                Err(cause) => self.release_failed(turn, stream, waiter, *cause),
            }
        }
        if unclaimed {
            self.settle_unclaimed(turn.now, &call.policy, &call.key, cost);
        }
    }

    /// The end of a call that asked for units: the request that made it, if one did, is paid or
    /// denied; the others are served from what came, or ask for themselves in the time they have
    /// left.
    #[inline(never)]
    fn end_lease(
        &mut self,
        turn: &mut Turn<'_>,
        call: Call,
        units: u64,
        reply: Result<Reply, CheckError>,
    ) {
        let mut waiters = call.waiters.iter();
        let leader = match call.purpose {
            Purpose::Lease(_) => waiters.next(),
            Purpose::Check(_) | Purpose::Renewal(_) => None,
        };
        let leader = leader.and_then(|stream| Some((*stream, self.pending.release(*stream)?)));
        let cost = leader.as_ref().map_or(0, |(_, waiter)| waiter.ask.cost);
        let paid = self.settle_lease(turn, &call, units, cost, &reply);
        if let Some((stream, waiter)) = leader {
            match &reply {
                Err(cause) => self.release_failed(turn, stream, waiter, *cause),
                Ok(reply) if paid || !may_ask_again(reply, units, cost) => {
                    self.release_stream(turn.now, stream, waiter, decision_of(reply));
                }
                Ok(_) => self.serve(turn, stream, waiter, Visit::Exact),
            }
        }
        for stream in waiters {
            let Some(waiter) = self.pending.release(*stream) else {
                continue;
            };
            match &reply {
                Err(cause) => self.release_failed(turn, *stream, waiter, *cause),
                Ok(reply) if matches!(reply.outcome, ReplyOutcome::Rejected { .. }) => {
                    self.release_stream(turn.now, *stream, waiter, decision_of(reply));
                }
                Ok(_) => self.serve(turn, *stream, waiter, Visit::Again),
            }
        }
    }

    /// Tells the lease what came of its call, and the cache what holds for the key at large.
    /// Whether that pays for the request that made the call.
    fn settle_lease(
        &mut self,
        turn: &Turn<'_>,
        call: &Call,
        units: u64,
        cost: u64,
        reply: &Result<Reply, CheckError>,
    ) -> bool {
        let key = call.key.as_bytes();
        let Ok(reply) = reply else {
            self.leases.failed(turn.now, key);
            return false;
        };
        match reply.outcome {
            ReplyOutcome::Granted { units: granted } => {
                let units = granted.unwrap_or(units).min(units);
                self.remember(turn.now, call, reply, units);
                self.leases.granted(
                    turn.now,
                    key,
                    &Grant {
                        units,
                        cost,
                        limits: reply.limits,
                    },
                )
            }
            ReplyOutcome::Denied | ReplyOutcome::Rejected { .. } => {
                self.leases.refused(turn.now, key, &reply.limits);
                // The no to a batch says nothing about a request that needs less.
                if !may_ask_again(reply, units, cost) {
                    self.remember(turn.now, call, reply, units);
                }
                false
            }
        }
    }

    fn remember(&mut self, now: Instant, call: &Call, reply: &Reply, cost: u64) {
        let answer = Answer::of(reply, cost);
        self.cache
            .put(now, call.key.as_bytes(), &answer, &call.policy.cache);
    }

    /// Serves a stream whose lease did not pay for it right away: from what is there, or by asking
    /// for exactly what it needs.
    fn serve(&mut self, turn: &mut Turn<'_>, stream: StreamId, waiter: Waiter, visit: Visit) {
        let (known, renewal) = self.known(turn.now, &waiter.ask, visit);
        match known {
            Ok(decision) => {
                if let Some(units) = renewal {
                    self.renew(turn, &waiter.ask, units, &waiter.labels);
                }
                self.release_stream(turn.now, stream, waiter, decision);
            }
            Err(need) => {
                if let Err(unplaced) = self.place(turn, stream, waiter, need) {
                    // Its time ran out while it was served once more: it has waited too long.
                    let cause = match unplaced.cause == CheckError::DeadlineTooShort {
                        true => CheckError::Timeout,
                        false => unplaced.cause,
                    };
                    self.release_failed(turn, stream, unplaced.waiter, cause);
                }
            }
        }
    }

    fn tell_breaker(&mut self, turn: &mut Turn<'_>, call: &Call, cause: Option<CheckError>) {
        let breaker = self.breakers.get_mut(call.backend).and_then(Option::as_mut);
        let Some((breaker, permit)) = breaker.zip(call.permit) else {
            return;
        };
        let outcome = match cause {
            None => breaker::CallOutcome::Success,
            Some(cause) if cause.blames_backend() => breaker::CallOutcome::Failure,
            // A bug of ours says nothing of the backend; a trial call's slot lapses by itself.
            Some(_) => return,
        };
        breaker.record(turn.wall, permit, outcome, turn.shared);
        self.tell_transitions(call.backend);
    }

    fn release_failed(
        &mut self,
        turn: &mut Turn<'_>,
        stream: StreamId,
        waiter: Waiter,
        cause: CheckError,
    ) {
        let decision = self.failed(turn, &waiter.ask, cause);
        self.release_stream(turn.now, stream, waiter, decision);
    }
}

/// Whether a request that was not paid may ask once more: the no was to a batch, not to it.
const fn may_ask_again(reply: &Reply, asked: u64, cost: u64) -> bool {
    match reply.outcome {
        ReplyOutcome::Denied => asked > cost,
        ReplyOutcome::Granted { .. } => true,
        ReplyOutcome::Rejected { .. } => false,
    }
}

const fn is_grant(reply: &Reply) -> bool {
    matches!(reply.outcome, ReplyOutcome::Granted { .. })
}

/// The reply to a check that counts nothing: a yes with nothing left is a no.
fn peeked(mut reply: Reply) -> Reply {
    if is_grant(&reply) && reply.limits.remaining == Some(0) {
        reply.outcome = ReplyOutcome::Denied;
    }
    reply
}

fn decision_of(reply: &Reply) -> Decision {
    let (decision, rejected_status) = match reply.outcome {
        ReplyOutcome::Granted { .. } => (Decision::allow(AllowReason::WithinQuota), None),
        ReplyOutcome::Denied => (Decision::deny(DenyReason::QuotaExceeded), None),
        ReplyOutcome::Rejected { status } => {
            (Decision::deny(DenyReason::KeyRejected), Some(status))
        }
    };
    decision.telling(Told {
        retry_after: reply.retry_after.or(reply.limits.reset),
        rejected_status,
        limits: reply.limits,
    })
}

const fn result_of(reply: &Result<Reply, CheckError>) -> CalloutResult {
    match reply {
        Err(cause) => CalloutResult::Failed(*cause),
        Ok(Reply {
            outcome: ReplyOutcome::Granted { .. },
            ..
        }) => CalloutResult::Allow,
        Ok(Reply {
            outcome: ReplyOutcome::Denied,
            ..
        }) => CalloutResult::Deny,
        Ok(Reply {
            outcome: ReplyOutcome::Rejected { .. },
            ..
        }) => CalloutResult::Reject,
    }
}
