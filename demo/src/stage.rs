//! Sends a scene's requests, shows what came of them on all sides, and holds it to the tale.

use std::collections::BTreeSet;
use std::fmt::Debug;

use envoy_harness::eventually::eventually;
use envoy_harness::{Check, LogEntry, Push, Request, Response, Rig, Seen};
use serde_json::Value;

use crate::page::{Ink, Page};
use crate::plugin;

/// Where scenes are played.
pub(crate) struct Stage<'a> {
    page: &'a Page,
    rig: &'a Rig,
    configuration: Value,
    mistakes: Vec<String>,
    /// Requests through the filter so far.
    sent: u32,
    /// Bodies of denials that have been shown in full, by their code.
    bodies_shown: BTreeSet<String>,
}

/// A request of a scene.
#[derive(Clone)]
pub(crate) struct Ask {
    method: &'static str,
    path: &'static str,
    grpc: bool,
    headers: Vec<(&'static str, &'static str)>,
    body: Option<String>,
}

/// What came of a request, on all sides.
pub(crate) struct Told {
    /// What the client got.
    pub(crate) response: Response,
    /// What stands in the access log.
    pub(crate) entry: LogEntry,
    /// What the quota backend was asked.
    pub(crate) checks: Vec<Check>,
    /// What reached the upstream.
    pub(crate) seen: Vec<Seen>,
}

impl Ask {
    /// A GET.
    pub(crate) fn get(path: &'static str) -> Self {
        Self::new("GET", path)
    }

    /// Any method.
    pub(crate) fn new(method: &'static str, path: &'static str) -> Self {
        Self {
            method,
            path,
            grpc: false,
            headers: Vec::new(),
            body: None,
        }
    }

    /// A unary gRPC call.
    pub(crate) fn grpc(path: &'static str) -> Self {
        Self {
            grpc: true,
            ..Self::new("POST", path)
        }
    }

    /// With this API key.
    pub(crate) fn key(self, key: &'static str) -> Self {
        self.header("x-api-key", key)
    }

    /// With this header.
    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// With a body of JSON.
    pub(crate) fn json(self, body: String) -> Self {
        Self {
            body: Some(body),
            ..self.header("content-type", "application/json")
        }
    }

    fn request(&self, rig: &Rig) -> Request {
        let request = if self.grpc {
            rig.grpc(self.path)
        } else {
            rig.request(self.method, self.path)
        };
        let request = match &self.body {
            Some(body) => request.body(body),
            None => request,
        };
        let headers = self.headers.iter();
        headers.fold(request, |request, (name, value)| {
            request.header(name, value)
        })
    }

    fn line(&self) -> String {
        let protocol = if self.grpc { " (gRPC)" } else { "" };
        let mut line = format!("{} {}{protocol}", self.method, self.path);
        for (name, value) in &self.headers {
            line.push_str(&format!("   {name}: {value}"));
        }
        line
    }
}

impl<'a> Stage<'a> {
    /// An empty stage.
    pub(crate) fn new(page: &'a Page, rig: &'a Rig) -> Self {
        Self {
            page,
            rig,
            configuration: plugin::configuration(),
            mistakes: Vec::new(),
            sent: 0,
            bodies_shown: BTreeSet::new(),
        }
    }

    /// Envoy and everything around it.
    pub(crate) fn rig(&self) -> &'a Rig {
        self.rig
    }

    /// Requests that went through the filter so far.
    pub(crate) fn sent(&self) -> u32 {
        self.sent
    }

    /// Counts requests that were sent past [`Stage::ask`].
    pub(crate) fn count(&mut self, requests: u32) {
        self.sent += requests;
    }

    /// What has come out otherwise than told since the last time.
    pub(crate) fn take_mistakes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.mistakes)
    }

    /// Notes something that came out otherwise than told.
    pub(crate) fn mistake(&mut self, text: &str) {
        self.mistakes.push(text.to_owned());
    }

    /// Expects `got` to be `expected`.
    pub(crate) fn expect<T: PartialEq + Debug>(&mut self, what: &str, expected: T, got: T) {
        if expected != got {
            self.mistake(&format!("{what}: expected {expected:?}, got {got:?}"));
        }
    }

    /// Expects that something holds; `got` is what is there instead.
    pub(crate) fn expect_that(&mut self, what: &str, holds: bool, got: impl Debug) {
        if !holds {
            self.mistake(&format!("{what}: got {got:?}"));
        }
    }

    /// Shows lines of the configuration that is in use.
    pub(crate) fn show_configuration(&self, paths: &[&str]) {
        let line = |path: &&str| format!("{path}: {}", plugin::at(&self.configuration, path));
        let lines: Vec<String> = paths.iter().map(line).collect();
        self.page.gap();
        self.page.fact("config", &lines.join("\n"));
    }

    /// Shows anything else.
    pub(crate) fn show(&self, label: &str, text: &str) {
        self.page.fact(label, text);
    }

    /// Leaves a line free.
    pub(crate) fn gap(&self) {
        self.page.gap();
    }

    /// Starts another part of the scene, about something that happens now.
    pub(crate) fn now(&self, text: &str) {
        self.page.gap();
        self.page.colored_fact("now", Ink::Yellow, text);
    }

    /// Waits for a line of Envoy's log that holds `part`, and shows it.
    pub(crate) fn show_log(&mut self, part: &str) {
        let line = self.rig.envoy().expect_log_line(part);
        let text = line.split_once("wasm log").map_or(&*line, |(_, text)| text);
        let text = text.split_once(": ").map_or(text, |(_, text)| text);
        self.page.fact("log", text);
    }

    /// Sends a request and shows it, the answer, the access log, the check and the upstream.
    pub(crate) fn ask(&mut self, ask: Ask) -> Told {
        let told = self.send(&ask);
        self.page.gap();
        self.page.fact("request", &ask.line());
        self.show_answer(&ask, &told.response);
        self.page.fact("access log", &told.entry.state);
        self.page.fact("backend", &backend_lines(&told.checks));
        self.page.fact("upstream", &upstream_lines(&told.seen));
        told
    }

    /// Sends the same request several times, one after the other, and shows the answers' statuses.
    pub(crate) fn ask_times(&mut self, ask: &Ask, times: usize) -> Vec<Told> {
        let told: Vec<Told> = (0..times).map(|_| self.send(ask)).collect();
        self.page.gap();
        self.page
            .fact("requests", &format!("{times} x {}", ask.line()));
        let lines = told.iter().map(|told| {
            let Told {
                response, entry, ..
            } = told;
            format!(
                "{} in {} ms   {}",
                response.status,
                millis(response),
                entry.state
            )
        });
        self.page
            .fact("answers", &lines.collect::<Vec<_>>().join("\n"));
        told
    }

    /// Sends a request without a word.
    pub(crate) fn send(&mut self, ask: &Ask) -> Told {
        let (envoy, before) = (self.rig.envoy(), self.rig.envoy().access_log().len());
        let _earlier = (self.rig.backend().take(), self.rig.upstream().take());
        let response = ask.request(self.rig).send();
        self.sent += 1;
        let entry = eventually("the request is in the access log", || {
            envoy.access_log().get(before).cloned()
        });
        Told {
            response,
            entry,
            checks: self.rig.backend().take(),
            seen: self.rig.upstream().take(),
        }
    }

    /// Asks for the status page, and shows it. It counts as `bypassed`.
    pub(crate) fn show_status_page(&mut self) -> Response {
        let path = plugin::at(&self.configuration, "status_path");
        let path = path.as_str().unwrap_or_default().to_owned();
        let before = self.rig.envoy().access_log().len();
        let response = self.rig.get(&path);
        self.sent += 1;
        eventually("the request is in the access log", || {
            (self.rig.envoy().access_log().len() > before).then_some(())
        });
        self.page.gap();
        self.page.fact("request", &format!("GET {path}"));
        let text = format!(
            "{}\n{}",
            status(response.status),
            response.text().trim_end()
        );
        self.page.fact("answer", &text);
        response
    }

    /// Pushes another configuration to the running Envoy.
    pub(crate) fn push(&mut self, configuration: Value) {
        let push = self.rig.push_config(&configuration);
        self.expect("the push", Push::Accepted, push);
        self.configuration = configuration;
    }

    /// The configuration that is in use.
    pub(crate) fn configuration(&self) -> &Value {
        &self.configuration
    }

    fn show_answer(&mut self, ask: &Ask, response: &Response) {
        let mut text = format!("{} in {} ms", status(response.status), millis(response));
        let fields = response.headers.iter().chain(&response.trailers);
        let denied = response.status >= 400 || response.grpc_status().is_some();
        let matters = |name: &str| SHOWN.contains(&name) && (denied || name != "content-type");
        for (name, value) in fields.filter(|(name, _)| matters(name)) {
            text.push_str(&format!("\n{name}: {}", String::from_utf8_lossy(value)));
        }
        if denied && !ask.grpc {
            text.push_str(&format!("\n{}", self.body(response)));
        }
        let ink = match (response.status, response.grpc_status()) {
            (200..=299, None | Some(0)) => Ink::Green,
            _ => Ink::Red,
        };
        self.page.colored_fact("answer", ink, &text);
    }

    /// The body of a denial; in full the first time, by its code afterwards.
    fn body(&mut self, response: &Response) -> String {
        let code = serde_json::from_slice(&response.body)
            .map(|body: Value| body["code"].as_str().unwrap_or_default().to_owned())
            .unwrap_or_default();
        if code.is_empty() || self.bodies_shown.insert(code.clone()) {
            return response.text().trim_end().to_owned();
        }
        format!("{{... \"code\":\"{code}\" ...}}")
    }
}

impl Told {
    /// The reason in the access log.
    pub(crate) fn reason(&self) -> &str {
        self.entry.field("reason").unwrap_or_default()
    }

    /// The cause in the access log; empty if nothing failed.
    pub(crate) fn cause(&self) -> &str {
        self.entry.field("cause").unwrap_or_default()
    }

    /// How long the client waited.
    pub(crate) fn millis(&self) -> u128 {
        millis(&self.response)
    }
}

fn millis(response: &Response) -> u128 {
    response.elapsed.as_millis()
}

/// A status with its phrase.
fn status(status: u16) -> String {
    let phrase = match status {
        200 => "OK",
        401 => "Unauthorized",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        _ => return status.to_string(),
    };
    format!("{status} {phrase}")
}

fn backend_lines(checks: &[Check]) -> String {
    let line = |check: &Check| {
        let mut line = format!("{} {}", check.method, check.path);
        for name in ["x-quota-policy", "x-quota-descriptor", "x-quota-cost"] {
            for value in check.header_values(name) {
                line.push_str(&format!("   {name}: {value}"));
            }
        }
        line
    };
    lines_or_nothing(checks.iter().map(line).collect())
}

fn upstream_lines(seen: &[Seen]) -> String {
    let line = |seen: &Seen| {
        let decision = seen.header_values("x-quota-decision").join(", ");
        format!(
            "{} {}   x-quota-decision: {decision}",
            seen.method, seen.path
        )
    };
    lines_or_nothing(seen.iter().map(line).collect())
}

fn lines_or_nothing(lines: Vec<String>) -> String {
    if lines.is_empty() {
        return "saw nothing".to_owned();
    }
    lines.join("\n")
}

/// The headers of an answer that matter here.
const SHOWN: [&str; 9] = [
    "access-control-allow-origin",
    "access-control-expose-headers",
    "content-type",
    "grpc-message",
    "grpc-status",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "x-quota-decision",
];
