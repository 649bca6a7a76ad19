//! Seeded random lives of a breaker: against a model that keeps every result and shares nothing,
//! and in a world where writes race, ticks fail to come and clocks jump.

use super::*;

/// Workers that hear of each other after every step stand where the model stands.
#[test]
fn agrees_with_a_model_that_keeps_every_result() {
    let mut turns = 0;
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut world = World::new(1 + random.below(4), random.settings());
        let mut model = Model::new(world.settings.clone());
        let mut calls: Vec<(Permit, u32)> = Vec::new();
        let sickness = random.below(100);
        for step in 0..400 {
            let context = format!("seed {seed}, step {step}");
            let worker = random.below(world.breakers.len());
            if random.below(2) == 0 || calls.is_empty() {
                let permit = world.permit(worker);
                model.permit(world.now, permit, &context);
                calls.extend(permit.map(|permit| (permit, model.turns)));
            } else {
                let (permit, turn) = calls.swap_remove(random.below(calls.len()));
                let outcome = random.outcome(sickness);
                world.record(worker, permit, outcome);
                model.record(world.now, permit, turn, outcome);
            }
            model.follow(&mut world, &context);
            world.now = world.now.after(random.pause());
            world.tick();
            world.hear_of_each_other();
            model.tick(world.now);
            model.follow(&mut world, &context);
            assert_eq!(
                world.states(),
                vec![model.state(); world.breakers.len()],
                "{context}"
            );
        }
        turns += model.turns;
    }
    assert!(turns > 5_000, "{turns} changes of state try too little");
}

/// Whatever goes wrong, changes are legal and each is claimed once, live trial calls are as few as
/// configured, no wait is above the cap; and once all is well again, the breaker closes.
#[test]
fn keeps_its_promises_in_a_hostile_world() {
    let mut turns = 0;
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut world = World::new(2 + random.below(3), random.settings());
        let mut calls: Vec<(usize, Permit)> = Vec::new();
        let mut trials: Vec<(Permit, Wall)> = Vec::new();
        let mut last = Closed;
        for step in 0..400 {
            let context = format!("seed {seed}, step {step}");
            let mut lossy = Lossy {
                lose: if random.below(5) == 0 {
                    random.below(7)
                } else {
                    0
                },
                plain: &mut world.shared,
            };
            let worker = random.below(world.breakers.len());
            let breaker = &mut world.breakers[worker];
            match random.below(4) {
                0 | 1 => match breaker.permit(world.now, CALL_TIMEOUT, &mut lossy) {
                    Ok(permit) => {
                        calls.push((worker, permit));
                        trials.push((permit, world.now));
                    }
                    Err(refused) => {
                        let cap = world.settings.open_for_max.max(LAPSE);
                        assert!(refused.retry_after <= cap, "{context}: {refused:?}");
                    }
                },
                2 if !calls.is_empty() => {
                    let (worker, permit) = calls.swap_remove(random.below(calls.len()));
                    let outcome = random.outcome(60);
                    world.breakers[worker].record(world.now, permit, outcome, &mut lossy);
                    trials.retain(|(of, _)| *of != permit);
                }
                _ => breaker.handle_tick(world.now, &mut lossy),
            }
            world.expect_few_trials(&mut trials, &context);
            for (from, to, _) in world.told() {
                assert_eq!(from, last, "{context}: claimed twice or out of order");
                assert!(LEGAL.contains(&(from, to)), "{context}: {from:?} to {to:?}");
                last = to;
                turns += 1;
            }
            world.now = world.now.after(random.pause());
            world.now = random.jump(world.now);
        }
        world.expect_recovery(seed);
    }
    assert!(turns > 5_000, "{turns} changes of state try too little");
}

/// A breaker as one would write it without workers, clocks that jump, or bounds.
struct Model {
    settings: BreakerSettings,
    turns: u32,
    opens: u32,
    /// A success that the worker will write with its next tick.
    gathered: u32,
    phase: Phase,
}

enum Phase {
    Closed {
        run: u32,
        calls: Vec<(u64, CallOutcome)>,
    },
    HalfOpen {
        passed: u32,
        live: Vec<(u32, Wall)>,
    },
    Open {
        since: Wall,
        open_for: Option<Duration>,
    },
}

impl Model {
    fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            turns: 0,
            opens: 0,
            gathered: 0,
            phase: Phase::Closed {
                run: 0,
                calls: Vec::new(),
            },
        }
    }

    fn permit(&mut self, now: Wall, permit: Result<Permit, Refused>, context: &str) {
        self.tick_open(now);
        let trial = permit.ok().and_then(|permit| permit.trial);
        let (expected, on_trial) = match &mut self.phase {
            Phase::Closed { .. } => (true, false),
            Phase::HalfOpen { passed, live } => {
                live.retain(|(_, since)| now.since(*since) < LAPSE);
                let room = *passed + (live.len() as u32) < self.settings.half_open_calls;
                live.extend(trial.map(|number| (number, now)));
                (room, room)
            }
            Phase::Open { .. } => (false, false),
        };
        assert_eq!(
            (permit.is_ok(), trial.is_some()),
            (expected, on_trial),
            "{context}"
        );
    }

    fn record(&mut self, now: Wall, permit: Permit, turn: u32, outcome: CallOutcome) {
        if turn != self.turns {
            return;
        }
        match &mut self.phase {
            Phase::Closed { run, .. } if *run == 0 && outcome == Success => self.gathered += 1,
            Phase::Closed { .. } => self.count(now, outcome),
            Phase::HalfOpen { .. } if outcome == Failure => self.open(now),
            Phase::HalfOpen { passed, live } => {
                let number = permit.trial.expect("half-open, every call is a trial");
                let before = live.len();
                live.retain(|(n, since)| *n != number || now.since(*since) >= LAPSE);
                *passed += u32::from(live.len() < before);
                if *passed == self.settings.half_open_calls {
                    self.opens = 0;
                    self.turn(Phase::Closed {
                        run: 0,
                        calls: Vec::new(),
                    });
                }
            }
            Phase::Open { .. } => panic!("open, no call is permitted"),
        }
    }

    fn tick(&mut self, now: Wall) {
        for _ in 0..std::mem::take(&mut self.gathered) {
            self.count(now, Success);
        }
        self.tick_open(now);
    }

    fn tick_open(&mut self, now: Wall) {
        if let Phase::Open {
            since,
            open_for: Some(open_for),
        } = self.phase
            && now >= since.after(open_for)
        {
            self.turn(Phase::HalfOpen {
                passed: 0,
                live: Vec::new(),
            });
        }
    }

    fn count(&mut self, now: Wall, outcome: CallOutcome) {
        let bucket = now.0 / (self.settings.window.as_nanos() as u64 / 10);
        let Phase::Closed { run, calls } = &mut self.phase else {
            return;
        };
        calls.push((bucket, outcome));
        *run = if outcome == Failure { *run + 1 } else { 0 };
        calls.retain(|(of, _)| of + 10 > bucket);
        let failed = calls
            .iter()
            .filter(|(_, outcome)| *outcome == Failure)
            .count();
        let share = failed * 1_000 >= calls.len() * self.settings.failure_permille as usize;
        let enough = calls.len() >= self.settings.min_calls as usize;
        if *run >= self.settings.consecutive_failures || (share && enough) {
            self.open(now);
        }
    }

    fn open(&mut self, now: Wall) {
        self.opens += 1;
        self.turn(Phase::Open {
            since: now,
            open_for: None,
        });
    }

    fn turn(&mut self, phase: Phase) {
        self.turns += 1;
        self.gathered = 0;
        self.phase = phase;
    }

    /// Takes the open time, which is random, from the breaker, if it is within its bounds.
    fn follow(&mut self, world: &mut World, context: &str) {
        for transition in world.transitions() {
            let Some(told) = transition.open_for else {
                continue;
            };
            let first = self.settings.open_for;
            let most = first.saturating_mul(1 << (self.opens - 1).min(20));
            assert!(told >= first / 2, "{context}: {told:?}");
            assert!(
                told <= most.min(self.settings.open_for_max),
                "{context}: {told:?}"
            );
            if let Phase::Open { open_for, .. } = &mut self.phase {
                *open_for = Some(told);
            }
        }
    }

    fn state(&self) -> State {
        match self.phase {
            Phase::Closed { .. } => Closed,
            Phase::HalfOpen { .. } => HalfOpen,
            Phase::Open { .. } => Open,
        }
    }
}

impl World {
    /// Those of the newest generation that have not lapsed; what has is gone, wherever the clock
    /// goes.
    #[track_caller]
    fn expect_few_trials(&self, trials: &mut Vec<(Permit, Wall)>, context: &str) {
        let newest = trials.iter().map(|(permit, _)| permit.generation).max();
        trials.retain(|(permit, since)| {
            let age = self.now.since(*since).max(since.since(self.now));
            permit.is_trial() && Some(permit.generation) == newest && age < LAPSE
        });
        let most = self.settings.half_open_calls as usize;
        assert!(trials.len() <= most, "{context}: {}", trials.len());
    }

    #[track_caller]
    fn expect_recovery(&mut self, seed: u64) {
        let patience = self.settings.open_for_max.as_millis() / TICK.as_millis() + 100;
        let closed = vec![Closed; self.breakers.len()];
        for _ in 0..patience {
            self.tick();
            if self.states() == closed {
                return;
            }
            for worker in 0..self.breakers.len() {
                let _refused = self.call(worker, Success);
            }
        }
        panic!("seed {seed}: {:?} though all is well", self.states());
    }

    /// The first to tick in a round has not seen what the last one wrote.
    fn hear_of_each_other(&mut self) {
        for breaker in &mut self.breakers {
            breaker.handle_tick(self.now, &mut self.shared);
        }
    }

    fn transitions(&mut self) -> Vec<Transition> {
        self.hear();
        let all = self.told.iter_mut().flat_map(std::mem::take);
        all.filter(|transition| transition.mine).collect()
    }
}

/// Others write, to no effect, just before a store, so many times.
struct Lossy<'a> {
    plain: &'a mut PlainShared,
    lose: usize,
}

impl Shared for Lossy<'_> {
    fn load(&mut self, key: &str) -> (Vec<u8>, Version) {
        self.plain.load(key)
    }

    fn store(&mut self, key: &str, value: &[u8], expected: Version) -> bool {
        if let Some(left) = self.lose.checked_sub(1) {
            self.lose = left;
            let (present, version) = self.plain.load(key);
            assert!(self.plain.store(key, &present, version));
        }
        self.plain.store(key, value, expected)
    }
}

/// SplitMix64, and what the tests draw from it.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (crate::gate::slots::scatter(self.0) % bound as u64) as usize
    }

    fn settings(&mut self) -> BreakerSettings {
        let open_for = Duration::from_millis([50, 200, 1_000][self.below(3)]);
        BreakerSettings {
            consecutive_failures: [1, 3, 5, 100][self.below(4)],
            failure_permille: [100, 500, 1_000][self.below(3)],
            min_calls: [1, 5, 20][self.below(3)],
            window: Duration::from_millis([500, 2_000, 10_000][self.below(3)]),
            open_for,
            open_for_max: open_for * [1, 3, 10][self.below(3)],
            half_open_calls: [1, 2, 5][self.below(3)],
        }
    }

    fn outcome(&mut self, failing_percent: usize) -> CallOutcome {
        if self.below(100) < failing_percent {
            Failure
        } else {
            Success
        }
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis([0, 1, 15, 120][self.below(4)])
    }

    fn jump(&mut self, now: Wall) -> Wall {
        let far = [100, 5_000, 86_400_000][self.below(3)] * 1_000_000;
        match self.below(40) {
            0 => Wall(now.0 - far),
            1 => Wall(now.0 + far),
            _ => now,
        }
    }
}

const LEGAL: [(State, State); 4] = [
    (Closed, Open),
    (HalfOpen, Closed),
    (HalfOpen, Open),
    (Open, HalfOpen),
];

/// When a trial slot lapses: the call's timeout and a quarter of a second.
const LAPSE: Duration = Duration::from_millis(350);
