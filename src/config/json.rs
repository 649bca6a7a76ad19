//! JSON text to a tree of values, with nothing lost: order, equal keys, the exact decimal number.
//!
//! It reads RFC 8259 as it stands, no more and no less; the tests hold that against `serde_json`.
//! It is our own because the text of a number has to survive, and because a general reader makes
//! up a tenth of a module that each worker keeps in memory.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::value::{Number, Value};
use crate::text::{self, count, decimal};

/// What is not JSON, and where.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct JsonError {
    what: &'static str,
    line: usize,
    column: usize,
}

impl JsonError {
    /// What is wrong, and where.
    #[must_use]
    pub fn text(&self) -> String {
        let [line, column] = [self.line, self.column].map(|at| decimal(count(at)));
        text::fill("{} at line {} column {}", &[self.what, &line, &column])
    }

    /// The line of the fault, from 1.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line
    }

    /// The byte in that line, from 1; 0 where the text ends with the line before.
    #[must_use]
    pub const fn column(&self) -> usize {
        self.column
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// Reads a whole text.
///
/// # Errors
/// What is not JSON; nesting deeper than 127 levels.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let mut reader = Reader { bytes, at: 0 };
    let value = reader.value(DEPTH_MAX).and_then(|value| {
        reader.skip_space();
        match reader.peek() {
            None => Ok(value),
            Some(_) => Err("trailing characters"),
        }
    });
    value.map_err(|what| reader.error(what))
}

/// How far a text has been read. A fault is where the reader stands.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Fault = &'static str;

impl<'a> Reader<'a> {
    fn value(&mut self, depth: u32) -> Result<Value, Fault> {
        self.skip_space();
        match self.peek() {
            None => Err("EOF while parsing a value"),
            Some(b'{') => self.object(deeper(depth)?),
            Some(b'[') => self.list(deeper(depth)?),
            Some(b'"') => self.text().map(Value::Text),
            Some(b't') => self.word(b"true", Value::Bool(true)),
            Some(b'f') => self.word(b"false", Value::Bool(false)),
            Some(b'n') => self.word(b"null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(_) => Err("expected value"),
        }
    }

    fn object(&mut self, depth: u32) -> Result<Value, Fault> {
        let mut fields = Vec::new();
        self.step();
        while self.goes_on(b'}', fields.is_empty(), "EOF while parsing an object")? {
            if self.peek() != Some(b'"') {
                return Err("key must be a string");
            }
            let key = self.text()?;
            self.skip_space();
            match self.peek() {
                Some(b':') => self.step(),
                Some(_) => return Err("expected `:`"),
                None => return Err("EOF while parsing an object"),
            }
            fields.push((key, self.value(depth)?));
        }
        Ok(Value::Object(fields))
    }

    fn list(&mut self, depth: u32) -> Result<Value, Fault> {
        let mut items = Vec::new();
        self.step();
        while self.goes_on(b']', items.is_empty(), "EOF while parsing a list")? {
            items.push(self.value(depth)?);
        }
        Ok(Value::List(items))
    }

    /// Whether another member follows: past the comma, or past the end.
    fn goes_on(&mut self, end: u8, first: bool, eof: Fault) -> Result<bool, Fault> {
        self.skip_space();
        match self.peek() {
            None => return Err(eof),
            Some(byte) if byte == end => {
                self.step();
                return Ok(false);
            }
            Some(_) if first => return Ok(true),
            Some(b',') => self.step(),
            Some(_) if end == b'}' => return Err("expected `,` or `}`"),
            Some(_) => return Err("expected `,` or `]`"),
        }
        self.skip_space();
        match self.peek() {
            None => Err(eof),
            Some(byte) if byte == end => Err("trailing comma"),
            Some(_) => Ok(true),
        }
    }

    fn word(&mut self, word: &[u8], value: Value) -> Result<Value, Fault> {
        for expected in word {
            match self.peek() {
                Some(byte) if byte == *expected => self.step(),
                Some(_) => return Err("expected ident"),
                None => return Err("EOF while parsing a value"),
            }
        }
        Ok(value)
    }

    fn text(&mut self) -> Result<String, Fault> {
        const EOF: Fault = "EOF while parsing a string";
        let mut text = Vec::new();
        self.step();
        loop {
            let byte = self.peek().ok_or(EOF)?;
            match byte {
                b'"' => break,
                0..=0x1f => {
                    return Err("control character (\\u0000-\\u001F) found while parsing a string");
                }
                b'\\' => {
                    self.step();
                    let escape = self.peek().ok_or(EOF)?;
                    self.step();
                    self.escape(escape, &mut text)?;
                }
                _ => {
                    self.step();
                    text.push(byte);
                }
            }
        }
        // What an escape adds is always whole, so only the text's own bytes can be at fault.
        let text = text::utf8(&text).ok_or("invalid unicode code point")?;
        self.step();
        Ok(text)
    }

    fn escape(&mut self, escape: u8, text: &mut Vec<u8>) -> Result<(), Fault> {
        let byte = match escape {
            b'"' | b'\\' | b'/' => escape,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let character = self.code_point()?;
                text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err("invalid escape"),
        };
        text.push(byte);
        Ok(())
    }

    fn code_point(&mut self) -> Result<char, Fault> {
        const LONE: Fault = "lone leading surrogate in hex escape";
        let first = self.hex()?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first).ok_or(LONE);
        }
        for expected in b"\\u" {
            if self.peek() != Some(*expected) {
                return Err(LONE);
            }
            self.step();
        }
        let second = self.hex()?;
        if !(0xdc00..0xe000).contains(&second) {
            return Err(LONE);
        }
        let code = ((first & 0x3ff) << 10 | (second & 0x3ff)).saturating_add(0x1_0000);
        char::from_u32(code).ok_or(LONE)
    }

    fn hex(&mut self) -> Result<u32, Fault> {
        let mut code = 0_u32;
        for _ in 0..4 {
            let byte = self.peek().ok_or("EOF while parsing a string")?;
            let digit = char::from(byte).to_digit(16).ok_or("invalid escape")?;
            code = code << 4 | digit;
            self.step();
        }
        Ok(code)
    }

    #[inline(never)]
    fn number(&mut self) -> Result<Number, Fault> {
        let negative = self.peek() == Some(b'-');
        if negative {
            self.step();
        }
        let whole = self.digits()?;
        if whole.len() > 1 && whole.first() == Some(&b'0') {
            return Err("invalid number");
        }
        let mut fraction: &'a [u8] = &[];
        if self.peek() == Some(b'.') {
            self.step();
            fraction = self.digits()?;
        }
        let mut exponent = 0;
        if let Some(b'e' | b'E') = self.peek() {
            self.step();
            let below = self.peek() == Some(b'-');
            if below || self.peek() == Some(b'+') {
                self.step();
            }
            let size = self.digits()?.iter().fold(0_i64, |size, digit| {
                let more = size.saturating_mul(10).saturating_add(value_of(*digit));
                more.min(EXPONENT_MAX)
            });
            exponent = if below { size.saturating_neg() } else { size };
        }
        Ok(Number::from_decimal(negative, whole, fraction, exponent))
    }

    /// One digit at least.
    fn digits(&mut self) -> Result<&'a [u8], Fault> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.step();
        }
        let digits = self.bytes.get(start..self.at).unwrap_or_default();
        match (digits, self.peek()) {
            ([], None) => Err("EOF while parsing a value"),
            ([], Some(_)) => Err("invalid number"),
            _ => Ok(digits),
        }
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.step();
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    const fn step(&mut self) {
        self.at = self.at.saturating_add(1);
    }

    /// The place is that of the byte at fault, or of the last one where the text ends too early.
    fn error(&self, what: Fault) -> JsonError {
        let before = self.bytes.get(..self.at).unwrap_or(self.bytes);
        let newlines = before.iter().filter(|byte| **byte == b'\n').count();
        let line_start = before.iter().rposition(|byte| *byte == b'\n');
        let in_line = before
            .len()
            .saturating_sub(line_start.map_or(0, |at| at.saturating_add(1)));
        JsonError {
            what,
            line: newlines.saturating_add(1),
            column: in_line.saturating_add(usize::from(self.peek().is_some())),
        }
    }
}

fn deeper(depth: u32) -> Result<u32, Fault> {
    match depth.checked_sub(1) {
        None | Some(0) => Err("recursion limit exceeded"),
        Some(left) => Ok(left),
    }
}

fn value_of(digit: u8) -> i64 {
    i64::from(digit.saturating_sub(b'0'))
}

/// Deep enough for any configuration, and far from the end of the stack.
const DEPTH_MAX: u32 = 128;

/// Further than this no digit moves into sight.
const EXPONENT_MAX: i64 = 1 << 40;

#[cfg(test)]
mod tests {
    use super::*;

    /// What `serde_json` makes of a text, as a tree of ours.
    fn reference(value: &serde_json::Value) -> Value {
        match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(own) => Value::Bool(*own),
            serde_json::Value::Number(own) => Value::Number(match (own.as_u64(), own.as_f64()) {
                (Some(count), _) => Number::from_count(count),
                (None, Some(double)) => Number::from_f64(double).unwrap(),
                (None, None) => panic!("{own} is no number"),
            }),
            serde_json::Value::String(own) => Value::Text(own.clone()),
            serde_json::Value::Array(own) => Value::List(own.iter().map(reference).collect()),
            serde_json::Value::Object(own) => {
                let fields = own
                    .iter()
                    .map(|(key, value)| (key.clone(), reference(value)));
                Value::Object(fields.collect())
            }
        }
    }

    /// Equal keys and the order of keys are what `serde_json`'s tree forgets.
    fn sorted(value: Value) -> Value {
        match value {
            Value::Object(fields) => {
                let mut kept: Vec<(String, Value)> = Vec::new();
                for (key, value) in fields {
                    kept.retain(|(own, _)| *own != key);
                    kept.push((key, sorted(value)));
                }
                kept.sort_by(|one, other| one.0.cmp(&other.0));
                Value::Object(kept)
            }
            Value::List(items) => Value::List(items.into_iter().map(sorted).collect()),
            other => other,
        }
    }

    /// A double has fewer digits than a text may have: then only the accepting is compared.
    fn has_long_number(text: &[u8]) -> bool {
        let digits = |part: &[u8]| part.iter().filter(|byte| byte.is_ascii_digit()).count();
        text.split(|byte| !(byte.is_ascii_digit() || b"+-.eE".contains(byte)))
            .any(|word| digits(word) > 15 || word.contains(&b'e') || word.contains(&b'E'))
    }

    fn assert_agrees(text: &[u8]) {
        let shown = String::from_utf8_lossy(text);
        match (
            parse(text),
            serde_json::from_slice::<serde_json::Value>(text),
        ) {
            (Ok(ours), Ok(theirs)) => {
                if !has_long_number(text) {
                    assert_eq!(sorted(ours), sorted(reference(&theirs)), "{shown}");
                }
            }
            (Err(_), Err(_)) => {}
            // A number beyond every double saturates here.
            (Ok(_), Err(error)) if error.to_string().starts_with("number out of range") => {}
            (ours, theirs) => panic!("{ours:?} but {theirs:?}: {shown}"),
        }
    }

    /// What readers of JSON are known to differ on.
    const ODDITIES: &[&str] = &[
        "",
        " ",
        "null",
        "nul",
        "nulll",
        "true",
        "false",
        "tru",
        "\"\"",
        "\"a",
        "[]",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{a:1}",
        "{1:1}",
        "[[[]]]",
        "[1}",
        "{\"a\":1]",
        "0",
        "-0",
        "00",
        "01",
        "-",
        "-1",
        "1.",
        ".5",
        "1.5",
        "1e3",
        "1E+3",
        "1e-3",
        "1e",
        "1e+",
        "+1",
        "1.5.5",
        "0x1",
        "NaN",
        "Infinity",
        "1 2",
        "\"\\n\\t\\r\\b\\f\\/\\\\\\\"\"",
        "\"\\x\"",
        "\"\\u0041\"",
        "\"\\u00g1\"",
        "\"\\u12\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"\\ud83dx\"",
        "\"\\ud83d\\u0041\"",
        "\"\\ude00\"",
        "\"\u{1}\"",
        "\"é\u{1f600}\"",
        "\t\r\n [ 1 , 2 ]\n",
        "\u{feff}1",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775808",
        "1e400",
        "\"a\nb\"",
        "/**/1",
        "[1]//",
        "'a'",
        "{\"a\":1,\"a\":2}",
        "1e99999999999999999999",
    ];

    #[test]
    fn agrees_with_serde_json_on_what_is_json() {
        for text in ODDITIES {
            assert_agrees(text.as_bytes());
        }
        assert_agrees(b"\"\xff\"");
        assert_agrees(b"\xff");
        assert_agrees(b"\"\xed\xa0\x80\"");
        for depth in [126, 127, 128, 129] {
            let text = ["[".repeat(depth), "]".repeat(depth)].concat();
            assert_agrees(text.as_bytes());
        }
    }

    #[test]
    fn agrees_with_serde_json_on_damaged_configurations() {
        let example = include_bytes!("parse/example.json");
        let mut state = 7_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            usize::try_from(state >> 33).unwrap()
        };
        for _ in 0..4_000 {
            let mut text = example.to_vec();
            for _ in 0..=random() % 2 {
                let at = random() % text.len();
                let byte = b"\"\\{}[],:.-+0159eEtfnu \n\x01\xc3\xff"[random() % 26];
                match random() % 3 {
                    0 => text[at] = byte,
                    1 => text.insert(at, byte),
                    _ => drop(text.remove(at)),
                }
            }
            assert_agrees(&text);
        }
    }

    #[test]
    fn keeps_numbers_to_the_digit() {
        let number = |text: &str| match parse(text.as_bytes()) {
            Ok(Value::Number(number)) => number.to_string(),
            other => panic!("{text}: {other:?}"),
        };
        for (text, kept) in [
            ("9007199254740993", "9007199254740993"),
            ("0.1234567894", "0.123456789"),
            ("0.1234567895", "0.12345679"),
            ("0.9999999999", "1"),
            ("1.5e3", "1500"),
            ("1500e-3", "1.5"),
            ("0.00012e4", "1.2"),
            ("12e-1", "1.2"),
            ("1e-9", "0.000000001"),
            ("1e-10", "0"),
            ("5e-10", "0.000000001"),
            ("-0", "0"),
            ("-0.0000000001", "0"),
            ("1e30", "18446744073709551615"),
            ("0e99999999999", "0"),
            ("123456789e-99999999999", "0"),
        ] {
            assert_eq!(number(text), kept, "{text}");
        }
    }

    #[test]
    fn a_fault_is_told_where_it_is() {
        for (text, told) in [
            ("{\n  \"a\": 1,\n}", "trailing comma at line 3 column 1"),
            ("{\"a\" 1}", "expected `:` at line 1 column 6"),
            ("[1 2]", "expected `,` or `]` at line 1 column 4"),
            ("{\"a\":", "EOF while parsing a value at line 1 column 5"),
            ("[1] x", "trailing characters at line 1 column 5"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().to_string(), told);
            let theirs = serde_json::from_str::<serde_json::Value>(text).unwrap_err();
            assert_eq!(theirs.to_string(), told);
        }
    }
}
