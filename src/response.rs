//! What the filter sees of a response when its stream is over: headers, trailers, properties.
//!
//! Like a request it is a trait, because every look costs a call to the host. [`PlainResponse`] is
//! the same from memory.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::request::Header;
use crate::text;

/// The end of one stream, as far as the host shows it.
pub trait Response {
    /// The response's header `name`, which is in lower case; `:status` included.
    fn header(&self, name: &str) -> Header<'_>;

    /// The response's trailer `name`, which is in lower case.
    fn trailer(&self, name: &str) -> Header<'_>;

    /// A property of the host by its path, whose elements have NUL between them, as raw bytes;
    /// `None` when it is absent, empty, or can't be read.
    fn property(&self, path: &str) -> Option<Vec<u8>>;

    /// The status that was sent to the client; `None` where none was.
    fn status(&self) -> Option<u16> {
        let status = self.header(":status").value()?;
        u16::try_from(text::parse_decimal(status)?).ok()
    }
}

/// The end of a stream that nothing came back for, or that nothing is known of.
#[derive(Clone, Copy, Debug)]
pub struct NoResponse;

impl Response for NoResponse {
    fn header(&self, _name: &str) -> Header<'_> {
        Header::Missing
    }

    fn trailer(&self, _name: &str) -> Header<'_> {
        Header::Missing
    }

    fn property(&self, _path: &str) -> Option<Vec<u8>> {
        None
    }
}

/// A response held in memory.
#[derive(Clone, Debug, Default)]
pub struct PlainResponse {
    headers: Vec<(String, Vec<u8>)>,
    trailers: Vec<(String, Vec<u8>)>,
    properties: BTreeMap<String, Vec<u8>>,
}

impl PlainResponse {
    /// A response with a status.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self::default().with_header(":status", status.to_string())
    }

    /// Adds a header; names are compared in lower case.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let field = (name.to_ascii_lowercase(), value.as_ref().to_vec());
        self.headers.push(field);
        self
    }

    /// Adds a trailer.
    #[must_use]
    pub fn with_trailer(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let field = (name.to_ascii_lowercase(), value.as_ref().to_vec());
        self.trailers.push(field);
        self
    }

    /// Sets a number in the dynamic metadata, as Envoy's filters do.
    #[must_use]
    pub fn with_number(self, path: &[&str], number: f64) -> Self {
        self.with_metadata(path, number.to_le_bytes())
    }

    /// Sets a value in the dynamic metadata: the namespace, then the keys.
    #[must_use]
    pub fn with_metadata(mut self, path: &[&str], value: impl AsRef<[u8]>) -> Self {
        let whole = ["metadata\0filter_metadata", &path.join("\0")].join("\0");
        self.properties.insert(whole, value.as_ref().to_vec());
        self
    }
}

impl Response for PlainResponse {
    fn header(&self, name: &str) -> Header<'_> {
        only(&self.headers, name)
    }

    fn trailer(&self, name: &str) -> Header<'_> {
        only(&self.trailers, name)
    }

    fn property(&self, path: &str) -> Option<Vec<u8>> {
        let value = self.properties.get(path)?;
        (!value.is_empty()).then(|| value.clone())
    }
}

fn only<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Header<'a> {
    let mut found = fields.iter().filter(|(own, _)| own == name);
    match (found.next(), found.next()) {
        (None, _) => Header::Missing,
        (Some((_, value)), None) => Header::One(value),
        (Some(_), Some(_)) => Header::Repeated,
    }
}
