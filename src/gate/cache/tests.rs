//! What is remembered, for whom, how long, and who leaves when it is full.

use super::*;
use std::collections::BTreeMap;

const KEY: &[u8] = b"acme";

#[test]
fn answers_an_allow_again_until_its_ttl_is_over() {
    let mut cache = roomy();
    cache.put(at(0), KEY, &allowed(), &ALL_ON);

    assert_eq!(kind_of(cache.get(at(0), KEY, 1, &ALL_ON)), ALLOWED);
    assert_eq!(kind_of(cache.get(at(999), KEY, 1, &ALL_ON)), ALLOWED);
    assert_eq!(cache.get(at(1_000), KEY, 1, &ALL_ON), None);
    assert_eq!(cache.get(at(0), b"other", 1, &ALL_ON), None);
}

#[test]
fn each_kind_has_its_own_ttl() {
    let mut cache = roomy();
    for (answer, lasts_ms) in [(allowed(), 1_000), (denied(), 2_000), (rejected(), 3_000)] {
        cache.put(at(0), KEY, &answer, &ALL_ON);

        assert!(cache.get(at(lasts_ms - 1), KEY, 1, &ALL_ON).is_some());
        assert_eq!(cache.get(at(lasts_ms), KEY, 1, &ALL_ON), None);
    }
}

#[test]
fn a_kind_that_is_switched_off_is_never_answered_whatever_the_others_say() {
    for (answer, off) in [
        (
            allowed(),
            CacheTtls {
                allow: Duration::ZERO,
                ..ALL_ON
            },
        ),
        (
            denied(),
            CacheTtls {
                deny: Duration::ZERO,
                ..ALL_ON
            },
        ),
        (
            rejected(),
            CacheTtls {
                rejected: Duration::ZERO,
                ..ALL_ON
            },
        ),
    ] {
        let mut cache = roomy();
        cache.put(at(0), KEY, &answer, &off);
        assert_eq!(cache.get(at(0), KEY, 1, &off), None);
    }
}

#[test]
fn an_answer_stored_under_longer_terms_does_not_outlive_the_reader_s() {
    let mut cache = roomy();
    cache.put(at(0), KEY, &rejected(), &ALL_ON);

    let shorter = CacheTtls {
        rejected: ms(500),
        ..ALL_ON
    };
    assert!(cache.get(at(499), KEY, 1, &shorter).is_some());
    assert_eq!(cache.get(at(500), KEY, 1, &shorter), None);
    let off = CacheTtls {
        rejected: Duration::ZERO,
        ..ALL_ON
    };
    assert_eq!(cache.get(at(1), KEY, 1, &off), None);
}

#[test]
fn an_answer_stored_under_shorter_terms_does_not_last_longer_for_others() {
    let mut cache = roomy();
    let shorter = CacheTtls {
        allow: ms(100),
        ..ALL_ON
    };
    cache.put(at(0), KEY, &allowed(), &shorter);

    assert_eq!(cache.get(at(100), KEY, 1, &ALL_ON), None);
}

#[test]
fn with_everything_off_nothing_is_stored() {
    let mut cache = roomy();
    for answer in [allowed(), denied(), rejected()] {
        cache.put(at(0), KEY, &answer, &CacheTtls::default());
    }
    assert!(cache.is_empty());
    assert_eq!(cache.bytes(), 0);
}

#[test]
fn a_denial_holds_only_for_requests_that_cost_at_least_as_much() {
    let mut cache = roomy();
    cache.put(
        at(0),
        KEY,
        &Answer {
            cost: 5,
            ..denied()
        },
        &ALL_ON,
    );

    assert_eq!(cache.get(at(1), KEY, 4, &ALL_ON), None);
    assert_eq!(kind_of(cache.get(at(1), KEY, 5, &ALL_ON)), DENIED);
    assert_eq!(kind_of(cache.get(at(1), KEY, 6, &ALL_ON)), DENIED);
    assert_eq!(cache.stale(at(1), KEY, 4, &ALL_ON), None);
}

#[test]
fn an_allow_holds_only_for_requests_that_cost_at_most_as_much() {
    let mut cache = roomy();
    cache.put(
        at(0),
        KEY,
        &Answer {
            cost: 5,
            ..allowed()
        },
        &ALL_ON,
    );

    assert_eq!(kind_of(cache.get(at(1), KEY, 5, &ALL_ON)), ALLOWED);
    assert_eq!(cache.get(at(1), KEY, 6, &ALL_ON), None);
}

#[test]
fn a_rejection_holds_for_every_cost() {
    let mut cache = roomy();
    cache.put(
        at(0),
        KEY,
        &Answer {
            cost: 5,
            ..rejected()
        },
        &ALL_ON,
    );

    assert!(cache.get(at(1), KEY, 0, &ALL_ON).is_some());
    assert!(cache.get(at(1), KEY, 9, &ALL_ON).is_some());
}

#[test]
fn a_newer_answer_replaces_an_older_one_whatever_its_kind() {
    let mut cache = roomy();
    cache.put(at(0), KEY, &rejected(), &ALL_ON);
    cache.put(at(1), KEY, &allowed(), &ALL_ON);
    assert_eq!(kind_of(cache.get(at(2), KEY, 1, &ALL_ON)), ALLOWED);

    cache.put(at(3), KEY, &denied(), &ALL_ON);
    assert_eq!(kind_of(cache.get(at(4), KEY, 1, &ALL_ON)), DENIED);
    assert_eq!(cache.len(), 1);
}

#[test]
fn an_answer_that_may_not_be_remembered_removes_the_older_one() {
    let mut cache = roomy();
    let allow_off = CacheTtls {
        allow: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        ..ALL_ON
    };
    cache.put(at(0), KEY, &rejected(), &allow_off);
    cache.put(at(1), KEY, &allowed(), &allow_off);
    assert_eq!(cache.get(at(2), KEY, 1, &allow_off), None);

    cache.put(at(3), KEY, &rejected(), &ALL_ON);
    cache.put(at(4), KEY, &no_store(allowed()), &ALL_ON);
    assert_eq!(cache.get(at(5), KEY, 1, &ALL_ON), None);
    assert_eq!(cache.stale(at(5), KEY, 1, &ALL_ON), None);

    cache.put(at(6), KEY, &allowed(), &ALL_ON);
    assert_eq!(kind_of(cache.get(at(7), KEY, 1, &ALL_ON)), ALLOWED);
}

#[test]
fn no_store_keeps_an_answer_from_being_used_stale_too() {
    let mut cache = roomy();
    cache.put(at(0), KEY, &no_store(allowed()), &ALL_ON);

    assert_eq!(cache.get(at(0), KEY, 1, &ALL_ON), None);
    assert_eq!(cache.stale(at(0), KEY, 1, &ALL_ON), None);
    assert!(cache.is_empty());
}

#[test]
fn max_age_shortens_a_ttl_and_never_lengthens_it() {
    let mut cache = roomy();
    cache.put(at(0), KEY, &max_age(allowed(), 300), &ALL_ON);
    assert!(cache.get(at(299), KEY, 1, &ALL_ON).is_some());
    assert_eq!(cache.get(at(300), KEY, 1, &ALL_ON), None);

    cache.put(at(0), KEY, &max_age(allowed(), 60_000), &ALL_ON);
    assert_eq!(cache.get(at(1_000), KEY, 1, &ALL_ON), None);
}

#[test]
fn a_denial_is_over_with_its_reset_or_retry_after_stale_or_not() {
    let mut with_reset = denied();
    with_reset.limits.reset = Some(ms(700));
    let with_retry_after = Answer {
        retry_after: Some(ms(300)),
        ..with_reset
    };
    for (answer, lasts_ms) in [(with_reset, 700), (with_retry_after, 300)] {
        let mut cache = roomy();
        cache.put(at(0), KEY, &answer, &ALL_ON);

        assert!(cache.get(at(lasts_ms - 1), KEY, 1, &ALL_ON).is_some());
        assert_eq!(cache.get(at(lasts_ms), KEY, 1, &ALL_ON), None);
        assert_eq!(cache.stale(at(lasts_ms), KEY, 1, &ALL_ON), None);
    }
}

#[test]
fn an_allow_may_outlast_the_window_it_was_given_in() {
    let mut cache = roomy();
    let mut answer = allowed();
    answer.limits.reset = Some(ms(10));
    cache.put(at(0), KEY, &answer, &ALL_ON);

    let cached = cache.get(at(500), KEY, 1, &ALL_ON).unwrap();
    let told = cached.decision(AllowReason::Cached).told();
    assert_eq!(told.limits.reset, Some(Duration::ZERO));
}

#[test]
fn every_kind_may_be_used_stale_for_so_long_after_it_was_fresh() {
    for (answer, fresh_ms) in [(allowed(), 1_000), (denied(), 2_000), (rejected(), 3_000)] {
        let mut cache = roomy();
        cache.put(at(0), KEY, &answer, &ALL_ON);

        assert_eq!(
            kind_of(cache.stale(at(fresh_ms + 9_999), KEY, 1, &ALL_ON)),
            Some(answer.kind)
        );
        assert_eq!(cache.stale(at(fresh_ms + 10_000), KEY, 1, &ALL_ON), None);
    }
}

#[test]
fn stale_use_depends_on_its_own_switch_alone() {
    let only_stale = CacheTtls {
        stale_if_error: ms(5_000),
        ..CacheTtls::default()
    };
    for answer in [allowed(), denied(), rejected()] {
        let mut cache = roomy();
        cache.put(at(0), KEY, &answer, &only_stale);

        assert_eq!(cache.get(at(0), KEY, 1, &only_stale), None);
        assert_eq!(
            kind_of(cache.stale(at(4_999), KEY, 1, &only_stale)),
            Some(answer.kind)
        );
        assert_eq!(cache.stale(at(5_000), KEY, 1, &only_stale), None);
    }

    let no_stale = CacheTtls {
        stale_if_error: Duration::ZERO,
        ..ALL_ON
    };
    let mut cache = roomy();
    cache.put(at(0), KEY, &allowed(), &ALL_ON);
    assert_eq!(cache.stale(at(1_000), KEY, 1, &no_stale), None);
}

#[test]
fn max_age_zero_allows_stale_use_only() {
    let mut cache = roomy();
    cache.put(at(0), KEY, &max_age(allowed(), 0), &ALL_ON);

    assert_eq!(cache.get(at(0), KEY, 1, &ALL_ON), None);
    assert_eq!(kind_of(cache.stale(at(0), KEY, 1, &ALL_ON)), ALLOWED);
}

#[test]
fn tells_what_remains_of_the_wait_and_of_the_window() {
    let mut cache = roomy();
    let limits = Limits {
        limit: Some(10),
        remaining: Some(0),
        reset: Some(ms(900)),
        window: None,
    };
    let answer = Answer {
        limits,
        retry_after: Some(ms(800)),
        ..denied()
    };
    cache.put(at(0), KEY, &answer, &ALL_ON);

    let decision = cache
        .get(at(300), KEY, 1, &ALL_ON)
        .unwrap()
        .decision(AllowReason::Cached);

    let expected = Decision::deny(DenyReason::QuotaExceeded).telling(Told {
        retry_after: Some(ms(500)),
        limits: Limits {
            reset: Some(ms(600)),
            ..limits
        },
        ..Told::default()
    });
    assert_eq!(decision, expected);
}

#[test]
fn a_rejection_keeps_the_backend_s_status() {
    let mut cache = roomy();
    cache.put(at(0), KEY, &rejected(), &ALL_ON);

    let decision = cache
        .get(at(1), KEY, 1, &ALL_ON)
        .unwrap()
        .decision(AllowReason::Cached);
    assert_eq!(decision.told().rejected_status, Some(401));
}

#[test]
fn stays_within_its_entries_and_its_bytes() {
    let mut by_entries = Cache::new(100, usize::MAX, 7);
    let mut by_bytes = Cache::new(usize::MAX, 16 * 1024, 7);
    for number in 0..5_000_u32 {
        let key = vec![b'k'; (number % 300) as usize]
            .into_iter()
            .chain(number.to_le_bytes())
            .collect::<Vec<_>>();
        for cache in [&mut by_entries, &mut by_bytes] {
            cache.put(at(0), &key, &allowed(), &ALL_ON);
            assert!(cache.len() <= 100 || cache.bytes() <= 16 * 1024);
        }
    }
    assert_eq!(by_entries.len(), 100);
    assert_eq!(by_entries.take_evictions(), 4_900);
    assert_eq!(by_entries.take_evictions(), 0);
    assert!(by_bytes.bytes() > 15 * 1024);
}

#[test]
fn an_entry_that_is_too_big_is_not_held_and_pushes_nobody_out() {
    let mut cache = Cache::new(100, 16 * 1024, 7);
    cache.put(at(0), KEY, &allowed(), &ALL_ON);
    cache.put(at(0), &[0; 1024], &allowed(), &ALL_ON);

    assert_eq!(cache.len(), 1);
    assert_eq!(cache.take_evictions(), 0);
}

#[test]
fn a_cache_without_room_holds_nothing() {
    for (entries, bytes) in [(0, usize::MAX), (100, 0)] {
        let mut cache = Cache::new(entries, bytes, 7);
        cache.put(at(0), KEY, &allowed(), &ALL_ON);
        assert!(cache.is_empty());
    }
}

#[test]
fn a_flood_of_one_time_keys_leaves_alone_what_is_in_use() {
    let mut cache = Cache::new(1_000, usize::MAX, 7);
    let hot: Vec<[u8; 8]> = (0..500_u64).map(|n| (n | 1 << 60).to_le_bytes()).collect();
    for key in &hot {
        cache.put(at(0), key, &allowed(), &ALL_ON);
        cache.get(at(0), key, 1, &ALL_ON);
    }
    for number in 0..200_000_u64 {
        cache.put(at(0), &number.to_le_bytes(), &allowed(), &ALL_ON);
        if number % 10 == 0 {
            let key = &hot[(number / 10 % 500) as usize];
            assert!(
                cache.get(at(0), key, 1, &ALL_ON).is_some(),
                "lost at {number}"
            );
        }
    }
    assert_eq!(cache.len(), 1_000);
}

#[test]
fn a_newer_answer_does_not_cost_a_key_its_second_chance() {
    let mut cache = Cache::new(10, usize::MAX, 7);
    cache.put(at(0), KEY, &allowed(), &ALL_ON);
    cache.get(at(0), KEY, 1, &ALL_ON);
    cache.put(at(0), KEY, &denied(), &ALL_ON);
    for number in 0..100_u8 {
        cache.put(at(0), &[number], &allowed(), &ALL_ON);
    }
    assert_eq!(kind_of(cache.get(at(0), KEY, 1, &ALL_ON)), DENIED);
}

#[test]
fn what_is_over_leaves_first_and_is_not_counted() {
    let mut cache = Cache::new(2, usize::MAX, 7);
    let short = CacheTtls {
        allow: ms(10),
        ..CacheTtls::default()
    };
    cache.put(at(0), b"short", &allowed(), &short);
    cache.put(at(0), b"long", &allowed(), &ALL_ON);
    cache.put(at(20), b"new", &allowed(), &ALL_ON);

    assert!(cache.get(at(20), b"long", 1, &ALL_ON).is_some());
    assert!(cache.get(at(20), b"new", 1, &ALL_ON).is_some());
    assert_eq!(cache.take_evictions(), 0);
}

#[test]
fn what_is_over_in_the_main_queue_leaves_before_anything_on_probation() {
    let mut cache = Cache::new(20, usize::MAX, 7);
    let short = CacheTtls {
        allow: ms(10),
        ..CacheTtls::default()
    };
    for number in 0..10_u8 {
        cache.put(at(0), &[number], &allowed(), &short);
        cache.get(at(0), &[number], 1, &short);
    }
    for number in 10..21 {
        cache.put(at(0), &[number], &allowed(), &ALL_ON);
    }
    assert_eq!(cache.take_evictions(), 1);

    for number in 21..31 {
        cache.put(at(10), &[number], &allowed(), &ALL_ON);
    }
    assert_eq!(cache.take_evictions(), 0);
    assert!(cache.get(at(10), &[11], 1, &ALL_ON).is_some());
}

#[test]
fn what_is_over_at_this_moment_gets_no_second_chance_and_is_not_counted() {
    let mut cache = Cache::new(3, usize::MAX, 7);
    let short = CacheTtls {
        allow: ms(10),
        ..CacheTtls::default()
    };
    for (key, ttls) in [(&b"used"[..], &ALL_ON), (b"over", &short)] {
        cache.put(at(0), key, &allowed(), ttls);
        assert!(cache.get(at(0), key, 1, ttls).is_some());
    }
    cache.put(at(0), b"unused", &allowed(), &ALL_ON);

    cache.put(at(10), b"new", &allowed(), &ALL_ON);

    for key in [&b"used"[..], b"unused", b"new"] {
        assert!(cache.get(at(10), key, 1, &ALL_ON).is_some());
    }
    assert_eq!(cache.take_evictions(), 0);
}

#[test]
fn a_tenth_of_the_places_is_left_to_those_on_probation() {
    let mut cache = Cache::new(20, usize::MAX, 7);
    for number in 0..20_u8 {
        cache.put(at(0), &[number], &allowed(), &ALL_ON);
        if number < 18 {
            cache.get(at(0), &[number], 1, &ALL_ON);
        }
    }

    // The 18 that are in use leave probation; the first of them makes room.
    cache.put(at(1), &[20], &allowed(), &ALL_ON);

    assert_eq!(cache.get(at(1), &[0], 1, &ALL_ON), None);
    for number in 1..=20 {
        assert!(cache.get(at(1), &[number], 1, &ALL_ON).is_some());
    }
    assert_eq!(cache.take_evictions(), 1);
}

#[test]
fn an_entry_weighs_at_least_what_it_takes() {
    // Beside the slot: hash and place in a B-tree that may be half full, a place in a queue that
    // may be half empty, and the allocator's header and rounding of the key.
    let slot = size_of::<super::super::table::Slot<Entry>>();
    let around = 2 * (8 + size_of::<usize>()) + 2 * size_of::<usize>() + 16;
    assert!(slot + around <= ENTRY_BYTES, "{slot} + {around}");
}

/// Random operations beside a plain map that never forgets: whatever is answered is the newest
/// answer, is within its terms, and holds for the cost.
#[test]
fn never_answers_what_a_plain_map_would_not() {
    let mut answered = 0_u32;
    for seed in 1..=50_u64 {
        let mut random = Random(seed);
        let mut cache = Cache::new(24, 20_000, seed);
        let mut plain: BTreeMap<Vec<u8>, (u64, Answer, CacheTtls)> = BTreeMap::new();
        let mut now_ms = 0;
        for _ in 0..2_000 {
            now_ms += random.below(20);
            let key = vec![b'k'; random.below(30) as usize];
            let terms = random_terms(&mut random);
            if random.below(3) == 0 {
                let answer = random_answer(&mut random);
                cache.put(at(now_ms), &key, &answer, &terms);
                plain.insert(key, (now_ms, answer, terms));
            } else {
                let cost = random.below(5);
                let seen = |cached: Cached<'_>| (cached.kind, cached.decision(AllowReason::Cached));
                let fresh = cache.get(at(now_ms), &key, cost, &terms).map(seen);
                let stale = cache.stale(at(now_ms), &key, cost, &terms).map(seen);
                assert!(fresh.is_none() || fresh == stale, "fresh but not usable");
                let (stored, answer, stored_terms) = match plain.get(&key) {
                    Some((stored, answer, terms)) => (*stored, answer, terms),
                    None => continue,
                };
                answered += u32::from(stale.is_some());
                let terms = [stored_terms, &terms];
                let kind_of = |seen: Option<(Kind, Decision)>| seen.map(|(kind, _)| kind);
                let age_ms = now_ms - stored;
                assert_justified(age_ms, kind_of(fresh), answer, terms, cost, Duration::ZERO);
                assert_justified(
                    age_ms,
                    kind_of(stale),
                    answer,
                    terms,
                    cost,
                    terms[1].stale_if_error,
                );
            }
            assert!(cache.len() <= 24 && cache.bytes() <= 20_000);
        }
    }
    assert!(answered > 2_000, "only {answered} answers were looked at");
}

#[track_caller]
fn assert_justified(
    age_ms: u64,
    found: Option<Kind>,
    answer: &Answer,
    terms: [&CacheTtls; 2],
    cost: u64,
    more: Duration,
) {
    let Some(found) = found else { return };
    assert_eq!(found, answer.kind);
    assert!(!answer.caching.no_store);
    let ttl = |terms: &CacheTtls| match answer.kind {
        Kind::Allowed => terms.allow,
        Kind::Denied => terms.deny,
        Kind::Rejected { .. } => terms.rejected,
    };
    let fresh = ttl(terms[0]).min(ttl(terms[1]));
    let fresh = fresh.min(answer.caching.max_age.unwrap_or(fresh));
    assert!(ms(age_ms) < fresh + more);
    if answer.kind == Kind::Denied {
        assert!(cost >= answer.cost);
        assert!(answer.retry_after.is_none_or(|end| ms(age_ms) < end));
    }
}

const ALL_ON: CacheTtls = CacheTtls {
    allow: ms(1_000),
    deny: ms(2_000),
    rejected: ms(3_000),
    stale_if_error: ms(10_000),
};
const ALLOWED: Option<Kind> = Some(Kind::Allowed);
const DENIED: Option<Kind> = Some(Kind::Denied);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(millis: u64) -> Instant {
    Instant(1_000_000_000).after(ms(millis))
}

fn roomy() -> Cache {
    Cache::new(1_000, 1 << 20, 7)
}

const fn answer(kind: Kind) -> Answer {
    Answer {
        kind,
        cost: 1,
        limits: Limits::NONE,
        retry_after: None,
        caching: Caching {
            no_store: false,
            max_age: None,
        },
    }
}

const fn allowed() -> Answer {
    answer(Kind::Allowed)
}

const fn denied() -> Answer {
    answer(Kind::Denied)
}

const fn rejected() -> Answer {
    answer(Kind::Rejected { status: 401 })
}

const fn no_store(mut answer: Answer) -> Answer {
    answer.caching.no_store = true;
    answer
}

const fn max_age(mut answer: Answer, millis: u64) -> Answer {
    answer.caching.max_age = Some(ms(millis));
    answer
}

fn kind_of(cached: Option<Cached<'_>>) -> Option<Kind> {
    cached.map(|cached| cached.kind)
}

fn random_terms(random: &mut Random) -> CacheTtls {
    let mut ttl = || ms(random.below(4) * random.below(400));
    CacheTtls {
        allow: ttl(),
        deny: ttl(),
        rejected: ttl(),
        stale_if_error: ttl(),
    }
}

fn random_answer(random: &mut Random) -> Answer {
    let kind = match random.below(3) {
        0 => Kind::Allowed,
        1 => Kind::Denied,
        _ => Kind::Rejected { status: 403 },
    };
    Answer {
        kind,
        cost: random.below(5),
        limits: Limits::NONE,
        retry_after: (random.below(2) == 0).then(|| ms(random.below(200))),
        caching: Caching {
            no_store: random.below(8) == 0,
            max_age: (random.below(4) == 0).then(|| ms(random.below(200))),
        },
    }
}

/// A small generator (splitmix64), so that a seed means the same run everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}
