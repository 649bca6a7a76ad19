//! A backend's own language: the templates and rules of `custom`, out of the checked tree.
//!
//! Templates are texts with slots in braces, `{cost}`; a brace that is meant is written twice. What
//! the result can say is bounded by its types: a template can't produce anything but JSON, and a
//! value in a slot can't leave its place.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::StatusPattern;
use super::build::{Builder, status_pattern};
use super::check::At;
use super::keys::{Key, backend, count_place, custom, custom_report, test, time_place};
use super::node::Node;
use super::problem::{ProblemKind, one_of};
use super::units;
use super::value::Value;
use crate::language::{
    BodyRules, HeaderShape, Language, Piece, Place, Pointer, REQUEST_ID, Reading, Report, Rules,
    STANDARD_READINGS, Shape, Slot, Target, Test, Text, Unit, Want,
};

/// What stands in a template.
enum Part {
    /// These bytes.
    Raw(String),
    /// A slot, and how it is to be written.
    Slot(Slot, Style),
}

/// How a slot is written in JSON when it is all that a text has.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Style {
    /// As an object or a list; nowhere but in JSON, and on its own.
    Braced(&'static str, &'static str),
    /// As a number, without quotes.
    Number,
    /// As a text.
    Text,
}

/// Why a text is no template.
enum Fault {
    /// A brace stands alone.
    Brace,
    /// Nothing has that name.
    Unknown(String),
}

impl Builder {
    /// The language that a backend's `custom` describes, and that its `path` is a template of.
    #[inline(never)]
    pub(super) fn custom(&mut self, node: &Node<'_>, path: (&str, &At<'_>)) -> Language {
        let path = self.template(path.0, path.1, Slots::Check);
        let mut headers = self.header_shapes(node, &custom::HEADERS, Slots::Check);
        if !headers.iter().any(|header| header.name == REQUEST_ID.name) {
            headers.push(REQUEST_ID);
        }
        let mut body = Vec::new();
        if let Some((_, value)) = node.find(&custom::BODY) {
            if node.text(&custom::METHOD) == "GET" {
                let with = "a `GET` has no body, choose another `method`";
                self.conflict(&node.at(&custom::BODY), with);
            }
            self.json(&mut body, value, &node.at(&custom::BODY), Slots::Check);
        }
        Language {
            request: Shape {
                method: node.text(&custom::METHOD).to_owned().into(),
                path: path.into(),
                headers: headers.into(),
                body: body.into(),
            },
            reply: Rules {
                allow: vec![StatusPattern::Class(2)].into(),
                deny: vec![StatusPattern::Exact(429)].into(),
                reject: vec![StatusPattern::Exact(401), StatusPattern::Exact(403)].into(),
                body: self.body_rules(node),
                readings: self.readings(node).into(),
                more: &STANDARD_READINGS,
            },
            report: None,
        }
    }

    /// How the backend is told afterwards what requests really used, where its `custom` says so.
    pub(super) fn custom_report(&mut self, backend: &Node<'_>) -> Option<Report> {
        let language = backend.table(&backend::CUSTOM);
        let path = backend.given_text(&backend::REPORT_PATH);
        if !language.has(&custom::REPORT) {
            if path.is_some() {
                let with = "there is no `custom.report` that it would be the path of".to_owned();
                let path = backend.at(&backend::REPORT_PATH).path();
                self.problems.add(path, ProblemKind::Conflict { with });
            }
            return None;
        }
        let node = language.table(&custom::REPORT);
        if path.is_none() {
            let kind = backend::REPORT_PATH.kind.expected();
            let expected = [&kind, ", for `custom.report`"].concat();
            let path = backend.at.missing(backend::REPORT_PATH.name).path();
            self.problems.add(path, ProblemKind::Missing { expected });
        }
        let at = backend.at(&backend::REPORT_PATH);
        let path_pieces = self.template(path.unwrap_or_default(), &at, Slots::Report);
        let mut body = Vec::new();
        if let Some((_, value)) = node.find(&custom_report::BODY) {
            self.json(
                &mut body,
                value,
                &node.at(&custom_report::BODY),
                Slots::Report,
            );
        }
        let request = Shape {
            method: node.text(&custom_report::METHOD).to_owned().into(),
            path: path_pieces.into(),
            headers: self
                .header_shapes(&node, &custom_report::HEADERS, Slots::Report)
                .into(),
            body: body.into(),
        };
        if !request.holds(&Slot::Units) {
            let expected = "the slot `{units}` in `body`, `headers` or `report_path`".to_owned();
            self.problems
                .add(node.at.path(), ProblemKind::Missing { expected });
        }
        let counted = node.items(&custom_report::COUNTED).iter();
        let mut counted: Vec<StatusPattern> = counted.filter_map(status_pattern).collect();
        if counted.is_empty() {
            counted.push(StatusPattern::Class(2));
        }
        Some(Report {
            request,
            counted: counted.into(),
            unsure: (&[]).into(),
            most: None,
            error: node.given_text(&custom_report::ERROR).map(pointer),
            takes_back: node.is_true(&custom_report::TAKES_BACK),
            peek: None,
        })
    }

    fn header_shapes(&mut self, node: &Node<'_>, key: &Key, slots: Slots) -> Vec<HeaderShape> {
        let mut headers = Vec::new();
        let at = node.at(key);
        for (position, (name, value)) in node.fields(key).iter().enumerate() {
            let value = value.as_text().unwrap_or_default();
            headers.push(HeaderShape {
                name: name.to_ascii_lowercase().into(),
                value: self.template(value, &at.key(position, name), slots).into(),
            });
        }
        headers
    }

    /// The pieces of a template that stands in a path or a header.
    fn template(&mut self, text: &str, at: &At<'_>, slots: Slots) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for part in self.parts(text, at, slots) {
            match part {
                Part::Raw(raw) => pieces.push(Piece::Raw(raw.into())),
                Part::Slot(slot, style) => {
                    self.check_place(style, at);
                    pieces.push(Piece::Slot(slot));
                }
            }
        }
        pieces
    }

    /// Appends the JSON text of a template, with its slots.
    #[inline(never)]
    fn json(&mut self, pieces: &mut Vec<Piece>, value: &Value, at: &At<'_>, slots: Slots) {
        match value {
            Value::Bool(true) => push(pieces, "true"),
            Value::Bool(false) => push(pieces, "false"),
            Value::Null => push(pieces, "null"),
            Value::Number(number) => push(pieces, &number.text()),
            Value::Text(text) => self.json_text(pieces, text, at, slots),
            Value::List(items) => {
                push(pieces, "[");
                for (position, item) in items.iter().enumerate() {
                    if position != 0 {
                        push(pieces, ",");
                    }
                    self.json(pieces, item, &at.item(position), slots);
                }
                push(pieces, "]");
            }
            Value::Object(fields) => {
                push(pieces, "{");
                for (position, (name, item)) in fields.iter().enumerate() {
                    if position != 0 {
                        push(pieces, ",");
                    }
                    push(pieces, "\"");
                    push(pieces, &escaped(name));
                    push(pieces, "\":");
                    self.json(pieces, item, &at.key(position, name), slots);
                }
                push(pieces, "}");
            }
        }
    }

    fn json_text(&mut self, pieces: &mut Vec<Piece>, text: &str, at: &At<'_>, slots: Slots) {
        let parts = self.parts(text, at, slots);
        match parts.as_slice() {
            [Part::Slot(slot, Style::Number)] => return pieces.push(Piece::Slot(slot.clone())),
            [Part::Slot(slot, Style::Braced(open, close))] => {
                push(pieces, open);
                pieces.push(Piece::Slot(slot.clone()));
                return push(pieces, close);
            }
            _ => {}
        }
        push(pieces, "\"");
        for part in parts {
            match part {
                Part::Raw(raw) => push(pieces, &escaped(&raw)),
                Part::Slot(slot, style) => {
                    self.check_place(style, at);
                    pieces.push(Piece::Slot(slot));
                }
            }
        }
        push(pieces, "\"");
    }

    fn parts(&mut self, text: &str, at: &At<'_>, slots: Slots) -> Vec<Part> {
        parts(text, slots).unwrap_or_else(|fault| {
            let kind = match fault {
                // A template may hold a secret beside its slots.
                Fault::Brace => ProblemKind::Malformed {
                    got: None,
                    expected: "slots in braces, like `{cost}`; a brace that is meant twice"
                        .to_owned(),
                },
                Fault::Unknown(name) => ProblemKind::NotSupported {
                    did_you_mean: units::did_you_mean(&name, names(slots)).map(str::to_owned),
                    allowed: one_of(names(slots).chain(["entry.NAME"])),
                    got: name,
                },
            };
            self.problems.add(at.path(), kind);
            Vec::new()
        })
    }

    /// What stands among other text is a text.
    fn check_place(&mut self, style: Style, at: &At<'_>) {
        let got = match style {
            Style::Braced("{", _) => "descriptor:object",
            Style::Braced(..) => "descriptor:list",
            Style::Number | Style::Text => return,
        };
        let kind = ProblemKind::Forbidden {
            got: got.to_owned(),
            why: "is an object or a list, which goes into a body and is all of its text there",
        };
        self.problems.add(at.path(), kind);
    }

    /// With any rule for the body, yes and no must both be told apart there: what is neither is a
    /// failure, and a no that is taken for a failure could be let through.
    #[inline(never)]
    fn body_rules(&mut self, node: &Node<'_>) -> Option<BodyRules> {
        let keys = [
            &custom::ALLOW,
            &custom::DENY,
            &custom::REJECT,
            &custom::ERROR,
        ];
        if !keys.iter().any(|key| node.has(key)) {
            return None;
        }
        for key in [&custom::ALLOW, &custom::DENY] {
            if !node.has(key) {
                let expected = "both `allow` and `deny` where the body decides";
                self.lacks(node, key, expected);
            }
        }
        let mut tests = |key| -> Vec<Test> { self.test(node, key).into_iter().collect() };
        Some(BodyRules {
            reject: tests(&custom::REJECT).into(),
            deny: tests(&custom::DENY).into(),
            allow: tests(&custom::ALLOW).into(),
            error: node
                .given_text(&custom::ERROR)
                .map(|text| vec![pointer(text)])
                .unwrap_or_default()
                .into(),
            each: None,
        })
    }

    #[inline(never)]
    fn test(&mut self, node: &Node<'_>, key: &Key) -> Option<Test> {
        if !node.has(key) {
            return None;
        }
        let table = node.table(key);
        if table.has(&test::IS) && table.has(&test::IN) {
            self.conflict(&table.at(&test::IS), "`in` is there too, keep one of them");
        }
        let words = table.items(&test::IN).iter().filter_map(Value::as_text);
        let words: Vec<Text> = words.map(|word| word.to_owned().into()).collect();
        Some(Test {
            pointer: pointer(table.given_text(&test::POINTER).unwrap_or_default()),
            want: if !words.is_empty() {
                Want::OneOf(words.into())
            } else if table.has(&test::IS) && !table.is_true(&test::IS) {
                Want::Falsy
            } else {
                Want::Truthy
            },
        })
    }

    #[inline(never)]
    fn readings(&mut self, node: &Node<'_>) -> Vec<Reading> {
        let counts = [
            (&custom::GRANTED, Target::Granted),
            (&custom::LIMIT, Target::Limit),
            (&custom::REMAINING, Target::Remaining),
        ];
        let times = [
            (&custom::RESET, Target::Reset),
            (&custom::RETRY_AFTER, Target::RetryAfter),
            (&custom::WINDOW, Target::Window),
        ];
        let mut readings = Vec::new();
        for (key, target) in counts.into_iter().chain(times) {
            if !node.has(key) {
                continue;
            }
            let table = node.table(key);
            readings.push(Reading {
                target,
                place: self.place(&table),
                unit: match table.given_text(&time_place::UNIT) {
                    Some("epoch_ms") => Unit::EpochMillis,
                    Some("epoch_s") => Unit::EpochSeconds,
                    Some("ms") => Unit::Millis,
                    Some(_) | None => Unit::Seconds,
                },
                missing: table.given_count(&count_place::MISSING),
            });
        }
        readings
    }

    #[inline(never)]
    fn place(&mut self, node: &Node<'_>) -> Place {
        // Both kinds of places have these two keys.
        let (header, pointer_key) = (&time_place::HEADER, &time_place::POINTER);
        let problem = match (node.has(header), node.has(pointer_key)) {
            (true, true) => Some(ProblemKind::Conflict {
                with: "has a `header` and a `pointer`, keep one of them".to_owned(),
            }),
            (false, false) => Some(ProblemKind::Missing {
                expected: "a `header` or a `pointer`".to_owned(),
            }),
            (true, false) | (false, true) => None,
        };
        if let Some(kind) = problem {
            self.problems.add(node.at.path(), kind);
        }
        match node.given_text(header) {
            Some(name) => Place::Header(name.to_ascii_lowercase().into()),
            None => Place::Pointer(pointer(node.given_text(pointer_key).unwrap_or_default())),
        }
    }
}

/// A JSON pointer, taken apart.
fn pointer(text: &str) -> Pointer {
    let mut steps: Vec<Text> = Vec::new();
    let mut chars = text.chars();
    while let Some(next) = chars.next() {
        let plain = match next {
            '/' => {
                steps.push(Text::Owned(String::new()));
                continue;
            }
            '~' => match chars.next() {
                Some('1') => '/',
                Some(_) | None => '~',
            },
            other => other,
        };
        if let Some(step) = steps.last_mut() {
            step.to_mut().push(plain);
        }
    }
    steps.into()
}

fn parts(text: &str, slots: Slots) -> Result<Vec<Part>, Fault> {
    let mut parts = Vec::new();
    let mut raw = String::new();
    let mut chars = text.chars().peekable();
    while let Some(next) = chars.next() {
        let is_doubled = chars.peek() == Some(&next);
        match next {
            '{' | '}' if is_doubled => {
                chars.next();
                raw.push(next);
            }
            '}' => return Err(Fault::Brace),
            '{' => {
                let mut name = String::new();
                loop {
                    match chars.next() {
                        Some('}') => break,
                        Some(next) => name.push(next),
                        None => return Err(Fault::Brace),
                    }
                }
                let (slot, style) = slot(&name, slots).ok_or(Fault::Unknown(name))?;
                if !raw.is_empty() {
                    parts.push(Part::Raw(core::mem::take(&mut raw)));
                }
                parts.push(Part::Slot(slot, style));
            }
            other => raw.push(other),
        }
    }
    if !raw.is_empty() {
        parts.push(Part::Raw(raw));
    }
    Ok(parts)
}

fn names(slots: Slots) -> impl Iterator<Item = &'static str> + Clone {
    of(slots).map(|slot| slot.1)
}

/// The slots of a kind of template.
fn of(slots: Slots) -> impl Iterator<Item = &'static Named> + Clone {
    let is_one = move |slot: &&Named| matches!(slot.0, Slots::Both) || slot.0 == slots;
    SLOTS.iter().filter(is_one)
}

fn slot(name: &str, slots: Slots) -> Option<(Slot, Style)> {
    if let Some(entry) = name.strip_prefix("entry.") {
        return (!entry.is_empty()).then(|| (Slot::Entry(entry.to_owned().into()), Style::Text));
    }
    of(slots)
        .find(|slot| slot.1 == name)
        .map(|(_, _, slot, style)| (slot.clone(), *style))
}

/// Appends constant text to the constant before it.
fn push(pieces: &mut Vec<Piece>, text: &str) {
    if let Some(Piece::Raw(last)) = pieces.last_mut() {
        last.to_mut().push_str(text);
    } else {
        pieces.push(Piece::Raw(text.to_owned().into()));
    }
}

/// The inside of a JSON string that says exactly `text`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for next in text.chars() {
        match next {
            '"' | '\\' => out.extend(['\\', next]),
            '\u{0}'..='\u{1f}' => {
                let code = u32::from(next);
                let digit = |nibble| char::from_digit(nibble, 16).unwrap_or('0');
                out.push_str("\\u00");
                out.extend([digit(code >> 4), digit(code & 0xf)]);
            }
            other => out.push(other),
        }
    }
    out
}

/// Which slots a template may have, by name; `entry.NAME` is one more for each entry of a
/// descriptor.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Slots {
    /// Those of either.
    Both,
    /// Those of a check.
    Check,
    /// Those of a report, which is about many requests. A cost has no sign, and would charge what
    /// is to be taken back.
    Report,
}

type Named = (Slots, &'static str, Slot, Style);

/// In the order in which they are named to a reader.
static SLOTS: [Named; 21] = [
    (Slots::Report, "units", Slot::Units, Style::Number),
    (Slots::Report, "units:text", Slot::Units, Style::Text),
    (Slots::Report, "requests", Slot::Requests, Style::Number),
    (
        Slots::Report,
        "settlement_id",
        Slot::SettlementId,
        Style::Text,
    ),
    (Slots::Report, "unchecked", Slot::Unchecked, Style::Text),
    (Slots::Check, "cost", Slot::Cost, Style::Number),
    (Slots::Check, "cost:text", Slot::Cost, Style::Text),
    (Slots::Check, "cost_min", Slot::CostMin, Style::Number),
    (Slots::Both, "descriptor", Slot::Descriptor, Style::Text),
    (
        Slots::Both,
        "descriptor:object",
        Slot::DescriptorMembers,
        Style::Braced("{", "}"),
    ),
    (
        Slots::Both,
        "descriptor:list",
        Slot::DescriptorPairs,
        Style::Braced("[", "]"),
    ),
    (Slots::Both, "namespace", Slot::Namespace, Style::Text),
    (Slots::Both, "policy", Slot::Policy, Style::Text),
    (Slots::Both, "quota.burst", Slot::QuotaBurst, Style::Number),
    (
        Slots::Both,
        "quota.per_ms",
        Slot::QuotaMillis,
        Style::Number,
    ),
    (
        Slots::Both,
        "quota.per_ms:text",
        Slot::QuotaMillis,
        Style::Text,
    ),
    (
        Slots::Both,
        "quota.per_s",
        Slot::QuotaSeconds,
        Style::Number,
    ),
    (Slots::Both, "quota.units", Slot::QuotaUnits, Style::Number),
    (
        Slots::Both,
        "quota.units:text",
        Slot::QuotaUnits,
        Style::Text,
    ),
    (Slots::Check, "request_id", Slot::RequestId, Style::Text),
    (Slots::Check, "route", Slot::Route, Style::Text),
];
