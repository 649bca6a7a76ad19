//! RFC 3339 timestamps (`2027-01-31T22:00:00Z`, `…+01:00`), to the second and finer.

use crate::time::Wall;

/// The wall time of a timestamp; `None` if it is none, or lies outside 1970 to 2553.
///
/// A leap second (`:60`) counts as the second after it, as Unix time has it.
#[must_use]
pub fn parse(text: &str) -> Option<Wall> {
    let mut rest = text.as_bytes();
    let mut parts = [0; 6];
    let forms: [(usize, &[u8]); 6] = [
        (4, b"-"),
        (2, b"-"),
        (2, b"Tt"),
        (2, b":"),
        (2, b":"),
        (2, b""),
    ];
    for (part, (count, behind)) in parts.iter_mut().zip(forms) {
        *part = digits(&mut rest, count)?;
        if !behind.is_empty() {
            byte(&mut rest, behind)?;
        }
    }
    let [year, month, day, hour, minute, second] = parts;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let nanos = fraction(&mut rest)?;
    let offset = offset(&mut rest)?;
    if !rest.is_empty() {
        return None;
    }
    // Nothing wraps: a year has four digits. Checked arithmetic on 64 bits is large in wasm.
    let seconds = days_since_1970(year, month, day)?
        .wrapping_mul(86_400)
        .wrapping_add(hour.wrapping_mul(3_600))
        .wrapping_add(minute.wrapping_mul(60))
        .wrapping_add(second)
        .wrapping_sub(offset);
    let seconds = u64::try_from(seconds).ok()?;
    let nanos = u64::try_from(nanos).ok()?;
    Some(Wall(
        seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?,
    ))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, which must exist.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = divides(4, year) && (!divides(100, year) || divides(400, year));
    let mut days = day.wrapping_sub(1);
    for (number, length) in (1..).zip(MONTHS) {
        let length = if number == 2 && leap { 29 } else { length };
        if number == month {
            let exists = (1..=length).contains(&day);
            let before = year.wrapping_sub(1);
            let leap_days = (before / 4)
                .wrapping_sub(before / 100)
                .wrapping_add(before / 400)
                .wrapping_sub(LEAP_DAYS_BEFORE_1970);
            let years = year.wrapping_sub(1970).wrapping_mul(365);
            return exists.then_some(years.wrapping_add(leap_days).wrapping_add(days));
        }
        days = days.wrapping_add(length);
    }
    None
}

const fn divides(divisor: i64, number: i64) -> bool {
    matches!(number.checked_rem(divisor), Some(0))
}

/// The nanoseconds of `.123…`, or zero; digits behind the ninth are dropped.
fn fraction(rest: &mut &[u8]) -> Option<i64> {
    if byte(rest, b".").is_none() {
        return Some(0);
    }
    let mut nanos = 0_i64;
    let mut worth = 100_000_000_i64;
    let mut any = false;
    while let Some(digit) = digits(rest, 1) {
        nanos = nanos.wrapping_add(digit.wrapping_mul(worth));
        worth /= 10;
        any = true;
    }
    any.then_some(nanos)
}

/// The seconds that the local time is ahead of UTC.
fn offset(rest: &mut &[u8]) -> Option<i64> {
    if byte(rest, b"Zz").is_some() {
        return Some(0);
    }
    let sign = byte(rest, b"+-")?;
    let hours = digits(rest, 2)?;
    byte(rest, b":")?;
    let minutes = digits(rest, 2)?;
    if hours > 23 || minutes > 59 {
        return None;
    }
    let seconds = hours
        .wrapping_mul(3_600)
        .wrapping_add(minutes.wrapping_mul(60));
    Some(if sign == b'-' {
        seconds.wrapping_neg()
    } else {
        seconds
    })
}

/// Takes exactly `count` digits.
fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (taken, after) = rest.split_at_checked(count)?;
    let mut number = 0_i64;
    for byte in taken {
        if !byte.is_ascii_digit() {
            return None;
        }
        number = number
            .wrapping_mul(10)
            .wrapping_add(i64::from(byte.wrapping_sub(b'0')));
    }
    *rest = after;
    Some(number)
}

/// Takes one byte, if it is one of `any_of`.
fn byte(rest: &mut &[u8], any_of: &[u8]) -> Option<u8> {
    let (&first, after) = rest.split_first()?;
    if !any_of.contains(&first) {
        return None;
    }
    *rest = after;
    Some(first)
}

const MONTHS: [i64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
/// 1969/4 - 1969/100 + 1969/400, each rounded down.
const LEAP_DAYS_BEFORE_1970: i64 = 477;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_utc_offsets_and_fractions() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2001-09-09T01:46:40Z", 1_000_000_000),
            ("2027-01-31T22:00:00Z", 1_801_432_800),
            ("2027-01-31t22:00:00z", 1_801_432_800),
            ("2027-02-01T00:30:00+02:30", 1_801_432_800),
            ("2027-01-31T14:00:00-08:00", 1_801_432_800),
            ("2016-12-31T23:59:60Z", 1_483_228_800),
        ] {
            assert_eq!(parse(text), Some(Wall::from_secs(seconds)), "{text}");
        }
        assert_eq!(
            parse("1970-01-01T00:00:01.25Z"),
            Some(Wall::from_millis(1_250))
        );
        assert_eq!(
            parse("1970-01-01T00:00:00.1234567899Z"),
            Some(Wall(123_456_789))
        );
    }

    #[test]
    fn knows_leap_years() {
        for (text, seconds) in [
            ("2024-02-29T00:00:00Z", 1_709_164_800),
            ("2024-03-01T00:00:00Z", 1_709_251_200),
            ("2000-02-29T00:00:00Z", 951_782_400),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(parse(text), Some(Wall::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("2023-02-29T00:00:00Z"), None);
        assert_eq!(parse("2100-02-29T00:00:00Z"), None);
    }

    #[test]
    fn refuses_what_is_no_timestamp() {
        for text in [
            "",
            "tomorrow",
            "2027-01-31",
            "2027-01-31T22:00:00",
            "2027-01-31 22:00:00Z",
            "2027-13-01T00:00:00Z",
            "2027-00-01T00:00:00Z",
            "2027-04-31T00:00:00Z",
            "2027-01-00T00:00:00Z",
            "2027-01-31T24:00:00Z",
            "2027-01-31T22:60:00Z",
            "2027-01-31T22:00:61Z",
            "2027-01-31T22:00:00.Z",
            "2027-01-31T22:00:00+0100",
            "2027-01-31T22:00:00+24:00",
            "2027-01-31T22:00:00Zulu",
            "1969-12-31T23:59:59Z",
            "9999-12-31T23:59:59Z",
            "+027-01-31T22:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
