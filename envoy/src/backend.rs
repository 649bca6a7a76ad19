//! The quota backend: counts, speaks three wires, misbehaves on request, and keeps a journal.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, StatusCode, Version};

use crate::accounts::Accounts;
use crate::books::{Books, limit};
use crate::eventually::now;
use crate::fault::Fault;
use crate::journal::Journal;
use crate::response::{fields, readable, values};
use crate::server::{Answer, Handler, Hangup, Line, Server, lock};
use crate::wire::{Asked, NAMESPACE, QuotaHeaders, Wire, read, reported, settle, text, wire_of};

/// One check as the backend saw it.
#[derive(Clone)]
pub struct Check {
    /// When it had arrived, body included.
    pub at: Instant,
    /// The language it was read in.
    pub wire: Wire,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `:authority` or `Host`.
    pub authority: String,
    /// Whether it came over HTTP/2.
    pub h2: bool,
    /// Header fields in their order; names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
    /// Namespace or domain; the default one where the wire has none.
    pub namespace: String,
    /// Who is asking: the entries in their order (limitador: by name), decoded.
    pub descriptor: Vec<(String, String)>,
    /// Units asked for.
    pub cost: u64,
    /// Units that this request needs, where a lease was asked for.
    pub cost_min: Option<u64>,
    /// What went wrong with it; `None` where it was answered as it should be.
    pub fault: Option<Fault>,
}

impl Check {
    /// The value of the descriptor's entry `name`.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&str> {
        let found = self.descriptor.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The values of the header `name` (lower case).
    #[must_use]
    pub fn header_values(&self, name: &str) -> Vec<String> {
        values(&self.headers, name)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field(
                "what",
                &format!("{} {} {:?}", self.method, self.path, self.wire),
            )
            .field("h2", &self.h2)
            .field("headers", &readable(&self.headers))
            .field("body", &self.text())
            .field("namespace", &self.namespace)
            .field("descriptor", &self.descriptor)
            .field("cost", &(self.cost, self.cost_min))
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

/// One report of use as the backend saw it.
#[derive(Clone, Debug)]
pub struct Told {
    /// The language it was read in.
    pub wire: Wire,
    /// Whose use it is.
    pub descriptor: Vec<(String, String)>,
    /// Units used, below 0 for units to be taken back.
    pub units: i64,
    /// `x-quota-settlement-id`.
    pub id: Option<String>,
    /// `x-quota-unchecked`.
    pub unchecked: Option<String>,
    /// Whether an earlier report had the same id: it is not counted again.
    pub again: bool,
    /// What went wrong with it; `None` where it was answered as it should be.
    pub fault: Option<Fault>,
}

impl Told {
    /// Whether it is counted, now or as an earlier one of the same id.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        self.fault.as_ref().is_none_or(Fault::keeps_the_answer)
    }
}

/// A running quota backend; dropping it closes its port.
///
/// Without limits it allows everything. Every setting takes effect with the next check.
pub struct Backend {
    server: Server<Desk>,
    desk: Arc<Desk>,
}

impl Backend {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If there is none.
    pub fn start() -> std::io::Result<Self> {
        let desk = Arc::new(Desk::default());
        Ok(Self {
            server: Server::start(Arc::clone(&desk))?,
            desk,
        })
    }

    /// Starts one at `address` with one limit, as [`Backend::limit`] sets it, and its books on the
    /// Redis at `url`, which others may share. It keeps that limit.
    ///
    /// # Errors
    /// If Redis does not answer, or the address is taken.
    #[cfg(feature = "redis")]
    pub fn start_on_redis(
        address: SocketAddr,
        url: &str,
        (conditions, max, window): (&str, u64, Duration),
    ) -> anyhow::Result<Self> {
        let (_, limit) = limit((NAMESPACE, conditions, &[]), max, window);
        let opened = crate::redis::Shared::open(url, vec![limit]);
        let desk = Arc::new(Desk {
            shared: Some(crate::server::runtime().block_on(opened)?),
            ..Desk::default()
        });
        Ok(Self {
            server: Server::start_at(address, Arc::clone(&desk))?,
            desk,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Limits descriptors that hold every `name=value` of `conditions` (joined by `&`; `""` is
    /// everybody) to `max` units per `window` (whole seconds). Setting it again moves the limit and
    /// keeps the count. Applies to the namespace `quota-gate`.
    pub fn limit(&self, conditions: &str, max: u64, window: Duration) -> &Self {
        self.limit_in(NAMESPACE, conditions, &[], max, window)
    }

    /// Limits each value of the entry `name` to `max` units per `window`, in the namespace
    /// `quota-gate`.
    pub fn limit_each(&self, name: &str, max: u64, window: Duration) -> &Self {
        self.limit_in(NAMESPACE, "", &[name], max, window)
    }

    /// Sets a limit in any namespace, with conditions and one count for each combination of the
    /// values of the entries `each`.
    pub fn limit_in(
        &self,
        namespace: &str,
        conditions: &str,
        each: &[&str],
        max: u64,
        window: Duration,
    ) -> &Self {
        let (name, limit) = limit((namespace, conditions, each), max, window);
        self.desk.books.set(&name, limit);
        self
    }

    /// Drops all limits and counts.
    pub fn unlimited(&self) -> &Self {
        self.desk.books.clear();
        self
    }

    /// Answers checks with the descriptor entry `condition` (`key=k1`) with 401 or 403.
    pub fn reject_key(&self, condition: &str, status: u16) -> &Self {
        let mut rejected = lock(&self.desk.rejected);
        rejected.retain(|(other, _)| other != condition);
        rejected.push((condition.to_owned(), status));
        self
    }

    /// Takes [`Backend::reject_key`] back: the key is good from now on.
    pub fn admit_key(&self, condition: &str) -> &Self {
        lock(&self.desk.rejected).retain(|(other, _)| other != condition);
        self
    }

    /// Which fields about the quota the `headers` wire sends; the draft's if not set.
    pub fn quota_headers(&self, fields: QuotaHeaders) -> &Self {
        *lock(&self.desk.quota_headers) = fields;
        self
    }

    /// Adds a header to every answer that is not a fault's (`cache-control`, `retry-after`, …).
    pub fn answer_header(&self, name: &str, value: &str) -> &Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
        let value = HeaderValue::from_bytes(value.as_bytes()).expect("a header value");
        lock(&self.desk.headers).push((name, value));
        self
    }

    /// Takes all of [`Backend::answer_header`] back.
    pub fn no_answer_headers(&self) -> &Self {
        lock(&self.desk.headers).clear();
        self
    }

    /// Every check from now on meets `fault`, in place of an earlier one set this way.
    pub fn fail(&self, fault: Fault) -> &Self {
        if matches!(fault, Fault::Refuse) {
            self.server.close();
            return self;
        }
        lock(&self.desk.faults).retain(|rule| rule.left.is_some() || rule.condition.is_some());
        self.rule(
            Rule {
                condition: None,
                fault,
                left: None,
            },
            false,
        )
    }

    /// The next `count` checks meet `fault`; these go before [`Backend::fail`].
    ///
    /// # Panics
    /// With `Fault::Refuse`: a closed port sees no checks to count.
    pub fn fail_next(&self, count: u32, fault: Fault) -> &Self {
        assert!(
            !matches!(fault, Fault::Refuse),
            "a closed port can't count checks"
        );
        self.rule(
            Rule {
                condition: None,
                fault,
                left: Some(count),
            },
            true,
        )
    }

    /// Checks with the descriptor entry `condition` (`tenant=acme`) meet `fault`; these go before
    /// [`Backend::fail`].
    ///
    /// # Panics
    /// With `Fault::Refuse`: a port is closed for all.
    pub fn fail_for(&self, condition: &str, fault: Fault) -> &Self {
        assert!(!matches!(fault, Fault::Refuse), "a port is closed for all");
        self.rule(
            Rule {
                condition: Some(condition.to_owned()),
                fault,
                left: None,
            },
            true,
        )
    }

    /// Ends all faults and opens the port again. Checks that hang go on hanging.
    ///
    /// # Panics
    /// If the port can't be opened.
    pub fn recover(&self) -> &Self {
        lock(&self.desk.faults).clear();
        self.server
            .open()
            .expect("the backend's own port can be opened again");
        self
    }

    /// Units charged so far by descriptor (`tenant=acme&plan=free`): grants and reports, what was
    /// taken back taken off.
    #[must_use]
    pub fn charged(&self) -> BTreeMap<String, i64> {
        self.desk.accounts.charged()
    }

    /// Units granted to checks so far, by descriptor: what is charged without the reports.
    #[must_use]
    pub fn granted(&self) -> BTreeMap<String, u64> {
        self.desk.accounts.granted()
    }

    /// The reports of use that were counted so far, those that came again included. They are not
    /// among the checks.
    #[must_use]
    pub fn told(&self) -> Vec<Told> {
        let mut told = self.desk.told.all();
        told.retain(Told::is_counted);
        told
    }

    /// The reports since the last time, also those that met a fault.
    #[must_use]
    pub fn take_told(&self) -> Vec<Told> {
        self.desk.told.take()
    }

    /// The checks so far.
    #[must_use]
    pub fn checks(&self) -> Vec<Check> {
        self.desk.journal.all()
    }

    /// The checks since the last time.
    #[must_use]
    pub fn take(&self) -> Vec<Check> {
        self.desk.journal.take()
    }

    /// Waits for `count` checks since the last [`Backend::take`], expects no more, and returns
    /// them.
    #[track_caller]
    pub fn expect_checks(&self, count: usize) -> Vec<Check> {
        self.desk.journal.expect("checks at the backend", count)
    }

    fn rule(&self, rule: Rule, first: bool) -> &Self {
        let mut faults = lock(&self.desk.faults);
        let place = if first { 0 } else { faults.len() };
        faults.insert(place, rule);
        drop(faults);
        self
    }
}

/// Which checks meet a fault.
struct Rule {
    condition: Option<String>,
    fault: Fault,
    left: Option<u32>,
}

#[derive(Default)]
struct Desk {
    accounts: Accounts,
    books: Books,
    /// Books on Redis, in place of those in memory.
    #[cfg(feature = "redis")]
    shared: Option<crate::redis::Shared>,
    faults: Mutex<Vec<Rule>>,
    headers: Mutex<Vec<(HeaderName, HeaderValue)>>,
    journal: Journal<Check>,
    quota_headers: Mutex<QuotaHeaders>,
    rejected: Mutex<Vec<(String, u16)>>,
    told: Journal<Told>,
}

impl Handler for Desk {
    async fn handle(&self, request: Request<Incoming>, line: Arc<Line>) -> Result<Answer, Hangup> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Hangup)?.to_bytes();
        let wire = wire_of(&head);
        let asked = read(wire, &head, &body);
        let descriptor = asked.as_ref().map(|asked| asked.descriptor.as_slice());
        let fault = self.fault_for(descriptor.unwrap_or_default());
        if !asked.as_ref().is_ok_and(Asked::is_report) {
            self.journal.push(Check {
                fault: fault.clone(),
                ..check(wire, &head, &body, asked.as_ref().ok())
            });
        }
        match fault {
            Some(fault) if fault.keeps_the_answer() => {
                let answer = self.answer(wire, asked, Some(&fault)).await;
                Ok(fault.spoil(answer, head.version, &line).await)
            }
            Some(fault) => {
                if let Ok(asked) = &asked
                    && asked.is_report()
                {
                    self.told.push(told(wire, asked, Some(&fault)));
                }
                fault.replace(head.version, &line).await
            }
            None => Ok(self.answer(wire, asked, None).await),
        }
    }
}

impl Desk {
    async fn answer(
        &self,
        wire: Wire,
        asked: Result<Asked, Box<Answer>>,
        fault: Option<&Fault>,
    ) -> Answer {
        let asked = match asked {
            Ok(asked) => asked,
            Err(answer) => return *answer,
        };
        if asked.is_report() {
            #[cfg(feature = "redis")]
            if self.shared.is_some() {
                return self.settle(wire, &asked).await;
            }
            return self.take_report(wire, &asked, fault);
        }
        let mut answer = match self.rejection(&asked.descriptor) {
            Some(status) => text(status, "the key is not valid here"),
            None => self.settle(wire, &asked).await,
        };
        for (name, value) in lock(&self.headers).iter() {
            answer.headers_mut().append(name, value.clone());
        }
        answer
    }

    #[cfg_attr(not(feature = "redis"), allow(clippy::unused_async))]
    async fn settle(&self, wire: Wire, asked: &Asked) -> Answer {
        let fields = *lock(&self.quota_headers);
        #[cfg(feature = "redis")]
        if let Some(shared) = &self.shared {
            return crate::wire::settle_shared(wire, asked, shared, fields).await;
        }
        let (answer, granted) = settle(wire, asked, &self.books, fields);
        self.accounts.grant(&asked.descriptor, granted);
        answer
    }

    /// Counts what requests have used, unless it was told before.
    fn take_report(&self, wire: Wire, asked: &Asked, fault: Option<&Fault>) -> Answer {
        let again = asked
            .id
            .as_ref()
            .is_some_and(|id| !self.accounts.is_new(id));
        if !again {
            self.books
                .report(&asked.namespace, &asked.descriptor, asked.units);
            self.accounts.charge(&asked.descriptor, asked.units);
        }
        self.told.push(Told {
            again,
            ..told(wire, asked, fault)
        });
        reported()
    }

    fn rejection(&self, descriptor: &[(String, String)]) -> Option<StatusCode> {
        let rejected = lock(&self.rejected);
        let found = rejected
            .iter()
            .find(|(condition, _)| holds(descriptor, condition));
        found.and_then(|(_, status)| StatusCode::from_u16(*status).ok())
    }

    /// The first rule that fits; rules that are used up go.
    fn fault_for(&self, descriptor: &[(String, String)]) -> Option<Fault> {
        let mut faults = lock(&self.faults);
        let fits = |rule: &Rule| {
            rule.condition
                .as_ref()
                .is_none_or(|condition| holds(descriptor, condition))
        };
        let rule = faults.iter_mut().find(|rule| fits(rule))?;
        if let Some(left) = &mut rule.left {
            *left -= 1;
        }
        let fault = rule.fault.clone();
        faults.retain(|rule| rule.left != Some(0));
        Some(fault)
    }
}

fn told(wire: Wire, asked: &Asked, fault: Option<&Fault>) -> Told {
    Told {
        wire,
        descriptor: asked.descriptor.clone(),
        units: asked.units,
        id: asked.id.clone(),
        unchecked: asked.unchecked.clone(),
        again: false,
        fault: fault.cloned(),
    }
}

fn holds(descriptor: &[(String, String)], condition: &str) -> bool {
    let (name, value) = condition
        .split_once('=')
        .expect("a condition like tenant=acme");
    descriptor
        .iter()
        .any(|(other, its)| other == name && its == value)
}

fn check(
    wire: Wire,
    head: &hyper::http::request::Parts,
    body: &Bytes,
    asked: Option<&Asked>,
) -> Check {
    let headers = fields(&head.headers);
    let host = || values(&headers, "host").pop().unwrap_or_default();
    Check {
        at: now(),
        wire,
        method: head.method.to_string(),
        path: head
            .uri
            .path_and_query()
            .map(ToString::to_string)
            .unwrap_or_default(),
        authority: head.uri.authority().map_or_else(host, ToString::to_string),
        h2: head.version == Version::HTTP_2,
        headers,
        body: body.to_vec(),
        namespace: asked
            .map(|asked| asked.namespace.clone())
            .unwrap_or_default(),
        descriptor: asked
            .map(|asked| asked.descriptor.clone())
            .unwrap_or_default(),
        cost: asked.map_or(0, |asked| asked.cost),
        cost_min: asked.and_then(|asked| asked.cost_min),
        fault: None,
    }
}
