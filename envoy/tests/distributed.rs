//! Two Envoys with the filter, two quota backends as processes of their own, one Redis: the limit
//! is one, and what is lost when a part of it dies is no more than what was on its way.
#![cfg(feature = "redis")]

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use envoy_harness::eventually::eventually;
use envoy_harness::{BACKEND, Cluster, Port, Program, Protocol, Redis, Request, Response, Rig};
use serde_json::{Value, json};

/// A quota backend, on a port that it gets again when it is started again.
struct Backend {
    port: Port,
    redis: String,
    limit: u64,
}

impl Backend {
    #[track_caller]
    fn start(&self) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quota-backend"));
        command
            .args([&self.port.address().to_string(), &self.redis, "tenant=hot"])
            // A window that no test sees the end of.
            .args([&self.limit.to_string(), "3600"]);
        let program = Program::start(command).expect("the backend starts");
        program.expect_listening(self.port.address());
        program
    }
}

/// All of it.
struct World {
    envoys: [Rig; 2],
    backends: [(Backend, Program); 2],
    redis: Redis,
}

/// `closed` is the policy of everything but `/open`, which fails open.
fn config(fields: &Value, breaker: &Value) -> Value {
    let policy = |failure_mode: &str| {
        let mut policy = json!({
            "backend": "quota",
            "descriptor": [{"name": "tenant", "header": "x-tenant-id"}],
            "failure_mode": failure_mode,
            "timeout": "5s",
            "cache": {"deny_ttl": "0s"},
        });
        let extra = fields.as_object().cloned().unwrap_or_default();
        policy.as_object_mut().expect("an object").extend(extra);
        policy
    };
    json!({
        "backends": {"quota": {"cluster": BACKEND, "breaker": breaker}},
        "policies": {"closed": policy("fail_closed"), "open": policy("fail_open")},
        "routes": [{"match": {"path_prefix": "/open"}, "policy": "open"}],
        "default_policy": "closed",
        "host_budget": "30s",
    })
}

impl World {
    #[track_caller]
    fn start(limit: u64, config: &Value) -> Self {
        let redis = Redis::start().unwrap_or_else(|error| panic!("{error:#}"));
        let backends = [(); 2].map(|()| {
            let backend = Backend {
                port: Port::free().expect("a port"),
                redis: redis.url(),
                limit,
            };
            let program = backend.start();
            (backend, program)
        });
        let cluster = backends
            .iter()
            .fold(Cluster::new(BACKEND), |cluster, (backend, _)| {
                cluster.endpoint(backend.port.address())
            });
        let envoys = [(); 2].map(|()| {
            let builder = Rig::builder().concurrency(2).plugin(config.clone());
            builder.cluster(cluster.clone()).start()
        });
        Self {
            envoys,
            backends,
            redis,
        }
    }

    /// A metric of the filter, summed over both Envoys.
    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let envoys = self.envoys.iter();
        envoys
            .map(|rig| rig.envoy().metric(name, labels) as u64)
            .sum()
    }

    /// Requests with that reason.
    fn decided(&self, reason: &str) -> u64 {
        self.metric("quota_gate_requests", &[("reason", reason)])
    }

    fn failures(&self, cause: &str) -> u64 {
        self.metric("quota_gate_failures", &[("cause", cause)])
    }

    fn leases(&self, event: &str) -> u64 {
        self.metric("quota_gate_leases", &[("event", event)])
    }

    /// One request to the Envoy of that number.
    #[track_caller]
    fn get(&self, envoy: usize, path: &str) -> Response {
        let request = self.envoys[envoy].request("GET", path);
        request.header("x-tenant-id", "hot").send()
    }

    /// `CLIENTS` clients at the same time, half of them at each Envoy, send `count` requests each.
    fn load(&self, told: &Told, count: u32) {
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                scope.spawn(move || self.send(client % 2, told, count));
            }
        });
    }

    /// Sends `count` requests to the Envoy of that number, every fourth to `/open`.
    fn send(&self, envoy: usize, told: &Told, count: u32) {
        let mut connection = self.envoys[envoy].connect(Protocol::H1);
        for number in 0..count {
            let path = if number % 4 == 3 { "/open" } else { "/" };
            let request = connection.request("GET", path);
            let response = connection.send(request.header("x-tenant-id", "hot"));
            told.take(path, response.expect("a response").status);
        }
    }

    /// Expects that what clients were told is what the filter counted, and returns how many passed.
    #[track_caller]
    fn expect_told(&self, told: &Told) -> u64 {
        let [passed, denied, unavailable] = [&told.passed, &told.denied, &told.unavailable]
            .map(|count| u64::from(count.load(Ordering::Relaxed)));
        let upstream: usize = self
            .envoys
            .iter()
            .map(|rig| rig.upstream().seen().len())
            .sum();
        assert_eq!(upstream as u64, passed);
        eventually("the metrics say the same", || {
            let allowed =
                ["within_quota", "leased", "failed_open"].map(|reason| self.decided(reason));
            let same = allowed.iter().sum::<u64>() == passed
                && self.decided("quota_exceeded") == denied
                && self.decided("quota_unavailable") == unavailable;
            same.then_some(())
        });
        passed
    }

    /// Expects that both Envoys asked both backends.
    #[track_caller]
    fn expect_shared(&self) {
        for rig in &self.envoys {
            let clusters = rig.envoy().admin_get("/clusters").text();
            for (backend, _) in &self.backends {
                let endpoint = format!("{BACKEND}::{}::rq_total::", backend.port.address());
                let line = clusters
                    .lines()
                    .find_map(|line| line.strip_prefix(&endpoint));
                let asked: u64 = line.and_then(|count| count.parse().ok()).unwrap_or(0);
                assert!(asked > 0, "{endpoint}{asked}");
            }
        }
    }
}

/// What came of a load.
#[derive(Debug, Default)]
struct Told {
    passed: AtomicU32,
    denied: AtomicU32,
    unavailable: AtomicU32,
}

impl Told {
    fn take(&self, path: &str, status: u16) {
        let count = match (path, status) {
            (_, 200) => &self.passed,
            (_, 429) => &self.denied,
            ("/", 503) => &self.unavailable,
            other => panic!("{other:?}"),
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until so many were answered.
    fn wait_for(&self, count: u32) {
        eventually("enough answers", || {
            let all = [&self.passed, &self.denied, &self.unavailable];
            let sum: u32 = all.iter().map(|count| count.load(Ordering::Relaxed)).sum();
            (sum >= count).then_some(())
        });
    }
}

/// Lasts longer than a load does on a busy machine: what expires on the way is not counted here.
fn lease() -> Value {
    json!({"lease": {"max_units": MAX_UNITS, "ttl": "5s"}})
}

#[test]
fn with_checks_the_limit_that_all_share_is_given_out_to_the_last_unit_and_no_further() {
    let world = World::start(900, &config(&json!({}), &json!("off")));
    let told = Told::default();

    world.load(&told, 150);

    assert_eq!(world.expect_told(&told), 900);
    assert_eq!(world.redis.used(), 900);
    assert_eq!(world.decided("within_quota"), 900);
    world.expect_shared();
    world.get(0, "/").expect_status(429);
    world.get(1, "/").expect_status(429);
}

#[test]
fn with_leases_no_more_passes_than_was_charged_and_what_was_not_spent_is_accounted_for() {
    let world = World::start(2000, &config(&lease(), &json!("off")));
    let told = Told::default();

    world.load(&told, 400);

    let passed = world.expect_told(&told);
    let used = world.redis.used();
    assert!(
        passed <= used && used <= 2000,
        "{passed} passed, {used} used"
    );
    assert!(world.decided("leased") > 0, "nothing was leased");
    eventually(
        "what was charged and did not pass is what leases were left with",
        || {
            let left = world.leases("granted_units") - world.leases("spent_units");
            (used - passed == left).then_some(())
        },
    );
    // Each worker's key is left with one lease at most when the limit is reached.
    assert!(
        used - passed <= WORKERS * MAX_UNITS,
        "{used} used, {passed} passed"
    );
    world.expect_shared();
}

/// Kills one of two backends under load and starts it again; returns what passed.
fn with_a_backend_killed(world: &mut World) -> u64 {
    let told = Told::default();
    let all = 300 * CLIENTS as u32;
    std::thread::scope(|scope| {
        let (told, world) = (&told, &*world);
        let load = scope.spawn(move || world.load(told, 300));
        told.wait_for(all / 4);
        world.backends[0].1.kill();
        told.wait_for(all / 2);
        let back = world.backends[0].0.start();
        load.join().expect("the load ends");
        // It is asked again, and nothing fails any more.
        for number in 0..40 {
            let response = world.get(number % 2, "/");
            told.take("/", response.expect_status(200).status);
        }
        assert!(back.alive());
    });
    world.expect_told(&told)
}

#[test]
fn a_backend_that_is_killed_under_load_loses_no_more_than_the_checks_on_their_way() {
    let mut world = World::start(1_000_000, &config(&json!({}), &json!("off")));

    with_a_backend_killed(&mut world);

    let (closed, open) = (
        world.decided("quota_unavailable"),
        world.decided("failed_open"),
    );
    assert!(
        closed > 0 && open > 0,
        "{closed} failed closed, {open} open"
    );
    eventually("each because the dead one could not be reached", || {
        (closed + open == world.failures("unreachable")).then_some(())
    });
    assert_eq!(world.decided("quota_exceeded"), 0);
    // What Redis counts and nobody was told: charged by the dead one, the answer on its way.
    let (used, passed) = (world.redis.used(), world.decided("within_quota"));
    let within = (passed..=passed + CLIENTS as u64).contains(&used);
    assert!(within, "{used} units used, {passed} passed");
}

#[test]
fn with_leases_a_killed_backend_costs_what_the_leases_on_their_way_hold() {
    let mut world = World::start(1_000_000, &config(&lease(), &json!("off")));

    with_a_backend_killed(&mut world);

    let granted = world.decided("within_quota") + world.decided("leased");
    let used = world.redis.used();
    let left = world.leases("granted_units") - world.leases("spent_units");
    // One batch for each worker's call without an answer, and a unit for each plain check.
    let lost = used - granted - left;
    let bound = WORKERS * MAX_UNITS + CLIENTS as u64;
    assert!(
        lost <= bound,
        "{lost} units lost, {left} left, {used} used, {granted} granted"
    );
}

#[test]
fn without_redis_the_failure_modes_and_the_breaker_take_over_until_it_is_back() {
    let breaker = json!({"consecutive_failures": 5, "open_for": "1s", "open_for_max": "1s"});
    let mut world = World::start(1_000_000, &config(&json!({}), &breaker));
    let gauge = |world: &World, state: u32| {
        for rig in &world.envoys {
            rig.envoy()
                .expect_metric("quota_gate_breaker_state", &[("backend", "quota")], state);
        }
    };
    for number in 0..8 {
        world.get(number % 2, "/").expect_status(200);
    }
    assert_eq!(world.redis.used(), 8);

    world.redis.program().kill();
    for number in 0..5 {
        for envoy in 0..2 {
            let (path, status) = if number % 2 == 0 {
                ("/", 503)
            } else {
                ("/open", 200)
            };
            world.get(envoy, path).expect_status(status);
        }
    }
    gauge(&world, 2);
    // The backends are well enough to say so: it is their status that counts.
    eventually("ten failures by status", || {
        (world.failures("status") == 10).then_some(())
    });
    assert_eq!(world.failures("unreachable") + world.failures("timeout"), 0);
    eventually("with the breaker open nobody is asked", || {
        let response = world.get(0, "/");
        response
            .expect_status(503)
            .expect_json("/code", "quota_unavailable");
        world.get(0, "/open").expect_status(200);
        (world.failures("breaker_open") > 0).then_some(())
    });

    world.redis.restart().expect("Redis starts again");
    let before = world.decided("within_quota");
    for envoy in 0..2 {
        eventually("a trial call finds it well again", || {
            (world.get(envoy, "/").status == 200).then_some(())
        });
    }
    gauge(&world, 0);
    // A worker learns of it with its next tick.
    eventually("every worker asks again", || {
        let all = (0..20).all(|number| world.get(number % 2, "/").status == 200);
        all.then_some(())
    });
    // Its books were lost with it; since then they are what was admitted.
    eventually("the books are what passed", || {
        (world.redis.used() == world.decided("within_quota") - before).then_some(())
    });
    assert!(world.decided("within_quota") >= 22 + before);
}

#[test]
fn a_redis_that_hangs_costs_the_backends_time_and_then_a_failure() {
    let world = World::start(1_000_000, &config(&json!({}), &json!("off")));
    for number in 0..8 {
        world.get(number % 2, "/").expect_status(200);
    }

    world.redis.program().freeze();
    // The backend gives up on it before the filter gives up on the backend.
    world
        .get(0, "/")
        .expect_status(503)
        .expect_json("/code", "quota_unavailable")
        .expect_slower_than(Duration::from_millis(200))
        .expect_faster_than(Duration::from_secs(4));
    world.get(1, "/open").expect_status(200);
    eventually("both by status", || {
        (world.failures("status") == 2).then_some(())
    });
    world.redis.program().thaw();
    eventually("it is asked again", || {
        (world.get(0, "/").status == 200).then_some(())
    });

    // What it was told while it hung it does when it wakes: charged, and never passed.
    eventually("the books are what passed, and two units at most", || {
        let passed = world.decided("within_quota");
        (passed..=passed + 2)
            .contains(&world.redis.used())
            .then_some(())
    });
}

/// One backend in each of its languages, without Envoy.
#[test]
fn in_each_language_a_backend_counts_on_redis_and_says_when_it_has_lost_it() {
    let redis = Redis::start().unwrap_or_else(|error| panic!("{error:#}"));
    let backend = Backend {
        port: Port::free().expect("a port"),
        redis: redis.url(),
        limit: 5,
    };
    let _program = backend.start();
    let post = |path: &str| Request::new(backend.port.address(), "POST", path);
    let json = |path: &str, body: &Value| {
        let request = post(path).header("content-type", "application/json");
        request.body(body.to_string()).send().status
    };
    let limitador = |path: &str, delta: u32| {
        let values = json!({"tenant": "hot"});
        let body = json!({"namespace": "quota-gate", "values": values, "delta": delta});
        json(path, &body)
    };
    let ratelimit = |units: u32| {
        let entries = json!([{"key": "tenant", "value": "hot"}]);
        let descriptors = json!([{"entries": entries}]);
        json(
            "/json",
            &json!({"domain": "quota-gate", "descriptors": descriptors,
            "hitsAddend": units}),
        )
    };
    let lease = |least: &str| {
        let request = post("/check").header("x-quota-descriptor", "tenant=hot");
        let request = request.header("x-quota-cost", "9");
        request.header("x-quota-cost-min", least).send()
    };

    assert_eq!((limitador("/check_and_report", 2), redis.used()), (200, 2));
    assert_eq!((ratelimit(1), redis.used()), (200, 3));
    assert_eq!((ratelimit(3), redis.used()), (429, 3));
    assert_eq!((limitador("/check", 2), limitador("/check", 3)), (200, 429));
    lease("3").expect_status(429);
    lease("1")
        .expect_status(200)
        .expect_header("x-quota-granted", "2");
    assert_eq!((limitador("/report", 4), redis.used()), (200, 9));
    lease("1").expect_status(429);

    redis.program().kill();
    assert_eq!(limitador("/check_and_report", 1), 500);
    assert_eq!(
        (limitador("/check", 1), limitador("/report", 1)),
        (500, 500)
    );
    assert_eq!(ratelimit(1), 400);
    lease("1").expect_status(500);
}

const CLIENTS: usize = 8;

/// Of both Envoys.
const WORKERS: u64 = 4;

const MAX_UNITS: u64 = 40;
