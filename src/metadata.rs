//! What an Envoy route says of its own policy, under `filter_metadata.quota_gate`.
//!
//! Envoy hands a route's metadata over as one serialized protobuf message, with its types: nothing
//! has to be guessed, an empty text is not an absent one, and a null is seen as what it is. What
//! is not valid never opens a route: the caller then uses the default policy, and tells of it.

use alloc::borrow::ToOwned;
use alloc::rc::Rc;
use alloc::string::String;
use core::fmt;

use crate::config::check::is_valid;
use crate::config::keys::{Key, policy};
use crate::config::problem::shown;
use crate::config::protobuf::filter_metadata;
use crate::config::value::Value;
use crate::config::{
    Choice, Config, Cost, Enforcement, FailureMode, Override, Policy, largest_timeout, units,
};

/// The host's property with the matched route's metadata.
pub const PROPERTY: &[&str] = &["xds", "route_metadata"];

/// The name under which a route speaks to this filter.
pub const NAMESPACE: &str = "quota_gate";

/// What a route says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RouteMetadata {
    /// The policy that it names, or `off`; `None` leaves it to `routes` and `default_policy`.
    pub policy: Option<String>,
    /// What it changes of the policy.
    pub changes: Override,
}

/// Why a route's metadata is not valid.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MetadataProblem {
    /// The timeout is not below the policy's host budget.
    AboveBudget,
    /// A key's value means nothing.
    BadValue(&'static str),
    /// `fail_local`, but the policy has no local limit.
    NeedsLocalLimit,
    /// It changes a policy, but there is none: `off`.
    NoPolicy,
    /// A key that means nothing.
    UnknownKey(String),
    /// A policy that is not declared.
    UnknownPolicy(String),
    /// The message is no metadata.
    Unreadable,
    /// A key's value has another type.
    WrongType(&'static str),
}

impl fmt::Display for MetadataProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl MetadataProblem {
    /// What is wrong, for the log.
    #[must_use]
    pub fn text(&self) -> String {
        let (before, name, behind) = match self {
            Self::AboveBudget => ("timeout: above the host budget", "", ""),
            Self::BadValue(key) => ("", *key, ": not a valid value"),
            Self::NeedsLocalLimit => ("failure_mode: the policy has no local_limit", "", ""),
            Self::NoPolicy => ("policy: off has nothing to change", "", ""),
            Self::UnknownKey(name) => ("`", name.as_str(), "`: unknown key"),
            Self::UnknownPolicy(name) => ("policy: no policy is named `", name.as_str(), "`"),
            Self::Unreadable => ("not readable", "", ""),
            Self::WrongType(key) => ("", *key, ": wrong type, expected a text"),
        };
        [before, &shown(name), behind].concat()
    }
}

/// Reads a serialized `envoy.config.core.v3.Metadata`; `None` if it says nothing to this filter.
///
/// # Errors
/// What of it is not valid in itself, whatever the configuration.
pub fn read(bytes: &[u8]) -> Result<Option<RouteMetadata>, MetadataProblem> {
    let value = filter_metadata(bytes, NAMESPACE).map_err(|_| MetadataProblem::Unreadable)?;
    let Some(value) = value else { return Ok(None) };
    let mut metadata = RouteMetadata::default();
    for (name, value) in value.fields() {
        let Some(key) = KEYS.into_iter().find(|key| key == name) else {
            return Err(MetadataProblem::UnknownKey(shown(name)));
        };
        read_key(key, value, &mut metadata)?;
    }
    Ok(Some(metadata))
}

/// The policy of a route that says `metadata`, where `otherwise` is what `routes` and
/// `default_policy` would lead to.
///
/// # Errors
/// What of it is not valid for this configuration.
pub fn choose(
    config: &Config,
    metadata: &RouteMetadata,
    otherwise: impl FnOnce() -> Choice,
) -> Result<Choice, MetadataProblem> {
    let choice = match metadata.policy.as_deref() {
        None => otherwise(),
        Some("off") => Choice::Off,
        Some(name) => {
            let found = config
                .policies
                .binary_search_by(|policy| policy.name.as_ref().cmp(name));
            let policy = found.ok().and_then(|index| config.policies.get(index));
            let unknown = || MetadataProblem::UnknownPolicy(shown(name));
            Choice::Policy(Rc::clone(policy.ok_or_else(unknown)?))
        }
    };
    match choice {
        _ if metadata.changes == Override::default() => Ok(choice),
        Choice::Policy(policy) => apply(&policy, &metadata.changes).map(Choice::Policy),
        Choice::Off => Err(MetadataProblem::NoPolicy),
    }
}

/// A policy with a route's changes; it keeps its index and its name.
///
/// # Errors
/// A timeout above the budget, or `fail_local` without a local limit.
pub fn apply(policy: &Rc<Policy>, changes: &Override) -> Result<Rc<Policy>, MetadataProblem> {
    let mut changed = Policy::clone(policy);
    if let Some(timeout) = changes.timeout {
        if timeout > largest_timeout(policy.host_budget) {
            return Err(MetadataProblem::AboveBudget);
        }
        changed.timeout = timeout;
    }
    if let Some(mode) = changes.failure_mode {
        if mode == FailureMode::FailLocal && policy.local_limit.is_none() {
            return Err(MetadataProblem::NeedsLocalLimit);
        }
        changed.failure_mode = mode;
    }
    if let Some(units) = changes.cost {
        changed.cost = Cost::Fixed(units);
    }
    if let Some(enforcement) = changes.enforcement {
        changed.enforcement = enforcement;
    }
    Ok(Rc::new(changed))
}

fn read_key(
    key: &'static str,
    value: &Value,
    metadata: &mut RouteMetadata,
) -> Result<(), MetadataProblem> {
    let bad = MetadataProblem::BadValue(key);
    let changes = &mut metadata.changes;
    if key == COST {
        changes.cost = Some(read_cost(value)?);
        return Ok(());
    }
    let text = value.as_text().ok_or(MetadataProblem::WrongType(key))?;
    match key {
        ENFORCEMENT => changes.enforcement = Some(Enforcement::from_code(text).ok_or(bad)?),
        FAILURE_MODE => {
            let mode = FailureMode::from_code(text.as_bytes());
            changes.failure_mode = Some(mode.ok_or(bad)?);
        }
        TIMEOUT => {
            let timeout = units::duration(text).filter(|_| is_of(value, &policy::TIMEOUT));
            changes.timeout = Some(timeout.ok_or(bad)?);
        }
        _ => metadata.policy = Some(text.to_owned()),
    }
    Ok(())
}

/// A cost, as a text of digits or as a number, which Envoy keeps as a double.
fn read_cost(value: &Value) -> Result<u64, MetadataProblem> {
    let bad = MetadataProblem::BadValue(COST);
    let number = match value {
        Value::Number(number) => Value::Number(*number),
        Value::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Value::from_json(text.as_bytes()).map_err(|_| bad.clone())?
        }
        Value::Text(_) => return Err(bad),
        Value::Bool(_) | Value::List(_) | Value::Null | Value::Object(_) => {
            return Err(MetadataProblem::WrongType(COST));
        }
    };
    let units = number.as_count().filter(|_| is_of(&number, &policy::COST));
    units.ok_or(bad)
}

fn is_of(value: &Value, key: &Key) -> bool {
    is_valid(value, &key.kind)
}

const COST: &str = "cost";
const ENFORCEMENT: &str = "enforcement";
const FAILURE_MODE: &str = "failure_mode";
const POLICY: &str = "policy";
const TIMEOUT: &str = "timeout";
/// What a route may say.
const KEYS: [&str; 5] = [COST, ENFORCEMENT, FAILURE_MODE, POLICY, TIMEOUT];

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::config::parse::parse;
    use crate::config::protobuf::encode::encode_metadata;

    #[test]
    fn reads_every_key() {
        let metadata = read_json(
            r#"{"policy": "gold", "failure_mode": "fail_open", "timeout": "40ms", "cost": "3",
                "enforcement": "shadow"}"#,
        );

        assert_eq!(
            metadata,
            Ok(Some(RouteMetadata {
                policy: Some("gold".to_owned()),
                changes: Override {
                    cost: Some(3),
                    enforcement: Some(Enforcement::Shadow),
                    failure_mode: Some(FailureMode::FailOpen),
                    timeout: Some(Duration::from_millis(40)),
                },
            }))
        );
    }

    #[test]
    fn a_cost_may_be_a_number() {
        let metadata = read_json(r#"{"cost": 3}"#).unwrap().unwrap();

        assert_eq!(metadata.changes.cost, Some(3));
    }

    #[test]
    fn other_filters_metadata_says_nothing() {
        let bytes = encode_metadata("istio", &Value::from_json(br#"{"a": null}"#).unwrap());

        assert_eq!(read(&bytes), Ok(None));
        assert_eq!(read(b""), Ok(None));
    }

    #[test]
    fn what_is_not_valid_is_told_and_never_taken() {
        for (json, problem) in [
            (r#"{"policy": null}"#, "policy: wrong type, expected a text"),
            (r#"{"policy": 1}"#, "policy: wrong type, expected a text"),
            (
                r#"{"policy": {"name": "p"}}"#,
                "policy: wrong type, expected a text",
            ),
            (
                r#"{"enforcement": false}"#,
                "enforcement: wrong type, expected a text",
            ),
            (r#"{"failure_mode": ""}"#, "failure_mode: not a valid value"),
            (
                r#"{"failure_mode": "FAIL_OPEN"}"#,
                "failure_mode: not a valid value",
            ),
            (r#"{"timeout": 40}"#, "timeout: wrong type, expected a text"),
            (r#"{"timeout": "0ms"}"#, "timeout: not a valid value"),
            (r#"{"timeout": "61s"}"#, "timeout: not a valid value"),
            (r#"{"timeout": "soon"}"#, "timeout: not a valid value"),
            (r#"{"cost": ""}"#, "cost: not a valid value"),
            (r#"{"cost": "-1"}"#, "cost: not a valid value"),
            (r#"{"cost": "1.0"}"#, "cost: not a valid value"),
            (r#"{"cost": 1.5}"#, "cost: not a valid value"),
            (r#"{"cost": 1000001}"#, "cost: not a valid value"),
            (
                r#"{"cost": "99999999999999999999"}"#,
                "cost: not a valid value",
            ),
            (r#"{"cost": true}"#, "cost: wrong type, expected a text"),
            (r#"{"polcy": "p"}"#, "`polcy`: unknown key"),
            (r#"{"a\nb": "p"}"#, "`a\u{fffd}b`: unknown key"),
        ] {
            let told = read_json(json).unwrap_err().to_string();
            assert_eq!(told, problem, "{json}");
        }
        assert_eq!(read(b"\x0a\xff"), Err(MetadataProblem::Unreadable));
    }

    #[test]
    fn a_name_from_outside_is_told_within_bounds() {
        let json = format!(r#"{{"{}": "p"}}"#, "x".repeat(10_000));

        assert!(read_json(&json).unwrap_err().to_string().len() < 100);
    }

    #[test]
    fn chooses_the_policy_that_the_route_names_and_changes_it() {
        let config = config();
        let metadata = read_json(r#"{"policy": "gold", "timeout": "40ms"}"#);

        let choice = choose(&config, &metadata.unwrap().unwrap(), || Choice::Off);

        let Ok(Choice::Policy(policy)) = choice else {
            panic!("{choice:?}");
        };
        assert_eq!(policy.name.as_ref(), "gold");
        assert_eq!(policy.index, 0);
        assert_eq!(policy.timeout, Duration::from_millis(40));
        assert_eq!(config.policies[0].timeout, Duration::from_millis(100));
    }

    #[test]
    fn without_a_name_changes_what_the_routes_led_to() {
        let config = config();
        let metadata = read_json(r#"{"cost": 7}"#).unwrap().unwrap();

        let choice = choose(&config, &metadata, || config.default_policy.clone());

        let Ok(Choice::Policy(policy)) = choice else {
            panic!("{choice:?}");
        };
        assert_eq!(policy.name.as_ref(), "iron");
        assert_eq!(policy.cost, Cost::Fixed(7));
    }

    #[test]
    fn what_does_not_fit_the_configuration_is_refused() {
        for (json, problem) in [
            (
                r#"{"policy": "silver"}"#,
                MetadataProblem::UnknownPolicy("silver".to_owned()),
            ),
            (
                r#"{"policy": ""}"#,
                MetadataProblem::UnknownPolicy(String::new()),
            ),
            (r#"{"policy": "off", "cost": 1}"#, MetadataProblem::NoPolicy),
            (
                r#"{"policy": "gold", "timeout": "901ms"}"#,
                MetadataProblem::AboveBudget,
            ),
            (
                r#"{"policy": "gold", "failure_mode": "fail_local"}"#,
                MetadataProblem::NeedsLocalLimit,
            ),
        ] {
            let metadata = read_json(json).unwrap().unwrap();
            let refused = choose(&config(), &metadata, || Choice::Off).unwrap_err();
            assert_eq!(refused, problem, "{json}");
        }
    }

    #[test]
    fn off_and_a_local_limit_that_is_there_are_accepted() {
        let off = read_json(r#"{"policy": "off"}"#).unwrap().unwrap();
        let local = read_json(r#"{"policy": "iron", "failure_mode": "fail_local"}"#);

        let config = config();
        let default = || config.default_policy.clone();
        assert!(matches!(choose(&config, &off, default), Ok(Choice::Off)));
        let choice = choose(&config, &local.unwrap().unwrap(), default);
        assert!(matches!(
            choice,
            Ok(Choice::Policy(policy)) if policy.failure_mode == FailureMode::FailLocal
        ));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let json = br#"{"policy": "gold", "cost": 3, "x": [null, {"y": true}]}"#;
        let bytes = encode_metadata(NAMESPACE, &Value::from_json(json).unwrap());
        for place in 0..bytes.len() {
            for byte in 0..=255 {
                let mut bytes = bytes.clone();
                bytes[place] = byte;
                drop(read(&bytes));
            }
            drop(read(&bytes[..place]));
        }
    }

    fn read_json(json: &str) -> Result<Option<RouteMetadata>, MetadataProblem> {
        let value = Value::from_json(json.as_bytes()).unwrap();
        read(&encode_metadata(NAMESPACE, &value))
    }

    fn config() -> Config {
        parse(
            br#"{"backends": {"b": {"cluster": "c"}},
                 "policies": {
                   "iron": {"backend": "b", "failure_mode": "fail_closed",
                            "descriptor": [{"name": "v", "value": "1"}],
                            "local_limit": {"units": 1, "per": "1s"}},
                   "gold": {"backend": "b", "failure_mode": "fail_closed",
                            "descriptor": [{"name": "v", "value": "1"}]}},
                 "default_policy": "iron", "host_budget": "1s"}"#,
        )
        .unwrap()
    }
}
