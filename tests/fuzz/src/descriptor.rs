//! Who differs is counted apart, on every wire; nothing leaves its slot.

use quota_gate::config::{Config, Cost, Policy, Preset};
use quota_gate::descriptor::{self, Descriptor};
use quota_gate::gate::{Effect, Flow, Gate, StreamId};
use quota_gate::request::PlainRequest;
use quota_gate::shared::PlainShared;
use quota_gate::text;
use quota_gate::time::Wall;
use quota_gate::wire::{Check, Message, Wire};

use crate::config::hold_message;
use crate::input::Field;
use crate::{fixture, hold, input, is_clean, is_one_line};

/// Takes the bytes as the fields of two requests, with an empty line between them.
pub fn hold(bytes: &[u8]) {
    let (first, second) = input::halves(bytes);
    let (first, second) = (input::fields(first), input::fields(second));
    for (_, value) in first.iter().chain(&second) {
        hold_text(value);
    }
    let config = fixture::config();
    let wires = fixture::wires(&config);
    for policy in &config.policies {
        let wire = &wires[policy.backend];
        let one = Counted::new(&first, policy, wire);
        if !names_a_property_twice(&first) {
            let backwards: Vec<Field<'_>> = first.iter().rev().cloned().collect();
            let same = Counted::new(&backwards, policy, wire);
            hold!(
                one.as_ref().map(|own| &own.key) == same.as_ref().map(|own| &own.key),
                "the order of fields counts"
            );
        }
        let (Some(one), Some(other)) = (one, Counted::new(&second, policy, wire)) else {
            continue;
        };
        hold_apart(&one, &other, &config, policy);
    }
    hold_gate(&config, &[&first, &second]);
}

/// A host has one value for each property: of two in the input the last one counts.
fn names_a_property_twice(fields: &[Field<'_>]) -> bool {
    let mut names: Vec<&str> = fields.iter().map(|(name, _)| &**name).collect();
    names.retain(|name| name.starts_with('@'));
    names.sort_unstable();
    names.windows(2).any(|pair| pair[0] == pair[1])
}

/// What a request is counted as under a policy.
struct Counted {
    key: Vec<u8>,
    hashes: (u64, u64),
    entries: Vec<(String, Vec<u8>)>,
    message: Message,
}

impl Counted {
    fn new(fields: &[Field<'_>], policy: &Policy, wire: &Wire) -> Option<Self> {
        let request = input::request(fields);
        let cost = descriptor::cost(policy, &request);
        match (&policy.cost, cost) {
            (Cost::Fixed(units), cost) => hold!(cost == Some(*units), "a cost of {cost:?}"),
            (Cost::Header { max, .. }, Some(cost)) => hold!(cost <= *max, "a cost of {cost}"),
            (Cost::Header { default, .. }, None) => hold!(default.is_none(), "no cost"),
        }
        let descriptor = descriptor::describe(policy, &request).ok()?;
        let entries = |descriptor: &Descriptor| -> Vec<(String, Vec<u8>)> {
            let entries = descriptor.entries(policy);
            entries
                .map(|(name, value)| (name.to_owned(), value.to_vec()))
                .collect()
        };
        let own = entries(&descriptor);
        hold!(
            own.iter().all(|(_, value)| !value.is_empty()),
            "an empty value counts: {own:?}"
        );
        let key = descriptor.key();
        let by_key = key.entries(policy);
        hold!(
            by_key.eq(own.iter().map(|(name, value)| (&**name, &**value))),
            "by its key it is another"
        );
        hold!(key.as_bytes() == descriptor.as_bytes(), "two keys");
        let message = wire.encode(&Check {
            entries: descriptor.entries(policy),
            cost: 3,
            cost_min: policy.lease.is_some().then_some(1),
            policy: &policy.name,
            quota: policy.quota,
            route: Some(b"chat"),
            request_id: fields.first().map(|(_, value)| *value),
            peek: false,
            told: None,
        });
        hold_message(&message);
        Some(Self {
            key: key.as_bytes().to_vec(),
            hashes: (descriptor.hash64(7), descriptor.lasting_hash64(policy)),
            entries: own,
            message,
        })
    }

    /// What the backend counts by, without the request's own id.
    fn told(&self) -> (Option<&[u8]>, Option<&[u8]>, &[u8]) {
        (
            self.message.header(":path"),
            self.message.header("x-quota-descriptor"),
            &self.message.body,
        )
    }
}

fn hold_apart(one: &Counted, other: &Counted, config: &Config, policy: &Policy) {
    let same = one.entries == other.entries;
    hold!(
        same == (one.key == other.key),
        "{:?} and {:?} have the keys {:?} and {:?}",
        one.entries,
        other.entries,
        one.key,
        other.key
    );
    hold!(
        !same || one.hashes == other.hashes,
        "one key with two hashes"
    );
    let preset = config.backends[policy.backend].preset;
    if preset == Preset::Custom {
        return;
    }
    hold!(
        same == (one.told() == other.told()),
        "{:?} and {:?} are told as {:?} and {:?}",
        one.entries,
        other.entries,
        one.message,
        other.message
    );
    if preset == Preset::Headers {
        let told = one.message.header("x-quota-descriptor").unwrap_or_default();
        let pairs = told
            .split(|byte| *byte == b'&')
            .filter(|own| !own.is_empty());
        let pairs = pairs.map(|pair| {
            let equals = pair.iter().position(|byte| *byte == b'=').expect("a pair");
            let name = text::decode_form(&pair[..equals]);
            let name = String::from_utf8(name).expect("a name that is text");
            (name, text::decode_form(&pair[equals + 1..]))
        });
        hold!(
            pairs.eq(one.entries.iter().cloned()),
            "{:?} is told as {}",
            one.entries,
            String::from_utf8_lossy(told)
        );
    }
}

/// A value comes back as it was, wherever it is put.
fn hold_text(value: &[u8]) {
    let mut percent = Vec::new();
    text::push_percent(&mut percent, value);
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(byte);
    hold!(percent.iter().all(plain), "{percent:?} is not encoded");
    hold!(
        text::decode_form(&percent) == value,
        "{percent:?} is another"
    );

    let mut json = vec![b'"'];
    text::push_json_text(&mut json, value);
    json.push(b'"');
    let read: String = serde_json::from_slice(&json).expect("a JSON text");
    // A plus is a plus here.
    let read = read.replace('+', "%2B");
    hold!(
        text::decode_form(read.as_bytes()) == value,
        "{value:?} is read as {read:?}"
    );

    let echoed = text::sanitise(value, 128);
    hold!(
        is_clean(&echoed) && echoed.len() <= 128,
        "echoed as {echoed:?}"
    );
    let mut decimal = Vec::new();
    if let Some(number) = text::parse_decimal(value) {
        text::push_decimal(&mut decimal, number);
        let digits = value.iter().skip_while(|byte| **byte == b'0');
        let digits: Vec<u8> = digits.copied().collect();
        hold!(
            number == u64::MAX || digits == decimal || (number == 0 && digits.is_empty()),
            "{value:?} is {number}"
        );
    }
}

/// A gate survives them, each twice, and counts each once.
fn hold_gate(config: &Config, requests: &[&[Field<'_>]]) {
    let mut gate = Gate::new(config.clone(), 1);
    let mut shared = PlainShared::default();
    let mut wall = Wall::from_secs(1_800_000_000);
    let requests = requests.iter().chain(requests);
    for (stream, fields) in (0..).zip(requests) {
        let request = input::request(fields);
        let flow = gate.handle_request(|| wall, StreamId(stream), &request, &mut shared);
        match flow {
            Flow::Wait => hold!(gate.waits(StreamId(stream)), "it waits, and does not"),
            Flow::Release(release) => hold_release(&release.log_state, &request, &release),
            Flow::Answer(answer) => hold!(
                serde_json::from_slice::<serde_json::Value>(&answer.body).is_ok(),
                "a status page that is no JSON"
            ),
        }
        wall.0 += 1_000_000;
    }
    wall.0 += 1_000_000_000;
    gate.handle_tick(wall, &mut shared);
    let mut released = 0;
    while let Some(effect) = gate.poll_effect() {
        match effect {
            Effect::Call(call) => hold_message(&call.message),
            Effect::Log(_, line) => hold!(is_one_line(&line), "a log line: {line:?}"),
            Effect::Release(_, release) => {
                released += 1;
                hold_release(&release.log_state, &PlainRequest::default(), &release);
            }
        }
    }
    hold!(gate.pending() == (0, 0), "pending: {:?}", gate.pending());
    let mut counted = 0;
    gate.flush_metrics(|metric, change| {
        if metric.name(config).starts_with("quota_gate.requests.") {
            counted += change;
        }
    });
    hold!(
        counted == 4,
        "4 requests, {counted} counted, {released} of them late"
    );
}

fn hold_release(told: &str, request: &PlainRequest, release: &quota_gate::gate::Release) {
    hold!(is_clean(told.as_bytes()), "the access log: {told:?}");
    let Some(denial) = Gate::denial(release, request) else {
        return;
    };
    hold_denial(&denial);
}

/// It says one thing, and nothing in it leaves its place.
pub fn hold_denial(denial: &quota_gate::denial::Denial) {
    hold!(
        (400..=599).contains(&denial.status),
        "a denial of {}",
        denial.status
    );
    for (name, value) in &denial.headers {
        hold!(
            is_clean(value) && is_clean(name.as_bytes()),
            "{name}: {value:?}"
        );
    }
    let text = std::str::from_utf8(&denial.body).expect("a body that is text");
    if text.starts_with('{') {
        let body = serde_json::from_str::<serde_json::Value>(text);
        hold!(body.is_ok(), "a body that is no JSON: {text}");
    }
}
