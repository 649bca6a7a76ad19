//! The upstream: echoes what it got, keeps a journal of it, and answers gRPC and upgrades. What a
//! request says in `x-uses` comes back as the response's `x-used`, and `x-fails` says how it fails:
//! the status, or `reset` for a connection that ends without an answer.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, UPGRADE};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use serde_json::json;

use crate::body::{Pieces, full};
use crate::eventually::now;
use crate::hold::Hold;
use crate::journal::Journal;
use crate::llm::{self, Meter};
use crate::response::{fields, readable, values};
use crate::server::{Answer, Handler, Hangup, Line, Server, lock};

/// One request as it reached the upstream.
#[derive(Clone)]
pub struct Seen {
    /// When its headers were there.
    pub at: Instant,
    /// The method.
    pub method: String,
    /// Path and query; the authority for CONNECT.
    pub path: String,
    /// Whether it came over HTTP/2.
    pub h2: bool,
    /// Header fields in their order; names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The bytes of its body so far.
    pub body_len: usize,
    /// [`digest`] of its body so far.
    pub body_digest: u64,
    /// Trailer fields; names in lower case.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// Whether it has ended: body and trailers are all there.
    pub complete: bool,
}

impl Seen {
    /// The values of the header `name` (lower case).
    #[must_use]
    pub fn header_values(&self, name: &str) -> Vec<String> {
        values(&self.headers, name)
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seen")
            .field("what", &format!("{} {}", self.method, self.path))
            .field("h2", &self.h2)
            .field("headers", &readable(&self.headers))
            .field("body_len", &self.body_len)
            .field("trailers", &readable(&self.trailers))
            .field("complete", &self.complete)
            .finish_non_exhaustive()
    }
}

/// A running upstream; dropping it closes its port.
pub struct Upstream {
    server: Server<Echo>,
    echo: Arc<Echo>,
}

impl Upstream {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If there is none.
    pub fn start() -> std::io::Result<Self> {
        let echo = Arc::new(Echo::default());
        Ok(Self {
            server: Server::start(Arc::clone(&echo))?,
            echo,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Adds a header to every response from now on.
    pub fn respond_header(&self, name: &str, value: &str) -> &Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
        let value = HeaderValue::from_str(value).expect("a header value");
        lock(&self.echo.manner).headers.push((name, value));
        self
    }

    /// Answers with this status from now on.
    pub fn respond_status(&self, status: u16) -> &Self {
        lock(&self.echo.manner).status =
            Some(StatusCode::from_u16(status).expect("an HTTP status"));
        self
    }

    /// Waits this long before every response from now on.
    pub fn respond_after(&self, delay: Duration) -> &Self {
        lock(&self.echo.manner).delay = delay;
        self
    }

    /// Ends no answer from now on until [`Upstream::release`]: whole ones wait, and streamed chat
    /// completions wait after their first event.
    pub fn hold(&self) -> &Self {
        self.echo.hold.hold();
        self
    }

    /// Lets the first `count` of the answers that are held end, or the next ones that come; all of
    /// them with `usize::MAX`.
    pub fn release(&self, count: usize) -> &Self {
        self.echo.hold.release(count);
        self
    }

    /// Answers that are open now: their requests are here, and they have not ended.
    #[must_use]
    pub fn open_answers(&self) -> usize {
        self.echo.hold.open()
    }

    /// The most answers that were open at once.
    #[must_use]
    pub fn most_open_answers(&self) -> usize {
        self.echo.hold.most()
    }

    /// What chat completions have used so far, by the request's `x-tenant-id`; see [`llm`].
    #[must_use]
    pub fn tokens(&self) -> BTreeMap<String, u64> {
        self.echo.meter.totals()
    }

    /// What came so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.echo.journal.all()
    }

    /// What came since the last time.
    #[must_use]
    pub fn take(&self) -> Vec<Seen> {
        self.echo.journal.take()
    }

    /// Waits for `count` requests, expects no more, and returns them.
    #[track_caller]
    pub fn expect_requests(&self, count: usize) -> Vec<Seen> {
        self.echo.journal.expect("requests at the upstream", count)
    }
}

/// A short fingerprint of `bytes` (FNV-1a), to compare a body with what was sent.
#[must_use]
pub fn digest(bytes: &[u8]) -> u64 {
    digest_on(FNV_START, bytes)
}

fn digest_on(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(FNV_PRIME)
    })
}

#[derive(Default)]
struct Echo {
    hold: Arc<Hold>,
    journal: Journal<Seen>,
    meter: Meter,
    manner: Mutex<Manner>,
}

#[derive(Clone, Default)]
struct Manner {
    delay: Duration,
    headers: Vec<(HeaderName, HeaderValue)>,
    status: Option<StatusCode>,
}

impl Handler for Echo {
    async fn handle(&self, request: Request<Incoming>, _: Arc<Line>) -> Result<Answer, Hangup> {
        let manner = lock(&self.manner).clone();
        let place = self.journal.push(seen(&request));
        if is_upgrade(&request) {
            return Ok(manner.show(tunnel(request)).await);
        }
        let mut in_pieces = false;
        let used = request.headers().get("x-uses").cloned();
        let fails = values(&fields(request.headers()), "x-fails").pop();
        let mut answer = if request.uri().path() == llm::PATH {
            let tenant = values(&fields(request.headers()), "x-tenant-id").pop();
            let body = request.into_body().collect().await.map_err(|_| Hangup)?;
            let tenant = tenant.unwrap_or_default();
            let answer = self.meter.answer(&tenant, &body.to_bytes());
            in_pieces = answer.body().size_hint().exact().is_none();
            answer
        } else {
            self.echo(request, place).await?
        };
        match fails.as_deref().map(str::parse) {
            Some(Ok(status)) => {
                *answer.status_mut() = StatusCode::from_u16(status).map_err(|_| Hangup)?;
            }
            Some(Err(_)) => return Err(Hangup),
            None => {}
        }
        if let Some(used) = used {
            answer.headers_mut().insert("x-used", used);
        }
        let ticket = self.hold.begin();
        Ok(ticket.pace(manner.show(answer).await, in_pieces).await)
    }
}

impl Manner {
    /// Waits as long as is wished, and answers in the way that is wished.
    async fn show(self, mut answer: Answer) -> Answer {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        if let Some(status) = self.status {
            *answer.status_mut() = status;
        }
        for (name, value) in self.headers {
            answer.headers_mut().append(name, value);
        }
        answer
    }
}

impl Echo {
    async fn echo(&self, request: Request<Incoming>, place: usize) -> Result<Answer, Hangup> {
        let grpc = request
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        let (method, path) = (request.method().to_string(), request.uri().to_string());
        let mut body = request.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Hangup)?;
            if let Some(data) = frame.data_ref() {
                length += data.len();
                self.journal.amend(place, |seen| {
                    seen.body_len += data.len();
                    seen.body_digest = digest_on(seen.body_digest, data);
                });
            } else if let Some(trailers) = frame.trailers_ref() {
                self.journal
                    .amend(place, |seen| seen.trailers = fields(trailers));
            }
        }
        self.journal.amend(place, |seen| seen.complete = true);
        if grpc {
            return Ok(grpc_answer());
        }
        let echo = json!({"method": method, "path": path, "body_len": length});
        let mut answer = Response::new(full(echo.to_string()));
        answer
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
            .headers_mut()
            .insert("x-upstream", HeaderValue::from_static("echo"));
        Ok(answer)
    }
}

fn seen(request: &Request<Incoming>) -> Seen {
    Seen {
        at: now(),
        method: request.method().to_string(),
        path: match request.uri().path_and_query() {
            Some(path) if request.method() != Method::CONNECT => path.to_string(),
            _ => request.uri().to_string(),
        },
        h2: request.version() == Version::HTTP_2,
        headers: fields(request.headers()),
        body_len: 0,
        body_digest: FNV_START,
        trailers: Vec::new(),
        complete: false,
    }
}

fn is_upgrade(request: &Request<Incoming>) -> bool {
    request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE)
}

/// Accepts an upgrade or CONNECT; what comes after it is echoed byte for byte.
fn tunnel(mut request: Request<Incoming>) -> Answer {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            // Ends when either side closes; there is nobody to tell.
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    });
    let mut answer = Response::new(full(Bytes::new()));
    if let Some(protocol) = request.headers_mut().remove(UPGRADE) {
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        answer.headers_mut().insert(UPGRADE, protocol);
        answer
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    answer
}

/// One empty message and status 0 in the trailers.
fn grpc_answer() -> Answer {
    let mut trailers = hyper::HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let message = Frame::data(Bytes::from_static(&[0; 5]));
    let pieces = Pieces::new([message, Frame::trailers(trailers)]);
    let mut answer = Response::new(pieces.boxed());
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;
