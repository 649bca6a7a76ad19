//! Text to typed values: durations, status patterns, names, times. Each says only whether it is
//! one; bounds come from the key.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::StatusPattern;
use crate::text;

/// A duration of whole milliseconds: digits, with a fraction if wanted, and `ms`, `s`, `m` or `h`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at_checked(split)?;
    let unit: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > MAX_FRACTION_DIGITS {
        return None;
    }
    let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let scaled = text::parse_decimal(fraction.as_bytes())?.checked_mul(unit)?;
    if scaled.checked_rem(scale)? != 0 {
        return None;
    }
    let whole = text::parse_decimal(whole.as_bytes()).filter(|whole| *whole < u64::MAX)?;
    let millis = whole.checked_mul(unit)?;
    Some(Duration::from_millis(
        millis.checked_add(scaled.checked_div(scale)?)?,
    ))
}

/// A duration as a configuration would say it: milliseconds below a second, else seconds.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let millis = duration.subsec_millis();
    match (duration.as_secs(), millis) {
        (0, millis) => [&text::decimal(millis.into()), "ms"].concat(),
        (seconds, 0) => [&text::decimal(seconds), "s"].concat(),
        (seconds, millis) => {
            let fraction = text::decimal_of(millis.into(), 3);
            let fraction = fraction.trim_end_matches('0');
            text::fill("{}.{}s", &[&text::decimal(seconds), fraction])
        }
    }
}

/// A hundred of statuses: `2xx` to `5xx`.
#[must_use]
pub fn status_class(text: &str) -> Option<StatusPattern> {
    match text {
        "2xx" => Some(StatusPattern::Class(2)),
        "3xx" => Some(StatusPattern::Class(3)),
        "4xx" => Some(StatusPattern::Class(4)),
        "5xx" => Some(StatusPattern::Class(5)),
        _ => None,
    }
}

/// The word of `known` that `text` was probably meant to be.
#[must_use]
pub fn did_you_mean<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nearest(text, &mut known.into_iter())
}

/// One copy for all callers: their iterators come as a trait object.
fn nearest<'a>(text: &str, known: &mut dyn Iterator<Item = &'a str>) -> Option<&'a str> {
    if text.len() > MAX_SUGGESTION_BYTES {
        return None;
    }
    let mut least = text.len().div_ceil(3).min(3).saturating_add(1);
    let mut found = None;
    for word in known {
        if word.len() > MAX_SUGGESTION_BYTES {
            continue;
        }
        let distance = distance(text, word);
        if distance < least {
            least = distance;
            found = Some(word);
        }
    }
    found
}

/// How many letters have to be put in, taken out or changed to make one word of the other; case
/// does not count.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut left = i.saturating_add(1);
        let mut above_left = i;
        for (b, cell) in other.bytes().zip(row.iter_mut().skip(1)) {
            let changed = above_left.saturating_add(usize::from(!a.eq_ignore_ascii_case(&b)));
            above_left = *cell;
            left = changed.min(left.min(above_left).saturating_add(1));
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i.saturating_add(1);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// More would be finer than a nanosecond of an hour; and the arithmetic stays in range.
const MAX_FRACTION_DIGITS: usize = 9;
/// Names are at most 64 bytes; longer texts are no typing errors.
const MAX_SUGGESTION_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations() {
        for (text, millis) in [
            ("80ms", 80),
            ("0s", 0),
            ("1.5s", 1_500),
            ("2m", 120_000),
            ("0.25m", 15_000),
            ("1h", 3_600_000),
            ("1.000s", 1_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)));
        }
    }

    #[test]
    fn refuses_what_is_no_duration_or_finer_than_a_millisecond() {
        for text in [
            "",
            "80",
            "ms",
            ".5s",
            "1.s",
            "1 s",
            "-1s",
            "+1s",
            "1.5ms",
            "0.0001s",
            "1e3s",
            "80MS",
            "1s2",
            "1.2.3s",
            "80µs",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn prints_durations_that_it_reads_again() {
        for (millis, text) in [(0, "0ms"), (80, "80ms"), (1_500, "1.5s"), (60_000, "60s")] {
            assert_eq!(duration_text(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration_text(Duration::from_millis(1_050)), "1.05s");
    }

    #[test]
    fn guesses_what_was_meant() {
        let known = ["timeout", "backend", "cost", "host_budget"];

        assert_eq!(did_you_mean("timout", known), Some("timeout"));
        assert_eq!(did_you_mean("TimeOut", known), Some("timeout"));
        assert_eq!(did_you_mean("bakcend", known), Some("backend"));
        assert_eq!(did_you_mean("costs", known), Some("cost"));
        assert_eq!(did_you_mean("hostbudget", known), Some("host_budget"));
        assert_eq!(did_you_mean("zzz", known), None);
        assert_eq!(did_you_mean("", known), None);
    }
}
