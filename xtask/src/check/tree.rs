//! YAML and JSON as a tree that knows where everything stands; equal keys and order are kept.
//!
//! A text inside the text (a plugin configuration in a string) is a tree of its own, whose places
//! are places of the outer file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

/// A value and where it stands, in bytes of its file.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) file: usize,
    pub(crate) span: Range<usize>,
    pub(crate) value: Value,
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Bool(bool),
    List(Vec<Node>),
    Null,
    /// As it is written.
    Number(String),
    /// Keys are texts, whatever they were.
    Object(Vec<(Node, Node)>),
    Text(String),
}

/// A text that is neither YAML nor JSON: where, and what the reader says.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) at: usize,
    pub(crate) error: String,
}

impl Node {
    /// The value of the last of the keys that are `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        self.entry(name).map(|(_, value)| value)
    }

    /// The key `name` and its value.
    pub(crate) fn entry(&self, name: &str) -> Option<(&Self, &Self)> {
        let found = self.entries().iter().rev();
        found
            .map(|(key, value)| (key, value))
            .find(|(key, _)| key.text() == Some(name))
    }

    /// The value at the end of a path of keys.
    pub(crate) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, name| node.get(name))
    }

    pub(crate) fn entries(&self) -> &[(Self, Self)] {
        match &self.value {
            Value::Object(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text of a key below.
    pub(crate) fn text_of(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Self::text)
    }

    pub(crate) fn is_true(&self) -> bool {
        matches!(self.value, Value::Bool(true))
    }

    /// A duration: `0.05s`, `1m30s`, or `{seconds, nanos}`.
    pub(crate) fn duration(&self) -> Option<Duration> {
        match &self.value {
            Value::Text(text) => duration(text),
            Value::Object(_) => {
                let part = |name| match self.get(name).map(|node| &node.value) {
                    None => Some(0),
                    Some(Value::Number(text) | Value::Text(text)) => text.parse::<u64>().ok(),
                    Some(_) => None,
                };
                let nanos = Duration::from_nanos(part("nanos")?);
                Some(Duration::from_secs(part("seconds")?).saturating_add(nanos))
            }
            _ => None,
        }
    }

    /// Whether it is the `@type` of a message whose full name ends so.
    pub(crate) fn is_type(&self, end: &str) -> bool {
        self.text_of("@type")
            .is_some_and(|name| name.ends_with(end))
    }

    /// As JSON, in the same order and with equal keys.
    pub(crate) fn to_json(&self) -> String {
        let mut text = String::new();
        self.push_json(&mut text);
        text
    }

    fn push_json(&self, text: &mut String) {
        match &self.value {
            Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
            Value::Null => text.push_str("null"),
            Value::Number(number) => text.push_str(number),
            Value::Text(own) => push_text(text, own),
            Value::List(items) => {
                let mut before = '[';
                for item in items {
                    text.push(before);
                    item.push_json(text);
                    before = ',';
                }
                text.push_str(if items.is_empty() { "[]" } else { "]" });
            }
            Value::Object(entries) => {
                let mut before = '{';
                for (key, value) in entries {
                    text.push(before);
                    push_text(text, key.text().unwrap_or_default());
                    text.push(':');
                    value.push_json(text);
                    before = ',';
                }
                text.push_str(if entries.is_empty() { "{}" } else { "}" });
            }
        }
    }

    /// Moves every place into another text: `map` has the place of each byte there.
    fn move_by(&mut self, map: &[usize]) {
        let place = |at: usize| map.get(at).or_else(|| map.last()).copied().unwrap_or(0);
        let end = place(self.span.end.saturating_sub(1)).saturating_add(1);
        let start = place(self.span.start);
        self.span = start..end.max(start);
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.move_by(map)),
            Value::Object(entries) => {
                for (key, value) in entries {
                    key.move_by(map);
                    value.move_by(map);
                }
            }
            Value::Bool(_) | Value::Null | Value::Number(_) | Value::Text(_) => {}
        }
    }

    /// Puts everything at one place, where nothing closer is known.
    fn put_at(&mut self, span: &Range<usize>) {
        self.span = span.clone();
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|item| item.put_at(span)),
            Value::Object(entries) => {
                for (key, value) in entries {
                    key.put_at(span);
                    value.put_at(span);
                }
            }
            Value::Bool(_) | Value::Null | Value::Number(_) | Value::Text(_) => {}
        }
    }

    /// The tree in a text inside this file.
    pub(crate) fn inner(&self, source: &str) -> Option<Self> {
        let text = self.text()?;
        let mut tree = read(self.file, text).ok()?.into_iter().next()?;
        match self.places_of(text, source) {
            Some(map) => tree.move_by(&map),
            None => tree.put_at(&self.span),
        }
        Some(tree)
    }

    /// The place in the file of a byte of this text.
    pub(crate) fn place_in(&self, source: &str, at: usize) -> Option<usize> {
        let map = self.places_of(self.text()?, source)?;
        map.get(at).or_else(|| map.last()).copied()
    }

    fn places_of(&self, text: &str, source: &str) -> Option<Vec<usize>> {
        let quoted = source.get(self.span.clone())?;
        let start = self.span.start;
        match quoted.chars().next()? {
            '"' => double_quoted(text, quoted).map(|map| shifted(map, start)),
            '\'' => single_quoted(text, quoted).map(|map| shifted(map, start)),
            _ => block(text, source, start),
        }
    }
}

fn shifted(map: Vec<usize>, by: usize) -> Vec<usize> {
    map.into_iter().map(|at| at + by).collect()
}

/// The places of a block's bytes: its lines without their indentation.
fn block(text: &str, source: &str, start: usize) -> Option<Vec<usize>> {
    let from = source.get(..start)?.rfind('\n').map_or(0, |at| at + 1);
    let mut lines = Vec::new();
    let mut at = from;
    for line in source.get(from..)?.split_inclusive('\n') {
        lines.push((at, line.trim_end_matches(['\n', '\r'])));
        at += line.len();
    }
    let inner: Vec<&str> = text.lines().collect();
    // The block's first line is that of its place, or the one behind its header.
    (0..lines.len().min(3)).find_map(|first| same_lines(&inner, lines.get(first..)?, text.len()))
}

fn same_lines(inner: &[&str], outer: &[(usize, &str)], length: usize) -> Option<Vec<usize>> {
    let mut map = Vec::with_capacity(length + 1);
    for (index, line) in inner.iter().enumerate() {
        let (at, outer) = outer.get(index)?;
        if !outer.ends_with(line) {
            return None;
        }
        let indent = outer.len() - line.len();
        if !outer.get(..indent)?.trim_matches(' ').is_empty() {
            return None;
        }
        map.extend((0..=line.len()).map(|byte| at + indent + byte));
    }
    Some(map)
}

/// The places of the bytes between double quotes; `None` where the text is folded.
fn double_quoted(text: &str, quoted: &str) -> Option<Vec<usize>> {
    let mut map = Vec::with_capacity(text.len());
    let mut own = text.char_indices();
    let mut rest = quoted.char_indices().skip(1);
    while let Some((at, character)) = rest.next() {
        if character == '"' {
            break;
        }
        let (_, told) = own.next()?;
        if character == '\\' {
            let (_, escaped) = rest.next()?;
            let digits = match escaped {
                'x' => 2,
                'u' => 4,
                'U' => 8,
                _ => 0,
            };
            rest.by_ref().take(digits).for_each(drop);
        } else if character != told {
            return None;
        }
        map.extend(std::iter::repeat_n(at, told.len_utf8()));
    }
    own.next().is_none().then_some(map)
}

/// The places of the bytes between single quotes; `None` where the text is folded.
fn single_quoted(text: &str, quoted: &str) -> Option<Vec<usize>> {
    let mut map = Vec::with_capacity(text.len());
    let mut rest = quoted.char_indices().skip(1);
    for told in text.chars() {
        let (at, character) = rest.next()?;
        if character != told {
            return None;
        }
        if character == '\'' {
            rest.next()?;
        }
        map.extend(std::iter::repeat_n(at, told.len_utf8()));
    }
    Some(map)
}

/// Reads every document of a text.
///
/// # Errors
/// The first thing that is neither YAML nor JSON.
pub(crate) fn read(file: usize, text: &str) -> Result<Vec<Node>, Unreadable> {
    let mut reader = Reader {
        file,
        places: text.char_indices().map(|(at, _)| at).collect(),
        length: text.len(),
        anchors: BTreeMap::new(),
        open: Vec::new(),
        documents: Vec::new(),
    };
    let mut depth = 0_usize;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Unreadable {
            at: reader.place(error.marker().index()),
            error: error.info().to_owned(),
        })?;
        match &event {
            Event::MappingStart(..) | Event::SequenceStart(..) => depth += 1,
            Event::MappingEnd | Event::SequenceEnd => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(Unreadable {
                at: reader.place(span.start.index()),
                error: format!("nested deeper than {DEPTH_MAX} levels"),
            });
        }
        reader.take(event, span);
    }
    Ok(reader.documents)
}

/// What is open: a container, its anchor, and the key that waits for its value.
struct Open {
    node: Node,
    anchor: usize,
    key: Option<Node>,
}

struct Reader {
    file: usize,
    places: Vec<usize>,
    length: usize,
    anchors: BTreeMap<usize, Node>,
    open: Vec<Open>,
    documents: Vec<Node>,
}

impl Reader {
    fn place(&self, character: usize) -> usize {
        self.places.get(character).copied().unwrap_or(self.length)
    }

    fn node(&self, span: Span, value: Value) -> Node {
        let (start, end) = (self.place(span.start.index()), self.place(span.end.index()));
        Node {
            file: self.file,
            span: start..end.max(start),
            value,
        }
    }

    fn take(&mut self, event: Event<'_>, span: Span) {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let node = self.node(span, scalar(&text, style));
                self.add(node, anchor);
            }
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).map(|node| node.value.clone());
                let node = self.node(span, known.unwrap_or(Value::Null));
                self.add(node, 0);
            }
            Event::SequenceStart(anchor, _) => self.begin(span, Value::List(Vec::new()), anchor),
            Event::MappingStart(anchor, _) => self.begin(span, Value::Object(Vec::new()), anchor),
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(mut open) = self.open.pop() {
                    let end = self.place(span.end.index());
                    open.node.span.end = end.max(open.node.span.start);
                    self.add(open.node, open.anchor);
                }
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
        }
    }

    fn begin(&mut self, span: Span, value: Value, anchor: usize) {
        let node = self.node(span, value);
        self.open.push(Open {
            node,
            anchor,
            key: None,
        });
    }

    fn add(&mut self, node: Node, anchor: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return;
        };
        match (&mut open.node.value, open.key.take()) {
            (Value::Object(entries), Some(key)) => entries.push((key, node)),
            (Value::Object(_), None) => open.key = Some(as_key(node)),
            (Value::List(items), _) => items.push(node),
            _ => {}
        }
    }
}

fn as_key(mut node: Node) -> Node {
    let text = match &node.value {
        Value::Text(_) => return node,
        Value::Bool(value) => value.to_string(),
        Value::Number(text) => text.clone(),
        Value::List(_) | Value::Null | Value::Object(_) => String::new(),
    };
    node.value = Value::Text(text);
    node
}

/// YAML's core schema, which JSON is a part of.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::Text(text.to_owned()), Value::Number),
    }
}

/// A number in the way that JSON writes it.
fn number(text: &str) -> Option<String> {
    if serde_json::from_str::<serde_json::Number>(text).is_ok() {
        return Some(text.to_owned());
    }
    let plain = text.strip_prefix('+').unwrap_or(text);
    let digits = plain
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if !digits || plain.bytes().filter(|byte| *byte == b'.').count() > 1 {
        return None;
    }
    let double: f64 = plain.parse().ok()?;
    Some(double.to_string())
}

fn push_text(text: &mut String, own: &str) {
    text.push_str(&serde_json::Value::from(own).to_string());
}

/// A duration of protobuf's JSON or of Go: numbers with `h`, `m`, `s` or `ms`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit)?;
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            "us" => 0.000_001,
            "ns" => 0.000_000_001,
            _ => return None,
        };
        let seconds = number.parse::<f64>().ok()? * unit;
        sum = sum.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(sum)
}

/// As deep as the filter's own reader goes.
const DEPTH_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Node {
        read(0, text).unwrap().remove(0)
    }

    #[test]
    fn every_value_knows_its_place() {
        let text = "a:\n- b: é1s\n  c: {d: 3}\n";
        let tree = only(text);

        let item = &tree.get("a").unwrap().items()[0];
        assert_eq!(&text[item.get("b").unwrap().span.clone()], "é1s");
        assert_eq!(&text[item.at(&["c", "d"]).unwrap().span.clone()], "3");
        assert_eq!(tree.to_json(), r#"{"a":[{"b":"é1s","c":{"d":3}}]}"#);
    }

    #[test]
    fn equal_keys_are_kept_and_aliases_stand_for_their_values() {
        let tree = only("a: &x [1]\nb: *x\na: yes\n");

        assert_eq!(tree.to_json(), r#"{"a":[1],"b":[1],"a":"yes"}"#);
    }

    #[test]
    fn a_text_inside_a_text_has_its_places_in_the_outer_one() {
        for outer in [
            "v: |\n  {\n    \"k\": [1,\n     23]}\n",
            "v: >-\n  {\"k\": [1, 23]}\n",
            "v: '{\"k\": [1, 23]}'\n",
            r#"{"v": "{\"k\":\n\u005b1, 23]}"}"#,
        ] {
            let tree = only(outer);
            let inner = tree.get("v").unwrap().inner(outer).unwrap();
            let (key, list) = inner.entry("k").unwrap();
            assert!(outer[key.span.clone()].contains('k'), "{outer}");
            assert_eq!(&outer[list.items()[1].span.clone()], "23", "{outer}");
        }
    }

    #[test]
    fn durations_are_read_as_envoy_and_kubernetes_write_them() {
        for (text, millis) in [
            ("0.05s", 50),
            ("300s", 300_000),
            ("1m30s", 90_000),
            ("50ms", 50),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        assert_eq!(duration("5"), None);
        assert_eq!(duration(""), None);
        let tree = only("{seconds: 1, nanos: 500000000}");
        assert_eq!(tree.duration(), Some(Duration::from_millis(1_500)));
    }

    #[test]
    fn a_text_that_is_neither_is_refused_with_its_place() {
        let error = read(0, "a: 1\nb: [\n").unwrap_err();

        assert!(error.at >= 5, "{error:?}");
    }
}
