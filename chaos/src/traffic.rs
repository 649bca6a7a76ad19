//! The requests: what the n-th is like follows from the seed alone, so that it can be told again.

use crate::terms::{Account, EXACT, Settles};

/// What becomes of a request whose check has no answer, or of one that is not checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    /// 503.
    Closed,
    /// The local limit decides.
    Local,
    /// It is not checked.
    Off,
    /// It passes.
    Open,
    /// It is checked, and passes whatever comes of that.
    Shadow,
    /// The gate answers it itself.
    StatusPage,
}

/// A path, and what is configured for it.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) path: &'static str,
    /// Empty where none applies.
    pub(crate) policy: &'static str,
    pub(crate) mode: Mode,
    /// Which of the two backends is asked.
    pub(crate) backend: usize,
    pub(crate) timeout_ms: u64,
    /// Only the `headers` language knows keys that are not valid.
    pub(crate) rejects: bool,
    weight: u32,
}

const fn kind(path: &'static str, mode: Mode, backend: usize, timeout_ms: u64, w: u32) -> Kind {
    let policy = match path.as_bytes() {
        [_, policy @ ..] => match std::str::from_utf8(policy) {
            Ok(policy) => policy,
            Err(_) => "",
        },
        [] => "",
    };
    Kind {
        path,
        policy,
        mode,
        backend,
        timeout_ms,
        rejects: true,
        weight: w,
    }
}

impl Kind {
    const fn policy(self, policy: &'static str) -> Self {
        Self { policy, ..self }
    }

    /// Where the units of its requests are booked.
    pub(crate) fn account(&self) -> Option<&'static Account> {
        Account::of(self.path)
    }

    /// What its requests have really used is told afterwards.
    pub(crate) fn settles(&self) -> bool {
        self.account()
            .is_some_and(|account| account.mode != Settles::Never)
    }

    /// Its checks charge an estimate, which is corrected afterwards.
    pub(crate) fn corrects(&self) -> bool {
        self.account()
            .is_some_and(|account| account.mode == Settles::Correct)
    }

    /// Units are granted ahead of need.
    pub(crate) fn leases(&self) -> bool {
        self.account().is_some_and(|account| account.leases)
    }

    /// Requests of one key may share one call.
    pub(crate) fn joins(&self) -> bool {
        self.path == "/cached" || self.leases()
    }

    /// Its checks ask for no units, only whether any are left.
    pub(crate) fn checks_for_nothing(&self) -> bool {
        let account = self.account();
        account.is_some_and(|own| own.mode == Settles::Report && own.preset != "limitador")
    }

    /// Its replies are read with their bodies.
    pub(crate) fn reads_body(&self) -> bool {
        ["/json", "/hits-settled"].contains(&self.path)
    }

    const fn never_rejects(self) -> Self {
        Self {
            rejects: false,
            ..self
        }
    }
}

/// Every path. What else is configured for them is in `plugin`.
pub(crate) const KINDS: [Kind; 25] = [
    kind("/open", Mode::Open, 0, 60, 14),
    kind("/closed", Mode::Closed, 0, 60, 16),
    kind("/other-open", Mode::Open, 1, 50, 7),
    kind("/other-closed", Mode::Closed, 1, 50, 7),
    kind("/local", Mode::Local, 0, 40, 8),
    kind("/cached", Mode::Closed, 0, 60, 12),
    kind("/stale", Mode::Closed, 0, 60, 8),
    kind("/leased", Mode::Closed, 1, 60, 14),
    kind("/shadow", Mode::Shadow, 0, 40, 5),
    kind("/json", Mode::Closed, 0, 60, 5).never_rejects(),
    kind("/limitador", Mode::Open, 0, 60, 4).never_rejects(),
    kind("/optional", Mode::Closed, 0, 60, 3),
    // The route's metadata names the policy and a shorter timeout.
    kind("/meta", Mode::Open, 0, 30, 4).policy("open"),
    // The route's metadata names a policy that is not there: the default policy is used.
    kind("/astray", Mode::Closed, 0, 60, 3).policy("closed"),
    kind("/off", Mode::Off, 0, 60, 4).policy(""),
    kind("/-/quota-gate", Mode::StatusPage, 0, 60, 1).policy(""),
    kind("/settled", Mode::Open, 0, 60, 8),
    kind("/other-settled", Mode::Closed, 1, 60, 8),
    kind("/units-settled", Mode::Open, 0, 60, 5).never_rejects(),
    kind("/hits-settled", Mode::Closed, 1, 60, 5).never_rejects(),
    kind("/corrected", Mode::Open, 0, 60, 8),
    kind("/other-corrected", Mode::Closed, 1, 60, 8),
    kind("/lent", Mode::Closed, 1, 60, 12),
    kind("/units-lent", Mode::Open, 0, 60, 10).never_rejects(),
    kind("/custom-lent", Mode::Open, 0, 60, 10),
];

/// How the upstream fails a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fails {
    /// The connection ends without an answer.
    Reset,
    /// With this status.
    Status(u16),
}

/// Who is asking.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Who {
    /// A key that the backends don't know.
    Bad(u64),
    /// A key with units to spare.
    Good(u64),
    /// Nobody: there is no key.
    Nobody,
    /// A key that is never used again.
    Once(u64),
    /// A key whose limit is used up.
    Over(u64),
    /// Two keys: ambiguous, and as good as none.
    Two,
}

impl Who {
    /// The values of the key's header.
    pub(crate) fn keys(&self) -> Vec<String> {
        match self {
            Self::Bad(number) => vec![format!("bad-{number}")],
            Self::Good(number) => vec![format!("good-{number}")],
            Self::Nobody => Vec::new(),
            Self::Once(number) => vec![format!("once-{number}")],
            Self::Over(number) => vec![format!("over-{number}")],
            Self::Two => vec!["good-1".to_owned(), "good-2".to_owned()],
        }
    }

    pub(crate) const fn is_welcome(&self) -> bool {
        matches!(self, Self::Good(_) | Self::Once(_))
    }

    pub(crate) const fn has_key(&self) -> bool {
        !matches!(self, Self::Nobody | Self::Two)
    }
}

/// Keys of each kind: enough to fill tables, few enough to meet again.
pub(crate) const GOOD: u64 = 300;
pub(crate) const FEW: u64 = 6;

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) number: u64,
    pub(crate) kind: &'static Kind,
    pub(crate) who: Who,
    pub(crate) method: &'static str,
    pub(crate) http2: bool,
    pub(crate) grpc: bool,
    /// The client's own deadline, in milliseconds.
    pub(crate) own_deadline_ms: Option<u64>,
    pub(crate) preflight: bool,
    /// The client claims what only proxies may say.
    pub(crate) lies: bool,
    pub(crate) cost: Option<u64>,
    pub(crate) body: Option<usize>,
    /// The client leaves after so many microseconds, whatever has come until then.
    pub(crate) leaves_after_us: Option<u64>,
    /// The body does not end before the client leaves.
    pub(crate) unfinished: bool,
    /// Units that the upstream says afterwards, if it says any.
    pub(crate) uses: Option<u64>,
    pub(crate) fails: Option<Fails>,
}

impl Planned {
    /// The request of this number.
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        let mut random = random(seed, number);
        let kind = pick(&mut random);
        let who = who(&mut random, kind, number);
        let mut planned = Self {
            number,
            kind,
            who,
            method: if random.u32(..100) < 85 {
                "GET"
            } else {
                "DELETE"
            },
            http2: random.bool(),
            grpc: false,
            own_deadline_ms: None,
            preflight: false,
            lies: random.u32(..100) < 5,
            cost: (random.u32(..100) < 10).then(|| random.u64(0..=5)),
            body: None,
            leaves_after_us: (random.u32(..100) < 3).then(|| random.u64(..60_000)),
            unfinished: false,
            uses: None,
            fails: None,
        };
        if kind.mode == Mode::StatusPage {
            planned.method = "GET";
        } else {
            planned.shape(&mut random);
        }
        planned.book(&mut random);
        planned
    }

    /// What it costs and uses, where that is booked.
    fn book(&mut self, random: &mut fastrand::Rng) {
        let kind = self.kind;
        if kind.settles() {
            let most = random.choice([10, 100]).unwrap_or(100);
            self.uses = (random.u32(..100) < 85).then(|| random.u64(..=most));
            if !self.grpc && random.u32(..100) < 10 {
                let status = random.choice([404, 429, 500, 503]).map(Fails::Status);
                let resets = random.u32(..100) < 20;
                self.fails = if resets { Some(Fails::Reset) } else { status };
            }
        }
        if kind.corrects() {
            let says = random.u32(..100) < 40 && kind.path != EXACT;
            self.cost = says.then(|| random.u64(..=50));
        }
        if kind.corrects() && kind.leases() {
            self.own_deadline_ms = None;
        }
        // Of who may leave while its check is pending nobody will know what that has come to: these
        // all cost the same.
        if self.leaves_after_us.is_some() || self.own_deadline_ms.is_some() {
            self.cost = self.cost.filter(|_| !kind.corrects() && !kind.leases());
        }
    }

    fn shape(&mut self, random: &mut fastrand::Rng) {
        match random.u32(..100) {
            0..12 => {
                (self.method, self.http2, self.grpc) = ("POST", true, true);
                self.body = Some(5);
                if random.u32(..100) < 25 {
                    self.own_deadline_ms = Some(random.choice([1, 5, 15, 5000]).unwrap_or(5));
                }
            }
            12..28 => {
                self.method = "POST";
                let sizes = [0, 1, 100, 1_000, 1_000, 10_000, 10_000, 100_000];
                self.body = random.choice(sizes);
                self.unfinished = self.leaves_after_us.is_some() && random.bool();
            }
            28..30 => (self.method, self.preflight) = ("OPTIONS", true),
            _ => {}
        }
    }

    /// Its path, by which it is found again in journals and logs.
    pub(crate) fn target(&self) -> String {
        format!("{}?n={}", self.kind.path, self.number)
    }

    /// Its id, by which a check is found again.
    pub(crate) fn id(&self) -> String {
        format!("{ID_PREFIX}{}", self.number)
    }

    /// Header fields, without those of the protocol.
    pub(crate) fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![("x-request-id", self.id())];
        headers.extend(self.who.keys().into_iter().map(|key| ("x-tenant-id", key)));
        let mut add = |name, value: &str| headers.push((name, value.to_owned()));
        if self.grpc {
            add("content-type", "application/grpc");
            add("te", "trailers");
        }
        if let Some(millis) = self.own_deadline_ms {
            add("grpc-timeout", &format!("{millis}m"));
        }
        if self.preflight {
            add("origin", "https://app.example");
            add("access-control-request-method", "GET");
        }
        if self.lies {
            add("x-quota-decision", "allow; reason=within_quota");
            add("x-quota-failure-mode", "fail_open");
            add("x-envoy-internal", "true");
            add("x-envoy-expected-rq-timeout-ms", "1");
        }
        if let Some(cost) = self.cost {
            add("x-cost", &cost.to_string());
        }
        if let Some(uses) = self.uses {
            add("x-uses", &uses.to_string());
        }
        match self.fails {
            Some(Fails::Reset) => add("x-fails", "reset"),
            Some(Fails::Status(status)) => add("x-fails", &status.to_string()),
            None => {}
        }
        headers
    }

    /// How long it may be held: its policy's timeout or its own deadline.
    pub(crate) fn budget_ms(&self) -> u64 {
        let own = self.own_deadline_ms.unwrap_or(u64::MAX);
        self.kind.timeout_ms.min(own)
    }
}

/// The number in a path or an id of ours.
pub(crate) fn number_in(text: &str) -> Option<u64> {
    let digits = text
        .strip_prefix(ID_PREFIX)
        .or_else(|| text.split_once("?n=").map(|(_, number)| number))?;
    digits.parse().ok()
}

/// Numbers that follow from the seed and one more number, and have nothing to do with others'.
pub(crate) fn random(seed: u64, number: u64) -> fastrand::Rng {
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number;
    fastrand::Rng::with_seed(mixed.wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(31))
}

fn pick(random: &mut fastrand::Rng) -> &'static Kind {
    let all: u32 = KINDS.iter().map(|kind| kind.weight).sum();
    let mut place = random.u32(..all);
    for kind in &KINDS {
        match place.checked_sub(kind.weight) {
            Some(rest) => place = rest,
            None => return kind,
        }
    }
    &KINDS[0]
}

fn who(random: &mut fastrand::Rng, kind: &Kind, number: u64) -> Who {
    let few = random.u64(..FEW);
    match random.u32(..100) {
        0..8 => Who::Over(few),
        8..14 if kind.rejects => Who::Bad(few),
        14..24 => Who::Once(number),
        24..27 => Who::Nobody,
        27..29 => Who::Two,
        // Half of all go by a few keys, which are hot.
        29..60 => Who::Good(few),
        _ => Who::Good(random.u64(..GOOD)),
    }
}

const ID_PREFIX: &str = "chaos-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_the_same_each_time_and_found_by_path_and_id() {
        for number in 0..1000 {
            let (one, two) = (Planned::new(7, number), Planned::new(7, number));
            assert_eq!(format!("{one:?}"), format!("{two:?}"));
            assert_eq!(number_in(&one.target()), Some(number));
            assert_eq!(number_in(&one.id()), Some(number));
        }
        assert_eq!(number_in("/probe"), None);
    }

    #[test]
    fn a_policy_is_named_after_its_path() {
        assert_eq!((KINDS[0].path, KINDS[0].policy), ("/open", "open"));
        assert_eq!(KINDS[13].policy, "closed");
    }
}
