//! A configuration is refused with places and reasons, or keeps its own rules.

use std::rc::Rc;

use quota_gate::config::parse::{parse, read};
use quota_gate::config::problem::{Problem, ProblemKind};
use quota_gate::config::protobuf::decode_struct;
use quota_gate::config::value::Value;
use quota_gate::config::{Choice, Config, FailureMode, Policy, largest_timeout};
use quota_gate::gate::reply::CallEnd;
use quota_gate::gate::{Effect, Gate, StreamId};
use quota_gate::request::PlainRequest;
use quota_gate::shared::PlainShared;
use quota_gate::time::Wall;

use crate::hold;
use crate::{input, is_clean, is_one_line};

/// Reads the bytes as a configuration.
pub fn hold(bytes: &[u8]) {
    let parsed = parse(bytes);
    let again = parse(bytes);
    match (&parsed, &again) {
        (Ok(config), Ok(other)) => {
            hold!(
                format!("{config:?}") == format!("{other:?}"),
                "read twice, it is two configurations"
            );
            hold_valid(config);
            hold_at_work(config);
        }
        (Err(problems), Err(other)) => {
            hold!(problems == other, "{problems} at first, then {other}");
            hold!(problems.iter().next().is_some(), "refused without a reason");
            let tree = read(bytes).ok();
            for problem in problems.iter() {
                hold_problem(problem, tree.as_ref());
            }
        }
        _ => panic!("refused once, and once not: {parsed:?}, {again:?}"),
    }
    hold_as_struct(bytes, parsed.is_ok());
}

/// It says where and what, on one line, and its path leads there.
fn hold_problem(problem: &Problem, tree: Option<&Value>) {
    let text = problem.to_string();
    hold!(
        is_one_line(&text) && text.contains(": "),
        "not one line of place and reason: {text:?}"
    );
    let Some(tree) = tree else {
        let whole = matches!(
            problem.kind,
            ProblemKind::Empty | ProblemKind::Unreadable { .. }
        );
        hold!(whole, "there is nothing to read, and yet: {text}");
        return;
    };
    let mut at = Some(tree);
    for (index, step) in problem.path.steps().iter().enumerate() {
        let parent = at;
        at = match (parent, &step.key) {
            (Some(Value::Object(fields)), Some(key)) => match fields.get(step.position) {
                Some((name, value)) if name == key => Some(value),
                Some((name, _)) => panic!("the path says {key}, but there is {name}: {text}"),
                None => None,
            },
            (Some(Value::List(items)), None) => items.get(step.position),
            (_, _) => None,
        };
        let last = index + 1 == problem.path.steps().len();
        hold!(
            at.is_some() || last || step.position == usize::MAX || parent.is_none(),
            "the path leads nowhere: {text}"
        );
    }
}

/// Names resolve, times fit, whoever needs something has it.
fn hold_valid(config: &Config) {
    let names: Vec<&str> = config
        .backends
        .iter()
        .map(|own| own.name.as_str())
        .collect();
    hold!(
        names.is_sorted() && !has_twice(&names),
        "backends: {names:?}"
    );
    let names: Vec<&str> = config.policies.iter().map(|own| &*own.name).collect();
    hold!(
        names.is_sorted() && !has_twice(&names),
        "policies: {names:?}"
    );
    for (index, backend) in config.backends.iter().enumerate() {
        hold!(backend.index == index, "a backend in another's place");
        hold!(
            !backend.timeout.is_zero() && backend.max_pending > 0,
            "a backend without time or calls"
        );
    }
    for (index, policy) in config.policies.iter().enumerate() {
        hold!(policy.index == index, "a policy in another's place");
        hold_policy(config, policy);
    }
    let routes = config.routes.iter().map(|route| &route.choice);
    for choice in routes.chain([&config.default_policy]) {
        if let Choice::Policy(policy) = choice {
            hold_policy(config, policy);
            let declared = config.policies.get(policy.index);
            hold!(
                declared.is_some_and(|own| own.name == policy.name),
                "a route to a policy that is not declared"
            );
        }
    }
}

fn has_twice(names: &[&str]) -> bool {
    names.windows(2).any(|pair| pair[0] == pair[1])
}

fn hold_policy(config: &Config, policy: &Rc<Policy>) {
    let largest = largest_timeout(policy.host_budget);
    hold!(
        !policy.timeout.is_zero() && policy.timeout <= largest,
        "a timeout of {:?} in a budget of {:?}",
        policy.timeout,
        policy.host_budget
    );
    let backend = config.backends.get(policy.backend);
    let backend = backend.expect("a policy with a backend");
    hold!(
        policy.quota.is_some() || !backend.preset.needs_quota(),
        "a backend that needs a quota, and a policy without one"
    );
    hold!(
        policy.failure_mode != FailureMode::FailLocal || policy.local_limit.is_some(),
        "fail_local without a limit"
    );
    hold!(!policy.descriptor.is_empty(), "a policy that counts nobody");
    hold!(
        (400..=599).contains(&policy.denial.status)
            && (400..=599).contains(&policy.denial.unavailable_status),
        "a denial that is none"
    );
}

/// A gate that works by it survives some requests, and what it sends is well formed.
fn hold_at_work(config: &Config) {
    let mut gate = Gate::new(config.clone(), 1);
    let mut shared = PlainShared::default();
    let mut wall = Wall::from_secs(1_800_000_000);
    let paths = config.routes.iter();
    let paths = paths.filter_map(|route| route.matches.path_prefix.as_deref());
    for (stream, path) in (0..).zip(["/"].into_iter().chain(paths.take(4))) {
        let request = PlainRequest::new("GET", "api.example.com", path)
            .with_header("x-tenant-id", "acme")
            .with_property(&["source", "address"], "192.0.2.7:4711")
            .with_property(&["xds", "route_name"], "chat");
        let _flow = gate.handle_request(|| wall, StreamId(stream), &request, &mut shared);
        while let Some(effect) = gate.poll_effect() {
            match effect {
                Effect::Call(call) => {
                    hold!(call.timeout_ms > 0, "a call without a timeout");
                    hold_message(&call.message);
                    gate.handle_reply(wall, call.id, CallEnd::Host(503), &mut shared);
                }
                Effect::Log(_, line) => hold_line(&line),
                Effect::Release(..) => {}
            }
        }
        wall.0 += 1_000_000;
        gate.handle_close(StreamId(stream));
    }
    wall.0 += 120_000_000_000;
    gate.handle_tick(wall, &mut shared);
    hold!(gate.pending() == (0, 0), "pending: {:?}", gate.pending());
    gate.flush_metrics(|metric, _| {
        let name = metric.name(config);
        hold!(
            !name
                .chars()
                .any(|own| own.is_whitespace() || own.is_control()),
            "a metric's name: {name:?}"
        );
    });
}

fn hold_line(line: &str) {
    hold!(is_one_line(line), "a log line: {line:?}");
}

/// It goes where it should, and can't be taken for two.
pub fn hold_message(message: &quota_gate::wire::Message) {
    for (name, value) in message.headers() {
        let name_is_clean = name.bytes().all(|byte| matches!(byte, b'!'..=b'~'));
        hold!(
            name_is_clean && !name.bytes().any(|byte| byte.is_ascii_uppercase()),
            "a header's name: {name:?}"
        );
        hold!(
            is_clean(value),
            "{name}: {:?}",
            String::from_utf8_lossy(value)
        );
        hold!(!name.starts_with("x-envoy-"), "a header for Envoy: {name}");
    }
    for name in [":method", ":path", ":authority"] {
        let times = message.headers().filter(|(own, _)| *own == name).count();
        hold!(times == 1, "{times} times {name}");
    }
    let path = message.header(":path").unwrap_or_default();
    hold!(
        path.starts_with(b"/") && !path.contains(&b' '),
        "a path: {:?}",
        String::from_utf8_lossy(path)
    );
    if !message.body.is_empty() {
        let body = serde_json::from_slice::<serde_json::Value>(&message.body);
        hold!(
            body.is_ok(),
            "no JSON: {:?}",
            String::from_utf8_lossy(&message.body)
        );
    }
}

/// The same as a protobuf `Struct` is judged alike.
fn hold_as_struct(bytes: &[u8], accepted: bool) {
    let Ok(Value::Object(fields)) = Value::from_json(bytes) else {
        return;
    };
    let written = input::structure(&fields);
    // Doubles lose digits; and a Struct may begin like JSON's white space.
    let same = decode_struct(&written).is_ok_and(|own| own.fields() == fields);
    if !same || Value::from_json(&written).is_ok() {
        return;
    }
    let parsed = parse(&written);
    hold!(
        parsed.is_ok() == accepted,
        "as JSON it is {accepted}, as a Struct {parsed:?}"
    );
}
