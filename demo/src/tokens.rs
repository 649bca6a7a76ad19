//! What was really used is charged: a budget of tokens, and answers that tell what they took.

use envoy_harness::eventually::within;
use envoy_harness::{Response, llm};
use serde_json::Value;

use crate::stage::{Ask, Stage};

/// The tokens of the tenant `acme`.
pub(crate) const BUDGET: u64 = 550;

/// The filters of Envoy that find what an answer took: in whole ones, and where this Envoy can, in
/// streams.
pub(crate) fn filters() -> Vec<Value> {
    let [whole, streamed] = llm::filters();
    if reads_streams() {
        vec![whole, streamed]
    } else {
        vec![whole]
    }
}

fn reads_streams() -> bool {
    envoy_harness::version() >= "1.38"
}

/// The scene.
pub(crate) fn play(stage: &mut Stage<'_>) {
    stage.show_configuration(&["policies.chat.cost", "policies.chat.settle"]);
    let first = answer(stage, false);
    let used = first;
    books(stage, used);

    stage.now("the next answer is a stream of events; the last one says what it took");
    let used = used + answer(stage, reads_streams());
    books(stage, used);

    let reserved = 2 * RESERVED;
    stage.now(&format!(
        "charged by what was reserved, {reserved} would be gone and a third answer refused"
    ));
    stage.expect_that("room for a third answer", used + RESERVED <= BUDGET, used);
    let used = used + answer(stage, false);
    books(stage, used);

    stage.now(&format!(
        "{} tokens are left, and none is overdrawn",
        BUDGET - used
    ));
    let told = stage.ask(question(false));
    stage.expect("status over the budget", 429, told.response.status);
    stage.expect("reason over the budget", "quota_exceeded", told.reason());
    stage.expect("requests at the model", 0, told.seen.len());
    let journal = stage.rig().upstream().tokens().get("acme").copied();
    stage.expect("the model's own journal", Some(used), journal);
}

/// Asks the model, and shows what its answer says it took.
fn answer(stage: &mut Stage<'_>, stream: bool) -> u64 {
    let told = stage.ask(question(stream));
    stage.expect("status", 200, told.response.status);
    let reserved = told.checks.first().map(|check| check.cost);
    stage.expect("reserved", Some(RESERVED), reserved);
    let usage = usage_of(&told.response);
    stage.show("it says", &format!("\"usage\": {usage}"));
    let took = usage["total_tokens"].as_u64().unwrap_or_default();
    stage.expect_that("what the answer took", took > 0, &usage);
    took
}

fn question(stream: bool) -> Ask {
    Ask::new("POST", llm::PATH)
        .header("x-tenant-id", "acme")
        .json(llm::request(20, 200, stream))
}

/// Waits until the backend's books say so many tokens, and shows it.
fn books(stage: &mut Stage<'_>, used: u64) {
    let backend = stage.rig().backend();
    let charged = || backend.charged().get("tenant=acme").copied();
    let expected = i64::try_from(used).ok();
    let _in_time = within(SETTLED, || (charged() == expected).then_some(()));
    let charged = charged();
    stage.expect("charged to acme", expected, charged);
    let taken_back = backend.told().last().map_or(0, |told| told.units);
    stage.show(
        "report",
        &format!("x-quota-cost: {taken_back}   x-quota-descriptor: tenant=acme"),
    );
    let charged = charged.unwrap_or_default();
    stage.show(
        "books",
        &format!("{charged} of {BUDGET} tokens are charged to acme"),
    );
}

/// The usage in a whole answer, or in the last event that has one.
fn usage_of(response: &Response) -> Value {
    let text = response.text();
    let mut found = Value::Null;
    for line in text.lines() {
        let json = line.strip_prefix("data: ").unwrap_or(line);
        let json: Value = serde_json::from_str(json).unwrap_or_default();
        if json["usage"].is_object() {
            found = json["usage"].clone();
        }
    }
    found
}

/// 20 words of a prompt, and at most 200 of an answer.
const RESERVED: u64 = 220;

/// Use is gathered for a tenth of a second, and told on the next tick.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(3);
