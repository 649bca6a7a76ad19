//! A request on its way through the host, and what became of it.

use std::collections::BTreeMap;

use crate::headers::Headers;
use crate::property::Properties;
use crate::status::Status;

/// Which stream: the worker, and the number of its context there.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct StreamId {
    /// The worker that serves it.
    pub worker: usize,
    /// Its context in that worker's VM; counts up.
    pub context: u32,
}

/// A request that a client sends.
#[derive(Clone, Debug)]
pub struct Request {
    pub(crate) headers: Headers,
    pub(crate) properties: Properties,
    pub(crate) body: Option<usize>,
    pub(crate) trailers: bool,
}

impl Request {
    /// A request with a method and a path, to `api.example.com`.
    #[must_use]
    pub fn new(method: &str, path: &str) -> Self {
        let headers = Headers::new()
            .with(":authority", "api.example.com")
            .with(":path", path)
            .with(":method", method)
            .with(":scheme", "https");
        Self {
            headers,
            properties: Properties::default(),
            body: None,
            trailers: false,
        }
    }

    /// A GET.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    /// With one more header. The host joins `x-forwarded-for` with commas as they come.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        if name.eq_ignore_ascii_case("x-forwarded-for")
            && let Some(earlier) = self.headers.joined(name)
        {
            let joined = [&earlier[..], b",", value.as_ref()].concat();
            self.headers.set(name, joined);
        } else {
            self.headers.add(name, value);
        }
        self
    }

    /// Without any header of this name.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.remove(name);
        self
    }

    /// With a body of so many bytes.
    #[must_use]
    pub const fn body(mut self, bytes: usize) -> Self {
        self.body = Some(bytes);
        self
    }

    /// With trailers.
    #[must_use]
    pub const fn trailers(mut self) -> Self {
        self.trailers = true;
        self
    }

    /// With a property that the host tells when it is asked for this path.
    #[must_use]
    pub fn property(mut self, path: &[&str], value: impl AsRef<[u8]>) -> Self {
        self.properties.set(path, Ok(value.as_ref().to_vec()));
        self
    }

    /// With a property that the host can't hand over.
    #[must_use]
    pub fn property_failing(mut self, path: &[&str], status: Status) -> Self {
        self.properties.set(path, Err(status));
        self
    }

    /// With the name of the matched route.
    #[must_use]
    pub fn route_name(self, name: &str) -> Self {
        self.property(&["xds", "route_name"], name)
    }

    /// With route metadata under a name space: texts by key.
    #[must_use]
    pub fn route_metadata(self, namespace: &str, values: &[(&str, &str)]) -> Self {
        let bytes = crate::property::metadata(namespace, values);
        self.property(&["xds", "route_metadata"], bytes)
    }

    pub(crate) const fn ends_with_headers(&self) -> bool {
        self.body.is_none() && !self.trailers
    }
}

/// Where a stream is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Its first callback runs.
    Headers,
    /// The module holds it.
    Paused,
    /// It is on its way to the upstream.
    Upstream,
    /// It was answered by the module or by the host.
    Answered,
}

/// How a stream ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fate {
    /// The module answered it.
    Answered(LocalReply),
    /// The client left first.
    Disconnected,
    /// The module trapped, or had trapped before: the host answered 503.
    FailedVm,
    /// The host's own timeout answered it.
    HostTimeout,
    /// It reached the upstream.
    Upstream,
}

/// A reply that the module sent itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LocalReply {
    /// The HTTP status that it gave.
    pub status: u32,
    /// The response code details, as the access log shows them.
    pub details: String,
    /// The headers that it gave.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
    /// The gRPC status for gRPC clients; -1 is none.
    pub grpc_status: i32,
}

/// A request and everything that the host keeps about it.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its number.
    pub id: StreamId,
    /// The request's headers as they are: what the upstream sees, once it is there.
    pub request: Headers,
    /// The response's headers, once the module has seen them.
    pub response: Option<Headers>,
    /// What the module noted for access logs, by name.
    pub filter_state: BTreeMap<String, Vec<u8>>,
    /// When its headers arrived, in nanoseconds of the clock that does not jump.
    pub since: u64,
    /// When it left the module.
    pub released: Option<u64>,
    /// How it ended; `None` while it is on its way.
    pub fate: Option<Fate>,
    pub(crate) properties: Properties,
    pub(crate) root: u32,
    pub(crate) phase: Phase,
    /// The module can read the request's headers until it lets them go.
    pub(crate) headers_visible: bool,
    pub(crate) response_visible: bool,
    pub(crate) body: Option<usize>,
    pub(crate) trailers: bool,
}

impl Stream {
    pub(crate) fn new(id: StreamId, root: u32, now: u64, request: &Request) -> Self {
        Self {
            id,
            request: request.headers.clone(),
            response: None,
            filter_state: BTreeMap::new(),
            since: now,
            released: None,
            fate: None,
            properties: request.properties.clone(),
            root,
            phase: Phase::Headers,
            headers_visible: true,
            response_visible: false,
            body: request.body,
            trailers: request.trailers,
        }
    }

    /// A note for access logs as text; empty where there is none.
    #[must_use]
    pub fn note(&self, name: &str) -> String {
        self.filter_state
            .get(name)
            .map(|value| String::from_utf8_lossy(value).into_owned())
            .unwrap_or_default()
    }

    /// The module's own reply, where it gave one.
    #[must_use]
    pub const fn reply(&self) -> Option<&LocalReply> {
        match &self.fate {
            Some(Fate::Answered(reply)) => Some(reply),
            _ => None,
        }
    }

    /// How long the module held it, in nanoseconds; `None` where it did not let it go.
    #[must_use]
    pub fn held(&self) -> Option<u64> {
        self.released.map(|end| end - self.since)
    }
}
