//! With the published capability restriction on (`cargo xtask test restricted`) all the other tests
//! pass, too; here: that it is on when it is asked for, and only then.

use serde_json::json;

use crate::gated::gated;

#[test]
fn envoy_is_restricted_when_the_tests_are_asked_to() {
    let asked = std::env::var("QUOTA_GATE_RESTRICT").is_ok_and(|asked| asked == "1");
    let rig = gated(&json!({}));

    let dump = rig.envoy().admin_get("/config_dump").text();

    assert_eq!(dump.contains("allowed_capabilities"), asked);
    let request = rig.request("GET", "/").header("x-tenant-id", "a");
    request.send().expect_status(200);
}
