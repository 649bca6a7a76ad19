//! What the filter sees of a request: headers and the host's properties, asked for one by one.
//!
//! A request is a trait because every look costs a call to the host: the gate asks only for what
//! the configuration needs. `PlainRequest` is the same from memory, for tests, simulation and
//! `explain`.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// A header as the filter sees it, where it lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Header<'a> {
    /// Not there.
    Missing,
    /// There once, with this value (which may be empty, and may be any bytes).
    One(&'a [u8]),
    /// There more than once: nobody can say which one counts.
    Repeated,
}

impl<'a> Header<'a> {
    /// The value that counts: there once and not empty.
    #[must_use]
    pub const fn value(self) -> Option<&'a [u8]> {
        match self {
            Self::One(value) if !value.is_empty() => Some(value),
            Self::One(_) | Self::Missing | Self::Repeated => None,
        }
    }
}

/// One request, as far as the host shows it.
pub trait Request {
    /// The header `name`, which is in lower case; pseudo-headers (`:path`) included.
    fn header(&self, name: &str) -> Header<'_>;

    /// A property of the host by its path (`["source", "address"]`), as raw bytes; `None` when it
    /// is absent, empty, or can't be read.
    fn property(&self, path: &[&str]) -> Option<Vec<u8>>;

    /// The matched route's metadata: a serialized `envoy.config.core.v3.Metadata`.
    fn route_metadata(&self) -> Option<Vec<u8>> {
        self.property(&["xds", "route_metadata"])
    }

    /// The matched route's name.
    fn route_name(&self) -> Option<Vec<u8>> {
        self.property(&["xds", "route_name"])
    }

    /// Whether the header is there once, with just this value, which is not empty.
    fn says(&self, name: &str, value: &str) -> bool {
        self.value(name) == Some(value.as_bytes())
    }

    /// The header's value where it is there once and not empty.
    fn value(&self, name: &str) -> Option<&[u8]> {
        self.header(name).value()
    }
}

/// A request held in memory.
#[derive(Clone, Debug, Default)]
pub struct PlainRequest {
    headers: Vec<(String, Vec<u8>)>,
    properties: BTreeMap<Vec<String>, Vec<u8>>,
}

impl PlainRequest {
    /// A request with its three usual pseudo-headers.
    #[must_use]
    pub fn new(method: &str, authority: &str, path: &str) -> Self {
        Self::default()
            .with_header(":method", method)
            .with_header(":authority", authority)
            .with_header(":path", path)
    }

    /// Adds a header; names are compared in lower case.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
        self
    }

    /// Sets a property.
    #[must_use]
    pub fn with_property(mut self, path: &[&str], value: impl AsRef<[u8]>) -> Self {
        let path = path.iter().map(|element| (*element).to_owned()).collect();
        self.properties.insert(path, value.as_ref().to_vec());
        self
    }
}

impl Request for PlainRequest {
    fn header(&self, name: &str) -> Header<'_> {
        let mut found = self
            .headers
            .iter()
            .filter(|(own, _)| own == name)
            .map(|(_, value)| value);
        match (found.next(), found.next()) {
            (None, _) => Header::Missing,
            (Some(value), None) => Header::One(value),
            (Some(_), Some(_)) => Header::Repeated,
        }
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        let path: Vec<String> = path.iter().map(|element| (*element).to_owned()).collect();
        self.properties
            .get(&path)
            .filter(|value| !value.is_empty())
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_occurs_twice_has_no_value() {
        let request = PlainRequest::new("GET", "a", "/")
            .with_header("K", "1")
            .with_header("k", "2");

        assert_eq!(request.header("k"), Header::Repeated);
        assert_eq!(request.value("k"), None);
        assert!(!request.says("k", "1"));
        assert!(request.says(":method", "GET"));
    }

    #[test]
    fn an_empty_header_has_no_value() {
        let request = PlainRequest::new("GET", "a", "/").with_header("k", "");

        assert_eq!(request.header("k"), Header::One(b""));
        assert_eq!(request.value("k"), None);
    }
}
