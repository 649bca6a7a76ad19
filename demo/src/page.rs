//! Lines for a terminal: scenes, facts under a label, wrapped to its width, coloured on a tty only.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use envoy_harness::Rig;

/// Where the tour is written to: standard output.
pub(crate) struct Page {
    color: bool,
    width: usize,
}

/// The colours of the tour, as ANSI codes.
#[derive(Clone, Copy)]
pub(crate) enum Ink {
    Bold,
    Dim,
    Green,
    Red,
    Yellow,
}

impl Page {
    /// A page as wide as the terminal, in colour if it is one and nobody objects.
    pub(crate) fn for_terminal(no_color: bool) -> Self {
        let objection = no_color || std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
        Self {
            color: stdout().is_terminal() && !objection,
            width: terminal_columns().map_or(WIDTH_MAX, |own| own.clamp(WIDTH_MIN, WIDTH_MAX)),
        }
    }

    /// What is about to be seen.
    pub(crate) fn opening(&self) {
        println!();
        self.text(
            0,
            None,
            "A tour of quota-gate: a small shop behind an Envoy with the filter.",
        );
        println!();
        println!("  client --> Envoy --> quota-gate ----- let through -----> upstream (the shop)");
        println!("                        |     ^  \\");
        println!("                  check |     |   \\---- answered at once: 429, 401, 503");
        println!("                        v     | reply");
        println!("                       quota backend");
        println!();
        self.text(
            0,
            None,
            "All of them are real processes on free ports of this machine, and every line below \
             is what they did a moment ago. A scene that comes out otherwise than it tells fails \
             the tour.",
        );
    }

    /// Where everything runs.
    pub(crate) fn started(&self, rig: &Rig) {
        println!();
        self.fact("envoy", &format!("http://{}", rig.address()));
        self.fact("admin", &format!("http://{}", rig.envoy().admin()));
        self.fact("backend", &format!("http://{}", rig.backend().address()));
        self.fact("upstream", &format!("http://{}", rig.upstream().address()));
    }

    /// The head of a scene.
    pub(crate) fn scene(&self, number: usize, of: usize, title: &str, tale: &str) {
        let head = format!("-- {number}/{of}  {title} ");
        let rule = "-".repeat(self.width.saturating_sub(head.chars().count()));
        println!("\n{}", self.paint(Ink::Bold, &format!("{head}{rule}")));
        self.text(3, None, tale);
    }

    /// A blank line between the parts of a scene.
    pub(crate) fn gap(&self) {
        println!();
    }

    /// A fact under its label; each line of `text` is wrapped by itself.
    pub(crate) fn fact(&self, label: &str, text: &str) {
        self.labelled(label, None, text);
    }

    /// The same in a colour.
    pub(crate) fn colored_fact(&self, label: &str, ink: Ink, text: &str) {
        self.labelled(label, Some(ink), text);
    }

    /// Whether a scene came out as told, and if not, what was expected and got.
    pub(crate) fn verdict(&self, mistakes: &[String]) {
        println!();
        if mistakes.is_empty() {
            self.labelled("ok", Some(Ink::Green), "as told");
        }
        for mistake in mistakes {
            self.labelled("NOT SO", Some(Ink::Red), mistake);
        }
    }

    /// The end of Envoy's log.
    pub(crate) fn log_tail(&self, log: &str) {
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.len().saturating_sub(LOG_LINES);
        println!("   Envoy's log ends in:");
        for line in lines.iter().skip(tail) {
            println!("     {line}");
        }
    }

    /// Where to go from here, for who is back at the prompt.
    pub(crate) fn farewell(&self) {
        println!("To try it by hand: cargo xtask demo --keep. What it all means: README.md.");
    }

    /// How it went as a whole.
    pub(crate) fn closing(&self, scenes: usize, failed: &[&str], took: Duration) {
        println!("\n{}", self.paint(Ink::Bold, &"-".repeat(self.width)));
        let took = took.as_secs_f64();
        if failed.is_empty() {
            let text = format!("All {scenes} scenes came out as told, in {took:.1} s.");
            println!("{}", self.paint(Ink::Green, &text));
        } else {
            let text = format!(
                "{} of {scenes} scenes did not come out as told:",
                failed.len()
            );
            println!("{}", self.paint(Ink::Red, &text));
            for title in failed {
                println!("  - {title}");
            }
        }
    }

    /// Plain text, wrapped and indented.
    pub(crate) fn text(&self, indent: usize, ink: Option<Ink>, text: &str) {
        for line in wrap(text, self.width.saturating_sub(indent), 0) {
            let line = ink.map_or_else(|| line.clone(), |ink| self.paint(ink, &line));
            println!("{}{line}", " ".repeat(indent));
        }
    }

    fn labelled(&self, label: &str, ink: Option<Ink>, text: &str) {
        let room = self.width.saturating_sub(LABEL + INDENT);
        let lines: Vec<String> = text.lines().flat_map(|line| wrap(line, room, 2)).collect();
        for (index, line) in lines.iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            let label = self.paint(Ink::Dim, &format!("{label:<LABEL$}"));
            let line = ink.map_or_else(|| line.clone(), |ink| self.paint(ink, line));
            println!("{}{label}{line}", " ".repeat(INDENT));
        }
    }

    fn paint(&self, ink: Ink, text: &str) -> String {
        if !self.color || text.trim().is_empty() {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Bold => 1,
            Ink::Dim => 2,
            Ink::Green => 32,
            Ink::Red => 31,
            Ink::Yellow => 33,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Breaks `text` so that no line is longer than `room`: between its parts (three spaces), else at a
/// space or behind a comma, else anywhere. The lines that follow are indented by `hang`.
fn wrap(text: &str, room: usize, hang: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text.trim_end().to_owned();
    let mut lead = String::new();
    loop {
        let room = room.saturating_sub(lead.len()).max(1);
        if rest.chars().count() <= room {
            lines.push(lead + &rest);
            return lines;
        }
        // Up to one more character: a space there is a place to break at.
        let reach = rest.char_indices().nth(room + 1);
        let reach = reach.map_or(&*rest, |(end, _)| rest.get(..end).unwrap_or(&rest));
        let hard = reach
            .char_indices()
            .nth(room)
            .map_or(reach.len(), |(end, _)| end);
        let cut = break_in(reach).filter(|cut| *cut <= hard).unwrap_or(hard);
        let (line, tail) = rest.split_at(cut);
        lines.push(format!("{lead}{}", line.trim_end()));
        rest = tail.trim_start().to_owned();
        lead = " ".repeat(hang);
    }
}

/// The best place to break, in bytes.
fn break_in(reach: &str) -> Option<usize> {
    let within = |at: &usize| *at > 0;
    let at_space = || reach.rfind(' ').filter(within);
    let behind_comma = || reach.rfind(",\"").map(|at| at + 1);
    reach
        .rfind("   ")
        .filter(within)
        .or_else(at_space)
        .max(behind_comma())
}

/// The terminal's width; `None` if standard output is none.
fn terminal_columns() -> Option<usize> {
    if !stdout().is_terminal() {
        return None;
    }
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `winsize`, which outlives the call.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then(|| usize::from(size.ws_col))
}

/// Columns before the label.
const INDENT: usize = 3;

/// Columns of a label.
const LABEL: usize = 12;

/// As much of Envoy's log as helps.
const LOG_LINES: usize = 20;

/// Below this, lines are broken by the terminal.
const WIDTH_MIN: usize = 60;

/// Longer lines are hard to read.
const WIDTH_MAX: usize = 98;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_and_behind_commas() {
        assert_eq!(wrap("one two three", 8, 0), ["one two", "three"]);
        assert_eq!(wrap("{\"a\":1,\"b\":2}", 8, 0), ["{\"a\":1,", "\"b\":2}"]);
        assert_eq!(wrap("short", 8, 0), ["short"]);
    }

    #[test]
    fn a_word_that_is_too_long_is_cut_and_nothing_is_lost() {
        assert_eq!(wrap("abcdefghij", 4, 0), ["abcd", "efgh", "ij"]);
    }

    #[test]
    fn a_header_stays_with_its_value_if_there_is_room() {
        assert_eq!(
            wrap("GET /   a: 1   b: 2", 14, 2),
            ["GET /   a: 1", "  b: 2"]
        );
    }
}
