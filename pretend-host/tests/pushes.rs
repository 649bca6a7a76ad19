//! Configurations that are pushed one after the other leave nothing behind: what each has counted
//! arrives, and what it held is free again.

use pretend_host::{Call, Ending, Host, MILLISECOND, Module, Options, Request};

#[test]
fn what_a_configuration_has_counted_arrives_with_the_push_that_replaces_it() {
    let module = Module::from_env("cargo xtask test pretend").unwrap();
    let mut host = host(&module);

    for number in 0..20 {
        host.request(0, &Request::get("/off"));
        host.push(config(number).as_bytes(), 0).unwrap();
        assert_eq!(counted(&host), number + 1);
    }
}

#[test]
fn what_replaced_configurations_leave_undecided_is_counted_within_a_fraction_of_a_second() {
    let module = Module::from_env("cargo xtask test pretend").unwrap();
    let mut host = host(&module);
    host.run_for(100 * MILLISECOND);

    for number in 0..20 {
        // Its client is gone, and with it the last reason to keep the configuration: nobody will
        // hear how its check ends.
        let id = host.request(0, &Request::get("/").header("x-key", "k"));
        host.disconnect(id);
        host.push(config(number).as_bytes(), 0).unwrap();
        host.run_for(MILLISECOND);
    }
    assert_eq!(counted(&host), 0);
    host.run_for(250 * MILLISECOND);

    assert_eq!(counted(&host), 20);
    assert_eq!(host.roots(0), 1);
    assert_eq!(host.traps(), [""; 0]);
    assert_eq!(host.complaints(), [""; 0]);
}

/// Whatever a configuration needs is free again when it is over, and what the host keeps for good
/// is the same for all of them.
#[test]
fn five_hundred_pushes_leave_no_more_behind_than_fifty() {
    let module = Module::from_env("cargo xtask test pretend").unwrap();
    for requests in [0, 20] {
        let mut host = host(&module);
        let mut push = |number: u64| {
            for key in 0..requests {
                let key = format!("{number}-{key}");
                host.request(0, &Request::get("/").header("x-key", key));
            }
            host.push(config(number).as_bytes(), 0).unwrap();
            host.run_for(1200 * MILLISECOND);
            host.take_ended();
            host.take_log();
            (host.memory(0), host.metrics_defined(0), host.roots(0))
        };

        let early: Vec<_> = (0..50).map(&mut push).collect();
        let late: Vec<_> = (50..500).map(&mut push).collect();

        let (early, early_counts) = last(&early);
        let (late, late_counts) = last(&late);
        assert_eq!(late_counts, early_counts, "{requests} requests each");
        // Blocks lie elsewhere each time; 150 bytes that a push left behind would be more.
        assert!(late <= early + PAGE, "{requests} requests each: {late}");
        assert!(host.metrics_defined(0) < 20);
        assert_eq!(host.traps(), [""; 0]);
    }
}

fn last(pushes: &[(usize, usize, usize)]) -> (usize, (usize, usize)) {
    let (memory, metrics, roots) = *pushes.last().unwrap();
    (memory, (metrics, roots))
}

fn counted(host: &Host<'_>) -> u64 {
    host.metrics().counters_sum("quota_gate.requests.")
}

fn host(module: &Module) -> Host<'_> {
    let backend = |_: &Call| Ending::status(10 * MILLISECOND, 200);
    Host::new(module, CONFIG.as_bytes(), Options::default(), backend).unwrap()
}

/// Another configuration, which differs from all others in a single number.
fn config(number: u64) -> String {
    let other = CONFIG.replace("\"1s\"", &format!("\"{}ms\"", 1001 + number));
    assert_ne!(other, CONFIG);
    other
}

/// What memory grows by.
const PAGE: usize = 65_536;

const CONFIG: &str = r#"{
  "backends": {"quota": {"cluster": "quota"}},
  "policies": {
    "gold": {
      "backend": "quota", "descriptor": [{"name": "key", "header": "x-key"}],
      "failure_mode": "fail_closed", "cache": {"allow_ttl": "60s"}
    }
  },
  "routes": [{"match": {"path_prefix": "/off"}, "policy": "off"}],
  "default_policy": "gold",
  "host_budget": "1s"
}"#;
