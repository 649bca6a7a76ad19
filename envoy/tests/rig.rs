//! A rig starts, shows what went through it, and leaves nothing behind.

use std::time::Duration;

use envoy_harness::eventually::eventually;
use envoy_harness::{
    Backend, Cluster, Endpoints, Envoy, Protocol, Request, Rig, Route, digest, jwt, llm, send_all,
    validate,
};
use serde_json::json;

#[test]
fn a_request_goes_through_envoy_to_the_upstream_and_back() {
    let rig = Rig::builder()
        .without_filter()
        .route(Route::prefix("/v1").name("v1"))
        .start();

    let response = rig
        .request("POST", "/v1/items?n=1")
        .header("x-k", b"\xff")
        .body("hello")
        .send();

    response
        .expect_status(200)
        .expect_header("x-upstream", "echo")
        .expect_json("/body_len", 5);
    let seen = rig.upstream().expect_requests(1).remove(0);
    assert_eq!(
        (seen.method.as_str(), seen.path.as_str()),
        ("POST", "/v1/items?n=1")
    );
    assert_eq!((seen.body_len, seen.body_digest), (5, digest(b"hello")));
    assert!(seen.headers.contains(&("x-k".to_owned(), vec![0xff])));
    let entry = rig.envoy().expect_access_log(1).remove(0);
    assert_eq!((entry.status, entry.route.as_str()), (200, "v1"));
    assert_eq!(
        (entry.details.as_str(), entry.state.as_str()),
        ("via_upstream", "")
    );
    assert_eq!(
        (entry.protocol.as_str(), entry.path.as_str()),
        ("HTTP/1.1", "/v1/items?n=1")
    );
}

#[test]
fn http2_and_grpc_go_through_with_trailers() {
    let rig = Rig::builder().without_filter().start();

    rig.request("GET", "/").h2().send().expect_status(200);
    rig.grpc("/pkg.Service/Method")
        .send()
        .expect_status(200)
        .expect_grpc_status(0);

    let log = rig.envoy().expect_access_log(2);
    assert_eq!(
        (log[0].protocol.as_str(), log[1].grpc_status),
        ("HTTP/2", Some(0))
    );
}

#[test]
fn the_plain_listener_and_a_kept_connection_work() {
    let rig = Rig::builder().without_filter().concurrency(2).start();

    rig.plain("GET", "/x").send().expect_status(200);
    let mut connection = rig.connect(Protocol::H1);
    for _ in 0..3 {
        let request = connection.request("GET", "/");
        connection
            .send(request)
            .expect("a response")
            .expect_status(200);
    }
    let responses = send_all((0..20).map(|_| rig.request("GET", "/")));

    assert!(responses.iter().all(|response| response.status == 200));
    rig.envoy().expect_metric(
        "envoy_http_downstream_rq_total",
        &[("envoy_http_conn_manager_prefix", "gated")],
        23,
    );
    assert!(rig.envoy().memory_bytes() > 10_000_000);
    assert!(rig.envoy().cpu_time() > Duration::ZERO);
}

#[test]
fn answers_are_held_open_until_they_are_released() {
    let rig = Rig::builder().without_filter().start();
    rig.upstream().hold();
    let clients = rig.crowd(2);
    let ask = |place: usize| {
        let request = rig.request("POST", llm::PATH).h2();
        request.body(llm::request(3, 5, place.is_multiple_of(2)))
    };

    let pending = clients.start((0..6).map(ask));
    let open = || rig.upstream().open_answers();
    eventually("six are open", || (open() == 6).then_some(()));
    rig.upstream().release(2);
    eventually("two have ended", || (open() == 4).then_some(()));
    eventually("their clients have them", || {
        let done = pending.iter().filter(|pending| pending.is_done());
        (done.count() == 2).then_some(())
    });
    rig.upstream().release(usize::MAX);

    for (place, pending) in pending.into_iter().enumerate() {
        let response = pending.wait();
        let streamed = response.text().ends_with("data: [DONE]\n\n");
        assert_eq!((response.status, streamed), (200, place.is_multiple_of(2)));
    }
    assert_eq!((open(), rig.upstream().most_open_answers()), (0, 6));
}

#[test]
fn websockets_and_connect_are_tunnelled() {
    let rig = Rig::builder().without_filter().start();

    let mut socket = rig.raw();
    socket
        .write("GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    assert_eq!(socket.read_head().status, 101);
    socket.write("ping");
    assert_eq!(socket.read(4), b"ping");

    let mut tunnel = rig.raw();
    tunnel.write("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n");
    assert_eq!(tunnel.read_head().status, 200);
    tunnel.write("pong");
    assert_eq!(tunnel.read(4), b"pong");
    assert_eq!(rig.upstream().expect_requests(2)[1].method, "CONNECT");
}

#[test]
fn a_thousand_headers_and_huge_ones_reach_the_upstream() {
    let rig = Rig::builder().without_filter().start();

    let many = (0..1000).fold(rig.request("GET", "/"), |request, number| {
        request.header(&format!("x-{number}"), "1")
    });
    many.send().expect_status(200);
    rig.request("GET", "/")
        .header("x-long", "v".repeat(60_000))
        .send()
        .expect_status(200);

    let seen = rig.upstream().expect_requests(2);
    assert!(seen[0].headers.len() > 1000);
    assert_eq!(seen[1].header_values("x-long")[0].len(), 60_000);
}

#[test]
fn a_client_that_leaves_is_seen_by_envoy() {
    let rig = Rig::builder().without_filter().start();
    rig.upstream().respond_after(Duration::from_secs(60));

    let pending = rig.request("GET", "/").start();
    rig.upstream().expect_requests(1);
    pending.abandon();

    let entry = rig.envoy().expect_access_log(1).remove(0);
    assert_eq!(
        (entry.status, entry.details.as_str()),
        (0, "downstream_remote_disconnect")
    );
}

#[test]
fn an_upload_in_progress_stays_open() {
    let rig = Rig::builder()
        .without_filter()
        .route(Route::path("/no").direct(403, "no"))
        .start();

    let pending = rig.request("POST", "/").unfinished_body("part").start();
    let arrived = || {
        rig.upstream()
            .seen()
            .first()
            .filter(|seen| seen.body_len == 4)
            .cloned()
    };
    assert!(!eventually("the first part is at the upstream", arrived).complete);
    assert!(!pending.is_done());

    rig.request("POST", "/no")
        .unfinished_body("part")
        .send()
        .expect_status(403);
}

#[test]
fn a_client_that_expects_100_continue_gets_it_and_may_send_trailers() {
    let rig = Rig::builder().without_filter().start();

    let mut client = rig.raw();
    client.write("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n");
    assert_eq!(client.read_response().status, 100);
    client.write("ok");
    client
        .read_response()
        .expect_status(200)
        .expect_json("/body_len", 2);
    rig.request("POST", "/")
        .body("ok")
        .trailer("x-sum", "1")
        .send()
        .expect_status(200);

    let seen = rig.upstream().expect_requests(2);
    assert_eq!(seen[1].trailers, [("x-sum".to_owned(), b"1".to_vec())]);
}

#[test]
fn a_half_closed_client_has_left_as_far_as_envoy_is_concerned() {
    let rig = Rig::builder().without_filter().start();
    rig.upstream().respond_after(Duration::from_secs(60));

    let mut client = rig.raw();
    client.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    rig.upstream().expect_requests(1);
    client.half_close();

    assert_eq!(client.read_to_end(), b"");
    assert_eq!(
        rig.envoy().expect_access_log(1)[0].details,
        "downstream_remote_disconnect"
    );
}

#[test]
fn a_configuration_that_envoy_refuses_is_told_with_its_log() {
    let bad = json!({"stream_idle_timeout": "soon"});

    let validation = Rig::builder().without_filter().hcm(&bad).validate();
    assert!(!validation.accepted);
    assert!(
        validation.log.contains("stream_idle_timeout"),
        "{}",
        validation.log
    );

    let error = Rig::builder()
        .without_filter()
        .hcm(&bad)
        .try_start()
        .err()
        .expect("refused");
    assert!(
        format!("{error:#}").contains("stream_idle_timeout"),
        "{error:#}"
    );
    assert!(Rig::builder().without_filter().validate().accepted);
}

#[test]
fn nothing_of_a_rig_is_left_when_it_is_dropped() {
    let rig = Rig::builder().without_filter().start();
    let process = format!("/proc/{}", rig.envoy().pid());
    assert!(rig.envoy().alive());
    assert!(std::fs::exists(&process).expect("/proc can be read"));

    drop(rig);

    assert!(!std::fs::exists(&process).expect("/proc can be read"));
}

#[test]
fn envoy_dies_with_a_test_process_that_is_killed() {
    if let Some(file) = std::env::var_os("RIG_PID_FILE") {
        let rig = Rig::builder().without_filter().start();
        std::fs::write(file, rig.envoy().pid().to_string()).expect("the file is written");
        // Until the other side kills this process.
        let _ = rig.upstream().expect_requests(1);
        unreachable!("nobody sends a request");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pid");
    let mut other = std::process::Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "envoy_dies_with_a_test_process_that_is_killed"])
        .env("RIG_PID_FILE", &file)
        .env("TMPDIR", folder.path())
        .spawn()
        .expect("the test runs once more");
    let pid = eventually("the other side's Envoy runs", || {
        std::fs::read_to_string(&file).ok()?.parse::<u32>().ok()
    });

    other.kill().expect("it can be killed");
    other.wait().expect("it can be reaped");

    eventually("its Envoy is gone", || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        // A zombie that its new parent has not reaped yet is dead, too.
        state
            .map_or(true, |state| state.contains(") Z "))
            .then_some(())
    });
}

#[test]
fn any_bootstrap_can_be_judged_and_started() {
    let rig = Rig::builder().without_filter().start();
    let bootstrap = rig.bootstrap();

    assert!(validate(bootstrap).expect("Envoy is there").accepted);
    assert!(!validate("admin: 1").expect("Envoy is there").accepted);
    let second = Envoy::start(bootstrap, 1).expect("it starts");

    assert_ne!(second.listener("gated"), rig.address());
    let request = Request::new(second.listener("gated"), "GET", "/");
    request.send().expect_status(200);
    rig.upstream().expect_requests(1);
}

#[test]
fn envoy_checks_tokens_before_the_filter() {
    let rig = Rig::builder()
        .without_filter()
        .filter_before(jwt::filter())
        .start();
    let bearer = |token: &str| {
        let value = format!("Bearer {token}");
        rig.request("GET", "/")
            .header("authorization", value)
            .send()
    };

    let token = jwt::token(&json!({"sub": "alice", "org": {"id": 7}, "nothing": null}));
    bearer(&token).expect_status(200);
    bearer(&format!("{token}x")).expect_status(401);
    rig.get("/").expect_status(200);
}

#[test]
fn endpoints_come_and_go_while_envoy_runs() {
    let (backend, cluster) = (Backend::start().expect("a backend"), "moving");
    let endpoints = Endpoints::new(cluster, &[]).expect("a file");
    let rig = Rig::builder()
        .without_filter()
        .cluster(Cluster::new(cluster).endpoints_from(&endpoints))
        .route(Route::prefix("/any").cluster(cluster))
        .start();
    let answers = |status: u16| {
        let status_is = || (rig.get("/any").status == status).then_some(());
        eventually(&format!("/any answers {status}"), status_is);
    };
    answers(503);

    endpoints.set(&[backend.address()]).expect("a file");
    answers(200);

    endpoints.set(&[]).expect("a file");
    answers(503);
}
