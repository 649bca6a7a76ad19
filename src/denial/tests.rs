//! What a client sees of each denial.

use alloc::rc::Rc;

use super::*;
use crate::config::RateLimitHeaders;
use crate::decision::{CheckError, Told};
use crate::descriptor::tests::{Random, policy_of};

#[test]
fn every_reason_has_its_statuses_details_and_problem() {
    let cases = [
        (DenyReason::DescriptorMissing, None, 401, 16, "about:blank"),
        (DenyReason::KeyRejected, Some(401), 401, 16, "about:blank"),
        (DenyReason::KeyRejected, Some(403), 403, 7, "about:blank"),
        (DenyReason::KeyRejected, None, 401, 16, "about:blank"),
        (DenyReason::LocalExceeded, None, 429, 8, "quota-exceeded"),
        (DenyReason::QuotaExceeded, None, 429, 8, "quota-exceeded"),
        (
            DenyReason::QuotaUnavailable,
            None,
            503,
            14,
            "temporary-reduced-capacity",
        ),
    ];
    for (reason, rejected_status, status, grpc_status, kind) in cases {
        let decision = Decision::deny(reason).telling(Told {
            rejected_status,
            ..Told::default()
        });
        let denial = Denial::new(reason, &decision, &policy_of(vec![]), &Facts::default());

        assert_eq!((denial.status, denial.grpc_status), (status, grpc_status));
        assert_eq!(denial.details, format!("quota_gate_{}", reason.code()));
        let body: serde_json::Value = serde_json::from_slice(&denial.body).unwrap();
        assert_eq!(body["code"], reason.code());
        assert_eq!(body["status"], status);
        assert!(body["type"].as_str().unwrap().ends_with(kind));
        assert!(body["title"].is_string());
    }
}

#[test]
fn a_whole_denial_over_http() {
    let decision = Decision::deny(DenyReason::QuotaExceeded).telling(Told {
        retry_after: Some(Duration::from_millis(2_001)),
        limits: Limits {
            limit: Some(10),
            remaining: Some(0),
            reset: Some(Duration::from_secs(30)),
            window: Some(Duration::from_secs(60)),
        },
        ..Told::default()
    });
    let facts = Facts {
        request_id: Some(b"r-1".to_vec()),
        ..Facts::default()
    };

    let denial = Denial::new(
        DenyReason::QuotaExceeded,
        &decision,
        &policy_of(vec![]),
        &facts,
    );

    assert_eq!(
        shown(&denial),
        [
            "content-type: application/problem+json",
            "cache-control: no-store",
            "retry-after: 3",
            "ratelimit-policy: \"standard\";q=10;w=60",
            "ratelimit: \"standard\";r=0;t=3",
        ]
    );
    assert_eq!(
        String::from_utf8(denial.body).unwrap(),
        "{\"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\",\
         \"title\":\"Quota exceeded\",\"status\":429,\"code\":\"quota_exceeded\",\
         \"request_id\":\"r-1\",\"retry_after\":3}"
    );
}

#[test]
fn a_whole_denial_over_grpc() {
    let decision = Decision::deny(DenyReason::QuotaUnavailable).because(CheckError::Timeout);
    let facts = Facts {
        grpc: true,
        request_id: Some(b"r-1".to_vec()),
        ..Facts::default()
    };

    let denial = Denial::new(
        DenyReason::QuotaUnavailable,
        &decision,
        &policy_of(vec![]),
        &facts,
    );

    assert_eq!(denial.grpc_status, 14);
    assert_eq!(denial.body, b"Quota can't be checked for the moment");
    assert_eq!(
        shown(&denial),
        ["cache-control: no-store", "retry-after: 1"]
    );
}

#[test]
fn only_what_the_host_takes_for_grpc_is_grpc() {
    for content_type in ["application/grpc", "application/grpc+proto"] {
        assert!(is_grpc(content_type.as_bytes()), "{content_type}");
    }
    for content_type in [
        "application/grpc-web",
        "application/grpcx",
        "application/json",
        "",
    ] {
        assert!(!is_grpc(content_type.as_bytes()), "{content_type}");
    }
}

#[test]
fn the_policy_chooses_the_statuses() {
    let mut policy = policy_of(vec![]);
    Rc::make_mut(&mut policy.denial).status = 402;
    Rc::make_mut(&mut policy.denial).unavailable_status = 500;
    for (reason, status) in [
        (DenyReason::QuotaExceeded, 402),
        (DenyReason::LocalExceeded, 402),
        (DenyReason::QuotaUnavailable, 500),
        (DenyReason::KeyRejected, 401),
    ] {
        let denial = Denial::new(reason, &Decision::deny(reason), &policy, &Facts::default());
        assert_eq!(denial.status, status);
    }
}

#[test]
fn says_when_to_come_again_where_time_cures_it() {
    let seconds = |reason, retry_after: Option<u64>, reset: Option<u64>| {
        let decision = Decision::deny(reason).telling(Told {
            retry_after: retry_after.map(Duration::from_millis),
            limits: Limits {
                reset: reset.map(Duration::from_millis),
                ..Limits::NONE
            },
            ..Told::default()
        });
        let denial = Denial::new(reason, &decision, &policy_of(vec![]), &Facts::default());
        let body: serde_json::Value = serde_json::from_slice(&denial.body).unwrap();
        let header = shown(&denial)
            .into_iter()
            .find_map(|line| Some(line.strip_prefix("retry-after: ")?.to_owned()));
        assert_eq!(header, body.get("retry_after").map(ToString::to_string));
        header
    };

    assert_eq!(
        seconds(DenyReason::QuotaExceeded, Some(1_500), Some(9_000)).unwrap(),
        "2"
    );
    assert_eq!(
        seconds(DenyReason::QuotaExceeded, None, Some(9_000)).unwrap(),
        "9"
    );
    assert_eq!(
        seconds(DenyReason::QuotaExceeded, Some(0), None).unwrap(),
        "1"
    );
    assert_eq!(seconds(DenyReason::QuotaExceeded, None, None).unwrap(), "1");
    assert_eq!(
        seconds(DenyReason::LocalExceeded, Some(10), None).unwrap(),
        "1"
    );
    assert_eq!(
        seconds(DenyReason::QuotaUnavailable, None, None).unwrap(),
        "1"
    );
    assert_eq!(seconds(DenyReason::KeyRejected, Some(5), Some(5)), None);
    assert_eq!(seconds(DenyReason::DescriptorMissing, None, None), None);
}

#[test]
fn the_cause_of_a_failure_is_nowhere() {
    let reason = DenyReason::QuotaUnavailable;
    let plain = Denial::new(
        reason,
        &Decision::deny(reason),
        &policy_of(vec![]),
        &Facts::default(),
    );
    for cause in CheckError::ALL {
        let decision = Decision::deny(reason).because(cause);
        let denial = Denial::new(reason, &decision, &policy_of(vec![]), &Facts::default());
        assert_eq!(denial, plain);
    }
}

#[test]
fn an_allowed_origin_may_read_the_denial() {
    let denial = from_origin(&["https://app.example"], RateLimitHeaders::Draft);

    assert_eq!(
        shown(&denial)[3..],
        [
            "vary: origin",
            "access-control-allow-origin: https://app.example",
            "access-control-expose-headers: \
             retry-after, x-request-id, ratelimit, ratelimit-policy",
        ]
    );
}

#[test]
fn any_origin_may_read_the_denial_where_the_policy_says_so() {
    let denial = from_origin(
        &["https://other.example", "*"],
        RateLimitHeaders::XRatelimit,
    );

    assert_eq!(
        shown(&denial)[4..],
        [
            "access-control-allow-origin: *",
            "access-control-expose-headers: retry-after, x-request-id, \
             x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset",
        ]
    );
}

#[test]
fn another_origin_may_not_read_the_denial() {
    for allowed in [
        "https://app.example.evil",
        "https://app.exampl",
        "http://app.example",
    ] {
        let denial = from_origin(&[allowed], RateLimitHeaders::None);
        assert_eq!(shown(&denial)[3..], ["vary: origin"]);
    }
}

#[test]
fn the_operators_headers_come_last_and_replace_ours() {
    let mut policy = policy_of(vec![]);
    Rc::make_mut(&mut policy.denial).headers = [
        ("X-Docs", "https://docs.example"),
        ("Cache-Control", "private"),
        ("content-length", "7"),
        (":status", "200"),
        ("x-split", "a\r\nb: c"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let reason = DenyReason::DescriptorMissing;

    let denial = Denial::new(reason, &Decision::deny(reason), &policy, &Facts::default());

    assert_eq!(
        shown(&denial),
        [
            "content-type: application/problem+json",
            "x-docs: https://docs.example",
            "cache-control: private",
            "x-split: a__b: c",
        ]
    );
}

#[test]
fn a_hostile_request_id_stays_inside_its_string() {
    let mut random = Random(11);
    for _ in 0..5_000 {
        let facts = Facts {
            request_id: Some(random.bytes(300)),
            origin: Some(random.bytes(20)),
            grpc: false,
        };
        let mut policy = policy_of(vec![]);
        Rc::make_mut(&mut policy.denial).allow_origins = vec!["*".into()];
        let reason = DenyReason::QuotaExceeded;
        let denial = Denial::new(reason, &Decision::deny(reason), &policy, &facts);

        let body: serde_json::Value = serde_json::from_slice(&denial.body).unwrap();
        let id = body.get("request_id").map_or("", |id| id.as_str().unwrap());
        assert!(id.len() <= 128);
        assert!(denial.body.iter().all(|byte| matches!(byte, 0x20..=0x7e)));
        for (_, value) in &denial.headers {
            assert!(value.iter().all(|byte| matches!(byte, 0x20..=0x7e)));
        }
    }
}

fn from_origin(allowed: &[&str], style: RateLimitHeaders) -> Denial {
    let mut policy = policy_of(vec![]);
    policy.rate_limit_headers = style;
    Rc::make_mut(&mut policy.denial).allow_origins =
        allowed.iter().map(|own| (*own).to_owned()).collect();
    let facts = Facts {
        origin: Some(b"https://app.example".to_vec()),
        ..Facts::default()
    };
    let reason = DenyReason::QuotaExceeded;
    Denial::new(reason, &Decision::deny(reason), &policy, &facts)
}

fn shown(denial: &Denial) -> Vec<String> {
    denial
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8(value.clone()).unwrap()))
        .collect()
}
