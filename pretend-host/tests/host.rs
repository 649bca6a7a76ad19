//! The pretend host does what was seen on real Envoys, shown with small guests written by hand.

use pretend_host::{
    Call, End, Ending, Fate, Headers, Host, MILLISECOND, Module, Options, Random, Request,
};

#[test]
fn a_callout_calls_back_on_the_root_and_the_stream_goes_on() {
    let module = Guest::new().module();
    let mut host = host(&module, |_: &Call| Ending::status(3 * MILLISECOND, 200));

    let stream = host.request(0, &Request::get("/").body(5));
    assert_eq!(host.held().count(), 1);
    host.run_for(10 * MILLISECOND);

    let ended = host.take_ended();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].id, stream);
    assert_eq!(ended[0].fate, Some(Fate::Upstream));
    assert_eq!(ended[0].held(), Some(3 * MILLISECOND));
    assert_eq!(host.complaints(), [""; 0]);
}

#[test]
fn a_callout_goes_on_when_its_client_leaves() {
    let module = Guest::new().module();
    let mut host = host(&module, |_: &Call| Ending::status(3 * MILLISECOND, 200));

    let stream = host.request(0, &Request::get("/"));
    host.disconnect(stream);
    assert_eq!(host.calls_in_flight(0), 1);
    host.run_for(10 * MILLISECOND);

    assert_eq!(host.take_ended()[0].fate, Some(Fate::Disconnected));
    assert_eq!(host.calls_in_flight(0), 0);
    assert_eq!(replies(&host), 1);
}

#[test]
fn a_trap_leaves_the_held_streams_hanging_and_fails_the_next() {
    let module = Guest {
        on_reply: "unreachable",
        ..Guest::new()
    }
    .module();
    let mut host = host(&module, |_: &Call| Ending::status(3 * MILLISECOND, 200));

    host.request(0, &Request::get("/"));
    host.run_for(1000 * MILLISECOND);
    host.request(0, &Request::get("/"));

    assert_eq!(host.held().count(), 1);
    assert_eq!(host.traps().len(), 1);
    assert_eq!(host.take_ended()[0].fate, Some(Fate::FailedVm));
}

#[test]
fn an_endless_loop_counts_as_a_trap() {
    let module = Guest {
        on_tick: "(loop $again (br $again))",
        ..Guest::new()
    }
    .module();
    let mut host = host(&module, |_: &Call| Ending::status(0, 200));

    host.run_for(20 * MILLISECOND);

    assert_eq!(
        host.traps().len(),
        2,
        "the worker's VM and the main thread's"
    );
}

#[test]
fn going_on_after_an_answer_is_told() {
    let module = Guest {
        on_reply: "(drop (call $effective (i32.load (i32.const 8))))
                   (drop (call $answer (i32.const 429) (i32.const 0) (i32.const 0) (i32.const 0)
                         (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1)))
                   (drop (call $continue (i32.const 0)))",
        ..Guest::new()
    }
    .module();
    let mut host = host(&module, |_: &Call| Ending::status(0, 200));

    host.request(0, &Request::get("/"));
    host.run_for(MILLISECOND);

    assert_eq!(
        host.complaints(),
        ["worker 0, stream 2: resumed after its end"]
    );
}

#[test]
fn refused_callouts_have_no_callback_and_unknown_clusters_neither() {
    let module = Guest::new().module();
    for end in [End::Refused, End::UnknownCluster] {
        let mut host = host(&module, move |_: &Call| Ending::new(0, end.clone()));

        host.request(0, &Request::get("/"));
        host.run_for(1000 * MILLISECOND);

        assert_eq!(replies(&host), 0);
        assert_eq!(
            host.take_ended()[0].fate,
            Some(Fate::Upstream),
            "the guest lets it pass"
        );
    }
}

#[test]
fn a_silent_backend_is_ended_by_the_timeout_and_a_timeout_of_0_never_ends() {
    let silent = |_: &Call| Ending::new(0, End::Silence);
    let module = Guest::new().module();
    let mut proxy = host(&module, silent);
    proxy.request(0, &Request::get("/"));
    proxy.run_for(49 * MILLISECOND);
    assert_eq!(replies(&proxy), 0);
    proxy.run_for(MILLISECOND);
    assert_eq!(replies(&proxy), 1);

    let module = Guest {
        timeout: 0,
        ..Guest::new()
    }
    .module();
    let mut proxy = host(&module, silent);
    proxy.request(0, &Request::get("/"));
    proxy.run_for(3_600_000 * MILLISECOND);
    assert_eq!(replies(&proxy), 0);
    assert_eq!(
        proxy.complaints().len(),
        1,
        "no timeout is worth a complaint"
    );
}

#[test]
fn what_the_host_makes_up_has_no_service_time_and_a_reset_no_headers() {
    let counts = |end: End| {
        // The guest traps unless there are as many headers as it was told.
        let module = |count: u32| {
            let on_reply =
                format!("(if (i32.ne (local.get 2) (i32.const {count})) (then unreachable))");
            Guest {
                on_reply: on_reply.leak(),
                ..Guest::new()
            }
            .module()
        };
        let fits = |count: &u32| {
            let module = module(*count);
            let end = end.clone();
            let mut host = host(&module, move |_: &Call| Ending::new(0, end.clone()));
            host.request(0, &Request::get("/"));
            host.run_for(MILLISECOND);
            host.traps().is_empty()
        };
        (0..9).find(fits)
    };
    let headers = Headers::new().with("a", "1").with("a", "2");

    assert_eq!(counts(End::Broken), Some(0));
    assert_eq!(counts(End::Host(503)), Some(3));
    assert_eq!(
        counts(End::Reply {
            status: 503,
            headers,
            body: Vec::new()
        }),
        Some(4)
    );
}

#[test]
fn a_tick_is_set_again_when_it_has_run() {
    let module = Guest::new().module();
    let options = Options {
        tick_late_max: 10 * MILLISECOND,
        ..Options::default()
    };
    let mut host = Host::new(&module, b"{}", options, |_: &Call| Ending::status(0, 200)).unwrap();

    host.run_for(1000 * MILLISECOND);

    let ticks = host.costs(0).0["proxy_on_tick"].count;
    assert!(
        (34..50).contains(&ticks),
        "late ticks put off the later ones: {ticks}"
    );
}

#[test]
fn a_replaced_root_lives_until_its_last_stream_ends() {
    let module = Guest::new().module();
    let mut host = host(&module, |_: &Call| Ending::status(30 * MILLISECOND, 200));

    host.request(0, &Request::get("/"));
    host.push(b"{ }", 0).unwrap();
    assert_eq!(host.roots(0), 2);
    host.push(b"{ }", 0).unwrap();
    assert_eq!(
        host.roots(0),
        2,
        "a configuration that is in force changes nothing"
    );
    host.run_for(100 * MILLISECOND);

    assert_eq!(host.roots(0), 1);
    assert_eq!(host.take_ended()[0].fate, Some(Fate::Upstream));
}

#[test]
fn a_wall_clock_that_jumps_moves_no_timer() {
    let module = Guest::new().module();
    let mut host = host(&module, |_: &Call| Ending::status(0, 200));
    let wall = host.wall();

    host.jump(-3_600_000_000_000);
    host.run_for(100 * MILLISECOND);

    assert_eq!(host.wall(), wall - 3_600_000_000_000 + 100 * MILLISECOND);
    assert_eq!(host.costs(0).0["proxy_on_tick"].count, 5);
}

#[test]
fn instructions_are_counted_one_by_one() {
    let module = Guest {
        on_tick: "(drop (i32.clz (i32.const 1)))",
        ..Guest::new()
    };
    let module = module.module();
    let shorter = Guest {
        on_tick: "(drop (i32.const 1))",
        ..Guest::new()
    }
    .module();
    let fuel = |module: &Module| {
        let mut host = host(module, |_: &Call| Ending::status(0, 200));
        host.run_for(20 * MILLISECOND);
        host.costs(0).0["proxy_on_tick"].fuel
    };

    assert_eq!(fuel(&module) - fuel(&shorter), 1);
}

#[test]
fn seeded_numbers_are_the_same_everywhere() {
    let mut random = Random::new(7);

    assert_eq!(
        [random.below(100), random.below(100), random.below(0)],
        [87, 4, 0]
    );
}

fn host<'m>(module: &'m Module, backend: impl FnMut(&Call) -> Ending + 'static) -> Host<'m> {
    Host::new(module, b"{}", Options::default(), backend).unwrap()
}

fn replies(host: &Host<'_>) -> u64 {
    let costs = host.costs(0);
    costs
        .0
        .get("proxy_on_http_call_response")
        .map_or(0, |tally| tally.count)
}

/// A guest that makes a callout for each request, pauses, and lets the stream go on when it ends.
#[derive(Clone, Copy)]
struct Guest {
    on_reply: &'static str,
    on_tick: &'static str,
    timeout: u32,
}

impl Guest {
    const fn new() -> Self {
        let on_reply = "(drop (call $effective (i32.load (i32.const 8))))
                        (drop (call $continue (i32.const 0)))";
        Self {
            on_reply,
            on_tick: "",
            timeout: 50,
        }
    }

    fn module(self) -> Module {
        let Self {
            on_reply,
            on_tick,
            timeout,
        } = self;
        let headers = [(":method", "POST"), (":path", "/"), (":authority", "a")];
        let mut pairs = vec![3, 0, 0, 0];
        for (name, value) in headers {
            pairs.extend([name.len() as u8, 0, 0, 0, value.len() as u8, 0, 0, 0]);
        }
        for (name, value) in headers {
            pairs.extend(format!("{name}\0{value}\0").bytes());
        }
        let size = pairs.len();
        let pairs: String = pairs.iter().map(|byte| format!("\\{byte:02x}")).collect();
        let text = format!(
            r#"(module
  (import "env" "proxy_http_call" (func $call
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_effective_context" (func $effective (param i32) (result i32)))
  (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
  (import "env" "proxy_set_tick_period_milliseconds" (func $every (param i32) (result i32)))
  (import "env" "proxy_send_local_response" (func $answer
    (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "quota")
  (data (i32.const 64) "{pairs}")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $every (i32.const 20)))
    (i32.const 1))
  (func (export "proxy_on_tick") (param i32) {on_tick})
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (i32.store (i32.const 8) (local.get 0))
    (i32.eqz (call $call (i32.const 16) (i32.const 5) (i32.const 64) (i32.const {size})
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const {timeout})
      (i32.const 12))))
  (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32) {on_reply})
)"#
        );
        Module::new(&wat::parse_str(text).unwrap()).unwrap()
    }
}
