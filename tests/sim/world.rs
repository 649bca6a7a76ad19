//! A world that is a function of its seed: workers, their gates, shared data, clocks, backends.
//!
//! Time is virtual. Each event is a step: something drives one gate, everything it emits is carried
//! out, and the invariants are checked. A race is real: between a worker's reading of shared data
//! and its write, another worker's tick runs.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use quota_gate::config::parse::parse;
use quota_gate::gate::reply::CallEnd;
use quota_gate::gate::{CallId, Effect, Flow, Gate, Outgoing, Release, StreamId};
use quota_gate::metrics::Kind;
use quota_gate::shared::{PlainShared, Shared, Version};
use quota_gate::time::Wall;
use quota_gate::wire::RawReply;

use crate::events::{Asked, EPOCH, Fault, MS, Mood, Nature, Random, SEC, Setup, Weather};
use crate::invariants::{Chain, Tally, Transition};
use crate::model::{Books, Check, Key, Known, LocalModel, Ruling, Said, Steady};
use crate::tables::{Watch, leases_let_go};

pub(crate) const TICK: u64 = 20 * MS;

/// How a call ends.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Broken,
    /// The host's timer has ended it while its body was on the way.
    Stalled,
    /// An answer that can't be read, or of a status that means nothing.
    Foul(u16, Vec<(String, Vec<u8>)>),
    Host(u16),
    Refused,
    Said(Said),
}

#[derive(Clone, Debug)]
enum Event {
    Arrival,
    Close(u32),
    Disaster,
    /// A call's end; the second part says that the gate should not have waited for it.
    End(usize, u64, End),
    Forget(usize),
    Jump,
    Mood,
    Push(usize),
    Tick(usize),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    Waiting,
    Released,
    /// The client left before its release.
    Gone,
}

/// A request in the world.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) gate: usize,
    pub(crate) asked: Asked,
    pub(crate) key: Option<Key>,
    /// When it has to be out, by its gate's own steady clock.
    pub(crate) deadline: u64,
    pub(crate) phase: Phase,
    pub(crate) closed: bool,
}

/// A call in the world.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) backend: String,
    pub(crate) check: Check,
    /// By its gate's steady clock.
    pub(crate) since: u64,
    /// The same moment, truly.
    pub(crate) made: u64,
    pub(crate) timeout: u64,
    /// How long before that the host's timer may have begun: not before the gate's last tick.
    pub(crate) head_start: u64,
    /// In a simple world: who waits for it.
    pub(crate) waiter: Option<u32>,
}

/// What leads a gate to what it emits.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// A request's, with so many calls in flight to its backend.
    Arrival(u32, u64),
    /// The end of a call, which the gate waited for if it is there.
    End(Option<Box<Call>>, End),
    Forgotten,
    Tick,
}

/// One gate: a worker under one configuration.
pub(crate) struct Instance {
    pub(crate) gate: Gate,
    pub(crate) setup: Rc<Setup>,
    pub(crate) clock: Steady,
    pub(crate) ticked: Option<u64>,
    /// The same moment by its steady clock.
    pub(crate) ticked_by_clock: Option<u64>,
    pub(crate) calls: BTreeMap<u64, Call>,
    pub(crate) known: BTreeMap<Key, Known>,
    pub(crate) outbox: VecDeque<(Effect, Rc<Cause>)>,
    pub(crate) metrics: BTreeMap<String, i64>,
    pub(crate) tally: Tally,
    pub(crate) watch: Watch,
    /// Keys that it may hold leases for.
    leases_max: usize,
    /// The host has forgotten it.
    pub(crate) over: bool,
}

impl Instance {
    fn collect(&mut self, cause: &Rc<Cause>) {
        while let Some(effect) = self.gate.poll_effect() {
            self.outbox.push_back((effect, Rc::clone(cause)));
        }
    }

    /// The gate has ticked, and has forgotten the calls whose end is overdue.
    fn tick(&mut self, truth: u64, wall: Wall, shared: &mut dyn Shared) {
        self.clock.read(wall.0);
        self.gate.handle_tick(wall, shared);
        let now = self.clock.now;
        self.ticked = Some(truth);
        self.ticked_by_clock = Some(now);
        self.calls
            .retain(|_, call| call.since + call.timeout + 2 * TICK > now);
        self.collect(&Rc::new(Cause::Tick));
        self.flush();
        let leases = self.gate.holdings().leases;
        self.watch
            .tick(leases, leases_let_go(&self.metrics), self.leases_max);
    }

    pub(crate) fn flush(&mut self) {
        let mut changes = Vec::new();
        self.gate
            .flush_metrics(|metric, change| changes.push((metric, change)));
        for (metric, change) in changes {
            let name = metric.name(self.gate.config());
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

/// Shared data in which others may be faster.
struct Racing<'a> {
    plain: &'a mut PlainShared,
    random: &'a mut Random,
    races: u64,
    refuses: bool,
    others: &'a mut [Option<Box<Instance>>],
    truth: u64,
    wall: u64,
    raced: &'a mut u64,
}

impl Racing<'_> {
    /// Another worker's tick, or a write of the same value.
    fn interlope(&mut self, key: &str) {
        *self.raced += 1;
        let choice = self.random.below(2 * self.others.len() as u64) as usize;
        let other = self.others.get_mut(choice).and_then(Option::as_mut);
        if let Some(other) = other.filter(|other| !other.over) {
            return other.tick(self.truth, Wall(self.wall), &mut *self.plain);
        }
        let (value, version) = self.plain.load(key);
        if version != Version(0) {
            self.plain.store(key, &value, version);
        }
    }
}

impl Shared for Racing<'_> {
    fn load(&mut self, key: &str) -> (Vec<u8>, Version) {
        self.plain.load(key)
    }

    fn store(&mut self, key: &str, value: &[u8], expected: Version) -> bool {
        if self.refuses {
            return false;
        }
        if self.random.percent(self.races) {
            self.interlope(key);
        }
        self.plain.store(key, value, expected)
    }
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) nature: Nature,
    pub(crate) random: Random,
    pub(crate) truth: u64,
    offset: i64,
    pub(crate) shared: PlainShared,
    setup: Rc<Setup>,
    pub(crate) gates: Vec<Option<Box<Instance>>>,
    /// The gate at work, by worker.
    current: Vec<usize>,
    pub(crate) streams: BTreeMap<u32, Stream>,
    last_stream: u32,
    events: BTreeMap<(u64, u64), Event>,
    serial: u64,
    moods: BTreeMap<String, Mood>,
    pub(crate) books: BTreeMap<String, Books>,
    pub(crate) chains: BTreeMap<(String, String), Chain>,
    /// Changes of breakers that were told before those that they follow.
    pub(crate) deferred: Vec<Transition>,
    pub(crate) local: LocalModel,
    pub(crate) admitted: BTreeMap<(String, Key), u64>,
    pub(crate) raced: u64,
    pub(crate) faults: BTreeMap<String, u64>,
    /// How often a table was full at a tick, and what came of it.
    pub(crate) full: BTreeMap<String, u64>,
    pub(crate) steps: u64,
    pub(crate) reasons: BTreeMap<String, u64>,
    traced: bool,
    quiet: bool,
}

impl World {
    #[cfg(not(fuzzing))]
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        Self::of(Random::new(seed), seed.is_multiple_of(3), traced)
    }

    /// A world that is a function of its numbers; with `few` its tables hold a few entries.
    pub(crate) fn of(mut random: Random, few: bool, traced: bool) -> Self {
        let nature = Nature::new(&mut random, few);
        let setup = Rc::new(Setup::new(&mut random, &nature, EPOCH * SEC));
        let mut world = Self {
            random,
            truth: 0,
            offset: 0,
            shared: PlainShared::default(),
            setup,
            gates: Vec::new(),
            current: Vec::new(),
            streams: BTreeMap::new(),
            last_stream: 0,
            events: BTreeMap::new(),
            serial: 0,
            moods: BTreeMap::new(),
            books: BTreeMap::new(),
            chains: BTreeMap::new(),
            deferred: Vec::new(),
            local: LocalModel::default(),
            admitted: BTreeMap::new(),
            raced: 0,
            faults: BTreeMap::new(),
            full: BTreeMap::new(),
            steps: 0,
            reasons: BTreeMap::new(),
            traced,
            quiet: false,
            nature,
        };
        world.trace(|world| format!("{:?}\n{:#}", world.nature, world.setup.json));
        for name in ["quota0", "quota1"] {
            let books = Books::new(&mut world.random);
            world.books.insert(name.to_owned(), books);
            world.moods.insert(name.to_owned(), Mood::WELL);
        }
        for _ in 0..world.nature.workers {
            let gate = world.start();
            world.current.push(gate);
        }
        world.plan(1, Event::Arrival);
        world.plan(50 * MS, Event::Mood);
        world.plan(100 * MS, Event::Disaster);
        if world.nature.pushes {
            world.plan(150 * MS, Event::Push(0));
        }
        if world.nature.weather == Weather::Jumps {
            world.plan(60 * MS, Event::Jump);
        }
        world
    }

    /// Lets `steps` things happen, then lets everything come to its end.
    #[cfg(not(fuzzing))]
    pub(crate) fn run(&mut self, steps: u64) {
        while self.steps < steps {
            self.step();
        }
        self.come_to_rest();
    }

    /// Lets things happen while there are choices on the tape, then lets everything end.
    #[cfg(fuzzing)]
    pub(crate) fn run_tape(&mut self, steps_max: u64) {
        while self.steps < steps_max && !self.random.is_over() {
            self.step();
        }
        self.come_to_rest();
    }

    fn come_to_rest(&mut self) {
        self.quiet = true;
        let end = self.truth + 2 * SEC;
        while self.truth < end && self.step() {}
        self.check_end();
    }

    pub(crate) fn trace(&self, line: impl FnOnce(&Self) -> String) {
        if self.traced {
            println!("{:>12.3} ms  {}", self.truth as f64 / MS as f64, line(self));
        }
    }

    fn start(&mut self) -> usize {
        let config = match parse(self.setup.json.to_string().as_bytes()) {
            Ok(config) => config,
            Err(problems) => panic!("the world made a bad configuration: {problems}"),
        };
        let index = self.gates.len();
        self.gates.push(Some(Box::new(Instance {
            gate: Gate::with_bounds(config, index as u64, &self.nature.bounds),
            setup: Rc::clone(&self.setup),
            clock: Steady::default(),
            ticked: None,
            ticked_by_clock: None,
            calls: BTreeMap::new(),
            known: BTreeMap::new(),
            outbox: VecDeque::new(),
            metrics: BTreeMap::new(),
            tally: Tally::default(),
            watch: Watch::default(),
            leases_max: self.nature.bounds.leases,
            over: false,
        })));
        let first = self.random.below(TICK);
        self.plan(first, Event::Tick(index));
        index
    }

    fn plan(&mut self, after: u64, event: Event) {
        self.serial += 1;
        self.events.insert((self.truth + after, self.serial), event);
    }

    /// The system's clock, as a callback reads it.
    fn wall(&mut self) -> u64 {
        let early = match self.nature.weather {
            Weather::Jitter => self.random.below(3 * MS),
            Weather::Calm | Weather::Jumps => 0,
        };
        (EPOCH * SEC + self.truth - early.min(self.truth)).saturating_add_signed(self.offset)
    }

    fn step(&mut self) -> bool {
        let Some(((at, _), event)) = self.events.pop_first() else {
            return false;
        };
        self.truth = at;
        self.steps += 1;
        match event {
            Event::Arrival => self.arrive(),
            Event::Close(stream) => self.close(stream),
            Event::Disaster => self.disaster(),
            Event::End(gate, call, end) => self.end(gate, call, &end),
            Event::Forget(gate) => self.forget(gate),
            Event::Jump => self.jump(),
            Event::Mood => self.change_mood(),
            Event::Push(worker) => self.push(worker),
            Event::Tick(gate) => self.tick(gate),
        }
        self.check_step();
        true
    }

    /// Drives one gate, with the others at hand for races, and carries out what all of them emit.
    fn drive<T>(
        &mut self,
        index: usize,
        run: impl FnOnce(&mut Instance, Wall, &mut dyn Shared) -> T,
    ) -> T {
        let wall = self.wall();
        let mut instance = self.gates[index].take().expect("a gate that is not there");
        let mut shared = Racing {
            plain: &mut self.shared,
            random: &mut self.random,
            races: self.nature.races,
            refuses: self.nature.refuses_writes,
            others: &mut self.gates,
            truth: self.truth,
            wall,
            raced: &mut self.raced,
        };
        let result = run(&mut instance, Wall(wall), &mut shared);
        self.gates[index] = Some(instance);
        result
    }

    /// Carries out what the gates have emitted, the interlopers' first: they were faster.
    fn carry_out(&mut self, last: usize) {
        for index in (0..self.gates.len()).filter(|index| *index != last) {
            self.carry_out_of(index);
        }
        self.carry_out_of(last);
        self.retry_transitions();
    }

    fn carry_out_of(&mut self, index: usize) {
        while let Some((effect, cause)) = self.pop_effect(index) {
            match effect {
                Effect::Call(outgoing) => self.call(index, &cause, &outgoing),
                Effect::Log(level, line) => self.check_line(index, level, &line),
                Effect::Release(stream, release) => self.release(index, stream.0, &release, &cause),
            }
        }
    }

    fn pop_effect(&mut self, index: usize) -> Option<(Effect, Rc<Cause>)> {
        let instance = self.gates.get_mut(index)?.as_mut()?;
        instance.outbox.pop_front()
    }

    fn arrive(&mut self) {
        if self.quiet {
            return;
        }
        let burst = if self.random.percent(3) { 20 } else { 1 };
        for _ in 0..burst {
            let worker = self.random.below(self.nature.workers as u64) as usize;
            self.request(self.current[worker]);
        }
        let pause = match self.random.below(200) {
            0 => self.random.below(3 * SEC),
            _ => self.random.below(2 * self.nature.gap),
        };
        self.plan(pause + 1, Event::Arrival);
    }

    fn request(&mut self, index: usize) {
        self.last_stream += 1;
        let id = self.last_stream;
        let setup = Rc::clone(&self.instance(index).setup);
        let asked = Asked::new(&mut self.random, &setup, u64::from(id));
        self.trace(|_| format!("gate {index}: stream {id}: {}", asked.told));
        let in_flight = asked.way.policy.as_ref();
        let in_flight = in_flight.map_or(0, |own| self.in_flight(index, &own.backend));
        let cause = Rc::new(Cause::Arrival(id, in_flight));
        let (plain, key) = (asked.plain.clone(), key_of(&asked));
        // The gate looks at the clock only where time matters.
        let timeless = asked.status_page || asked.way.policy.is_none();
        let (flow, now) = self.drive(index, |own, wall, shared| {
            if !timeless {
                own.clock.read(wall.0);
            }
            let flow = own
                .gate
                .handle_request(|| wall, StreamId(id), &plain, shared);
            own.collect(&cause);
            own.tally.seen += 1;
            (flow, own.clock.now)
        });
        let stream = Stream {
            gate: index,
            deadline: now.saturating_add(asked.wait),
            key,
            asked,
            phase: Phase::Waiting,
            closed: false,
        };
        self.streams.insert(id, stream);
        self.watch_arrival(index, id, &flow);
        match flow {
            Flow::Answer(answer) => self.answered(index, id, &answer),
            Flow::Release(release) => self.release(index, id, &release, &cause),
            Flow::Wait => {
                self.check_wait(index, id, in_flight);
                if self.random.percent(self.nature.impatience) {
                    let after = self.random.below(100 * MS);
                    self.plan(after, Event::Close(id));
                }
            }
        }
        self.carry_out(index);
    }

    pub(crate) fn instance(&self, index: usize) -> &Instance {
        self.gates[index].as_ref().expect("a gate that is driven")
    }

    pub(crate) fn instance_mut(&mut self, index: usize) -> &mut Instance {
        self.gates[index].as_mut().expect("a gate that is driven")
    }

    /// A stream leaves the gate; its end follows some time later.
    fn release(&mut self, index: usize, id: u32, release: &Release, cause: &Cause) {
        self.trace(|_| format!("gate {index}: stream {id} leaves: {}", release.log_state));
        self.check_release(index, id, release, cause);
        let after = self.random.below(30 * MS);
        self.plan(after, Event::Close(id));
    }

    fn close(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.closed) else {
            return;
        };
        stream.closed = true;
        let index = stream.gate;
        let left = stream.phase == Phase::Waiting;
        if left {
            stream.phase = Phase::Gone;
        }
        let instance = self.instance_mut(index);
        let fields = instance.gate.take_response_fields(StreamId(id));
        if !instance.over {
            instance.gate.handle_close(StreamId(id));
            instance.tally.gone += u64::from(left);
        }
        if left {
            self.trace(|_| format!("gate {index}: the client of stream {id} leaves"));
        } else {
            self.streams.remove(&id);
        }
        for (name, value) in fields {
            self.check_bytes(name.as_bytes(), "a response header");
            self.check_bytes(&value, "a response header");
        }
    }

    fn tick(&mut self, index: usize) {
        if self.instance(index).over {
            return;
        }
        let truth = self.truth;
        self.drive(index, |own, wall, shared| own.tick(truth, wall, shared));
        self.carry_out(index);
        self.check_tick(index);
        self.check_tables(index);
        let late = match self.random.below(100) {
            0 => self.random.below(150 * MS),
            _ => self.random.below(2 * MS),
        };
        self.plan(TICK + late, Event::Tick(index));
    }

    fn end(&mut self, index: usize, id: u64, end: &End) {
        if self.gates[index].as_ref().is_none_or(|own| own.over) {
            return;
        }
        self.trace(|_| format!("gate {index}: call {id} ends: {end:?}"));
        let live = self.instance_mut(index).calls.remove(&id);
        let said = match end {
            End::Said(said) => Some(said),
            End::Broken | End::Foul(..) | End::Host(_) | End::Refused | End::Stalled => None,
        };
        let cause = Rc::new(Cause::End(live.clone().map(Box::new), end.clone()));
        self.drive(index, |own, wall, shared| {
            own.clock.read(wall.0);
            if let (Some(call), Some(said)) = (&live, said) {
                own.learn(call, said);
            }
            reply(&mut own.gate, wall, CallId(id), end, shared);
            own.collect(&cause);
        });
        self.carry_out(index);
        if let Some(call) = live {
            self.check_end_of_call(&call);
        }
    }

    fn call(&mut self, index: usize, cause: &Cause, outgoing: &Outgoing) {
        let call = self.check_call(index, cause, outgoing);
        let timeout = call.timeout;
        let mood = self.moods[&call.backend];
        let fault = mood.fault(&mut self.random);
        *self
            .faults
            .entry(format!("{fault:?}").to_lowercase())
            .or_default() += 1;
        let id = outgoing.id.0;
        let stall = id
            .is_multiple_of(2)
            .then(|| timeout - self.earliest_stall(index, &call));
        self.trace(|_| format!("gate {index}: call {id}: {call:?}: {fault:?}"));
        let check = call.check.clone();
        let backend = call.backend.clone();
        self.instance_mut(index).calls.insert(id, call);
        if fault == Fault::Refused {
            return self.end(index, id, &End::Refused);
        }
        let truth = self.truth;
        let counts =
            !matches!(fault, Fault::ErrorStatus | Fault::HostStatus) || self.random.percent(10);
        let books = self
            .books
            .get_mut(&backend)
            .expect("a backend that nobody knows");
        let said = match counts {
            true => books.answer(&mut self.random, truth, &check),
            false => Said::new(Ruling::Deny),
        };
        let quick = self.random.between(
            MS / 10,
            *[MS, 10 * MS].get(self.steps as usize % 2).unwrap(),
        );
        for (after, end) in ends(&mut self.random, fault, (timeout, stall), quick, said) {
            self.plan(after, Event::End(index, id, end));
        }
    }

    /// How early the host's timer ends a call at the most: the loop has been busy since the tick,
    /// and its clock is coarse.
    fn earliest_stall(&self, index: usize, call: &Call) -> u64 {
        let ticked = self.instance(index).ticked;
        let busy = ticked.map_or(u64::MAX, |ticked| self.truth - ticked);
        busy.min(call.head_start) + clock_slack(call.timeout)
    }

    fn change_mood(&mut self) {
        for name in ["quota0", "quota1"] {
            let mood = match self.quiet {
                true => Mood::WELL,
                false => Mood::random(&mut self.random),
            };
            self.trace(|_| format!("{name} is {mood:?}"));
            self.moods.insert(name.to_owned(), mood);
        }
        let after = self.random.between(20 * MS, 600 * MS);
        self.plan(after, Event::Mood);
    }

    fn disaster(&mut self) {
        let name = *self.random.pick(&["quota0", "quota1"]);
        let lost = self.random.percent(50);
        let books = self
            .books
            .get_mut(name)
            .expect("a backend that nobody knows");
        match lost {
            true => books.lose(),
            false => books.change(&mut self.random),
        }
        self.trace(|_| format!("{name}: its books are lost, or its limit is another"));
        let after = self.random.between(50 * MS, SEC);
        self.plan(after, Event::Disaster);
    }

    fn jump(&mut self) {
        let far = *self.random.pick(&[5 * MS, 90 * MS, SEC, 3600 * SEC]);
        let far = self.random.below(far) as i64;
        let by = if self.random.percent(50) { far } else { -far };
        self.offset += by;
        self.count("clock jump");
        self.trace(|_| format!("the clock is set by {} ms", by / MS as i64));
        let after = self.random.between(MS, 500 * MS);
        self.plan(after, Event::Jump);
    }

    pub(crate) fn count(&mut self, what: &str) {
        *self.faults.entry(what.to_owned()).or_default() += 1;
    }

    /// A new configuration, which the workers get one after the other.
    fn push(&mut self, worker: usize) {
        if worker == 0 {
            let wall = self.wall();
            self.setup = Rc::new(Setup::new(&mut self.random, &self.nature, wall));
            self.count("configuration push");
            self.trace(|world| format!("push: {:#}", world.setup.json));
        }
        let old = self.current[worker];
        self.instance_mut(old).gate.handle_replaced();
        self.current[worker] = self.start();
        let patience = *self.random.pick(&[0, 30 * MS, 2 * SEC]);
        self.plan(patience, Event::Forget(old));
        let (next, after) = match worker + 1 < self.nature.workers {
            true => (worker + 1, self.random.below(10 * MS)),
            false => (0, self.random.between(100 * MS, 2 * SEC)),
        };
        if !self.quiet || next > 0 {
            self.plan(after, Event::Push(next));
        }
    }

    /// The host forgets a gate that was replaced: with whatever is still in flight.
    fn forget(&mut self, index: usize) {
        self.trace(|_| format!("gate {index} is forgotten"));
        let cause = Rc::new(Cause::Forgotten);
        self.drive(index, |own, wall, shared| {
            own.clock.read(wall.0);
            own.gate.handle_end(wall, shared);
            own.collect(&cause);
            own.flush();
        });
        self.carry_out(index);
        self.instance_mut(index).over = true;
        self.check_over(index);
    }

    /// What the tables should have done for a request that has just arrived.
    fn watch_arrival(&mut self, index: usize, id: u32, flow: &Flow) {
        let stream = &self.streams[&id];
        let own = self.instance(index);
        let policy = stream.asked.way.policy.clone();
        let Some((policy, key)) = policy.zip(stream.key.clone()) else {
            return;
        };
        if stream.asked.status_page || self.at_once(own, &stream.asked).is_some() {
            return;
        }
        let unanswered = match flow {
            Flow::Answer(_) => false,
            Flow::Release(release) => release.decision.cause.is_some(),
            Flow::Wait => true,
        };
        let (cost, now) = (stream.asked.cost, own.clock.now);
        let known = own.known.get(&key).filter(|_| policy.lease.is_none());
        let fresh = known.and_then(|known| known.fresh_since(now, cost, &policy));
        let watch = &mut self.instance_mut(index).watch;
        if policy.lease.is_some() {
            watch.meet(key);
        } else if let Some(since) = fresh.filter(|_| unanswered) {
            watch.miss(key, since);
        }
    }

    /// Forgets every gate that is left, as a host that shuts down does.
    pub(crate) fn forget_all(&mut self) {
        for index in 0..self.gates.len() {
            if !self.instance(index).over {
                self.forget(index);
            }
        }
    }
}

impl Instance {
    fn learn(&mut self, call: &Call, said: &Said) {
        let mut policies = self.setup.ways.iter().filter_map(|way| way.policy.as_ref());
        let name = &call.check.key.0;
        let Some(policy) = policies.find(|policy| policy.name == *name) else {
            return;
        };
        let known = self.known.entry(call.check.key.clone()).or_default();
        known.learn(self.clock.now, call.since, &call.check, said, policy);
    }
}

/// What is counted together with this request.
fn key_of(asked: &Asked) -> Option<Key> {
    let policy = asked.way.policy.as_ref()?;
    Some((policy.name.clone(), asked.tenant.clone()?))
}

fn reply(gate: &mut Gate, wall: Wall, id: CallId, end: &End, shared: &mut dyn Shared) {
    let raw = |gate: &mut Gate, status, headers: &[(String, Vec<u8>)], shared: &mut dyn Shared| {
        let headers: Vec<(&[u8], &[u8])> = headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), &value[..]))
            .collect();
        let reply = RawReply {
            status,
            headers: &headers,
            body: b"",
            now: wall,
        };
        gate.handle_reply(wall, id, CallEnd::Reply(reply), shared);
    };
    match end {
        End::Broken | End::Stalled => gate.handle_reply(wall, id, CallEnd::Broken, shared),
        End::Foul(status, headers) => raw(gate, *status, headers, shared),
        End::Host(status) => gate.handle_reply(wall, id, CallEnd::Host(*status), shared),
        End::Refused => gate.handle_reply(wall, id, CallEnd::Refused, shared),
        End::Said(said) => raw(gate, said.status, &said.headers, shared),
    }
}

/// How and when a call ends, as often as the host tells of it.
fn ends(
    random: &mut Random,
    fault: Fault,
    (timeout, stall): (u64, Option<u64>),
    quick: u64,
    said: Said,
) -> Vec<(u64, End)> {
    let silence = (timeout, End::Host(504));
    let in_time = |after: u64, end: End| match after < timeout {
        true => vec![(after, end)],
        false => vec![silence.clone()],
    };
    match fault {
        Fault::None => in_time(quick, End::Said(said)),
        Fault::Slow => in_time(random.below(2 * timeout), End::Said(said)),
        Fault::Broken => in_time(random.below(timeout), End::Broken),
        Fault::HostStatus => in_time(quick, End::Host(*random.pick(&[503, 502, 408, 504]))),
        Fault::ErrorStatus => {
            let status = *random.pick(&[500, 503, 404, 302, 504]);
            in_time(quick, End::Foul(status, said.headers))
        }
        Fault::Garbage => {
            let mut headers = said.headers;
            headers.retain(|(name, _)| name != "x-quota-granted");
            headers.push(("x-quota-granted".to_owned(), b"\xff;many".to_vec()));
            in_time(quick, End::Foul(200, headers))
        }
        Fault::Doubled => {
            let mut other = Said::new(Ruling::Allow(1_000));
            other.header("x-quota-granted", "1000");
            let mut twice = in_time(quick, End::Said(said));
            let later = twice[0].0 + 1 + random.below(timeout);
            twice.push((later, End::Said(other)));
            twice
        }
        // Headers have come, and no body: the timeout ends it as if it broke off.
        Fault::Hang => vec![stall.map_or(silence, |after| (after, End::Stalled))],
        Fault::Late => vec![silence, (timeout + random.below(100 * MS), End::Said(said))],
        Fault::Lost if random.percent(30) => {
            // The host was late, not forgetful.
            vec![(timeout + random.below(100 * MS), End::Said(said))]
        }
        Fault::Lost | Fault::Refused => Vec::new(),
    }
}

/// How far the clock of the host's timers may be behind.
pub(crate) fn clock_slack(timeout: u64) -> u64 {
    (timeout / 8).min(10 * MS)
}
