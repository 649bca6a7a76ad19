//! An object of a configuration that is being read: its values by key, with their defaults.
//!
//! Whatever is not as it should be has been reported by `check` before; here it reads as its
//! default, so that the rules that span several keys can still be judged. A configuration with a
//! problem is never used.

use alloc::string::String;
use core::time::Duration;

use super::check::{At, is_valid};
use super::keys::{Key, Presence};
use super::units;
use super::value::{Number, Value};
use crate::text;

/// An object and its place.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) at: At<'a>,
    pub(super) fields: &'a [(String, Value)],
}

impl<'a> Node<'a> {
    pub(super) const fn new(value: &'a Value, at: At<'a>) -> Self {
        Self {
            at,
            fields: value.fields(),
        }
    }

    /// The key's value as it stands in the text, with its position.
    pub(super) fn find(&self, key: &Key) -> Option<(usize, &'a Value)> {
        self.fields
            .iter()
            .enumerate()
            .find(|(_, (name, _))| name == key.name)
            .map(|(position, (_, value))| (position, value))
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.find(key).is_some()
    }

    /// The key's place, whether it is there or not.
    pub(super) fn at<'b>(&'b self, key: &'b Key) -> At<'b> {
        match self.find(key) {
            Some((position, _)) => self.at.key(position, key.name),
            None => self.at.missing(key.name),
        }
    }

    /// The object of a key; an empty one if it is not there.
    pub(super) fn table<'b>(&'b self, key: &'b Key) -> Node<'b> {
        Node {
            at: self.at(key),
            fields: self.find(key).map_or(&[], |(_, value)| value.fields()),
        }
    }

    /// The fields of a key's object.
    pub(super) fn fields(&self, key: &Key) -> &'a [(String, Value)] {
        self.find(key).map_or(&[], |(_, value)| value.fields())
    }

    /// The items of a key's list.
    pub(super) fn items(&self, key: &Key) -> &'a [Value] {
        self.find(key).map_or(&[], |(_, value)| value.items())
    }

    /// The text of a key that is there and valid.
    pub(super) fn given_text(&self, key: &Key) -> Option<&'a str> {
        self.valid(key).and_then(Value::as_text)
    }

    /// The text of a key, or its default.
    pub(super) fn text(&self, key: &Key) -> &'a str {
        self.given_text(key).unwrap_or_else(|| default_text(key))
    }

    /// The whole number of a key that is there and valid.
    pub(super) fn given_count(&self, key: &Key) -> Option<u64> {
        self.valid(key).and_then(Value::as_count)
    }

    /// The whole number of a key, or its default.
    pub(super) fn count(&self, key: &Key) -> u64 {
        self.given_count(key)
            .or_else(|| text::parse_decimal(default_text(key).as_bytes()))
            .unwrap_or(0)
    }

    /// The whole number of a key whose bounds lie within 32 bits.
    pub(super) fn small_count(&self, key: &Key) -> u32 {
        u32::try_from(self.count(key)).unwrap_or(u32::MAX)
    }

    /// The duration of a key, or its default.
    pub(super) fn duration(&self, key: &Key) -> Duration {
        units::duration(self.text(key)).unwrap_or_default()
    }

    /// The duration of a key; `absent` where it is not there, `invalid` where it is no duration.
    pub(super) fn duration_or(&self, key: &Key, absent: Duration, invalid: Duration) -> Duration {
        if !self.has(key) {
            return absent;
        }
        self.given_text(key)
            .and_then(units::duration)
            .unwrap_or(invalid)
    }

    /// The share of a key in thousandths, or its default.
    pub(super) fn permille(&self, key: &Key) -> u32 {
        let given = self.valid(key).and_then(number);
        given
            .or_else(|| number(&Value::from_json(default_text(key).as_bytes()).ok()?))
            .and_then(Number::as_permille)
            .unwrap_or(0)
    }

    /// The factor of a key in thousandths, or its default.
    pub(super) fn thousandths(&self, key: &Key) -> i64 {
        let given = self.valid(key).and_then(number);
        given
            .or_else(|| number(&Value::from_json(default_text(key).as_bytes()).ok()?))
            .map_or(0, Number::as_thousandths)
    }

    /// Whether the key is there and `true`.
    pub(super) fn is_true(&self, key: &Key) -> bool {
        matches!(self.find(key), Some((_, Value::Bool(true))))
    }

    fn valid(&self, key: &Key) -> Option<&'a Value> {
        self.find(key)
            .map(|(_, value)| value)
            .filter(|value| is_valid(value, &key.kind))
    }
}

const fn default_text(key: &Key) -> &'static str {
    match key.presence {
        Presence::Default(text) => text,
        Presence::Otherwise(_) | Presence::Required => "",
    }
}

const fn number(value: &Value) -> Option<Number> {
    match value {
        Value::Number(number) => Some(*number),
        Value::Bool(_) | Value::List(_) | Value::Null | Value::Object(_) | Value::Text(_) => None,
    }
}
