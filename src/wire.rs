//! The backend's language: how a check is asked, and how the reply is read.
//!
//! There is one engine and no code path per backend. A [language](crate::language) is data: a
//! request shape (method, path, headers, body, with slots for what differs from check to check) and
//! reply rules (statuses, places to look at, units). The presets are constants in [`preset`]; every
//! byte that a backend sends is judged here, and nothing it sends can do more than make the check
//! fail.

pub mod json;
pub mod preset;
pub mod reply;
pub mod structured;
pub mod template;

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use crate::config::{Backend, QuotaTerms, Statuses};
use crate::decision::{CheckError, Limits};
use crate::descriptor::Entries;
use crate::language::{Piece, Shape, Slot, Text};
use crate::text;
use crate::time::Wall;

use preset::Spoken;
use template::Context;

/// One check to be asked.
#[derive(Clone, Debug)]
pub struct Check<'a> {
    /// The descriptor's entries.
    pub entries: Entries<'a>,
    /// The units asked for: the request's cost, or with a lease what is wanted at most.
    pub cost: u64,
    /// With a lease, what this request needs at least.
    pub cost_min: Option<u64>,
    /// The policy's name.
    pub policy: &'a str,
    /// The policy's quota, for backends that are told it.
    pub quota: Option<QuotaTerms>,
    /// The matched route's name.
    pub route: Option<&'a [u8]>,
    /// The request's id, for tracing.
    pub request_id: Option<&'a [u8]>,
    /// Whether it must count nothing.
    pub peek: bool,
    /// What requests really used, where that is told and nothing asked.
    pub told: Option<Told<'a>>,
}

/// What requests of one key really used.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// What the report can be known by when it comes a second time.
    pub id: &'a str,
    /// How many requests it is about.
    pub requests: u32,
    /// Why the requests were let through without a check, where they were.
    pub unchecked: Option<&'static str>,
    /// The units, below 0 where they are to be taken back.
    pub units: i64,
}

/// A header's name and value.
type Field = (Text, Vec<u8>);

/// A check as it goes to the backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    fixed: Rc<[Field]>,
    /// The values of `own`, one behind the other: a call costs one allocation, not one a header.
    values: Vec<u8>,
    /// Names, and where in `values` each one's value ends.
    own: Vec<(Text, usize)>,
    /// The body; empty for none.
    pub body: Vec<u8>,
}

impl Message {
    /// Every header, pseudo-headers (`:method`, `:path`, `:authority`) included; names in lower
    /// case.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> + Clone {
        let fixed = self.fixed.iter();
        let fixed = fixed.map(|(name, value)| (name.as_ref(), value.as_slice()));
        fixed.chain(Own {
            values: &self.values,
            own: &self.own,
            start: 0,
        })
    }

    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers()
            .find_map(|(own, value)| (own == name).then_some(value))
    }
}

/// The headers that differ between messages.
#[derive(Clone)]
struct Own<'a> {
    values: &'a [u8],
    own: &'a [(Text, usize)],
    start: usize,
}

impl<'a> Iterator for Own<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let ((name, end), rest) = self.own.split_first()?;
        let value = self.values.get(self.start..*end)?;
        (self.own, self.start) = (rest, *end);
        Some((name.as_ref(), value))
    }
}

/// What came back from a backend that answered.
#[derive(Clone, Copy, Debug)]
pub struct RawReply<'a> {
    /// The HTTP status.
    pub status: u16,
    /// Headers, without regard to the case of names; one that came twice is there twice.
    pub headers: &'a [(&'a [u8], &'a [u8])],
    /// The body. The caller need not fetch more than [`BODY_BYTES_MAX`] and one byte of it.
    pub body: &'a [u8],
    /// When it came, for times that are given as dates.
    pub now: Wall,
}

/// The backend's reply, understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reply {
    /// What it says about the request.
    pub outcome: ReplyOutcome,
    /// What it tells of the limit.
    pub limits: Limits,
    /// When the client may come again; never with a grant.
    pub retry_after: Option<Duration>,
    /// How long it may be used again, as far as the backend says.
    pub caching: Caching,
}

/// What a reply says about the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReplyOutcome {
    /// Over the limit.
    Denied,
    /// Within the limit.
    Granted {
        /// How many units were given, where the backend says so; else as many as were asked for.
        units: Option<u64>,
    },
    /// The key is not valid here.
    Rejected {
        /// 401 or 403; another status that the configuration reads as a rejection is told as 401.
        status: u16,
    },
}

/// What the reply's `Cache-Control` says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Caching {
    /// It must not be used again (`no-store`, `no-cache`).
    pub no_store: bool,
    /// It may be used again for so long at most.
    pub max_age: Option<Duration>,
}

/// One backend's language, with its names and headers filled in.
#[derive(Clone, Debug)]
pub struct Wire {
    language: Spoken,
    namespace: String,
    statuses: Statuses,
    fixed: Rc<[Field]>,
    has_fixed_path: bool,
    peek: Option<Rc<[Field]>>,
    report: Rc<[Field]>,
    tells_route: bool,
    tells_request_id: bool,
}

impl Wire {
    /// The wire to `backend`.
    ///
    /// The operator's headers are added last. Those that would change where the call goes, how long
    /// it may take or what is asked are left out: pseudo-headers, `host`, `content-length`, those
    /// of the connection, `x-envoy-*`, and the language's own.
    #[must_use]
    #[inline(never)]
    pub fn new(backend: &Backend) -> Self {
        let language = preset::language(backend);
        let fixed = fixed_headers(&language.request, backend.path.as_deref(), backend);
        let report = language.report.as_ref();
        let peek = report.and_then(|report| report.peek.as_deref());
        let told = report.map_or_else(Vec::new, |report| {
            fixed_headers(&report.request, backend.report_path.as_deref(), backend)
        });
        let tells = |slot: &Slot| {
            let reported = report.is_some_and(|report| report.request.holds(slot));
            reported || language.request.holds(slot)
        };
        Self {
            tells_route: tells(&Slot::Route),
            tells_request_id: tells(&Slot::RequestId),
            has_fixed_path: fixed.iter().any(|(name, _)| name == ":path"),
            namespace: backend.namespace.clone(),
            statuses: backend.statuses.clone(),
            fixed: fixed.into(),
            peek: peek.map(|path| fixed_headers(&language.request, Some(path), backend).into()),
            report: told.into(),
            language,
        }
    }

    /// Whether the backend is told the route's name.
    #[must_use]
    pub const fn tells_route(&self) -> bool {
        self.tells_route
    }

    /// Whether the backend is told the request's id.
    #[must_use]
    pub const fn tells_request_id(&self) -> bool {
        self.tells_request_id
    }

    /// Whether a check that counts nothing can be asked for more than nothing.
    #[must_use]
    pub const fn peeks(&self) -> bool {
        self.peek.is_some()
    }

    /// Whether units can be taken back.
    #[must_use]
    pub fn takes_back(&self) -> bool {
        let report = self.language.report.as_ref();
        report.is_some_and(|report| report.takes_back)
    }

    /// The most units that one report can tell.
    #[must_use]
    pub fn report_most(&self) -> Option<u64> {
        self.language.report.as_ref()?.most
    }

    /// The message that tells what `check` holds; `None` where the backend can't be told.
    #[must_use]
    pub fn encode_report(&self, check: &Check<'_>) -> Option<Message> {
        let shape = &self.language.report.as_ref()?.request;
        let is_fixed = self.report.iter().any(|(name, _)| name == ":path");
        let path = (!is_fixed).then_some(&*shape.path);
        Some(self.fill(shape, &self.report, path, check))
    }

    /// Whether anything is read in the body of the reply to a report.
    #[must_use]
    pub fn reads_report_body(&self) -> bool {
        let report = self.language.report.as_ref();
        report.is_some_and(|report| report.error.is_some())
    }

    /// Reads the reply to a report.
    ///
    /// # Errors
    /// [`CheckError::Status`] where it has not been counted, and [`CheckError::BadReply`] where
    /// nobody can say.
    pub fn decode_report(&self, reply: &RawReply<'_>) -> Result<(), CheckError> {
        let report = self.language.report.as_ref().ok_or(CheckError::Internal)?;
        report.read(reply)
    }

    /// The message that asks `check`.
    #[must_use]
    pub fn encode(&self, check: &Check<'_>) -> Message {
        let shape = &self.language.request;
        let peek = self.peek.as_ref().filter(|_| check.peek);
        let path = (!self.has_fixed_path).then_some(&*shape.path);
        self.fill(shape, peek.unwrap_or(&self.fixed), path, check)
    }

    fn fill(
        &self,
        shape: &Shape,
        fixed: &Rc<[Field]>,
        path: Option<&[Piece]>,
        check: &Check<'_>,
    ) -> Message {
        let mut values = Vec::with_capacity(TYPICAL_VALUES_BYTES);
        let mut own = Vec::with_capacity(shape.headers.len().saturating_add(1));
        let namespace = &self.namespace;
        if let Some(path) = path {
            template::render(&mut values, path, Context::Path, check, namespace);
            own.push((":path".into(), values.len()));
        }
        for header in shape.headers.iter() {
            let start = values.len();
            if template::render(
                &mut values,
                &header.value,
                Context::Header,
                check,
                namespace,
            ) {
                own.push((header.name.clone(), values.len()));
            } else {
                values.truncate(start);
            }
        }
        let mut body = Vec::new();
        template::render(&mut body, &shape.body, Context::Json, check, namespace);
        Message {
            fixed: Rc::clone(fixed),
            values,
            own,
            body,
        }
    }

    /// Whether anything is read in a reply's body.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        self.language.reply.reads_body()
    }

    /// What `reply` says.
    ///
    /// # Errors
    /// [`CheckError::Status`] where the status is none of the known ones, and
    /// [`CheckError::BadReply`] where it is but the rest can't be read as a decision.
    #[inline(never)]
    pub fn decode(&self, reply: &RawReply<'_>) -> Result<Reply, CheckError> {
        self.language.reply.read(reply, &self.statuses)
    }
}

fn fixed_headers(shape: &Shape, own_path: Option<&str>, backend: &Backend) -> Vec<Field> {
    let mut fixed: Vec<Field> = vec![
        (":method".into(), shape.method.as_bytes().to_vec()),
        (":authority".into(), clean(&backend.authority)),
    ];
    match (own_path, &*shape.path) {
        (Some(path), _) => fixed.push((":path".into(), clean(path))),
        (None, [Piece::Raw(path)]) => fixed.push((":path".into(), clean(path))),
        (None, _) => {}
    }
    if !shape.body.is_empty() {
        fixed.push(("content-type".into(), b"application/json".to_vec()));
    }
    for (name, value) in &backend.headers {
        let name = name.to_ascii_lowercase();
        let taken = fixed.iter().any(|(own, _)| *own == name)
            || shape.headers.iter().any(|own| own.name == name);
        if !taken && may_be_added(&name) {
            fixed.push((name.into(), clean(value)));
        }
    }
    fixed
}

/// Whether the operator may send this header: the rest belongs to the call or steers the host.
#[must_use]
pub fn may_be_added(name: &str) -> bool {
    !name.starts_with(':') && !name.starts_with("x-envoy-") && !CALLS_OWN.contains(&name)
}

fn clean(value: &str) -> Vec<u8> {
    text::sanitise(value.as_bytes(), usize::MAX)
}

/// A reply body above this is no decision.
pub const BODY_BYTES_MAX: usize = 65_536;

/// Five headers and a descriptor of a few entries.
const TYPICAL_VALUES_BYTES: usize = 192;

const CALLS_OWN: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

#[cfg(test)]
mod tests;
