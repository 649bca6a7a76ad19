//! Telling what goes on: one line per step, with a bar or a spinner while it lasts.
//!
//! All of it goes to stderr; stdout is for a command's result.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Prints one line of set-up news: what, and how it stands.
pub(crate) fn news(what: &str, how: &str) {
    eprintln!("{what:>14}  {how}");
}

/// A step that takes a while: announced when it starts, timed when it is done.
pub(crate) struct Step {
    what: String,
    bar: ProgressBar,
    started: Instant,
}

impl Step {
    /// Announces a step of unknown size; `how` says what is done and how long it takes.
    pub(crate) fn spinner(what: &str, how: &str) -> Self {
        Self::start(
            what,
            how,
            ProgressBar::new_spinner(),
            "{spinner} {msg} {elapsed}",
        )
    }

    /// Announces a download of `bytes`.
    pub(crate) fn download(what: &str, how: &str, bytes: u64) -> Self {
        let template = "{bar:30} {decimal_bytes}/{decimal_total_bytes} {msg} {elapsed}";
        Self::start(what, how, ProgressBar::new(bytes), template)
    }

    fn start(what: &str, how: &str, bar: ProgressBar, template: &str) -> Self {
        news(what, how);
        let template = format!("{:>14}  {template}", "");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self {
            what: what.to_owned(),
            bar,
            started: Instant::now(),
        }
    }

    /// Shows how far a download has come.
    pub(crate) fn position(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// Shows what a spinner is busy with; line breaks and anything past one line are left out.
    pub(crate) fn detail(&self, text: &str) {
        let line: String = text
            .trim()
            .chars()
            .filter(|c| !c.is_control())
            .take(60)
            .collect();
        self.bar.set_message(line);
    }

    /// Ends the step with its result and the time it took.
    pub(crate) fn done(self, result: &str) {
        self.bar.finish_and_clear();
        news(
            &self.what,
            &format!("{result} ({})", seconds(self.started.elapsed())),
        );
    }

    /// Ends the step without a word; what went wrong is said elsewhere.
    pub(crate) fn give_up(self) {
        self.bar.finish_and_clear();
    }
}

/// Writes a duration the way people time things: `0.4 s`, `12 s`, `2 min 5 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    match whole {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{whole} s"),
        _ => format!("{} min {} s", whole / 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_the_way_people_say_them() {
        assert_eq!(seconds(Duration::from_millis(420)), "0.4 s");
        assert_eq!(seconds(Duration::from_secs(12)), "12 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 5 s");
    }
}
