//! How a call ended, as the host tells it, and what that says about the backend.
//!
//! A host answers callouts that fail with statuses of its own making, which look like a backend's.
//! One thing tells them apart: whatever really comes from a backend carries
//! `x-envoy-upstream-service-time`, which Envoy sets itself and overwrites.

use std::time::Duration;

use crate::decision::CheckError;
use crate::wire::RawReply;

/// How a call ended.
#[derive(Clone, Debug)]
pub enum CallEnd<'a> {
    /// Without headers: the connection broke before the reply was whole, or the time ran out
    /// while its body was on the way.
    Broken,
    /// With an answer that the host made, of this status.
    Host(u16),
    /// The host refused to make it.
    Refused,
    /// With an answer of the backend.
    Reply(RawReply<'a>),
}

/// The backend's answer, or why there is none. `late` says that the call took its whole timeout.
pub(super) fn classify(end: CallEnd<'_>, late: bool) -> Result<RawReply<'_>, CheckError> {
    match end {
        CallEnd::Broken if late => Err(CheckError::Timeout),
        CallEnd::Broken => Err(CheckError::Unreachable),
        CallEnd::Host(TIMEOUT | STREAM_TOO_LONG) => Err(CheckError::Timeout),
        CallEnd::Host(_) => Err(CheckError::Unreachable),
        CallEnd::Refused => Err(CheckError::Dispatch),
        CallEnd::Reply(reply) => Ok(reply),
    }
}

/// Whether a call that ended after `elapsed` had all the time it was given.
pub(super) fn is_late(elapsed: Duration, timeout: Duration) -> bool {
    let slack = timeout
        .checked_div(8)
        .unwrap_or(TIMER_SLACK)
        .min(TIMER_SLACK);
    elapsed.saturating_add(slack) >= timeout
}

/// Envoy's answer when the callout's own timeout is over.
const TIMEOUT: u16 = 504;

/// Envoy's answer when the cluster's `max_stream_duration` is over.
const STREAM_TOO_LONG: u16 = 408;

/// Envoy's timers count from when the event loop last looked at the clock, so by ours they fire
/// early by as long as it has been busy since.
const TIMER_SLACK: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(end: CallEnd<'_>, late: bool) -> Option<CheckError> {
        classify(end, late).err()
    }

    #[test]
    fn a_host_made_504_is_a_timeout_and_every_other_one_means_unreachable() {
        assert_eq!(cause(CallEnd::Host(504), false), Some(CheckError::Timeout));
        assert_eq!(cause(CallEnd::Host(408), false), Some(CheckError::Timeout));
        assert_eq!(
            cause(CallEnd::Host(503), false),
            Some(CheckError::Unreachable)
        );
        assert_eq!(
            cause(CallEnd::Host(502), false),
            Some(CheckError::Unreachable)
        );
        assert_eq!(cause(CallEnd::Refused, false), Some(CheckError::Dispatch));
    }

    #[test]
    fn a_reply_that_broke_off_is_a_timeout_only_when_the_time_was_up() {
        assert_eq!(cause(CallEnd::Broken, false), Some(CheckError::Unreachable));
        assert_eq!(cause(CallEnd::Broken, true), Some(CheckError::Timeout));
        let timeout = Duration::from_millis(50);
        assert!(!is_late(Duration::from_millis(43), timeout));
        assert!(is_late(Duration::from_millis(44), timeout));
        let timeout = Duration::from_secs(1);
        assert!(!is_late(Duration::from_millis(989), timeout));
        assert!(is_late(Duration::from_millis(990), timeout));
    }
}
