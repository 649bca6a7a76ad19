//! Requests and replies out of text; protobuf messages out of values.

use quota_gate::config::value::Value;
use quota_gate::request::PlainRequest;

/// A header's name, in lower case, and its value.
pub type Field<'a> = (String, &'a [u8]);

/// The lines before the first empty one, and all that comes after it.
#[must_use]
pub fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n");
    match end {
        Some(at) => (&bytes[..at], &bytes[at + 2..]),
        None => (bytes, b""),
    }
}

/// `name: value`, one a line; values are any bytes but a line feed.
#[must_use]
pub fn fields(lines: &[u8]) -> Vec<Field<'_>> {
    let lines = lines.split(|byte| *byte == b'\n');
    lines.filter_map(field).collect()
}

fn field(line: &[u8]) -> Option<Field<'_>> {
    // The colon of a pseudo-header is a part of its name.
    let colon = line.iter().skip(1).position(|byte| *byte == b':')? + 1;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let value = value.strip_prefix(b" ").unwrap_or(value);
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    Some((name, value))
}

/// A request out of fields; one whose name begins with `@` is a property: `@source/address`.
#[must_use]
pub fn request(fields: &[Field<'_>]) -> PlainRequest {
    fields
        .iter()
        .fold(
            PlainRequest::default(),
            |request, (name, value)| match name.strip_prefix('@') {
                Some(path) => {
                    let path: Vec<&str> = path.split('/').collect();
                    request.with_property(&path, value)
                }
                None => request.with_header(name, value),
            },
        )
}

/// A route's metadata that says these fields to the filter.
#[must_use]
pub fn metadata(fields: &[(String, Value)]) -> Vec<u8> {
    let own = structure(fields);
    prefixed(1, &[prefixed(1, b"quota_gate"), prefixed(2, &own)].concat())
}

/// A `google.protobuf.Struct`.
#[must_use]
pub fn structure(fields: &[(String, Value)]) -> Vec<u8> {
    let member = |(name, own): &(String, Value)| {
        let entry = [prefixed(1, name.as_bytes()), prefixed(2, &value(own))];
        prefixed(1, &entry.concat())
    };
    fields.iter().flat_map(member).collect()
}

/// A `google.protobuf.Value`.
fn value(own: &Value) -> Vec<u8> {
    match own {
        Value::Null => vec![1 << 3, 0],
        Value::Number(number) => {
            let double: f64 = number.to_string().parse().expect("a number");
            [&[2 << 3 | 1][..], &double.to_le_bytes()].concat()
        }
        Value::Text(text) => prefixed(3, text.as_bytes()),
        Value::Bool(own) => vec![4 << 3, u8::from(*own)],
        Value::Object(fields) => prefixed(5, &structure(fields)),
        Value::List(items) => {
            let items = items.iter().flat_map(|item| prefixed(1, &value(item)));
            prefixed(6, &items.collect::<Vec<u8>>())
        }
    }
}

/// A field of a message whose value has a length.
fn prefixed(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut rest = value.len();
    while rest > 0x7f {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes.extend_from_slice(value);
    bytes
}
