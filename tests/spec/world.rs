//! The pretend host: a clock, workers that share data, a scripted backend, and everything emitted.
//!
//! Time is virtual: nothing here waits. The backend answers each call by the script in force when
//! the call is made. After each run the sum law is checked: every request that is over was counted
//! exactly once.

use std::collections::BTreeMap;
use std::time::Duration;

use quota_gate::config::parse::parse;
use quota_gate::decision::Outcome;
use quota_gate::denial::Denial;
use quota_gate::gate::reply::CallEnd;
use quota_gate::gate::{CallId, Effect, Flow, Gate, Level, Outgoing, Release, StreamId, TICK};
use quota_gate::metrics::Kind;
use quota_gate::request::PlainRequest;
use quota_gate::response::PlainResponse;
use quota_gate::shared::PlainShared;
use quota_gate::time::Wall;
use quota_gate::wire::RawReply;
use serde_json::Value;

/// What the backend does with a call.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    end: End,
    after: Duration,
}

#[derive(Clone, Debug)]
enum End {
    Broken,
    Host(u16),
    Lost,
    Refused,
    Reply {
        status: u16,
        headers: Vec<(String, Vec<u8>)>,
        body: Vec<u8>,
    },
    /// What the host does when nobody answers: a 504 when the call's time is up.
    Silence,
}

impl Script {
    pub(crate) fn status(status: u16) -> Self {
        Self::of(End::Reply {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        })
    }

    pub(crate) fn allow() -> Self {
        Self::status(200)
    }

    pub(crate) fn deny() -> Self {
        Self::status(429)
    }

    pub(crate) fn hang() -> Self {
        Self::of(End::Silence)
    }

    /// The host refuses to make the call.
    pub(crate) fn refuse() -> Self {
        Self::of(End::Refused)
    }

    /// The connection breaks in the middle of the reply.
    pub(crate) fn broken() -> Self {
        Self::of(End::Broken)
    }

    /// The host answers in the backend's place.
    pub(crate) fn host(status: u16) -> Self {
        Self::of(End::Host(status))
    }

    /// The host never tells how the call ended.
    pub(crate) fn lost() -> Self {
        Self::of(End::Lost)
    }

    pub(crate) fn after(mut self, millis: u64) -> Self {
        self.after = Duration::from_millis(millis);
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        if let End::Reply { headers, .. } = &mut self.end {
            headers.push((name.to_owned(), value.as_ref().to_vec()));
        }
        self
    }

    pub(crate) fn body(mut self, text: &str) -> Self {
        if let End::Reply { body, .. } = &mut self.end {
            *body = text.as_bytes().to_vec();
        }
        self
    }

    fn of(end: End) -> Self {
        Self {
            end,
            after: Duration::from_millis(1),
        }
    }
}

/// A call as the backend saw it.
#[derive(Clone, Debug)]
pub(crate) struct SeenCall {
    pub(crate) timeout_ms: u32,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: String,
}

impl SeenCall {
    pub(crate) fn path(&self) -> String {
        self.header(":path").unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let found = self.headers.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }
}

/// How a stream ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) after: Duration,
    pub(crate) reason: &'static str,
    pub(crate) cause: Option<&'static str>,
    pub(crate) log_state: String,
    pub(crate) denial: Option<Denial>,
}

enum Event {
    End(usize, CallId, End),
    Tick(usize),
}

struct Stream {
    worker: usize,
    request: PlainRequest,
    since: Wall,
    closed: bool,
    ended: Option<Ended>,
}

/// Workers under one configuration.
pub(crate) struct World {
    workers: Vec<Gate>,
    /// Workers whose root the host has forgotten: another root's ticks drive them.
    forgotten: Vec<usize>,
    shared: PlainShared,
    now: Wall,
    script: Script,
    next: Vec<Script>,
    events: BTreeMap<(Wall, u64), Event>,
    serial: u64,
    streams: BTreeMap<StreamId, Stream>,
    pub(crate) calls: Vec<SeenCall>,
    pub(crate) log: Vec<(Level, String)>,
    metrics: BTreeMap<String, i64>,
}

impl World {
    pub(crate) fn new(config: &Value) -> Self {
        Self::with_workers(config, 1)
    }

    #[track_caller]
    pub(crate) fn with_workers(config: &Value, workers: usize) -> Self {
        let start = Wall::from_secs(1_800_000_000);
        let config = match parse(config.to_string().as_bytes()) {
            Ok(config) => config,
            Err(problems) => panic!("{problems}"),
        };
        let gates = (0..workers)
            .map(|worker| Gate::new(config.clone(), worker as u64))
            .collect();
        let mut world = Self {
            workers: gates,
            forgotten: Vec::new(),
            shared: PlainShared::default(),
            now: start,
            script: Script::allow(),
            next: Vec::new(),
            events: BTreeMap::new(),
            serial: 0,
            streams: BTreeMap::new(),
            calls: Vec::new(),
            log: Vec::new(),
            metrics: BTreeMap::new(),
        };
        for worker in 0..workers {
            world.plan(TICK, Event::Tick(worker));
        }
        world
    }

    /// From now on the backend does this.
    pub(crate) fn backend(&mut self, script: Script) {
        self.script = script;
    }

    /// The next calls get these, in order, before the script in force counts again.
    pub(crate) fn next_calls(&mut self, scripts: impl IntoIterator<Item = Script>) {
        self.next = scripts.into_iter().collect();
    }

    /// A request at the first worker.
    pub(crate) fn request(&mut self, request: &PlainRequest) -> StreamId {
        self.request_at(0, request)
    }

    pub(crate) fn request_at(&mut self, worker: usize, request: &PlainRequest) -> StreamId {
        let stream = StreamId(self.streams.len() as u32 + 1);
        let flow =
            self.workers[worker].handle_request(|| self.now, stream, request, &mut self.shared);
        let record = Stream {
            worker,
            request: request.clone(),
            since: self.now,
            closed: false,
            ended: None,
        };
        self.streams.insert(stream, record);
        match flow {
            Flow::Answer(denial) => {
                let answer = Ended {
                    after: Duration::ZERO,
                    reason: "answer",
                    cause: None,
                    log_state: String::new(),
                    denial: Some(denial),
                };
                self.streams.get_mut(&stream).unwrap().ended = Some(answer);
            }
            Flow::Release(release) => self.release(stream, &release),
            Flow::Wait => {}
        }
        self.drain(worker);
        stream
    }

    /// A request, and time until it is over.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: &PlainRequest) -> Ended {
        self.ask_at(0, request)
    }

    #[track_caller]
    pub(crate) fn ask_at(&mut self, worker: usize, request: &PlainRequest) -> Ended {
        let stream = self.request_at(worker, request);
        for _ in 0..100_000 {
            if self.streams[&stream].ended.is_some() {
                break;
            }
            self.step();
        }
        self.end_of(stream).expect("the request is never released")
    }

    pub(crate) fn end_of(&self, stream: StreamId) -> Option<Ended> {
        self.streams[&stream].ended.clone()
    }

    /// The stream of a request that went on is over.
    pub(crate) fn finish(&mut self, stream: StreamId, response: &PlainResponse) {
        let worker = self.streams[&stream].worker;
        if self.workers[worker].settles(stream) {
            self.workers[worker].handle_log(self.now, stream, response);
        }
        self.close(stream);
    }

    /// A request that is let through and answered.
    #[track_caller]
    pub(crate) fn serve(&mut self, request: &PlainRequest, response: &PlainResponse) {
        let stream = self.request(request);
        self.run(20);
        let end = self.end_of(stream).expect("the request still waits");
        assert!(end.denial.is_none(), "denied: {}", end.reason);
        self.finish(stream, response);
    }

    /// What the backend was told so far: units, and whose.
    pub(crate) fn told(&self) -> Vec<(i64, String)> {
        let reports = self.calls.iter().filter(|call| call.path() == "/report");
        let told = reports.map(|call| {
            let units = call.header("x-quota-cost").unwrap().parse().unwrap();
            (units, call.header("x-quota-descriptor").unwrap())
        });
        told.collect()
    }

    /// The ids of the reports of so many units, in order.
    pub(crate) fn reports_of(&self, units: u64) -> Vec<String> {
        let units = units.to_string();
        let reports = self.calls.iter().filter(|call| {
            call.path() == "/report" && call.header("x-quota-cost").as_ref() == Some(&units)
        });
        let ids = reports.map(|call| call.header("x-quota-settlement-id").unwrap());
        ids.collect()
    }

    /// The client leaves.
    pub(crate) fn close(&mut self, stream: StreamId) {
        let record = self.streams.get_mut(&stream).unwrap();
        record.closed = true;
        let worker = record.worker;
        self.workers[worker].handle_close(stream);
        self.drain(worker);
    }

    /// The host forgets a worker's gate, as it does after a push.
    pub(crate) fn forget(&mut self, worker: usize) {
        self.workers[worker].handle_end(self.now, &mut self.shared);
        self.forgotten.push(worker);
        self.drain(worker);
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, millis: u64) {
        let until = self.now.after(Duration::from_millis(millis));
        while self
            .events
            .first_key_value()
            .is_some_and(|((at, _), _)| *at <= until)
        {
            self.step();
        }
        self.now = until;
    }

    /// Sets the clock without letting anything happen.
    pub(crate) fn jump_back(&mut self, seconds: u64) {
        self.now = Wall(self.now.0 - seconds * 1_000_000_000);
        let moved = std::mem::take(&mut self.events).into_iter();
        self.events = moved
            .map(|((at, serial), event)| ((Wall(at.0 - seconds * 1_000_000_000), serial), event))
            .collect();
    }

    pub(crate) fn gate(&self, worker: usize) -> &Gate {
        &self.workers[worker]
    }

    /// What the response of a stream tells of its limit.
    pub(crate) fn response_fields(&mut self, stream: StreamId) -> Vec<(&'static str, String)> {
        let worker = self.streams[&stream].worker;
        let fields = self.workers[worker].take_response_fields(stream);
        let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
        fields
            .into_iter()
            .map(|(name, value)| (name, text(value)))
            .collect()
    }

    /// The sum of the series whose name starts with `quota_gate.` and `prefix` and holds `part`.
    pub(crate) fn metric(&mut self, prefix: &str, part: &str) -> i64 {
        self.flush();
        let prefix = format!("quota_gate.{prefix}");
        let found = self.metrics.iter().filter(|(name, _)| {
            name.strip_prefix(&prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.') && rest.contains(part))
        });
        found.map(|(_, value)| value).sum()
    }

    pub(crate) fn log_contains(&self, text: &str) -> bool {
        self.log.iter().any(|(_, line)| line.contains(text))
    }

    /// Every request that is over, or whose client has left, is counted once; nothing else is.
    #[track_caller]
    pub(crate) fn expect_sum_law(&mut self) {
        let waiting: usize = self.workers.iter().map(|gate| gate.pending().0).sum();
        let counted = self.metric("requests", "");
        assert_eq!(
            counted,
            (self.streams.len() - waiting) as i64,
            "the sum law is broken"
        );
    }

    fn step(&mut self) {
        let Some(((at, _), event)) = self.events.pop_first() else {
            return;
        };
        self.now = self.now.max(at);
        match event {
            Event::Tick(worker) => {
                if self.forgotten.contains(&worker) {
                    self.workers[worker].handle_tick_after_end(self.now, &mut self.shared);
                } else {
                    self.workers[worker].handle_tick(self.now, &mut self.shared);
                }
                self.drain(worker);
                self.plan(TICK, Event::Tick(worker));
            }
            Event::End(worker, call, end) => self.end(worker, call, end),
        }
    }

    fn end(&mut self, worker: usize, call: CallId, end: End) {
        let gate = &mut self.workers[worker];
        let (now, shared) = (self.now, &mut self.shared);
        match end {
            End::Lost => {}
            End::Broken => gate.handle_reply(now, call, CallEnd::Broken, shared),
            End::Refused => gate.handle_reply(now, call, CallEnd::Refused, shared),
            End::Silence => gate.handle_reply(now, call, CallEnd::Host(504), shared),
            End::Host(status) => gate.handle_reply(now, call, CallEnd::Host(status), shared),
            End::Reply {
                status,
                headers,
                body,
            } => {
                let headers: Vec<(&[u8], &[u8])> = headers
                    .iter()
                    .map(|(name, value)| (name.as_bytes(), &value[..]))
                    .collect();
                let reply = RawReply {
                    status,
                    headers: &headers,
                    body: &body,
                    now,
                };
                gate.handle_reply(now, call, CallEnd::Reply(reply), shared);
            }
        }
        self.drain(worker);
    }

    fn drain(&mut self, worker: usize) {
        while let Some(effect) = self.workers[worker].poll_effect() {
            match effect {
                Effect::Call(outgoing) => self.call(worker, outgoing),
                Effect::Log(level, line) => self.log.push((level, line)),
                Effect::Release(stream, release) => self.release(stream, &release),
            }
        }
    }

    fn call(&mut self, worker: usize, outgoing: Outgoing) {
        assert!(outgoing.timeout_ms > 0, "a callout without timeout");
        let script = if self.next.is_empty() {
            self.script.clone()
        } else {
            self.next.remove(0)
        };
        let headers = outgoing.message.headers();
        self.calls.push(SeenCall {
            timeout_ms: outgoing.timeout_ms,
            headers: headers
                .map(|(name, value)| (name.to_string(), value.to_vec()))
                .collect(),
            body: String::from_utf8(outgoing.message.body.clone()).unwrap(),
        });
        if matches!(script.end, End::Refused) {
            return self.end(worker, outgoing.id, script.end);
        }
        let timeout = Duration::from_millis(u64::from(outgoing.timeout_ms));
        let silent = matches!(script.end, End::Silence) || script.after >= timeout;
        let lost = matches!(script.end, End::Lost);
        if silent && !lost {
            self.plan(timeout, Event::End(worker, outgoing.id, End::Silence));
        } else {
            self.plan(script.after, Event::End(worker, outgoing.id, script.end));
        }
    }

    fn release(&mut self, stream: StreamId, release: &Release) {
        let record = self
            .streams
            .get_mut(&stream)
            .expect("a stream that nobody knows");
        assert!(!record.closed, "a stream is released after its end");
        assert!(record.ended.is_none(), "a stream is released twice");
        let denial = match release.decision.outcome {
            Outcome::Allow(_) => None,
            Outcome::Deny(_) => Gate::denial(release, &record.request),
        };
        record.ended = Some(Ended {
            after: self.now.since(record.since),
            reason: release.decision.outcome.reason(),
            cause: release.decision.cause.map(|cause| cause.code()),
            log_state: release.log_state.to_string(),
            denial,
        });
    }

    fn plan(&mut self, after: Duration, event: Event) {
        self.serial += 1;
        self.events
            .insert((self.now.after(after), self.serial), event);
    }

    fn flush(&mut self) {
        for gate in &mut self.workers {
            let mut changes = Vec::new();
            gate.flush_metrics(|metric, change| changes.push((metric, change)));
            for (metric, change) in changes {
                let name = metric.name(gate.config());
                match metric.kind() {
                    Kind::Counter | Kind::Delta => *self.metrics.entry(name).or_default() += change,
                    Kind::Gauge => {
                        self.metrics.insert(name, change);
                    }
                    Kind::Histogram => *self.metrics.entry(name).or_default() += 1,
                }
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.expect_sum_law();
        }
    }
}
