//! Configurations that are pushed one after the other leave nothing behind: what each has counted
//! arrives, and what it held is free again.

use pretend_host::{Call, Ending, Host, MILLISECOND, Module, Options, Request};

#[test]
fn what_replaced_configurations_counted_last_arrives_within_a_second() {
    let module = Module::from_env("cargo xtask test pretend").unwrap();
    let mut host = host(&module);
    host.run_for(100 * MILLISECOND);

    for number in 0..20 {
        // Decided at once, and the configuration is replaced before it ticks again.
        host.request(0, &Request::get("/off"));
        host.push(config(number).as_bytes(), 0).unwrap();
        host.run_for(5 * MILLISECOND);
    }
    let counted = |host: &Host<'_>| host.metrics().counters_sum("quota_gate.requests.");
    assert!(counted(&host) < 20, "nothing was left to wait for");
    host.run_for(1100 * MILLISECOND);

    assert_eq!(counted(&host), 20);
    assert_eq!(host.roots(0), 1);
    assert_eq!(host.traps(), [""; 0]);
    assert_eq!(host.complaints(), [""; 0]);
}

fn host(module: &Module) -> Host<'_> {
    let backend = |_: &Call| Ending::status(2 * MILLISECOND, 200);
    Host::new(module, CONFIG.as_bytes(), Options::default(), backend).unwrap()
}

/// Another configuration, which differs from all others in a single number.
fn config(number: u64) -> String {
    let other = CONFIG.replace("\"1s\"", &format!("\"{}ms\"", 1001 + number));
    assert_ne!(other, CONFIG);
    other
}

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
