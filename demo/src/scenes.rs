//! The scenes, in order: what is told, what is sent, and what must come out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use envoy_harness::eventually::{eventually, within};
use envoy_harness::{Backend, Fault, Protocol, Request};
use serde_json::json;

use crate::keep::SLOW;
use crate::stage::{Ask, Stage};
use crate::tokens;

/// One thing that the filter promises, and the proof.
pub(crate) struct Scene {
    pub(crate) title: &'static str,
    /// What happens and why, for somebody who sees it for the first time.
    pub(crate) tale: &'static str,
    pub(crate) play: fn(&mut Stage<'_>),
}

/// The books of the quota backend: `gold` is unlimited, `bronze` and `silver` have two requests a
/// minute, `revoked` is no longer admitted; the tenant `acme` has a budget of tokens.
pub(crate) fn stock(backend: &Backend) {
    let minute = Duration::from_secs(60);
    backend.limit("key=bronze", 2, minute);
    backend.limit("key=silver", 2, minute);
    backend.reject_key("key=revoked", 401);
    backend.limit("tenant=acme", tokens::BUDGET, Duration::from_secs(3600));
}

/// The tour.
pub(crate) const SCENES: &[Scene] = &[
    Scene {
        title: "Allowed",
        tale: "For each request the filter asks the quota backend whether this key may go on, and \
               holds the request until the reply. The upstream learns why it got the request.",
        play: allowed,
    },
    Scene {
        title: "Denied",
        tale: "The key `bronze` has two requests a minute. The third is answered by the filter: \
               429, when to come again, and a body that a program can read. The fourth is not \
               even asked about: a denial is remembered for a second.",
        play: denied,
    },
    Scene {
        title: "A key that the backend does not admit",
        tale: "That is the client's fault and no outage: 401, whatever the failure mode says. So \
               is a request without a key.",
        play: rejected,
    },
    Scene {
        title: "The backend is slow",
        tale: "It takes a second, the policies wait 80 ms. The catalog fails open: better a page \
               too many than none. Payments fail closed: 503, never a silent pass. The client \
               never learns the cause; the access log does.",
        play: slow,
    },
    Scene {
        title: "The backend is dead",
        tale: "Its port is closed. The same two routes, and a third one that falls back to a limit \
               of its own: two requests a minute, kept in Envoy.",
        play: dead,
    },
    Scene {
        title: "gRPC clients get a gRPC status",
        tale: "RESOURCE_EXHAUSTED (8) over the quota, UNAVAILABLE (14) when there is no answer: \
               trailers only, as a gRPC library expects it.",
        play: grpc,
    },
    Scene {
        title: "Browsers can read a denial",
        tale: "Without CORS headers a browser would show the 429 as a network error. A preflight \
               is never checked and costs nothing.",
        play: cors,
    },
    Scene {
        title: "The breaker",
        tale: "After three failures in a row the backend is left alone: requests are decided at \
               once instead of after 80 ms each. One trial call finds out that it is well again.",
        play: breaker,
    },
    Scene {
        title: "A lease: many requests, few checks",
        tale: "A policy with a lease asks for units ahead, the more the busier the key is, and \
               spends them without asking.",
        play: lease,
    },
    Scene {
        title: "Tokens of a language model: charged when the answer is there",
        tale: "Nobody knows ahead how many tokens an answer takes. The check reserves 220, the \
               most that one of these can take; Envoy's own filters find in the answer what it \
               took, also at the end of a stream; and the filter gives the rest back. The tenant \
               `acme` has 550 tokens an hour.",
        play: tokens::play,
    },
    Scene {
        title: "Shadow: try a policy before it bites",
        tale: "The check is made and counted, its denial is only told: this is how a policy is \
               rolled out.",
        play: shadow,
    },
    Scene {
        title: "Emergency: let through for a while, by a push",
        tale: "The backend is dead and payments must go on. An emergency is pushed to the running \
               Envoy: it needs a reason and an end, everybody sees it in log and metrics, and it \
               ends by itself.",
        play: emergency,
    },
    Scene {
        title: "The books balance",
        tale: "Every request of this tour is in the metrics exactly once, under one decision and \
               one reason.",
        play: sums,
    },
];

fn allowed(stage: &mut Stage<'_>) {
    stage.show_configuration(&["policies.catalog.descriptor"]);
    let told = stage.ask(Ask::get("/catalog/books").key("gold"));
    stage.expect("status", 200, told.response.status);
    stage.expect("reason", "within_quota", told.reason());
    stage.expect("checks at the backend", 1, told.checks.len());
    let entry = told.checks.first().and_then(|check| check.entry("key"));
    stage.expect("the key that the backend saw", Some("gold"), entry);
    stage.expect("requests at the upstream", 1, told.seen.len());
}

fn denied(stage: &mut Stage<'_>) {
    let ask = Ask::get("/catalog/books").key("bronze");
    let two = stage.ask_times(&ask, 2);
    for told in &two {
        stage.expect("status within the quota", 200, told.response.status);
    }
    let third = stage.ask(ask.clone());
    stage.expect("status", 429, third.response.status);
    stage.expect("reason", "quota_exceeded", third.reason());
    let retry_after = third.response.header("retry-after");
    let seconds = retry_after
        .as_deref()
        .and_then(|text| text.parse::<u64>().ok());
    stage.expect_that(
        "retry-after of 1 to 60 seconds",
        seconds.is_some_and(|seconds| (1..=60).contains(&seconds)),
        retry_after,
    );
    let limit = third.response.header("ratelimit");
    stage.expect_that("a RateLimit header", limit.is_some(), limit);
    stage.expect("requests at the upstream", 0, third.seen.len());

    let fourth = stage.ask(ask);
    stage.expect("status of the fourth", 429, fourth.response.status);
    stage.expect("checks for the fourth", 0, fourth.checks.len());
}

fn rejected(stage: &mut Stage<'_>) {
    let told = stage.ask(Ask::get("/catalog/books").key("revoked"));
    stage.expect("status", 401, told.response.status);
    stage.expect("reason", "key_rejected", told.reason());
    stage.expect("requests at the upstream", 0, told.seen.len());
    let told = stage.ask(Ask::get("/catalog/books"));
    stage.expect("status without a key", 401, told.response.status);
    stage.expect("reason without a key", "descriptor_missing", told.reason());
    stage.expect("checks without a key", 0, told.checks.len());
}

fn slow(stage: &mut Stage<'_>) {
    stage.show_configuration(&[
        "policies.catalog.timeout",
        "policies.catalog.failure_mode",
        "policies.payments.failure_mode",
    ]);
    stage.now("the backend takes a second for each answer");
    stage.rig().backend().fail(Fault::Delay(SLOW));
    let open = stage.ask(Ask::get("/catalog/books").key("gold"));
    stage.expect("status, failing open", 200, open.response.status);
    stage.expect("reason, failing open", "failed_open", open.reason());
    stage.expect("cause, failing open", "timeout", open.cause());
    let closed = stage.ask(Ask::new("POST", "/payments").key("gold"));
    stage.expect("status, failing closed", 503, closed.response.status);
    stage.expect(
        "reason, failing closed",
        "quota_unavailable",
        closed.reason(),
    );
    stage.expect("cause, failing closed", "timeout", closed.cause());
    stage.expect("payments at the upstream", 0, closed.seen.len());
    for told in [open, closed] {
        let waited = told.millis();
        stage.expect_that(
            "an answer after 80 ms and long before the backend's",
            (75..900).contains(&waited),
            format!("{waited} ms"),
        );
    }
}

fn dead(stage: &mut Stage<'_>) {
    stage.show_configuration(&[
        "policies.catalog.failure_mode",
        "policies.payments.failure_mode",
        "policies.search.failure_mode",
        "policies.search.local_limit",
    ]);
    stage.now("the backend is dead");
    stage.rig().backend().fail(Fault::Refuse);
    let open = stage.ask(Ask::get("/catalog/books").key("gold"));
    stage.expect("status, failing open", 200, open.response.status);
    stage.expect("reason, failing open", "failed_open", open.reason());
    stage.expect("cause, failing open", "unreachable", open.cause());
    let closed = stage.ask(Ask::new("POST", "/payments").key("gold"));
    stage.expect("status, failing closed", 503, closed.response.status);
    stage.expect(
        "reason, failing closed",
        "quota_unavailable",
        closed.reason(),
    );
    stage.expect("payments at the upstream", 0, closed.seen.len());
    let local = stage.ask_times(&Ask::get("/search").key("gold"), 3);
    let reasons: Vec<&str> = local.iter().map(|told| told.reason()).collect();
    let expected = vec!["failed_local", "failed_local", "local_exceeded"];
    stage.expect(
        "reasons, falling back to the local limit",
        expected,
        reasons,
    );
    let statuses: Vec<u16> = local.iter().map(|told| told.response.status).collect();
    stage.expect("statuses with a local limit", vec![200, 200, 429], statuses);
}

fn grpc(stage: &mut Stage<'_>) {
    let call = || Ask::grpc("/payments.Payments/Charge");
    let told = stage.ask(call().key("bronze"));
    stage.expect(
        "grpc-status over the quota",
        Some(8),
        told.response.grpc_status(),
    );
    stage.now("the backend is dead");
    stage.rig().backend().fail(Fault::Refuse);
    let told = stage.ask(call().key("gold"));
    stage.expect(
        "grpc-status without an answer",
        Some(14),
        told.response.grpc_status(),
    );
}

fn cors(stage: &mut Stage<'_>) {
    const PAGE: &str = "https://shop.example";
    stage.show_configuration(&["policies.catalog.denial.cors"]);
    let preflight = Ask::new("OPTIONS", "/catalog/books")
        .header("origin", PAGE)
        .header("access-control-request-method", "GET");
    let told = stage.ask(preflight);
    stage.expect("reason of the preflight", "bypassed", told.reason());
    stage.expect("checks for the preflight", 0, told.checks.len());
    let told = stage.ask(
        Ask::get("/catalog/books")
            .key("bronze")
            .header("origin", PAGE),
    );
    stage.expect("status", 429, told.response.status);
    let origin = told.response.header("access-control-allow-origin");
    stage.expect("the origin that may read it", Some(PAGE), origin.as_deref());
}

fn breaker(stage: &mut Stage<'_>) {
    let backend = stage.rig().backend();
    let ask = Ask::get("/reports/monthly").key("gold");
    stage.show_configuration(&["backends.guarded.breaker", "policies.reports.failure_mode"]);
    stage.now("the backend takes a second for each answer");
    backend.fail(Fault::Delay(SLOW));
    let before = stage.ask_times(&ask, 3);
    for told in &before {
        stage.expect("cause before it opens", "timeout", told.cause());
    }
    stage.show_log("breaker closed -> open");
    let told = stage.ask(ask.clone());
    stage.expect("status while it is open", 503, told.response.status);
    stage.expect("cause while it is open", "breaker_open", told.cause());
    stage.expect("checks while it is open", 0, told.checks.len());
    let waited = told.millis();
    stage.expect_that("an answer at once", waited < 75, format!("{waited} ms"));
    let page = stage.show_status_page();
    stage.expect("status of the status page", 503, page.status);

    stage.now("the backend is well again, and requests go on coming");
    backend.recover();
    let mut denied = 0;
    let recovered = within(Duration::from_secs(5), || {
        let told = stage.send(&ask);
        denied += u32::from(told.response.status == 503);
        (told.response.status == 200).then_some(())
    });
    stage.show(
        "requests",
        &format!("{denied} more get 503 at once, then one is let through"),
    );
    stage.expect("allowed again", Some(()), recovered);
    stage.show_log("-> closed");
    let told = stage.ask(ask);
    stage.expect("reason after it has closed", "within_quota", told.reason());
    stage.expect("checks after it has closed", 1, told.checks.len());
}

fn lease(stage: &mut Stage<'_>) {
    const REQUESTS: u32 = 60;
    stage.show_configuration(&["policies.events.lease"]);
    stage.gap();
    let rig = stage.rig();
    let _earlier = rig.backend().take();
    let mut connection = rig.connect(Protocol::H1);
    let before = rig.envoy().access_log().len();
    let request = || -> Request { rig.request("POST", "/events").header("x-api-key", "gold") };
    let statuses =
        (0..REQUESTS).map(|_| connection.send(request()).map_or(0, |answer| answer.status));
    let allowed = statuses.filter(|status| *status == 200).count();
    stage.count(REQUESTS);
    let entries = eventually("all requests are in the access log", || {
        let entries = rig.envoy().access_log();
        let ours = entries.get(before..)?.to_vec();
        (ours.len() == REQUESTS as usize).then_some(ours)
    });
    let leased = entries
        .iter()
        .filter(|entry| entry.field("reason") == Some("leased"))
        .count();
    let checks = rig.backend().take();
    stage.show(
        "requests",
        &format!("{REQUESTS} x POST /events   x-api-key: gold"),
    );
    stage.show(
        "answers",
        &format!("{allowed} x 200, {leased} of them from the lease"),
    );
    let asked: Vec<String> = checks.iter().map(|check| check.cost.to_string()).collect();
    let asked = format!(
        "{} checks; units asked for: {}",
        checks.len(),
        asked.join(", ")
    );
    stage.show("backend", &asked);
    stage.expect("allowed", REQUESTS as usize, allowed);
    let few = checks.len() * 4 <= REQUESTS as usize;
    stage.expect_that("at most one check for four requests", few, checks.len());
}

fn shadow(stage: &mut Stage<'_>) {
    stage.show_configuration(&["policies.partners.enforcement"]);
    let told = stage.ask(Ask::get("/partners").key("bronze"));
    stage.expect("status", 200, told.response.status);
    stage.expect("reason", "shadow", told.reason());
    stage.expect("checks at the backend", 1, told.checks.len());
    stage.expect("requests at the upstream", 1, told.seen.len());
}

fn emergency(stage: &mut Stage<'_>) {
    let ask = Ask::new("POST", "/payments").key("gold");
    stage.now("the backend is dead");
    stage.rig().backend().fail(Fault::Refuse);
    let told = stage.ask(ask.clone());
    stage.expect("status before", 503, told.response.status);

    let end = now_seconds() + 3;
    let until = rfc3339(end);
    stage.now("a configuration with an emergency is pushed");
    let mut pushed = stage.configuration().clone();
    pushed["emergency"] = json!({"mode": "fail_open", "until": until, "reason": "INC-123"});
    stage.push(pushed);
    stage.show_configuration(&["emergency"]);
    stage.show_log("emergency fail_open");
    let told = stage.ask(ask.clone());
    stage.expect("status during the emergency", 200, told.response.status);
    stage.expect("reason during the emergency", "emergency", told.reason());

    stage.now("nothing is pushed; three seconds pass");
    let ended = within(Duration::from_secs(6), || {
        (now_seconds() >= end).then_some(())
    });
    stage.expect("the end of the emergency", Some(()), ended);
    stage.show_log("emergency is over");
    let told = stage.ask(ask);
    stage.expect("status afterwards", 503, told.response.status);
    stage.expect("reason afterwards", "quota_unavailable", told.reason());
}

fn sums(stage: &mut Stage<'_>) {
    let envoy = stage.rig().envoy();
    let sent = f64::from(stage.sent());
    let total = || envoy.metric("quota_gate_requests", &[]);
    #[allow(clippy::float_cmp)] // Counts are whole numbers, which f64 holds exactly.
    let counted = within(Duration::from_secs(3), || (total() == sent).then_some(()));
    let mut rows: Vec<String> = Vec::new();
    for sample in envoy.counters() {
        if sample.name == "quota_gate_requests" {
            let label = |name: &str| sample.labels.get(name).cloned().unwrap_or_default();
            rows.push(format!(
                "{:<9} {:<6} {:<19} {:>4}",
                label("policy"),
                label("decision"),
                label("reason"),
                sample.value
            ));
        }
    }
    rows.sort();
    rows.push(format!(
        "{:<36} {:>4}   of {sent} that were sent",
        "together",
        total()
    ));
    stage.gap();
    stage.show(
        "metric",
        "quota_gate_requests, by policy, decision and reason",
    );
    stage.show("", &rows.join("\n"));
    if counted.is_none() {
        stage.mistake(&format!(
            "requests counted: expected {sent}, got {}",
            total()
        ));
    }
}

fn now_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Seconds since 1970 as the configuration wants a time.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a day since 1970 (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let leaps = day_of_era / 1460 + day_of_era / 146_096 - day_of_era / 36_524;
    let year_of_era = (day_of_era - leaps) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_as_the_configuration_wants_it() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_801_432_800), "2027-01-31T22:00:00Z");
    }
}
