//! What a descriptor, a key and a cost are, value by value.

use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::config::{
    CacheTtls, DenialStyle, Enforcement, FailureMode, OnMissing, RateLimitHeaders,
};
use crate::request::PlainRequest;

#[test]
fn entries_come_in_the_policys_order_with_their_values() {
    let policy = policy_of(vec![
        entry("tenant", Source::Header("x-tenant".into())),
        entry("api", Source::Value("v1".into())),
        entry("route", Source::RouteName),
    ]);
    let request = get("/")
        .with_header("x-tenant", "acme")
        .with_property(&["xds", "route_name"], "chat");

    assert_eq!(
        described(&policy, &request),
        pairs(&[("tenant", "acme"), ("api", "v1"), ("route", "chat")])
    );
}

#[test]
fn a_header_that_is_absent_empty_or_there_twice_is_missing() {
    let policy = policy_of(vec![
        entry("api", Source::Value("v1".into())),
        entry("k", Source::Header("k".into())),
    ]);

    for request in [
        get("/"),
        get("/").with_header("k", ""),
        get("/").with_header("k", "a").with_header("k", "a"),
    ] {
        assert_eq!(describe(&policy, &request), Err(MissingEntry { index: 1 }));
    }
}

#[test]
fn an_optional_entry_may_be_absent_and_a_default_stands_in() {
    let policy = policy_of(vec![
        EntrySpec {
            optional: true,
            ..entry("user", Source::Header("x-user".into()))
        },
        EntrySpec {
            default: Some("free".into()),
            ..entry("plan", Source::Header("x-plan".into()))
        },
    ]);

    assert_eq!(described(&policy, &get("/")), pairs(&[("plan", "free")]));
    assert_eq!(
        described(
            &policy,
            &get("/")
                .with_header("x-user", "u")
                .with_header("x-plan", "p")
        ),
        pairs(&[("user", "u"), ("plan", "p")])
    );
}

#[test]
fn the_peers_address_loses_its_port() {
    let policy = policy_of(vec![entry("ip", Source::ClientIp { trusted_hops: 0 })]);

    for (peer, ip) in [
        ("10.0.0.1:4711", "10.0.0.1"),
        ("[2001:DB8::1]:4711", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[fe80::1%eth0]:1", "fe80::1%eth0"),
    ] {
        let request = get("/").with_property(&["source", "address"], peer);
        assert_eq!(described(&policy, &request), pairs(&[("ip", ip)]));
    }
    for peer in [
        "/run/app.sock",
        "@abstract",
        "envoy://inner/",
        "unknown",
        "[]:1",
    ] {
        let request = get("/").with_property(&["source", "address"], peer);
        assert_eq!(describe(&policy, &request), Err(MissingEntry { index: 0 }));
    }
}

#[test]
fn what_is_longer_than_any_address_is_none() {
    let policy = policy_of(vec![entry("ip", Source::ClientIp { trusted_hops: 1 })]);
    let longest = format!("{}%{}", "0000:".repeat(9), "a".repeat(16));

    let request = get("/").with_header("x-forwarded-for", &longest);
    assert_eq!(described(&policy, &request), pairs(&[("ip", &longest)]));
    let request = get("/").with_header("x-forwarded-for", format!("0{longest}"));
    assert_eq!(describe(&policy, &request), Err(MissingEntry { index: 0 }));
}

#[test]
fn trusted_hops_are_counted_from_the_right() {
    for (hops, ip) in [(1, "3.3.3.3"), (2, "2.2.2.2"), (3, "1.1.1.1")] {
        let policy = policy_of(vec![entry("ip", Source::ClientIp { trusted_hops: hops })]);
        let request = get("/")
            .with_header("x-forwarded-for", "1.1.1.1, 2.2.2.2 ,\t3.3.3.3")
            .with_property(&["source", "address"], "9.9.9.9:1");
        assert_eq!(described(&policy, &request), pairs(&[("ip", ip)]));
    }
}

#[test]
fn fewer_hops_than_trusted_is_missing() {
    let policy = policy_of(vec![entry("ip", Source::ClientIp { trusted_hops: 2 })]);

    for request in [
        get("/"),
        get("/").with_header("x-forwarded-for", "1.1.1.1"),
        get("/").with_header("x-forwarded-for", ",1.1.1.1"),
        get("/").with_header("x-forwarded-for", "secret,1.1.1.1"),
        get("/")
            .with_header("x-forwarded-for", "2.2.2.2, 1.1.1.1")
            .with_header("x-forwarded-for", "3.3.3.3"),
    ] {
        assert_eq!(describe(&policy, &request), Err(MissingEntry { index: 0 }));
    }
}

#[test]
fn a_hop_written_with_its_port_is_the_same_client_on_every_connection() {
    let policy = policy_of(vec![entry("ip", Source::ClientIp { trusted_hops: 1 })]);
    let request = get("/").with_header("x-forwarded-for", "1.1.1.1:50123");

    assert_eq!(described(&policy, &request), pairs(&[("ip", "1.1.1.1")]));
}

#[test]
fn a_query_parameter_is_decoded() {
    let policy = policy_of(vec![entry("q", Source::Query("user id".into()))]);

    for (path, value) in [
        ("/v1?user+id=a%2Bb+c", "a+b c"),
        ("/v1?x=1&user%20id=%C3%BC&y", "ü"),
        ("/v1?user+id=a=b", "a=b"),
        ("/v1?user+id=a?b#user+id=c", "a?b"),
        ("/v1?user+id=%zz", "%zz"),
    ] {
        assert_eq!(
            described(&policy, &get(path)),
            pairs(&[("q", value)]),
            "{path}"
        );
    }
}

#[test]
fn a_query_parameter_that_is_absent_empty_or_there_twice_is_missing() {
    let policy = policy_of(vec![entry("q", Source::Query("q".into()))]);

    for path in [
        "/",
        "/?",
        "/?q",
        "/?q=",
        "/?q=1&q=1",
        "/?q=1&%71=",
        "/#?",
        "/?Q=1",
    ] {
        let missing = Err(MissingEntry { index: 0 });
        assert_eq!(describe(&policy, &get(path)), missing, "{path}");
    }
    // CONNECT has no path at all.
    let connect = PlainRequest::default().with_header(":method", "CONNECT");
    assert_eq!(describe(&policy, &connect), Err(MissingEntry { index: 0 }));
}

#[test]
fn a_number_is_its_shortest_decimal() {
    let policy = policy_of(vec![claim(PropertyType::Number)]);

    for (number, text) in [
        (7.0_f64, "7"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (-2.5, "-2.5"),
        (0.05, "0.05"),
        (-0.000_000_123, "-0.000000123"),
        (99_999_999.999_999_9, "99999999.9999999"),
        (12_345.678_9, "12345.6789"),
        (1e-22, "0.0000000000000000000001"),
        (1.5e19, "15000000000000000000"),
        (9_007_199_254_740_993.0, "9007199254740992"),
    ] {
        let request = get("/").with_property(CLAIM, number.to_le_bytes());
        assert_eq!(described(&policy, &request), pairs(&[("claim", text)]));
    }
}

#[test]
fn a_numbers_text_reads_back_as_the_number() {
    let mut random = Random(3);
    for _ in 0..100_000 {
        let digits = random.next() % 1_000_000_000_000_000;
        let number: f64 = format!("{digits}e-{}", random.next() % 20).parse().unwrap();
        let text = String::from_utf8(number_text(number).unwrap()).unwrap();
        assert_eq!(text, number.to_string());
    }
}

#[test]
fn a_number_or_bool_of_the_wrong_length_is_missing() {
    let [nan, endless, far, long] =
        [f64::NAN, f64::NEG_INFINITY, 1e21, 0.1 + 0.2].map(f64::to_le_bytes);
    for (value_type, bytes) in [
        (PropertyType::Number, &b"7"[..]),
        (PropertyType::Number, b"123456789"),
        (PropertyType::Number, &nan),
        (PropertyType::Number, &endless),
        (PropertyType::Number, &far),
        (PropertyType::Number, &long),
        (PropertyType::Bool, b"true"),
        (PropertyType::Bool, &[2]),
    ] {
        let policy = policy_of(vec![claim(value_type)]);
        let request = get("/").with_property(CLAIM, bytes);
        assert_eq!(describe(&policy, &request), Err(MissingEntry { index: 0 }));
    }
}

#[test]
fn a_bool_is_a_word() {
    let policy = policy_of(vec![claim(PropertyType::Bool)]);

    for (byte, word) in [([0], "false"), ([1], "true")] {
        let request = get("/").with_property(CLAIM, byte);
        assert_eq!(described(&policy, &request), pairs(&[("claim", word)]));
    }
}

#[test]
fn a_path_of_many_elements_is_read_all_the_same() {
    let long: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    let path: Vec<&str> = long.iter().map(String::as_str).collect();
    let policy = policy_of(vec![entry(
        "deep",
        Source::Property {
            path: long.clone(),
            value_type: PropertyType::String,
        },
    )]);

    let request = get("/").with_property(&path, "v");
    assert_eq!(described(&policy, &request), pairs(&[("deep", "v")]));
}

#[test]
fn any_bytes_and_any_length_are_kept_as_they_are() {
    let policy = policy_of(vec![entry("k", Source::Header("k".into()))]);
    let value: Vec<u8> = (0..=255).cycle().take(60_000).collect();

    let descriptor = describe(&policy, &get("/").with_header("k", &value)).unwrap();
    let key = descriptor.key();

    assert_eq!(key.entries(&policy).next(), Some(("k", &value[..])));
    assert_eq!(key.as_bytes(), descriptor.as_bytes());
    assert_eq!(descriptor.into_key(), key);
}

#[test]
fn keys_are_equal_only_for_equal_descriptors_under_one_policy() {
    let spec = |name: &str| EntrySpec {
        optional: true,
        ..entry(name, Source::Header(name.into()))
    };
    let first = policy_of(vec![spec("a"), spec("b")]);
    let second = Policy {
        index: 1,
        ..policy_of(vec![spec("a"), spec("b")])
    };
    let values = [
        None,
        Some("x"),
        Some("xx"),
        Some("\u{1}"),
        Some("\u{2}x"),
        Some("x\u{2}x"),
    ];

    let mut keys = Vec::new();
    for policy in [&first, &second] {
        for a in values {
            keys.extend(values.map(|b| describe(policy, &with(a, b)).unwrap().into_key()));
        }
    }
    let all = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!((keys.len(), all), (72, 72));
}

#[test]
fn no_debug_output_shows_a_value() {
    let policy = policy_of(vec![entry("k", Source::Header("k".into()))]);
    let descriptor = describe(&policy, &get("/").with_header("k", "s3cret")).unwrap();

    let shown = format!(
        "{descriptor:?} {:?} {:?}",
        descriptor.key(),
        descriptor.entries(&policy)
    );

    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(shown.starts_with("Descriptor("), "{shown}");
}

#[test]
fn the_hash_is_siphash_1_3_and_depends_on_the_seed() {
    // The standard library's default hasher is SipHash-1-3 with both halves of the key 0.
    for length in 0..40_u8 {
        let bytes: Vec<u8> = (0..length).collect();
        assert_eq!(hash64(&bytes, 0), reference_hash(&bytes));
        assert_ne!(hash64(&bytes, 0), hash64(&bytes, 1));
    }
}

#[test]
fn a_cost_is_fixed_or_what_the_header_says_up_to_the_most() {
    let fixed = Policy {
        cost: Cost::Fixed(3),
        ..policy_of(vec![])
    };
    let by_header = |default| Policy {
        cost: Cost::Header {
            name: "x-cost".into(),
            default,
            max: 100,
        },
        ..policy_of(vec![])
    };

    assert_eq!(cost(&fixed, &get("/").with_header("x-cost", "9")), Some(3));
    for (value, units) in [
        ("0", 0),
        ("7", 7),
        ("101", 100),
        ("99999999999999999999", 100),
    ] {
        let request = get("/").with_header("x-cost", value);
        assert_eq!(cost(&by_header(None), &request), Some(units));
    }
    for value in ["", "-1", "+1", " 1", "1.5", "1e3", "x", "0x1"] {
        let request = get("/").with_header("x-cost", value);
        assert_eq!(cost(&by_header(Some(2)), &request), Some(2), "{value}");
        assert_eq!(cost(&by_header(None), &request), None, "{value}");
    }
    let twice = get("/")
        .with_header("x-cost", "1")
        .with_header("x-cost", "1");
    assert_eq!(cost(&by_header(None), &twice), None);
}

#[test]
fn a_preflight_has_all_three_marks() {
    let preflight = PlainRequest::new("OPTIONS", "a", "/")
        .with_header("origin", "https://app.example")
        .with_header("access-control-request-method", "PUT");
    let plain_options = PlainRequest::new("OPTIONS", "a", "/").with_header("origin", "x");
    let not_options = get("/")
        .with_header("origin", "x")
        .with_header("access-control-request-method", "PUT");

    assert!(is_preflight(&preflight));
    assert!(!is_preflight(&plain_options));
    assert!(!is_preflight(&not_options));
}

#[test]
fn random_bytes_break_nothing() {
    let sources = [
        Source::Header("k".into()),
        Source::Query("k".into()),
        Source::ClientIp { trusted_hops: 0 },
        Source::ClientIp { trusted_hops: 3 },
        Source::Property {
            path: vec!["p".into()],
            value_type: PropertyType::Number,
        },
    ];
    let specs = sources.map(|source| EntrySpec {
        optional: true,
        ..entry("k", source)
    });
    let policy = policy_of(specs.to_vec());
    let mut random = Random(7);
    for _ in 0..20_000 {
        let request = PlainRequest::default()
            .with_header("k", random.bytes(40))
            .with_header(":path", [b"/?k=", &random.bytes(20)[..]].concat())
            .with_header("x-forwarded-for", random.bytes(30))
            .with_property(&["source", "address"], random.bytes(20))
            .with_property(&["p"], random.bytes(9));
        let descriptor = describe(&policy, &request).unwrap();
        let nonsense = Key(random.bytes(30).into());

        assert!(descriptor.entries(&policy).count() <= 5);
        assert!(nonsense.entries(&policy).count() <= 5);
    }
}

const CLAIM: &[&str] = &["metadata", "filter_metadata", "jwt", "payload", "claim"];

fn claim(value_type: PropertyType) -> EntrySpec {
    entry(
        "claim",
        Source::Property {
            path: CLAIM.iter().map(|element| (*element).to_owned()).collect(),
            value_type,
        },
    )
}

fn with(a: Option<&str>, b: Option<&str>) -> PlainRequest {
    [("a", a), ("b", b)]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .fold(get("/"), |request, (name, value)| {
            request.with_header(name, value)
        })
}

fn get(path: &str) -> PlainRequest {
    PlainRequest::new("GET", "a", path)
}

fn described(policy: &Policy, request: &PlainRequest) -> Vec<(String, String)> {
    describe(policy, request)
        .unwrap()
        .entries(policy)
        .map(|(name, value)| (name.to_owned(), String::from_utf8(value.to_vec()).unwrap()))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn reference_hash(bytes: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

pub(crate) fn entry(name: &str, source: Source) -> EntrySpec {
    EntrySpec {
        name: name.into(),
        source,
        optional: false,
        default: None,
    }
}

/// A plain policy with this descriptor.
pub(crate) fn policy_of(descriptor: Vec<EntrySpec>) -> Policy {
    Policy {
        index: 0,
        name: Rc::from("standard"),
        backend: 0,
        descriptor: descriptor.into(),
        cost: Cost::Fixed(1),
        failure_mode: FailureMode::FailClosed,
        local_limit: None,
        timeout: Duration::from_millis(80),
        host_budget: Duration::from_secs(1),
        cache: CacheTtls::default(),
        quota: None,
        lease: None,
        settle: None,
        enforcement: Enforcement::Enforce,
        on_missing: OnMissing::Deny,
        failure_mode_header: None,
        rate_limit_headers: RateLimitHeaders::Draft,
        denial: Rc::new(DenialStyle {
            status: 429,
            unavailable_status: 503,
            headers: Vec::new(),
            allow_origins: Vec::new(),
        }),
    }
}

/// A small generator of random bytes: the same ones on every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Up to `max` bytes; half of the runs are made of characters that parsers care about.
    pub(crate) fn bytes(&mut self, max: u64) -> Vec<u8> {
        let telling = b"\"\\%+&=?#,;:[]{}0123456789.-\r\n \0abTrue/*\xff\xc3\xa9";
        let any = self.next().is_multiple_of(2);
        let length = self.next() % (max + 1);
        (0..length)
            .map(|_| {
                let next = self.next() >> 8;
                if any {
                    next as u8
                } else {
                    telling[usize::try_from(next % telling.len() as u64).unwrap()]
                }
            })
            .collect()
    }
}
