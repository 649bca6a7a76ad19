//! The proxy: its workers, the streams they serve, configuration pushes, and what happens when.

use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use anyhow::{Result, bail};

use crate::MILLISECOND;
use crate::call::Backend;
use crate::cost::Costs;
use crate::headers::Headers;
use crate::module::Module;
use crate::process::{Event, LogLine, Metrics, Process};
use crate::stream::{Fate, LocalReply, Phase, Request, Stream, StreamId};
use crate::vm::{Deferred, Vm};

/// How a pretend host is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Workers that serve requests, each with a VM of its own.
    pub workers: usize,
    /// Another VM on the main thread, which ticks but serves nothing; as in Envoy.
    pub main_thread: bool,
    /// Whatever is left to chance follows from it.
    pub seed: u64,
    /// The wall clock at the start, in nanoseconds since the Unix epoch.
    pub wall: u64,
    /// A timer fires up to so many nanoseconds late.
    pub tick_late_max: u64,
    /// After how many nanoseconds the upstream answers.
    pub upstream_after: u64,
    /// What the upstream answers.
    pub upstream: Headers,
    /// So many reads of shared data in a thousand are followed by another worker's write.
    pub races_per_mille: u32,
    /// The option `allow_on_headers_stop_iteration`: the body is not held by the host.
    pub stop_iteration_only: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 1,
            main_thread: true,
            seed: 1,
            // 2026-01-01T00:00:00Z
            wall: 1_767_225_600_000 * MILLISECOND,
            tick_late_max: 0,
            upstream_after: 0,
            upstream: Headers::new()
                .with(":status", "200")
                .with("content-length", "0"),
            races_per_mille: 0,
            stop_iteration_only: false,
        }
    }
}

/// The module did not take a configuration: what it wrote to the log at error level.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused(pub Vec<String>);

/// A proxy that runs the module.
pub struct Host<'m> {
    module: &'m Module,
    options: Options,
    process: Rc<RefCell<Process>>,
    /// The workers, and the main thread's behind them.
    vms: Vec<Vm>,
    config: Rc<[u8]>,
    ended: VecDeque<Stream>,
}

impl<'m> Host<'m> {
    /// Starts a proxy with a static configuration.
    ///
    /// # Errors
    /// The module can't be instantiated, or does not take the configuration (the text holds its
    /// error lines): a real Envoy would not start.
    pub fn new(
        module: &'m Module,
        config: &[u8],
        options: Options,
        backend: impl Backend + 'static,
    ) -> Result<Self> {
        let Options {
            seed,
            wall,
            races_per_mille,
            ..
        } = options;
        let process = Process::new(Box::new(backend), seed, wall, races_per_mille);
        let process = Rc::new(RefCell::new(process));
        let mut vms = Vec::new();
        for worker in 0..options.workers + usize::from(options.main_thread) {
            vms.push(Vm::new(module, worker, process.clone())?);
        }
        let config: Rc<[u8]> = config.into();
        let ended = VecDeque::new();
        let mut host = Self {
            module,
            options,
            process,
            vms,
            config,
            ended,
        };
        if let Err(Refused(lines)) = host.try_out(&host.config.clone())? {
            bail!("the configuration is refused:\n{}", lines.join("\n"));
        }
        for worker in 0..host.vms.len() {
            host.configure(worker);
        }
        Ok(host)
    }

    /// A client's request reaches a worker. It may be over when this returns: see
    /// [`Self::take_ended`].
    pub fn request(&mut self, worker: usize, request: &Request) -> StreamId {
        let now = self.now();
        let vm = &mut self.vms[worker];
        let context = vm.new_context();
        let id = StreamId { worker, context };
        let mut stream = Stream::new(id, vm.root, now, request);
        if vm.failed || vm.root == 0 {
            stream.fate = Some(Fate::FailedVm);
            self.ended.push_back(stream);
            return id;
        }
        let headers = u32::try_from(stream.request.len()).unwrap_or(u32::MAX);
        let root = vm.root;
        vm.state_mut().streams.insert(context, stream);
        if let Some(root) = vm.state_mut().roots.get_mut(&root) {
            root.streams += 1;
        }
        vm.context_create(context, root);
        let ends = u32::from(request.ends_with_headers());
        let action = vm.request_headers((context, headers, ends));
        if vm.failed {
            self.end(id, Fate::FailedVm);
            return id;
        }
        self.carry_out(worker);
        let vm = &mut self.vms[worker];
        let Some(stream) = vm.state_mut().streams.get_mut(&context) else {
            return id;
        };
        if stream.phase == Phase::Headers {
            if action.unwrap_or(0) == 0 {
                stream.headers_visible = false;
                self.go_upstream(id);
            } else {
                stream.phase = Phase::Paused;
                if self.options.stop_iteration_only && !request.ends_with_headers() {
                    self.send_body_while_paused(id);
                }
            }
        }
        id
    }

    /// A client leaves; nothing happens where its stream is over.
    pub fn disconnect(&mut self, id: StreamId) {
        if self.stream(id).is_some() {
            self.end(id, Fate::Disconnected);
        }
    }

    /// The host's own timeout ends a stream: the module sees the reply pass by.
    pub fn time_out(&mut self, id: StreamId) {
        if self.stream(id).is_some() {
            self.pass_response(id, Headers::new().with(":status", "504"));
            self.end(id, Fate::HostTimeout);
        }
    }

    /// Pushes a configuration: it is tried out first, then each worker takes it, one after the
    /// other with `apart` nanoseconds between them. The one that is in force already changes
    /// nothing.
    ///
    /// # Errors
    /// The module refuses it; the old one goes on.
    pub fn push(&mut self, config: &[u8], apart: u64) -> std::result::Result<(), Refused> {
        if *self.config == *config {
            return Ok(());
        }
        let config: Rc<[u8]> = config.into();
        match self.try_out(&config) {
            Ok(Ok(())) => {}
            Ok(Err(refused)) => return Err(refused),
            Err(error) => return Err(Refused(vec![error.to_string()])),
        }
        self.config = config;
        for worker in 0..self.vms.len() {
            let delay = apart.saturating_mul(worker as u64);
            self.process
                .borrow_mut()
                .after(delay, Event::Configure { worker });
        }
        self.run_until(self.now());
        Ok(())
    }

    /// Moves the wall clock, without time passing.
    pub fn jump(&mut self, ahead: i64) {
        let mut process = self.process.borrow_mut();
        process.wall_ahead = process.wall_ahead.saturating_add_signed(ahead);
    }

    /// Lets time pass, with everything that is due until then.
    pub fn run_until(&mut self, until: u64) {
        while self.step(until) {}
        let mut process = self.process.borrow_mut();
        process.now = process.now.max(until);
    }

    /// Lets so many nanoseconds pass.
    pub fn run_for(&mut self, span: u64) {
        self.run_until(self.now().saturating_add(span));
    }

    /// Lets the next thing happen that is due until then; `false` when there is none.
    pub fn step(&mut self, until: u64) -> bool {
        let Some(event) = self.process.borrow_mut().next(until) else {
            return false;
        };
        match event {
            Event::Configure { worker } => self.configure(worker),
            Event::Reply {
                worker,
                token,
                reply,
                last,
            } => {
                let Some(vm) = self.vms.get_mut(worker) else {
                    return true;
                };
                let root = vm.state().calls.get(&token).copied();
                if last {
                    vm.state_mut().calls.remove(&token);
                }
                if let Some(root) = root {
                    vm.http_call_response(root, token, reply);
                    self.carry_out(worker);
                }
            }
            Event::Tick {
                worker,
                root,
                timer,
            } => self.tick(worker, root, timer),
            Event::Upstream { worker, stream } => {
                let id = StreamId {
                    worker,
                    context: stream,
                };
                if self.stream(id).is_some() {
                    self.pass_response(id, self.options.upstream.clone());
                    self.end(id, Fate::Upstream);
                }
            }
        }
        true
    }

    /// The clock that does not jump, in nanoseconds since the start.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.process.borrow().now
    }

    /// The wall clock, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn wall(&self) -> u64 {
        self.process.borrow().wall()
    }

    /// A stream that is on its way.
    #[must_use]
    pub fn stream(&self, id: StreamId) -> Option<&Stream> {
        self.vms.get(id.worker)?.state().streams.get(&id.context)
    }

    /// Every stream that is on its way.
    pub fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.vms.iter().flat_map(|vm| vm.state().streams.values())
    }

    /// Streams that the module holds.
    pub fn held(&self) -> impl Iterator<Item = &Stream> {
        self.streams()
            .filter(|stream| stream.phase == Phase::Paused)
    }

    /// The streams that are over since this was last called, in the order of their ends.
    pub fn take_ended(&mut self) -> Vec<Stream> {
        self.ended.drain(..).collect()
    }

    /// The metrics as the module has moved them.
    #[must_use]
    pub fn metrics(&self) -> Ref<'_, Metrics> {
        Ref::map(self.process.borrow(), |process| &process.metrics)
    }

    /// Takes the lines that the module wrote since this was last called.
    pub fn take_log(&mut self) -> Vec<LogLine> {
        std::mem::take(&mut self.process.borrow_mut().log)
    }

    /// Callbacks that trapped; an endless loop counts as a trap.
    #[must_use]
    pub fn traps(&self) -> Vec<String> {
        self.process.borrow().traps.clone()
    }

    /// What the module did that a real host would take badly: a stream released twice, a header
    /// with a line end, a callout without timeout, a gauge below 0.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.process.borrow().complaints.clone()
    }

    /// What a worker's VM has cost so far.
    #[must_use]
    pub fn costs(&self, worker: usize) -> Costs {
        self.vms[worker].state().costs.clone()
    }

    /// Bytes of a worker's linear memory; they only grow.
    #[must_use]
    pub fn memory(&self, worker: usize) -> usize {
        self.vms[worker].memory()
    }

    /// Metrics that a worker's VM has defined: the host keeps each one for good.
    #[must_use]
    pub fn metrics_defined(&self, worker: usize) -> usize {
        self.vms[worker].state().metrics.len()
    }

    /// Root contexts of a worker's VM: the newest, and those that still have streams.
    #[must_use]
    pub fn roots(&self, worker: usize) -> usize {
        self.vms[worker].state().roots.len()
    }

    /// Callouts in flight from a worker's VM.
    #[must_use]
    pub fn calls_in_flight(&self, worker: usize) -> usize {
        self.vms[worker].state().calls.len()
    }

    /// Names in the shared data: there is no deletion.
    #[must_use]
    pub fn shared_names(&self) -> usize {
        self.process.borrow().shared.len()
    }

    /// Tries a configuration in a VM that is thrown away at once, as the host does on its main
    /// thread: what it writes to shared data stays.
    fn try_out(&mut self, config: &Rc<[u8]>) -> Result<std::result::Result<(), Refused>> {
        let lines = self.process.borrow().log.len();
        let mut canary = Vm::new(self.module, CANARY, self.process.clone())?;
        if canary.configure(config).is_some() {
            return Ok(Ok(()));
        }
        let process = self.process.borrow();
        let errors = process.log[lines..]
            .iter()
            .filter(|line| line.level >= crate::Level::Error);
        Ok(Err(Refused(errors.map(|line| line.text.clone()).collect())))
    }

    fn configure(&mut self, worker: usize) {
        let vm = &mut self.vms[worker];
        if vm.failed {
            return;
        }
        let old = vm.root;
        let unchanged = |root: &crate::vm::Root| root.config == self.config;
        if vm.state().roots.get(&old).is_some_and(unchanged) {
            return;
        }
        match vm.configure(&self.config) {
            Some(root) => vm.root = root,
            None => {
                let what = format!("worker {worker} refuses what was taken on trial");
                self.process.borrow_mut().complain(what);
                return;
            }
        }
        if let Some(root) = self.vms[worker].state_mut().roots.get_mut(&old) {
            root.replaced = true;
        }
        self.retire(worker, old);
    }

    /// A root that is replaced goes with its last stream, and its callouts with it.
    fn retire(&mut self, worker: usize, root: u32) {
        let vm = &mut self.vms[worker];
        let over = |root: &crate::vm::Root| root.replaced && root.streams == 0;
        if vm.state().roots.get(&root).is_some_and(over) {
            vm.finish(root);
            let state = vm.state_mut();
            state.roots.remove(&root);
            state.calls.retain(|_, owner| *owner != root);
            self.carry_out(worker);
        }
    }

    fn tick(&mut self, worker: usize, context: u32, timer: u64) {
        let Some(vm) = self.vms.get_mut(worker) else {
            return;
        };
        let current = |vm: &Vm| {
            let root = vm.state().roots.get(&context)?;
            (root.timer == timer && root.tick > 0 && !vm.failed).then_some(root.tick)
        };
        if current(vm).is_none() {
            return;
        }
        vm.tick(context);
        self.carry_out(worker);
        // The timer is set again when the callback is over, unless that has set another.
        if let Some(period) = current(&self.vms[worker]) {
            let mut process = self.process.borrow_mut();
            let late = match self.options.tick_late_max {
                0 => 0,
                max => process.random.between(0, max),
            };
            process.after(
                period + late,
                Event::Tick {
                    worker,
                    root: context,
                    timer,
                },
            );
        }
    }

    /// Does what the last callback of this worker has asked for.
    fn carry_out(&mut self, worker: usize) {
        while !self.vms[worker].state().deferred.is_empty() {
            for deferred in std::mem::take(&mut self.vms[worker].state_mut().deferred) {
                match deferred {
                    Deferred::Answer(context, reply) => {
                        self.answer(StreamId { worker, context }, reply);
                    }
                    Deferred::Resume(context) => self.resume(StreamId { worker, context }),
                }
            }
        }
    }

    fn resume(&mut self, id: StreamId) {
        let phase = self.stream(id).map(|stream| stream.phase);
        match phase {
            Some(Phase::Paused) => self.go_upstream(id),
            Some(Phase::Headers) => self.complain(id, "resumed within its own first callback"),
            Some(Phase::Upstream) => self.complain(id, "resumed twice"),
            Some(Phase::Answered) | None => self.complain(id, "resumed after its end"),
        }
    }

    fn answer(&mut self, id: StreamId, reply: LocalReply) {
        let phase = self.stream(id).map(|stream| stream.phase);
        match phase {
            Some(Phase::Headers | Phase::Paused) => {
                self.release(id, Phase::Answered);
                let headers = self.reply_headers(id, &reply);
                self.pass_response(id, headers);
                self.end(id, Fate::Answered(reply));
            }
            Some(Phase::Upstream) => self.complain(id, "answered after it was let through"),
            Some(Phase::Answered) | None => self.complain(id, "answered after its end"),
        }
    }

    /// What a client gets: gRPC clients a status of theirs, others the HTTP status.
    fn reply_headers(&self, id: StreamId, reply: &LocalReply) -> Headers {
        let content_type = self
            .stream(id)
            .and_then(|stream| stream.request.first("content-type"))
            .and_then(|kind| kind.strip_prefix(b"application/grpc"));
        let grpc = content_type.is_some_and(|rest| rest.is_empty() || rest[0] == b'+');
        let mut headers = Headers::new();
        if grpc {
            headers.add(":status", "200");
            headers.add("grpc-status", reply.grpc_status.to_string());
        } else {
            headers.add(":status", reply.status.to_string());
            headers.add("content-length", reply.body.len().to_string());
        }
        for (name, value) in reply.headers.iter() {
            if name != ":status" && name != "content-length" {
                headers.add(name, value);
            }
        }
        headers
    }

    fn go_upstream(&mut self, id: StreamId) {
        self.release(id, Phase::Upstream);
        let Some(stream) = self.stream(id) else {
            return;
        };
        let (body, trailers) = (stream.body, stream.trailers);
        let vm = &mut self.vms[id.worker];
        let mut held = false;
        if let Some(size) = body {
            let size = u32::try_from(size).unwrap_or(u32::MAX);
            let ends = u32::from(!trailers);
            held |= vm.request_body((id.context, size, ends)).unwrap_or(0) != 0;
        }
        if trailers {
            held |= vm.request_trailers(id.context).unwrap_or(0) != 0;
        }
        self.carry_out(id.worker);
        if held {
            self.complain(id, "held again behind its headers");
        }
        let delay = self.options.upstream_after;
        let Self { process, .. } = self;
        let event = Event::Upstream {
            worker: id.worker,
            stream: id.context,
        };
        process.borrow_mut().after(delay, event);
    }

    /// With `allow_on_headers_stop_iteration`, only the callbacks themselves can hold the body: if
    /// one lets it pass, the request is on its way unchecked.
    fn send_body_while_paused(&mut self, id: StreamId) {
        let Some(stream) = self.stream(id) else {
            return;
        };
        let (body, trailers) = (stream.body, stream.trailers);
        let vm = &mut self.vms[id.worker];
        let mut passed = false;
        if let Some(size) = body {
            let size = u32::try_from(size).unwrap_or(u32::MAX);
            let ends = u32::from(!trailers);
            passed |= vm.request_body((id.context, size, ends)).unwrap_or(0) == 0;
        }
        if trailers {
            passed |= vm.request_trailers(id.context).unwrap_or(0) == 0;
        }
        self.carry_out(id.worker);
        if passed {
            self.complain(id, "let its body pass while it was checked");
        }
    }

    fn release(&mut self, id: StreamId, phase: Phase) {
        let now = self.now();
        let state = self.vms[id.worker].state_mut();
        if let Some(stream) = state.streams.get_mut(&id.context) {
            stream.phase = phase;
            stream.released = Some(now);
        }
    }

    fn pass_response(&mut self, id: StreamId, headers: Headers) {
        let vm = &mut self.vms[id.worker];
        let count = u32::try_from(headers.len()).unwrap_or(u32::MAX);
        let Some(stream) = vm.state_mut().streams.get_mut(&id.context) else {
            return;
        };
        stream.response = Some(headers);
        stream.response_visible = true;
        vm.response_headers((id.context, count, 1));
        if let Some(stream) = vm.state_mut().streams.get_mut(&id.context) {
            stream.response_visible = false;
        }
    }

    fn end(&mut self, id: StreamId, fate: Fate) {
        let vm = &mut self.vms[id.worker];
        vm.log(id.context);
        vm.finish(id.context);
        let Some(mut stream) = vm.state_mut().streams.remove(&id.context) else {
            return;
        };
        let root = stream.root;
        stream.fate = Some(fate);
        self.ended.push_back(stream);
        if let Some(root) = vm.state_mut().roots.get_mut(&root) {
            root.streams -= 1;
        }
        self.carry_out(id.worker);
        self.retire(id.worker, root);
    }

    fn complain(&self, id: StreamId, what: &str) {
        let StreamId { worker, context } = id;
        let what = format!("worker {worker}, stream {context}: {what}");
        self.process.borrow_mut().complain(what);
    }
}

/// The number that stands for the VM in which a configuration is tried out.
const CANARY: usize = usize::MAX;
