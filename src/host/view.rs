//! The gate's view of the host: the request of the effective stream, and the shared data.

use super::abi::{self, Map};
use crate::request::{Header, Request};
use crate::shared::{Shared, Version};

/// The request of the stream that is in effect.
pub(super) struct HostRequest;

impl Request for HostRequest {
    /// The host gives only the first value of a header. The property of the same name joins all
    /// values with commas: where it holds no comma, one look is enough; where it does, it is
    /// compared with the first value.
    fn header(&self, name: &str) -> Header {
        if name.starts_with(':') {
            return abi::header(Map::Request, name).map_or(Header::Missing, Header::One);
        }
        let mut path = Vec::with_capacity(REQUEST_HEADERS.len().saturating_add(name.len()));
        path.extend_from_slice(REQUEST_HEADERS);
        path.extend_from_slice(name.as_bytes());
        match abi::property(&path) {
            Some(joined) if !joined.is_empty() && !joined.contains(&b',') => Header::One(joined),
            joined => match abi::header(Map::Request, name) {
                None => Header::Missing,
                Some(first) => match joined {
                    Some(joined) if joined.len() > first.len() => Header::Repeated,
                    Some(_) | None => Header::One(first),
                },
            },
        }
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        abi::property(path.join("\0").as_bytes()).filter(|value| !value.is_empty())
    }

    fn route_metadata(&self) -> Option<Vec<u8>> {
        abi::property(b"xds\0route_metadata").filter(|value| !value.is_empty())
    }

    fn route_name(&self) -> Option<Vec<u8>> {
        abi::property(b"xds\0route_name").filter(|value| !value.is_empty())
    }
}

const REQUEST_HEADERS: &[u8] = b"request\0headers\0";

/// The data that the workers share.
pub(super) struct HostShared;

impl Shared for HostShared {
    fn load(&mut self, key: &str) -> (Vec<u8>, Version) {
        let (value, version) = abi::shared_data(key);
        (value, Version(version))
    }

    fn store(&mut self, key: &str, value: &[u8], expected: Version) -> bool {
        abi::set_shared_data(key, value, expected.0)
    }
}
