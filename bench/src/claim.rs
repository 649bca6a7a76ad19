//! A figure that the project promises, and whether it was kept.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// A promise with what was measured.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    /// What it is about: claims of one situation stand together.
    pub(crate) situation: String,
    /// Which figure.
    pub(crate) what: String,
    /// What was measured, in words.
    pub(crate) figure: String,
    /// What it is to be, in words; empty where nothing is promised.
    pub(crate) target: String,
    /// Whether it was kept.
    pub(crate) kept: bool,
    /// Whether it depends on how busy the machine is.
    pub(crate) timed: bool,
}

/// The claims as lines, grouped by situation.
pub(crate) fn lines(claims: &[Claim]) -> String {
    let mut text = String::new();
    let mut situation = "";
    for claim in claims {
        if claim.situation != situation {
            let _infallible = writeln!(text, "\n{}", claim.situation);
            situation = &claim.situation;
        }
        let word = match claim.target.as_str() {
            "" => String::new(),
            target if claim.kept => format!("{target} ok"),
            target => format!("{target} MISSED"),
        };
        let line = format!("  {:<44} {:<28} {word}", claim.what, claim.figure);
        let _infallible = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// The claims for machines.
pub(crate) fn json(claims: &[Claim]) -> Value {
    let claim = |claim: &Claim| {
        json!({
            "situation": claim.situation,
            "what": claim.what,
            "figure": claim.figure,
            "target": claim.target,
            "kept": claim.kept,
        })
    };
    claims.iter().map(claim).collect()
}
