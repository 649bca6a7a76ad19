//! Holds a tree of values against the tables of keys, and collects every problem.
//!
//! This step knows nothing of what keys mean: types, bounds, words, forms, missing, unknown and
//! repeated keys. What spans several keys is `parse`'s.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::form::{Fault, Form};
use super::keys::{Key, Kind, Presence, Table};
use super::problem::{Path, ProblemKind, Problems, Step, all_of, one_of};
use super::units;

use super::value::{Number, Value};
use crate::text::{count, decimal};

/// A place in the tree, while walking down: costs nothing until there is a problem.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    parent: Option<&'a Self>,
    position: usize,
    key: Option<&'a str>,
}

impl<'a> At<'a> {
    /// The whole configuration.
    pub(super) const TOP: Self = Self {
        parent: None,
        position: 0,
        key: None,
    };

    /// The value of a key below.
    pub(super) const fn key(&'a self, position: usize, key: &'a str) -> Self {
        Self {
            parent: Some(self),
            position,
            key: Some(key),
        }
    }

    /// An item below.
    pub(super) const fn item(&'a self, position: usize) -> Self {
        Self {
            parent: Some(self),
            position,
            key: None,
        }
    }

    /// The place of a key that is not there.
    pub(super) const fn missing(&'a self, key: &'a str) -> Self {
        self.key(usize::MAX, key)
    }

    /// The place as a value of its own.
    pub(super) fn path(&self) -> Path {
        let mut steps = Vec::new();
        let mut at = self;
        while let Some(parent) = at.parent {
            steps.push(Step {
                position: at.position,
                key: at.key.map(str::to_owned),
            });
            at = parent;
        }
        steps.reverse();
        Path::new(steps)
    }
}

/// Checks a value, and everything that it holds.
pub(super) fn check(value: &Value, kind: &Kind, at: &At<'_>, problems: &mut Problems) {
    match (kind, value) {
        (Kind::Either(_, object), Value::Object(_)) => return check(value, object, at, problems),
        (Kind::Either(simple, _), _) if is_of_type(value, simple) => {
            return check(value, simple, at, problems);
        }
        (Kind::List(item, min, max), Value::List(items)) => {
            return check_list(items, item, (*min, *max), at, problems);
        }
        (Kind::Map(form, item, max), Value::Object(fields)) => {
            return check_map(fields, *form, (item, *max), at, problems);
        }
        (Kind::Template, Value::List(_) | Value::Object(_)) => {
            return check_template(value, at, problems);
        }
        (Kind::Table(table), Value::Object(fields)) => {
            return check_table(fields, table, at, problems);
        }
        _ => {}
    }
    if let Err(problem) = check_scalar(value, kind) {
        problems.add(at.path(), problem);
    }
}

/// Whether a value that holds no others is as its kind has it.
pub(crate) fn is_valid(value: &Value, kind: &Kind) -> bool {
    let kind = if let Kind::Either(simple, _) = kind {
        simple
    } else {
        kind
    };
    check_scalar(value, kind).is_ok()
}

/// Whether a value has the type of a kind, if not its bounds.
fn is_of_type(value: &Value, kind: &Kind) -> bool {
    !matches!(
        check_scalar(value, kind),
        Err(ProblemKind::WrongType { .. })
    )
}

/// Checks a value that holds no others.
fn check_scalar(value: &Value, kind: &Kind) -> Result<(), ProblemKind> {
    let wrong_type = || ProblemKind::WrongType {
        got: value.type_name(),
        expected: kind.expected(),
    };
    match (kind, value) {
        (Kind::Bool, Value::Bool(_)) | (Kind::True, Value::Bool(true)) => Ok(()),
        (Kind::Count(min, max), Value::Number(number)) => check_count(*number, *min, *max),
        (Kind::Duration(min, max), Value::Text(text)) => check_duration(text, min, max),
        (Kind::Factor, Value::Number(number)) => match number.as_thousandths() {
            0 if number.is_zero() => Err(ProblemKind::Forbidden {
                got: number.text(),
                why: "counts nothing, remove it",
            }),
            0 => Err(out_of_range(number, "-1000", "1000")),
            -1_000_000..=1_000_000 if !number.is_finer_than_thousandths() => Ok(()),
            _ => Err(out_of_range(number, "-1000", "1000")),
        },
        (Kind::Share, Value::Number(number)) => match number.as_permille() {
            Some(1..=1_000) if number.is_at_most_one() => Ok(()),
            Some(_) | None => Err(out_of_range(number, "0.001", "1")),
        },
        (Kind::Status, Value::Number(number)) => check_count(*number, 200, 599),
        (Kind::Status, Value::Text(text)) => match units::status_class(text) {
            Some(_) => Ok(()),
            None => Err(malformed(text, kind.expected())),
        },
        (Kind::Template, Value::List(_) | Value::Object(_)) => Ok(()),
        (Kind::Text(form), Value::Text(text)) => check_text(text, *form),
        (Kind::True, Value::Bool(false)) => Err(ProblemKind::NotSupported {
            got: "false".to_owned(),
            allowed: kind.expected(),
            did_you_mean: None,
        }),
        (Kind::Words(words), Value::Text(text)) => check_word(text, words),
        _ => Err(wrong_type()),
    }
}

/// Checks a whole number against its bounds.
fn check_count(number: Number, min: u64, max: u64) -> Result<(), ProblemKind> {
    match number.as_count() {
        Some(count) if (min..=max).contains(&count) => Ok(()),
        Some(_) | None => Err(out_of_range(&number, &decimal(min), &decimal(max))),
    }
}

/// Checks a duration against its bounds.
fn check_duration(text: &str, min: &str, max: &str) -> Result<(), ProblemKind> {
    let Some(duration) = units::duration(text) else {
        let expected = "a duration in whole milliseconds, like `80ms`, `1.5s` or `2m`";
        return Err(malformed(text, expected.to_owned()));
    };
    if units::duration(min) <= Some(duration) && Some(duration) <= units::duration(max) {
        Ok(())
    } else {
        Err(ProblemKind::OutOfRange {
            got: text.to_owned(),
            min: min.to_owned(),
            max: max.to_owned(),
        })
    }
}

fn check_word(text: &str, words: &[&str]) -> Result<(), ProblemKind> {
    if words.contains(&text) {
        return Ok(());
    }
    Err(ProblemKind::NotSupported {
        got: text.to_owned(),
        allowed: one_of(words.iter().copied()),
        did_you_mean: units::did_you_mean(text, words.iter().copied()).map(str::to_owned),
    })
}

fn check_text(text: &str, form: Form) -> Result<(), ProblemKind> {
    form.check(text).map_err(|fault| match fault {
        Fault::Forbidden(why) => ProblemKind::Forbidden {
            got: text.to_owned(),
            why,
        },
        Fault::Malformed => ProblemKind::Malformed {
            got: (!form.is_secret()).then(|| text.to_owned()),
            expected: form.expected().to_owned(),
        },
        Fault::TooLong(max) => ProblemKind::OutOfRange {
            got: [&size(text.len()), " bytes"].concat(),
            min: "1".to_owned(),
            max: size(max),
        },
    })
}

fn check_list(
    items: &[Value],
    kind: &Kind,
    (min, max): (usize, usize),
    at: &At<'_>,
    problems: &mut Problems,
) {
    if items.len() < min {
        let kind = ProblemKind::OutOfRange {
            got: [&size(items.len()), " items"].concat(),
            min: size(min),
            max: size(max),
        };
        problems.add(at.path(), kind);
    }
    if items.len() > max {
        let got = items.len();
        problems.add(at.path(), ProblemKind::TooMany { got, max });
    }
    for (position, item) in items.iter().enumerate() {
        check(item, kind, &at.item(position), problems);
    }
}

fn check_map(
    fields: &[(String, Value)],
    form: Form,
    (kind, max): (&Kind, usize),
    at: &At<'_>,
    problems: &mut Problems,
) {
    if fields.len() > max {
        let got = fields.len();
        problems.add(at.path(), ProblemKind::TooMany { got, max });
    }
    // What is above the bound is refused already, and equal names are looked for one by one.
    for (position, (name, value)) in fields.iter().take(max).enumerate() {
        let at = at.key(position, name);
        if let Err(problem) = check_text(name, form) {
            problems.add(at.path(), problem);
        }
        // Names of headers are the same in any case.
        let same = |earlier: &str| {
            earlier == name || (form.is_header() && earlier.eq_ignore_ascii_case(name))
        };
        check_first(fields, position, same, &at, problems);
        check(value, kind, &at, problems);
    }
}

fn check_table(fields: &[(String, Value)], table: &Table, at: &At<'_>, problems: &mut Problems) {
    if fields.len() > FIELDS_MAX {
        let (got, max) = (fields.len(), FIELDS_MAX);
        return problems.add(at.path(), ProblemKind::TooMany { got, max });
    }
    for (position, (name, value)) in fields.iter().enumerate() {
        let at = at.key(position, name);
        match table.key(name) {
            None => problems.add(at.path(), unknown_key(name, table)),
            Some(key) => {
                check_first(fields, position, |earlier| earlier == name, &at, problems);
                check(value, &key.kind, &at, problems);
            }
        }
    }
    for key in table.keys.iter().filter(|_| !table.changes) {
        let is_missing = || fields.iter().all(|(name, _)| name != key.name);
        if matches!(key.presence, Presence::Required) && is_missing() {
            problems.add(at.missing(key.name).path(), missing(key));
        }
    }
}

/// A JSON template is free, but for keys given twice: each backend would read another one.
fn check_template(value: &Value, at: &At<'_>, problems: &mut Problems) {
    let fields = value.fields();
    if fields.len() > FIELDS_MAX {
        let (got, max) = (fields.len(), FIELDS_MAX);
        return problems.add(at.path(), ProblemKind::TooMany { got, max });
    }
    for (position, (name, value)) in fields.iter().enumerate() {
        let at = at.key(position, name);
        check_first(fields, position, |earlier| earlier == name, &at, problems);
        check_template(value, &at, problems);
    }
    for (position, item) in value.items().iter().enumerate() {
        check_template(item, &at.item(position), problems);
    }
}

fn check_first(
    fields: &[(String, Value)],
    position: usize,
    same: impl Fn(&str) -> bool,
    at: &At<'_>,
    problems: &mut Problems,
) {
    if fields.iter().take(position).any(|(name, _)| same(name)) {
        let what = "given before, keep one of them".to_owned();
        problems.add(at.path(), ProblemKind::Duplicate { what });
    }
}

fn unknown_key(name: &str, table: &Table) -> ProblemKind {
    let known = || table.keys.iter().map(|key| key.name);
    ProblemKind::UnknownKey {
        did_you_mean: units::did_you_mean(name, known()).map(str::to_owned),
        known: all_of(known()),
    }
}

/// The problem of a key that is required and not there.
pub(super) fn missing(key: &Key) -> ProblemKind {
    ProblemKind::Missing {
        expected: key.kind.expected(),
    }
}

fn size(things: usize) -> String {
    decimal(count(things))
}

fn malformed(got: &str, expected: String) -> ProblemKind {
    ProblemKind::Malformed {
        got: Some(got.to_owned()),
        expected,
    }
}

fn out_of_range(got: &Number, min: &str, max: &str) -> ProblemKind {
    ProblemKind::OutOfRange {
        got: got.text(),
        min: min.to_owned(),
        max: max.to_owned(),
    }
}

/// Fields of an object; there are never so many keys.
const FIELDS_MAX: usize = 256;
