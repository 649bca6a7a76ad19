//! No reply gives more than was asked for, or says a thing and its opposite.

use std::collections::VecDeque;

use quota_gate::config::{Config, Preset, RateLimitHeaders};
use quota_gate::decision::{Decision, DenyReason, Outcome, Told};
use quota_gate::denial::{Denial, Facts};
use quota_gate::descriptor;
use quota_gate::fields;
use quota_gate::gate::reply::CallEnd;
use quota_gate::gate::{Effect, Flow, Gate, Outgoing, Release, StreamId};
use quota_gate::request::PlainRequest;
use quota_gate::shared::PlainShared;
use quota_gate::time::Wall;
use quota_gate::wire::{BODY_BYTES_MAX, RawReply, Reply, ReplyOutcome, Wire};

use crate::config::hold_message;
use crate::descriptor::hold_denial;
use crate::{fixture, hold, input, is_clean};

const NOW: Wall = Wall(1_800_000_000_000_000_000);

/// Takes the bytes as a status on a line of its own, headers, an empty line and a body.
pub fn hold(bytes: &[u8]) {
    let (head, body) = input::halves(bytes);
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let fields = input::fields(head.get(line.len() + 1..).unwrap_or_default());
    let headers: Vec<(&[u8], &[u8])> = fields
        .iter()
        .map(|(name, value)| (name.as_bytes(), *value))
        .collect();
    let digits = std::str::from_utf8(line.trim_ascii()).unwrap_or_default();
    let raw = RawReply {
        status: digits.parse().unwrap_or(200),
        headers: &headers,
        body,
        now: NOW,
    };
    let config = fixture::config();
    for (backend, wire) in config.backends.iter().zip(fixture::wires(&config)) {
        let read = wire.decode(&raw);
        hold_case(&wire, &raw, &read);
        if let Ok(reply) = read {
            hold_reply(&raw, &reply, backend.preset, backend.name == "statuses");
            hold_told(&config, &reply);
        }
    }
    // One backend a time is enough for the rest: another input is another one's.
    let turn = bytes
        .iter()
        .fold(0_usize, |sum, byte| sum + usize::from(*byte));
    hold_gate(&config, turn % config.policies.len(), &raw);
}

/// The case of names says nothing.
fn hold_case(wire: &Wire, raw: &RawReply<'_>, read: &Result<Reply, impl std::fmt::Debug>) {
    let names: Vec<Vec<u8>> = raw
        .headers
        .iter()
        .map(|(name, _)| name.to_ascii_uppercase())
        .collect();
    let headers: Vec<(&[u8], &[u8])> = names
        .iter()
        .zip(raw.headers)
        .map(|(name, (_, value))| (&name[..], *value))
        .collect();
    let loud = RawReply {
        headers: &headers,
        ..*raw
    };
    let again = wire.decode(&loud);
    hold!(
        format!("{read:?}") == format!("{again:?}"),
        "{read:?}, and in capitals {again:?}"
    );
}

fn hold_reply(raw: &RawReply<'_>, reply: &Reply, preset: Preset, own_statuses: bool) {
    match reply.outcome {
        ReplyOutcome::Granted { .. } => {
            hold!(
                reply.retry_after.is_none(),
                "a yes, and to come again later"
            );
            let is_yes = (200..300).contains(&raw.status) || own_statuses;
            hold!(is_yes, "a yes of status {}", raw.status);
            let by_body = matches!(
                preset,
                Preset::Gubernator | Preset::Throttlecrab | Preset::Unkey
            );
            hold!(
                !by_body || (!raw.body.is_empty() && raw.body.len() <= BODY_BYTES_MAX),
                "a yes of a body of {} bytes",
                raw.body.len()
            );
        }
        ReplyOutcome::Rejected { status } => {
            hold!(matches!(status, 401 | 403), "rejected with {status}");
        }
        ReplyOutcome::Denied => {}
    }
}

/// What a client gets to see of it is well formed.
fn hold_told(config: &Config, reply: &Reply) {
    let styles = [
        RateLimitHeaders::Draft,
        RateLimitHeaders::None,
        RateLimitHeaders::XRatelimit,
    ];
    for style in styles {
        for (name, value) in fields::fields(style, "gold", &reply.limits) {
            hold!(
                is_clean(&value) && value.len() < 100,
                "{name}: {:?}",
                String::from_utf8_lossy(&value)
            );
        }
    }
    let decision = Decision::deny(DenyReason::QuotaExceeded).telling(Told {
        retry_after: reply.retry_after,
        limits: reply.limits,
        ..Told::default()
    });
    let denial = Denial::new(
        DenyReason::QuotaExceeded,
        &decision,
        &config.policies[0],
        &Facts::default(),
    );
    hold_denial(&denial);
}

/// A gate whose backend always says this: nobody hangs, all are counted, no unit is made up.
struct Run<'a> {
    gate: Gate,
    shared: PlainShared,
    wall: Wall,
    raw: &'a RawReply<'a>,
    /// Units that were asked for ahead of need.
    asked: u64,
    seen: i64,
}

fn hold_gate(config: &Config, policy: usize, raw: &RawReply<'_>) {
    let policy = &config.policies[policy];
    let request = PlainRequest::new("GET", "api.example.com", &format!("/{}", policy.name))
        .with_header("x-tenant-id", "acme")
        .with_header("x-cost", "2")
        .with_header("x-forwarded-for", "192.0.2.7, 192.0.2.8")
        .with_property(&["source", "address"], "192.0.2.9:4711")
        .with_property(&["metadata", "text"], "acme");
    let path = format!("/{}?user=ann", policy.name);
    let request = match policy.name.as_ref() {
        "gubernator" => PlainRequest::new("GET", "api.example.com", &path),
        _ => request,
    };
    let cost = descriptor::cost(policy, &request).expect("a cost");
    let mut run = Run {
        gate: Gate::new(config.clone(), 1),
        shared: PlainShared::default(),
        wall: NOW,
        raw,
        asked: 0,
        seen: 0,
    };
    let most = policy.lease.as_ref().map_or(0, |terms| terms.max_units);
    // One by one; then several at once, which is when leases begin.
    for at_once in [1, 2, 6, 6, 1, 6] {
        run.arrive(at_once, &request, cost);
        let holds = run.gate.holdings();
        hold!(
            holds.lease_units_most <= most && holds.lease_units <= run.asked.max(most),
            "{holds:?}, of {} asked for and {most} allowed",
            run.asked
        );
        run.wall.0 += 30_000_000;
        run.gate.handle_tick(run.wall, &mut run.shared);
        run.carry_out();
    }
    run.end(config);
}

impl Run<'_> {
    fn arrive(&mut self, at_once: u32, request: &PlainRequest, cost: u64) {
        for _ in 0..at_once {
            let stream = StreamId(self.seen as u32);
            self.seen += 1;
            let wall = self.wall;
            let shared = &mut self.shared;
            match self.gate.handle_request(|| wall, stream, request, shared) {
                Flow::Release(release) => hold_release(&release, request),
                Flow::Wait => {}
                Flow::Answer(_) => panic!("the status page"),
            }
        }
        self.wall.0 += 2_000_000;
        self.carry_out();
        hold!(cost <= 20, "a cost of {cost}");
    }

    /// Answers every call, and the calls that come of the answers.
    fn carry_out(&mut self) {
        let mut calls = VecDeque::new();
        for _ in 0..CALLS_MAX {
            while let Some(effect) = self.gate.poll_effect() {
                match effect {
                    Effect::Call(call) => calls.push_back(call),
                    Effect::Log(_, line) => hold!(is_clean(line.as_bytes()), "a line: {line:?}"),
                    Effect::Release(_, release) => hold_release(&release, &PlainRequest::default()),
                }
            }
            let Some(call) = calls.pop_front() else {
                hold!(
                    self.gate.pending() == (0, 0),
                    "all calls have ended, and pending: {:?}",
                    self.gate.pending()
                );
                return;
            };
            self.note(&call);
            let end = CallEnd::Reply(*self.raw);
            self.gate
                .handle_reply(self.wall, call.id, end, &mut self.shared);
        }
        panic!("more than {CALLS_MAX} calls for a handful of requests");
    }

    fn note(&mut self, call: &Outgoing) {
        hold_message(&call.message);
        let number = |name: &str| {
            let value = call.message.header(name)?;
            std::str::from_utf8(value).ok()?.parse::<u64>().ok()
        };
        let ahead = call.message.header("x-quota-cost-min").is_some();
        self.asked += number("x-quota-cost").filter(|_| ahead).unwrap_or(0);
    }

    fn end(mut self, config: &Config) {
        self.gate.handle_end(self.wall, &mut self.shared);
        let (mut counted, mut granted) = (0, 0);
        self.gate.flush_metrics(|metric, change| {
            let name = metric.name(config);
            if name.starts_with("quota_gate.requests.") {
                counted += change;
            } else if name == "quota_gate.leases.event.granted_units" {
                granted += change;
            }
        });
        hold!(
            counted == self.seen,
            "{} requests, {counted} counted",
            self.seen
        );
        hold!(
            self.asked == 0 || granted as u64 <= self.asked,
            "{granted} units are granted, {} were asked for",
            self.asked
        );
    }
}

/// Far more than there are requests: a reply that leads to calls without end is found by it.
const CALLS_MAX: usize = 200;

fn hold_release(release: &Release, request: &PlainRequest) {
    hold!(
        is_clean(release.log_state.as_bytes()),
        "the access log: {:?}",
        release.log_state
    );
    let denied = matches!(release.decision.outcome, Outcome::Deny(_));
    let denial = Gate::denial(release, request);
    hold!(denied == denial.is_some(), "denied without an answer");
    if let Some(denial) = denial {
        hold_denial(&denial);
    }
}
