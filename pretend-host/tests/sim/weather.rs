//! What the backends do: each has a mood that changes, and the faults of that mood.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use pretend_host::{Backend, Call, End, Ending, Headers, MILLISECOND, Random};

/// The backends' moods, and what they have said so far.
#[derive(Debug)]
pub(crate) struct Weather {
    pub(crate) moods: BTreeMap<String, Mood>,
    /// Keys of which some backend has said something that may be a yes.
    pub(crate) allowed: BTreeSet<String>,
    pub(crate) faults: BTreeMap<String, u64>,
    random: Random,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mood {
    Broken,
    Denying,
    Doubling,
    Failing,
    Garbling,
    Healthy,
    Losing,
    Mixed,
    Rejecting,
    Silent,
    Slow,
    Unmade,
    Unreachable,
}

const MOODS: [Mood; 13] = [
    Mood::Broken,
    Mood::Denying,
    Mood::Doubling,
    Mood::Failing,
    Mood::Garbling,
    Mood::Healthy,
    Mood::Losing,
    Mood::Mixed,
    Mood::Rejecting,
    Mood::Silent,
    Mood::Slow,
    Mood::Unmade,
    Mood::Unreachable,
];

/// The world keeps one handle, the host the other.
#[derive(Clone)]
pub(crate) struct Sky(pub(crate) Rc<RefCell<Weather>>);

impl Sky {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(Weather {
            moods: BTreeMap::new(),
            allowed: BTreeSet::new(),
            faults: BTreeMap::new(),
            random: Random::new(seed),
        })))
    }

    pub(crate) fn set(&self, cluster: &str, mood: Mood) {
        self.0.borrow_mut().moods.insert(cluster.to_owned(), mood);
    }

    pub(crate) fn any_mood(random: &mut Random) -> Mood {
        if random.per_mille(300) {
            Mood::Healthy
        } else {
            random.pick(&MOODS)
        }
    }
}

impl Backend for Sky {
    fn call(&mut self, call: &Call) -> Ending {
        let weather = &mut *self.0.borrow_mut();
        let mood = weather
            .moods
            .get(&call.cluster)
            .copied()
            .unwrap_or(Mood::Healthy);
        let mood = match mood {
            Mood::Mixed => weather.random.pick(&MOODS),
            mood => mood,
        };
        *weather
            .faults
            .entry(format!("{mood:?}").to_lowercase())
            .or_default() += 1;
        let ending = ending(mood, &mut weather.random);
        if let End::Reply {
            status: 200..300, ..
        } = ending.end
        {
            weather.allowed.extend(key_of(call));
        }
        ending
    }
}

fn ending(mood: Mood, random: &mut Random) -> Ending {
    let soon = random.below(5 * MILLISECOND);
    let reply = |status, headers| End::Reply {
        status,
        headers,
        body: Vec::new(),
    };
    let healthy = |random: &mut Random| reply(200, limits(random));
    match mood {
        Mood::Broken => Ending::new(soon, End::Broken),
        Mood::Denying => Ending::new(soon, reply(429, limits(random).with("retry-after", "1"))),
        Mood::Doubling => Ending {
            again_after: Some(random.below(50 * MILLISECOND)),
            ..Ending::new(soon, healthy(random))
        },
        Mood::Failing => {
            let status = random.pick(&[500, 503, 302, 404, 400]);
            Ending::new(soon, reply(status, Headers::new()))
        }
        Mood::Garbling => Ending::new(soon, garbage(random)),
        Mood::Healthy | Mood::Mixed => Ending::new(soon, healthy(random)),
        Mood::Losing => Ending::new(soon, End::Lost),
        Mood::Rejecting => Ending::new(soon, reply(random.pick(&[401, 403]), Headers::new())),
        Mood::Silent => Ending::new(0, End::Silence),
        Mood::Slow => Ending::new(random.between(30, 600) * MILLISECOND, healthy(random)),
        Mood::Unmade => {
            let end = if random.per_mille(500) {
                End::Refused
            } else {
                End::UnknownCluster
            };
            Ending::new(0, end)
        }
        Mood::Unreachable => Ending::new(soon, End::Host(random.pick(&[502, 503, 504, 408]))),
    }
}

fn limits(random: &mut Random) -> Headers {
    let mut headers = Headers::new();
    if random.per_mille(500) {
        headers.add("ratelimit-policy", "\"default\";q=100;w=1");
        let left = random.below(100);
        headers.add("ratelimit", format!("\"default\";r={left};t=1"));
    }
    if random.per_mille(300) {
        headers.add("x-quota-granted", random.below(20).to_string());
    }
    if random.per_mille(200) {
        headers.add(
            "cache-control",
            random.pick(&["no-store", "max-age=1", "max-age=0"]),
        );
    }
    headers
}

/// Whatever a backend could say by mistake or by malice.
fn garbage(random: &mut Random) -> End {
    let values: [&[u8]; 9] = [
        b"",
        b"-1",
        b"99999999999999999999999999",
        b"1e400",
        b"\xff\xfe\x00",
        b"a\r\nset-cookie: x=1",
        b"\"default\";r=18446744073709551615;t=18446744073709551615",
        b";;;=,,,\"",
        b"max-age=18446744073709551616, no-store=\"",
    ];
    let names = [
        "ratelimit",
        "ratelimit-policy",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "retry-after",
        "cache-control",
        "x-quota-granted",
        "content-type",
    ];
    let mut headers = Headers::new();
    for _ in 0..random.below(5) {
        headers.add(random.pick(&names), random.pick(&values));
    }
    let bodies: [&[u8]; 8] = [
        b"",
        b"{",
        b"null",
        b"\xff\xff\xff",
        br#"{"code":"OVER_LIMIT","overallCode":"OK","allowed":"maybe"}"#,
        br#"{"responses":[{"status":1,"remaining":"-5","reset_time":"x"}]}"#,
        br#"{"data":{"valid":true,"remaining":1e999,"ratelimits":[{}]}}"#,
        br#"{"allowed":true,"remaining":5,"retry_after":-1,"reset_after":99999999999999999999}"#,
    ];
    let body = if random.per_mille(100) {
        "[".repeat(20_000).into_bytes()
    } else {
        random.pick(&bodies).to_vec()
    };
    let status = random.pick(&[200, 200, 204, 299, 429, 401, 500, 999, 100]);
    End::Reply {
        status,
        headers,
        body,
    }
}

/// The secret key that a callout is about: keys look like `SECRET-3z`.
fn key_of(call: &Call) -> Option<String> {
    let headers = call
        .headers
        .iter()
        .flat_map(|(_, value)| value.iter().copied().chain([0]));
    let all: Vec<u8> = headers.chain(call.body.iter().copied()).collect();
    let text = String::from_utf8_lossy(&all).into_owned();
    let keys = text.match_indices("SECRET-").filter_map(|(at, _)| {
        let rest = &text[at..];
        let end = rest.find('z')?;
        rest[7..end]
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| rest[..=end].to_owned())
    });
    keys.last()
}
