//! What `check` has found: where, what, why, and the remedy; printed for people and for machines.

use std::fmt::Write;
use std::ops::Range;
use std::path::Path;

use codespan_reporting::diagnostic::{Diagnostic, Label};
use codespan_reporting::files::{Files, SimpleFiles};
use codespan_reporting::term;
use serde_json::{Value, json};

use super::tree::Node;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Severity {
    /// It does not work, or not as it says.
    Error,
    /// It works, but probably not as meant.
    Warning,
}

/// A place in one of the files that were read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) file: usize,
    pub(crate) span: Range<usize>,
}

/// One thing that was found.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// The rule, as one word.
    pub(crate) rule: String,
    pub(crate) place: Place,
    /// The way to the place, from the top of its document or configuration.
    pub(crate) path: String,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    /// Another place that has to do with it, and what is said there.
    pub(crate) related: Option<(Place, String)>,
}

impl Finding {
    pub(crate) fn error(rule: &str, place: Place, path: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            rule: rule.to_owned(),
            place,
            path: path.into(),
            message: String::new(),
            help: None,
            related: None,
        }
    }

    pub(crate) fn warning(rule: &str, place: Place, path: impl Into<String>) -> Self {
        let mut finding = Self::error(rule, place, path);
        finding.severity = Severity::Warning;
        finding
    }

    pub(crate) fn says(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn related(mut self, place: Place, text: impl Into<String>) -> Self {
        self.related = Some((place, text.into()));
        self
    }
}

/// The files that were read. What stands in backends' headers is never shown: it is starred out.
pub(crate) struct Sources {
    files: SimpleFiles<String, String>,
    texts: Vec<String>,
    secrets: Vec<Place>,
}

impl Sources {
    pub(crate) fn new() -> Self {
        Self {
            files: SimpleFiles::new(),
            texts: Vec::new(),
            secrets: Vec::new(),
        }
    }

    /// Adds a file; its number.
    pub(crate) fn add(&mut self, path: &Path, text: String) -> usize {
        self.files.add(path.display().to_string(), text.clone());
        self.texts.push(text);
        self.texts.len() - 1
    }

    pub(crate) fn text(&self, file: usize) -> &str {
        self.texts.get(file).map_or("", String::as_str)
    }

    /// Takes a value for one that must not be shown.
    pub(crate) fn hide(&mut self, node: &Node) {
        self.secrets.push(Place {
            file: node.file,
            span: node.span.clone(),
        });
    }

    /// The place to point at for a value: the value if it fits a line, else the line's part.
    pub(crate) fn place(&self, node: &Node) -> Place {
        let text = self.text(node.file);
        let own = text.get(node.span.clone()).unwrap_or_default();
        let first = own.lines().next().unwrap_or_default().trim_end();
        let start = node.span.start.min(text.len());
        let end = start + first.len().max(usize::from(start < text.len()));
        Place {
            file: node.file,
            span: start..end,
        }
    }

    /// The line and column of a place, both from 1.
    pub(crate) fn line(&self, place: &Place) -> (usize, usize) {
        let location = self.files.location(place.file, place.span.start);
        location.map_or((1, 1), |at| (at.line_number, at.column_number))
    }

    fn end(&self, place: &Place) -> (usize, usize) {
        let location = self.files.location(place.file, place.span.end);
        location.map_or((1, 1), |at| (at.line_number, at.column_number))
    }

    /// The findings for people, with the lines that they are about.
    pub(crate) fn to_text(&self, findings: &[Finding]) -> String {
        let shown = self.shown();
        let mut text = String::new();
        for finding in findings {
            let primary = Label::primary(finding.place.file, finding.place.span.clone())
                .with_message(&finding.path);
            let related = finding.related.iter().map(|(place, text)| {
                Label::secondary(place.file, place.span.clone()).with_message(text)
            });
            let diagnostic = match finding.severity {
                Severity::Error => Diagnostic::error(),
                Severity::Warning => Diagnostic::warning(),
            };
            let notes = finding.help.iter().map(|help| format!("help: {help}"));
            let diagnostic = diagnostic
                .with_code(&finding.rule)
                .with_message(&finding.message)
                .with_labels(std::iter::once(primary).chain(related).collect())
                .with_notes(notes.collect());
            let config = term::Config::default();
            match term::emit_into_string(&config, &shown, &diagnostic) {
                Ok(told) => text.push_str(&told),
                Err(error) => {
                    let _infallible = writeln!(text, "{}: {error}", finding.message);
                }
            }
        }
        text
    }

    /// The files with their secrets starred out, byte by byte.
    fn shown(&self) -> SimpleFiles<String, String> {
        let mut shown = SimpleFiles::new();
        for (file, text) in self.texts.iter().enumerate() {
            let mut bytes = text.clone().into_bytes();
            for secret in self.secrets.iter().filter(|secret| secret.file == file) {
                let hidden = bytes.get_mut(secret.span.clone()).unwrap_or_default();
                let inside = |byte: &&mut u8| !matches!(**byte, b'\n' | b'\r');
                hidden
                    .iter_mut()
                    .filter(inside)
                    .for_each(|byte| *byte = b'*');
            }
            let name = self.name(file);
            shown.add(name, String::from_utf8_lossy(&bytes).into_owned());
        }
        shown
    }

    fn name(&self, file: usize) -> String {
        self.files.name(file).unwrap_or_default()
    }

    /// The findings for machines.
    pub(crate) fn to_json(&self, findings: &[Finding]) -> Value {
        let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
        let list: Vec<Value> = findings.iter().map(|found| self.one(found)).collect();
        json!({
            "errors": count(Severity::Error),
            "warnings": count(Severity::Warning),
            "findings": list,
        })
    }

    fn one(&self, finding: &Finding) -> Value {
        let ((line, column), (end_line, end_column)) =
            (self.line(&finding.place), self.end(&finding.place));
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        json!({
            "severity": severity,
            "rule": finding.rule,
            "file": self.name(finding.place.file),
            "line": line,
            "column": column,
            "end_line": end_line,
            "end_column": end_column,
            "path": finding.path,
            "message": finding.message,
            "help": finding.help,
        })
    }
}
