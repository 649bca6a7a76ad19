//! Which policy a request gets: route metadata, then the rules in order, then the default.
//!
//! Metadata that is not valid never opens a route: the request falls to the default policy, and the
//! problem is told.

use alloc::vec::Vec;
use core::cell::OnceCell;

use crate::config::{Choice, Config, RouteMatch};
use crate::metadata::{self, MetadataProblem, RouteMetadata};
use crate::request::{Header, Request};
use crate::sorted::SortedMap;

/// Finds policies, and remembers what each piece of route metadata stands for.
#[derive(Clone, Debug)]
pub struct Router {
    known: SortedMap<Vec<u8>, Known>,
    known_max: usize,
}

/// What a piece of route metadata stands for.
#[derive(Clone, Debug)]
enum Known {
    /// Changes of whatever the rules lead to.
    Changes(RouteMetadata),
    /// This policy.
    Choice(Choice),
    /// It says nothing to this filter.
    Nothing,
    /// It is not valid.
    Problem(MetadataProblem),
}

impl Router {
    /// Nothing is remembered yet, and so many pieces of metadata may be.
    #[must_use]
    pub const fn new(known_max: usize) -> Self {
        Self {
            known: SortedMap::new(),
            known_max,
        }
    }

    /// Pieces of metadata whose meaning is remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The policy of a request, and what is wrong with its route's metadata.
    pub fn choose(
        &mut self,
        config: &Config,
        request: &dyn Request,
    ) -> (Choice, Option<MetadataProblem>) {
        let Some(bytes) = request.route_metadata().filter(|bytes| !bytes.is_empty()) else {
            return (by_rules(config, request), None);
        };
        let known = match self.known.get(&bytes) {
            Some(known) => known.clone(),
            None => {
                let known = Known::read(config, &bytes);
                if self.known.len() < self.known_max {
                    self.known.insert(bytes, known.clone());
                }
                known
            }
        };
        let choice = match known {
            Known::Nothing => Ok(by_rules(config, request)),
            Known::Choice(choice) => Ok(choice),
            Known::Changes(changes) => {
                metadata::choose(config, &changes, || by_rules(config, request))
            }
            Known::Problem(problem) => Err(problem),
        };
        match choice {
            Ok(choice) => (choice, None),
            Err(problem) => (config.default_policy.clone(), Some(problem)),
        }
    }
}

impl Known {
    #[inline(never)]
    fn read(config: &Config, bytes: &[u8]) -> Self {
        match metadata::read(bytes) {
            Err(problem) => Self::Problem(problem),
            Ok(None) => Self::Nothing,
            Ok(Some(changes)) if changes.policy.is_none() => Self::Changes(changes),
            Ok(Some(named)) => match metadata::choose(config, &named, || Choice::Off) {
                Ok(choice) => Self::Choice(choice),
                Err(problem) => Self::Problem(problem),
            },
        }
    }
}

fn by_rules(config: &Config, request: &dyn Request) -> Choice {
    if config.routes.is_empty() {
        return config.default_policy.clone();
    }
    first_match(config, request)
}

#[inline(never)]
fn first_match(config: &Config, request: &dyn Request) -> Choice {
    let seen = Seen::new(request);
    config
        .routes
        .iter()
        .find(|route| seen.is_matched_by(&route.matches))
        .map_or(&config.default_policy, |route| &route.choice)
        .clone()
}

/// The parts of a request that rules look at, each asked of the host at most once.
struct Seen<'a> {
    request: &'a dyn Request,
    route_name: OnceCell<Option<Vec<u8>>>,
    host: OnceCell<Option<Vec<u8>>>,
    path: OnceCell<Option<&'a [u8]>>,
    method: OnceCell<Option<&'a [u8]>>,
}

impl<'a> Seen<'a> {
    const fn new(request: &'a dyn Request) -> Self {
        Self {
            request,
            route_name: OnceCell::new(),
            host: OnceCell::new(),
            path: OnceCell::new(),
            method: OnceCell::new(),
        }
    }

    fn is_matched_by(&self, rule: &RouteMatch) -> bool {
        self.has_route_name(rule)
            && self.has_host(rule)
            && self.has_path(rule)
            && self.has_method(rule)
            && self.has_headers(rule)
    }

    fn has_route_name(&self, rule: &RouteMatch) -> bool {
        let Some(wanted) = &rule.route_name else {
            return true;
        };
        let name = self.route_name.get_or_init(|| self.request.route_name());
        name.as_deref() == Some(wanted.as_bytes())
    }

    fn has_host(&self, rule: &RouteMatch) -> bool {
        let Some(wanted) = &rule.host else {
            return true;
        };
        let host = self
            .host
            .get_or_init(|| self.request.value(":authority").map(bare_host));
        host.as_ref()
            .is_some_and(|host| host_matches(wanted.as_bytes(), host))
    }

    fn has_path(&self, rule: &RouteMatch) -> bool {
        let Some(wanted) = &rule.path_prefix else {
            return true;
        };
        let path = self.path.get_or_init(|| self.request.value(":path"));
        path.as_ref()
            .is_some_and(|path| path.starts_with(wanted.as_bytes()))
    }

    fn has_method(&self, rule: &RouteMatch) -> bool {
        if rule.methods.is_empty() {
            return true;
        }
        let method = self.method.get_or_init(|| self.request.value(":method"));
        rule.methods
            .iter()
            .any(|wanted| *method == Some(wanted.as_bytes()))
    }

    fn has_headers(&self, rule: &RouteMatch) -> bool {
        rule.headers
            .iter()
            .all(|(name, wanted)| self.request.header(name) == Header::One(wanted.as_bytes()))
    }
}

/// The host in lower case, without port. An IPv6 address keeps its brackets.
fn bare_host(authority: &[u8]) -> Vec<u8> {
    let mut host = authority.to_ascii_lowercase();
    let in_brackets = host
        .iter()
        .rposition(|byte| *byte == b']')
        .map_or(0, |end| end);
    if let Some(colon) = host
        .iter()
        .rposition(|byte| *byte == b':')
        .filter(|at| *at > in_brackets)
    {
        host.truncate(colon);
    }
    host
}

/// Whether `host` is the wanted one, or lies below it where the wanted one starts with `*.`.
fn host_matches(wanted: &[u8], host: &[u8]) -> bool {
    match wanted.strip_prefix(b"*") {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => host == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::PlainRequest;

    fn matches(rule: &RouteMatch, request: &PlainRequest) -> bool {
        Seen::new(request).is_matched_by(rule)
    }

    #[test]
    fn a_rule_without_conditions_matches_everything() {
        assert!(matches(&RouteMatch::default(), &PlainRequest::default()));
    }

    #[test]
    fn every_condition_of_a_rule_has_to_hold() {
        let rule = RouteMatch {
            host: Some("api.example.com".into()),
            path_prefix: Some("/v1/".into()),
            methods: vec!["GET".into(), "HEAD".into()],
            headers: vec![("x-beta".into(), "1".into())],
            route_name: None,
        };
        let request = PlainRequest::new("GET", "API.example.com:8443", "/v1/x");

        assert!(matches(&rule, &request.clone().with_header("x-beta", "1")));
        assert!(!matches(&rule, &request.clone().with_header("x-beta", "2")));
        assert!(!matches(&rule, &request));
        let other = PlainRequest::new("POST", "api.example.com", "/v1/x");
        assert!(!matches(&rule, &other.with_header("x-beta", "1")));
    }

    #[test]
    fn a_repeated_header_matches_no_rule() {
        let rule = RouteMatch {
            headers: vec![("k".into(), "1".into())],
            ..RouteMatch::default()
        };
        let request = PlainRequest::new("GET", "a", "/").with_header("k", "1");

        assert!(matches(&rule, &request));
        assert!(!matches(&rule, &request.with_header("k", "1")));
    }

    #[test]
    fn a_wildcard_stands_for_every_name_below_but_not_for_the_name_itself() {
        assert!(host_matches(b"*.example.com", b"a.example.com"));
        assert!(host_matches(b"*.example.com", b"a.b.example.com"));
        assert!(!host_matches(b"*.example.com", b"example.com"));
        assert!(!host_matches(b"*.example.com", b".example.com"));
        assert!(!host_matches(b"*.example.com", b"aexample.com"));
    }

    #[test]
    fn the_port_is_no_part_of_the_host() {
        assert_eq!(bare_host(b"Example.com:80"), b"example.com");
        assert_eq!(bare_host(b"[::1]:80"), b"[::1]");
        assert_eq!(bare_host(b"[::1]"), b"[::1]");
        assert_eq!(bare_host(b"example.com"), b"example.com");
    }

    #[test]
    fn a_request_without_path_matches_no_prefix() {
        let rule = RouteMatch {
            path_prefix: Some("/".into()),
            ..RouteMatch::default()
        };

        assert!(!matches(
            &rule,
            &PlainRequest::default().with_header(":method", "CONNECT")
        ));
    }
}
