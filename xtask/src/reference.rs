//! What the tables of keys say, for editors and for people: the JSON Schema and the reference.
//!
//! Both are made from `quota_gate::config::keys`, the declaration that the parser itself walks, and
//! a test holds the committed files against it.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use quota_gate::config::form::Form;
use quota_gate::config::keys::config::CONFIG;
use quota_gate::config::keys::{Key, Kind, Presence, Table};
use quota_gate::config::value::{Number, Value};

use crate::paths;

/// How to run it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say whether the committed files are up to date
    #[arg(long)]
    check: bool,
}

/// Writes the schema and the reference, or holds the committed ones against the declaration.
///
/// # Errors
/// A file that is out of date, or can't be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    for (path, text) in files() {
        let written = fs::read_to_string(&path).unwrap_or_default();
        if written == text {
            continue;
        }
        if args.check {
            bail!(
                "{} is out of date: run `cargo xtask reference`",
                path.display()
            );
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

fn files() -> [(PathBuf, String); 2] {
    let root = paths::root();
    let mut schema = String::new();
    print_json(&schema_of_the_whole(), 0, &mut schema);
    schema.push('\n');
    [
        (root.join("envoy/quota-gate.schema.json"), schema),
        (root.join("docs/reference.md"), reference()),
    ]
}

/// A JSON Schema of the plugin configuration, draft 2020-12.
fn schema_of_the_whole() -> Value {
    let Value::Object(mut fields) = schema_of_table(&CONFIG) else {
        return Value::Null;
    };
    let draft = text("https://json-schema.org/draft/2020-12/schema");
    fields.insert(0, field("$schema", draft));
    fields.insert(1, field("title", text("quota-gate plugin configuration")));
    Value::Object(fields)
}

fn schema_of_table(table: &Table) -> Value {
    let properties = table.keys.iter().map(|key| {
        let Value::Object(mut schema) = schema_of_kind(&key.kind) else {
            return field(key.name, Value::Null);
        };
        // What the key means says more than what the object is.
        schema.retain(|(name, _)| name != "description");
        schema.insert(0, field("description", text(key.doc)));
        if let (false, Some(default)) = (table.changes, default(key)) {
            schema.push(field("default", default));
        }
        field(key.name, Value::Object(schema))
    });
    let mut schema = vec![
        field("description", text(table.doc)),
        field("type", text("object")),
        field("properties", Value::Object(properties.collect())),
        field("additionalProperties", Value::Bool(false)),
    ];
    let required: Vec<Value> = table
        .keys
        .iter()
        .filter(|key| !table.changes && matches!(key.presence, Presence::Required))
        .map(|key| text(key.name))
        .collect();
    if !required.is_empty() {
        schema.push(field("required", Value::List(required)));
    }
    if !table.one_of.is_empty() {
        let each = table.one_of.iter().map(|key| {
            let name = Value::List(vec![text(key.name)]);
            Value::Object(vec![field("required", name)])
        });
        schema.push(field("oneOf", Value::List(each.collect())));
    }
    Value::Object(schema)
}

fn schema_of_kind(kind: &Kind) -> Value {
    let fields = match kind {
        Kind::Bool => vec![field("type", text("boolean"))],
        Kind::Count(min, max) => vec![
            field("type", text("integer")),
            field("minimum", count(*min)),
            field("maximum", count(*max)),
        ],
        Kind::Duration(min, max) => vec![
            field("type", text("string")),
            field("pattern", text(r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)$")),
            field("$comment", text(&format!("{min} to {max}"))),
        ],
        Kind::Factor => vec![
            field("type", text("number")),
            field(
                "$comment",
                text("-1000 to 1000 but not 0, to the thousandth"),
            ),
        ],
        Kind::Either(simple, object) => {
            let both = vec![schema_of_kind(simple), schema_of_kind(object)];
            vec![field("anyOf", Value::List(both))]
        }
        Kind::List(item, min, max) => vec![
            field("type", text("array")),
            field("items", schema_of_kind(item)),
            field("minItems", length(*min)),
            field("maxItems", length(*max)),
        ],
        Kind::Map(form, item, max) => vec![
            field("type", text("object")),
            field("propertyNames", schema_of_form(*form)),
            field("additionalProperties", schema_of_kind(item)),
            field("maxProperties", length(*max)),
        ],
        Kind::Share => vec![
            field("type", text("number")),
            field("exclusiveMinimum", count(0)),
            field("maximum", count(1)),
        ],
        Kind::Status => {
            let hundreds = ["2xx", "3xx", "4xx", "5xx"].map(text).to_vec();
            let both = vec![
                schema_of_kind(&Kind::Count(200, 599)),
                Value::Object(vec![field("enum", Value::List(hundreds))]),
            ];
            vec![field("anyOf", Value::List(both))]
        }
        Kind::Table(table) => return schema_of_table(table),
        Kind::Template => {
            let types = vec![text("array"), text("object")];
            vec![field("type", Value::List(types))]
        }
        Kind::Text(form) => return schema_of_form(*form),
        Kind::True => vec![field("const", Value::Bool(true))],
        Kind::Words(words) => {
            let words = words.iter().copied().map(text).collect();
            vec![field("enum", Value::List(words))]
        }
    };
    Value::Object(fields)
}

fn schema_of_form(form: Form) -> Value {
    Value::Object(vec![
        field("type", text("string")),
        field("pattern", text(form.pattern())),
        field("minLength", count(1)),
        field("maxLength", length(form.max_bytes())),
    ])
}

/// The default as it would stand in a configuration.
fn default(key: &Key) -> Option<Value> {
    let Presence::Default(default) = key.presence else {
        return None;
    };
    Some(Value::from_json(default.as_bytes()).unwrap_or_else(|_| text(default)))
}

/// The reference, in Markdown: a section for each object, outer ones first.
fn reference() -> String {
    let mut out = String::from(INTRODUCTION);
    let mut sections = Vec::new();
    collect("", &CONFIG, &mut sections);
    for section in &sections {
        section.write(&sections, &mut out);
    }
    out.push_str(RULES);
    let _ = write!(out, "\n## A complete example\n\n```json\n{EXAMPLE}```\n");
    out
}

/// An object, and where it may stand: in its section's title first.
struct Section {
    paths: Vec<String>,
    table: &'static Table,
}

impl Section {
    fn write(&self, sections: &[Self], out: &mut String) {
        let Some((path, others)) = self.paths.split_first() else {
            return;
        };
        let title = if path.is_empty() {
            "The whole".to_owned()
        } else {
            format!("`{path}`")
        };
        let _ = write!(out, "\n## {title}\n\n{}\n", self.table.doc);
        if !others.is_empty() {
            let others: Vec<String> = others.iter().map(|path| format!("`{path}`")).collect();
            let _ = writeln!(out, "The same: {}.", others.join(", "));
        }
        if !self.table.one_of.is_empty() {
            let names = self
                .table
                .one_of
                .iter()
                .map(|key| format!("`{}`", key.name));
            let names: Vec<String> = names.collect();
            let _ = writeln!(out, "Exactly one of {} is given.", names.join(", "));
        }
        out.push_str("\n| key | value | if absent | meaning |\n| --- | --- | --- | --- |\n");
        for key in self.table.keys {
            let absent = match (self.table.changes, key.presence) {
                (true, _) => "the policy's".to_owned(),
                (false, Presence::Default(default)) => format!("`{default}`"),
                (false, Presence::Otherwise(sentence)) => sentence.to_owned(),
                (false, Presence::Required) => "**required**".to_owned(),
            };
            let value = describe(&key.kind, sections).replace('|', "\\|");
            let _ = writeln!(out, "| `{}` | {value} | {absent} | {} |", key.name, key.doc);
        }
    }
}

/// The objects below an object, with their paths, in the order of a reader.
fn collect(path: &str, table: &'static Table, sections: &mut Vec<Section>) {
    let known = sections
        .iter_mut()
        .find(|section| std::ptr::eq(section.table, table));
    if let Some(section) = known {
        section.paths.push(path.to_owned());
        return;
    }
    let paths = vec![path.to_owned()];
    sections.push(Section { paths, table });
    // What a rule changes is described where it is declared.
    let keys = table.keys.iter().filter(|_| !table.changes);
    for key in keys {
        collect_kind(&join(path, key.name), &key.kind, sections);
    }
}

fn collect_kind(path: &str, kind: &'static Kind, sections: &mut Vec<Section>) {
    match kind {
        Kind::Either(simple, object) => {
            collect_kind(path, simple, sections);
            collect_kind(path, object, sections);
        }
        Kind::List(item, ..) => collect_kind(&format!("{path}[]"), item, sections),
        Kind::Map(_, item, _) => collect_kind(&format!("{path}.*"), item, sections),
        Kind::Table(table) => collect(path, table, sections),
        _ => {}
    }
}

/// A value's kind in words, with a link to the section of an object.
fn describe(kind: &Kind, sections: &[Section]) -> String {
    match kind {
        Kind::Either(simple, object) => {
            let (simple, object) = (describe(simple, sections), describe(object, sections));
            format!("{simple}, or {object}")
        }
        Kind::List(item, min, max) => {
            let item = describe(item, sections);
            format!("a list, {min} to {max} items: {item}")
        }
        Kind::Map(form, item, max) => {
            let item = describe(item, sections);
            format!(
                "an object, at most {max} keys: {} → {item}",
                form.expected()
            )
        }
        Kind::Table(table) => {
            let mut paths = sections
                .iter()
                .filter(|section| std::ptr::eq(section.table, *table))
                .flat_map(|section| section.paths.first());
            let anchor = anchor(paths.next().map_or("", String::as_str));
            format!("[object](#{anchor})")
        }
        Kind::Text(form) => format!("{}, at most {} bytes", form.expected(), form.max_bytes()),
        _ => kind.expected(),
    }
}

/// The name that a renderer gives to the section of a title.
fn anchor(title: &str) -> String {
    title.chars().filter(|c| !".*[]`".contains(*c)).collect()
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// JSON with an order of its own, whatever features `serde_json` was built with.
fn print_json(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth + 1);
    let (open, close, lines): (_, _, Vec<String>) = match value {
        Value::List(items) if items.iter().any(|item| !item.fields().is_empty()) => {
            let line = |item| printed(item, depth + 1);
            ('[', ']', items.iter().map(line).collect())
        }
        Value::Object(fields) => {
            let line = |(name, value): &(String, Value)| {
                format!("{}: {}", quoted(name), printed(value, depth + 1))
            };
            ('{', '}', fields.iter().map(line).collect())
        }
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|item| printed(item, depth)).collect();
            let _ = write!(out, "[{}]", items.join(", "));
            return;
        }
        Value::Bool(value) => return out.push_str(&value.to_string()),
        Value::Null => return out.push_str("null"),
        Value::Number(number) => return out.push_str(&number.to_string()),
        Value::Text(text) => return out.push_str(&quoted(text)),
    };
    if lines.is_empty() {
        out.push(open);
        out.push(close);
        return;
    }
    let lines = lines.join(&format!(",\n{indent}"));
    let outer = "  ".repeat(depth);
    let _ = write!(out, "{open}\n{indent}{lines}\n{outer}{close}");
}

fn printed(value: &Value, depth: usize) -> String {
    let mut out = String::new();
    print_json(value, depth, &mut out);
    out
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn field(name: &str, value: Value) -> (String, Value) {
    (name.to_owned(), value)
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn count(count: u64) -> Value {
    Value::Number(Number::from_count(count))
}

fn length(length: usize) -> Value {
    count(u64::try_from(length).unwrap_or(u64::MAX))
}

const INTRODUCTION: &str = "\
<!-- Made by `cargo xtask reference` from src/config/keys.rs; edit that. -->

# Configuration reference

The plugin configuration is a JSON object, in a `google.protobuf.StringValue` (what Istio and Envoy
Gateway send); a `google.protobuf.Struct` is accepted too. `envoy/quota-gate.schema.json` is its
JSON Schema, for editors.

- Every problem is reported at once, one line each, with its path. A configuration with any problem
  is refused whole: with a static one Envoy does not start, with ECDS the old one goes on.
- Unknown keys and keys given twice are refused.
- A duration is a text of whole milliseconds: `\"80ms\"`, `\"1.5s\"`, `\"2m\"`, `\"1h\"`.
- Names of headers are the same in any case. In paths below, `*` is a name of your choice, and `[]`
  is an item of a list.
";

const RULES: &str = "
## Rules that span several keys

- Every policy's `timeout`, its own, its backend's or an override's, is below the `host_budget` by a
  tenth of it, and by 5 ms at least. A policy's own `host_budget` counts before the top-level one.
- `failure_mode: fail_local` requires a `local_limit` in the policy.
- The names of a descriptor's entries differ. `as` goes with `property` only; an entry with a
  `default` is not `optional`.
- No status stands in two lists of `statuses`. A list that is given stands instead of the preset's
  list of that name, and comes before the preset's other lists.
- `open_for` is not above `open_for_max`; a cost's `default` is not above its `max`.
- An `override` needs a policy that is not `off`.
- Headers that steer Envoy (`x-envoy-*`), belong to the connection (`host`, `te`, `connection`,
  `content-length`, …) or are set by the filter itself can't be added.
- `preset: custom` requires `custom` and `path`, and nothing else has a `custom`. Rules for the body
  have both an `allow` and a `deny`: a reply that is neither is a failure.
- `custom.report` requires a `report_path`, and has the slot `{units}` somewhere.
- The presets `gubernator`, `throttlecrab` and `unkey` require a `quota` in the policy; backends
  with quotas of their own have none. For `throttlecrab` its `burst` is not 1.

## Slots of `custom`

In `path`, `custom.headers` and the texts of `custom.body`, `{name}` stands for what the check says,
and in `report_path`, `custom.report.headers` and `custom.report.body` for what the report says;
`{{` and `}}` are braces. In a path or a header a text is percent-encoded. In a body it is JSON
text, where `%`, control characters and bytes that are not UTF-8 are percent-encoded, so that no two
values look alike. A number that is all of a body's text is a JSON number.

| slot | value |
| --- | --- |
| `{cost}`, `{cost:text}` | the units asked for; as a number, as a text |
| `{cost_min}` | with a lease, the units needed at least; else the cost, in a header nothing |
| `{descriptor}` | all entries, form-urlencoded: `tenant=acme&plan=free` |
| `{descriptor:object}` | all entries as a JSON object; in a body only, as all of a text |
| `{descriptor:list}` | all entries as a JSON list of `{\"key\": …, \"value\": …}`; likewise |
| `{entry.NAME}` | the value of one entry; empty where an optional one has none |
| `{namespace}`, `{policy}`, `{route}`, `{request_id}` | names, and the request's id |
| `{quota.units}`, `{quota.units:text}`, `{quota.burst}` | the units of the policy's `quota` |
| `{quota.per_s}`, `{quota.per_ms}`, `{quota.per_ms:text}` | its time; seconds are rounded up |

Reports have no `{cost}`, `{cost_min}`, `{route}` and `{request_id}`, and these instead:

| slot | value |
| --- | --- |
| `{units}`, `{units:text}` | the units used; with `takes_back` also below 0 |
| `{requests}` | how many requests that were |
| `{settlement_id}` | the same when the same report comes a second time |
| `{unchecked}` | why the requests were not checked; else a header is left out |

## Route metadata

A route of Envoy may speak for itself, under `metadata.filter_metadata.quota_gate`. It comes before
`routes`. Metadata that is not valid never opens a route: the request is handled by
`default_policy`, counted and logged.

| key | value | meaning |
| --- | --- | --- |
| `policy` | a policy's name, or `off` | instead of what `routes` says |
| `failure_mode` | as in a policy | instead of the policy's |
| `timeout` | as in a policy, within the policy's `host_budget` | instead of the policy's |
| `cost` | a text of digits, or a whole number | instead of the policy's |
| `enforcement` | as in a policy | instead of the policy's |
";

/// The parser's tests read it, too.
const EXAMPLE: &str = include_str!("../../src/config/parse/example.json");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_files_are_up_to_date() {
        run(&Args { check: true }).unwrap();
    }

    #[test]
    fn the_schema_says_nothing_twice() {
        fn walk(value: &Value) {
            let mut names: Vec<&str> = value.fields().iter().map(|(name, _)| &**name).collect();
            names.sort_unstable();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
            value.fields().iter().for_each(|(_, value)| walk(value));
            value.items().iter().for_each(walk);
        }
        walk(&schema_of_the_whole());
    }

    #[test]
    fn the_schema_admits_the_example() {
        assert_eq!(complaints(EXAMPLE), Vec::<String>::new());
    }

    #[test]
    fn the_schema_refuses_what_the_parser_refuses() {
        for (right, wrong, place) in [
            ("\"timeout\"", "\"timout\"", "/backends/quota"),
            ("\"default_policy\"", "\"defaultPolicy\"", ""),
            ("\"80ms\"", "80", "/policies/standard/timeout"),
            ("\"80ms\"", "\"80\"", "/policies/standard/timeout"),
            ("fail_closed", "closed", "/policies/standard/failure_mode"),
            ("0.5", "1.5", "/backends/quota/breaker"),
            ("429]", "199]", "/backends/quota/statuses/deny/0"),
            (
                "\"header\": \"x-plan\"",
                "\"value\": \"a\", \"query\": \"b\"",
                "/policies/standard/descriptor/2",
            ),
            ("\"quota\": {", "\"a b\": {", "/backends"),
        ] {
            let text = EXAMPLE.replacen(right, wrong, 1);
            assert_ne!(text, EXAMPLE);

            let found = complaints(&text);

            assert!(
                found.iter().any(|at| at.starts_with(place)),
                "{wrong}: {found:?}"
            );
        }
    }

    #[test]
    fn every_link_of_the_reference_has_its_section() {
        let text = reference();
        let anchors: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .map(anchor)
            .collect();

        let links: Vec<&str> = text
            .split("](#")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
            .collect();

        assert!(links.len() > 15);
        for link in links {
            assert!(anchors.iter().any(|anchor| anchor == link), "{link}");
        }
    }

    /// The places that the schema complains of.
    fn complaints(config: &str) -> Vec<String> {
        let (_, schema) = files().into_iter().next().unwrap();
        let schema = serde_json::from_str(&schema).unwrap();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let config = serde_json::from_str(config).unwrap();
        validator
            .iter_errors(&config)
            .map(|error| error.instance_path().to_string())
            .collect()
    }
}
