//! What the host tells about a stream when the module asks for a property.

use std::collections::BTreeMap;

use crate::status::Status;
use crate::stream::Stream;

/// Properties that a test gives a request, by path with NUL between the elements.
#[derive(Clone, Debug, Default)]
pub(crate) struct Properties(BTreeMap<Vec<u8>, Result<Vec<u8>, Status>>);

impl Properties {
    pub(crate) fn set(&mut self, path: &[&str], value: Result<Vec<u8>, Status>) {
        self.0.insert(path.join("\0").into_bytes(), value);
    }
}

/// The value of a property of a stream.
///
/// Empty texts are handed over as such; a header that occurs twice is joined with commas; once
/// the headers are let go, they can't be read any more.
pub(crate) fn of_stream(stream: &Stream, path: &[u8]) -> Result<Vec<u8>, Status> {
    if let Some(given) = stream.properties.0.get(path) {
        return given.clone();
    }
    let elements: Vec<&[u8]> = path.split(|byte| *byte == 0).collect();
    match elements.as_slice() {
        [b"request", b"headers", name] => {
            let name = std::str::from_utf8(name).map_err(|_| Status::NotFound)?;
            if stream.headers_visible {
                stream.request.joined(name)
            } else {
                None
            }
            .ok_or(Status::NotFound)
        }
        [b"request", part] if stream.headers_visible => of_request(stream, part),
        [b"xds", b"route_name" | b"route_metadata"] => Ok(Vec::new()),
        [name] => stream
            .filter_state
            .get(&*String::from_utf8_lossy(name))
            .cloned()
            .map_or_else(|| of_plugin(path), Ok),
        _ => of_plugin(path),
    }
}

/// The value of a property that does not depend on a stream.
pub(crate) fn of_plugin(path: &[u8]) -> Result<Vec<u8>, Status> {
    match path {
        b"plugin_name" => Ok(b"quota_gate".to_vec()),
        b"plugin_root_id" | b"plugin_vm_id" => Ok(Vec::new()),
        _ => Err(Status::NotFound),
    }
}

fn of_request(stream: &Stream, part: &[u8]) -> Result<Vec<u8>, Status> {
    let header = |name| stream.request.first(name).map(<[u8]>::to_vec);
    let path = header(":path");
    let (before, query) = match &path {
        Some(path) => match path.iter().position(|byte| *byte == b'?') {
            Some(at) => (Some(path[..at].to_vec()), Some(path[at + 1..].to_vec())),
            None => (Some(path.clone()), Some(Vec::new())),
        },
        None => (None, None),
    };
    match part {
        b"path" => path,
        b"url_path" => before,
        b"query" => query,
        b"host" => header(":authority"),
        b"method" => header(":method"),
        b"scheme" => header(":scheme"),
        b"id" => header("x-request-id"),
        b"useragent" => header("user-agent"),
        b"referer" => header("referer"),
        _ => None,
    }
    .ok_or(Status::NotFound)
}

/// `envoy.config.core.v3.Metadata` with one name space of texts, serialized.
pub(crate) fn metadata(namespace: &str, values: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = Vec::new();
    for (key, text) in values {
        // Struct.fields is a map from a name to a Value, whose field 3 is a text.
        let value = field(3, text.as_bytes());
        let entry = [field(1, key.as_bytes()), field(2, &value)].concat();
        fields.extend(field(1, &entry));
    }
    let entry = [field(1, namespace.as_bytes()), field(2, &fields)].concat();
    field(1, &entry)
}

/// A length-delimited protobuf field.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut left = bytes.len();
    while left >= 0x80 {
        out.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
    out.extend(bytes);
    out
}
