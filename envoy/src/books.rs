//! The backend's books: limits and counters, kept by limitador in memory.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use limitador::RateLimiter;
use limitador::counter::Counter;
use limitador::limit::{Context, Expression, Limit, Namespace, Predicate};

use crate::server::lock;

/// A descriptor: who is asking and for what, in order.
pub type Descriptor = Vec<(String, String)>;

/// Limits and what was used of them.
pub struct Books {
    limiter: RateLimiter,
    limits: Mutex<BTreeMap<String, Limit>>,
    /// Units taken back, which limitador can't do: they pay for what is charged next. They outlive
    /// the window that they were charged in.
    credits: Mutex<BTreeMap<(String, Descriptor), u64>>,
}

/// One limit's state, as far as it concerns a descriptor.
#[derive(Clone, Debug)]
pub struct Count {
    /// What it is called.
    pub name: String,
    /// Units per window.
    pub max: u64,
    /// How long a window is.
    pub window: Duration,
    /// Units left in this one.
    pub remaining: u64,
    /// When the next one begins.
    pub resets_in: Duration,
}

/// What the books say to a charge.
#[derive(Clone, Debug)]
pub struct Charge {
    /// Units granted; 0 with a cost above 0 means denied.
    pub granted: u64,
    /// Whether nothing was granted for want of units.
    pub denied: bool,
    /// The limits that apply, the tightest first, as they are afterwards.
    pub counts: Vec<Count>,
}

impl Default for Books {
    fn default() -> Self {
        Self::new()
    }
}

impl Books {
    /// Books without limits: everything is granted.
    #[must_use]
    pub fn new() -> Self {
        Self {
            limiter: RateLimiter::new(COUNTERS_MAX),
            limits: Mutex::default(),
            credits: Mutex::default(),
        }
    }

    /// Limits each value of the entry `name` to `max` units per `window` (whole seconds).
    pub fn limit_each(&self, namespace: &str, name: &str, max: u64, window: Duration) {
        let (name, limit) = limit((namespace, "", &[name]), max, window);
        self.set(&name, limit);
    }

    /// Sets the limit `name`; what was counted for it stays, unless its conditions, its `each` or
    /// its window are others than before.
    pub(crate) fn set(&self, name: &str, limit: Limit) {
        let mut limits = lock(&self.limits);
        limits.insert(name.to_owned(), limit);
        let all: Vec<Limit> = limits.values().cloned().collect();
        self.limiter
            .configure_with(all)
            .expect("limits in memory can be set");
    }

    /// Drops all limits and all counts.
    pub(crate) fn clear(&self) {
        lock(&self.limits).clear();
        lock(&self.credits).clear();
        self.limiter
            .configure_with([])
            .expect("limits in memory can be dropped");
    }

    /// Charges `cost`, or else what remains if that is at least `least`, or else nothing.
    ///
    /// # Panics
    /// If limitador can't do what it can always do in memory.
    pub fn charge(
        &self,
        namespace: &str,
        descriptor: &Descriptor,
        cost: u64,
        least: u64,
    ) -> Charge {
        let account = (namespace.to_owned(), descriptor.clone());
        let namespace = Namespace::from(namespace.to_owned());
        let context = context(descriptor);
        // One charge at a time: between the look and the second charge nobody else may take.
        let _one = lock(&self.limits);
        let credit = lock(&self.credits).get(&account).copied().unwrap_or(0);
        if credit > 0 {
            let paid = self.try_charge(&namespace, &context, cost.saturating_sub(credit));
            if let Ok(counts) = paid {
                let left = credit - self.use_credit(&account, cost);
                return Charge {
                    granted: cost,
                    denied: false,
                    counts: credited(counts, left),
                };
            }
        }
        let mut counts = self.try_charge(&namespace, &context, cost);
        let mut granted = cost;
        if let Err(denied) = counts {
            granted = denied
                .iter()
                .map(|count| count.remaining)
                .min()
                .unwrap_or(0);
            counts = if least > 0 && granted >= least {
                self.try_charge(&namespace, &context, granted)
            } else {
                Err(denied)
            };
        }
        match counts {
            Ok(counts) => Charge {
                granted,
                denied: false,
                counts,
            },
            Err(counts) => Charge {
                granted: 0,
                denied: true,
                counts: credited(counts, credit),
            },
        }
    }

    fn use_credit(&self, account: &(String, Descriptor), units: u64) -> u64 {
        let mut credits = lock(&self.credits);
        let credit = credits.get(account).copied().unwrap_or(0);
        let used = credit.min(units);
        if used > 0 {
            credits.insert(account.clone(), credit - used);
        }
        used
    }

    /// Says whether `cost` more would be denied; charges nothing.
    pub(crate) fn would_deny(&self, namespace: &str, descriptor: &Descriptor, cost: u64) -> bool {
        let namespace = Namespace::from(namespace.to_owned());
        self.limiter
            .is_rate_limited(&namespace, &context(descriptor), cost)
            .expect("limits in memory can be read")
            .limited
    }

    /// Counts units, whatever the limits say, or takes them back.
    pub(crate) fn report(&self, namespace: &str, descriptor: &Descriptor, units: i64) {
        let account = (namespace.to_owned(), descriptor.clone());
        let size = units.unsigned_abs();
        if units < 0 {
            *lock(&self.credits).entry(account).or_default() += size;
            return;
        }
        let cost = size - self.use_credit(&account, size);
        let namespace = Namespace::from(namespace.to_owned());
        self.limiter
            .update_counters(&namespace, &context(descriptor), cost)
            .expect("counters in memory can be written");
    }

    fn try_charge(
        &self,
        namespace: &Namespace,
        context: &Context<'_>,
        cost: u64,
    ) -> Result<Vec<Count>, Vec<Count>> {
        let result = self
            .limiter
            .check_rate_limited_and_update(namespace, context, cost)
            .expect("counters in memory can be written");
        let mut counts: Vec<Count> = result.counters.iter().map(count).collect();
        counts.sort_by_key(|count| count.remaining);
        if result.limited {
            Err(counts)
        } else {
            Ok(counts)
        }
    }
}

/// A limit on descriptors that hold every `name=value` of `conditions` (joined by `&`; empty: all
/// descriptors), of `max` units per `window`; with `each`, that much per value of these entries.
pub(crate) fn limit(
    (namespace, conditions, each): (&str, &str, &[&str]),
    max: u64,
    window: Duration,
) -> (String, Limit) {
    let predicates = conditions
        .split('&')
        .filter(|condition| !condition.is_empty());
    let predicates = predicates.map(|condition| {
        let (name, value) = condition
            .split_once('=')
            .expect("a condition like tenant=acme");
        let source = format!("descriptors[0][{}] == {}", quoted(name), quoted(value));
        Predicate::parse(source).expect("a predicate limitador can read")
    });
    let variables = each.iter().map(|name| {
        let source = format!("descriptors[0][{}]", quoted(name));
        Expression::parse(source).expect("an expression limitador can read")
    });
    let mut limit = Limit::new(
        namespace,
        max,
        window.as_secs().max(1),
        predicates,
        variables,
    );
    let name = match (conditions, each) {
        ("", []) => "all".to_owned(),
        (conditions, []) => conditions.to_owned(),
        ("", each) => format!("each {}", each.join(",")),
        (conditions, each) => format!("{conditions} each {}", each.join(",")),
    };
    limit.set_name(name.clone());
    (format!("{namespace}/{name}"), limit)
}

/// A CEL string literal.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The counts with what was taken back: limitador's own counters never go down.
fn credited(mut counts: Vec<Count>, credit: u64) -> Vec<Count> {
    for count in &mut counts {
        count.remaining = count.remaining.saturating_add(credit).min(count.max);
    }
    counts
}

pub(crate) fn context(descriptor: &Descriptor) -> Context<'static> {
    let mut context = Context::default();
    let entries = descriptor.iter().cloned().collect();
    context.list_binding("descriptors".to_owned(), vec![entries]);
    context
}

pub(crate) fn count(counter: &Counter) -> Count {
    Count {
        name: counter.limit().name().unwrap_or_default().to_owned(),
        max: counter.max_value(),
        window: counter.window(),
        remaining: counter.remaining().unwrap_or_else(|| counter.max_value()),
        resets_in: counter.expires_in().unwrap_or_else(|| counter.window()),
    }
}

/// Counters held at once; limitador forgets others beyond it.
const COUNTERS_MAX: u64 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn books(conditions: &str, each: &[&str], max: u64) -> Books {
        let books = Books::new();
        let (name, limit) = limit(("ns", conditions, each), max, Duration::from_secs(60));
        books.set(&name, limit);
        books
    }

    fn entries(pairs: &[(&str, &str)]) -> Descriptor {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn denies_above_the_limit_and_only_those_it_is_for() {
        let books = books("tenant=acme", &[], 2);
        let acme = entries(&[("tenant", "acme"), ("plan", "free")]);
        assert!(!books.charge("ns", &acme, 2, 0).denied);
        assert!(books.charge("ns", &acme, 1, 0).denied);
        assert!(
            !books
                .charge("ns", &entries(&[("tenant", "other")]), 1, 0)
                .denied
        );
        assert!(!books.charge("ns", &entries(&[]), 1, 0).denied);
        assert!(!books.charge("other", &acme, 1, 0).denied);
    }

    #[test]
    fn grants_what_remains_if_that_is_enough() {
        let books = books("", &[], 10);
        let anyone = entries(&[("tenant", "o'neil")]);
        assert_eq!(books.charge("ns", &anyone, 7, 1).granted, 7);
        assert!(books.charge("ns", &anyone, 7, 4).denied);
        assert_eq!(books.charge("ns", &anyone, 7, 3).granted, 3);
        assert!(books.charge("ns", &anyone, 7, 1).denied);
    }

    #[test]
    fn counts_each_value_by_itself_and_keeps_counts_when_the_limit_moves() {
        let books = books("", &["tenant"], 1);
        let (a, b) = (entries(&[("tenant", "a")]), entries(&[("tenant", "b")]));
        assert!(!books.charge("ns", &a, 1, 0).denied);
        assert!(!books.charge("ns", &b, 1, 0).denied);
        assert!(books.charge("ns", &a, 1, 0).denied);

        let (name, larger) = limit(("ns", "", &["tenant"]), 2, Duration::from_secs(60));
        books.set(&name, larger);

        assert_eq!(books.charge("ns", &a, 1, 0).counts[0].remaining, 0);
        assert!(books.charge("ns", &a, 1, 0).denied);
    }

    #[test]
    fn what_is_taken_back_remains() {
        let a = entries(&[("tenant", "a")]);
        let books = books("", &["tenant"], 10);
        let remaining = |cost| {
            let charge = books.charge("ns", &a, cost, 0);
            (charge.denied, charge.counts[0].remaining)
        };

        assert_eq!(remaining(8), (false, 2));
        books.report("ns", &a, -5);
        assert_eq!(remaining(8), (true, 7));
        assert_eq!(remaining(6), (false, 1));
        assert_eq!(remaining(1), (false, 0));
    }
}
