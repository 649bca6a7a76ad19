//! Callouts: what the module asks for, and how that ends.

use crate::headers::Headers;

/// A callout that the module makes.
#[derive(Clone, Debug)]
pub struct Call {
    /// When, on the clock that does not jump, in nanoseconds.
    pub now: u64,
    /// Which worker's VM makes it.
    pub worker: usize,
    /// To which cluster.
    pub cluster: String,
    /// Headers and pseudo-headers.
    pub headers: Headers,
    /// The body; empty where there is none.
    pub body: Vec<u8>,
    /// After how many milliseconds the host gives up; 0 is never.
    pub timeout_ms: u32,
}

/// How a callout ends.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Nanoseconds until then. If that is later than the timeout, the timeout ends it.
    pub after: u64,
    /// What ends it.
    pub end: End,
    /// Told a second time, so many nanoseconds later: what no proxy should do.
    pub again_after: Option<u64>,
}

/// What ends a callout.
#[derive(Clone, Debug)]
pub enum End {
    /// The host tells of a reset: no headers at all.
    Broken,
    /// The host itself answers with this status, as it does when the backend can't be reached.
    Host(u16),
    /// The host never tells of an end, not even at the timeout.
    Lost,
    /// The host does not take the callout: no endpoint that is healthy.
    Refused,
    /// The backend answers.
    Reply {
        /// Its status.
        status: u16,
        /// Its headers.
        headers: Headers,
        /// Its body.
        body: Vec<u8>,
    },
    /// The backend says nothing; the host ends it at the timeout.
    Silence,
    /// The host knows no cluster of this name.
    UnknownCluster,
}

impl Ending {
    /// This, after so many nanoseconds.
    #[must_use]
    pub const fn new(after: u64, end: End) -> Self {
        Self {
            after,
            end,
            again_after: None,
        }
    }

    /// The backend answers with a status and nothing else.
    #[must_use]
    pub const fn status(after: u64, status: u16) -> Self {
        let end = End::Reply {
            status,
            headers: Headers::new(),
            body: Vec::new(),
        };
        Self::new(after, end)
    }
}

/// Who answers the callouts.
pub trait Backend {
    /// How this callout is going to end.
    fn call(&mut self, call: &Call) -> Ending;
}

impl<F: FnMut(&Call) -> Ending> Backend for F {
    fn call(&mut self, call: &Call) -> Ending {
        self(call)
    }
}

/// What the module is told of an end.
#[derive(Clone, Debug)]
pub(crate) struct CallReply {
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl CallReply {
    /// A reset: a reply without headers.
    pub(crate) const fn broken() -> Self {
        Self {
            headers: Headers::new(),
            body: Vec::new(),
        }
    }

    /// What the host makes up: exactly these headers, and no `x-envoy-upstream-service-time`.
    pub(crate) fn host(status: u16) -> Self {
        let body = match status {
            504 => "upstream request timeout",
            _ => "upstream connect error or disconnect/reset before headers",
        };
        let headers = Headers::new()
            .with(":status", status.to_string())
            .with("content-length", body.len().to_string())
            .with("content-type", "text/plain");
        Self {
            headers,
            body: body.into(),
        }
    }

    /// A real reply: the host puts its own service time in place of the backend's.
    pub(crate) fn backend(after: u64, status: u16, given: &Headers, body: Vec<u8>) -> Self {
        let mut headers = Headers::new().with(":status", status.to_string());
        for (name, value) in given.iter() {
            headers.add(name, value);
        }
        let millis = (after / crate::MILLISECOND).to_string();
        headers.set("x-envoy-upstream-service-time", millis);
        Self { headers, body }
    }
}
