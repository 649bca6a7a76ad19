//! The faults of the backend: everything that a callout can meet.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode, Version};

use crate::body::{End, Pieces, full};
use crate::server::{Answer, Hangup, Line};
use crate::wire::{json_answer, text};

/// What goes wrong with a check.
///
/// Some change a good answer (`Delay`, `DoubledHeaders`, `HeaderBytes`, `Headers`, `Informational`,
/// `Trailers`): for them the books are charged as usual. All others replace the answer, and the
/// check is not charged.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This answer, whatever was asked: status, header fields, body.
    Answer(u16, Vec<(String, String)>, Vec<u8>),
    /// The connection is closed in order, before any header.
    CloseBeforeHeaders,
    /// The good answer, this much later.
    Delay(Duration),
    /// The good answer with `retry-after`, `x-ratelimit-remaining` and `cache-control` twice each,
    /// the two values being different.
    DoubledHeaders,
    /// Bytes that are no HTTP at all; then the connection is closed.
    Garbage,
    /// The connection stays open, and nothing ever comes.
    Hang,
    /// The good answer with one more header of this many bytes.
    HeaderBytes(usize),
    /// The good answer with this many more headers.
    Headers(usize),
    /// 200 with a body of 34 MB, more than Envoy buffers for a callout.
    HugeBody,
    /// The good answer after an interim `100 Continue`; on h2, just the good answer.
    Informational,
    /// These bytes in place of an HTTP/1.1 answer, then the connection is closed.
    Raw(Vec<u8>),
    /// The port is closed: connecting is refused, and open connections end.
    Refuse,
    /// The connection is reset before any header.
    ResetBeforeHeaders,
    /// The connection is reset after the headers and a part of the body.
    ResetMidBody,
    /// Headers and a part of the body come, and then nothing.
    StallMidBody,
    /// This status, with a short text.
    Status(u16),
    /// The good answer, with trailers.
    Trailers,
    /// 200 with JSON that breaks off, the HTTP message being complete.
    TruncatedJson,
    /// HTTP/2 frames to an HTTP/1.1 client, an HTTP/1.1 answer to an HTTP/2 client; then the
    /// connection is closed.
    WrongHttpVersion,
    /// 200 with JSON of another shape than any wire's.
    WrongJson,
}

impl Fault {
    /// Whether the good answer is made, and the books charged, before the fault shows.
    pub(crate) fn keeps_the_answer(&self) -> bool {
        match self {
            Self::Delay(_)
            | Self::DoubledHeaders
            | Self::HeaderBytes(_)
            | Self::Headers(_)
            | Self::Informational
            | Self::Trailers => true,
            Self::Answer(..)
            | Self::CloseBeforeHeaders
            | Self::Garbage
            | Self::Hang
            | Self::HugeBody
            | Self::Raw(_)
            | Self::Refuse
            | Self::ResetBeforeHeaders
            | Self::ResetMidBody
            | Self::StallMidBody
            | Self::Status(_)
            | Self::TruncatedJson
            | Self::WrongHttpVersion
            | Self::WrongJson => false,
        }
    }

    /// Spoils a good answer; for faults that keep it.
    pub(crate) async fn spoil(&self, mut answer: Answer, version: Version, line: &Line) -> Answer {
        let headers = answer.headers_mut();
        match self {
            Self::Delay(delay) => tokio::time::sleep(*delay).await,
            Self::DoubledHeaders => {
                for (name, first, second) in DOUBLED {
                    headers.insert(name, HeaderValue::from_static(first));
                    headers.append(name, HeaderValue::from_static(second));
                }
            }
            Self::HeaderBytes(count) => {
                let value = HeaderValue::from_str(&"h".repeat(*count)).expect("letters");
                headers.insert("x-huge", value);
            }
            Self::Headers(count) => {
                for number in 0..*count {
                    let name = HeaderName::try_from(format!("x-many-{number}")).expect("a name");
                    headers.insert(name, HeaderValue::from_static("1"));
                }
            }
            // On h2 the same bytes would be no frame, and break whatever else the connection bears.
            Self::Informational if version != Version::HTTP_2 => {
                line.prefix(Bytes::from_static(b"HTTP/1.1 100 Continue\r\n\r\n"));
            }
            Self::Trailers => return with_trailers(answer, version, line).await,
            // The others replace the answer.
            _ => {}
        }
        answer
    }

    /// What comes in place of a good answer; for faults that don't keep it.
    pub(crate) async fn replace(
        &self,
        version: Version,
        line: &Arc<Line>,
    ) -> Result<Answer, Hangup> {
        let spoken = |bytes: Bytes| {
            line.last(bytes);
            Ok(Response::new(full(Bytes::new())))
        };
        match self {
            Self::Answer(status, fields, body) => Ok(canned(*status, fields, body)),
            Self::CloseBeforeHeaders => spoken(Bytes::new()),
            Self::Garbage => spoken(Bytes::from_static(GARBAGE)),
            Self::HugeBody => Ok(Response::new(full(vec![b'x'; HUGE_BODY_BYTES]))),
            Self::Raw(bytes) => spoken(Bytes::copy_from_slice(bytes)),
            Self::ResetBeforeHeaders => {
                line.reset();
                Err(Hangup)
            }
            Self::ResetMidBody => Ok(half(End::Broken(Arc::clone(line)))),
            Self::StallMidBody => Ok(half(End::Stalled)),
            Self::Status(status) => {
                let status = StatusCode::from_u16(*status).expect("an HTTP status");
                Ok(text(status, "the backend says so"))
            }
            Self::TruncatedJson => {
                let mut answer = json_answer(StatusCode::OK, &serde_json::Value::Null);
                *answer.body_mut() = full(TRUNCATED_JSON);
                Ok(answer)
            }
            Self::WrongHttpVersion if version == Version::HTTP_2 => {
                spoken(Bytes::from_static(H1_ANSWER))
            }
            Self::WrongHttpVersion => spoken(Bytes::from_static(H2_SETTINGS)),
            Self::WrongJson => {
                let wrong = serde_json::json!({"answer": [1, {"ok": "maybe"}], "delta": -1});
                Ok(json_answer(StatusCode::OK, &wrong))
            }
            // A port that is closed gets no checks; one that slipped in before is left alone.
            _ => std::future::pending().await,
        }
    }
}

/// The answer with the trailer `x-trailer: 1`.
async fn with_trailers(answer: Answer, version: Version, line: &Line) -> Answer {
    let (head, body) = answer.into_parts();
    if version == Version::HTTP_2 {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-trailer", HeaderValue::from_static("1"));
        let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
        return Response::from_parts(head, body.boxed());
    }
    // hyper sends h1 trailers only to those who ask with `te: trailers`, which Envoy does not.
    let mut raw = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        raw.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    raw.extend(b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n");
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    if !body.is_empty() {
        raw.extend(format!("{:x}\r\n", body.len()).into_bytes());
        raw.extend([body.as_ref(), b"\r\n"].concat());
    }
    raw.extend(b"0\r\nx-trailer: 1\r\n\r\n");
    line.last(raw.into());
    Response::new(full(Bytes::new()))
}

fn canned(status: u16, fields: &[(String, String)], body: &[u8]) -> Answer {
    let mut answer = Response::new(full(body.to_vec()));
    *answer.status_mut() = StatusCode::from_u16(status).expect("an HTTP status");
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
        let value = HeaderValue::from_str(value).expect("a value (for others: Fault::Raw)");
        answer.headers_mut().append(name, value);
    }
    answer
}

/// A good start of an answer whose length says that more is to come.
fn half(end: End) -> Answer {
    let start = Frame::data(Bytes::from_static(b"{\"overallCode\":"));
    let mut answer = Response::new(Pieces::new([start]).ending(end).boxed());
    answer
        .headers_mut()
        .insert("content-length", HeaderValue::from_static("1000"));
    answer
}

const DOUBLED: [(&str, &str, &str); 3] = [
    ("retry-after", "1", "3600"),
    ("x-ratelimit-remaining", "0", "9"),
    ("cache-control", "no-store", "max-age=60"),
];

const GARBAGE: &[u8] = b"\x00\xff\x13\x37 this is no HTTP \xfe\xed\r\n\r\n\x00";

const TRUNCATED_JSON: &str = "{\"overallCode\":\"OK\",\"statuses\":[{\"code\":";

const H1_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// What an HTTP/2 server says first: an empty SETTINGS frame.
const H2_SETTINGS: &[u8] = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// Above Envoy's bound of 32 MiB for what a callout's answer may hold.
const HUGE_BODY_BYTES: usize = 34_000_000;
