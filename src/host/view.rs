//! The gate's view of the host: the request of the effective stream, and the shared data.

use alloc::vec::Vec;
use core::cell::OnceCell;

use super::abi::{self, Map};
use crate::pairs::{self, Found};
use crate::request::{Header, Request};
use crate::response::Response;
use crate::shared::{Shared, Version};

/// The request of the stream that is in effect.
///
/// The host gives single headers only by their first value, which hides that there are more. So
/// all of them are fetched, once, in one call: that costs less than two single ones.
#[derive(Default)]
pub(super) struct HostRequest {
    headers: OnceCell<Vec<u8>>,
}

impl Request for HostRequest {
    fn header(&self, name: &str) -> Header {
        only(&self.headers, Map::Request, name)
    }

    fn says(&self, name: &str, value: &str) -> bool {
        let headers = fetched(&self.headers, Map::Request);
        pairs::find(headers, name.as_bytes()) == Found::One(value.as_bytes())
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

/// The response of the stream that is ending, with the same care for what is there twice.
#[derive(Default)]
pub(super) struct HostResponse {
    headers: OnceCell<Vec<u8>>,
    trailers: OnceCell<Vec<u8>>,
}

impl Response for HostResponse {
    fn header(&self, name: &str) -> Header {
        only(&self.headers, Map::Response, name)
    }

    fn trailer(&self, name: &str) -> Header {
        only(&self.trailers, Map::ResponseTrailers, name)
    }

    fn property(&self, path: &str) -> Option<Vec<u8>> {
        abi::property(path.as_bytes()).filter(|value| !value.is_empty())
    }
}

/// The header of a map that is fetched when it is first looked at.
fn only(headers: &OnceCell<Vec<u8>>, map: Map, name: &str) -> Header {
    match pairs::find(fetched(headers, map), name.as_bytes()) {
        Found::Missing => Header::Missing,
        Found::One(value) => Header::One(value.to_vec()),
        Found::Repeated => Header::Repeated,
    }
}

fn fetched(headers: &OnceCell<Vec<u8>>, map: Map) -> &[u8] {
    headers.get_or_init(|| abi::header_pairs(map).unwrap_or_default())
}

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
