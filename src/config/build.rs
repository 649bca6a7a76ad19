//! A checked tree of values to `Config`: names become indices, defaults fill in, and the rules that
//! span several keys are held.

use alloc::borrow::ToOwned;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::check::{At, is_valid};
use super::keys::{
    self, Key, backend, breaker, cache, client_ip, cors, cost, denial, emergency, entry, lease,
    local_limit, mode_header, policy, quota, route, route_match, statuses,
};
use super::node::Node;
use super::problem::{ProblemKind, Problems, all_of, one_of};
use super::value::Value;
use super::{
    Backend, BreakerSettings, CacheTtls, Choice, Config, Cost, DenialStyle, Emergency,
    EmergencyMode, Enforcement, EntrySpec, FailureMode, LeaseTerms, LocalLimit, OnMissing, Policy,
    Preset, PropertyType, QuotaTerms, RateLimitHeaders, Route, RouteMatch, Source, StatusPattern,
    Statuses, largest_timeout, timestamp, units,
};
use crate::language::Language;
use crate::sorted::sort_by;
use crate::text::{self, decimal};

/// Builds a configuration and collects its problems.
pub(super) struct Builder {
    pub(super) backends: Vec<Rc<Backend>>,
    host_budget: Duration,
    policies: Vec<Rc<Policy>>,
    pub(super) problems: Problems,
}

impl Builder {
    pub(super) const fn new(problems: Problems) -> Self {
        Self {
            backends: Vec::new(),
            host_budget: Duration::MAX,
            policies: Vec::new(),
            problems,
        }
    }

    /// The configuration, if nothing is wrong with it.
    pub(super) fn finish(self, config: Config) -> Result<Config, Problems> {
        if self.problems.is_empty() {
            Ok(config)
        } else {
            Err(self.problems)
        }
    }

    /// The whole; not to be used if there are problems.
    #[inline(never)]
    pub(super) fn config(&mut self, value: &Value, fingerprint: u64) -> Config {
        let top = Node::new(value, At::TOP);
        // A host budget that is not valid is a problem of its own, not of each timeout.
        let no_bound = Duration::MAX;
        self.host_budget = top.duration_or(&keys::config::HOST_BUDGET, no_bound, no_bound);

        let at = top.at(&keys::config::BACKENDS);
        for (index, (position, (name, value))) in by_name(&top, &keys::config::BACKENDS) {
            let node = Node::new(value, at.key(position, name));
            let backend = self.backend(&node, index, name);
            self.backends.push(Rc::new(backend));
        }
        let at = top.at(&keys::config::POLICIES);
        for (index, (position, (name, value))) in by_name(&top, &keys::config::POLICIES) {
            let node = Node::new(value, at.key(position, name));
            let policy = self.policy(&node, index, name);
            self.policies.push(Rc::new(policy));
        }
        let at = top.at(&keys::config::ROUTES);
        let mut routes = Vec::new();
        for (position, value) in top.items(&keys::config::ROUTES).iter().enumerate() {
            routes.push(self.route(&top, &Node::new(value, at.item(position))));
        }
        Config {
            backends: self.backends.clone(),
            default_policy: self.choice(&top, &keys::config::DEFAULT_POLICY),
            emergency: top
                .has(&keys::config::EMERGENCY)
                .then(|| emergency(&top.table(&keys::config::EMERGENCY))),
            fingerprint,
            host_budget: self.host_budget,
            policies: self.policies.clone(),
            routes,
            status_path: owned(top.given_text(&keys::config::STATUS_PATH)),
        }
    }

    /// Something does not go with something else.
    #[cold]
    #[inline(never)]
    pub(super) fn conflict(&mut self, at: &At<'_>, with: &str) {
        let with = with.to_owned();
        self.problems.add(at.path(), ProblemKind::Conflict { with });
    }

    /// A key that has to be there is not.
    #[cold]
    #[inline(never)]
    pub(super) fn lacks(&mut self, node: &Node<'_>, key: &Key, expected: &str) {
        let expected = expected.to_owned();
        let path = node.at.missing(key.name).path();
        self.problems.add(path, ProblemKind::Missing { expected });
    }

    /// A default above its maximum.
    #[cold]
    #[inline(never)]
    pub(super) fn above(&mut self, at: &At<'_>, got: u64, max: u64) {
        let kind = ProblemKind::OutOfRange {
            got: decimal(got),
            max: decimal(max),
            min: "0".to_owned(),
        };
        self.problems.add(at.path(), kind);
    }

    #[inline(never)]
    fn backend(&mut self, node: &Node<'_>, index: usize, name: &str) -> Backend {
        let cluster = node.text(&backend::CLUSTER);
        let breaker = match node.find(&backend::BREAKER) {
            Some((_, Value::Text(_))) => None,
            Some(_) | None => Some(self.breaker(&node.table(&backend::BREAKER))),
        };
        Backend {
            authority: node
                .given_text(&backend::AUTHORITY)
                .unwrap_or(cluster)
                .to_owned(),
            breaker,
            cluster: cluster.to_owned(),
            custom: self.custom_language(node).map(Rc::new),
            headers: headers(node, &backend::HEADERS),
            index,
            max_pending: node.small_count(&backend::MAX_PENDING),
            name: name.to_owned(),
            namespace: node.text(&backend::NAMESPACE).to_owned(),
            path: owned(node.given_text(&backend::PATH)).filter(|_| !is_custom(node)),
            report_path: owned(node.given_text(&backend::REPORT_PATH)).filter(|_| !is_custom(node)),
            preset: match node.text(&backend::PRESET) {
                "custom" => Preset::Custom,
                "envoy_ratelimit" => Preset::EnvoyRatelimit,
                "gubernator" => Preset::Gubernator,
                "limitador" => Preset::Limitador,
                "throttlecrab" => Preset::Throttlecrab,
                "unkey" => Preset::Unkey,
                _ => Preset::Headers,
            },
            statuses: self.statuses(&node.table(&backend::STATUSES)),
            timeout: node.duration(&backend::TIMEOUT),
        }
    }

    /// The language of a backend that has its own.
    #[inline(never)]
    fn custom_language(&mut self, node: &Node<'_>) -> Option<Language> {
        let is_described = node.has(&backend::CUSTOM);
        if !is_custom(node) {
            if is_described {
                self.conflict(
                    &node.at(&backend::CUSTOM),
                    "goes with `preset: custom` only",
                );
            }
            return None;
        }
        for key in [&backend::CUSTOM, &backend::PATH] {
            if !node.has(key) {
                let expected = [&key.kind.expected(), ", for `preset: custom`"].concat();
                self.lacks(node, key, &expected);
            }
        }
        let path = node.given_text(&backend::PATH).unwrap_or_default();
        let mut language = self.custom(
            &node.table(&backend::CUSTOM),
            (path, &node.at(&backend::PATH)),
        );
        language.report = self.custom_report(node);
        Some(language)
    }

    #[inline(never)]
    fn breaker(&mut self, node: &Node<'_>) -> BreakerSettings {
        let settings = BreakerSettings {
            consecutive_failures: node.small_count(&breaker::CONSECUTIVE_FAILURES),
            failure_permille: node.permille(&breaker::FAILURE_RATE),
            half_open_calls: node.small_count(&breaker::HALF_OPEN_CALLS),
            min_calls: node.small_count(&breaker::MIN_CALLS),
            open_for: node.duration(&breaker::OPEN_FOR),
            open_for_max: node.duration(&breaker::OPEN_FOR_MAX),
            window: node.duration(&breaker::WINDOW),
        };
        if settings.open_for > settings.open_for_max {
            let max = units::duration_text(settings.open_for_max);
            let with = ["above `open_for_max`, which is ", &max].concat();
            self.conflict(&node.at(&breaker::OPEN_FOR), &with);
        }
        settings
    }

    #[inline(never)]
    fn statuses(&mut self, node: &Node<'_>) -> Statuses {
        let mut seen: Vec<(&str, StatusPattern)> = Vec::new();
        let mut lists = [&statuses::ALLOW, &statuses::DENY, &statuses::REJECT].map(|key| {
            let at = node.at(key);
            let mut patterns = Vec::new();
            for (position, value) in node.items(key).iter().enumerate() {
                let Some(pattern) = status_pattern(value) else {
                    continue;
                };
                let other = seen
                    .iter()
                    .find(|(list, earlier)| *list != key.name && overlap(*earlier, pattern));
                if let Some((list, _)) = other {
                    let with = text::fill("`{}` holds it too, keep one of them", &[list]);
                    self.conflict(&at.item(position), &with);
                }
                seen.push((key.name, pattern));
                patterns.push(pattern);
            }
            node.has(key).then_some(patterns)
        });
        let [allow, deny, reject] = &mut lists;
        Statuses {
            allow: allow.take(),
            deny: deny.take(),
            reject: reject.take(),
        }
    }

    #[inline(never)]
    fn policy(&mut self, node: &Node<'_>, index: usize, name: &str) -> Policy {
        let backend = self.resolve_backend(node);
        let timeout = self
            .backends
            .get(backend)
            .map_or(Duration::ZERO, |backend| backend.timeout);
        let mut policy = Policy {
            backend,
            cache: cache_ttls(&node.table(&policy::CACHE)),
            cost: Cost::Fixed(node.count(&policy::COST)),
            denial: Rc::new(denial_style(&node.table(&policy::DENIAL))),
            descriptor: self.descriptor(node).into(),
            enforcement: Enforcement::Enforce,
            failure_mode: FailureMode::FailClosed,
            failure_mode_header: None,
            host_budget: self.host_budget,
            index,
            lease: node
                .has(&policy::LEASE)
                .then(|| lease_terms(&node.table(&policy::LEASE))),
            local_limit: node
                .has(&policy::LOCAL_LIMIT)
                .then(|| local_limit(&node.table(&policy::LOCAL_LIMIT))),
            name: Rc::from(name),
            on_missing: OnMissing::Deny,
            quota: node
                .has(&policy::QUOTA)
                .then(|| quota_terms(&node.table(&policy::QUOTA))),
            rate_limit_headers: RateLimitHeaders::Draft,
            settle: None,
            timeout,
        };
        self.apply(node, &mut policy);
        self.settle(node, &mut policy);
        self.check_timeout(node, &policy);
        self.check_quota(node, &policy);
        if policy.failure_mode == FailureMode::FailLocal && policy.local_limit.is_none() {
            let expected = "an object with `units` and `per`, for `fail_local`";
            self.lacks(node, &policy::LOCAL_LIMIT, expected);
        }
        policy
    }

    /// The index of the backend that a policy names.
    fn resolve_backend(&mut self, node: &Node<'_>) -> usize {
        let Some(name) = node.given_text(&policy::BACKEND) else {
            return 0;
        };
        let found = self
            .backends
            .binary_search_by(|backend| backend.name.as_str().cmp(name));
        found.unwrap_or_else(|_| {
            let declared = self.backends.iter().map(|backend| backend.name.as_str());
            let problem = not_found("backend", name, declared);
            self.problems.add(node.at(&policy::BACKEND).path(), problem);
            0
        })
    }

    /// The policy that a key names.
    fn choice(&mut self, node: &Node<'_>, key: &Key) -> Choice {
        let Some(name) = node.given_text(key) else {
            return Choice::Off;
        };
        if name == "off" {
            return Choice::Off;
        }
        let found = self
            .policies
            .binary_search_by(|policy| policy.name.as_ref().cmp(name));
        if let Some(policy) = found.ok().and_then(|index| self.policies.get(index)) {
            return Choice::Policy(Rc::clone(policy));
        }
        let declared = self.policies.iter().map(|policy| policy.name.as_ref());
        let problem = not_found("policy", name, declared);
        self.problems.add(node.at(key).path(), problem);
        Choice::Off
    }

    /// What a policy and a rule's override may both say.
    #[inline(never)]
    fn apply(&mut self, node: &Node<'_>, policy: &mut Policy) {
        match node.find(&policy::COST) {
            Some((_, Value::Object(_))) => {
                policy.cost = self.header_cost(&node.table(&policy::COST));
            }
            Some(_) => policy.cost = Cost::Fixed(node.count(&policy::COST)),
            None => {}
        }
        if let Some(word) = node.given_text(&policy::FAILURE_MODE) {
            policy.failure_mode =
                FailureMode::from_code(word.as_bytes()).unwrap_or(FailureMode::FailClosed);
        }
        policy.timeout = node.duration_or(&policy::TIMEOUT, policy.timeout, Duration::ZERO);
        policy.host_budget =
            node.duration_or(&policy::HOST_BUDGET, policy.host_budget, Duration::MAX);
        if let Some(word) = node.given_text(&policy::ENFORCEMENT) {
            policy.enforcement = Enforcement::from_code(word).unwrap_or(Enforcement::Enforce);
        }
        if let Some(word) = node.given_text(&policy::ON_MISSING) {
            policy.on_missing = if word == "allow" {
                OnMissing::Allow
            } else {
                OnMissing::Deny
            };
        }
        if node.has(&policy::FAILURE_MODE_HEADER) {
            let table = node.table(&policy::FAILURE_MODE_HEADER);
            policy.failure_mode_header = table
                .given_text(&mode_header::NAME)
                .map(str::to_ascii_lowercase);
        }
        if let Some(word) = node.given_text(&policy::RATE_LIMIT_HEADERS) {
            policy.rate_limit_headers = match word {
                "none" => RateLimitHeaders::None,
                "x_ratelimit" => RateLimitHeaders::XRatelimit,
                _ => RateLimitHeaders::Draft,
            };
        }
        if node.has(&policy::DENIAL) {
            policy.denial = Rc::new(denial_style(&node.table(&policy::DENIAL)));
        }
    }

    fn header_cost(&mut self, node: &Node<'_>) -> Cost {
        let max = node.count(&cost::MAX);
        let default = node.count(&cost::DEFAULT);
        if node.has(&cost::DEFAULT) && node.given_count(&cost::MAX).is_some() && default > max {
            self.above(&node.at(&cost::DEFAULT), default, max);
        }
        Cost::Header {
            default: Some(default.min(max)),
            max,
            name: node.text(&cost::HEADER).to_ascii_lowercase(),
        }
    }

    /// Holds a timeout against the host budget.
    fn check_timeout(&mut self, node: &Node<'_>, policy: &Policy) {
        let max = largest_timeout(policy.host_budget);
        if policy.timeout <= max {
            return;
        }
        let key = if !node.has(&policy::TIMEOUT) && node.has(&policy::HOST_BUDGET) {
            &policy::HOST_BUDGET
        } else {
            &policy::TIMEOUT
        };
        let kind = ProblemKind::AboveBudget {
            budget: policy.host_budget,
            got: policy.timeout,
            max,
        };
        self.problems.add(node.at(key).path(), kind);
    }

    /// A quota is there where the backend is told one, and nowhere else.
    #[inline(never)]
    fn check_quota(&mut self, node: &Node<'_>, policy: &Policy) {
        let Some(backend) = self.backends.get(policy.backend) else {
            return;
        };
        let preset = backend.preset;
        if preset.needs_quota() && policy.quota.is_none() {
            let name = &backend.name;
            let expected = text::fill(
                "an object with `units` and `per`: backend `{}` is told it",
                &[name],
            );
            self.lacks(node, &policy::QUOTA, &expected);
        } else if policy.quota.is_some() && !preset.needs_quota() && preset != Preset::Custom {
            let name = &backend.name;
            let with = text::fill(
                "backend `{}` has quotas of its own and is not told this one",
                &[name],
            );
            self.conflict(&node.at(&policy::QUOTA), &with);
        }
        // A bucket of one unit is forgotten at once by its server, which then limits nothing.
        let burst = policy.quota.as_ref().map(|quota| quota.burst);
        if preset == Preset::Throttlecrab && burst == Some(1) {
            self.conflict(
                &node.at(&policy::QUOTA),
                "ThrottleCrab has no limit where the burst is 1, give a `burst` of 2 or more",
            );
        }
    }

    #[inline(never)]
    fn descriptor(&mut self, policy: &Node<'_>) -> Vec<EntrySpec> {
        let at = policy.at(&policy::DESCRIPTOR);
        let mut entries: Vec<EntrySpec> = Vec::new();
        for (position, value) in policy.items(&policy::DESCRIPTOR).iter().enumerate() {
            let node = Node::new(value, at.item(position));
            let spec = self.entry(&node);
            if !spec.name.is_empty() && entries.iter().any(|earlier| earlier.name == spec.name) {
                let what = "an earlier entry has this name, choose another".to_owned();
                self.problems.add(
                    node.at(&entry::NAME).path(),
                    ProblemKind::Duplicate { what },
                );
            }
            entries.push(spec);
        }
        entries
    }

    #[inline(never)]
    fn entry(&mut self, node: &Node<'_>) -> EntrySpec {
        self.check_sources(node);
        let source = if let Some(name) = node.given_text(&entry::HEADER) {
            Source::Header(name.to_ascii_lowercase())
        } else if node.has(&entry::PROPERTY) {
            Source::Property {
                path: texts(node.items(&entry::PROPERTY)),
                value_type: match node.text(&entry::AS) {
                    "bool" => PropertyType::Bool,
                    "number" => PropertyType::Number,
                    _ => PropertyType::String,
                },
            }
        } else if node.has(&entry::CLIENT_IP) {
            Source::ClientIp {
                trusted_hops: node
                    .table(&entry::CLIENT_IP)
                    .small_count(&client_ip::TRUSTED_HOPS),
            }
        } else if let Some(name) = node.given_text(&entry::QUERY) {
            Source::Query(name.to_owned())
        } else if let Some(value) = node.given_text(&entry::VALUE) {
            Source::Value(value.to_owned())
        } else {
            Source::RouteName
        };
        EntrySpec {
            default: owned(node.given_text(&entry::DEFAULT)),
            name: node.text(&entry::NAME).to_owned(),
            optional: node.is_true(&entry::OPTIONAL),
            source,
        }
    }

    /// An entry has one source, and what goes with it.
    fn check_sources(&mut self, node: &Node<'_>) {
        self.check_one_source(node, entry::ENTRY.one_of);
        if node.has(&entry::AS) && !node.has(&entry::PROPERTY) {
            self.conflict(&node.at(&entry::AS), "goes with `property` only");
        }
        if node.is_true(&entry::OPTIONAL) && node.has(&entry::DEFAULT) {
            let with = "with a default nothing is missing, remove `optional`";
            self.conflict(&node.at(&entry::OPTIONAL), with);
        }
    }

    /// Of these keys, exactly one says where a value comes from.
    pub(super) fn check_one_source(&mut self, node: &Node<'_>, sources: &[&'static Key]) {
        let place = |key: &&&Key| node.find(key).map_or(usize::MAX, |(position, _)| position);
        let given = || sources.iter().filter(|key| node.has(key));
        let Some(first) = given().min_by_key(place) else {
            let sources = one_of(sources.iter().map(|key| key.name));
            let expected = ["a source of the value: ", &sources].concat();
            self.problems
                .add(node.at.path(), ProblemKind::Missing { expected });
            return;
        };
        for other in given().filter(|key| key.name != first.name) {
            let with = text::fill("`{}` is a source too, keep one of them", &[first.name]);
            self.conflict(&node.at(other), &with);
        }
    }

    #[inline(never)]
    fn route(&mut self, top: &Node<'_>, node: &Node<'_>) -> Route {
        let choice = self.choice(node, &route::POLICY);
        let changes = node.table(&route::OVERRIDE);
        let choice = match choice {
            Choice::Policy(base) if !changes.fields.is_empty() => {
                Choice::Policy(self.overridden(top, &changes, base))
            }
            Choice::Policy(_) => choice,
            Choice::Off => {
                if node.given_text(&route::POLICY) == Some("off") && node.has(&route::OVERRIDE) {
                    self.conflict(&changes.at, "the policy is `off`, remove one of them");
                }
                choice
            }
        };
        Route {
            choice,
            matches: route_match(&node.table(&route::MATCH)),
        }
    }

    /// A policy with a rule's changes.
    fn overridden(&mut self, top: &Node<'_>, node: &Node<'_>, base: Rc<Policy>) -> Rc<Policy> {
        let Some(mut policy) = self.again(top, &base) else {
            return base;
        };
        self.apply(node, &mut policy);
        if node.has(&policy::TIMEOUT) || node.has(&policy::HOST_BUDGET) {
            self.check_timeout(node, &policy);
        }
        if node.has(&policy::FAILURE_MODE)
            && policy.failure_mode == FailureMode::FailLocal
            && policy.local_limit.is_none()
        {
            let with = text::fill(
                "`fail_local` needs a `local_limit` in the policy `{}`",
                &[&policy.name],
            );
            self.conflict(&node.at(&policy::FAILURE_MODE), &with);
        }
        Rc::new(policy)
    }

    /// A policy read once more, its problems told already: that needs no code to copy one.
    fn again(&mut self, top: &Node<'_>, base: &Policy) -> Option<Policy> {
        let policies = top.table(&keys::config::POLICIES);
        let mut fields = policies.fields.iter().enumerate();
        let (position, (name, value)) = fields.find(|(_, (name, _))| **name == *base.name)?;
        let told = core::mem::take(&mut self.problems);
        let node = Node::new(value, policies.at.key(position, name));
        let policy = self.policy(&node, base.index, name);
        self.problems = told;
        Some(policy)
    }
}

/// The fields of a key's object, sorted by name; of equal names, the first.
fn by_name<'a>(
    node: &Node<'a>,
    key: &Key,
) -> impl Iterator<Item = (usize, (usize, &'a (String, Value)))> + use<'a> {
    let mut fields = Vec::new();
    for field in node.fields(key).iter().take(NAMES_MAX).enumerate() {
        fields.push(field);
    }
    sort_by(&mut fields, |one, other| one.1.0.cmp(&other.1.0));
    fields.dedup_by_key(|(_, (name, _))| name.as_str());
    fields.into_iter().enumerate()
}

fn not_found<'a>(
    what: &'static str,
    got: &str,
    declared: impl Iterator<Item = &'a str> + Clone,
) -> ProblemKind {
    ProblemKind::NotFound {
        did_you_mean: owned(units::did_you_mean(got, declared.clone())),
        declared: all_of(declared.take(DECLARED_SHOWN)),
        got: got.to_owned(),
        what,
    }
}

fn cache_ttls(node: &Node<'_>) -> CacheTtls {
    CacheTtls {
        allow: node.duration(&cache::ALLOW_TTL),
        deny: node.duration(&cache::DENY_TTL),
        rejected: node.duration(&cache::REJECTED_TTL),
        stale_if_error: node.duration(&cache::STALE_IF_ERROR),
    }
}

fn lease_terms(node: &Node<'_>) -> LeaseTerms {
    LeaseTerms {
        max_units: node.count(&lease::MAX_UNITS),
        ttl: node.duration(&lease::TTL),
    }
}

fn local_limit(node: &Node<'_>) -> LocalLimit {
    let units = node.count(&local_limit::UNITS);
    LocalLimit {
        burst: node.given_count(&local_limit::BURST).unwrap_or(units),
        per: node.duration(&local_limit::PER),
        units,
    }
}

fn quota_terms(node: &Node<'_>) -> QuotaTerms {
    let units = node.count(&quota::UNITS);
    QuotaTerms {
        burst: node.given_count(&quota::BURST).unwrap_or(units),
        per: node.duration(&quota::PER),
        units,
    }
}

#[inline(never)]
fn denial_style(node: &Node<'_>) -> DenialStyle {
    let status = |key: &Key| u16::try_from(node.count(key)).unwrap_or(u16::MAX);
    let cors = node.table(&denial::CORS);
    DenialStyle {
        allow_origins: texts(cors.items(&cors::ALLOW_ORIGINS)),
        headers: headers(node, &denial::HEADERS),
        status: status(&denial::STATUS),
        unavailable_status: status(&denial::UNAVAILABLE_STATUS),
    }
}

#[inline(never)]
fn route_match(node: &Node<'_>) -> RouteMatch {
    RouteMatch {
        headers: headers(node, &route_match::HEADERS),
        host: node
            .given_text(&route_match::HOST)
            .map(str::to_ascii_lowercase),
        methods: texts(node.items(&route_match::METHODS)),
        path_prefix: owned(node.given_text(&route_match::PATH_PREFIX)),
        route_name: owned(node.given_text(&route_match::ROUTE_NAME)),
    }
}

fn emergency(node: &Node<'_>) -> Emergency {
    Emergency {
        mode: match node.text(&emergency::MODE) {
            "bypass" => EmergencyMode::Bypass,
            _ => EmergencyMode::FailOpen,
        },
        reason: node.text(&emergency::REASON).to_owned(),
        until: timestamp::parse(node.text(&emergency::UNTIL)).unwrap_or_default(),
    }
}

/// Names in lower case, and values.
fn headers(node: &Node<'_>, key: &Key) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    for (name, value) in node.fields(key) {
        if let Some(value) = value.as_text() {
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }
    headers
}

pub(super) fn texts(items: &[Value]) -> Vec<String> {
    let mut texts = Vec::new();
    for text in items.iter().filter_map(Value::as_text) {
        texts.push(text.to_owned());
    }
    texts
}

pub(super) fn status_pattern(value: &Value) -> Option<StatusPattern> {
    if !is_valid(value, &keys::Kind::Status) {
        return None;
    }
    match value.as_count() {
        Some(status) => u16::try_from(status).ok().map(StatusPattern::Exact),
        None => units::status_class(value.as_text()?),
    }
}

/// Whether some status is meant by both.
const fn overlap(one: StatusPattern, other: StatusPattern) -> bool {
    match (one, other) {
        (StatusPattern::Class(one), StatusPattern::Class(other)) => one == other,
        (StatusPattern::Class(_), StatusPattern::Exact(status)) => one.matches(status),
        (StatusPattern::Exact(status), _) => other.matches(status),
    }
}

fn owned(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}

fn is_custom(node: &Node<'_>) -> bool {
    node.text(&backend::PRESET) == "custom"
}

/// No map of names may have more; one that has is refused.
const NAMES_MAX: usize = 256;
/// Names listed when one is not found; the reader meant none of them.
const DECLARED_SHOWN: usize = 10;
