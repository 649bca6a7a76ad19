//! The breaker's life in virtual time, some workers over one shared data.

use super::CallOutcome::{Failure, Success};
use super::State::{Closed, HalfOpen, Open};
use super::*;
use crate::shared::{PlainShared, Version};

mod model;

const CALL_TIMEOUT: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(20);

// All the way round.

#[test]
fn goes_all_the_way_round() {
    for workers in [1, 2, 4] {
        let mut world = World::new(workers, settings());

        world.trip();
        assert_eq!(world.told(), [(Closed, Open, Why::Consecutive(5))]);
        world.wait_for(HalfOpen);
        assert_eq!(world.told(), [(Open, HalfOpen, Why::OpenTimeOver)]);
        world.call(0, Failure).unwrap();
        assert_eq!(world.told(), [(HalfOpen, Open, Why::TrialFailed)]);
        world.wait_for(HalfOpen);
        assert_eq!(world.told(), [(Open, HalfOpen, Why::OpenTimeOver)]);
        for _ in 0..world.settings.half_open_calls {
            let permit = world.call(workers - 1, Success).unwrap();
            assert!(permit.is_trial());
        }
        assert_eq!(world.told(), [(HalfOpen, Closed, Why::TrialsPassed)]);
        world.tick();
        assert_eq!(world.states(), vec![Closed; workers]);
        assert!(!world.call(0, Success).unwrap().is_trial());
    }
}

#[test]
fn every_change_is_made_by_one_worker_and_seen_by_all() {
    let mut world = World::new(4, settings());

    world.trip();
    world.tick();
    world.wait_for(HalfOpen);

    for worker in 0..4 {
        let changes = world.changes(worker);
        assert_eq!(changes, [(Closed, Open), (Open, HalfOpen)], "{worker}");
    }
    assert_eq!(world.told().len(), 2);
}

// Closed.

#[test]
fn trips_at_the_configured_failures_in_a_row() {
    for consecutive_failures in [1, 2, 5, 20] {
        let mut world = World::new(
            2,
            BreakerSettings {
                consecutive_failures,
                ..settings()
            },
        );
        for n in 1..consecutive_failures {
            world.call(n as usize % 2, Failure).unwrap();
            assert_eq!(world.breakers[n as usize % 2].state(), Closed, "{n}");
        }

        world.call(0, Failure).unwrap();

        let why = Why::Consecutive(consecutive_failures);
        assert_eq!(world.told(), [(Closed, Open, why)]);
    }
}

#[test]
fn a_success_ends_a_run_on_every_worker() {
    let mut world = World::new(2, settings());
    for _ in 0..4 {
        world.call(0, Failure).unwrap();
    }
    world.tick();

    world.call(1, Success).unwrap();
    for _ in 0..4 {
        world.call(0, Failure).unwrap();
    }

    assert_eq!(world.states(), [Closed, Closed]);
}

#[test]
fn a_success_gathered_before_anothers_failures_does_not_end_their_run() {
    let mut world = World::new(2, settings());
    world.call(1, Success).unwrap();
    world.now = world.now.after(Duration::from_millis(1));
    for _ in 0..4 {
        world.call(0, Failure).unwrap();
    }
    world.tick();

    world.call(0, Failure).unwrap();

    assert_eq!(world.told(), [(Closed, Open, Why::Consecutive(5))]);
}

#[test]
fn trips_at_the_configured_share_of_the_least_calls() {
    let settings = settings();
    let mut world = World::new(2, settings.clone());
    let failures = settings.min_calls * settings.failure_permille / 1_000;
    for n in 0..settings.min_calls - 1 {
        let outcome = if n % 2 == 0 { Failure } else { Success };
        world.call(n as usize % 2, outcome).unwrap();
        world.tick();
        assert_eq!(world.states(), [Closed, Closed], "after {n}");
    }

    world.call(1, Success).unwrap();
    world.tick();

    assert_eq!((failures, settings.min_calls), (10, 20));
    let why = Why::Rate {
        permille: 500,
        calls: 20,
    };
    assert_eq!(world.told(), [(Closed, Open, why)]);
}

#[test]
fn a_share_below_the_configured_one_does_not_trip() {
    let mut world = World::new(1, settings());
    for n in 0..300 {
        let outcome = if n % 5 < 2 { Failure } else { Success };
        world.call(0, outcome).unwrap();
        world.tick();
    }

    assert_eq!(world.states(), [Closed]);
}

#[test]
fn calls_older_than_the_window_do_not_count() {
    let mut world = World::new(1, settings());
    for n in 0..18 {
        let outcome = if n % 2 == 0 { Failure } else { Success };
        world.call(0, outcome).unwrap();
    }
    world.now = world.now.after(world.settings.window);

    world.call(0, Failure).unwrap();
    world.call(0, Failure).unwrap();

    assert_eq!(world.states(), [Closed]);
}

#[test]
fn a_healthy_backend_costs_no_shared_data_between_ticks() {
    let mut world = World::new(1, settings());
    world.tick();
    let mut none = Refusing;

    for _ in 0..1_000 {
        let breaker = &mut world.breakers[0];
        let permit = breaker.permit(world.now, CALL_TIMEOUT, &mut none).unwrap();
        breaker.record(world.now, permit, Success, &mut none);
    }
}

// Open.

#[test]
fn open_it_refuses_at_once_and_says_for_how_long() {
    let mut world = World::new(2, settings());
    world.trip();
    let whole = world.breakers[0].open_for(world.now).unwrap();
    world.tick();

    for worker in 0..2 {
        let refused = world.permit(worker).unwrap_err();
        assert_eq!(refused.retry_after, whole.saturating_sub(TICK));
    }
}

#[test]
fn open_it_asks_shared_data_nothing() {
    let mut world = World::new(1, settings());
    world.trip();

    let refused = world.breakers[0].permit(world.now, CALL_TIMEOUT, &mut Refusing);

    assert!(refused.is_err());
}

#[test]
fn open_times_grow_within_their_bounds_up_to_the_cap() {
    let secs = Duration::from_secs;
    let ceilings = [1, 2, 4, 8, 16, 30, 30, 30].map(secs);
    let mut longest = [Duration::ZERO; 8];
    let mut capped = 0;
    for seed in 0..200 {
        let mut world = World::new(1, settings());
        world.breakers[0] = Breaker::new(1, settings(), seed);
        world.trip();
        for (ceiling, longest) in ceilings.iter().zip(&mut longest) {
            let open_for = world.breakers[0].open_for(world.now).unwrap();
            assert!(open_for >= Duration::from_millis(500), "{open_for:?}");
            assert!(open_for <= *ceiling, "{open_for:?}");
            capped += u32::from(open_for == Duration::from_secs(30));
            *longest = open_for.max(*longest);
            world.now = world.now.after(open_for);
            world.call(0, Failure).unwrap();
        }
    }
    for (ceiling, longest) in ceilings.iter().zip(longest) {
        assert!(longest > *ceiling * 9 / 10, "jitter uses the whole range");
    }
    assert!(capped < 3, "jitter is spread below the cap, too: {capped}");
}

#[test]
fn closing_starts_the_open_times_anew() {
    let mut world = World::new(1, settings());
    world.trip();
    for _ in 0..6 {
        world.wait_for(HalfOpen);
        world.call(0, Failure).unwrap();
    }
    world.close();

    world.trip();

    let open_for = world.breakers[0].open_for(world.now).unwrap();
    assert!(open_for <= Duration::from_secs(1));
}

#[test]
fn becomes_half_open_on_a_tick_without_traffic() {
    let mut world = World::new(2, settings());
    world.trip();
    world.now = world.now.after(world.settings.open_for);

    world.tick();

    assert_eq!(world.states(), [HalfOpen, HalfOpen]);
}

#[test]
fn becomes_half_open_by_a_request_before_the_tick() {
    let mut world = World::new(2, settings());
    world.trip();
    world.now = world.now.after(world.settings.open_for);

    assert!(world.permit(1).unwrap().is_trial());
    assert_eq!(world.told().last().unwrap().1, HalfOpen);
}

#[test]
fn results_of_calls_from_before_it_tripped_are_ignored() {
    let mut world = World::new(2, settings());
    let early: Vec<_> = (0..8).map(|n| world.permit(n % 2).unwrap()).collect();
    world.trip();
    world.tick();

    for (n, permit) in early.into_iter().enumerate() {
        world.record(n % 2, permit, if n < 4 { Failure } else { Success });
    }
    assert_eq!(world.states(), [Open, Open]);
    world.wait_for(HalfOpen);
    assert_eq!(world.told().len(), 2);
}

#[test]
fn a_late_result_does_not_lose_what_was_gathered_since() {
    let mut world = World::new(1, settings());
    let late = world.permit(0).unwrap();
    world.trip();
    world.close();
    for _ in 0..20 {
        world.call(0, Success).unwrap();
    }

    world.record(0, late, Failure);
    for _ in 0..20 {
        world.tick();
        world.call(0, Success).unwrap();
        world.record(0, late, Failure);
    }
    for n in 0..30 {
        let outcome = if n % 4 == 3 { Success } else { Failure };
        world.call(0, outcome).unwrap();
    }

    assert_eq!(world.states(), [Closed], "23 of 70 calls failed");
}

#[test]
fn a_worker_that_slept_through_a_round_counts_nothing_of_before() {
    let sensitive = BreakerSettings {
        consecutive_failures: 1,
        ..settings()
    };
    let mut world = World::new(2, sensitive);
    let early = world.permit(1).unwrap();
    let asleep = world.breakers[1].clone();
    world.trip();
    world.close();
    world.told();
    world.breakers[1] = asleep;

    world.record(1, early, Failure);
    world.tick();

    assert_eq!(world.states(), [Closed, Closed]);
    assert_eq!(world.told(), []);
}

#[test]
fn an_open_time_above_the_cap_is_not_believed() {
    let mut world = World::new(2, settings());
    let terms = world.breakers[0].terms.clone();
    let long = BreakerSettings {
        open_for: Duration::from_secs(86_400),
        open_for_max: Duration::from_secs(86_400),
        ..settings()
    };
    world.breakers[0] = Breaker::new(1, long, 0);
    world.breakers[0].terms.identity = terms.identity;
    world.trip();
    world.breakers.remove(0);

    world.tick();
    let refused = world.permit(0).unwrap_err();
    assert_eq!(refused.retry_after, Duration::from_secs(30) - TICK);
    world.wait_for(HalfOpen);
}

// Half-open.

#[test]
fn half_open_it_makes_the_configured_trial_calls_across_the_workers() {
    for half_open_calls in [1, 2, 3, 10] {
        let mut world = World::new(
            4,
            BreakerSettings {
                half_open_calls,
                ..settings()
            },
        );
        world.trip();
        world.wait_for(HalfOpen);

        let permitted = (0..100).filter(|n| world.permit(n % 4).is_ok()).count();

        assert_eq!(permitted, half_open_calls as usize);
        let refused = world.permit(0).unwrap_err();
        assert_eq!(refused.retry_after, Duration::from_millis(350));
    }
}

#[test]
fn trial_calls_that_passed_are_not_made_again() {
    let mut world = World::new(2, settings());
    world.trip();
    world.wait_for(HalfOpen);

    world.call(0, Success).unwrap();
    let second = world.permit(1).unwrap();
    world.permit(0).unwrap();

    world.permit(1).unwrap_err();
    world.record(1, second, Success);
    world.permit(1).unwrap_err();
    assert_eq!(world.settings.half_open_calls, 3);
}

#[test]
fn one_failed_trial_call_opens_it_whatever_the_others_say() {
    let mut world = World::new(2, settings());
    world.trip();
    world.wait_for(HalfOpen);
    let permits: Vec<_> = (0..3).map(|n| world.permit(n % 2).unwrap()).collect();

    world.record(0, permits[0], Success);
    world.record(1, permits[1], Failure);
    world.record(0, permits[2], Success);

    world.tick();
    assert_eq!(world.states(), [Open, Open]);
}

#[test]
fn a_trial_slot_of_a_dead_worker_lapses() {
    let mut world = World::new(
        2,
        BreakerSettings {
            half_open_calls: 1,
            ..settings()
        },
    );
    world.trip();
    world.wait_for(HalfOpen);
    let lost = world.permit(0).unwrap();
    let wait = world.permit(1).unwrap_err().retry_after;

    world.now = Wall(world.now.after(wait).0 - 1);
    world.permit(1).unwrap_err();
    world.now = Wall(world.now.0 + 1);
    let next = world.permit(1).unwrap();

    world.record(0, lost, Success);
    assert_eq!(world.states(), [HalfOpen, HalfOpen], "the late success");
    world.record(1, next, Success);
    world.tick();
    assert_eq!(world.states(), [Closed, Closed]);
}

#[test]
fn lapsed_trial_slots_leave_the_record() {
    let mut world = World::new(1, settings());
    world.trip();
    world.wait_for(HalfOpen);
    for _ in 0..1_000 {
        world.permit(0).unwrap();
        world.now = world.now.after(Duration::from_secs(1));
    }

    let longest = world.slots().map(|(value, _)| value.len()).max();
    assert!(longest < Some(100), "{longest:?}");
}

#[test]
fn a_late_failure_of_a_trial_call_still_counts() {
    let mut world = World::new(1, settings());
    world.trip();
    world.wait_for(HalfOpen);
    let late = world.permit(0).unwrap();
    world.now = world.now.after(Duration::from_secs(5));
    world.permit(0).unwrap();

    world.record(0, late, Failure);

    assert_eq!(world.states(), [Open]);
}

#[test]
fn a_trial_call_that_is_told_twice_counts_once() {
    let mut world = World::new(1, settings());
    world.trip();
    world.wait_for(HalfOpen);
    let permit = world.permit(0).unwrap();

    for _ in 0..world.settings.half_open_calls {
        world.record(0, permit, Success);
    }

    assert_eq!(world.states(), [HalfOpen]);
}

#[test]
fn a_worker_without_ticks_does_not_take_half_open_for_closed() {
    let mut world = World::new(2, settings());
    world.tick();
    let asleep = world.breakers[1].clone();
    world.trip();
    world.wait_for(HalfOpen);
    world.breakers[1] = asleep;

    assert!(world.permit(1).unwrap().is_trial());
}

// Races, garbage, and a host that refuses.

#[test]
fn two_workers_failing_at_once_both_count() {
    let mut world = World::new(2, settings());
    for _ in 0..3 {
        world.call(0, Failure).unwrap();
    }
    let now = world.now;
    let (first, second) = world.breakers.split_at_mut(1);
    let mut raced = Meddled {
        plain: &mut world.shared,
        before_store: 1,
        meddle: |shared: &mut PlainShared| {
            let permit = second[0].permit(now, CALL_TIMEOUT, shared).unwrap();
            second[0].record(now, permit, Failure, shared);
        },
    };

    let permit = first[0].permit(now, CALL_TIMEOUT, &mut raced).unwrap();
    first[0].record(now, permit, Failure, &mut raced);

    assert_eq!(world.told(), [(Closed, Open, Why::Consecutive(5))]);
}

#[test]
fn of_two_workers_that_trip_it_at_once_one_says_so() {
    let mut world = World::new(2, settings());
    for n in 0..4 {
        world.call(n % 2, Failure).unwrap();
    }
    let now = world.now;
    let (first, second) = world.breakers.split_at_mut(1);
    let mut raced = Meddled {
        plain: &mut world.shared,
        before_store: 1,
        meddle: |shared: &mut PlainShared| {
            let permit = second[0].permit(now, CALL_TIMEOUT, shared).unwrap();
            second[0].record(now, permit, Failure, shared);
        },
    };

    let permit = first[0].permit(now, CALL_TIMEOUT, &mut raced).unwrap();
    first[0].record(now, permit, Failure, &mut raced);

    assert_eq!(world.changes(0), [(Closed, Open)]);
    assert_eq!(world.changes(1), [(Closed, Open)]);
    assert_eq!(world.told(), [(Closed, Open, Why::Consecutive(5))]);
}

#[test]
fn two_workers_that_want_the_last_trial_slot_get_one() {
    let mut world = World::new(
        2,
        BreakerSettings {
            half_open_calls: 1,
            ..settings()
        },
    );
    world.trip();
    world.wait_for(HalfOpen);
    let now = world.now;
    let (first, second) = world.breakers.split_at_mut(1);
    let mut raced = Meddled {
        plain: &mut world.shared,
        before_store: 1,
        meddle: |shared: &mut PlainShared| {
            let permit = second[0].permit(now, CALL_TIMEOUT, shared).unwrap();
            assert!(permit.is_trial());
        },
    };

    let late = first[0].permit(now, CALL_TIMEOUT, &mut raced);

    assert!(late.is_err());
}

#[test]
fn first_failures_that_race_both_count() {
    let mut world = World::new(
        2,
        BreakerSettings {
            consecutive_failures: 2,
            ..settings()
        },
    );
    let now = world.now;
    let (first, second) = world.breakers.split_at_mut(1);
    let mut raced = Meddled {
        plain: &mut world.shared,
        before_store: 1,
        meddle: |shared: &mut PlainShared| {
            let permit = second[0].permit(now, CALL_TIMEOUT, shared).unwrap();
            second[0].record(now, permit, Failure, shared);
        },
    };

    let permit = first[0].permit(now, CALL_TIMEOUT, &mut raced).unwrap();
    first[0].record(now, permit, Failure, &mut raced);

    assert_eq!(world.told(), [(Closed, Open, Why::Consecutive(2))]);
}

#[test]
fn results_that_lost_every_race_are_written_with_the_next_tick() {
    let mut world = World::new(2, settings());
    for _ in 0..4 {
        world.call(0, Failure).unwrap();
    }
    let now = world.now;
    let (first, second) = world.breakers.split_at_mut(1);
    let permit = first[0]
        .permit(now, CALL_TIMEOUT, &mut world.shared)
        .unwrap();
    let mut crowd = Meddled {
        plain: &mut world.shared,
        before_store: TRIES,
        meddle: |shared: &mut PlainShared| {
            let permit = second[0].permit(now, CALL_TIMEOUT, shared).unwrap();
            second[0].record(now, permit, Success, shared);
            second[0].handle_tick(now, shared);
        },
    };

    first[0].record(now, permit, Failure, &mut crowd);
    assert_eq!(world.states(), [Closed, Closed]);
    for _ in 0..4 {
        world.call(1, Failure).unwrap();
    }
    world.tick();

    assert_eq!(world.told(), [(Closed, Open, Why::Consecutive(5))]);
}

#[test]
fn a_record_that_was_written_over_is_restored() {
    let mut world = World::new(2, settings());
    world.trip();
    world.tick();
    world.told();
    world.spoil(b"another plugin's");

    world.tick();

    assert_eq!(world.states(), [Open, Open]);
    assert_eq!(world.told(), [], "nothing has changed");
    world.breakers.push(Breaker::new(1, settings(), 9));
    world.tick();
    assert_eq!(world.states(), [Open, Open, Open]);
}

#[test]
fn an_older_record_gives_way_to_what_is_known() {
    let mut world = World::new(1, settings());
    world.tick();
    let permit = world.permit(0).unwrap();
    world.record(0, permit, Failure);
    let older = world.shared.clone();
    for _ in 0..4 {
        world.record(0, permit, Failure);
    }
    world.shared = older;

    world.tick();
    world.breakers.push(Breaker::new(1, settings(), 9));
    world.tick();

    assert_eq!(world.states(), [Open, Open]);
}

#[test]
fn each_worker_works_for_itself_when_the_host_refuses_writes() {
    let mut world = World::new(1, settings());
    let breaker = &mut world.breakers[0];
    for _ in 0..5 {
        let permit = breaker
            .permit(world.now, CALL_TIMEOUT, &mut Refusing)
            .unwrap();
        breaker.record(world.now, permit, Failure, &mut Refusing);
    }

    assert_eq!(breaker.state(), Open);
    let later = world.now.after(Duration::from_secs(1));
    breaker.handle_tick(later, &mut Refusing);
    assert_eq!(breaker.state(), HalfOpen);
    for _ in 0..3 {
        let permit = breaker.permit(later, CALL_TIMEOUT, &mut Refusing).unwrap();
        breaker.record(later, permit, Success, &mut Refusing);
    }
    assert_eq!(breaker.state(), Closed);
}

// Many breakers.

#[test]
fn backends_do_not_trip_each_other() {
    let mut world = World::new(1, settings());
    world.breakers.push(Breaker::new(2, settings(), 0));
    world.trip();
    world.tick();

    assert_eq!(world.states(), [Open, Closed]);
}

#[test]
fn new_settings_start_a_new_breaker() {
    let mut world = World::new(1, settings());
    let other = BreakerSettings {
        half_open_calls: 1,
        ..settings()
    };
    world.breakers.push(Breaker::new(1, other, 0));
    world.breakers.push(Breaker::new(1, settings(), 5));
    world.trip();
    world.tick();

    assert_eq!(world.states(), [Open, Closed, Open]);
}

#[test]
fn a_full_table_leaves_a_breaker_to_each_worker() {
    let mut world = World::new(64, settings());
    for worker in 0..64 {
        world.breakers[worker] = Breaker::new(100 + worker as u64, settings(), 0);
        world.call(worker, Failure).unwrap();
    }
    world.breakers.push(Breaker::new(1, settings(), 0));
    world.breakers.push(Breaker::new(1, settings(), 1));

    for _ in 0..5 {
        world.call(64, Failure).unwrap();
    }
    world.tick();

    assert_eq!(world.states()[62..], [Closed, Closed, Open, Closed]);
}

#[test]
fn the_record_of_a_backend_that_is_gone_is_taken_over() {
    let mut world = World::new(64, settings());
    for worker in 0..64 {
        world.breakers[worker] = Breaker::new(100 + worker as u64, settings(), 0);
        world.call(worker, Failure).unwrap();
    }
    world.now = world.now.after(Duration::from_secs(601));
    world.breakers.push(Breaker::new(1, settings(), 0));
    world.breakers.push(Breaker::new(1, settings(), 1));

    for _ in 0..5 {
        world.call(64, Failure).unwrap();
    }
    world.breakers[65].handle_tick(world.now, &mut world.shared);

    assert_eq!(world.states()[64..], [Open, Open]);
}

#[test]
fn a_record_in_use_is_never_taken_over() {
    let mut world = World::new(64, settings());
    for worker in 0..64 {
        world.breakers[worker] = Breaker::new(100 + worker as u64, settings(), 0);
    }
    for worker in 0..64 {
        for _ in 0..5 {
            world.call(worker, Failure).unwrap();
        }
    }
    for _ in 0..70 {
        world.now = world.now.after(Duration::from_secs(10));
        world.tick();
    }
    world.breakers.push(Breaker::new(1, settings(), 0));
    for _ in 0..5 {
        world.call(64, Failure).unwrap();
    }
    world.breakers.push(Breaker::new(1, settings(), 0));
    world.tick();

    assert_eq!(world.states()[64..], [Open, Closed]);
    assert!(world.states()[..64].iter().all(|state| *state == HalfOpen));
}

// Clocks.

#[test]
fn a_wall_that_jumps_back_restarts_the_open_time_and_no_more() {
    let mut world = World::new(2, settings());
    world.trip();
    let open_for = world.breakers[0].open_for(world.now).unwrap();
    world.now = Wall(world.now.0 - 36_000_000_000_000);

    let refused = world.permit(0).unwrap_err();
    assert_eq!(refused.retry_after, open_for);
    world.tick();
    world.now = world.now.after(open_for);
    world.tick();

    assert_eq!(world.states(), [HalfOpen, HalfOpen]);
}

#[test]
fn a_wall_that_jumps_back_frees_the_trial_slots() {
    let mut world = World::new(1, settings());
    world.trip();
    world.wait_for(HalfOpen);
    for _ in 0..3 {
        world.permit(0).unwrap();
    }
    world.permit(0).unwrap_err();
    world.now = Wall(world.now.0 - 36_000_000_000_000);

    assert!(world.permit(0).unwrap().is_trial());
}

#[test]
fn a_wall_that_jumps_back_does_not_stop_the_counts() {
    let mut world = World::new(2, settings());
    for _ in 0..4 {
        world.call(0, Failure).unwrap();
    }
    world.now = Wall(world.now.0 - 36_000_000_000_000);
    world.tick();

    world.call(1, Success).unwrap();
    for _ in 0..4 {
        world.call(0, Failure).unwrap();
    }
    assert_eq!(world.states(), [Closed, Closed]);
    world.call(0, Failure).unwrap();

    assert_eq!(world.told(), [(Closed, Open, Why::Consecutive(5))]);
}

#[test]
fn a_wall_that_jumps_back_does_not_keep_the_window_from_moving() {
    let mut world = World::new(1, settings());
    for n in 0..18 {
        let outcome = if n % 2 == 0 { Failure } else { Success };
        world.call(0, outcome).unwrap();
    }
    world.now = Wall(world.now.0 - 36_000_000_000_000);
    world.call(0, Success).unwrap();
    world.tick();
    world.now = world.now.after(world.settings.window);

    world.call(0, Failure).unwrap();
    world.call(0, Failure).unwrap();

    assert_eq!(world.states(), [Closed]);
}

#[test]
fn a_wall_that_jumps_forward_ends_the_open_time_early() {
    let mut world = World::new(2, settings());
    world.trip();
    world.now = world.now.after(Duration::from_secs(86_400));
    world.tick();

    assert_eq!(world.states(), [HalfOpen, HalfOpen]);
}

#[test]
fn the_ends_of_time_are_survived() {
    let extreme = BreakerSettings {
        consecutive_failures: 0,
        failure_permille: u32::MAX,
        min_calls: u32::MAX,
        window: Duration::MAX,
        open_for: Duration::MAX,
        open_for_max: Duration::MAX,
        half_open_calls: 0,
    };
    let small = BreakerSettings {
        window: Duration::ZERO,
        open_for: Duration::ZERO,
        open_for_max: Duration::ZERO,
        ..extreme
    };
    for settings in [extreme, small] {
        let mut world = World::new(2, settings);
        for now in [Wall(0), Wall(u64::MAX), Wall(1), Wall(u64::MAX)] {
            world.now = now;
            for outcome in [Failure, Success] {
                let _refused = world.call(0, outcome);
                world.tick();
            }
        }
    }
}

// What operators read.

#[test]
fn states_and_reasons_have_stable_words() {
    assert_eq!([Closed, HalfOpen, Open].map(State::gauge), [0, 1, 2]);
    assert_eq!(
        [Closed, HalfOpen, Open].map(State::code),
        ["closed", "half_open", "open"]
    );
    let rate = Why::Rate {
        permille: 625,
        calls: 40,
    };
    assert_eq!(rate.text(), "62.5% of 40 calls failed");
    assert_eq!(Why::Consecutive(5).text(), "5 failures in a row");
    assert_eq!(Why::OpenTimeOver.text(), "the open time is over");
    assert_eq!(Why::TrialFailed.text(), "a trial call failed");
    assert_eq!(Why::TrialsPassed.text(), "the trial calls passed");
}

fn settings() -> BreakerSettings {
    BreakerSettings {
        consecutive_failures: 5,
        failure_permille: 500,
        min_calls: 20,
        window: Duration::from_secs(10),
        open_for: Duration::from_secs(1),
        open_for_max: Duration::from_secs(30),
        half_open_calls: 3,
    }
}

/// Workers, what they share, and what they have told.
struct World {
    now: Wall,
    settings: BreakerSettings,
    shared: PlainShared,
    breakers: Vec<Breaker>,
    told: Vec<Vec<Transition>>,
}

impl World {
    fn new(workers: usize, settings: BreakerSettings) -> Self {
        let worker = |seed| Breaker::new(1, settings.clone(), seed);
        Self {
            now: Wall::from_secs(1_800_000_000),
            shared: PlainShared::default(),
            breakers: (0..workers as u64).map(worker).collect(),
            told: Vec::new(),
            settings,
        }
    }

    fn permit(&mut self, worker: usize) -> Result<Permit, Refused> {
        self.breakers[worker].permit(self.now, CALL_TIMEOUT, &mut self.shared)
    }

    fn record(&mut self, worker: usize, permit: Permit, outcome: CallOutcome) {
        self.breakers[worker].record(self.now, permit, outcome, &mut self.shared);
    }

    fn call(&mut self, worker: usize, outcome: CallOutcome) -> Result<Permit, Refused> {
        let permit = self.permit(worker)?;
        self.record(worker, permit, outcome);
        Ok(permit)
    }

    fn tick(&mut self) {
        self.now = self.now.after(TICK);
        for breaker in &mut self.breakers {
            breaker.handle_tick(self.now, &mut self.shared);
        }
    }

    /// Fails calls on the first worker until no more are permitted.
    fn trip(&mut self) {
        for _ in 0..self.settings.consecutive_failures {
            self.call(0, Failure).unwrap();
        }
        assert_eq!(self.breakers[0].state(), Open);
    }

    /// Lets an open breaker become half-open, and passes the trial calls.
    fn close(&mut self) {
        self.wait_for(HalfOpen);
        for _ in 0..self.settings.half_open_calls {
            self.call(0, Success).unwrap();
        }
        assert_eq!(self.breakers[0].state(), Closed);
    }

    #[track_caller]
    fn wait_for(&mut self, state: State) {
        let patience = self.settings.open_for_max.as_millis() / TICK.as_millis() + 2;
        for _ in 0..patience {
            self.tick();
            if self.states().iter().all(|each| *each == state) {
                return;
            }
        }
        panic!("{:?} instead of {state:?}", self.states());
    }

    fn states(&self) -> Vec<State> {
        self.breakers.iter().map(Breaker::state).collect()
    }

    /// The changes that workers have claimed since this was last asked.
    fn told(&mut self) -> Vec<(State, State, Why)> {
        self.hear();
        let mut mine: Vec<_> = self.told.iter_mut().flat_map(std::mem::take).collect();
        mine.retain(|change| change.mine);
        mine.iter().map(|t| (t.from, t.to, t.why)).collect()
    }

    /// The changes that a worker came to know and that `told` has not taken.
    fn changes(&mut self, worker: usize) -> Vec<(State, State)> {
        self.hear();
        self.told[worker].iter().map(|t| (t.from, t.to)).collect()
    }

    fn hear(&mut self) {
        self.told.resize(self.breakers.len(), Vec::new());
        for (breaker, told) in self.breakers.iter_mut().zip(&mut self.told) {
            told.extend(std::iter::from_fn(|| breaker.poll_transition()));
        }
    }

    /// Writes over whatever the breaker has written.
    fn spoil(&mut self, garbage: &[u8]) {
        for index in 0..SLOTS {
            let key = format!("quota_gate/1/breaker/{index}");
            let (value, version) = self.shared.load(&key);
            if !value.is_empty() {
                self.shared.store(&key, garbage, version);
            }
        }
    }

    fn slots(&mut self) -> impl Iterator<Item = (Vec<u8>, Version)> {
        let key = |index| format!("quota_gate/1/breaker/{index}");
        (0..SLOTS).map(move |index| self.shared.load(&key(index)))
    }
}

/// A host that has no shared data to offer.
struct Refusing;

impl Shared for Refusing {
    fn load(&mut self, _: &str) -> (Vec<u8>, Version) {
        (Vec::new(), Version(0))
    }

    fn store(&mut self, _: &str, _: &[u8], _: Version) -> bool {
        false
    }
}

/// Lets somebody else act just before a store, so many times.
struct Meddled<'a, F> {
    plain: &'a mut PlainShared,
    before_store: u32,
    meddle: F,
}

impl<F: FnMut(&mut PlainShared)> Shared for Meddled<'_, F> {
    fn load(&mut self, key: &str) -> (Vec<u8>, Version) {
        self.plain.load(key)
    }

    fn store(&mut self, key: &str, value: &[u8], expected: Version) -> bool {
        if let Some(left) = self.before_store.checked_sub(1) {
            self.before_store = left;
            (self.meddle)(self.plain);
        }
        self.plain.store(key, value, expected)
    }
}
