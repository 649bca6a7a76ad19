//! What Envoy may be restricted to: the functions that the module imports and the callbacks that it
//! exports, and nothing else.
//!
//! With `QUOTA_GATE_RESTRICT` set every rig that loads the module is restricted like this.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

/// The capabilities that the module needs, sorted: callbacks first, then functions.
#[must_use]
pub fn capabilities() -> Vec<&'static str> {
    let lines = |kind: &'static str| INTERFACE.lines().filter_map(move |l| l.strip_prefix(kind));
    let callbacks = lines("export ").filter(|name| name.starts_with("proxy_on_"));
    // The host calls this one for memory, whatever the restriction.
    let callbacks = callbacks.filter(|name| *name != "proxy_on_memory_allocate");
    callbacks.chain(lines("import env.")).collect()
}

/// A `capability_restriction_config` that allows `capabilities` alone.
#[must_use]
pub fn restriction(capabilities: &[&str]) -> Value {
    let allowed = capabilities
        .iter()
        .map(|name| ((*name).to_owned(), json!({})));
    json!({"allowed_capabilities": allowed.collect::<Map<_, _>>()})
}

/// Puts a restriction where this Envoy looks for it: in the `vm_config` since 1.40, in the
/// PluginConfig itself before.
#[must_use]
pub fn placed(restriction: &Value, minor: u32) -> Value {
    let field = json!({"capability_restriction_config": restriction});
    if minor >= MOVED_IN {
        json!({"vm_config": field})
    } else {
        field
    }
}

/// The minor version of an Envoy 1.x.
///
/// # Errors
/// If it can't be run, or does not say its version.
pub fn minor_version(envoy: &Path) -> anyhow::Result<u32> {
    static KNOWN: OnceLock<u32> = OnceLock::new();
    if let Some(minor) = KNOWN.get() {
        return Ok(*minor);
    }
    let output = Command::new(envoy).arg("--version").output();
    let output = output.with_context(|| format!("run {}", envoy.display()))?;
    let says = String::from_utf8_lossy(&output.stdout).into_owned();
    let minor = parse_version(&says).with_context(|| format!("no version in `{says}`"))?;
    Ok(*KNOWN.get_or_init(|| minor))
}

/// What a rig lays over its `patch` of the PluginConfig because of `QUOTA_GATE_RESTRICT`: nothing,
/// if that is not set, or the test has a restriction of its own.
///
/// # Errors
/// If the variable has a value of no meaning, or the Envoy does not say its version.
pub(crate) fn from_environment(envoy: &Path, patch: &Value) -> anyhow::Result<Value> {
    let asked = match std::env::var("QUOTA_GATE_RESTRICT").as_deref() {
        Err(_) | Ok("" | "0") => false,
        Ok("1") => true,
        Ok(other) => bail!("QUOTA_GATE_RESTRICT is `{other}`; allowed are 0 and 1"),
    };
    if !asked || PLACES.iter().any(|place| patch.pointer(place).is_some()) {
        return Ok(Value::Null);
    }
    Ok(placed(&restriction(&capabilities()), minor_version(envoy)?))
}

/// Reads `/path/envoy  version: HASH/1.40.0/Clean/RELEASE/BoringSSL`.
fn parse_version(says: &str) -> Option<u32> {
    let (_, version) = says.split_once("version: ")?;
    let version = version.split('/').nth(1)?;
    version.strip_prefix("1.")?.split('.').next()?.parse().ok()
}

/// Where a restriction may stand in a PluginConfig.
const PLACES: [&str; 2] = [
    "/capability_restriction_config",
    "/vm_config/capability_restriction_config",
];

/// The minor version of Envoy that moved the field.
const MOVED_IN: u32 = 40;

/// The module's imports and exports; `cargo xtask build` holds the module to them.
const INTERFACE: &str = include_str!("../../xtask/module-interface.txt");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_is_read_from_what_envoy_says() {
        let says = "\n/usr/bin/envoy  version: 0123ab/1.36.4/Clean/RELEASE/BoringSSL\n";
        assert_eq!(parse_version(says), Some(36));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn callbacks_and_functions_are_capabilities_and_memory_is_none() {
        let names = capabilities();
        assert!(names.contains(&"proxy_on_request_headers"), "{names:?}");
        assert!(names.contains(&"proxy_http_call"), "{names:?}");
        assert!(
            names.iter().all(|name| name.starts_with("proxy_")),
            "{names:?}"
        );
        assert!(!names.contains(&"proxy_on_memory_allocate"), "{names:?}");
        assert!(!names.contains(&"proxy_abi_version_0_2_1"), "{names:?}");
    }
}
