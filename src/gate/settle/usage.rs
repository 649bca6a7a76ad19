//! What a response says that its request used.

use crate::config::settle::{Settle, UsagePlace};
use crate::config::value::{Number, Value};
use crate::response::Response;
use crate::text;

/// What is known of a request's use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Use {
    /// The response told so many units.
    Told(u64),
    /// A good response told nothing.
    Untold,
    /// There was no good response, and nothing was told.
    Failed,
}

/// Reads a response.
pub(super) fn measure(settle: &Settle, response: &dyn Response) -> Use {
    let mut sum = None;
    for part in &settle.usage {
        if let Some(thousandths) = part_of(&part.place, response) {
            // A few products of 50 and 20 bits; what can't wrap costs least when it may.
            let product = i128::from(thousandths).wrapping_mul(i128::from(part.times));
            sum = Some(product.wrapping_add(sum.unwrap_or(0)));
        }
    }
    if let Some(millionths) = sum {
        return Use::Told(units_up(millionths).min(settle.max));
    }
    match response.status() {
        Some(..FIRST_ERROR) => Use::Untold,
        Some(_) | None => Use::Failed,
    }
}

/// Whole units, rounded up; none below 0. Almost every sum fits 64 bits, where a division costs
/// a fraction.
fn units_up(millionths: i128) -> u64 {
    match u64::try_from(millionths) {
        Ok(sum) => sum.div_ceil(MILLION),
        Err(_) => {
            let units = u128::try_from(millionths).map_or(0, |sum| sum.div_ceil(MILLION.into()));
            u64::try_from(units).unwrap_or(u64::MAX)
        }
    }
}

/// A part in thousandths; `None` where it is not there or no number from 0 on.
fn part_of(place: &UsagePlace, response: &dyn Response) -> Option<i64> {
    let number = match place {
        UsagePlace::Header(name) => text_number(response.header(name).value()?)?,
        UsagePlace::Metadata(path) => metadata_number(&response.property(path)?)?,
        UsagePlace::Trailer(name) => text_number(response.trailer(name).value()?)?,
    };
    let thousandths = number.as_thousandths();
    (thousandths >= 0).then_some(thousandths.min(THOUSANDTHS_MAX))
}

fn text_number(text: &[u8]) -> Option<Number> {
    let text = text.trim_ascii();
    if let Some(whole) = text::parse_decimal(text) {
        return Some(Number::from_count(whole));
    }
    if text.len() > NUMBER_BYTES_MAX {
        return None;
    }
    match Value::from_json(text).ok()? {
        Value::Number(number) => Some(number),
        Value::Bool(_) | Value::List(_) | Value::Null | Value::Object(_) | Value::Text(_) => None,
    }
}

/// The host tells the value and not its type: a number is the eight bytes of a double, and a text
/// that holds one has digits and signs only, which as a double would be below 10^-30.
fn metadata_number(bytes: &[u8]) -> Option<Number> {
    match bytes.try_into() {
        Ok(double) if !bytes.iter().all(|byte| is_of_number(*byte)) => {
            Number::from_f64(f64::from_le_bytes(double))
        }
        Ok(_) | Err(_) => text_number(bytes),
    }
}

/// Whether a byte may stand in a number that is written out.
const fn is_of_number(byte: u8) -> bool {
    matches!(byte, b' ' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'E' | b'e')
}

/// Sums of products of up to this many thousandths stay within 128 bits.
const THOUSANDTHS_MAX: i64 = 1_000_000_000_000_000;

/// A part's thousandths times a factor's.
const MILLION: u64 = 1_000_000;

/// A longer text is no number that anybody counts with.
const NUMBER_BYTES_MAX: usize = 32;

/// The first status that says that the request failed.
const FIRST_ERROR: u16 = 400;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settle::{SettleMode, Usage};
    use crate::response::PlainResponse;
    use core::time::Duration;

    fn settle(usage: Vec<(UsagePlace, i64)>) -> Settle {
        let usage = usage.into_iter();
        Settle {
            usage: usage.map(|(place, times)| Usage { place, times }).collect(),
            mode: SettleMode::Report,
            default: None,
            max: 1_000,
            keeps_on_error: false,
            skips_unchecked: false,
            every: Duration::from_millis(100),
            timeout: Duration::from_secs(2),
            retry_for: Duration::from_secs(300),
            drops_unknown: false,
        }
    }

    fn header() -> UsagePlace {
        UsagePlace::Header("x-units".to_owned())
    }

    fn tokens(key: &str) -> UsagePlace {
        UsagePlace::Metadata(format!("metadata\0filter_metadata\0llm\0{key}"))
    }

    fn told(value: &str) -> Use {
        let response = PlainResponse::new(200).with_header("x-units", value);
        measure(&settle(vec![(header(), 1_000)]), &response)
    }

    #[test]
    fn reads_whole_numbers_and_fractions_and_rounds_the_sum_up() {
        for (text, units) in [("7", 7), (" 7 ", 7), ("007", 7), ("0", 0), ("2.001", 3)] {
            assert_eq!(told(text), Use::Told(units), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_from_0_on_is_not_told() {
        for text in [
            "", "-1", "x", "1 2", "1,000", "0x10", "\"7\"", "null", "NaN",
        ] {
            assert_eq!(told(text), Use::Untold, "{text}");
        }
    }

    #[test]
    fn more_than_the_bound_counts_as_the_bound() {
        for text in ["1001", "1e300", "99999999999999999999999", "1e18"] {
            assert_eq!(told(text), Use::Told(1_000), "{text}");
        }
    }

    #[test]
    fn adds_the_parts_each_with_its_factor() {
        let parts = vec![
            (tokens("in"), 1_000),
            (tokens("out"), 3_000),
            (tokens("cached"), -500),
        ];
        let response = PlainResponse::new(200)
            .with_number(&["llm", "in"], 100.0)
            .with_number(&["llm", "out"], 20.0)
            .with_number(&["llm", "cached"], 41.0);

        assert_eq!(measure(&settle(parts.clone()), &response), Use::Told(140));
        let only_cached = PlainResponse::new(200).with_number(&["llm", "cached"], 41.0);
        assert_eq!(measure(&settle(parts), &only_cached), Use::Told(0));
    }

    #[test]
    fn reads_metadata_as_the_double_or_the_text_that_it_is() {
        let parts = || settle(vec![(tokens("all"), 1_000)]);
        let of = |value: &[u8]| {
            let response = PlainResponse::new(200).with_metadata(&["llm", "all"], value);
            measure(&parts(), &response)
        };
        assert_eq!(of(&12.0_f64.to_le_bytes()), Use::Told(12));
        assert_eq!(of(b"00000012"), Use::Told(12));
        assert_eq!(of(b"1.5e+001"), Use::Told(15));
        // Eight bytes that could be read, and are no number all the same.
        assert_eq!(of(&2.0625_f64.to_le_bytes()), Use::Told(3));
        assert_eq!(of(b"ABCDEFG@"), Use::Told(47));
        assert_eq!(of(&0.0_f64.to_le_bytes()), Use::Told(0));
        for value in [f64::NAN, f64::INFINITY, -3.0] {
            assert_eq!(of(&value.to_le_bytes()), Use::Untold, "{value}");
        }
        assert_eq!(of(&[1]), Use::Untold);
        assert_eq!(of(&f64::MAX.to_le_bytes()), Use::Told(1_000));
    }

    #[test]
    fn a_header_there_twice_is_not_told() {
        let response = PlainResponse::new(200)
            .with_header("x-units", "1")
            .with_header("x-units", "2");
        let settle = settle(vec![(header(), 1_000)]);
        assert_eq!(measure(&settle, &response), Use::Untold);
    }

    #[test]
    fn without_a_good_answer_only_what_is_told_counts() {
        let settle = settle(vec![(header(), 1_000)]);
        let none = PlainResponse::default();
        assert_eq!(measure(&settle, &none), Use::Failed);
        assert_eq!(measure(&settle, &PlainResponse::new(400)), Use::Failed);
        let told = PlainResponse::new(500).with_header("x-units", "3");
        assert_eq!(measure(&settle, &told), Use::Told(3));
    }
}
