//! Line breaks in a backend's answer: which of them Envoy refuses, so that the check has failed,
//! and which come as far as the filter, which lets none of them into its own answer.

use envoy_harness::{Fault, Rig, RigBuilder};
use serde_json::json;

use crate::gated::{Gated, config, start};

/// Who stops it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stop {
    /// Envoy takes the answer for none.
    Envoy,
    /// The filter reads the answer, and echoes nothing of what is broken.
    Filter,
}

fn rig(builder: RigBuilder) -> Gated {
    let fields = json!({"rate_limit_headers": "draft", "cache": {"deny_ttl": "0s"}});
    start(builder.plugin(config(&fields)))
}

/// Answers a check with these bytes; who has stopped what is broken in them.
fn stopped_by(rig: &Rig, path: &str, answer: Vec<u8>) -> Stop {
    rig.backend().fail_next(1, Fault::Raw(answer));
    let mut client = rig.raw();
    client.write(format!(
        "GET {path} HTTP/1.1\r\nhost: a\r\nx-tenant-id: a\r\nconnection: close\r\n\r\n"
    ));
    let answer = String::from_utf8_lossy(&client.read_to_end()).into_owned();
    let injected = answer
        .split(['\r', '\n'])
        .any(|line| line.trim_start().starts_with("x-injected"));
    assert!(!injected, "{path}: {answer:?}");
    let status = answer.split(' ').nth(1).unwrap_or_default();
    match status {
        "503" => Stop::Envoy,
        "429" => Stop::Filter,
        _ => panic!("{path}: {answer:?}"),
    }
}

#[test]
fn a_line_break_in_an_answer_over_http1_is_stopped() {
    let rig = rig(Rig::builder());
    // A bare CR goes through Envoy's reader; a bare LF ends a field; a folded line is one.
    let table = [
        ("retry-after: 7\rx-injected: 1", Stop::Filter),
        ("ratelimit: \"a\";r=0;t=5\rx-injected: 1", Stop::Filter),
        (
            "ratelimit-policy: \"a\rx-injected: 1\";q=1;w=5",
            Stop::Filter,
        ),
        ("x-other: 1\rx-injected: 1", Stop::Filter),
        ("retry-after: 7\nx-injected: 1", Stop::Filter),
        ("retry-after: 7\r\n x-injected: 1", Stop::Filter),
        ("retry-after: 7\0x-injected: 1", Stop::Envoy),
        ("retry-after: 7%0d%0ax-injected: 1", Stop::Filter),
        ("ratelimit: \"a%0d%0ax-injected: 1\";r=0;t=5", Stop::Filter),
    ];
    let mut found = Vec::new();
    for (place, (line, _)) in table.iter().enumerate() {
        // The connection ends with it: Envoy is told, so that the next check gets a new one.
        let head = "HTTP/1.1 429 X\r\nconnection: close\r\ncontent-length: 0";
        let answer = format!("{head}\r\n{line}\r\n\r\n");
        let stop = stopped_by(&rig, &format!("/{place}"), answer.into_bytes());
        found.push((*line, stop));
        let cause = (stop == Stop::Envoy).then_some("unreachable");
        assert_eq!(rig.logged(&format!("/{place}")).field("cause"), cause);
    }
    assert_eq!(found, table);
}

/// A whole answer in one HEADERS frame on the first stream of its connection.
fn http2(name: &str, value: &str) -> Vec<u8> {
    // Literals without index: the name `:status` is the eighth of the static table.
    let length = |text: &str| u8::try_from(text.len()).expect("a short text");
    let mut block = vec![0x08, 3];
    block.extend(b"429");
    block.extend([&[0x00, length(name)], name.as_bytes()].concat());
    block.extend([&[length(value)], value.as_bytes()].concat());
    let size = u8::try_from(block.len()).expect("a short block");
    let (headers, end_of_both) = (0x01, 0x05);
    let mut frame = vec![0, 0, size, headers, end_of_both, 0, 0, 0, 1];
    frame.extend(block);
    frame
}

#[test]
fn a_line_break_in_an_answer_over_http2_is_stopped() {
    let rig = rig(Rig::builder().backend_http2());
    let table = [
        ("retry-after", "7", Stop::Filter),
        ("retry-after", "7\r\nx-injected: 1", Stop::Envoy),
        ("retry-after", "7\nx-injected: 1", Stop::Envoy),
        ("retry-after", "7\rx-injected: 1", Stop::Envoy),
        ("retry-after", "7\0x-injected: 1", Stop::Envoy),
        ("ratelimit", "\"a\r\nx-injected: 1\";r=0;t=5", Stop::Envoy),
        ("retry-after\r\nx-injected", "1", Stop::Envoy),
    ];
    let mut found = Vec::new();
    for (place, (name, value, _)) in table.iter().enumerate() {
        let stop = stopped_by(&rig, &format!("/{place}"), http2(name, value));
        found.push((*name, *value, stop));
    }
    assert_eq!(found, table);
}

/// In a body Envoy looks at nothing: here it is for the filter alone. Of texts it takes none over.
#[test]
fn a_line_break_in_the_body_of_an_answer_is_the_filters_to_stop() {
    let mut plugin = config(&json!({"rate_limit_headers": "draft", "cache": {"deny_ttl": "0s"}}));
    plugin["backends"]["quota"]["preset"] = json!("envoy_ratelimit");
    let rig = start(Rig::builder().plugin(plugin));
    let broken = "a\r\nx-injected: 1";
    let limit = json!({"requestsPerUnit": 1, "unit": broken, "name": broken});
    let status = json!({"code": "OVER_LIMIT", "currentLimit": limit, "durationUntilReset": broken});
    let body = json!({"overallCode": "OVER_LIMIT", "statuses": [status], "rawBody": broken});
    let answer = format!(
        "HTTP/1.1 429 X\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{body}"
    );

    assert_eq!(stopped_by(&rig, "/", answer.into_bytes()), Stop::Filter);
}
