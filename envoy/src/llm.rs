//! An upstream that answers like OpenAI's chat completions, whole or as a stream of events, and the
//! filters of Envoy that find in both what was used.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};

use crate::body::{Pieces, full};
use crate::server::{Answer, lock};

/// Where chat completions are asked for.
pub const PATH: &str = "/v1/chat/completions";

/// The namespace of the dynamic metadata that [`filters`] write: `prompt`, `completion`, `total`.
pub const NAMESPACE: &str = "llm.usage";

/// A request's body: so many words as a prompt, an answer of at most `max_tokens`.
#[must_use]
pub fn request(prompt_words: usize, max_tokens: u64, stream: bool) -> String {
    let content = vec!["word"; prompt_words].join(" ");
    json!({
        "model": "small-1",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "stream": stream,
    })
    .to_string()
}

/// Envoy's filters that extract the usage of whole answers and of streams (the second one is there
/// from Envoy 1.38 on).
#[must_use]
pub fn filters() -> [Value; 2] {
    let selectors = |name: &str| json!([{"key": "usage"}, {"key": name}]);
    let found = |key: &str| json!({"metadata_namespace": NAMESPACE, "key": key, "type": "NUMBER"});
    let rules =
        PARTS.map(|(key, name)| json!({"selectors": selectors(name), "on_present": found(key)}));
    let streamed = rules.clone().map(|rule| json!({"rule": rule}));
    let parser = json!({
        "name": "envoy.content_parsers.json",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.content_parsers.json.v3\
                      .JsonContentParser",
            "rules": streamed,
        },
    });
    [
        json!({
            "name": "envoy.filters.http.json_to_metadata",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.json_to_metadata.v3\
                          .JsonToMetadata",
                "response_rules": {"rules": rules},
            },
        }),
        json!({
            "name": "envoy.filters.http.sse_to_metadata",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.sse_to_metadata.v3\
                          .SseToMetadata",
                "response_rules": {"content_parser": parser},
            },
        }),
    ]
}

/// The keys of the metadata, and the members of `usage` that they are filled with.
const PARTS: [(&str, &str); 3] = [
    ("prompt", "prompt_tokens"),
    ("completion", "completion_tokens"),
    ("total", "total_tokens"),
];

/// What was used, by who asked.
#[derive(Debug, Default)]
pub(crate) struct Meter(Mutex<Read>);

#[derive(Clone, Debug, Default)]
struct Read {
    answers: u64,
    total: BTreeMap<String, u64>,
}

impl Meter {
    /// The total of each tenant.
    pub(crate) fn totals(&self) -> BTreeMap<String, u64> {
        lock(&self.0).total.clone()
    }

    /// Answers a request, and notes what that used.
    pub(crate) fn answer(&self, tenant: &str, body: &[u8]) -> Answer {
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        let prompt = asked["messages"][0]["content"].as_str().unwrap_or_default();
        let prompt = prompt.split_whitespace().count() as u64;
        let most = asked["max_tokens"].as_u64().unwrap_or(16).max(1);
        let completion = {
            let mut read = lock(&self.0);
            read.answers += 1;
            // Spread over the whole range, and the same on every run.
            let completion = 1 + read.answers.wrapping_mul(2_654_435_761) % most;
            *read.total.entry(tenant.to_owned()).or_default() += prompt + completion;
            completion
        };
        let usage = json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        });
        if asked["stream"] == Value::Bool(true) {
            streamed(completion, &usage)
        } else {
            whole(completion, &usage)
        }
    }
}

fn whole(completion: u64, usage: &Value) -> Answer {
    let content = "word ".repeat(usize::try_from(completion).unwrap_or(0));
    let message = json!({"role": "assistant", "content": content});
    let body = json!({
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    });
    of_type(Response::new(full(body.to_string())), "application/json")
}

/// A few events of words, one of usage, and the mark of the end.
fn streamed(completion: u64, usage: &Value) -> Answer {
    let event = |json: &Value| Frame::data(Bytes::from(format!("data: {json}\n\n")));
    let words = completion.min(EVENTS_MAX);
    let mut frames: Vec<Frame<Bytes>> = (0..words)
        .map(|_| {
            let choice = json!({"index": 0, "delta": {"content": "word "}});
            event(&json!({"object": "chat.completion.chunk", "choices": [choice], "usage": null}))
        })
        .collect();
    frames.push(event(
        &json!({"object": "chat.completion.chunk", "choices": [], "usage": usage}),
    ));
    frames.push(Frame::data(Bytes::from_static(b"data: [DONE]\n\n")));
    of_type(
        Response::new(Pieces::new(frames).boxed()),
        "text/event-stream",
    )
}

fn of_type(mut answer: Answer, content_type: &'static str) -> Answer {
    let value = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, value);
    answer
}

/// Events of a stream, beside the last two: enough to be a stream.
const EVENTS_MAX: u64 = 5;
