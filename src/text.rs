//! Bytes made safe to send, and the few number formats that are read and written by hand.
//!
//! Everything that came from outside and goes out again passes through here: percent-encoded where
//! the receiver decodes it, sanitised where somebody only reads it. Nothing here can fail, and
//! `core::fmt`, which would be a fiftieth of the module, is no part of it.

use alloc::string::String;
use alloc::vec::Vec;

/// `value` as something that may be echoed in a header, a log or a message: printable ASCII.
///
/// Surrounding white space goes, every other byte outside `0x20..=0x7e` (CR, LF and NUL included)
/// becomes `_`, and what is longer than `max` bytes is cut off.
#[must_use]
pub fn sanitise(value: &[u8], max: usize) -> Vec<u8> {
    value
        .trim_ascii()
        .iter()
        .take(max)
        .map(|byte| if is_printable(*byte) { *byte } else { b'_' })
        .collect()
}

/// Appends `value` with every byte outside RFC 3986's unreserved set as `%XX`.
pub fn push_percent(out: &mut Vec<u8>, value: &[u8]) {
    if value.iter().all(|byte| is_unreserved(*byte)) {
        return out.extend_from_slice(value);
    }
    for byte in value {
        if is_unreserved(*byte) {
            out.push(*byte);
        } else {
            push_escape(out, *byte);
        }
    }
}

/// Appends `value` as the inside of a JSON string, such that no two values look alike.
///
/// Valid UTF-8 stays readable. `%`, control characters and bytes that are not UTF-8 become `%XX`,
/// so a receiver that cares gets the bytes back by percent-decoding, and one that does not care
/// still never counts two values as one.
pub fn push_json_text(out: &mut Vec<u8>, value: &[u8]) {
    for chunk in value.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            match byte {
                b'"' | b'\\' => out.extend([b'\\', byte]),
                b'%' | 0..=0x1f | 0x7f => push_escape(out, byte),
                _ => out.push(byte),
            }
        }
        for byte in chunk.invalid() {
            push_escape(out, *byte);
        }
    }
}

/// Appends `value`, which is printable ASCII, as the inside of a JSON string.
pub fn push_json_ascii(out: &mut Vec<u8>, value: &[u8]) {
    for byte in value {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
}

/// Appends `number` in decimal.
pub fn push_decimal(out: &mut Vec<u8>, number: u64) {
    let start = out.len();
    let mut rest = number;
    loop {
        let [digit, ..] = (rest % 10).to_le_bytes();
        out.push(b'0'.wrapping_add(digit));
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if let Some(digits) = out.get_mut(start..) {
        digits.reverse();
    }
}

/// Bytes as text; `None` where they are no UTF-8.
#[must_use]
pub fn utf8(bytes: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        if !chunk.invalid().is_empty() {
            return None;
        }
        text.push_str(chunk.valid());
    }
    Some(text)
}

/// `template` with the values in place of each `{}`, in order.
#[must_use]
pub fn fill(template: &str, values: &[&str]) -> String {
    let mut text = String::with_capacity(96);
    let mut values = values.iter();
    for (number, piece) in template.split('{').enumerate() {
        let behind = piece.strip_prefix('}').filter(|_| number > 0);
        match (number, behind) {
            (0, _) => {}
            (_, Some(_)) => text.push_str(values.next().unwrap_or(&"")),
            (_, None) => text.push('{'),
        }
        text.push_str(behind.unwrap_or(piece));
    }
    text
}

/// `number` in decimal.
#[must_use]
pub fn decimal(number: u64) -> String {
    decimal_of(number, 1)
}

/// `number` in decimal, with zeros in front of it up to so many digits.
#[must_use]
pub fn decimal_of(number: u64, digits: usize) -> String {
    in_base(number, 10, digits)
}

/// `number` in hexadecimal, with zeros in front of it up to so many digits.
#[must_use]
pub fn hex_of(number: u64, digits: usize) -> String {
    in_base(number, 16, digits)
}

fn in_base(number: u64, base: u64, digits: usize) -> String {
    let mut text = Vec::with_capacity(20);
    let mut rest = number;
    while rest != 0 || text.len() < digits {
        let [digit, ..] = rest.checked_rem(base).unwrap_or(0).to_le_bytes();
        text.push(hex(digit).to_ascii_lowercase());
        rest = rest.checked_div(base).unwrap_or(0);
    }
    text.reverse();
    utf8(&text).unwrap_or_default()
}

/// A count of things in memory, as the numbers here are.
#[must_use]
pub fn count(things: usize) -> u64 {
    u64::try_from(things).unwrap_or(u64::MAX)
}

/// A number of decimal digits and nothing else; more than fits counts as `u64::MAX`.
#[must_use]
pub fn parse_decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| byte.wrapping_sub(b'0'))?;
        Some(number.saturating_mul(10).saturating_add(u64::from(digit)))
    })
}

/// Undoes percent-encoding as forms do it: `+` is a space, and what is no `%XX` stays as it is.
#[must_use]
pub fn decode_form(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, after @ ..]) => match (nibble(*high), nibble(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high.wrapping_shl(4) | low);
                    rest = after;
                }
                (None, _) | (_, None) => out.push(b'%'),
            },
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(*byte),
        }
    }
    out
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(digit.wrapping_sub(b'a').wrapping_add(10)),
        b'A'..=b'F' => Some(digit.wrapping_sub(b'A').wrapping_add(10)),
        _ => None,
    }
}

const fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x20..=0x7e)
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn push_escape(out: &mut Vec<u8>, byte: u8) {
    out.extend([b'%', hex(byte >> 4), hex(byte & 0x0f)]);
}

const fn hex(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0'.wrapping_add(nibble),
        _ => b'A'.wrapping_sub(10).wrapping_add(nibble),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_in_values_in_their_order() {
        assert_eq!(fill("{} of {}", &["1", "{}"]), "1 of {}");
        assert_eq!(fill("{\"a\":{}}", &["1"]), "{\"a\":1}");
        assert_eq!(fill("}{{}", &["1"]), "}{1");
        assert_eq!(fill("{}{}.", &["1"]), "1.");
        assert_eq!(fill("", &["1"]), "");
    }

    #[test]
    fn writes_numbers_in_decimal_and_hexadecimal() {
        assert_eq!(decimal(0), "0");
        assert_eq!(decimal(u64::MAX), "18446744073709551615");
        assert_eq!(decimal_of(7, 3), "007");
        assert_eq!(decimal_of(1_234, 3), "1234");
        assert_eq!(hex_of(0xab_cdef, 8), "00abcdef");
        assert_eq!(hex_of(0, 1), "0");
    }

    #[test]
    fn an_echoed_value_can_not_start_a_new_header() {
        assert_eq!(sanitise(b" b\r\nx-inj: 1\0 ", 128), b"b__x-inj: 1_");
        assert_eq!(sanitise(b"caf\xc3\xa9", 128), b"caf__");
        assert_eq!(sanitise(b"\r\n \t", 128), b"");
    }

    #[test]
    fn an_echoed_value_has_a_longest_length() {
        assert_eq!(sanitise(b"abcdef", 4), b"abcd");
    }

    #[test]
    fn percent_encoding_leaves_only_unreserved_bytes() {
        let mut out = Vec::new();
        push_percent(&mut out, b"aZ09-._~ &=+%\xff\x00");

        assert_eq!(out, b"aZ09-._~%20%26%3D%2B%25%FF%00");
    }

    #[test]
    fn every_byte_survives_percent_encoding_and_back() {
        let all: Vec<u8> = (0..=255).collect();
        let mut out = Vec::new();
        push_percent(&mut out, &all);

        assert_eq!(decode_form(&out), all);
    }

    #[test]
    fn json_text_is_readable_where_it_can_be() {
        assert_eq!(
            json_text("grüße \"x\" \\".as_bytes()),
            "grüße \\\"x\\\" \\\\"
        );
        assert_eq!(json_text(b"100%\n\x7f\xff"), "100%25%0A%7F%FF");
    }

    #[test]
    fn json_text_of_different_values_differs() {
        assert_eq!(json_text(b"%FF"), "%25FF");
        assert_eq!(json_text(b"\xff"), "%FF");
    }

    #[test]
    fn json_text_is_always_a_json_string() {
        for first in 0..=255_u8 {
            for second in [0, b'"', b'\\', b'%', 0x80, 0xc3, 0xff] {
                let text = format!("\"{}\"", json_text(&[first, second]));
                assert!(serde_json::from_str::<String>(&text).is_ok(), "{text}");
            }
        }
    }

    #[test]
    fn writes_numbers_in_decimal() {
        assert_eq!(decimal(0), "0");
        assert_eq!(decimal(1_050), "1050");
        assert_eq!(decimal(u64::MAX), "18446744073709551615");
    }

    #[test]
    fn reads_digits_and_nothing_else() {
        assert_eq!(parse_decimal(b"007"), Some(7));
        assert_eq!(parse_decimal(b"99999999999999999999"), Some(u64::MAX));
        for text in [
            &b""[..],
            b"+1",
            b"-1",
            b" 1",
            b"1 ",
            b"1.0",
            b"0x1",
            b"\xb2",
        ] {
            assert_eq!(parse_decimal(text), None, "{text:?}");
        }
    }

    #[test]
    fn form_decoding_keeps_what_is_no_escape() {
        assert_eq!(decode_form(b"a+b%20c%zz%4"), b"a b c%zz%4");
        assert_eq!(decode_form(b"%"), b"%");
    }

    fn json_text(value: &[u8]) -> String {
        let mut out = Vec::new();
        push_json_text(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    fn decimal(number: u64) -> String {
        let mut out = Vec::new();
        push_decimal(&mut out, number);
        String::from_utf8(out).unwrap()
    }
}
