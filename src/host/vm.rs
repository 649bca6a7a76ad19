//! The contexts of one VM: which gate a stream belongs to, and each callback of the host.
//!
//! A configuration push makes a new root context; streams of the old one stay with the old gate
//! until they end. Most of the time there is one root, and then no stream needs to be remembered:
//! whatever is not noted in `owners` belongs to the oldest root.
//!
//! The end of a root is not heard: the callbacks that would tell of it cost every stream a call.
//! Its timer ends with it, so a root that is silent while another one ticks is over.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::mem::ManuallyDrop;

use super::abi::{self, Alone, Buffer, Bytes, Level, Map, MetricKind};
use super::view::{HostRequest, HostResponse, HostShared};
use crate::config::parse;
use crate::decision::Outcome;
use crate::denial::Denial;
use crate::gate::reply::CallEnd;
use crate::gate::{self, CallId, Effect, Flow, Gate, Outgoing, Release, StreamId, TICK};
use crate::metrics::{Kind, Metric};
use crate::pairs;
use crate::sorted::SortedMap;
use crate::text;
use crate::time::{Wall, millis};
use crate::wire::{BODY_BYTES_MAX, RawReply};

/// Never dropped: the host does not tell of its end, and what were to be dropped would have to be
/// noted at each look.
static VM: Alone<RefCell<ManuallyDrop<Vm>>> = Alone(RefCell::new(ManuallyDrop::new(Vm::new())));

/// What the host calls each metric by. It gives a number to every definition, also of a name that
/// it knows, and keeps them all: each configuration goes by the same ones.
static DEFINED: Alone<RefCell<ManuallyDrop<SortedMap<String, u32>>>> =
    Alone(RefCell::new(ManuallyDrop::new(SortedMap::new())));

/// Everything that this VM holds.
struct Vm {
    roots: SortedMap<u32, Box<Root>>,
    owners: SortedMap<u32, u32>,
    /// How often every root that lives has ticked: a new round begins when one ticks that has
    /// ticked in this one.
    rounds: u64,
    /// Roots that the host has forgotten, and that still have use to tell: the ticks of another one
    /// drive them.
    ended: Vec<Root>,
}

/// One plugin configuration at work.
#[derive(Default)]
struct Root {
    gate: Option<Gate>,
    calls: SortedMap<u32, CallId>,
    metrics: SortedMap<Metric, u32>,
    /// The round in which it last showed a sign of life.
    seen: u64,
    /// Streams that have begun and not ended.
    streams: u32,
    /// Those that wait and whose client sent the header that tells the decision: next to none.
    forged: SortedMap<u32, ()>,
    /// Another configuration is in force: the host may forget this one with its last stream.
    replaced: bool,
}

pub(super) fn on_context_create(context: u32, root: u32) {
    with(|vm| {
        if root == 0 {
            let fresh = Root {
                seen: vm.rounds,
                ..Root::default()
            };
            vm.roots.insert(context, Box::new(fresh));
            return;
        }
        if vm.oldest() != Some(root) {
            vm.owners.insert(context, root);
        }
        if let Some(root) = vm.root_of(context) {
            root.streams = root.streams.saturating_add(1);
        }
    });
}

pub(super) fn on_configure(root: u32) -> bool {
    let bytes = abi::buffer(Buffer::Configuration, CONFIGURATION_BYTES_MAX);
    match parse::parse(&bytes) {
        Err(problems) => {
            for line in problems.lines() {
                abi::log(Level::Error, &line);
            }
            false
        }
        Ok(config) => {
            let gate = Gate::new(config, seed(root));
            abi::set_tick_period(u32::try_from(millis(TICK)).unwrap_or(1));
            with(|vm| {
                for other in vm.roots.values_mut() {
                    other.replaced = true;
                    if let Some(gate) = &mut other.gate {
                        gate.handle_replaced();
                    }
                    // It may never tick again.
                    other.flush();
                }
                let Some(known) = vm.roots.get_mut(&root) else {
                    return false;
                };
                known.replaced = false;
                known.gate = Some(gate);
                true
            })
            .unwrap_or(false)
        }
    }
}

pub(super) fn on_tick(root: u32) {
    with(|vm| {
        if !vm.ended.is_empty() && vm.oldest() == Some(root) {
            vm.tick_ended();
        }
        let Some(root) = vm.roots.get_mut(&root) else {
            return;
        };
        if root.seen == vm.rounds {
            vm.rounds = vm.rounds.saturating_add(1);
        }
        root.seen = vm.rounds;
        if let Some(gate) = &mut root.gate {
            gate.handle_tick(wall(), &mut HostShared);
        }
        root.drain(None);
        root.flush();
        vm.retire_silent();
    });
}

/// `true` when the request may go on now.
pub(super) fn on_request_headers(stream: u32) -> bool {
    with(|vm| {
        let Some(root) = vm.root_of(stream) else {
            return refuse();
        };
        let Some(gate) = &mut root.gate else {
            return refuse();
        };
        let id = StreamId(stream);
        let request = HostRequest::default();
        match gate.handle_request(wall, id, &request, &mut HostShared) {
            Flow::Answer(answer) => {
                root.drain(None);
                send(&answer);
                false
            }
            Flow::Release(release) => {
                root.drain(None);
                carry_out(&release, &request, !request.is_without(DECISION_HEADER))
            }
            Flow::Wait => {
                let forged = !request.is_without(DECISION_HEADER);
                if forged {
                    root.forged.insert(stream, ());
                }
                // The host may refuse the call at once: then the stream is released within its
                // own callback, where it can't be resumed, only told to go on.
                let mut own = Some((id, None));
                root.drain(own.as_mut());
                own.and_then(|(_, release)| release)
                    .is_some_and(|release| carry_out(&release, &request, forged))
            }
        }
    })
    .unwrap_or_else(refuse)
}

/// Whether the body or the trailers of a request may go on: not while its check is pending. The
/// host holds them by itself unless `allow_on_headers_stop_iteration` is set.
pub(super) fn may_go_on(stream: u32) -> bool {
    with(|vm| {
        let gate = vm.root_of(stream).and_then(|root| root.gate.as_ref());
        !gate.is_some_and(|gate| gate.waits(StreamId(stream)))
    })
    .unwrap_or(true)
}

pub(super) fn on_response_headers(stream: u32) {
    with(|vm| {
        let Some(gate) = vm.root_of(stream).and_then(|root| root.gate.as_mut()) else {
            return;
        };
        for (name, value) in gate.take_response_fields(StreamId(stream)) {
            // What the upstream says of its own limits is not overwritten.
            if abi::header(Map::Response, name).is_none() {
                abi::set_header(Map::Response, name, &value);
            }
        }
    });
}

pub(super) fn on_http_call_response(root: u32, token: u32, headers: u32) {
    with(|vm| {
        let Some(root) = vm.roots.get_mut(&root) else {
            return;
        };
        // What a forgotten root tells is called on another one's behalf.
        let root = match root.calls.get(&token) {
            Some(_) => root,
            None => {
                let mut ended = vm.ended.iter_mut();
                let Some(ended) = ended.find(|root| root.calls.get(&token).is_some()) else {
                    return;
                };
                ended
            }
        };
        let Some(call) = root.calls.remove(&token) else {
            return;
        };
        let now = wall();
        if headers == 0 {
            root.end(now, call, CallEnd::Broken);
        } else {
            let bytes = abi::header_pairs(Map::CallReply).unwrap_or(Bytes::NONE);
            let headers = pairs::parse(&bytes);
            let status = value(&headers, b":status").and_then(status_of);
            match (status, value(&headers, FROM_BACKEND)) {
                (None, _) => root.end(now, call, CallEnd::Broken),
                (Some(status), None) => root.end(now, call, CallEnd::Host(status)),
                (Some(status), Some(_)) => {
                    let body = match root.gate.as_ref().is_some_and(|gate| gate.reads_body(call)) {
                        true => abi::buffer(Buffer::CallReply, BODY_BYTES_MAX.saturating_add(1)),
                        false => Bytes::NONE,
                    };
                    let reply = RawReply {
                        status,
                        headers: &headers,
                        body: &body,
                        now,
                    };
                    root.end(now, call, CallEnd::Reply(reply));
                }
            }
        }
        root.drain(None);
    });
}

/// The stream is over, whoever ended it, and the host still shows its response.
pub(super) fn on_log(stream: u32) {
    with(|vm| {
        if let Some(root) = vm.root_of(stream) {
            if let Some(gate) = &mut root.gate {
                let id = StreamId(stream);
                if gate.settles(id) {
                    gate.handle_log(wall(), id, &HostResponse::default());
                }
                gate.handle_close(id);
            }
            root.streams = root.streams.saturating_sub(1);
            if !root.forged.is_empty() {
                root.forged.remove(&stream);
            }
            // What it has counted must not go with it.
            if root.replaced && root.streams == 0 {
                root.flush();
            }
        }
        if !vm.owners.is_empty() {
            vm.owners.remove(&stream);
        }
    });
}

impl Vm {
    const fn new() -> Self {
        Self {
            roots: SortedMap::new(),
            owners: SortedMap::new(),
            ended: Vec::new(),
            rounds: 0,
        }
    }

    /// Forgets the roots whose timer has ended: they are over, and so are all their streams.
    fn retire_silent(&mut self) {
        while let Some(root) = self
            .roots
            .find_key(|root| self.rounds.saturating_sub(root.seen) > SILENT_ROUNDS)
        {
            if let Some(root) = self.roots.remove(&root) {
                self.retire(*root);
            }
        }
    }

    /// The host has forgotten a root. What it has not told yet is told on the ticks of another.
    #[inline(never)]
    fn retire(&mut self, mut root: Root) {
        root.retire();
        if root.is_settled() {
            return;
        }
        self.ended.push(root);
        let room = if self.roots.is_empty() { 0 } else { ENDED_MAX };
        while self.ended.len() > room {
            let mut oldest = self.ended.remove(0);
            oldest.give_up();
        }
    }

    fn tick_ended(&mut self) {
        for root in &mut self.ended {
            if let Some(gate) = &mut root.gate {
                gate.handle_tick_after_end(wall(), &mut HostShared);
            }
            root.drain(None);
            root.flush();
        }
        self.ended.retain(|root| !root.is_settled());
    }

    fn oldest(&self) -> Option<u32> {
        self.roots.first().map(|(root, _)| *root)
    }

    fn root_of(&mut self, stream: u32) -> Option<&mut Root> {
        let owner = if self.owners.is_empty() {
            None
        } else {
            self.owners.get(&stream).copied()
        };
        let root = match owner {
            Some(owner) => self.roots.get_mut(&owner),
            None => self.roots.first_mut(),
        };
        root.map(|root| &mut **root)
    }
}

impl Root {
    fn end(&mut self, now: Wall, call: CallId, end: CallEnd<'_>) {
        if let Some(gate) = &mut self.gate {
            gate.handle_reply(now, call, end, &mut HostShared);
        }
    }

    /// Carries out what the gate wants done. The release of the stream whose callback is running
    /// is put into `own` instead.
    fn drain(&mut self, mut own: Option<&mut (StreamId, Option<Release>)>) {
        while let Some(effect) = self.gate.as_mut().and_then(Gate::poll_effect) {
            match effect {
                Effect::Call(outgoing) => self.call(outgoing),
                Effect::Log(level, line) => abi::log(level_of(level), &line),
                Effect::Release(stream, release) => match &mut own {
                    Some((running, slot)) if *running == stream => *slot = Some(release),
                    Some(_) | None => {
                        let forged = self.forged.remove(&stream.0).is_some();
                        resume(stream, &release, forged);
                    }
                },
            }
        }
    }

    fn call(&mut self, outgoing: Outgoing) {
        let Some(gate) = &self.gate else { return };
        let cluster = gate
            .config()
            .backends
            .get(outgoing.backend)
            .map(|to| to.cluster.clone());
        let headers = pairs::serialize(outgoing.message.headers());
        let token = cluster.and_then(|cluster| {
            abi::http_call(
                &cluster,
                &headers,
                &outgoing.message.body,
                outgoing.timeout_ms,
            )
        });
        match token {
            Some(token) => {
                self.calls.insert(token, outgoing.id);
            }
            None => self.end(wall(), outgoing.id, CallEnd::Refused),
        }
    }

    fn flush(&mut self) {
        let Self {
            gate: Some(gate),
            metrics,
            ..
        } = self
        else {
            return;
        };
        let mut changes = Vec::new();
        gate.flush_metrics(|metric, change| changes.push((metric, change)));
        for (metric, change) in changes {
            let id = match metrics.get(&metric) {
                Some(id) => *id,
                None => {
                    let name = metric.name(gate.config());
                    let Some(id) = metric_id(metric.kind(), name) else {
                        continue;
                    };
                    metrics.insert(metric, id);
                    id
                }
            };
            match metric.kind() {
                Kind::Counter | Kind::Delta => abi::increment_metric(id, change),
                Kind::Gauge | Kind::Histogram => {
                    abi::record_metric(id, u64::try_from(change).unwrap_or(0));
                }
            }
        }
    }

    /// The host has forgotten this root: what is in flight will not be heard of again.
    fn retire(&mut self) {
        self.calls = SortedMap::new();
        if let Some(gate) = &mut self.gate {
            gate.handle_end(wall(), &mut HostShared);
        }
        self.drain(None);
        self.flush();
    }

    fn is_settled(&self) -> bool {
        self.gate.as_ref().is_none_or(Gate::is_settled)
    }

    /// There is nobody to tell the rest for it.
    fn give_up(&mut self) {
        if let Some(gate) = &mut self.gate {
            gate.handle_give_up(wall());
        }
        self.drain(None);
        self.flush();
    }
}

/// What the host calls a metric by, defined when it is first asked for.
fn metric_id(kind: Kind, name: String) -> Option<u32> {
    let mut defined = DEFINED.0.try_borrow_mut().ok()?;
    if let Some(id) = defined.get(&name) {
        return Some(*id);
    }
    let id = abi::define_metric(kind_of(kind), &name)?;
    if defined.len() < DEFINED_MAX {
        defined.insert(name, id);
    }
    Some(id)
}

/// Lets a stream leave from the callback of another context.
fn resume(stream: StreamId, release: &Release, forged: bool) {
    if abi::set_effective_context(stream.0) && carry_out(release, &HostRequest::default(), forged) {
        abi::continue_request();
    }
}

/// Marks or answers the request in effect; `true` when it may go on. `forged` says that the client
/// may have sent the header that tells the decision: to replace one costs the host a search of all.
fn carry_out(release: &Release, request: &HostRequest, forged: bool) -> bool {
    abi::set_property(LOG_STATE, release.log_state.as_bytes());
    match release.decision.outcome {
        Outcome::Allow(reason) => {
            let told = reason.header_value().as_bytes();
            if forged || !abi::add_header(Map::Request, DECISION_HEADER, told) {
                abi::set_header(Map::Request, DECISION_HEADER, told);
            }
            true
        }
        Outcome::Deny(_) => {
            match Gate::denial(release, request) {
                Some(denial) => send(&denial),
                None => {
                    refuse();
                }
            }
            false
        }
    }
}

fn send(denial: &Denial) {
    let headers = denial
        .headers
        .iter()
        .map(|(name, value)| (&**name, &**value));
    abi::send_local_response(
        u32::from(denial.status),
        denial.details,
        &pairs::serialize(headers),
        &denial.body,
        denial.grpc_status,
    );
}

/// Answers a request that reached a plugin without configuration, or a VM in a state that should
/// not be: closed, because nobody has said that it may be open.
fn refuse() -> bool {
    const GRPC_UNAVAILABLE: i32 = 14;
    abi::send_local_response(
        503,
        "quota_gate_internal",
        pairs::EMPTY,
        b"",
        GRPC_UNAVAILABLE,
    );
    false
}

/// Runs a callback on the VM's state. The host does not call back within a callback, but if it
/// did, nothing would happen rather than a panic.
fn with<T>(run: impl FnOnce(&mut Vm) -> T) -> Option<T> {
    VM.0.try_borrow_mut().ok().map(|mut vm| run(&mut vm))
}

fn wall() -> Wall {
    Wall(abi::time())
}

/// Differs between workers and between starts, as far as a clock can make it.
fn seed(root: u32) -> u64 {
    let here = &raw const root;
    abi::time() ^ u64::from(root).rotate_left(48) ^ u64::try_from(here.addr()).unwrap_or(0)
}

fn value<'a>(headers: &[(&'a [u8], &'a [u8])], wanted: &[u8]) -> Option<&'a [u8]> {
    headers
        .iter()
        .find(|(name, _)| *name == wanted)
        .map(|(_, value)| *value)
}

fn status_of(text: &[u8]) -> Option<u16> {
    u16::try_from(text::parse_decimal(text)?).ok()
}

const fn level_of(level: gate::Level) -> Level {
    match level {
        gate::Level::Error => Level::Error,
        gate::Level::Info => Level::Info,
        gate::Level::Warn => Level::Warn,
    }
}

const fn kind_of(kind: Kind) -> MetricKind {
    match kind {
        Kind::Counter => MetricKind::Counter,
        Kind::Delta | Kind::Gauge => MetricKind::Gauge,
        Kind::Histogram => MetricKind::Histogram,
    }
}

/// Readable in access logs as `%FILTER_STATE(wasm.quota_gate:PLAIN)%`.
const LOG_STATE: &[u8] = b"quota_gate";

/// What the upstream is told, in place of whatever a client sent under this name.
const DECISION_HEADER: &str = "x-quota-decision";

/// What every real answer carries, and no answer that Envoy made itself.
const FROM_BACKEND: &[u8] = b"x-envoy-upstream-service-time";

/// A root that lives ticks as often as any other, for one loop runs all their timers: one that has
/// been silent for so many rounds does not. That is a fifth of a second, however many have fallen
/// silent with it; until then what they hold takes room.
const SILENT_ROUNDS: u64 = 10;

/// Names of metrics, of all configurations so far: far more than one has. The host keeps them for
/// good as well.
const DEFINED_MAX: usize = 4096;

/// Forgotten roots that may have use to tell: each needs a push of its own, and some minutes of an
/// outage.
const ENDED_MAX: usize = 8;

/// Far above any configuration within the parser's bounds.
const CONFIGURATION_BYTES_MAX: usize = 16 * 1024 * 1024;
