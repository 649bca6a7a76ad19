//! A script in the pretend host.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use pretend_host::{
    Backend, Call as Made, End, Ending, Fate, Headers, Host, MILLISECOND, Module, Options, Request,
    Stream, StreamId,
};

use super::script::{Asked, BRIEF_MS, Mood, Script, Step};
use super::seen::{Call, Run, Seen, is_ours, matters, timeless, told, without_ms};

/// The backend: its mood, and what it was asked.
#[derive(Clone)]
struct Desk(Rc<RefCell<(Mood, Vec<Call>)>>);

impl Backend for Desk {
    fn call(&mut self, made: &Made) -> Ending {
        let (mood, calls) = &mut *self.0.borrow_mut();
        match made.cluster.as_str() {
            "no-such-cluster" => return Ending::new(0, End::UnknownCluster),
            "nobody" | "full" => return Ending::new(0, End::Refused),
            _ => {}
        }
        let timeout = u64::from(made.timeout_ms) * MILLISECOND;
        let soon = MILLISECOND / 2;
        let ending = match mood {
            Mood::Says(status, fields, body) => {
                let mut headers = Headers::new();
                for (name, value) in fields {
                    headers.add(name, value);
                }
                let (status, body) = (*status, body.clone().into_bytes());
                let said = End::Reply {
                    status,
                    headers,
                    body,
                };
                Ending::new(soon, said)
            }
            Mood::Brief => Ending::new(BRIEF_MS * MILLISECOND, End::Host(408)),
            Mood::Informational => Ending::status(soon, 200),
            Mood::Late(millis) => Ending::status(*millis * MILLISECOND, 200),
            Mood::Hang => Ending::new(0, End::Silence),
            Mood::Close | Mood::Refuse | Mood::Reset => Ending::new(soon, End::Host(503)),
            Mood::Garbage | Mood::WrongVersion => Ending::new(soon, End::Host(502)),
            Mood::ResetMidBody | Mood::Huge => Ending::new(soon, End::Broken),
            Mood::Stall => Ending::new(timeout, End::Broken),
        };
        // A port that is closed sees no call.
        if !matches!(mood, Mood::Refuse) {
            calls.push(call(made));
        }
        ending
    }
}

fn call(made: &Made) -> Call {
    let text = |name| made.headers.text(name).unwrap_or_default();
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in made.headers.iter().filter(|(name, _)| is_ours(name)) {
        let value = String::from_utf8_lossy(value).into_owned();
        headers.entry(name.to_owned()).or_default().push(value);
    }
    Call {
        line: format!("{} {}", text(":method"), text(":path")),
        headers,
        body: String::from_utf8_lossy(&made.body).into_owned(),
    }
}

/// Runs a script.
pub(crate) fn run(module: &Module, script: &Script) -> Run {
    let desk = Desk(Rc::new(RefCell::new((Mood::status(200), Vec::new()))));
    let config = script.config.to_string();
    let host = Host::new(module, config.as_bytes(), Options::default(), desk.clone());
    let mut world = World {
        host: host.expect("the pretend host takes the configuration"),
        desk,
        run: Run::default(),
    };
    // The first tick tells of the configuration.
    world.host.run_for(50 * MILLISECOND);
    for (number, step) in script.steps.iter().enumerate() {
        world.step(number, step);
    }
    world.finish()
}

struct World<'m> {
    host: Host<'m>,
    desk: Desk,
    run: Run,
}

impl World<'_> {
    fn step(&mut self, number: usize, step: &Step) {
        match step {
            Step::Backend(mood) => self.desk.0.borrow_mut().0 = mood.clone(),
            Step::Push(config, good) => {
                let pushed = self.host.push(config.to_string().as_bytes(), 0);
                assert_eq!(pushed.is_ok(), *good, "the push of step {number}");
                // A tick tells of it.
                self.host.run_for(50 * MILLISECOND);
            }
            Step::Request(asked) => {
                let id = self.host.request(0, &request(number, 0, asked));
                self.await_ends(&[id]);
            }
            Step::Joined(asked, count) => {
                let send = |place| self.host.request(0, &request(number, place, asked));
                let ids: Vec<StreamId> = (0..*count).map(send).collect();
                self.await_ends(&ids);
            }
            Step::Leave(asked) => {
                let id = self.host.request(0, &request(number, 0, asked));
                self.host.run_for(MILLISECOND);
                self.host.disconnect(id);
                self.await_ends(&[id]);
                // Its call ends all the same.
                for _ in 0..LONG {
                    if self.host.calls_in_flight(0) > 0 {
                        self.host.run_for(10 * MILLISECOND);
                    }
                }
            }
            Step::Until(state) => {
                let gauge = "quota_gate.breaker_state.backend.quota";
                let reached = (0..LONG).any(|_| {
                    self.host.run_for(10 * MILLISECOND);
                    self.host.metrics().gauge(gauge) == Some(u64::from(*state))
                });
                assert!(reached, "the breaker is never in state {state}");
            }
        }
    }

    fn await_ends(&mut self, ids: &[StreamId]) {
        let mut ended = Vec::new();
        for _ in 0..LONG {
            ended.extend(self.host.take_ended());
            if ended.len() == ids.len() {
                break;
            }
            self.host.run_for(MILLISECOND);
        }
        assert_eq!(ended.len(), ids.len(), "a stream never ends");
        ended.sort_by_key(|stream| stream.id);
        let mut calls = std::mem::take(&mut self.desk.0.borrow_mut().1);
        for stream in &ended {
            let seen = seen(stream, std::mem::take(&mut calls));
            self.run.seen.push(seen);
        }
    }

    fn finish(mut self) -> Run {
        // By then the module takes a replaced root for one that is over.
        self.host.run_for(SETTLED);
        assert_eq!(self.host.traps(), [""; 0]);
        assert_eq!(self.host.complaints(), [""; 0]);
        let lines = self.host.take_log();
        self.run.log = lines.iter().filter_map(|line| told(&line.text)).collect();
        let metrics = self.host.metrics();
        let all = metrics.counters.iter().chain(&metrics.gauges);
        self.run.metrics = all
            .filter(|(_, value)| **value > 0)
            .map(|(name, value)| (name.clone(), *value))
            .collect();
        drop(metrics);
        self.run
    }
}

fn request(number: usize, place: usize, asked: &Asked) -> Request {
    let mut request = Request::new(asked.method, &asked.path)
        .route_name("default")
        .header("x-request-id", format!("parity-{number}-{place}"));
    for (name, value) in &asked.headers {
        request = request.header(name, value);
    }
    match asked.body {
        Some(bytes) => request.body(bytes),
        None => request,
    }
}

fn seen(stream: &Stream, calls: Vec<Call>) -> Seen {
    let mut seen = Seen {
        state: without_ms(&stream.note("quota_gate")),
        calls,
        ..Seen::default()
    };
    let texts = |headers: &Headers, name: &str| -> Vec<String> {
        let values = headers.values(name);
        values
            .map(|value| String::from_utf8_lossy(value).into_owned())
            .collect()
    };
    let response = stream.response.clone().unwrap_or_default();
    for (name, _) in response.iter().filter(|(name, _)| matters(name)) {
        seen.headers.insert(name.to_owned(), texts(&response, name));
    }
    match &stream.fate {
        Some(Fate::Upstream) => {
            seen.status = 200;
            seen.told = texts(&stream.request, "x-quota-decision");
        }
        Some(Fate::Answered(reply)) => {
            let status = response.text(":status").unwrap_or_default();
            seen.status = status.parse().unwrap_or_default();
            seen.grpc = response.text("grpc-status");
            seen.details = reply.details.clone();
            if seen.grpc.is_none() {
                seen.body = timeless(&reply.body);
            }
        }
        _ => {}
    }
    seen
}

const SETTLED: u64 = 5000 * MILLISECOND;

/// Looks until something that never happens counts as such.
const LONG: usize = 60_000;
