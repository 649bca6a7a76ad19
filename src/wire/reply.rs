//! Applies reply rules to replies.
//!
//! The status comes first: what neither the configuration nor the language knows is a failure. Then
//! a language with body rules looks into a body whose status says yes, because many backends say no
//! with 200. What is told of the limit is read last, and nothing there can make a reply bad.

use core::cmp::Ordering;
use core::time::Duration;

use crate::config::value::Value;
use crate::config::{StatusPattern, Statuses};
use crate::decision::{CheckError, Limits};
use crate::language::{BodyRules, Place, Pointer, Reading, Report, Rules, Target, Text, Want};
use crate::text;
use crate::wire::json;
use crate::wire::{BODY_BYTES_MAX, Caching, RawReply, Reply, ReplyOutcome, structured};

/// What the statuses alone say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Meaning {
    Allow,
    Deny,
    Reject,
}

/// Everything that was read beside the decision.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    granted: Option<u64>,
    limits: Limits,
    retry_after: Option<Duration>,
}

impl Rules {
    /// What `reply` says, with the backend's own `statuses` before the language's.
    ///
    /// # Errors
    /// [`CheckError::Status`] and [`CheckError::BadReply`].
    pub fn read(&self, reply: &RawReply<'_>, statuses: &Statuses) -> Result<Reply, CheckError> {
        let by_status = self
            .meaning(reply.status, statuses)
            .ok_or(CheckError::Status(reply.status))?;
        let body = self.body(reply);
        let meaning = match (by_status, &self.body) {
            (Meaning::Allow, Some(rules)) => {
                let body = body.as_ref().ok_or(CheckError::BadReply)?;
                rules.meaning(body).ok_or(CheckError::BadReply)?
            }
            (meaning, _) => meaning,
        };
        let (told, is_clear) = self.told(reply, body.as_ref());
        if meaning == Meaning::Allow && !is_clear {
            // How much was given is part of a yes; a guess could over-admit. A no stays a no.
            return Err(CheckError::BadReply);
        }
        Ok(Reply {
            outcome: match meaning {
                Meaning::Allow => ReplyOutcome::Granted {
                    units: told.granted,
                },
                Meaning::Deny => ReplyOutcome::Denied,
                Meaning::Reject => ReplyOutcome::Rejected {
                    status: if reply.status == 403 { 403 } else { 401 },
                },
            },
            limits: told.limits,
            retry_after: told.retry_after.filter(|_| meaning != Meaning::Allow),
            caching: caching(reply),
        })
    }

    /// The configuration goes before the language, one status before a hundred, and no before yes.
    fn meaning(&self, status: u16, own: &Statuses) -> Option<Meaning> {
        let configured = [
            (Meaning::Deny, own.deny.as_deref()),
            (Meaning::Reject, own.reject.as_deref()),
            (Meaning::Allow, own.allow.as_deref()),
        ];
        let standard = [
            (Meaning::Deny, own.deny.is_none().then_some(&*self.deny)),
            (
                Meaning::Reject,
                own.reject.is_none().then_some(&*self.reject),
            ),
            (Meaning::Allow, own.allow.is_none().then_some(&*self.allow)),
        ];
        let find = |sets: &[(Meaning, Option<&[StatusPattern]>)], exact: bool| {
            sets.iter().find_map(|(meaning, set)| {
                let mut patterns = set.unwrap_or_default().iter();
                patterns
                    .any(|pattern| {
                        matches!(pattern, StatusPattern::Exact(_)) == exact
                            && pattern.matches(status)
                    })
                    .then_some(*meaning)
            })
        };
        find(&configured, true)
            .or_else(|| find(&configured, false))
            .or_else(|| find(&standard, true))
            .or_else(|| find(&standard, false))
    }

    /// Whether anything is to be read in a body.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        self.body.is_some()
            || self
                .readings
                .iter()
                .any(|reading| matches!(reading.place, Place::Pointer(_)))
    }

    /// The body, if anything is to be read there and it is JSON of bearable size.
    fn body(&self, reply: &RawReply<'_>) -> Option<Value> {
        if !self.reads_body() || reply.body.len() > BODY_BYTES_MAX {
            return None;
        }
        Value::from_json(reply.body).ok()
    }

    /// What is told beside the decision, and whether the units granted can be read if they are.
    #[inline(never)]
    fn told(&self, reply: &RawReply<'_>, body: Option<&Value>) -> (Told, bool) {
        let mut told = Told {
            limits: structured::limits(every(reply, "ratelimit"), every(reply, "ratelimit-policy")),
            ..Told::default()
        };
        let mut is_clear = true;
        let item = body.and_then(|body| self.tightest(body, reply));
        for reading in self.readings.iter().chain(self.more) {
            let source = Source { reply, body, item };
            if reading.target == Target::Granted && source.is_bad(reading) {
                is_clear = false;
            }
            told.take(reading, &source);
        }
        (told, is_clear)
    }

    /// The item of `each` with the least left, of those that have a limit at all.
    fn tightest<'a>(&self, body: &'a Value, reply: &RawReply<'_>) -> Option<&'a Value> {
        let each = self.body.as_ref()?.each.as_ref()?;
        let mut tightest: Option<(&Value, Limits)> = None;
        for item in json::at(body, each)?.items() {
            let source = Source {
                reply,
                body: None,
                item: Some(item),
            };
            let mut told = Told::default();
            for reading in self.readings.iter() {
                if matches!(reading.place, Place::Item(_)) {
                    told.take(reading, &source);
                }
            }
            let limits = told.limits;
            let is_tighter = tightest.is_none_or(|(_, before)| is_tighter(&limits, &before));
            if limits.limit.is_some() && is_tighter {
                tightest = Some((item, limits));
            }
        }
        tightest.map(|(item, _)| item)
    }
}

/// Whether less is left; of two that are used up, the one that takes longer to come back.
fn is_tighter(one: &Limits, other: &Limits) -> bool {
    match one.remaining.cmp(&other.remaining) {
        Ordering::Less => true,
        Ordering::Equal => one.reset > other.reset,
        Ordering::Greater => false,
    }
}

impl Report {
    /// Whether `reply` says that what was told has been counted.
    ///
    /// # Errors
    /// [`CheckError::Status`] and [`CheckError::BadReply`].
    pub(super) fn read(&self, reply: &RawReply<'_>) -> Result<(), CheckError> {
        let is_in = |patterns: &[StatusPattern]| {
            let mut patterns = patterns.iter();
            patterns.any(|pattern| pattern.matches(reply.status))
        };
        if is_in(&self.unsure) {
            return Err(CheckError::BadReply);
        }
        if !is_in(&self.counted) {
            return Err(CheckError::Status(reply.status));
        }
        let Some(error) = &self.error else {
            return Ok(());
        };
        if reply.body.len() > BODY_BYTES_MAX {
            return Err(CheckError::BadReply);
        }
        let body = Value::from_json(reply.body).map_err(|_| CheckError::BadReply)?;
        match json::at(&body, error).is_some_and(json::is_something) {
            true => Err(CheckError::BadReply),
            false => Ok(()),
        }
    }
}

impl BodyRules {
    fn meaning(&self, body: &Value) -> Option<Meaning> {
        let at = |pointer: &Pointer| json::at(body, pointer);
        if self
            .error
            .iter()
            .any(|pointer| at(pointer).is_some_and(json::is_something))
        {
            return None;
        }
        [
            (Meaning::Reject, &self.reject),
            (Meaning::Deny, &self.deny),
            (Meaning::Allow, &self.allow),
        ]
        .into_iter()
        .find_map(|(meaning, tests)| {
            let mut tests = tests.iter();
            tests
                .any(|test| at(&test.pointer).is_some_and(|value| test.want.holds(value)))
                .then_some(meaning)
        })
    }
}

impl Want {
    fn holds(&self, value: &Value) -> bool {
        match self {
            Self::Falsy => json::truth(value) == Some(false),
            Self::OneOf(words) => match value {
                Value::Text(own) => words.iter().any(|word| word == own),
                Value::Number(number) => words.iter().any(|word| {
                    let word = text::parse_decimal(word.as_bytes());
                    word.is_some() && word == number.as_count()
                }),
                Value::Bool(yes) => words
                    .iter()
                    .any(|word| *word == if *yes { "true" } else { "false" }),
                Value::List(_) | Value::Null | Value::Object(_) => false,
            },
            Self::Truthy => json::truth(value) == Some(true),
        }
    }
}

/// Where readings look.
#[derive(Clone, Copy)]
struct Source<'a> {
    reply: &'a RawReply<'a>,
    body: Option<&'a Value>,
    item: Option<&'a Value>,
}

impl Source<'_> {
    fn count(&self, reading: &Reading) -> Option<u64> {
        let (there, found) = match &reading.place {
            Place::Header(name) => {
                let value = once(self.reply, name);
                (true, value.and_then(json::count_text))
            }
            Place::Item(pointer) => (self.item.is_some(), count_at(self.item, pointer)),
            Place::Parameter(name, key) => {
                let value = once(self.reply, name);
                (true, value.and_then(|value| parameter(value, key)))
            }
            Place::Pointer(pointer) => (self.body.is_some(), count_at(self.body, pointer)),
        };
        found.or_else(|| reading.missing.filter(|_| there))
    }

    fn span(&self, reading: &Reading) -> Option<Duration> {
        let (unit, now) = (reading.unit, self.reply.now);
        match &reading.place {
            Place::Header(name) => json::span_text(once(self.reply, name)?, unit, now),
            Place::Item(pointer) => json::span(json::at(self.item?, pointer)?, unit, now),
            Place::Parameter(name, key) => {
                parameter(once(self.reply, name)?, key).map(Duration::from_secs)
            }
            Place::Pointer(pointer) => json::span(json::at(self.body?, pointer)?, unit, now),
        }
    }

    /// Whether something is there that can't be read.
    fn is_bad(&self, reading: &Reading) -> bool {
        let there = match &reading.place {
            Place::Header(name) | Place::Parameter(name, _) => {
                every(self.reply, name).next().is_some()
            }
            Place::Item(pointer) => self.item.and_then(|item| json::at(item, pointer)).is_some(),
            Place::Pointer(pointer) => self.body.and_then(|body| json::at(body, pointer)).is_some(),
        };
        there && self.count(reading).is_none()
    }
}

fn count_at(value: Option<&Value>, pointer: &[Text]) -> Option<u64> {
    json::at(value?, pointer).and_then(json::count)
}

impl Told {
    fn take(&mut self, reading: &Reading, source: &Source<'_>) {
        let limits = &mut self.limits;
        match reading.target {
            Target::Granted => self.granted = self.granted.or_else(|| source.count(reading)),
            Target::Limit => limits.limit = limits.limit.or_else(|| source.count(reading)),
            Target::Remaining => {
                limits.remaining = limits.remaining.or_else(|| source.count(reading));
            }
            Target::Reset => limits.reset = limits.reset.or_else(|| source.span(reading)),
            Target::RetryAfter => {
                self.retry_after = self.retry_after.or_else(|| source.span(reading));
            }
            Target::Window => limits.window = limits.window.or_else(|| source.span(reading)),
        }
    }
}

fn caching(reply: &RawReply<'_>) -> Caching {
    let mut caching = Caching::default();
    let directives = every(reply, "cache-control").flat_map(|field| field.split(|b| *b == b','));
    for directive in directives {
        let mut halves = directive.splitn(2, |byte| *byte == b'=');
        let name = halves.next().unwrap_or_default().trim_ascii();
        let value = halves.next().unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"no-store") || name.eq_ignore_ascii_case(b"no-cache") {
            caching.no_store = true;
        } else if name.eq_ignore_ascii_case(b"max-age") {
            // The shortest counts; one that can't be read counts as none (RFC 9111, section 4.2.1).
            let seconds = text::parse_decimal(value.trim_ascii()).unwrap_or(0);
            let age = Duration::from_secs(seconds);
            caching.max_age = Some(caching.max_age.map_or(age, |own| own.min(age)));
        }
    }
    caching
}

/// The values of every header of that name.
fn every<'a>(reply: &RawReply<'a>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let name = name.as_bytes();
    reply
        .headers
        .iter()
        .filter(move |(own, _)| own.eq_ignore_ascii_case(name))
        .map(|(_, value)| *value)
}

/// The value of a header that is there once; twice is as good as not at all.
fn once<'a>(reply: &RawReply<'a>, name: &str) -> Option<&'a [u8]> {
    let mut values = every(reply, name);
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.trim_ascii()),
        (_, _) => None,
    }
}

/// The parameter `key` of the policy whose quota is the one in force: `10, 5;w=1, 10;w=60` has 60.
fn parameter(field: &[u8], key: &str) -> Option<u64> {
    let mut policies = field.split(|byte| *byte == b',');
    let quota = json::count_text(policies.next()?)?;
    policies
        .filter(|policy| json::count_text(policy) == Some(quota))
        .flat_map(|policy| policy.split(|byte| *byte == b';').skip(1))
        .find_map(|parameter| {
            let mut halves = parameter.splitn(2, |byte| *byte == b'=');
            let own = halves.next()?.trim_ascii();
            (own == key.as_bytes()).then(|| text::parse_decimal(halves.next()?.trim_ascii()))?
        })
}
