//! What is wrong with a configuration, and where: the text that operators read.
//!
//! A problem is one line: the path, what is wrong, what was found, what would be right. All of a
//! configuration's problems are told at once. What stands in backends' headers is never repeated.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;
use core::time::Duration;

use super::units::duration_text;
use crate::text::{self, count, decimal};

/// A place in a configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Path {
    steps: Vec<Step>,
}

/// One step down in a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// Which child of its parent it is in the text; `usize::MAX` if it is not there.
    pub position: usize,
    /// The key, or `None` for a list's item.
    pub key: Option<String>,
}

impl Path {
    /// The place of the steps, from the top down.
    #[must_use]
    pub const fn new(steps: Vec<Step>) -> Self {
        Self { steps }
    }

    /// The steps to the place, from the top down; none for the whole configuration.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The place in words: `routes[2].match`.
    #[must_use]
    pub fn text(&self) -> String {
        if self.steps.is_empty() {
            return "configuration".to_owned();
        }
        let mut text = String::new();
        for (index, step) in self.steps.iter().enumerate() {
            let (before, name, behind) = match &step.key {
                None => ("[", decimal(count(step.position)), "]"),
                Some(key) if !is_plain(key) => ("[\"", shown(key), "\"]"),
                Some(key) if index == 0 => ("", key.clone(), ""),
                Some(key) => (".", key.clone(), ""),
            };
            for part in [before, &name, behind] {
                text.push_str(part);
            }
        }
        text
    }

    /// In the order of the text; what holds something comes before what it holds.
    fn document_order(&self, other: &Self) -> Ordering {
        let positions = self.steps.iter().map(|step| step.position);
        positions.cmp(other.steps.iter().map(|step| step.position))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Where.
    pub path: Path,
    /// What.
    pub kind: ProblemKind,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl Problem {
    /// The problem's line.
    #[must_use]
    pub fn text(&self) -> String {
        text::fill("{}: {}", &[&*self.path.text(), &self.kind.text()])
    }
}

/// What can be wrong with a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ProblemKind {
    /// A timeout that the host can't afford.
    AboveBudget {
        /// The timeout.
        got: Duration,
        /// The largest timeout that the budget allows.
        max: Duration,
        /// The host budget.
        budget: Duration,
    },
    /// It does not go with something else.
    Conflict {
        /// What it does not go with, and the remedy.
        with: String,
    },
    /// The same key or name twice.
    Duplicate {
        /// What is there twice, and the remedy.
        what: String,
    },
    /// There is no configuration at all.
    Empty,
    /// A value that only Envoy or the filter itself may set.
    Forbidden {
        /// What was given.
        got: String,
        /// Why not.
        why: &'static str,
    },
    /// A text that does not have its form.
    Malformed {
        /// What was given; `None` where it may be a secret.
        got: Option<String>,
        /// What would be right.
        expected: String,
    },
    /// A key that has to be there is not.
    Missing {
        /// What belongs there.
        expected: String,
    },
    /// The name of a backend or a policy that is not declared.
    NotFound {
        /// `backend` or `policy`.
        what: &'static str,
        /// The name.
        got: String,
        /// The declared name that was probably meant.
        did_you_mean: Option<String>,
        /// The declared names, for a reader who meant none of the kind.
        declared: String,
    },
    /// A word that means nothing here.
    NotSupported {
        /// The word.
        got: String,
        /// The words that mean something.
        allowed: String,
        /// The word that was probably meant.
        did_you_mean: Option<String>,
    },
    /// A value too small or too large.
    OutOfRange {
        /// The value.
        got: String,
        /// The smallest allowed.
        min: String,
        /// The largest allowed.
        max: String,
    },
    /// More items than the filter keeps.
    TooMany {
        /// How many there are.
        got: usize,
        /// How many there may be.
        max: usize,
    },
    /// A key that means nothing here.
    UnknownKey {
        /// The key that was probably meant.
        did_you_mean: Option<String>,
        /// The keys that mean something.
        known: String,
    },
    /// The text is neither JSON nor a protobuf `Struct`.
    Unreadable {
        /// What the JSON reader says, with line and column.
        error: String,
    },
    /// A value of another type.
    WrongType {
        /// What was found.
        got: &'static str,
        /// What would be right.
        expected: String,
    },
}

impl ProblemKind {
    /// The problem's name, in the words that its text begins with.
    #[must_use]
    pub const fn title(&self) -> &'static str {
        match self {
            Self::AboveBudget { .. } => "above budget",
            Self::Conflict { .. } => "conflict",
            Self::Duplicate { .. } => "duplicate",
            Self::Empty => "empty",
            Self::Forbidden { .. } => "forbidden",
            Self::Malformed { .. } => "malformed",
            Self::Missing { .. } => "missing",
            Self::NotFound { .. } => "not found",
            Self::NotSupported { .. } => "not supported",
            Self::OutOfRange { .. } => "out of range",
            Self::TooMany { .. } => "too many",
            Self::UnknownKey { .. } => "unknown key",
            Self::Unreadable { .. } => "unreadable",
            Self::WrongType { .. } => "wrong type",
        }
    }
}

impl ProblemKind {
    /// What is wrong, what was found, what would be right.
    #[must_use]
    pub fn text(&self) -> String {
        text::fill("{}: {}", &[self.title(), &self.details()])
    }

    #[inline(never)]
    fn details(&self) -> String {
        match self {
            Self::AboveBudget { got, max, budget } => {
                let [got, max, budget] = [got, max, budget].map(|time| duration_text(*time));
                let most = text::fill("got {}, allowed at most {}", &[&got, &max]);
                let why = ": below the host_budget of ";
                text::fill(
                    "{}{}{} by a tenth, and 5ms at least",
                    &[&most, why, &budget],
                )
            }
            Self::Conflict { with: text }
            | Self::Duplicate { what: text }
            | Self::Unreadable { error: text } => text.clone(),
            Self::Empty => {
                "give a JSON object, with at least `default_policy` and `host_budget`".to_owned()
            }
            Self::Forbidden { got, why } => text::fill("`{}` {}", &[&shown(got), why]),
            Self::Malformed { got, expected } => match got {
                None => ["expected ", expected].concat(),
                Some(got) => text::fill("got `{}`, expected {}", &[&shown(got), expected]),
            },
            Self::Missing { expected } => ["required, ", expected].concat(),
            Self::NotFound {
                what,
                got,
                did_you_mean,
                declared,
            } => {
                let (got, meant) = (shown(got), did_you_mean.as_deref().map(shown));
                let (before, others, behind) = match &meant {
                    Some(name) => ("did you mean `", &**name, "`?"),
                    None if declared.is_empty() => ("and none is declared", "", ""),
                    None => ("declared: ", &**declared, ""),
                };
                text::fill(
                    "no {} is named `{}`, {}{}{}",
                    &[what, &got, before, others, behind],
                )
            }
            Self::NotSupported {
                got,
                allowed,
                did_you_mean,
            } => {
                let got = text::fill("got `{}`, allowed {}", &[&shown(got), allowed]);
                match did_you_mean {
                    None => got,
                    Some(word) => text::fill("{}; did you mean `{}`?", &[&got, word]),
                }
            }
            Self::OutOfRange { got, min, max } => {
                text::fill("got {}, allowed {} to {}", &[&shown(got), min, max])
            }
            Self::TooMany { got, max } => {
                let [got, max] = [got, max].map(|number| decimal(count(*number)));
                text::fill("got {}, allowed at most {}", &[&got, &max])
            }
            Self::UnknownKey {
                did_you_mean,
                known,
            } => match did_you_mean {
                Some(key) => text::fill("did you mean `{}`?", &[key]),
                None => ["known here: ", known].concat(),
            },
            Self::WrongType { got, expected } => {
                text::fill("got {}, expected {}", &[got, expected])
            }
        }
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// All that is wrong with a configuration, in the order of its text.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Problems {
    /// In order, and at most so many as are kept.
    problems: Vec<Problem>,
    /// How many more there are.
    dropped: usize,
}

impl Problems {
    /// One problem, of the configuration as a whole.
    #[must_use]
    pub fn of_the_whole(kind: ProblemKind) -> Self {
        let mut problems = Self::default();
        problems.add(Path::default(), kind);
        problems
    }

    /// Adds a problem at its place in the order; of one place, the first added comes first.
    pub fn add(&mut self, path: Path, kind: ProblemKind) {
        if self.problems.len() >= KEPT {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        let place = self
            .problems
            .partition_point(|other| other.path.document_order(&path).is_le());
        self.problems.insert(place, Problem { path, kind });
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// One after another.
    pub fn iter(&self) -> core::slice::Iter<'_, Problem> {
        self.problems.iter()
    }

    /// The lines for the log: the count, at most twenty problems, and how many more there are.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let count = self.problems.len().saturating_add(self.dropped);
        let noun = if count == 1 { "problem" } else { "problems" };
        let told = decimal(text::count(count));
        let first = text::fill("configuration refused: {} {}", &[&told, noun]);
        let more = count.saturating_sub(SHOWN);
        let last = (more > 0).then(|| text::fill("and {} more", &[&decimal(text::count(more))]));
        core::iter::once(first)
            .chain(self.problems.iter().take(SHOWN).map(Problem::text))
            .chain(last)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.lines().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&line)?;
        }
        Ok(())
    }
}

/// Text from outside on one line: bounded, and without control characters.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut line = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == SHOWN_CHARS {
            line.push('…');
            break;
        }
        let control = character.is_control();
        line.push(if control { '\u{fffd}' } else { character });
    }
    line
}

/// Words in backticks, with commas and a last `or`.
#[must_use]
pub fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    listed(&mut words.into_iter(), " or ")
}

/// Words in backticks, with commas and a last `and`.
#[must_use]
pub fn all_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    listed(&mut words.into_iter(), " and ")
}

/// One copy for all callers: their iterators come as a trait object.
fn listed(words: &mut dyn Iterator<Item = &str>, last: &str) -> String {
    let mut words = words.peekable();
    let mut text = String::new();
    while let Some(word) = words.next() {
        if !text.is_empty() {
            text.push_str(if words.peek().is_some() { ", " } else { last });
        }
        text.push('`');
        // A name that was refused for its form can stand among those that are declared.
        text.push_str(&shown(word));
        text.push('`');
    }
    text
}

fn is_plain(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    !key.is_empty() && key.len() <= SHOWN_CHARS && key.bytes().all(plain)
}

/// Problems kept, for tools; one mistake in a generated text makes many.
const KEPT: usize = 1_000;
/// Problems in one text; a log with more is not read.
const SHOWN: usize = 20;
/// Characters of a value that are repeated; a whole token never fits.
const SHOWN_CHARS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_paths_as_an_operator_would_write_them() {
        let key = |key: &str| Step {
            position: 3,
            key: Some(key.to_owned()),
        };
        let item = Step {
            position: 2,
            key: None,
        };

        let path = Path::new(vec![key("routes"), item, key("match"), key("a b.c\n")]);

        assert_eq!(path.to_string(), "routes[2].match[\"a b.c\u{fffd}\"]");
        assert_eq!(Path::default().to_string(), "configuration");
    }

    #[test]
    fn shows_twenty_and_counts_the_rest() {
        let mut problems = Problems::default();
        for position in 0..23 {
            let step = Step {
                position,
                key: None,
            };
            problems.add(
                Path::new(vec![step]),
                ProblemKind::TooMany { got: 2, max: 1 },
            );
        }

        let text = problems.to_string();

        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 22);
        assert_eq!(lines[0], "configuration refused: 23 problems");
        assert_eq!(lines[20], "[19]: too many: got 2, allowed at most 1");
        assert_eq!(lines[21], "and 3 more");
    }

    #[test]
    fn a_name_that_was_refused_is_suggested_on_one_line() {
        let kind = ProblemKind::NotFound {
            what: "policy",
            got: "standard".to_owned(),
            did_you_mean: Some("sta\trd\n".to_owned()),
            declared: String::new(),
        };

        assert_eq!(
            kind.to_string(),
            "not found: no policy is named `standard`, did you mean `sta\u{fffd}rd\u{fffd}`?"
        );
        assert_eq!(all_of(["a\n", "b"]), "`a\u{fffd}` and `b`");
    }

    #[test]
    fn shows_text_from_outside_bounded_and_on_one_line() {
        assert_eq!(shown("a\r\nb"), "a\u{fffd}\u{fffd}b");
        assert_eq!(shown(&"x".repeat(100)), format!("{}…", "x".repeat(64)));
    }

    #[test]
    fn lists_words() {
        assert_eq!(one_of(["a"]), "`a`");
        assert_eq!(one_of(["a", "b"]), "`a` or `b`");
        assert_eq!(all_of(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
