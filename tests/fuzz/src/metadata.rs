//! What is not valid never opens a route, and a `Struct` is read as it was written.

use quota_gate::config::protobuf::decode_struct;
use quota_gate::config::value::Value;
use quota_gate::config::{Choice, FailureMode, largest_timeout};
use quota_gate::metadata::{self, PROPERTY};
use quota_gate::request::PlainRequest;
use quota_gate::route::Router;

use crate::hold;
use crate::{fixture, input};

/// Takes the bytes as metadata, as a `Struct`, and as the lines of one.
pub fn hold(bytes: &[u8]) {
    hold_metadata(bytes);
    if let Ok(Value::Object(fields)) = decode_struct(bytes) {
        let written = input::structure(&fields);
        let again = decode_struct(&written);
        hold!(
            again.as_ref().is_ok_and(|own| own.fields() == fields),
            "{fields:?} is read back as {again:?}"
        );
        hold_metadata(&input::metadata(&fields));
    }
    let lines = input::fields(bytes).into_iter();
    let texts = lines.map(|(name, value)| {
        let text = String::from_utf8_lossy(value).into_owned();
        (name, Value::Text(text))
    });
    hold_metadata(&input::metadata(&texts.collect::<Vec<_>>()));
}

fn hold_metadata(bytes: &[u8]) {
    let config = fixture::config();
    for path in ["/", "/headers", "/off", "/limitador"] {
        let request = PlainRequest::new("GET", "api.example.com", path);
        let bare = Router::new(0).choose(&config, &request);
        let request = request.with_property(PROPERTY, bytes);
        let mut router = Router::new(1);
        let first = router.choose(&config, &request);
        let second = router.choose(&config, &request);
        let unremembered = Router::new(0).choose(&config, &request);
        let shown = format!("{first:?}");
        hold!(
            shown == format!("{second:?}") && shown == format!("{unremembered:?}"),
            "{shown} at first, {second:?} then, {unremembered:?} without memory"
        );
        let (choice, problem) = first;
        if let Some(problem) = &problem {
            let text = problem.to_string();
            hold!(crate::is_one_line(&text), "not for a log: {text:?}");
            hold!(
                format!("{choice:?}") == format!("{:?}", config.default_policy),
                "{problem}, and yet the choice is {choice:?}"
            );
        }
        let said = metadata::read(bytes);
        hold!(
            said.is_ok() || problem.is_some() || bytes.is_empty(),
            "{said:?}, and nothing is told of it"
        );
        if said == Ok(None) || bytes.is_empty() {
            hold!(
                format!("{choice:?}") == format!("{:?}", bare.0),
                "nothing is said, and yet the choice is {choice:?}"
            );
        }
        let Choice::Policy(policy) = choice else {
            let off = said.is_ok_and(|said| {
                said.is_none_or(|said| said.policy.as_deref().is_none_or(|name| name == "off"))
            });
            hold!(off, "a route is opened");
            continue;
        };
        hold!(
            policy.timeout <= largest_timeout(policy.host_budget),
            "a timeout of {:?} in {:?}",
            policy.timeout,
            policy.host_budget
        );
        hold!(
            policy.failure_mode != FailureMode::FailLocal || policy.local_limit.is_some(),
            "fail_local without a limit"
        );
    }
}
