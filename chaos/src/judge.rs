//! Explains an answer: by what was sent, what was in force meanwhile, and what backends, upstream
//! and access log say of it. What can't be explained is a finding.

use std::time::{Duration, Instant};

use quota_gate::decision::{AllowReason, CheckError, DenyReason, Outcome as Decided};
use quota_gate::gate::TICK;

use crate::client::{Answer, End};
use crate::ledger::Record;
use crate::plan::{Class, Ends};
use crate::plugin::Variant;
use crate::timeline::{Entry, Timeline};
use crate::traffic::{Fails, Mode, Planned, Who};

/// What the machine took for a request that has nothing to do with the filter: the longest, by
/// tenths of a second.
#[derive(Debug)]
pub(crate) struct Delays {
    start: Instant,
    tenths: Vec<Duration>,
}

impl Delays {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            tenths: Vec::new(),
        }
    }

    pub(crate) fn note(&mut self, at: Instant, took: Duration) {
        // A stall is one for all that time.
        for tenth in self.tenth(at)..=self.tenth(at + took) {
            if tenth >= self.tenths.len() {
                self.tenths.resize(tenth + 1, Duration::ZERO);
            }
            if let Some(longest) = self.tenths.get_mut(tenth) {
                *longest = took.max(*longest);
            }
        }
    }

    /// How much longer something may take that begins and ends at these times.
    fn slack(&self, from: Instant, until: Instant) -> Duration {
        SLACK + self.near(from, until) * 2
    }

    /// The longest at about these times.
    pub(crate) fn near(&self, from: Instant, until: Instant) -> Duration {
        let (first, last) = (self.tenth(from).saturating_sub(2), self.tenth(until) + 2);
        let near = self.tenths.iter().skip(first).take(last - first + 1);
        near.max().copied().unwrap_or_default()
    }

    pub(crate) fn worst(&self) -> Duration {
        self.tenths.iter().max().copied().unwrap_or_default()
    }

    fn tenth(&self, at: Instant) -> usize {
        let since = at.saturating_duration_since(self.start);
        usize::try_from(since.as_millis() / 100).unwrap_or(usize::MAX)
    }
}

/// One request with all that is known.
pub(crate) struct Case<'a> {
    pub(crate) planned: &'a Planned,
    pub(crate) record: &'a Record,
    pub(crate) timeline: &'a Timeline,
    pub(crate) delays: &'a Delays,
}

impl Case<'_> {
    /// Everything about it that can't be explained.
    pub(crate) fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        let mut found = |finding: Option<String>| findings.extend(finding);
        match &self.record.end {
            None => found(Some("its client never told how it ended".into())),
            Some(End::Hung) => found(Some("it hung".into())),
            Some(End::Broken(how)) => found(Some(format!("its client saw: {how}"))),
            Some(End::Left) => found(self.left()),
            Some(End::Answered(answer)) => {
                found(self.answered(answer));
                found(self.late());
            }
        }
        if self.record.logged.lines > 0 && self.planned.kind.mode != Mode::StatusPage {
            found(self.upstream());
            found(self.logged());
        }
        findings
    }

    /// How much more than its deadline and a tick it was held; negative is none.
    pub(crate) fn over_ms(&self) -> Option<i64> {
        let ms = i64::try_from(self.record.logged.ms?).ok()?;
        let budget = i64::try_from(self.planned.budget_ms()).ok()?;
        Some(ms - budget - i64::try_from(TICK.as_millis()).ok()?)
    }

    fn left(&self) -> Option<String> {
        let lines = self.record.logged.lines;
        (lines > 1).then(|| format!("{lines} lines in the access log"))
    }

    fn late(&self) -> Option<String> {
        let slack = self.delays.slack(self.record.sent, self.record.done);
        let budget = Duration::from_millis(self.planned.budget_ms()) + TICK + slack;
        let took = self.record.done - self.record.sent;
        let held = Duration::from_millis(self.record.logged.ms.unwrap_or(0));
        (took > budget || held > budget).then(|| {
            format!(
                "it took {took:?}, {held:?} of that in the filter: more than {} ms, a tick and \
                 {slack:?}",
                self.planned.budget_ms()
            )
        })
    }

    /// The client's answer is that of the decision.
    fn answered(&self, answer: &Answer) -> Option<String> {
        let logged = &self.record.logged;
        if logged.lines != 1 {
            return Some(format!("{} lines in the access log", logged.lines));
        }
        if self.planned.kind.mode == Mode::StatusPage {
            let fine = [200, 503].contains(&answer.status) && self.record.seen == 0;
            return (!fine).then(|| format!("a status page with {}", answer.status));
        }
        let Some(decision) = logged.decision else {
            return Some("the access log tells no decision".into());
        };
        let (status, grpc, code) = match decision {
            Decided::Allow(_) => (self.upstream_status(), 0, None),
            Decided::Deny(reason) => {
                let (status, grpc) = statuses(reason);
                (status, grpc, Some(reason.code()))
            }
        };
        // A key is not valid (401) or not admitted (403), as the backend says.
        let rejected = decision == Decided::Deny(DenyReason::KeyRejected);
        let fine = if self.planned.grpc {
            let also = rejected && answer.grpc == Some(PERMISSION_DENIED);
            answer.status == 200 && (answer.grpc == Some(grpc) || also)
        } else {
            let echoes = code.is_none() && self.planned.fails != Some(Fails::Reset);
            (answer.status == status || rejected && answer.status == 403)
                && answer.code == code
                && answer.upstream == echoes
                && (!echoes || answer.echoed == Some(self.planned.body.unwrap_or(0)))
        };
        (!fine).then(|| format!("{decision:?}, but the client got {answer:?}"))
    }

    const fn upstream_status(&self) -> u16 {
        match self.planned.fails {
            // That is what the proxy answers in its place.
            Some(Fails::Reset) => 503,
            Some(Fails::Status(status)) => status,
            None => 200,
        }
    }

    /// The upstream gets exactly what is let through, and is told why.
    fn upstream(&self) -> Option<String> {
        let Record {
            seen, told, logged, ..
        } = self.record;
        let passes = matches!(logged.decision, Some(Decided::Allow(_)));
        // Who leaves may do so before the upstream has it.
        let left = matches!(self.record.end, Some(End::Left));
        match (passes, seen) {
            (true, 0) if !left => Some("it was let through and never reached the upstream".into()),
            (_, 2..) => Some(format!("the upstream has it {seen} times")),
            (false, 1) => Some("it reached the upstream without a decision to allow it".into()),
            (true, 1) if *told != logged.decision => {
                Some(format!("the upstream was told {told:?}"))
            }
            _ => None,
        }
    }

    /// The decision follows from what was sent and from what was in force.
    fn logged(&self) -> Option<String> {
        let logged = &self.record.logged;
        let Some(decision) = logged.decision else {
            // The client left while its check was pending; anybody else has an answer.
            let left = matches!(self.record.end, Some(End::Left));
            return (!left).then(|| "no decision".into());
        };
        // Of who leaves while it is answered, Envoy tells just that.
        if !logged.details_agree && !matches!(self.record.end, Some(End::Left)) {
            return Some("details and decision differ".into());
        }
        if logged.policy != Some(self.planned.kind.policy) {
            return Some(format!("policy {:?}", logged.policy));
        }
        let explained = match decision {
            Decided::Allow(reason) => self.allows(reason),
            Decided::Deny(reason) => self.denies(reason),
        };
        match (explained, logged.cause) {
            (Err(why), _) => Some(format!("{decision:?}: {why}")),
            (Ok(()), Some(cause)) => self
                .fails(cause)
                .err()
                .map(|why| format!("{decision:?} because of {cause:?}: {why}")),
            (Ok(()), None) => None,
        }
    }

    fn allows(&self, reason: AllowReason) -> Result<(), String> {
        let Planned { kind, who, .. } = self.planned;
        let failed = self.record.logged.cause.is_some();
        match reason {
            AllowReason::Bypassed => must(
                kind.mode == Mode::Off
                    || self.planned.preflight
                    || (kind.path == "/optional" && !who.has_key()),
                "it is to be checked",
            ),
            AllowReason::Emergency => must(
                self.met(|entry| entry.phase.variant.is_emergency()),
                "no emergency was near",
            ),
            _ if kind.mode == Mode::Off || self.planned.preflight => Err("it is unchecked".into()),
            AllowReason::FailedOpen => must(failed && kind.mode == Mode::Open, "not that mode"),
            AllowReason::FailedLocal => must(failed && kind.mode == Mode::Local, "not that mode"),
            AllowReason::Shadow => must(
                kind.mode == Mode::Shadow && self.record.logged.would_deny,
                "it does not only watch",
            ),
            AllowReason::Stale => self.a_yes(failed && kind.path == "/stale"),
            AllowReason::Cached => self.a_yes(kind.path == "/cached"),
            AllowReason::Leased => self.a_yes(!failed && kind.leases()),
            AllowReason::WithinQuota => {
                let own = self.record.checks == 1 && said_yes(self.record.answered);
                must(kind.joins() || own, "no backend was seen to say so")?;
                self.a_yes(!failed)
            }
        }
    }

    /// The backend says yes to this key, or did so a while ago by mistake.
    fn a_yes(&self, possible: bool) -> Result<(), String> {
        must(possible, "not on this path")?;
        let says_yes = |entry: &Entry| entry.class(self.planned.kind.backend) == Class::SaysYes;
        let mistaken = self.planned.who.has_key()
            && self
                .timeline
                .between(self.record.sent - REMEMBERED, self.over())
                .iter()
                .any(says_yes);
        // Nothing is always there, also of what is used up.
        let free = matches!(self.planned.who, Who::Over(_))
            && self.planned.cost == Some(0)
            && !self.planned.kind.checks_for_nothing();
        must(
            self.planned.who.is_welcome() || mistaken || free || self.has_credit(),
            "the backend knows better",
        )
    }

    /// An estimate that a backend has said yes to by mistake, and not charged, is taken back: from
    /// then on there are units of what was used up.
    fn has_credit(&self) -> bool {
        let says_yes = |entry: &Entry| entry.class(self.planned.kind.backend) == Class::SaysYes;
        let over = self.over();
        let mut before = self
            .timeline
            .0
            .iter()
            .take_while(|entry| entry.from <= over);
        self.planned.kind.corrects() && self.planned.who.has_key() && before.any(says_yes)
    }

    fn denies(&self, reason: DenyReason) -> Result<(), String> {
        let Planned { kind, who, .. } = self.planned;
        let failed = self.record.logged.cause.is_some();
        let remembers = ["/cached", "/stale"].contains(&kind.path);
        let unchecked = kind.mode == Mode::Off || self.planned.preflight;
        must(!unchecked, "it is not checked")?;
        must(kind.mode != Mode::Shadow, "it is only watched")?;
        match reason {
            DenyReason::DescriptorMissing => must(
                !who.has_key() && kind.path != "/optional",
                "it has a key, or needs none",
            ),
            DenyReason::KeyRejected => must(
                matches!(who, Who::Bad(_)) && (!failed || remembers),
                "the key is known",
            ),
            DenyReason::QuotaExceeded => must(
                matches!(who, Who::Over(_)) && (!failed || remembers),
                "there are units left",
            ),
            DenyReason::LocalExceeded => must(failed && kind.mode == Mode::Local, "not that mode"),
            DenyReason::QuotaUnavailable => {
                must(failed && kind.mode == Mode::Closed, "not that mode")
            }
        }
    }

    /// The check can have failed by this cause.
    fn fails(&self, cause: CheckError) -> Result<(), String> {
        let backend = self.planned.kind.backend;
        let class = |wanted: &[Class]| {
            self.record.checks > 0 && wanted.contains(&self.record.answered)
                || self.met(|entry| wanted.contains(&entry.class(backend)))
        };
        let ends = |wanted: &[Ends]| self.met(|entry| wanted.contains(&entry.ends(backend)));
        match cause {
            CheckError::BadReply => must(
                self.planned.kind.reads_body() && class(&[Class::SaysYes]),
                "every reply could be read",
            ),
            CheckError::BreakerOpen => must(
                self.met(|entry| entry.phase.variant.has_breaker()),
                "there was no breaker",
            ),
            CheckError::DeadlineTooShort => must(
                self.planned.own_deadline_ms.is_some(),
                "it has no deadline of its own",
            ),
            CheckError::Dispatch => must(
                ends(&[Ends::None, Ends::Nobody]),
                "there were endpoints all the time",
            ),
            CheckError::Internal => Err("a bug".into()),
            CheckError::Status(_) => must(class(&[Class::Status]), "no backend said so"),
            CheckError::Timeout => {
                // The host counts from when it began to look after all that is due: on a busy
                // machine a timer fires so much earlier.
                let busy = self.delays.near(self.record.sent, self.record.done);
                let waited = Duration::from_millis(self.record.logged.ms.unwrap_or(0));
                // Who joins a call is told its end, and may have come late to it.
                let joined = self.planned.kind.joins() && self.record.checks == 0;
                must(
                    joined
                        || waited + busy + TIMER >= Duration::from_millis(self.planned.budget_ms()),
                    "it has not waited for so long",
                )
            }
            CheckError::TooManyPending => must(
                self.met(|entry| entry.phase.variant == Variant::FewCalls),
                "the bound was never near",
            ),
            // An answer that stalls ends at the timeout as one that broke off; where the host's
            // timer fires much too early, it is taken for that.
            CheckError::Unreachable => must(
                class(&[Class::Breaks, Class::Refuses])
                    || class(&[Class::Silent]) && self.waited_half()
                    || ends(&[Ends::None, Ends::Nobody, Ends::BackendAndNobody]),
                "the backend was there all the time",
            ),
        }
    }

    fn waited_half(&self) -> bool {
        let busy = self.delays.near(self.record.sent, self.record.done);
        let waited = Duration::from_millis(self.record.logged.ms.unwrap_or(0));
        (waited + busy + TIMER) * 2 >= Duration::from_millis(self.planned.budget_ms())
    }

    /// When the proxy was done with it at the latest: it may read what a client had sent only after
    /// that client has left.
    pub(crate) fn over(&self) -> Instant {
        let (sent, done) = (self.record.sent, self.record.done);
        match self.record.end {
            Some(End::Left) => done + self.delays.slack(sent, done),
            _ => done,
        }
    }

    fn met(&self, holds: impl Fn(&Entry) -> bool) -> bool {
        let met = self
            .timeline
            .between(self.record.sent - EARLIER, self.over());
        met.iter().any(holds)
    }

    /// A timeout in a time when nothing was slow but the machine.
    pub(crate) fn is_unprovoked_timeout(&self) -> bool {
        let backend = self.planned.kind.backend;
        let slow = |entry: &Entry| {
            entry.class(backend) != Class::Good || entry.ends(backend) != Ends::Backend
        };
        self.record.logged.cause == Some(CheckError::Timeout)
            && self.planned.own_deadline_ms.is_none()
            && !self.met(slow)
    }
}

const fn said_yes(class: Class) -> bool {
    matches!(class, Class::Good | Class::Late | Class::SaysYes)
}

/// The HTTP and the gRPC status of a denial.
const fn statuses(reason: DenyReason) -> (u16, u8) {
    match reason {
        DenyReason::DescriptorMissing | DenyReason::KeyRejected => (401, 16),
        DenyReason::LocalExceeded | DenyReason::QuotaExceeded => (429, 8),
        DenyReason::QuotaUnavailable => (503, 14),
    }
}

const PERMISSION_DENIED: u8 = 7;

fn must(holds: bool, else_: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(else_.to_owned()) }
}

/// What a busy machine may add to a deadline and a tick, beside twice the longest that a request
/// without the filter took at that time.
pub(crate) const SLACK: Duration = Duration::from_millis(250);

/// A timer's grain, on both sides.
pub(crate) const TIMER: Duration = Duration::from_millis(3);

/// Checks that are joined were made a while before.
const EARLIER: Duration = Duration::from_millis(100);

/// No answer is used again for longer: the longest ttl, and what a phase leaves behind.
const REMEMBERED: Duration = Duration::from_secs(3);
