//! The `RateLimit` and `RateLimit-Policy` fields of draft-ietf-httpapi-ratelimit-headers-10: lists
//! of named items with parameters. A field that is malformed is ignored whole, as the draft says.

use alloc::vec::Vec;
use core::time::Duration;

use crate::decision::Limits;
use crate::text;

/// What the fields say of the limit that is closest to being reached; nothing where there is no
/// well-formed `RateLimit` field.
#[must_use]
pub fn limits<'a>(
    rate_limit: impl Iterator<Item = &'a [u8]>,
    policies: impl Iterator<Item = &'a [u8]>,
) -> Limits {
    let policies = items(policies).unwrap_or_default();
    let rate_limits = items(rate_limit).unwrap_or_default();
    let Some(closest) = rate_limits
        .iter()
        .filter(|item| item.remaining.is_some())
        .min_by_key(|item| item.remaining)
    else {
        return Limits::NONE;
    };
    let policy = policies.iter().find(|policy| policy.name == closest.name);
    Limits {
        limit: policy.and_then(|policy| policy.quota),
        remaining: closest.remaining,
        reset: closest.reset.map(Duration::from_secs),
        window: policy
            .and_then(|policy| policy.window)
            .map(Duration::from_secs),
    }
}

#[derive(Debug, Default)]
struct Item<'a> {
    name: &'a [u8],
    quota: Option<u64>,
    remaining: Option<u64>,
    reset: Option<u64>,
    window: Option<u64>,
}

/// The items of a list that may be spread over several fields.
fn items<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Option<Vec<Item<'a>>> {
    let mut items = Vec::new();
    for field in fields {
        let mut rest = field.trim_ascii();
        while !rest.is_empty() {
            let (item, after) = item(rest)?;
            items.push(item);
            rest = match after.trim_ascii_start() {
                [] => &[],
                // A comma promises another item.
                [b',', more @ ..] if !more.trim_ascii().is_empty() => more.trim_ascii_start(),
                _ => return None,
            };
        }
    }
    Some(items)
}

fn item(text: &[u8]) -> Option<(Item<'_>, &[u8])> {
    let (name, mut rest) = match text {
        [b'"', inside @ ..] => string(inside)?,
        _ => token(text)?,
    };
    let mut item = Item {
        name,
        ..Item::default()
    };
    while let [b';', after @ ..] = rest {
        let (key, after) = token(after.trim_ascii_start())?;
        let (value, after) = match after {
            [b'=', value @ ..] => bare_value(value)?,
            _ => (&b""[..], after),
        };
        let number = text::parse_decimal(value);
        match key {
            b"q" => item.quota = Some(number?),
            b"r" => item.remaining = Some(number?),
            b"t" => item.reset = Some(number?),
            b"w" => item.window = Some(number?),
            _ => {}
        }
        rest = after;
    }
    Some((item, rest))
}

/// A parameter's value: a string, a byte sequence, or a number or token, which are told apart by
/// whoever needs them.
fn bare_value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    match text {
        [b'"', inside @ ..] => string(inside),
        [b':', inside @ ..] => {
            let end = inside.iter().position(|byte| *byte == b':')?;
            let (value, rest) = inside.split_at_checked(end)?;
            Some((value, rest.get(1..)?))
        }
        _ => token(text),
    }
}

/// The inside of a string as it stands, up to its closing quote.
fn string(inside: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut escaped = false;
    for (end, byte) in inside.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => {
                let (value, rest) = inside.split_at_checked(end)?;
                return Some((value, rest.get(1..)?));
            }
            0x20..=0x7e => {}
            _ => return None,
        }
    }
    None
}

fn token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/?".contains(byte);
    let end = text
        .iter()
        .position(|byte| !is_token(byte))
        .unwrap_or(text.len());
    if end == 0 {
        return None;
    }
    text.split_at_checked(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::tests::Random;

    #[test]
    fn the_drafts_own_examples_are_read() {
        assert_eq!(
            read(&["\"default\";r=50;t=30"], &["\"default\";q=100;w=60"]),
            limits_of(Some(100), Some(50), Some(30), Some(60))
        );
        assert_eq!(
            read(
                &["\"permin\";r=42;pk=:dHJ5LWhhcmRlcg==:;t=11"],
                &[
                    "\"permin\";q=50;w=60",
                    "\"perhr\";q=1000;w=3600;qu=\"requests\""
                ]
            ),
            limits_of(Some(50), Some(42), Some(11), Some(60))
        );
    }

    #[test]
    fn of_several_limits_the_one_with_least_left_counts() {
        assert_eq!(
            read(
                &["\"hour\";r=900;t=1800, \"burst\";r=3;t=1"],
                &["\"burst\";q=50;w=1, \"hour\";q=1000;w=3600"]
            ),
            limits_of(Some(50), Some(3), Some(1), Some(1))
        );
    }

    #[test]
    fn what_is_not_told_is_not_known() {
        assert_eq!(
            read(&["\"a\";r=1"], &[]),
            limits_of(None, Some(1), None, None)
        );
        assert_eq!(
            read(&["a;r=1"], &["b;q=5"]),
            limits_of(None, Some(1), None, None)
        );
        assert_eq!(read(&[], &["\"a\";q=5;w=1"]), Limits::NONE);
        assert_eq!(read(&["\"a\";t=1"], &[]), Limits::NONE);
    }

    #[test]
    fn a_malformed_field_is_ignored_whole() {
        for field in [
            "\"a",
            "\"a\";r=x",
            "\"a\";r=-1",
            "\"a\";r=1.5",
            "\"a\";r=",
            "\"a\";r=1,",
            "\"a\";r=1 \"b\"",
            "\"a\\",
            ";r=1",
            "\"a\u{e9}\";r=1",
            "limit=100, remaining=5",
        ] {
            assert_eq!(read(&[field], &[]), Limits::NONE, "{field}");
            let policies = [field];
            let limits = read(&["\"a\";r=1"], &policies);
            assert_eq!(limits, limits_of(None, Some(1), None, None), "{field}");
        }
    }

    #[test]
    fn random_fields_break_nothing() {
        let mut random = Random(23);
        for _ in 0..20_000 {
            let (one, two) = (random.bytes(40), random.bytes(40));
            let said = limits([&one[..]].into_iter(), [&two[..]].into_iter());
            assert!(said.remaining.is_some() || said == Limits::NONE);
        }
    }

    fn read(rate_limit: &[&str], policies: &[&str]) -> Limits {
        limits(
            rate_limit.iter().map(|field| field.as_bytes()),
            policies.iter().map(|field| field.as_bytes()),
        )
    }

    fn limits_of(
        limit: Option<u64>,
        remaining: Option<u64>,
        reset: Option<u64>,
        window: Option<u64>,
    ) -> Limits {
        Limits {
            limit,
            remaining,
            reset: reset.map(Duration::from_secs),
            window: window.map(Duration::from_secs),
        }
    }
}
