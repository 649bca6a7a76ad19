//! How a request leaves the gate, for each way in which its call may end.

use std::rc::Rc;
use std::time::Duration;

use quota_gate::config::{Choice, Config, FailureMode, Policy};
use quota_gate::decision::{CheckError, Outcome};
use quota_gate::gate::reply::CallEnd;
use quota_gate::gate::{Effect, Flow, Gate, Outgoing, Release, StreamId};
use quota_gate::request::PlainRequest;
use quota_gate::shared::PlainShared;
use quota_gate::time::Wall;
use quota_gate::wire::{RawReply, Reply, ReplyOutcome, Wire};

use super::Seen;

/// One line of the table.
pub(super) struct Row {
    /// What happens to the call.
    pub(super) what: String,
    /// How the request leaves, and the statuses for HTTP and gRPC where it is denied.
    pub(super) outcome: Option<(Outcome, Option<(u16, i32)>)>,
    pub(super) note: String,
}

/// What becomes of the request before anybody has answered.
pub(super) struct First {
    pub(super) flow: Flow,
    pub(super) wait: Duration,
    pub(super) call: Option<Outgoing>,
}

/// A gate of its own, and what its workers share.
struct Stage {
    gate: Gate,
    shared: PlainShared,
    now: Wall,
}

impl Stage {
    fn new(config: &Config, now: Wall) -> Self {
        Self {
            gate: Gate::new(config.clone(), 1),
            shared: PlainShared::default(),
            now,
        }
    }

    fn ask(&mut self, request: &PlainRequest) -> Flow {
        let now = self.now;
        self.gate
            .handle_request(|| now, STREAM, request, &mut self.shared)
    }

    fn call(&mut self) -> Option<Outgoing> {
        std::iter::from_fn(|| self.gate.poll_effect()).find_map(|effect| match effect {
            Effect::Call(call) => Some(call),
            Effect::Log(..) | Effect::Release(..) => None,
        })
    }

    /// Asks, ends the call, and tells how the request leaves.
    fn end(
        &mut self,
        request: &PlainRequest,
        end: CallEnd<'_>,
        later: Duration,
    ) -> Option<Release> {
        if let Flow::Release(release) = self.ask(request) {
            return Some(release);
        }
        let call = self.call()?;
        let now = self.now.after(later);
        self.gate.handle_reply(now, call.id, end, &mut self.shared);
        std::iter::from_fn(|| self.gate.poll_effect()).find_map(|effect| match effect {
            Effect::Release(_, release) => Some(release),
            Effect::Call(_) | Effect::Log(..) => None,
        })
    }
}

/// What becomes of the request at first.
pub(super) fn first(config: &Config, request: &PlainRequest, now: Wall) -> First {
    let mut stage = Stage::new(config, now);
    let flow = stage.ask(request);
    let deadline = stage.gate.next_deadline();
    // The gate's clock has just been started, by this reading.
    let wait = deadline.map_or(Duration::ZERO, |(at, _)| {
        Duration::from_nanos(at.0.saturating_sub(now.0))
    });
    First {
        flow,
        wait,
        call: stage.call(),
    }
}

/// The line of a request that leaves so.
pub(super) fn row(what: &str, release: &Release, request: &PlainRequest) -> Row {
    let denial = Gate::denial(release, request);
    let mut note = String::new();
    if let Some(would) = release.decision.shadowed {
        note = format!("would be {}", would.code());
    }
    Row {
        what: what.to_owned(),
        outcome: Some((
            release.decision.outcome,
            denial.map(|denial| (denial.status, denial.grpc_status)),
        )),
        note,
    }
}

/// Every way in which the call may end.
pub(super) fn all(config: &Config, seen: &Seen, now: Wall) -> Vec<Row> {
    let request = seen.request();
    let mut rows = Vec::new();
    let Some(call) = first(config, &request, now).call else {
        return rows;
    };
    let Some(backend) = config.backends.get(call.backend) else {
        return rows;
    };
    let wire = Wire::new(backend);
    for (what, wanted) in ANSWERS {
        let known = candidates().find(|candidate| wanted(&judged(&wire, candidate, now)));
        let Some(known) = known else {
            rows.push(none(what, "no usual reply of this language says so"));
            continue;
        };
        let (name, value) = known.header;
        let headers: [(&[u8], &[u8]); 1] = [(name.as_bytes(), value.as_bytes())];
        let reply = CallEnd::Reply(RawReply {
            status: known.status,
            headers: if name.is_empty() { &[] } else { &headers },
            body: known.body.as_bytes(),
            now,
        });
        let release = Stage::new(config, now).end(&request, reply, SOON);
        let mut added = release.map_or_else(|| none(what, "-"), |own| row(what, &own, &request));
        if added.note.is_empty() {
            added.note = known.told();
        }
        rows.push(added);
    }
    let timeout = Duration::from_millis(u64::from(call.timeout_ms));
    let ends = [
        ("timeout", CallEnd::Host(504), timeout),
        ("unreachable", CallEnd::Host(503), SOON),
        ("dispatch", CallEnd::Refused, Duration::ZERO),
    ];
    for (what, end, later) in ends {
        let release = Stage::new(config, now).end(&request, end, later);
        rows.push(release.map_or_else(|| none(what, "-"), |own| row(what, &own, &request)));
    }
    rows.push(match backend.breaker {
        None => none("breaker_open", "never: there is no breaker"),
        Some(_) => behind_open_breaker(config, &request, now),
    });
    rows.push(too_many(config, &request, now));
    rows.push(in_a_hurry(config, seen, now));
    rows
}

/// The breaker is tripped by a gate that fails open, so that no local limit is used up by it.
fn behind_open_breaker(config: &Config, request: &PlainRequest, now: Wall) -> Row {
    let mut touchy = config.clone();
    for backend in &mut touchy.backends {
        let mut own = (**backend).clone();
        if let Some(breaker) = &mut own.breaker {
            breaker.consecutive_failures = 1;
        }
        *backend = Rc::new(own);
    }
    let mut tripping = Stage::new(&failing_open(&touchy), now);
    drop(tripping.end(request, CallEnd::Refused, Duration::ZERO));
    let mut stage = Stage::new(&touchy, now.after(SOON));
    stage.shared = tripping.shared;
    stage.gate.handle_tick(stage.now, &mut stage.shared);
    drop(stage.call());
    let what = "breaker_open";
    match stage.ask(request) {
        Flow::Release(release) => row(what, &release, request),
        Flow::Answer(_) | Flow::Wait => none(what, "-"),
    }
}

fn failing_open(config: &Config) -> Config {
    let open = |policy: &Rc<Policy>| {
        let mut policy = Policy::clone(policy);
        policy.failure_mode = FailureMode::FailOpen;
        Rc::new(policy)
    };
    let chosen = |choice: &Choice| match choice {
        Choice::Off => Choice::Off,
        Choice::Policy(policy) => Choice::Policy(open(policy)),
    };
    let mut changed = config.clone();
    changed.policies = config.policies.iter().map(open).collect();
    changed.default_policy = chosen(&config.default_policy);
    for route in &mut changed.routes {
        route.choice = chosen(&route.choice);
    }
    changed
}

fn too_many(config: &Config, request: &PlainRequest, now: Wall) -> Row {
    let mut full = config.clone();
    for backend in &mut full.backends {
        let mut own = (**backend).clone();
        own.max_pending = 0;
        *backend = Rc::new(own);
    }
    let what = "too_many_pending";
    match Stage::new(&full, now).ask(request) {
        Flow::Release(release) => row(what, &release, request),
        Flow::Answer(_) | Flow::Wait => none(what, "-"),
    }
}

fn in_a_hurry(config: &Config, seen: &Seen, now: Wall) -> Row {
    let mut hurried = seen.clone();
    hurried.headers.retain(|(name, _)| name != "grpc-timeout");
    let header = ("grpc-timeout".to_owned(), "1n".to_owned());
    hurried.headers.push(header);
    let request = hurried.request();
    let what = "deadline_too_short";
    match Stage::new(config, now).ask(&request) {
        Flow::Release(release) => row(what, &release, &request),
        Flow::Answer(_) | Flow::Wait => none(what, "-"),
    }
}

fn none(what: &str, note: &str) -> Row {
    Row {
        what: what.to_owned(),
        outcome: None,
        note: note.to_owned(),
    }
}

/// A reply that some backend gives.
struct Candidate {
    status: u16,
    header: (&'static str, &'static str),
    body: &'static str,
}

impl Candidate {
    fn told(&self) -> String {
        match (self.header.0, self.body) {
            ("", "") => format!("such as {}", self.status),
            ("", body) => format!("such as {} {body}", self.status),
            (name, _) => format!("such as {} with {name}: {}", self.status, self.header.1),
        }
    }
}

fn judged(wire: &Wire, candidate: &Candidate, now: Wall) -> Result<Reply, CheckError> {
    let (name, value) = candidate.header;
    let headers: [(&[u8], &[u8]); 1] = [(name.as_bytes(), value.as_bytes())];
    wire.decode(&RawReply {
        status: candidate.status,
        headers: if name.is_empty() { &[] } else { &headers },
        body: candidate.body.as_bytes(),
        now,
    })
}

fn candidates() -> impl Iterator<Item = Candidate> {
    let plain = STATUSES.into_iter().flat_map(|status| {
        BODIES.into_iter().map(move |body| Candidate {
            status,
            header: ("", ""),
            body,
        })
    });
    let odd = Candidate {
        status: 200,
        header: ("x-quota-granted", "some"),
        body: "",
    };
    plain.chain([odd])
}

type Wanted = fn(&Result<Reply, CheckError>) -> bool;

/// What an answer may come to.
const ANSWERS: [(&str, Wanted); 5] = [
    ("allowed", |reply| {
        let told = reply.as_ref().map(|reply| reply.outcome);
        matches!(told, Ok(ReplyOutcome::Granted { .. }))
    }),
    ("denied", |reply| {
        let told = reply.as_ref().map(|reply| reply.outcome);
        matches!(told, Ok(ReplyOutcome::Denied))
    }),
    ("rejected", |reply| {
        let told = reply.as_ref().map(|reply| reply.outcome);
        matches!(told, Ok(ReplyOutcome::Rejected { .. }))
    }),
    ("status", |reply| {
        matches!(reply, Err(CheckError::Status(_)))
    }),
    ("bad_reply", |reply| {
        matches!(reply, Err(CheckError::BadReply))
    }),
];

const STATUSES: [u16; 9] = [200, 204, 429, 403, 401, 500, 503, 404, 302];

/// The presets' own words for yes and no, and what is none of them.
const BODIES: [&str; 11] = [
    "",
    r#"{"overallCode":"OK"}"#,
    r#"{"overallCode":"OVER_LIMIT"}"#,
    r#"{"responses":[{"status":"UNDER_LIMIT","limit":"10","remaining":"9"}]}"#,
    r#"{"responses":[{"status":"OVER_LIMIT","limit":"10","remaining":"0"}]}"#,
    r#"{"allowed":true,"limit":10,"remaining":9,"reset_after":1,"retry_after":0}"#,
    r#"{"allowed":false,"limit":10,"remaining":0,"reset_after":1,"retry_after":1}"#,
    r#"{"meta":{"requestId":"r"},"data":{"limit":10,"remaining":9,"reset":0,"success":true}}"#,
    r#"{"meta":{"requestId":"r"},"data":{"limit":10,"remaining":0,"reset":0,"success":false}}"#,
    "{}",
    "?",
];

const STREAM: StreamId = StreamId(1);
/// How long a quick answer takes.
const SOON: Duration = Duration::from_millis(1);
