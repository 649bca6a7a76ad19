//! `cargo xtask explain FILE`: what the filter would do with a request, and why, on the real core.
//!
//! Nothing here decides: each line is asked of the gate, the router or the wire, with the request
//! in memory and the end of the call made up.

mod outcome;

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use quota_gate::config::settle::SettleMode;
use quota_gate::config::units::duration_text;
use quota_gate::config::{
    Backend, Choice, Config, Enforcement, OnMissing, Policy, PropertyType, Route, Source,
};
use quota_gate::decision::Outcome;
use quota_gate::descriptor;
use quota_gate::gate::{Flow, Outgoing};
use quota_gate::metadata::{self, NAMESPACE};
use quota_gate::request::PlainRequest;
use quota_gate::route::Router;
use quota_gate::text;
use quota_gate::time::{Wall, rfc3339};

use crate::check;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A file with a configuration, as `check` takes it
    file: PathBuf,
    /// Method and path
    #[arg(long, default_value = "GET /")]
    request: String,
    /// A header of the request, `name: value`; `host` is the authority
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// The name of the matched Envoy route
    #[arg(long)]
    route_name: Option<String>,
    /// The matched route's `filter_metadata.quota_gate`, as JSON
    #[arg(long)]
    metadata: Option<String>,
    /// The peer's address
    #[arg(long)]
    peer: Option<String>,
    /// A property of the host, `path=value`; the path's elements stand between slashes
    #[arg(long = "property")]
    properties: Vec<String>,
}

/// Prints what would happen. Ends with 1 if the configuration has problems, and 2 if there is none.
pub(crate) fn run(args: &Args) -> ExitCode {
    match explained(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn explained(args: &Args) -> Result<ExitCode> {
    let survey = check::survey(&args.file)?;
    let Some(config) = survey.plugins.iter().find_map(|own| own.config.clone()) else {
        print!("{}", survey.sources.to_text(&survey.findings));
        return Ok(ExitCode::FAILURE);
    };
    let seen = Seen::read(args, &config)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let now = Wall(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
    print!("{}", explain(&config, &seen, now));
    Ok(ExitCode::SUCCESS)
}

/// A request, as far as it is told on the command line.
#[derive(Clone, Default)]
struct Seen {
    headers: Vec<(String, String)>,
    route_name: Option<String>,
    metadata: Option<Vec<u8>>,
    properties: Vec<(Vec<String>, Vec<u8>)>,
}

impl Seen {
    fn read(args: &Args, config: &Config) -> Result<Self> {
        let (method, path) = args
            .request
            .split_once(' ')
            .filter(|(_, path)| path.starts_with('/') || *path == "*")
            .with_context(|| format!("`{}` is no `METHOD /path`", args.request))?;
        let mut headers = vec![
            (":method".to_owned(), method.to_owned()),
            (":path".to_owned(), path.to_owned()),
        ];
        for header in &args.headers {
            let (name, value) = header
                .split_once(':')
                .with_context(|| format!("`{header}` is no `name: value`"))?;
            let name = match name.trim().to_ascii_lowercase() {
                name if name == "host" => ":authority".to_owned(),
                name => name,
            };
            headers.push((name, value.trim().to_owned()));
        }
        if !headers.iter().any(|(name, _)| name == ":authority") {
            headers.push((":authority".to_owned(), "localhost".to_owned()));
        }
        let mut properties = Vec::new();
        if let Some(peer) = &args.peer {
            let peer: IpAddr = peer
                .parse()
                .with_context(|| format!("`{peer}` is no address of IPv4 or IPv6"))?;
            let address = SocketAddr::new(peer, 50000).to_string();
            let path = ["source", "address"].map(str::to_owned).to_vec();
            properties.push((path, address.into_bytes()));
        }
        for property in &args.properties {
            properties.push(read_property(property, config)?);
        }
        Ok(Self {
            headers,
            route_name: args.route_name.clone(),
            metadata: args.metadata.as_deref().map(read_metadata).transpose()?,
            properties,
        })
    }

    fn request(&self) -> PlainRequest {
        let mut request = PlainRequest::default();
        for (name, value) in &self.headers {
            request = request.with_header(name, value);
        }
        for (path, value) in &self.properties {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            request = request.with_property(&path, value);
        }
        if let Some(name) = &self.route_name {
            request = request.with_property(&["xds", "route_name"], name);
        }
        if let Some(metadata) = &self.metadata {
            request = request.with_property(metadata::PROPERTY, metadata);
        }
        request
    }
}

fn read_metadata(json: &str) -> Result<Vec<u8>> {
    let tree = check::read_tree(0, json).ok().and_then(|mut all| all.pop());
    let tree = tree.with_context(|| format!("`{json}` is not JSON"))?;
    Ok(check::encode_metadata(NAMESPACE, &tree))
}

/// A property in the bytes that the host would show: by the type that the configuration expects.
fn read_property(text: &str, config: &Config) -> Result<(Vec<String>, Vec<u8>)> {
    let (path, value) = text
        .split_once('=')
        .with_context(|| format!("`{text}` is no `path=value`"))?;
    let path: Vec<String> = path.split('/').map(str::to_owned).collect();
    let entries = config.policies.iter().flat_map(|own| own.descriptor.iter());
    let mut wanted = entries.filter_map(|entry| match &entry.source {
        Source::Property {
            path: own,
            value_type,
        } if *own == path => Some(*value_type),
        _ => None,
    });
    let bytes = match wanted.next_back() {
        Some(PropertyType::Number) => {
            let number: f64 = value
                .parse()
                .with_context(|| format!("`{value}`: no number"))?;
            number.to_le_bytes().to_vec()
        }
        Some(PropertyType::Bool) => match value {
            "true" => vec![1],
            "false" => vec![0],
            _ => bail!("`{value}` is neither `true` nor `false`"),
        },
        Some(PropertyType::String) | None => value.as_bytes().to_vec(),
    };
    Ok((path, bytes))
}

/// Tells what would happen at `now`.
fn explain(config: &Config, seen: &Seen, now: Wall) -> String {
    let request = seen.request();
    let mut told = Told(String::new());
    let (choice, why) = choose(config, seen, &request);
    let name = match &choice {
        Choice::Off => "off",
        Choice::Policy(policy) => &policy.name,
    };
    told.line("policy", &format!("{name}, {why}"));
    if let Choice::Policy(policy) = &choice {
        told.policy(config, policy, &request);
    }
    let first = outcome::first(config, &request, now);
    match first.flow {
        Flow::Answer(answer) => {
            told.line("answer", &format!("the status page, {}", answer.status));
        }
        Flow::Release(release) => {
            let row = outcome::row("right away", &release, &request);
            told.line("backend", "not asked");
            told.table(&[row]);
        }
        Flow::Wait => {
            let Choice::Policy(policy) = &choice else {
                return told.0;
            };
            told.waits(policy, first.wait);
            if let Some((call, backend)) = first
                .call
                .and_then(|call| Some((config.backends.get(call.backend)?, call)))
                .map(|(backend, call)| (call, backend))
            {
                told.message(&call, backend);
            }
            told.terms(config, policy);
            told.table(&outcome::all(config, seen, now));
        }
    }
    told.0
}

/// What would have given an entry its value, and how to tell it here.
fn wanted(source: &Source) -> String {
    match source {
        Source::ClientIp { trusted_hops: 0 } => "the peer's address, --peer".to_owned(),
        Source::ClientIp { trusted_hops } => {
            format!("address {trusted_hops} of `x-forwarded-for` from the right, -H")
        }
        Source::Header(name) => format!("the header `{name}`, -H"),
        Source::Property { path, .. } => {
            format!("the property {}, --property", path.join("/"))
        }
        Source::Query(name) => format!("the parameter `{name}` of the query"),
        Source::RouteName => "the route's name, --route-name".to_owned(),
        Source::Value(_) => "a constant".to_owned(),
    }
}

/// The policy of the request, and what led to it.
fn choose(config: &Config, seen: &Seen, request: &PlainRequest) -> (Choice, String) {
    let (choice, problem) = Router::new(0).choose(config, request);
    if let Some(problem) = problem {
        let why = format!("the default_policy: the route's metadata is not valid ({problem})");
        return (choice, why);
    }
    let said = seen
        .metadata
        .as_deref()
        .and_then(|own| metadata::read(own).ok().flatten());
    let by = match said {
        Some(said) if said.policy.is_some() => "as the route's metadata says".to_owned(),
        Some(_) => format!("{}, changed by the route's metadata", rule(config, seen)),
        None => rule(config, seen),
    };
    (choice, by)
}

/// Which of the rules matches: each is asked alone, of the real router.
fn rule(config: &Config, seen: &Seen) -> String {
    let mut plain = seen.clone();
    plain.metadata = None;
    let request = plain.request();
    let any = config.policies.first();
    let matches = |route: &Route| {
        let mut alone = config.clone();
        alone.routes = vec![Route {
            matches: route.matches.clone(),
            choice: Choice::Off,
        }];
        alone.default_policy = any.cloned().map_or(Choice::Off, Choice::Policy);
        matches!(Router::new(0).choose(&alone, &request).0, Choice::Off)
    };
    match config.routes.iter().position(matches) {
        Some(index) => format!("by routes[{index}]"),
        None => "the default_policy: no route matches".to_owned(),
    }
}

/// The text as it grows.
struct Told(String);

impl Told {
    fn line(&mut self, label: &str, text: &str) {
        let _infallible = writeln!(self.0, "{label:<11} {text}");
    }

    fn policy(&mut self, config: &Config, policy: &Policy, request: &PlainRequest) {
        if policy.enforcement != Enforcement::Enforce {
            let word = match policy.enforcement {
                Enforcement::Shadow => "shadow: a denial is only told",
                _ => "off: no check is made",
            };
            self.line("enforcement", word);
        }
        if let Some(emergency) = &config.emergency {
            let (mode, until) = (emergency.mode.code(), rfc3339(emergency.until));
            let text = format!("{mode} until {until}: {}", emergency.reason);
            self.line("emergency", &text);
        }
        if descriptor::is_preflight(request) {
            self.line("preflight", "a CORS preflight is let through unchecked");
        }
        match descriptor::describe(policy, request) {
            Ok(described) => {
                for (name, value) in described.entries(policy) {
                    let value = String::from_utf8_lossy(value);
                    self.line("descriptor", &format!("{name}={}", value.escape_debug()));
                }
                let hash = format!("{:016x}", described.hash64(0));
                self.line("key", hash.get(..8).unwrap_or(&hash));
            }
            Err(missing) => {
                let entry = policy.descriptor.get(missing.index);
                let name = entry.map_or("", |entry| &entry.name);
                let from = entry.map_or_else(String::new, |entry| wanted(&entry.source));
                let then = match policy.on_missing {
                    OnMissing::Allow => "on_missing: allow",
                    OnMissing::Deny => "on_missing: deny",
                };
                self.line(
                    "descriptor",
                    &format!("`{name}` has no value ({from}); {then}"),
                );
            }
        }
        let cost = descriptor::cost(policy, request);
        let cost = cost.map_or_else(|| "no value".to_owned(), several);
        self.line("cost", &cost);
    }

    fn waits(&mut self, policy: &Policy, wait: Duration) {
        let mut text = duration_text(wait);
        if wait < policy.timeout {
            let own = duration_text(policy.timeout);
            text = format!("{text}: the request's own deadline, shorter than the policy's {own}");
        }
        self.line("timeout", &text);
        self.line("host budget", &duration_text(policy.host_budget));
    }

    fn message(&mut self, call: &Outgoing, backend: &Backend) {
        let cluster = &backend.cluster;
        let text = format!(
            "{}, cluster {cluster}, at most {}ms",
            backend.name, call.timeout_ms
        );
        self.line("backend", &text);
        for (name, value) in call.message.headers() {
            let own = backend.headers.iter();
            let secret = own
                .filter(|(own, _)| own.eq_ignore_ascii_case(name))
                .count()
                > 0;
            let value = match secret {
                true => "*** (from the configuration)".into(),
                false => String::from_utf8_lossy(value),
            };
            self.line("", &format!("{name}: {value}"));
        }
        if !call.message.body.is_empty() {
            let body = text::sanitise(&call.message.body, BODY_SHOWN_MAX);
            self.line("", &String::from_utf8_lossy(&body));
        }
    }

    fn terms(&mut self, config: &Config, policy: &Policy) {
        let backend = config.backends.get(policy.backend);
        let breaker = match backend.and_then(|backend| backend.breaker.as_ref()) {
            None => "no breaker: a sick backend is called for each request".to_owned(),
            Some(own) => format!(
                "opens after {} failures in a row, or {}.{}% of at least {} calls in {}; for {} \
                 to {}",
                own.consecutive_failures,
                own.failure_permille / 10,
                own.failure_permille % 10,
                own.min_calls,
                duration_text(own.window),
                duration_text(own.open_for),
                duration_text(own.open_for_max),
            ),
        };
        self.line("breaker", &breaker);
        let ttl = |name: &str, ttl: Duration| match ttl.is_zero() {
            true => format!("{name} off"),
            false => format!("{name} {}", duration_text(ttl)),
        };
        let cache = [
            ttl("allow", policy.cache.allow),
            ttl("deny", policy.cache.deny),
            ttl("rejected", policy.cache.rejected),
            ttl("stale_if_error", policy.cache.stale_if_error),
        ];
        self.line("cache", &cache.join(", "));
        let lease = match &policy.lease {
            None => "none: one call a request".to_owned(),
            Some(own) => format!(
                "up to {} units for {}",
                own.max_units,
                duration_text(own.ttl)
            ),
        };
        self.line("lease", &lease);
        if let Some(own) = &policy.settle {
            let told = match own.mode {
                SettleMode::Correct => "the difference to its cost",
                SettleMode::Report => "what it used",
            };
            let text = format!(
                "{told} is told within {} of its end, again for {} if need be",
                duration_text(own.every),
                duration_text(own.retry_for)
            );
            self.line("settle", &text);
        }
        if let Some(header) = &policy.failure_mode_header {
            let text = format!(
                "{}, or as a trusted caller says in {header}",
                own_mode(policy)
            );
            self.line("on failure", &text);
        } else {
            self.line("on failure", own_mode(policy));
        }
    }

    fn table(&mut self, rows: &[outcome::Row]) {
        let head = format!(
            "{:<20} {:<9} {:<19} {:<5} gRPC",
            "if", "decision", "reason", "HTTP"
        );
        let _infallible = writeln!(
            self.0,
            "
{head}"
        );
        for row in rows {
            let Some((outcome, statuses)) = &row.outcome else {
                let _infallible = writeln!(self.0, "{:<20} {}", row.what, row.note);
                continue;
            };
            let (http, grpc) = match statuses {
                Some((http, grpc)) => (http.to_string(), grpc.to_string()),
                None => ("-".to_owned(), "-".to_owned()),
            };
            let (word, reason) = (Outcome::word(*outcome), outcome.reason());
            let line = format!(
                "{:<20} {word:<9} {reason:<19} {http:<5} {grpc:<5} {}",
                row.what, row.note
            );
            let _infallible = writeln!(self.0, "{}", line.trim_end());
        }
    }
}

fn several(units: u64) -> String {
    match units {
        1 => "1 unit".to_owned(),
        _ => format!("{units} units"),
    }
}

fn own_mode(policy: &Policy) -> &'static str {
    policy.failure_mode.code()
}

/// More of a body than this is not read.
const BODY_SHOWN_MAX: usize = 2_000;

#[cfg(test)]
mod tests;
