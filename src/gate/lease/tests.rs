//! What is asked for, how long it may be spent, what happens when the answer is no, and the bounds.

use super::*;

mod bounds;
mod world;

const KEY: &[u8] = b"acme";

#[test]
fn the_first_requests_of_a_key_are_plain_checks() {
    let mut leases = roomy();

    for millis in 0..4 {
        assert_eq!(leases.spend(at(millis), KEY, 1, &TERMS), Spend::Plain);
    }
    assert_eq!(leases.held(KEY), 0);
}

#[test]
fn a_key_that_is_used_often_asks_for_what_it_used_lately() {
    let mut leases = roomy();
    for millis in 0..4 {
        leases.spend(at(millis), KEY, 1, &TERMS);
    }

    assert_eq!(leases.spend(at(4), KEY, 1, &TERMS), Spend::Ask { units: 5 });
}

#[test]
fn a_key_of_low_rate_never_asks_ahead() {
    let mut leases = roomy();

    for second in 0..600 {
        for millis in [0, 300, 310] {
            let spend = leases.spend(at(second * 1_000 + millis), KEY, 1, &TERMS);
            assert_eq!(spend, Spend::Plain);
        }
    }
}

#[test]
fn others_join_while_a_lease_is_asked_for_and_are_served_from_the_grant_in_order() {
    let mut leases = roomy();
    let units = warm(&mut leases);
    leases.asked(at(4), KEY, units);
    for _ in 0..6 {
        assert_eq!(leases.spend(at(5), KEY, 1, &TERMS), Spend::Join);
    }

    assert!(leases.granted(at(8), KEY, &grant(units)));

    for _ in 0..4 {
        let spend = leases.serve(at(8), KEY, 1, &TERMS);
        assert!(matches!(spend, Spend::Leased { .. }), "{spend:?}");
    }
    // Two were promised nothing: the first asks for both, for a demand of 10, and for the 12 that
    // come in two round trips if 6 came in the last one.
    let spend = leases.serve(at(8), KEY, 1, &TERMS);
    let units = 24;
    assert_eq!(spend, Spend::Ask { units });
    leases.asked(at(8), KEY, units);
    assert_eq!(leases.serve(at(8), KEY, 1, &TERMS), Spend::Join);
}

#[test]
fn a_grant_pays_for_the_request_that_asked() {
    let mut leases = roomy();
    lease(&mut leases, 5);

    assert_eq!(leases.held(KEY), 4);
    assert_eq!(leases.take_counts().spent_units, 1);
}

#[test]
fn a_grant_that_does_not_reach_for_the_request_that_asked_is_kept_for_others() {
    let mut leases = roomy();
    warm(&mut leases);
    leases.asked(at(4), KEY, 20);

    let paid = leases.granted(
        at(5),
        KEY,
        &Grant {
            units: 3,
            cost: 5,
            limits: Limits::NONE,
        },
    );

    assert!(!paid);
    assert_eq!(leases.held(KEY), 3);
}

#[test]
fn more_units_than_were_asked_for_are_not_taken() {
    let mut leases = roomy();
    warm(&mut leases);
    leases.asked(at(4), KEY, 5);

    leases.granted(at(5), KEY, &grant(50));

    assert_eq!(leases.held(KEY), 4);
}

#[test]
fn units_expire_a_ttl_after_they_were_asked_for() {
    let mut leases = roomy();
    lease(&mut leases, 50);
    leases.take_counts();

    assert_eq!(leases.spend(at(1_003), KEY, 1, &TERMS), LEASED);
    assert_eq!(leases.spend(at(1_004), KEY, 1, &TERMS), Spend::Plain);
    let counts = leases.take_counts();
    assert_eq!((counts.spent_units, counts.expired_units), (1, 48));
}

#[test]
fn units_expire_with_the_window_that_they_were_charged_to() {
    let mut leases = roomy();
    warm(&mut leases);
    leases.asked(at(4), KEY, 50);
    let limits = Limits {
        reset: Some(ms(100)),
        ..Limits::NONE
    };
    leases.granted(
        at(10),
        KEY,
        &Grant {
            units: 50,
            cost: 1,
            limits,
        },
    );

    assert_eq!(leases.spend(at(103), KEY, 1, &TERMS), LEASED);
    assert!(!matches!(
        leases.spend(at(104), KEY, 1, &TERMS),
        Spend::Leased { .. }
    ));
    assert_eq!(leases.held(KEY), 0);
}

#[test]
fn an_end_of_the_window_that_is_told_later_holds_for_what_is_held() {
    let mut leases = roomy();
    lease(&mut leases, 300);
    leases.asked(at(500), KEY, 40);
    let limits = Limits {
        reset: Some(ms(100)),
        ..Limits::NONE
    };
    leases.granted(
        at(501),
        KEY,
        &Grant {
            limits,
            ..renewal(40)
        },
    );
    leases.take_counts();

    assert_eq!(leases.spend(at(599), KEY, 1, &TERMS), LEASED);
    assert_eq!(leases.held(KEY), 338);
    leases.handle_tick(at(600));

    assert_eq!(leases.held(KEY), 0);
    assert_eq!(leases.take_counts().expired_units, 338);
}

#[test]
fn a_reply_that_comes_after_its_units_have_expired_still_pays_for_who_asked() {
    let mut leases = roomy();
    warm(&mut leases);
    leases.asked(at(4), KEY, 50);

    assert!(leases.granted(at(1_004), KEY, &grant(50)));

    let counts = leases.take_counts();
    assert_eq!((counts.spent_units, counts.expired_units), (1, 49));
    assert_eq!(leases.held(KEY), 0);
}

#[test]
fn a_lease_is_renewed_before_it_is_used_up() {
    let mut leases = roomy();
    hot(&mut leases);

    let (left, units) = until_renewal(&mut leases, 100);

    assert!(left > 0, "used up");
    assert!(left + units <= TERMS.max_units);
}

#[test]
fn only_one_renewal_is_asked_for_at_a_time() {
    let mut leases = roomy();
    hot(&mut leases);
    let (left, units) = until_renewal(&mut leases, 100);
    leases.asked(at(150), KEY, units);

    for _ in 0..left {
        assert_eq!(leases.spend(at(151), KEY, 1, &TERMS), LEASED);
    }
    assert_eq!(leases.spend(at(151), KEY, 1, &TERMS), Spend::Join);
}

#[test]
fn a_renewal_adds_to_what_is_left_and_each_part_has_its_own_end() {
    let mut leases = roomy();
    hot(&mut leases);
    let (left, units) = until_renewal(&mut leases, 100);
    leases.asked(at(900), KEY, units);
    leases.granted(at(901), KEY, &renewal(units));
    assert_eq!(leases.held(KEY), left + units);
    leases.take_counts();

    // The first grant was asked for at 20 ms.
    leases.spend(at(1_020), KEY, 1, &TERMS);

    assert_eq!(leases.held(KEY), units - 1);
    assert_eq!(leases.take_counts().expired_units, left);
    leases.spend(at(1_900), KEY, 1, &TERMS);
    assert_eq!(leases.held(KEY), 0);
}

#[test]
fn a_cost_may_be_paid_from_both_parts() {
    let mut leases = roomy();
    lease(&mut leases, 10);
    leases.asked(at(500), KEY, 20);
    leases.granted(at(501), KEY, &renewal(20));
    assert_eq!(leases.held(KEY), 29);

    assert!(matches!(
        leases.spend(at(502), KEY, 28, &TERMS),
        Spend::Leased { .. }
    ));

    assert_eq!(leases.held(KEY), 1);
    leases.spend(at(1_100), KEY, 1, &TERMS);
    assert_eq!(leases.held(KEY), 0);
}

#[test]
fn a_third_part_takes_the_earlier_end_of_the_second() {
    let mut leases = roomy();
    lease(&mut leases, 10);
    for millis in [400, 800] {
        leases.asked(at(millis), KEY, 20);
        leases.granted(at(millis), KEY, &renewal(20));
    }
    assert_eq!(leases.held(KEY), 49);

    leases.spend(at(1_399), KEY, 0, &TERMS);
    assert_eq!(leases.held(KEY), 40);
    leases.spend(at(1_400), KEY, 0, &TERMS);
    assert_eq!(leases.held(KEY), 0);
}

#[test]
fn a_third_part_has_its_own_end_once_the_first_is_used_up() {
    for looks in 0..4 {
        let mut leases = roomy();
        lease(&mut leases, 10);
        leases.asked(at(500), KEY, 20);
        leases.granted(at(501), KEY, &renewal(20));
        leases.spend(at(502), KEY, 9, &TERMS);
        for _ in 0..looks {
            leases.spend(at(503), KEY, 0, &TERMS);
        }

        leases.asked(at(800), KEY, 20);
        leases.granted(at(801), KEY, &renewal(20));

        leases.spend(at(1_499), KEY, 0, &TERMS);
        assert_eq!(leases.held(KEY), 40);
        leases.spend(at(1_500), KEY, 0, &TERMS);
        assert_eq!(leases.held(KEY), 20);
        leases.spend(at(1_800), KEY, 0, &TERMS);
        assert_eq!(leases.held(KEY), 0);
    }
}

#[test]
fn a_lease_that_is_about_to_expire_is_renewed_though_much_is_left() {
    let mut leases = roomy();
    for millis in 0..20 {
        leases.spend(at(millis), KEY, 1, &TERMS);
    }
    leases.asked(at(20), KEY, 80);
    leases.granted(at(30), KEY, &grant(80));

    // 20 requests/s: demand stays above 4, and 79 units outlast the ttl.
    let renewals: Vec<u64> = (2..20)
        .map(|n| n * 50)
        .chain([1_005])
        .filter(|millis| {
            matches!(
                leases.spend(at(*millis), KEY, 1, &TERMS),
                Spend::Leased { renew: Some(_) }
            )
        })
        .collect();
    assert_eq!(renewals, [1_005]);
}

#[test]
fn never_holds_or_asks_for_more_than_max_units() {
    let mut leases = roomy();
    let terms = LeaseTerms {
        max_units: 7,
        ..TERMS
    };
    for micros in 0..2_000 {
        if let Spend::Ask { units } = leases.spend(at_us(micros * 100), KEY, 1, &terms) {
            assert!(units <= 7, "{units}");
            leases.asked(at_us(micros * 100), KEY, units);
            leases.granted(at_us(micros * 100 + 50), KEY, &grant(units));
        }
        assert!(leases.held(KEY) <= 7);
    }
}

#[test]
fn what_is_left_counts_toward_max_units_when_more_is_asked_for() {
    let mut leases = roomy();
    let terms = LeaseTerms {
        max_units: 10,
        ..TERMS
    };
    warm(&mut leases);
    leases.asked(at(4), KEY, 3);
    leases.granted(at(5), KEY, &grant(3));

    let spend = leases.spend(at(5), KEY, 3, &terms);
    assert_eq!(spend, Spend::Plain);
    keep_busy_under(&mut leases, 5, &terms);
    leases.asked(at(5), KEY, 3);
    leases.granted(at(6), KEY, &grant(3));
    let spend = leases.spend(at(6), KEY, 3, &terms);
    assert_eq!(spend, Spend::Ask { units: 8 });
}

#[test]
fn a_request_that_costs_more_than_max_units_or_nothing_is_a_plain_check() {
    let mut leases = roomy();
    warm(&mut leases);

    assert_eq!(leases.spend(at(4), KEY, 501, &TERMS), Spend::Plain);
    assert_eq!(leases.spend(at(4), KEY, 0, &TERMS), Spend::Plain);
}

#[test]
fn asks_for_no_more_than_a_quarter_of_what_remains() {
    let mut leases = roomy();
    for micros in 0..1_000 {
        leases.spend(at_us(micros), KEY, 1, &TERMS);
    }
    leases.observed(at(1), KEY, &remaining(101));
    assert_eq!(
        leases.spend(at(1), KEY, 1, &TERMS),
        Spend::Ask { units: 26 }
    );

    leases.observed(at(1), KEY, &remaining(10));
    assert_eq!(leases.spend(at(1), KEY, 1, &TERMS), Spend::Plain);
}

#[test]
fn what_remained_is_forgotten_with_its_window() {
    let mut leases = roomy();
    for micros in 0..1_000 {
        leases.spend(at_us(micros), KEY, 1, &TERMS);
    }
    let limits = Limits {
        reset: Some(ms(9)),
        ..remaining(0)
    };
    leases.observed(at(1), KEY, &limits);

    assert_eq!(leases.spend(at(9), KEY, 1, &TERMS), Spend::Plain);
    assert!(matches!(
        leases.spend(at(10), KEY, 1, &TERMS),
        Spend::Ask { .. }
    ));
}

#[test]
fn asks_for_less_when_the_window_is_about_to_end() {
    let mut leases = roomy();
    for micros in 0..400 {
        leases.spend(at_us(micros), KEY, 1, &TERMS);
    }
    let limits = Limits {
        reset: Some(ms(50)),
        ..Limits::NONE
    };
    leases.observed(at(0), KEY, &limits);

    // 49 of 500 ms are left: 39 of a demand of 400, 6 in hand, and its own cost.
    assert_eq!(
        leases.spend(at(1), KEY, 1, &TERMS),
        Spend::Ask { units: 46 }
    );
}

#[test]
fn a_refused_key_is_plain_for_a_while_that_doubles_and_then_asks_for_less() {
    let mut leases = roomy();
    let mut asked = Vec::new();
    let mut now = 0;
    keep_busy(&mut leases, now);
    for pause in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
        let Spend::Ask { units } = leases.spend(at(now), KEY, 1, &TERMS) else {
            panic!("nothing was asked for after {now} ms");
        };
        asked.push(units);
        leases.asked(at(now), KEY, units);
        leases.refused(at(now), KEY, &Limits::NONE);

        assert_eq!(leases.spend(at(now), KEY, 1, &TERMS), Spend::Plain);
        keep_busy(&mut leases, now + pause - 1);
        assert_eq!(
            leases.spend(at(now + pause - 1), KEY, 1, &TERMS),
            Spend::Plain
        );
        now += pause;
    }
    assert!(asked.is_sorted_by(|a, b| a >= b), "{asked:?}");
    assert_eq!((asked[0], asked[7]), (103, 5));
}

#[test]
fn a_refused_key_recovers_with_every_full_grant() {
    let mut leases = roomy();
    keep_busy(&mut leases, 0);
    for _ in 0..3 {
        leases.asked(at(1), KEY, 100);
        leases.refused(at(1), KEY, &Limits::NONE);
    }
    let mut asked = Vec::new();
    for round in 1..=4 {
        let now = round * 1_000;
        keep_busy(&mut leases, now);
        let Spend::Ask { units } = leases.spend(at(now + 1), KEY, 1, &TERMS) else {
            panic!("nothing was asked for in round {round}");
        };
        asked.push(units);
        leases.asked(at(now + 1), KEY, units);
        leases.granted(at(now + 1), KEY, &grant(units));
        leases.spend(at(now + 999), KEY, units - 1, &TERMS);
    }
    assert!(asked.is_sorted(), "{asked:?}");
    assert!(asked[3] > 5 * asked[0], "{asked:?}");
}

#[test]
fn a_refusal_holds_no_longer_than_the_window() {
    let mut leases = roomy();
    keep_busy(&mut leases, 0);
    leases.asked(at(1), KEY, 100);
    let limits = Limits {
        reset: Some(ms(30)),
        ..Limits::NONE
    };
    leases.refused(at(2), KEY, &limits);

    assert_eq!(leases.spend(at(30), KEY, 1, &TERMS), Spend::Plain);
    assert!(matches!(
        leases.spend(at(31), KEY, 1, &TERMS),
        Spend::Ask { .. }
    ));
}

#[test]
fn a_window_that_is_told_later_ends_a_refusal_too() {
    let mut leases = roomy();
    keep_busy(&mut leases, 0);
    for _ in 0..3 {
        leases.asked(at(1), KEY, 100);
        leases.refused(at(1), KEY, &Limits::NONE);
    }
    let limits = Limits {
        reset: Some(ms(30)),
        ..Limits::NONE
    };
    leases.observed(at(2), KEY, &limits);

    assert_eq!(leases.spend(at(31), KEY, 1, &TERMS), Spend::Plain);
    // The new window knows nothing of the refusals in the old one.
    let Spend::Ask { units } = leases.spend(at(32), KEY, 1, &TERMS) else {
        panic!("nothing was asked for");
    };
    assert!(units > 90, "{units}");
    leases.asked(at(32), KEY, units);
    leases.granted(at(33), KEY, &grant(units));
    until_renewal(&mut leases, 34);
}

#[test]
fn a_refusal_is_an_answer_and_ends_a_row_of_failures() {
    let mut leases = roomy();
    keep_busy(&mut leases, 0);
    leases.asked(at(1), KEY, 100);
    leases.failed(at(2), KEY);
    leases.asked(at(2), KEY, 1);
    leases.refused(at(3), KEY, &Limits::NONE);

    keep_busy(&mut leases, 103);
    let spend = leases.spend(at(103), KEY, 1, &TERMS);
    assert!(
        matches!(spend, Spend::Ask { units } if units > 50),
        "{spend:?}"
    );
}

#[test]
fn what_is_left_is_spent_after_a_refusal_and_not_renewed_meanwhile() {
    let mut leases = roomy();
    hot(&mut leases);
    let (left, units) = until_renewal(&mut leases, 100);
    leases.asked(at(110), KEY, units);
    leases.refused(at(111), KEY, &Limits::NONE);

    for _ in 0..left {
        assert_eq!(leases.spend(at(112), KEY, 1, &TERMS), LEASED);
    }
    assert_eq!(leases.spend(at(112), KEY, 1, &TERMS), Spend::Plain);
}

#[test]
fn a_partial_grant_is_near_exhaustion_unless_more_remains() {
    for (limits, expected_plain) in [
        (Limits::NONE, true),
        (remaining(0), true),
        (remaining(900), false),
    ] {
        let mut leases = roomy();
        keep_busy(&mut leases, 0);
        leases.asked(at(1), KEY, 100);
        leases.granted(
            at(2),
            KEY,
            &Grant {
                units: 10,
                cost: 1,
                limits,
            },
        );

        leases.spend(at(2), KEY, 9, &TERMS);
        let spend = leases.spend(at(3), KEY, 1, &TERMS);
        assert_eq!(spend == Spend::Plain, expected_plain, "{spend:?}");
        assert_eq!(leases.take_counts().partial, 1);
    }
}

#[test]
fn after_a_failure_one_request_asks_for_its_cost_and_the_others_join_it() {
    let mut leases = roomy();
    keep_busy(&mut leases, 0);
    leases.asked(at(1), KEY, 100);
    leases.failed(at(2), KEY);

    assert_eq!(leases.spend(at(2), KEY, 3, &TERMS), Spend::Ask { units: 3 });
    leases.asked(at(2), KEY, 3);
    assert_eq!(leases.spend(at(3), KEY, 1, &TERMS), Spend::Join);

    leases.granted(
        at(4),
        KEY,
        &Grant {
            units: 3,
            cost: 3,
            limits: Limits::NONE,
        },
    );
    let Spend::Ask { units } = leases.serve(at(4), KEY, 1, &TERMS) else {
        panic!("nothing was asked for");
    };
    assert!(units > 100, "{units}");
}

#[test]
fn those_who_waited_for_a_call_that_failed_are_not_asked_for_again() {
    let mut leases = roomy();
    let units = warm(&mut leases);
    leases.asked(at(4), KEY, units);
    for _ in 0..2 {
        leases.spend(at(4), KEY, 200, &TERMS);
    }
    leases.failed(at(5), KEY);
    leases.asked(at(2_000), KEY, 1);
    leases.granted(at(2_001), KEY, &grant(1));

    for _ in 0..4 {
        leases.spend(at(9_000), KEY, 1, &TERMS);
    }
    let spend = leases.spend(at(9_000), KEY, 1, &TERMS);
    assert!(
        matches!(spend, Spend::Ask { units } if units < 40),
        "{spend:?}"
    );
}

#[test]
fn a_renewal_that_fails_is_tried_again_after_a_pause_that_doubles() {
    let mut leases = roomy();
    hot(&mut leases);
    let (_, _) = until_renewal(&mut leases, 100);
    let mut tried = Vec::new();
    for millis in 100..250 {
        let spend = leases.spend(at(millis), KEY, 0, &TERMS);
        if matches!(spend, Spend::Leased { renew: Some(_) }) {
            tried.push(millis);
            leases.failed(at(millis), KEY);
        }
    }
    assert_eq!(tried, [100, 110, 130, 170]);
}

#[test]
fn a_call_whose_end_is_never_told_does_not_hold_the_key_for_ever() {
    let mut leases = roomy();
    keep_busy(&mut leases, 0);
    leases.asked(at(1), KEY, 100);
    assert_eq!(leases.spend(at(60_000), KEY, 1, &TERMS), Spend::Join);

    keep_busy(&mut leases, 65_001);
    assert!(matches!(
        leases.spend(at(65_002), KEY, 1, &TERMS),
        Spend::Ask { .. }
    ));
}

#[test]
fn a_ttl_that_is_no_longer_than_two_round_trips_makes_every_request_plain() {
    let mut leases = roomy();
    let terms = LeaseTerms {
        max_units: 100,
        ttl: ms(40),
    };
    for micros in 0..400 {
        leases.spend(at_us(micros), KEY, 1, &terms);
    }
    leases.asked(at(1), KEY, 100);
    leases.granted(at(21), KEY, &grant(100));
    for micros in 0..400 {
        leases.spend(at_us(50_000 + micros), KEY, 1, &terms);
    }
    assert_eq!(leases.spend(at(51), KEY, 1, &terms), Spend::Plain);
}

#[test]
fn an_ended_call_of_an_unknown_key_changes_nothing_but_the_counts() {
    let mut leases = roomy();
    leases.refused(at(1), KEY, &Limits::NONE);
    leases.failed(at(1), KEY);
    leases.observed(at(1), KEY, &Limits::NONE);
    assert!(leases.granted(at(1), KEY, &grant(10)));

    assert!(leases.is_empty());
    let counts = leases.take_counts();
    assert_eq!(
        (
            counts.granted_units,
            counts.spent_units,
            counts.expired_units
        ),
        (10, 1, 9)
    );
    assert_eq!(leases.take_counts(), LeaseCounts::default());
}

#[test]
fn a_flood_of_one_time_keys_does_not_cost_a_busy_key_its_place() {
    let mut leases = Leases::new(64, usize::MAX, 7);
    for number in 0..20_000_u64 {
        leases.spend(at_us(number * 100), &number.to_le_bytes(), 1, &TERMS);
        if number % 20 == 0 {
            leases.spend(at_us(number * 100), KEY, 1, &TERMS);
        }
        assert!(leases.len() <= 64);
    }
    assert!(leases.table.find(KEY).is_some());
    assert!(leases.take_evictions() > 15_000);
}

#[test]
fn a_key_that_finds_the_table_full_of_units_gets_no_lease() {
    let mut leases = Leases::new(4, usize::MAX, 7);
    for key in [b"a", b"b", b"c", b"d"] {
        leases.spend(at(0), key, 1, &TERMS);
        leases.asked(at(0), key, 10);
        leases.granted(at(1), key, &grant(10));
    }
    for _ in 0..100 {
        assert_eq!(leases.spend(at(2), KEY, 1, &TERMS), Spend::Plain);
    }
    assert_eq!(leases.len(), 4);
    assert_eq!(leases.held(b"a"), 9);
    assert_eq!(leases.take_counts().full, 100);

    leases.spend(at(1_001), KEY, 1, &TERMS);
    assert!(leases.table.find(KEY).is_some());
}

#[test]
fn a_key_that_is_too_long_gets_no_lease() {
    let mut leases = Leases::new(100, 16 * 1024, 7);
    for _ in 0..50 {
        assert_eq!(leases.spend(at(0), &[0; 1024], 1, &TERMS), Spend::Plain);
    }
    assert!(leases.is_empty());
}

#[test]
fn the_tick_drops_idle_keys_a_few_at_a_time_and_counts_what_they_lose() {
    let mut leases = roomy();
    for number in 0..100_u64 {
        leases.spend(at(0), &number.to_le_bytes(), 1, &TERMS);
    }
    lease(&mut leases, 50);
    leases.take_counts();
    for tick in 0..50 {
        leases.handle_tick(at(tick * 20));
    }
    assert_eq!(leases.len(), 101);

    leases.handle_tick(at(2_100));
    assert_eq!(leases.len(), 69);
    for tick in 0..10 {
        leases.handle_tick(at(2_200 + tick * 20));
    }
    assert!(leases.is_empty());
    assert_eq!(leases.take_counts().expired_units, 49);
}

#[test]
fn what_is_held_when_its_gate_ends_is_lost_and_told_as_expired() {
    let mut leases = roomy();
    lease(&mut leases, 50);
    leases.take_counts();

    leases.handle_end();

    let counts = leases.take_counts();
    assert_eq!((counts.expired_units, counts.spent_units), (49, 0));
    assert_eq!((leases.held(KEY), leases.len(), leases.bytes()), (0, 0, 0));
}

#[test]
fn a_key_is_not_dropped_while_a_call_for_it_is_under_way() {
    let mut leases = roomy();
    let terms = LeaseTerms {
        max_units: 10,
        ttl: ms(10),
    };
    leases.spend(at(0), KEY, 1, &terms);
    leases.asked(at(0), KEY, 10);

    leases.handle_tick(at(60));
    assert_eq!(leases.len(), 1);
    leases.failed(at(70), KEY);
    leases.handle_tick(at(80));
    assert!(leases.is_empty());
}

#[test]
fn an_entry_weighs_at_least_what_it_takes() {
    let slot = size_of::<super::super::table::Slot<Lease>>();
    let around = 2 * (8 + size_of::<usize>()) + 2 * size_of::<usize>() + 16;
    assert!(slot + around <= LEASE_BYTES, "{slot} + {around}");
}

const TERMS: LeaseTerms = LeaseTerms {
    max_units: 500,
    ttl: ms(1_000),
};
const LEASED: Spend = Spend::Leased { renew: None };

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(millis: u64) -> Instant {
    Instant(1_000_000_000).after(ms(millis))
}

fn at_us(micros: u64) -> Instant {
    Instant(1_000_000_000).after(Duration::from_micros(micros))
}

fn roomy() -> Leases {
    Leases::new(10_000, usize::MAX, 7)
}

const fn grant(units: u64) -> Grant {
    Grant {
        units,
        cost: 1,
        limits: Limits::NONE,
    }
}

const fn renewal(units: u64) -> Grant {
    Grant {
        units,
        cost: 0,
        limits: Limits::NONE,
    }
}

const fn remaining(units: u64) -> Limits {
    Limits {
        remaining: Some(units),
        ..Limits::NONE
    }
}

/// Five requests in 5 ms; the fifth asks for so many units, at 4 ms.
fn warm(leases: &mut Leases) -> u64 {
    for millis in 0..4 {
        leases.spend(at(millis), KEY, 1, &TERMS);
    }
    match leases.spend(at(4), KEY, 1, &TERMS) {
        Spend::Ask { units } => units,
        other => panic!("nothing was asked for: {other:?}"),
    }
}

/// A lease of so many units, the cost of the one that asked included, asked for at 4 ms.
fn lease(leases: &mut Leases, units: u64) {
    warm(leases);
    leases.asked(at(4), KEY, units);
    leases.granted(at(5), KEY, &grant(units));
}

/// 5,000 requests/s for 20 ms, and a lease of 300 units asked for at 20 ms.
fn hot(leases: &mut Leases) {
    for number in 0..100 {
        leases.spend(at_us(number * 200), KEY, 1, &TERMS);
    }
    leases.asked(at(20), KEY, 300);
    leases.granted(at(21), KEY, &grant(300));
}

/// 100 units wanted at once, so that the key is worth a batch for the next while.
fn keep_busy(leases: &mut Leases, millis: u64) {
    keep_busy_under(leases, millis, &TERMS);
}

fn keep_busy_under(leases: &mut Leases, millis: u64, terms: &LeaseTerms) {
    for _ in 0..100 {
        leases.spend(at(millis), KEY, 1, terms);
    }
}

/// Spends until a renewal is wanted: what is left then, and how much is to be asked for.
fn until_renewal(leases: &mut Leases, millis: u64) -> (u64, u64) {
    for _ in 0..1_000 {
        match leases.spend(at(millis), KEY, 1, &TERMS) {
            Spend::Leased { renew: Some(units) } => return (leases.held(KEY), units),
            Spend::Leased { renew: None } => {}
            other => panic!("used up: {other:?}"),
        }
    }
    panic!("never renewed");
}
