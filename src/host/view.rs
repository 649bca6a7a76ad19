//! The gate's view of the host: the request of the effective stream, and the shared data.

use alloc::vec::Vec;
use core::cell::OnceCell;

use super::abi::{self, Bytes, Map};
use crate::pairs;
use crate::request::{Header, Request};
use crate::response::Response;
use crate::shared::{Shared, Version};

/// The request of the stream that is in effect.
///
/// The host gives single headers only by their first value, which hides that there are more. So
/// all of them are fetched, once, in one call: that costs less than two single ones.
#[derive(Default)]
pub(super) struct HostRequest {
    headers: OnceCell<Bytes>,
}

impl HostRequest {
    /// Whether it is known, without another call to the host, that there is no such header.
    pub(super) fn is_without(&self, name: &str) -> bool {
        let headers = self.headers.get();
        headers
            .is_some_and(|headers| matches!(pairs::find(headers, name.as_bytes()), Header::Missing))
    }
}

impl Request for HostRequest {
    fn header(&self, name: &str) -> Header<'_> {
        only(&self.headers, Map::Request, name)
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        property(path.join("\0").as_bytes())
    }

    fn route_metadata(&self) -> Option<Vec<u8>> {
        property(b"xds\0route_metadata")
    }

    fn route_name(&self) -> Option<Vec<u8>> {
        property(b"xds\0route_name")
    }
}

/// The response of the stream that is ending, with the same care for what is there twice.
#[derive(Default)]
pub(super) struct HostResponse {
    headers: OnceCell<Bytes>,
    trailers: OnceCell<Bytes>,
}

impl Response for HostResponse {
    fn header(&self, name: &str) -> Header<'_> {
        only(&self.headers, Map::Response, name)
    }

    fn trailer(&self, name: &str) -> Header<'_> {
        only(&self.trailers, Map::ResponseTrailers, name)
    }

    fn property(&self, path: &str) -> Option<Vec<u8>> {
        property(path.as_bytes())
    }
}

fn property(path: &[u8]) -> Option<Vec<u8>> {
    let value = abi::property(path)?;
    (!value.is_empty()).then(|| value.to_vec())
}

/// The header of a map that is fetched when it is first looked at.
fn only<'a>(headers: &'a OnceCell<Bytes>, map: Map, name: &str) -> Header<'a> {
    pairs::find(fetched(headers, map), name.as_bytes())
}

fn fetched(headers: &OnceCell<Bytes>, map: Map) -> &[u8] {
    headers.get_or_init(|| abi::header_pairs(map).unwrap_or(Bytes::NONE))
}

/// The data that the workers share.
pub(super) struct HostShared;

impl Shared for HostShared {
    fn load(&mut self, key: &str) -> (Vec<u8>, Version) {
        let (value, version) = abi::shared_data(key);
        (value.to_vec(), Version(version))
    }

    fn store(&mut self, key: &str, value: &[u8], expected: Version) -> bool {
        abi::set_shared_data(key, value, expected.0)
    }
}
