//! What is decided about a request and why: closed lists of reasons and causes, and their codes.
//!
//! A code is one word that stands for the same thing in the reply's body, the access log, the
//! metrics and the log. Reasons are for everybody; causes (why a check had no answer) are for
//! operators only and never reach a client.

use alloc::boxed::Box;
use core::time::Duration;

/// Why a request was let through.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum AllowReason {
    /// Not checked: policy `off`, a preflight, `on_missing: allow`.
    Bypassed,
    /// The backend said yes a short while ago, and the policy lets that count.
    Cached,
    /// No answer (or no check at all), and an emergency is active.
    Emergency,
    /// No answer, and the local limit had room.
    FailedLocal,
    /// No answer, and the policy fails open.
    FailedOpen,
    /// Paid from units that the backend granted ahead.
    Leased,
    /// Would have been denied, but the policy only watches.
    Shadow,
    /// No answer, and an earlier yes is used again.
    Stale,
    /// The backend said yes to this very request.
    WithinQuota,
}

impl AllowReason {
    /// Every reason, in alphabetical order.
    pub const ALL: [Self; 9] = [
        Self::Bypassed,
        Self::Cached,
        Self::Emergency,
        Self::FailedLocal,
        Self::FailedOpen,
        Self::Leased,
        Self::Shadow,
        Self::Stale,
        Self::WithinQuota,
    ];

    /// The stable word for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Bypassed => "bypassed",
            Self::Cached => "cached",
            Self::Emergency => "emergency",
            Self::FailedLocal => "failed_local",
            Self::FailedOpen => "failed_open",
            Self::Leased => "leased",
            Self::Shadow => "shadow",
            Self::Stale => "stale",
            Self::WithinQuota => "within_quota",
        }
    }

    /// What the upstream is told in `x-quota-decision`.
    #[must_use]
    pub const fn header_value(self) -> &'static str {
        match self {
            Self::Bypassed => "allow; reason=bypassed",
            Self::Cached => "allow; reason=cached",
            Self::Emergency => "allow; reason=emergency",
            Self::FailedLocal => "allow; reason=failed_local",
            Self::FailedOpen => "allow; reason=failed_open",
            Self::Leased => "allow; reason=leased",
            Self::Shadow => "allow; reason=shadow",
            Self::Stale => "allow; reason=stale",
            Self::WithinQuota => "allow; reason=within_quota",
        }
    }
}

/// Why a request was answered by the filter.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum DenyReason {
    /// An entry of the descriptor has no value: there is nothing to check by.
    DescriptorMissing,
    /// The backend does not know or admit the key.
    KeyRejected,
    /// No answer, and over the local limit.
    LocalExceeded,
    /// Over the limit.
    QuotaExceeded,
    /// No answer, and the policy fails closed.
    QuotaUnavailable,
}

impl DenyReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [
        Self::DescriptorMissing,
        Self::KeyRejected,
        Self::LocalExceeded,
        Self::QuotaExceeded,
        Self::QuotaUnavailable,
    ];

    /// The stable word for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::DescriptorMissing => "descriptor_missing",
            Self::KeyRejected => "key_rejected",
            Self::LocalExceeded => "local_exceeded",
            Self::QuotaExceeded => "quota_exceeded",
            Self::QuotaUnavailable => "quota_unavailable",
        }
    }
}

/// Why a check has no answer. A denial is never one of these.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum CheckError {
    /// The backend answered, but what it said can't be read.
    BadReply,
    /// The breaker is open: no call was made.
    BreakerOpen,
    /// The request's own deadline leaves no time for a call.
    DeadlineTooShort,
    /// The host refused to make the call (unknown cluster, no healthy endpoint, overflow).
    Dispatch,
    /// A bug of ours. The stream is released all the same, and the bug stays visible.
    Internal,
    /// A status that is neither allow, deny nor reject.
    Status(u16),
    /// No answer in time.
    Timeout,
    /// Too many calls in flight on this worker.
    TooManyPending,
    /// The connection failed, or broke before the answer was whole.
    Unreachable,
}

impl CheckError {
    /// One of each kind (the status is arbitrary).
    pub const ALL: [Self; 9] = [
        Self::BadReply,
        Self::BreakerOpen,
        Self::DeadlineTooShort,
        Self::Dispatch,
        Self::Internal,
        Self::Status(0),
        Self::Timeout,
        Self::TooManyPending,
        Self::Unreachable,
    ];

    /// The stable word for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::BadReply => "bad_reply",
            Self::BreakerOpen => "breaker_open",
            Self::DeadlineTooShort => "deadline_too_short",
            Self::Dispatch => "dispatch",
            Self::Internal => "internal",
            Self::Status(_) => "status",
            Self::Timeout => "timeout",
            Self::TooManyPending => "too_many_pending",
            Self::Unreachable => "unreachable",
        }
    }

    /// A number of its own, from 1 on; all statuses have one.
    #[must_use]
    pub const fn place(self) -> usize {
        match self {
            Self::BadReply => 1,
            Self::BreakerOpen => 2,
            Self::DeadlineTooShort => 3,
            Self::Dispatch => 4,
            Self::Internal => 5,
            Self::Status(_) => 6,
            Self::Timeout => 7,
            Self::TooManyPending => 8,
            Self::Unreachable => 9,
        }
    }

    /// Whether it says that the backend is unwell: what a breaker counts.
    ///
    /// A refusal of our own (breaker, bound, deadline) and a bug of ours say nothing about it.
    #[must_use]
    pub const fn blames_backend(self) -> bool {
        match self {
            Self::BadReply
            | Self::Dispatch
            | Self::Status(_)
            | Self::Timeout
            | Self::Unreachable => true,
            Self::BreakerOpen | Self::DeadlineTooShort | Self::Internal | Self::TooManyPending => {
                false
            }
        }
    }
}

/// What happens to the request.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Outcome {
    /// It goes on to the upstream.
    Allow(AllowReason),
    /// The filter answers it.
    Deny(DenyReason),
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 14] = [
        Self::Allow(AllowReason::Bypassed),
        Self::Allow(AllowReason::Cached),
        Self::Allow(AllowReason::Emergency),
        Self::Allow(AllowReason::FailedLocal),
        Self::Allow(AllowReason::FailedOpen),
        Self::Allow(AllowReason::Leased),
        Self::Allow(AllowReason::Shadow),
        Self::Allow(AllowReason::Stale),
        Self::Allow(AllowReason::WithinQuota),
        Self::Deny(DenyReason::DescriptorMissing),
        Self::Deny(DenyReason::KeyRejected),
        Self::Deny(DenyReason::LocalExceeded),
        Self::Deny(DenyReason::QuotaExceeded),
        Self::Deny(DenyReason::QuotaUnavailable),
    ];

    /// Its place in [`Outcome::ALL`].
    #[must_use]
    pub const fn place(self) -> usize {
        match self {
            Self::Allow(AllowReason::Bypassed) => 0,
            Self::Allow(AllowReason::Cached) => 1,
            Self::Allow(AllowReason::Emergency) => 2,
            Self::Allow(AllowReason::FailedLocal) => 3,
            Self::Allow(AllowReason::FailedOpen) => 4,
            Self::Allow(AllowReason::Leased) => 5,
            Self::Allow(AllowReason::Shadow) => 6,
            Self::Allow(AllowReason::Stale) => 7,
            Self::Allow(AllowReason::WithinQuota) => 8,
            Self::Deny(DenyReason::DescriptorMissing) => 9,
            Self::Deny(DenyReason::KeyRejected) => 10,
            Self::Deny(DenyReason::LocalExceeded) => 11,
            Self::Deny(DenyReason::QuotaExceeded) => 12,
            Self::Deny(DenyReason::QuotaUnavailable) => 13,
        }
    }

    /// `allow` or `deny`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow(_) => "allow",
            Self::Deny(_) => "deny",
        }
    }

    /// The reason's code.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Allow(reason) => reason.code(),
            Self::Deny(reason) => reason.code(),
        }
    }
}

/// A decision that can explain itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Decision {
    /// What happens.
    pub outcome: Outcome,
    /// Why the check had no answer, where that is what decided.
    pub cause: Option<CheckError>,
    /// What would have happened, where the policy only watches.
    pub shadowed: Option<DenyReason>,
    /// What was told with it; `None` where nothing was. It stands apart because most decisions
    /// have none, and are handed on from step to step on the way of every request.
    told: Option<Box<Told>>,
}

/// What is told of a decision beside its outcome; each part where there is something to tell.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Told {
    /// How long the client should wait before it asks again.
    pub retry_after: Option<Duration>,
    /// The backend's own status for a rejected key: 401 or 403.
    pub rejected_status: Option<u16>,
    /// What the backend said of the limit, for the RateLimit fields.
    pub limits: Limits,
}

impl Decision {
    /// A plain allow.
    #[must_use]
    pub const fn allow(reason: AllowReason) -> Self {
        Self::of(Outcome::Allow(reason))
    }

    /// A plain deny.
    #[must_use]
    pub const fn deny(reason: DenyReason) -> Self {
        Self::of(Outcome::Deny(reason))
    }

    /// The same with the cause of the failure that led to it.
    #[must_use]
    pub const fn because(mut self, cause: CheckError) -> Self {
        self.cause = Some(cause);
        self
    }

    /// The same with what is told of it.
    #[must_use]
    #[inline(never)]
    pub fn telling(mut self, told: Told) -> Self {
        self.told = (told != Told::default()).then(|| Box::new(told));
        self
    }

    /// What is told of it.
    #[must_use]
    pub fn told(&self) -> Told {
        self.told.as_deref().copied().unwrap_or_default()
    }

    const fn of(outcome: Outcome) -> Self {
        Self {
            outcome,
            cause: None,
            shadowed: None,
            told: None,
        }
    }
}

/// What the backend told about the limit that decided; each part where it was told.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Units in a window.
    pub limit: Option<u64>,
    /// Units left in this window.
    pub remaining: Option<u64>,
    /// Until the window starts anew.
    pub reset: Option<Duration>,
    /// The window's length.
    pub window: Option<Duration>,
}

impl Limits {
    /// Nothing was told.
    pub const NONE: Self = Self {
        limit: None,
        remaining: None,
        reset: None,
        window: None,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_an_outcome() {
        let allow = AllowReason::ALL.map(Outcome::Allow);
        let deny = DenyReason::ALL.map(Outcome::Deny);
        assert!(allow.into_iter().chain(deny).eq(Outcome::ALL));
    }

    #[test]
    fn every_outcome_and_every_cause_knows_its_place() {
        for (place, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(outcome.place(), place);
        }
        for (place, cause) in CheckError::ALL.iter().enumerate() {
            assert_eq!(cause.place(), place + 1);
        }
    }

    #[test]
    fn the_upstream_is_told_the_reasons_own_word() {
        for reason in AllowReason::ALL {
            assert_eq!(
                reason.header_value(),
                format!("allow; reason={}", reason.code())
            );
        }
    }

    #[test]
    fn every_code_is_one_lower_case_word() {
        let allow = AllowReason::ALL.map(AllowReason::code);
        let deny = DenyReason::ALL.map(DenyReason::code);
        let causes = CheckError::ALL.map(CheckError::code);
        let mut all: Vec<_> = allow.into_iter().chain(deny).chain(causes).collect();
        assert!(
            all.iter()
                .all(|code| code.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()))
        );
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 23);
    }
}
