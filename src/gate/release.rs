//! How a stream leaves: the failure mode's say, shadow, the access log's text, what is counted.

use alloc::rc::Rc;
use alloc::string::String;
use core::time::Duration;

use super::pending::Waiter;
use super::{Ask, Effect, Gate, Release, StreamId, Turn};
use crate::config::{Emergency, EmergencyMode, Enforcement, FailureMode, Policy, RateLimitHeaders};
use crate::decision::{AllowReason, CheckError, Decision, DenyReason, Limits, Outcome, Told};
use crate::fields;
use crate::metrics::{self, Metric};
use crate::text;
use crate::time::{Instant, Wall, millis};

impl Gate {
    /// The decision about a request whose check has no answer: an emergency lets it through, else
    /// an earlier answer is used again, else the failure mode decides.
    pub(super) fn failed(&mut self, turn: &mut Turn<'_>, ask: &Ask, cause: CheckError) -> Decision {
        let backend = ask.policy.backend;
        self.metrics.add(Metric::Failures(backend, cause), 1);
        self.report.failure(
            turn.now,
            cause,
            &ask.policy,
            &self.config,
            &mut self.effects,
        );
        let mut decision = self.without_answer(turn, ask);
        decision.cause = Some(cause);
        decision
    }

    fn without_answer(&mut self, turn: &mut Turn<'_>, ask: &Ask) -> Decision {
        if self.emergency(turn.wall).is_some() {
            return Decision::allow(AllowReason::Emergency);
        }
        let (key, ttls) = (ask.descriptor.as_bytes(), &ask.policy.cache);
        // Another request's answer may have come meanwhile: that is as good as new.
        if let Some(fresh) = self.cache.get(turn.now, key, ask.cost, ttls) {
            return fresh.decision(AllowReason::Cached);
        }
        if let Some(stale) = self.cache.stale(turn.now, key, ask.cost, ttls) {
            return stale.decision(AllowReason::Stale);
        }
        match ask.failure_mode {
            FailureMode::FailOpen => Decision::allow(AllowReason::FailedOpen),
            FailureMode::FailClosed => {
                let retry_after = self.retry_after(ask.policy.backend, turn.wall);
                Decision::deny(DenyReason::QuotaUnavailable).telling(Told {
                    retry_after,
                    ..Told::default()
                })
            }
            FailureMode::FailLocal => self.local(turn, ask),
        }
    }

    #[inline(never)]
    fn local(&mut self, turn: &mut Turn<'_>, ask: &Ask) -> Decision {
        let Some(limit) = &ask.policy.local_limit else {
            // The configuration's parser lets no such policy through.
            return Decision::deny(DenyReason::QuotaUnavailable);
        };
        match self.local.take(
            turn.wall,
            ask.descriptor.lasting_hash64(&ask.policy),
            limit,
            ask.cost,
            turn.shared,
        ) {
            Ok(()) => Decision::allow(AllowReason::FailedLocal),
            Err(over) => Decision::deny(DenyReason::LocalExceeded).telling(Told {
                retry_after: over.retry_after(),
                ..Told::default()
            }),
        }
    }

    /// When the breaker may let the next call through; `None` when it is not open.
    fn retry_after(&self, backend: usize, wall: Wall) -> Option<Duration> {
        self.breakers
            .get(backend)
            .and_then(Option::as_ref)?
            .open_for(wall)
    }

    /// The mode of the emergency, while one is active.
    pub(super) fn emergency(&self, wall: Wall) -> Option<EmergencyMode> {
        self.declared(wall).map(|emergency| emergency.mode)
    }

    pub(super) fn declared(&self, wall: Wall) -> Option<&Emergency> {
        self.config
            .emergency
            .as_ref()
            .filter(|emergency| wall < emergency.until)
    }

    /// Lets a stream that waited leave. Where the client is gone the decision is only counted.
    pub(super) fn release_stream(
        &mut self,
        now: Instant,
        stream: StreamId,
        waiter: Waiter,
        decision: Decision,
    ) {
        self.release_shared(now, stream, waiter, decision, true);
    }

    /// The same for one of several that share a check, which has `charged` for one of them.
    pub(super) fn release_shared(
        &mut self,
        now: Instant,
        stream: StreamId,
        waiter: Waiter,
        decision: Decision,
        charged: bool,
    ) {
        let waited = now.since(waiter.since);
        let release = self.release(Some(&waiter.ask.policy), decision, Some(waited));
        if waiter.gone {
            return self.settle_gone(now, waiter, &release.decision, charged);
        }
        if matches!(release.decision.outcome, Outcome::Allow(_)) {
            self.note_limits(stream, &waiter.ask.policy, &release.decision.told().limits);
        }
        self.open_settlement(stream, waiter.ask, &release.decision, charged);
        self.effects.push_back(Effect::Release(stream, release));
    }

    /// Counts a decision and words it for the access log.
    pub(super) fn release(
        &mut self,
        policy: Option<&Rc<Policy>>,
        mut decision: Decision,
        waited: Option<Duration>,
    ) -> Release {
        let shadows = policy.is_some_and(|policy| policy.enforcement == Enforcement::Shadow);
        if let (Outcome::Deny(reason), true) = (decision.outcome, shadows) {
            decision.outcome = Outcome::Allow(AllowReason::Shadow);
            decision.shadowed = Some(reason);
        }
        self.count(policy.map(|policy| policy.index), decision.outcome);
        let log_state = self.log_state(policy, &decision, waited);
        Release {
            decision,
            policy: policy.cloned(),
            log_state,
        }
    }

    /// The release of a request that no policy is about.
    pub(super) fn release_unchecked(&mut self) -> Release {
        self.release(None, Decision::allow(AllowReason::Bypassed), None)
    }

    /// `deny reason=quota_unavailable cause=timeout policy=gold backend=quota ms=80`: the access
    /// log's text. All of it but the time is the same for many requests, and made once.
    fn log_state(
        &mut self,
        policy: Option<&Rc<Policy>>,
        decision: &Decision,
        waited: Option<Duration>,
    ) -> Rc<str> {
        let any = matches!(decision.cause, Some(CheckError::Status(_)));
        let text = if any || decision.shadowed.is_some() {
            self.worded(policy, decision).into()
        } else {
            self.common_log_state(policy, decision)
        };
        let Some(waited) = waited else {
            return text;
        };
        [&*text, " ms=", &text::decimal(millis(waited))]
            .concat()
            .into()
    }

    fn common_log_state(&mut self, policy: Option<&Rc<Policy>>, decision: &Decision) -> Rc<str> {
        let place = metrics::place(policy.map(|policy| policy.index), decision.outcome);
        let causes = CheckError::ALL.len().saturating_add(1);
        let cause = decision.cause.map_or(0, CheckError::place);
        let key = place.saturating_mul(causes).saturating_add(cause);
        if let Some(known) = self.log_states.get(&key) {
            return Rc::clone(known);
        }
        let text: Rc<str> = self.worded(policy, decision).into();
        self.log_states.insert(key, Rc::clone(&text));
        text
    }

    pub(super) fn count(&mut self, policy: Option<usize>, outcome: Outcome) {
        self.metrics.add(Metric::Requests(policy, outcome), 1);
    }

    fn worded(&self, policy: Option<&Rc<Policy>>, decision: &Decision) -> String {
        let mut text = String::with_capacity(96);
        text.push_str(decision.outcome.word());
        let mut add = |label: &str, value: &str| {
            for part in [" ", label, "=", value] {
                text.push_str(part);
            }
        };
        add("reason", decision.outcome.reason());
        if let Some(reason) = decision.shadowed {
            add("would_deny", reason.code());
        }
        if let Some(cause) = decision.cause {
            add("cause", cause.code());
            if let CheckError::Status(status) = cause {
                add("status", &text::decimal(status.into()));
            }
        }
        if let Some(policy) = policy {
            add("policy", &policy.name);
            if let Some(backend) = self.config.backends.get(policy.backend) {
                add("backend", &backend.name);
            }
        }
        text
    }

    fn note_limits(&mut self, stream: StreamId, policy: &Policy, limits: &Limits) {
        if policy.rate_limit_headers == RateLimitHeaders::None || *limits == Limits::NONE {
            return;
        }
        let fields = fields::fields(policy.rate_limit_headers, &policy.name, limits);
        if !fields.is_empty() {
            self.notes.insert(stream.0, fields);
        }
    }
}
