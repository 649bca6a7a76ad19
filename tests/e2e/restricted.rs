//! With the published capability restriction on (`cargo xtask test restricted`) all the other tests
//! pass, too; here: that it is on when it is asked for, and only then.

use envoy_harness::Rig;
use envoy_harness::capabilities::{capabilities, minor_version, placed, restriction};
use serde_json::json;

use crate::gated::{config, gated, start};

#[test]
fn envoy_is_restricted_when_the_tests_are_asked_to() {
    let asked = std::env::var("QUOTA_GATE_RESTRICT").is_ok_and(|asked| asked == "1");
    let rig = gated(&json!({}));

    let dump = rig.envoy().admin_get("/config_dump").text();

    assert_eq!(dump.contains("allowed_capabilities"), asked);
    let request = rig.request("GET", "/").header("x-tenant-id", "a");
    request.send().expect_status(200);
}

/// A list from before the module added headers still tells the upstream, and lets nobody forge it.
#[test]
fn a_host_that_lets_no_header_be_added_has_it_replaced() {
    let mut allowed = capabilities();
    allowed.retain(|name| *name != "proxy_add_header_map_value");
    let envoy = envoy_harness::binary().expect("an Envoy");
    let minor = minor_version(&envoy).expect("its version");
    let only = placed(&restriction(&allowed), minor);
    let rig = start(Rig::builder().plugin(config(&json!({}))).wasm(&only));

    let ask = || rig.request("GET", "/").header("x-tenant-id", "a");
    ask().send().expect_status(200);
    let forged = ask().header("x-quota-decision", "allow; reason=forged");
    forged.send().expect_status(200);

    let told = ["allow; reason=within_quota"];
    assert_eq!(rig.told_upstream(), [told, told]);
}
