//! A small decoder of `google.protobuf.Struct` and of `envoy.config.core.v3.Metadata`.
//!
//! Envoy hands both over as raw protobuf bytes. The decoder survives any bytes: what is cut short,
//! of an unknown wire type, not UTF-8, not a finite number or nested too deeply is an error, and
//! fields it does not know are skipped.

use alloc::string::String;
use alloc::vec::Vec;

use super::value::{Number, Value};
use crate::text;

/// Bytes that are not the message they should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Malformed;

/// Decodes a `google.protobuf.Struct` into an object.
///
/// # Errors
/// Bytes that are no such message.
pub fn decode_struct(bytes: &[u8]) -> Result<Value, Malformed> {
    struct_at(bytes, MAX_DEPTH)
}

/// Finds one name's `Struct` in an `envoy.config.core.v3.Metadata`; the others are not looked at.
/// If the name occurs more than once, the last one counts, as in any protobuf map.
///
/// # Errors
/// Bytes that are no such message.
pub fn filter_metadata(bytes: &[u8], name: &str) -> Result<Option<Value>, Malformed> {
    let mut found = None;
    let mut reader = Reader { rest: bytes };
    while let Some(field) = reader.field()? {
        let Field::Bytes(FILTER_METADATA, entry) = field else {
            continue;
        };
        let (key, value) = map_entry(entry)?;
        if key == name.as_bytes() {
            found = Some(value);
        }
    }
    found.map(decode_struct).transpose()
}

fn struct_at(bytes: &[u8], depth: u32) -> Result<Value, Malformed> {
    let mut fields = Vec::new();
    let mut reader = Reader { rest: bytes };
    while let Some(field) = reader.field()? {
        if let Field::Bytes(STRUCT_FIELDS, entry) = field {
            let (key, value) = map_entry(entry)?;
            fields.push((text(key)?, value_at(value, depth)?));
        }
    }
    Ok(Value::Object(fields))
}

fn list_at(bytes: &[u8], depth: u32) -> Result<Value, Malformed> {
    let mut items = Vec::new();
    let mut reader = Reader { rest: bytes };
    while let Some(field) = reader.field()? {
        if let Field::Bytes(LIST_VALUES, item) = field {
            items.push(value_at(item, depth)?);
        }
    }
    Ok(Value::List(items))
}

fn value_at(bytes: &[u8], depth: u32) -> Result<Value, Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed)?;
    let mut value = Value::Null;
    let mut reader = Reader { rest: bytes };
    while let Some(field) = reader.field()? {
        match field {
            Field::Varint(VALUE_NULL, _) => value = Value::Null,
            Field::Fixed64(VALUE_NUMBER, bits) => {
                let double = f64::from_bits(bits);
                value = Value::Number(Number::from_f64(double).ok_or(Malformed)?);
            }
            Field::Bytes(VALUE_STRING, bytes) => value = Value::Text(text(bytes)?),
            Field::Varint(VALUE_BOOL, number) => value = Value::Bool(number != 0),
            Field::Bytes(VALUE_STRUCT, bytes) => value = struct_at(bytes, depth)?,
            Field::Bytes(VALUE_LIST, bytes) => value = list_at(bytes, depth)?,
            Field::Bytes(..) | Field::Fixed32 | Field::Fixed64(..) | Field::Varint(..) => {}
        }
    }
    Ok(value)
}

/// The key and the value of a map's entry; either may be left out, and is empty then.
fn map_entry(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
    let mut reader = Reader { rest: bytes };
    while let Some(field) = reader.field()? {
        match field {
            Field::Bytes(ENTRY_KEY, bytes) => key = bytes,
            Field::Bytes(ENTRY_VALUE, bytes) => value = bytes,
            Field::Bytes(..) | Field::Fixed32 | Field::Fixed64(..) | Field::Varint(..) => {}
        }
    }
    Ok((key, value))
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    text::utf8(bytes).ok_or(Malformed)
}

/// A field of a message: its number and its value.
enum Field<'a> {
    Bytes(u64, &'a [u8]),
    Fixed32,
    Fixed64(u64, u64),
    Varint(u64, u64),
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The next field, or `None` at the end of the message.
    fn field(&mut self) -> Result<Option<Field<'a>>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = tag.checked_shr(3).unwrap_or(0);
        if number == 0 || number > MAX_FIELD_NUMBER {
            return Err(Malformed);
        }
        let field = match tag & 7 {
            0 => Field::Varint(number, self.varint()?),
            1 => {
                let bytes = self.take(8)?.try_into().map_err(|_| Malformed)?;
                Field::Fixed64(number, u64::from_le_bytes(bytes))
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Field::Bytes(number, self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Field::Fixed32
            }
            _ => return Err(Malformed),
        };
        Ok(Some(field))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(Malformed)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Levels of nesting; a configuration needs eight. Each costs a few stack frames.
const MAX_DEPTH: u32 = 64;
/// 2^29 - 1, by the protobuf encoding.
const MAX_FIELD_NUMBER: u64 = 536_870_911;

const ENTRY_KEY: u64 = 1;
const ENTRY_VALUE: u64 = 2;
const FILTER_METADATA: u64 = 1;
const LIST_VALUES: u64 = 1;
const STRUCT_FIELDS: u64 = 1;
const VALUE_NULL: u64 = 1;
const VALUE_NUMBER: u64 = 2;
const VALUE_STRING: u64 = 3;
const VALUE_BOOL: u64 = 4;
const VALUE_STRUCT: u64 = 5;
const VALUE_LIST: u64 = 6;

/// An encoder for tests: what Envoy would hand over.
#[cfg(test)]
pub(crate) mod encode {
    use super::*;

    /// `value` as a `google.protobuf.Struct`.
    pub(crate) fn encode_struct(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in value.fields() {
            let mut entry = Vec::new();
            bytes(&mut entry, ENTRY_KEY, name.as_bytes());
            bytes(&mut entry, ENTRY_VALUE, &encode_value(value));
            bytes(&mut out, STRUCT_FIELDS, &entry);
        }
        out
    }

    /// `value` as an `envoy.config.core.v3.Metadata` that holds it under `name`.
    pub(crate) fn encode_metadata(name: &str, value: &Value) -> Vec<u8> {
        let mut entry = Vec::new();
        bytes(&mut entry, ENTRY_KEY, name.as_bytes());
        bytes(&mut entry, ENTRY_VALUE, &encode_struct(value));
        let mut out = Vec::new();
        bytes(&mut out, FILTER_METADATA, &entry);
        out
    }

    fn encode_value(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        match value {
            Value::Bool(value) => out.extend([0x20, u8::from(*value)]),
            Value::List(items) => {
                let mut list = Vec::new();
                for item in items {
                    bytes(&mut list, LIST_VALUES, &encode_value(item));
                }
                bytes(&mut out, VALUE_LIST, &list);
            }
            Value::Null => out.extend([0x08, 0]),
            Value::Number(number) => {
                let double: f64 = number.to_string().parse().unwrap();
                out.push(0x11);
                out.extend(double.to_le_bytes());
            }
            Value::Object(_) => bytes(&mut out, VALUE_STRUCT, &encode_struct(value)),
            Value::Text(text) => bytes(&mut out, VALUE_STRING, text.as_bytes()),
        }
        out
    }

    pub(crate) fn bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
        varint(out, field << 3 | 2);
        varint(out, bytes.len() as u64);
        out.extend(bytes);
    }

    pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::encode::{bytes, encode_metadata, encode_struct, varint};
    use super::*;

    #[test]
    fn decodes_every_kind_of_value() {
        let value = sample();

        assert_eq!(decode_struct(&encode_struct(&value)), Ok(value));
    }

    #[test]
    fn decodes_what_envoy_was_seen_to_send() {
        let bytes = b"\x0a\x10\x0a\x03gen\x12\x09\x11\0\0\0\0\0\0\xf0\x3f";

        assert_eq!(
            decode_struct(bytes),
            Ok(Value::Object(vec![(
                "gen".to_owned(),
                Value::Number(Number::from_count(1))
            )]))
        );
    }

    #[test]
    fn refuses_a_message_cut_short_inside_a_field() {
        let encoded = encode_struct(&sample());

        for length in 1..encoded.len() {
            // The sample has one field on top, so that no cut falls between two.
            assert_eq!(decode_struct(&encoded[..length]), Err(Malformed));
        }
    }

    #[test]
    fn skips_fields_it_does_not_know() {
        let mut encoded = Vec::new();
        bytes(&mut encoded, 9, b"later");
        varint(&mut encoded, 7 << 3);
        varint(&mut encoded, u64::MAX);
        encoded.extend([6 << 3 | 5, 1, 2, 3, 4]);
        encoded.extend([5 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8]);
        encoded.extend(encode_struct(&sample()));

        assert_eq!(decode_struct(&encoded), Ok(sample()));
    }

    #[test]
    fn refuses_deep_nesting_groups_bad_text_and_numbers_without_end() {
        let mut deep = Value::Null;
        for _ in 0..100 {
            deep = Value::List(vec![deep]);
        }
        let deep = Value::Object(vec![("a".to_owned(), deep)]);

        assert_eq!(decode_struct(&encode_struct(&deep)), Err(Malformed));
        assert_eq!(decode_struct(&[1 << 3 | 3]), Err(Malformed));
        assert_eq!(decode_struct(b"\x0a\x03\x0a\x01\xff"), Err(Malformed));
        assert_eq!(decode_struct(&[0x80; 11]), Err(Malformed));
        let nan = b"\x0a\x0e\x0a\x01a\x12\x09\x11\0\0\0\0\0\0\xf8\x7f";
        assert_eq!(decode_struct(nan), Err(Malformed));
    }

    #[test]
    fn finds_one_filter_in_metadata_whatever_the_others_hold() {
        let mut encoded = Vec::new();
        let mut other = Vec::new();
        bytes(&mut other, ENTRY_KEY, b"other");
        bytes(&mut other, ENTRY_VALUE, b"\xff\xff not a struct");
        bytes(&mut encoded, FILTER_METADATA, &other);
        encoded.extend(encode_metadata("quota_gate", &sample()));
        bytes(&mut encoded, 2, b"typed_filter_metadata");

        assert_eq!(filter_metadata(&encoded, "quota_gate"), Ok(Some(sample())));
        assert_eq!(filter_metadata(&encoded, "quota"), Ok(None));
        assert_eq!(filter_metadata(b"", "quota_gate"), Ok(None));
    }

    fn sample() -> Value {
        let json = br#"{"all": {"a": [null, true, false, 0, -1.5, 3, "", "text"], "b": {}}}"#;
        Value::from_json(json).unwrap()
    }
}
