//! Each fault of the backend looks to Envoy as its name says.
//!
//! Seen through a plain route to the backend. Only answers that a backend really gave carry
//! `x-envoy-upstream-service-time`: that is how the filter tells them from Envoy's own.

use std::time::Duration;

use envoy_harness::{BACKEND, Cluster, Fault, Response, Rig, RigBuilder, Route};

/// What a client of Envoy gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Seen {
    /// This status, from the backend.
    Backend(u16),
    /// This status, from Envoy.
    Envoy(u16),
    /// A start of a response only.
    Broken,
}

fn plain() -> RigBuilder {
    Rig::builder()
        .without_filter()
        .route(Route::prefix("/").cluster(BACKEND))
}

/// The same, where some answers never come.
fn impatient() -> RigBuilder {
    let route = Route::prefix("/").cluster(BACKEND).timeout("1s");
    Rig::builder().without_filter().route(route)
}

fn ask(rig: &Rig) -> anyhow::Result<Response> {
    rig.request("POST", "/check")
        .header("x-quota-descriptor", "tenant=acme")
        .try_send()
}

fn seen(rig: &Rig) -> Seen {
    match ask(rig) {
        Ok(response) if response.header(BY_BACKEND).is_some() => Seen::Backend(response.status),
        Ok(response) => Seen::Envoy(response.status),
        Err(error) if format!("{error:#}").contains("broke off") => Seen::Broken,
        Err(error) => panic!("no response at all: {error:#}"),
    }
}

/// Sets each fault, looks, and then expects that the next check is answered as if nothing had been.
fn each(rig: &Rig, table: &[(Fault, Seen)]) {
    for (fault, expected) in table {
        rig.backend().fail(fault.clone());
        assert_eq!(seen(rig), *expected, "{fault:?}");
        rig.backend().recover();
        assert_eq!(seen(rig), Seen::Backend(200), "after {fault:?}");
        assert!(rig.envoy().alive());
    }
}

#[test]
fn faults_of_the_connection_over_http1() {
    let rig = impatient().start();
    each(
        &rig,
        &[
            (Fault::Refuse, Seen::Envoy(503)),
            (Fault::Hang, Seen::Envoy(504)),
            (Fault::CloseBeforeHeaders, Seen::Envoy(503)),
            (Fault::ResetBeforeHeaders, Seen::Envoy(503)),
            (Fault::ResetMidBody, Seen::Broken),
            (Fault::StallMidBody, Seen::Broken),
            (Fault::Garbage, Seen::Envoy(502)),
            (Fault::WrongHttpVersion, Seen::Envoy(502)),
            (Fault::Raw(b"HTTP/1.1 20".to_vec()), Seen::Envoy(502)),
        ],
    );
}

#[test]
fn faults_of_the_connection_over_http2() {
    let rig = impatient().backend_http2().start();
    each(
        &rig,
        &[
            (Fault::Refuse, Seen::Envoy(503)),
            (Fault::Hang, Seen::Envoy(504)),
            (Fault::CloseBeforeHeaders, Seen::Envoy(503)),
            (Fault::ResetBeforeHeaders, Seen::Envoy(503)),
            (Fault::ResetMidBody, Seen::Broken),
            (Fault::StallMidBody, Seen::Broken),
            (Fault::Garbage, Seen::Envoy(502)),
            (Fault::WrongHttpVersion, Seen::Envoy(502)),
            (Fault::Informational, Seen::Backend(200)),
            (Fault::Trailers, Seen::Backend(200)),
        ],
    );
    assert!(rig.backend().checks().iter().all(|check| check.h2));
}

#[test]
fn faults_of_the_answer() {
    let rig = plain().start();
    let canned = Fault::Answer(
        418,
        vec![("x-tea".to_owned(), "1".to_owned())],
        b"pot".to_vec(),
    );
    each(
        &rig,
        &[
            (Fault::Status(500), Seen::Backend(500)),
            (Fault::Status(503), Seen::Backend(503)),
            (Fault::Status(504), Seen::Backend(504)),
            (Fault::Status(429), Seen::Backend(429)),
            (Fault::Status(302), Seen::Backend(302)),
            (canned, Seen::Backend(418)),
            (Fault::TruncatedJson, Seen::Backend(200)),
            (Fault::WrongJson, Seen::Backend(200)),
            (Fault::Informational, Seen::Backend(200)),
            (Fault::DoubledHeaders, Seen::Backend(200)),
            (Fault::HeaderBytes(50_000), Seen::Backend(200)),
            (Fault::HeaderBytes(70_000), Seen::Backend(200)),
            (Fault::Headers(50), Seen::Backend(200)),
            (Fault::Headers(200), Seen::Envoy(502)),
            (Fault::Trailers, Seen::Backend(200)),
            (Fault::HugeBody, Seen::Backend(200)),
        ],
    );
}

#[test]
fn every_status_is_passed_on_as_the_backend_gave_it() {
    let rig = plain().start();
    for status in (200..=208)
        .chain(300..=308)
        .chain(400..=431)
        .chain(500..=511)
    {
        rig.backend().fail_next(1, Fault::Status(status));
        assert_eq!(seen(&rig), Seen::Backend(status));
    }
}

#[test]
fn a_delay_is_as_long_as_told() {
    let rig = plain().start();
    rig.backend().fail(Fault::Delay(Duration::from_millis(150)));

    let response = ask(&rig).expect("a response");

    response
        .expect_status(200)
        .expect_slower_than(Duration::from_millis(150));
}

#[test]
fn doubled_headers_trailers_and_huge_bodies_arrive_whole() {
    let rig = plain().backend_trailers().start();

    rig.backend().fail_next(1, Fault::DoubledHeaders);
    let doubled = ask(&rig).expect("a response");
    assert_eq!(doubled.header_values("retry-after"), ["1", "3600"]);

    rig.backend().fail_next(1, Fault::HugeBody);
    assert_eq!(ask(&rig).expect("a response").body.len(), 34_000_000);

    rig.backend().fail_next(1, Fault::Trailers);
    let with_trailers = rig
        .request("POST", "/check")
        .header("x-quota-cost", "1")
        .h2()
        .send();
    with_trailers.expect_status(200);
    assert_eq!(
        with_trailers.trailers,
        [("x-trailer".to_owned(), b"1".to_vec())]
    );
}

#[test]
fn a_dead_backend_keeps_its_port_and_comes_back_on_it() {
    let rig = plain().start();
    let address = rig.backend().address();
    for _ in 0..3 {
        rig.backend().fail(Fault::Refuse);
        assert_eq!(seen(&rig), Seen::Envoy(503));
        let refused = std::net::TcpStream::connect(address).expect_err("the port is closed");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        rig.backend().recover();
        assert_eq!(seen(&rig), Seen::Backend(200));
    }
    assert_eq!(rig.backend().address(), address);
}

#[test]
fn faults_can_be_for_some_checks_only() {
    let rig = plain().start();
    let backend = rig.backend();
    backend
        .fail(Fault::Status(500))
        .fail_next(1, Fault::Status(503));
    backend.fail_for("tenant=other", Fault::Status(599));

    assert_eq!(
        [seen(&rig), seen(&rig)],
        [Seen::Backend(503), Seen::Backend(500)]
    );
    let other = rig
        .request("POST", "/check")
        .header("x-quota-descriptor", "tenant=other");
    other.send().expect_status(599);
    backend.recover();
    assert_eq!(seen(&rig), Seen::Backend(200));
    backend.expect_checks(4);
}

#[test]
fn a_cluster_without_endpoints_or_with_bounds_answers_by_itself() {
    let rig = Rig::builder()
        .without_filter()
        .cluster(Cluster::new("nobody"))
        .cluster(Cluster::new("nowhere").dns("no-such.invalid", 80))
        .cluster(Cluster::new("full").at_most(0, 0).dns("localhost", 80))
        .route(Route::path("/nobody").cluster("nobody"))
        .route(Route::path("/nowhere").cluster("nowhere"))
        .route(Route::path("/full").cluster("full"))
        .start();

    for path in ["/nobody", "/nowhere", "/full"] {
        rig.get(path)
            .expect_status(503)
            .expect_no_header(BY_BACKEND);
    }
}

#[test]
fn two_backends_fail_one_by_one() {
    let rig = Rig::builder()
        .without_filter()
        .backend("other")
        .route(Route::path("/other").cluster("other"))
        .route(Route::prefix("/").cluster(BACKEND))
        .start();
    rig.backend_named("other").fail(Fault::Refuse);

    rig.get("/other").expect_status(503);
    rig.get("/").expect_status(200);
    rig.backend().expect_checks(1);
}

const BY_BACKEND: &str = "x-envoy-upstream-service-time";
