//! The only place that polls, sleeps or reads the clock.

use std::time::{Duration, Instant};

/// Returns the current instant.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Asks `probe` until it has a value, and returns that.
///
/// # Panics
/// After [`PATIENCE`], saying what was waited for.
#[track_caller]
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, probe) {
        Some(value) => value,
        None => panic!("waited {PATIENCE:?} in vain: {what}"),
    }
}

/// Asks `probe` until it has a value or `limit` is over; it is asked once more at the end.
pub fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let start = now();
    let mut pause = FIRST_PAUSE;
    loop {
        let last = start.elapsed() >= limit;
        if let Some(value) = probe() {
            return Some(value);
        }
        if last {
            return None;
        }
        std::thread::sleep(pause.min(limit.saturating_sub(start.elapsed())));
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// How long [`eventually`] waits: far above anything a healthy, busy machine needs.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The first pause between two looks, doubled each time: most conditions hold at once.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// The longest pause between two looks.
const LAST_PAUSE: Duration = Duration::from_millis(25);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_the_first_value_of_the_probe() {
        let mut asked = 0;
        let value = eventually("three looks", || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(value, 3);
    }

    #[test]
    fn gives_up_when_the_time_is_over() {
        assert_eq!(within(Duration::from_millis(5), || None::<()>), None);
    }
}
