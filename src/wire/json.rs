//! Values out of JSON and of headers, whatever shape they were sent in: numbers, numbers in
//! quotes, `"55s"`, dates; counts, spans and truth.

use alloc::vec::Vec;
use core::time::Duration;

use crate::config::value::Value;

use crate::language::{Text, Unit};
use crate::text;
use crate::time::Wall;

/// What is at `pointer` in `value`.
#[must_use]
pub fn at<'a>(value: &'a Value, pointer: &[Text]) -> Option<&'a Value> {
    pointer.iter().try_fold(value, |value, step| match value {
        Value::List(list) => {
            let index = text::parse_decimal(step.as_bytes())?;
            list.get(usize::try_from(index).ok()?)
        }
        // Of two equal names the last counts, as everywhere.
        Value::Object(members) => {
            let found = members.iter().rev().find(|(name, _)| name == step);
            found.map(|(_, value)| value)
        }
        Value::Bool(_) | Value::Null | Value::Number(_) | Value::Text(_) => None,
    })
}

/// The yes or no that a value is; `None` where it is neither.
#[must_use]
pub fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(yes) => Some(*yes),
        Value::Number(number) => Some(!number.is_zero()),
        Value::Text(word) => match word.as_str() {
            "true" | "1" => Some(true),
            "false" | "0" | "" => Some(false),
            _ => None,
        },
        Value::List(_) | Value::Null | Value::Object(_) => None,
    }
}

/// Whether a value is there and says something: what makes an error member an error.
#[must_use]
pub fn is_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => !number.is_zero(),
        Value::Text(word) => !word.is_empty(),
        Value::List(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// The units that a value counts: below zero is none, and parts of a unit don't count. In quotes
/// there are digits, perhaps with a sign.
#[must_use]
pub fn count(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => Some(number.as_seconds().as_secs()),
        Value::Text(digits) => whole(digits.as_bytes()),
        Value::List(_) | Value::Bool(_) | Value::Null | Value::Object(_) => None,
    }
}

/// As [`count`], of a header's text: there more may follow behind `,` or `;`.
#[must_use]
pub fn count_text(value: &[u8]) -> Option<u64> {
    whole(value.split(|byte| matches!(byte, b',' | b';')).next()?)
}

fn whole(digits: &[u8]) -> Option<u64> {
    match digits.trim_ascii() {
        [b'-', digits @ ..] => text::parse_decimal(digits).map(|_| 0),
        digits => text::parse_decimal(digits),
    }
}

/// The length of time that a value says, from `now` on where it says a date; a date in the past is
/// no time at all.
#[must_use]
pub fn span(value: &Value, unit: Unit, now: Wall) -> Option<Duration> {
    match value {
        Value::Number(number) => {
            let longest = Duration::from_secs(LONGEST_NUMBER);
            span_in(number.as_seconds().min(longest), unit, now)
        }
        Value::Text(text) => span_text(text.as_bytes(), unit, now),
        Value::List(_) | Value::Bool(_) | Value::Null | Value::Object(_) => None,
    }
}

/// As [`span`], of a header's text or a value in quotes.
#[must_use]
pub fn span_text(value: &[u8], unit: Unit, now: Wall) -> Option<Duration> {
    let value = value.trim_ascii();
    if unit == Unit::Word {
        return word(value);
    }
    if let Some(date) = http_date(value) {
        return Some(date.since(now));
    }
    let (number, unit) = match value {
        [number @ .., b'm', b's'] => (number, Unit::Millis),
        [number @ .., b's'] => (number, Unit::Seconds),
        number => (number, unit),
    };
    match number {
        // A time that is over is over, whatever its unit.
        [b'-', number @ ..] => decimal(number).map(|_| Duration::ZERO),
        number => span_in(decimal(number)?, unit, now),
    }
}

/// `digits` or `digits.digits`, as if it were seconds; parts of a nanosecond are dropped.
fn decimal(number: &[u8]) -> Option<Duration> {
    let mut halves = number.splitn(2, |byte| *byte == b'.');
    let whole = text::parse_decimal(halves.next()?)?;
    let nanos = match halves.next() {
        None => 0,
        Some(fraction) => {
            text::parse_decimal(fraction)?;
            let padded = fraction.iter().chain(core::iter::repeat(&b'0')).take(9);
            text::parse_decimal(&padded.copied().collect::<Vec<u8>>())?
        }
    };
    let whole = Duration::from_secs(whole.min(LONGEST_NUMBER));
    whole.checked_add(Duration::from_nanos(nanos))
}

fn span_in(number: Duration, unit: Unit, now: Wall) -> Option<Duration> {
    let longest = Duration::from_secs(LONGEST_SECONDS);
    let seconds = match unit {
        Unit::EpochMillis | Unit::Millis => number.checked_div(1000)?,
        Unit::EpochSeconds | Unit::Seconds | Unit::SecondsOrEpoch => number,
        Unit::Word => return None,
    };
    let is_date = match unit {
        Unit::EpochMillis | Unit::EpochSeconds => true,
        Unit::Millis | Unit::Seconds | Unit::Word => false,
        Unit::SecondsOrEpoch => seconds.as_secs() >= EPOCH_FROM_SECONDS,
    };
    let span = if is_date {
        Wall(0).after(seconds).since(now)
    } else {
        seconds
    };
    Some(span.min(longest))
}

fn word(value: &[u8]) -> Option<Duration> {
    let seconds = match value {
        b"SECOND" => 1,
        b"MINUTE" => 60,
        b"HOUR" => 3_600,
        b"DAY" => 86_400,
        b"WEEK" => 604_800,
        // As envoyproxy/ratelimit counts them.
        b"MONTH" => 2_592_000,
        b"YEAR" => 31_536_000,
        _ => return None,
    };
    Some(Duration::from_secs(seconds))
}

/// RFC 9110's preferred date: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(value: &[u8]) -> Option<Wall> {
    let [_, _, _, b',', b' ', date @ .., b' ', b'G', b'M', b'T'] = value else {
        return None;
    };
    let [
        d1,
        d2,
        b' ',
        month @ ..,
        b' ',
        h1,
        h2,
        b':',
        m1,
        m2,
        b':',
        s1,
        s2,
    ] = date
    else {
        return None;
    };
    let [month @ .., b' ', y1, y2, y3, y4] = month else {
        return None;
    };
    let months: [&[u8]; 12] = [
        b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov",
        b"Dec",
    ];
    let month = months.iter().position(|name| *name == month)?;
    let month = u64::try_from(month).ok()?.checked_add(1)?;
    let day = text::parse_decimal(&[*d1, *d2])?;
    let year = text::parse_decimal(&[*y1, *y2, *y3, *y4])?;
    let hour = text::parse_decimal(&[*h1, *h2])?;
    let minute = text::parse_decimal(&[*m1, *m2])?;
    let second = text::parse_decimal(&[*s1, *s2])?;
    if !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = [hour.checked_mul(3_600)?, minute.checked_mul(60)?, second]
        .into_iter()
        .try_fold(
            days_since_1970(year, month, day)?.checked_mul(86_400)?,
            u64::checked_add,
        )?;
    Some(Wall::from_secs(seconds))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar; `None` before that day.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    // Years begin in March here, so that the leap day is the last of its year.
    let year = if month > 2 {
        year
    } else {
        year.checked_sub(1)?
    };
    let month = month
        .checked_add(if month > 2 { 0 } else { 12 })?
        .checked_sub(3)?;
    let day_of_year = month.checked_mul(153)?.checked_add(2)? / 5;
    let leap_days = (year / 4)
        .checked_sub(year / 100)?
        .checked_add(year / 400)?;
    year.checked_mul(365)?
        .checked_add(leap_days)?
        .checked_add(day_of_year)?
        .checked_add(day)?
        .checked_sub(DAYS_TO_1970)
}

/// Nothing that a backend says is believed to last longer than a hundred years.
const LONGEST_SECONDS: u64 = 3_155_760_000;
/// Where a number saturates: milliseconds since 1970 are far below, nanoseconds of `Wall` are not.
const LONGEST_NUMBER: u64 = 1 << 60;
/// Smaller numbers of seconds are lengths of time: this one is 31 years, or September 2001.
const EPOCH_FROM_SECONDS: u64 = 1_000_000_000;
/// What `days_since_1970` counts up to 1970-01-01 from the first of March of the year 0.
const DAYS_TO_1970: u64 = 719_469;

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! json {
        ($($text:tt)*) => {
            Value::from_json(serde_json::json!($($text)*).to_string().as_bytes()).unwrap()
        };
    }

    #[test]
    fn a_pointer_leads_through_members_and_elements() {
        let value = json!({"a": [{"b/c": 1}, {"": 2}], "0": 3});
        let found = |steps: &[&'static str]| {
            let steps: Vec<Text> = steps.iter().map(|step| Text::Borrowed(step)).collect();
            at(&value, &steps).and_then(count)
        };

        assert_eq!(found(&["a", "0", "b/c"]), Some(1));
        assert_eq!(found(&["a", "1", ""]), Some(2));
        assert_eq!(found(&["0"]), Some(3));
        assert_eq!(at(&value, &[]), Some(&value));
        for missing in [
            &["b"][..],
            &["a", "2"],
            &["a", "-1"],
            &["a", "0", "b/c", "d"],
        ] {
            assert_eq!(found(missing), None, "{missing:?}");
        }
    }

    #[test]
    fn a_count_is_a_number_in_or_out_of_quotes() {
        assert_eq!(count(&json!(7)), Some(7));
        assert_eq!(count(&json!("7")), Some(7));
        assert_eq!(count(&json!(7.9)), Some(7));
        assert_eq!(count(&json!(-3)), Some(0));
        assert_eq!(count(&json!("-3")), Some(0));
        assert_eq!(count(&json!(u64::MAX)), Some(u64::MAX));
        assert_eq!(count_text(b" 5, 5;w=60;name=\"x\""), Some(5));
        for value in [
            json!(null),
            json!("x"),
            json!(""),
            json!(true),
            json!([1]),
            json!({}),
        ] {
            assert_eq!(count(&value), None, "{value:?}");
        }
    }

    #[test]
    fn a_span_is_read_in_its_unit() {
        let now = Wall::from_secs(1_700_000_000);
        let cases = [
            (json!(1.5), Unit::Seconds, 1_500),
            (json!("55s"), Unit::Seconds, 55_000),
            (json!("1.5s"), Unit::Millis, 1_500),
            (json!("250ms"), Unit::Seconds, 250),
            (json!("19"), Unit::Seconds, 19_000),
            (json!(250), Unit::Millis, 250),
            (json!(1_700_000_007), Unit::EpochSeconds, 7_000),
            (json!("1700000007250"), Unit::EpochMillis, 7_250),
            (json!(1_600_000_000), Unit::EpochSeconds, 0),
            (json!(-1), Unit::Seconds, 0),
            (json!("-1s"), Unit::Seconds, 0),
            (json!(30), Unit::SecondsOrEpoch, 30_000),
            (json!(1_700_000_030), Unit::SecondsOrEpoch, 30_000),
            (json!("MINUTE"), Unit::Word, 60_000),
            (json!(1e300), Unit::Seconds, 3_155_760_000_000),
            (
                json!("99999999999999999999"),
                Unit::EpochSeconds,
                3_155_760_000_000,
            ),
        ];
        for (value, unit, millis) in cases {
            let span = span(&value, unit, now).map(|span| span.as_millis());
            assert_eq!(span, Some(millis), "{value:?} {unit:?}");
        }
    }

    #[test]
    fn what_is_no_span_is_nothing() {
        for value in [
            json!("soon"),
            json!(""),
            json!("s"),
            json!("1e3"),
            json!("1."),
            json!(true),
            json!(null),
        ] {
            assert_eq!(span(&value, Unit::Seconds, Wall(0)), None, "{value:?}");
            assert_eq!(span(&value, Unit::Word, Wall(0)), None, "{value:?}");
        }
    }

    #[test]
    fn a_date_is_so_long_from_now() {
        let now = Wall::from_secs(784_111_777);
        for (date, seconds) in [
            ("Sun, 06 Nov 1994 08:49:47 GMT", 10),
            ("Sun, 06 Nov 1994 08:49:27 GMT", 0),
            // A leap second.
            ("Sun, 06 Nov 1994 08:49:60 GMT", 23),
            ("Tue, 29 Feb 2000 00:00:00 GMT", 167_670_623),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ] {
            let span = span_text(date.as_bytes(), Unit::Seconds, now);
            assert_eq!(span, Some(Duration::from_secs(seconds)), "{date}");
        }
        for date in [
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1944 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(
                span_text(date.as_bytes(), Unit::Seconds, now),
                None,
                "{date}"
            );
        }
    }

    #[test]
    fn truth_is_yes_no_or_neither() {
        for value in [json!(true), json!(1), json!("true"), json!(0.5)] {
            assert_eq!(truth(&value), Some(true), "{value:?}");
        }
        for value in [json!(false), json!(0), json!("false"), json!("")] {
            assert_eq!(truth(&value), Some(false), "{value:?}");
        }
        for value in [json!(null), json!("maybe"), json!([]), json!({})] {
            assert_eq!(truth(&value), None, "{value:?}");
        }
    }

    #[test]
    fn an_empty_error_is_no_error() {
        for value in [
            json!(null),
            json!(""),
            json!(false),
            json!(0),
            json!([]),
            json!({}),
        ] {
            assert!(!is_something(&value), "{value:?}");
        }
        for value in [
            json!("x"),
            json!(true),
            json!(2),
            json!([0]),
            json!({"a": null}),
        ] {
            assert!(is_something(&value), "{value:?}");
        }
    }
}
