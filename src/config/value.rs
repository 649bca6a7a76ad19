//! A configuration's text as a tree that forgets nothing: order, duplicate keys, exact numbers.
//!
//! An operator who wrote a policy twice must hear of it, so both of two equal keys are kept.
//! Numbers are kept without floating point, so that bounds are exact.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use super::json::{self, JsonError};
use crate::text;

/// A value of a configuration, from JSON or from a protobuf `Struct`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// `[…]`.
    List(Vec<Self>),
    /// `null`.
    Null,
    /// A number.
    Number(Number),
    /// `{…}`, in the order of the text, equal keys included.
    Object(Vec<(String, Self)>),
    /// `"…"`.
    Text(String),
}

impl Value {
    /// Reads JSON text.
    ///
    /// # Errors
    /// What is not JSON, with line and column; nesting deeper than 127 levels.
    pub fn from_json(bytes: &[u8]) -> Result<Self, JsonError> {
        json::parse(bytes)
    }

    /// What kind of value it is, in words that fit behind "got".
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Null => "null",
            Self::Number(_) => "a number",
            Self::Object(_) => "an object",
            Self::Text(_) => "a text",
        }
    }

    /// The text, if it is one.
    #[must_use]
    pub const fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text.as_str()),
            Self::Bool(_) | Self::List(_) | Self::Null | Self::Number(_) | Self::Object(_) => None,
        }
    }

    /// The whole number from 0 on, if it is one.
    #[must_use]
    pub const fn as_count(&self) -> Option<u64> {
        match self {
            Self::Number(number) => number.as_count(),
            Self::Bool(_) | Self::List(_) | Self::Null | Self::Object(_) | Self::Text(_) => None,
        }
    }

    /// The fields; none if it is not an object.
    #[must_use]
    pub const fn fields(&self) -> &[(String, Self)] {
        match self {
            Self::Object(fields) => fields.as_slice(),
            Self::Bool(_) | Self::List(_) | Self::Null | Self::Number(_) | Self::Text(_) => &[],
        }
    }

    /// The items; none if it is not a list.
    #[must_use]
    pub const fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items.as_slice(),
            Self::Bool(_) | Self::Null | Self::Number(_) | Self::Object(_) | Self::Text(_) => &[],
        }
    }
}

/// A decimal number with nine digits behind the point; larger ones saturate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Number {
    negative: bool,
    whole: u64,
    nanos: u32,
}

impl Number {
    /// A whole number.
    #[must_use]
    pub const fn from_count(whole: u64) -> Self {
        Self {
            negative: false,
            whole,
            nanos: 0,
        }
    }

    /// A double, rounded to nine digits behind the point; `None` if it is not finite.
    #[must_use]
    pub fn from_f64(double: f64) -> Option<Self> {
        // By its bits, in whole numbers: sign, 11 bits of exponent, 52 of mantissa.
        let bits = double.to_bits();
        let exponent = u32::try_from(bits.checked_shr(52)? & 0x7ff).ok()?;
        let fraction = bits & 0x000f_ffff_ffff_ffff;
        let mantissa = match exponent {
            0x7ff => return None,
            0 => fraction,
            _ => fraction | 0x0010_0000_0000_0000,
        };
        // The value is `mantissa * 2^(exponent - 1075)`.
        let exponent = exponent.max(1);
        let (whole, nanos) = match exponent.checked_sub(1075) {
            Some(up) if up > mantissa.leading_zeros() => (u64::MAX, 0),
            Some(up) => (mantissa.checked_shl(up).unwrap_or(u64::MAX), 0),
            None => {
                let down = 1075_u32.saturating_sub(exponent);
                // A whole number needs no wider arithmetic.
                if down <= mantissa.trailing_zeros() {
                    let whole = mantissa.checked_shr(down).unwrap_or(0);
                    return Some(Self {
                        negative: double.is_sign_negative() && whole != 0,
                        whole,
                        nanos: 0,
                    });
                }
                let scaled = u128::from(mantissa).saturating_mul(NANOS);
                let half = 1_u128.checked_shl(down.saturating_sub(1)).unwrap_or(0);
                let rounded = scaled.saturating_add(half).checked_shr(down).unwrap_or(0);
                (
                    u64::try_from(rounded.checked_div(NANOS)?).unwrap_or(u64::MAX),
                    u32::try_from(rounded.checked_rem(NANOS)?).unwrap_or(0),
                )
            }
        };
        Some(Self {
            negative: double.is_sign_negative() && (whole, nanos) != (0, 0),
            whole,
            nanos,
        })
    }

    /// The digits before and behind a point, which stands `exponent` places further to the right.
    /// It is rounded half up.
    pub(super) fn from_decimal(
        negative: bool,
        whole_digits: &[u8],
        fraction: &[u8],
        exponent: i64,
    ) -> Self {
        let digits = || whole_digits.iter().chain(fraction);
        let count = i64::try_from(whole_digits.len()).unwrap_or(i64::MAX);
        let point = count.saturating_add(exponent).clamp(-POINT_MAX, POINT_MAX);
        let (mut whole, mut nanos, mut places, mut up) = (0_u64, 0_u32, 0_u32, false);
        // Zeros before the first digit, for a point that is further to the left.
        let zeros = usize::try_from(point.saturating_neg()).unwrap_or(0);
        let zeros = core::iter::repeat_n(&b'0', zeros.min(DIGITS_BEHIND.saturating_add(1)));
        let mut before = usize::try_from(point).unwrap_or(0);
        for digit in zeros.chain(digits()) {
            let digit = digit.saturating_sub(b'0');
            if before > 0 {
                before = before.saturating_sub(1);
                whole = whole.saturating_mul(10).saturating_add(u64::from(digit));
            } else if places < 9 {
                places = places.saturating_add(1);
                nanos = nanos.saturating_mul(10).saturating_add(u32::from(digit));
            } else {
                up = digit >= 5;
                break;
            }
        }
        // Zeros behind the last digit: after 20 of them the number is 0, or as large as can be.
        for _ in 0..before.min(20) {
            whole = whole.saturating_mul(10);
        }
        for _ in places..9 {
            nanos = nanos.saturating_mul(10);
        }
        nanos = nanos.saturating_add(u32::from(up));
        if nanos >= NANOS_PER_ONE {
            (whole, nanos) = (whole.saturating_add(1), 0);
        }
        Self {
            negative: negative && (whole, nanos) != (0, 0),
            whole,
            nanos,
        }
    }

    /// The whole number from 0 on, if it is one.
    #[must_use]
    pub const fn as_count(self) -> Option<u64> {
        if self.negative || self.nanos != 0 {
            None
        } else {
            Some(self.whole)
        }
    }

    /// The thousandths, rounded down; `None` below zero or above `u32::MAX`.
    #[must_use]
    pub fn as_permille(self) -> Option<u32> {
        if self.negative {
            return None;
        }
        let thousandths = u64::from(self.nanos.checked_div(1_000_000)?);
        u32::try_from(self.whole.checked_mul(1_000)?.checked_add(thousandths)?).ok()
    }

    /// The thousandths, those of what is below zero as well; digits behind them are cut off.
    #[must_use]
    pub fn as_thousandths(self) -> i64 {
        let behind = i64::from(self.nanos / NANOS_PER_THOUSANDTH);
        let whole = i64::try_from(self.whole).unwrap_or(i64::MAX);
        let size = whole.saturating_mul(1_000).saturating_add(behind);
        if self.negative {
            size.saturating_neg()
        } else {
            size
        }
    }

    /// Whether it has digits behind the thousandths.
    #[must_use]
    pub const fn is_finer_than_thousandths(self) -> bool {
        !self.nanos.is_multiple_of(NANOS_PER_THOUSANDTH)
    }

    /// Whether it is 0.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.whole == 0 && self.nanos == 0
    }

    /// So many seconds; none where it is below zero.
    #[must_use]
    pub const fn as_seconds(self) -> Duration {
        if self.negative {
            return Duration::ZERO;
        }
        Duration::from_secs(self.whole).saturating_add(Duration::new(0, self.nanos))
    }

    /// In decimal.
    #[must_use]
    pub fn text(self) -> String {
        let sign = if self.negative { "-" } else { "" };
        let whole = text::decimal(self.whole);
        if self.nanos == 0 {
            return [sign, &whole].concat();
        }
        let digits = text::decimal_of(self.nanos.into(), 9);
        text::fill("{}{}.{}", &[sign, &whole, digits.trim_end_matches('0')])
    }

    /// Whether it is 1 or less.
    #[must_use]
    pub const fn is_at_most_one(self) -> bool {
        self.negative || self.whole == 0 || (self.whole == 1 && self.nanos == 0)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

const NANOS: u128 = 1_000_000_000;
const NANOS_PER_ONE: u32 = 1_000_000_000;
const NANOS_PER_THOUSANDTH: u32 = 1_000_000;
/// No text has more digits than this.
const POINT_MAX: i64 = 1 << 30;
/// Digits that are kept behind the point.
const DIGITS_BEHIND: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_equal_keys() {
        let value = Value::from_json(br#"{"b": 1, "a": null, "b": [true]}"#).unwrap();

        assert_eq!(
            value,
            Value::Object(vec![
                ("b".to_owned(), Value::Number(Number::from_count(1))),
                ("a".to_owned(), Value::Null),
                ("b".to_owned(), Value::List(vec![Value::Bool(true)])),
            ])
        );
    }

    #[test]
    fn prints_numbers_as_they_were_written() {
        for text in ["0", "1", "-1", "0.5", "0.3", "-2.25", "0.000000001", "1024"] {
            let Ok(Value::Number(number)) = Value::from_json(text.as_bytes()) else {
                panic!("{text} is no number");
            };
            assert_eq!(number.to_string(), text);
        }
    }

    #[test]
    fn reads_doubles_exactly_where_they_are_whole() {
        assert_eq!(Number::from_f64(5.0), Some(Number::from_count(5)));
        assert_eq!(Number::from_f64(-0.0), Some(Number::from_count(0)));
        assert_eq!(
            Number::from_f64(9_007_199_254_740_992.0),
            Some(Number::from_count(9_007_199_254_740_992))
        );
        assert_eq!(
            Number::from_f64(9_223_372_036_854_775_808.0),
            Some(Number::from_count(9_223_372_036_854_775_808))
        );
    }

    #[test]
    fn saturates_and_vanishes_at_the_ends_of_doubles() {
        assert_eq!(
            Number::from_f64(f64::MAX),
            Some(Number::from_count(u64::MAX))
        );
        assert_eq!(
            Number::from_f64(f64::MIN_POSITIVE),
            Some(Number::from_count(0))
        );
        assert_eq!(Number::from_f64(5e-324), Some(Number::from_count(0)));
        assert_eq!(Number::from_f64(f64::NAN), None);
        assert_eq!(Number::from_f64(f64::INFINITY), None);
    }

    #[test]
    fn knows_thousandths() {
        assert_eq!(Number::from_f64(0.3).unwrap().as_permille(), Some(300));
        assert_eq!(Number::from_f64(1.0).unwrap().as_permille(), Some(1_000));
        assert_eq!(Number::from_f64(0.0005).unwrap().as_permille(), Some(0));
        assert_eq!(Number::from_f64(-0.5).unwrap().as_permille(), None);
    }

    #[test]
    fn refuses_nesting_that_would_exhaust_the_stack() {
        let deep = "[".repeat(100_000);

        let error = Value::from_json(deep.as_bytes()).unwrap_err();

        assert!(error.to_string().starts_with("recursion limit exceeded"));
    }
}
