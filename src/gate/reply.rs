//! How a call ended, as the host tells it, and what that says about the backend.
//!
//! A host answers callouts that fail with statuses of its own making, which look like a backend's.
//! One thing tells them apart: whatever really comes from a backend carries
//! `x-envoy-upstream-service-time`, which Envoy sets itself and overwrites.

use core::time::Duration;

use crate::decision::CheckError;
use crate::time::Instant;
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

/// How long before a call was made the host's timer for it may have begun to count.
///
/// Envoy's timers count from when the event loop last looked at the clock, so by ours they fire
/// early by as long as it had been busy by then. A tick is run by the same loop: that look came
/// after the last one, `ticked`.
pub(super) fn head_start(now: Instant, ticked: Option<Instant>, timeout: Duration) -> Duration {
    let most = timeout.checked_div(HEAD_START_PART).unwrap_or_default();
    ticked.map_or(most, |ticked| now.since(ticked)).min(most)
}

/// Whether a call that ended after `elapsed`, its head start included, had all the time it was
/// given.
pub(super) fn is_late(elapsed: Duration, timeout: Duration) -> bool {
    let slack = timeout
        .checked_div(8)
        .unwrap_or(CLOCK_SLACK)
        .min(CLOCK_SLACK);
    elapsed.saturating_add(slack) >= timeout
}

/// Envoy's answer when the callout's own timeout is over.
const TIMEOUT: u16 = 504;

/// Envoy's answer when the cluster's `max_stream_duration` is over.
const STREAM_TOO_LONG: u16 = 408;

/// The time since the last tick is the better part of a short timeout: what breaks off before three
/// quarters of it are over has broken off, whatever the loop was at.
const HEAD_START_PART: u32 = 4;

/// The clock that Envoy's event loop looks at is the kernel's coarse one, which is behind by up to
/// a tick of the kernel's own: 4 ms on most machines, 10 ms on some.
const CLOCK_SLACK: Duration = Duration::from_millis(10);

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
    }

    #[test]
    fn a_call_has_had_its_time_when_only_the_clocks_slack_is_missing() {
        let timeout = ms(50);
        assert!(!is_late(ms(43), timeout));
        assert!(is_late(ms(44), timeout));
        let timeout = ms(1000);
        assert!(!is_late(ms(989), timeout));
        assert!(is_late(ms(990), timeout));
    }

    #[test]
    fn a_timer_may_have_begun_with_the_loops_last_tick_but_not_before() {
        let now = Instant(70_000_000);
        let (timeout, tick) = (ms(400), Instant(53_000_000));
        assert_eq!(head_start(now, Some(tick), timeout), ms(17));
        assert_eq!(head_start(now, Some(now), timeout), ms(0));
    }

    #[test]
    fn of_a_short_timeout_a_quarter_is_the_most_that_a_timer_may_have_begun_ahead() {
        let (now, tick) = (Instant(70_000_000), Instant(53_000_000));
        assert_eq!(head_start(now, Some(tick), ms(40)), ms(10));
        assert_eq!(head_start(now, None, ms(400)), ms(100));
    }

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }
}
