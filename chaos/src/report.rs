//! What is told in the end: figures, and the story of what can't be explained.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use envoy_harness::Rig;

use crate::books::{self, Books};
use crate::client::End;
use crate::director::Stage;
use crate::judge::{Case, Delays, SLACK};
use crate::laws::{self, Sums};
use crate::ledger::Ledger;
use crate::plan::PHASE;
use crate::timeline::Timeline;
use crate::traffic::Planned;

/// The figures of a run.
pub(crate) struct Report {
    seed: u64,
    first: u64,
    start: Instant,
    pub(crate) took: Duration,
    pub(crate) findings: Vec<String>,
    stories: Vec<(u64, String)>,
    unexplained: u64,
    outcomes: BTreeMap<String, u64>,
    ends: BTreeMap<&'static str, u64>,
    unprovoked: u64,
    over_ms: i64,
    worst_plain: Duration,
    sums: Sums,
    books: Books,
    checks: u64,
    phases: usize,
    pushes: usize,
    memory: Vec<u64>,
    looked: Instant,
    told: Instant,
}

impl Report {
    pub(crate) fn new(seed: u64, first: u64, start: Instant) -> Self {
        Self {
            seed,
            first,
            start,
            took: Duration::ZERO,
            findings: Vec::new(),
            stories: Vec::new(),
            unexplained: 0,
            outcomes: BTreeMap::new(),
            ends: BTreeMap::new(),
            unprovoked: 0,
            over_ms: 0,
            worst_plain: Duration::ZERO,
            sums: Sums::default(),
            books: Books::default(),
            checks: 0,
            phases: 0,
            pushes: 0,
            memory: Vec::new(),
            looked: start,
            told: start,
        }
    }

    /// Looks at the memory now and then, and tells a terminal how far it is.
    pub(crate) fn look(&mut self, stage: &Stage, next: u64) {
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            self.memory.push(stage.rig.envoy().memory_in_use());
        }
        let every = if std::io::stdout().is_terminal() {
            5
        } else {
            30
        };
        if self.told.elapsed() >= Duration::from_secs(every) {
            self.told = Instant::now();
            let seconds = self.start.elapsed().as_secs();
            println!("  {seconds:>4} s: {} requests", next - self.first);
        }
    }

    /// Judges every request, and the whole.
    pub(crate) fn close(&mut self, stage: &Stage, ledger: &Ledger, delays: &Delays) {
        let timeline = stage
            .timeline
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.judge(ledger, &timeline, delays);
        self.phases = timeline.0.len();
        self.pushes = timeline.0.iter().filter(|entry| entry.phase.push).count();
        self.worst_plain = delays.worst();
        self.checks = ledger.checks;
        let (sums, findings) = laws::sums(&stage.rig, ledger, self.seed);
        self.sums = sums;
        self.findings.extend(findings);
        let (books, findings) = books::close(stage, ledger, delays, self.seed);
        self.books = books;
        self.findings.extend(findings);
        self.findings.extend(laws::log(&stage.rig));
        self.findings.extend(laws::memory(&self.memory).1);
        self.findings
            .extend(ledger.strange.iter().take(STORIES).cloned());
        let troubles = stage
            .troubles
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.findings.extend(troubles.iter().cloned());
    }

    fn judge(&mut self, ledger: &Ledger, timeline: &Timeline, delays: &Delays) {
        for (number, record) in ledger.records() {
            let planned = Planned::new(self.seed, number);
            let case = Case {
                planned: &planned,
                record,
                timeline,
                delays,
            };
            *self.ends.entry(end_word(record.end.as_ref())).or_default() += 1;
            if let Some(decision) = record.logged.decision {
                let words = format!("{} {}", decision.word(), decision.reason());
                *self.outcomes.entry(words).or_default() += 1;
            }
            self.unprovoked += u64::from(case.is_unprovoked_timeout());
            self.over_ms = case.over_ms().unwrap_or(0).max(self.over_ms);
            let findings = case.findings();
            if findings.is_empty() {
                continue;
            }
            self.unexplained += 1;
            if self.stories.len() < STORIES {
                let story = story(&case, &findings, self.start);
                self.stories.push((number, story));
            }
        }
    }

    /// Prints it; whether all is well.
    pub(crate) fn print(&self, rig: &Rig) -> bool {
        let count = |word: &str| self.ends.get(word).copied().unwrap_or(0);
        let all: u64 = self.ends.values().sum();
        let rate = all as f64 / self.took.as_secs_f64();
        println!("\n{all} requests in {:.0?}, {rate:.0} a second", self.took);
        println!(
            "  {} answered, {} left, {} hung, {} broken off, {} never told",
            count("answered"),
            count("left"),
            count("hung"),
            count("broken"),
            count("unknown")
        );
        for (outcome, count) in &self.outcomes {
            println!("  {count:>8} {outcome}");
        }
        println!(
            "{} phases, {} configurations, {} checks at the backends",
            self.phases, self.pushes, self.checks
        );
        println!(
            "held at most {} ms above deadline and tick; without the filter a request took up to \
             {:.0?} (allowed: {SLACK:?} and twice that)",
            self.over_ms, self.worst_plain
        );
        println!(
            "{} timeouts that only the machine explains",
            self.unprovoked
        );
        let Sums {
            counted,
            host,
            logged,
            never_arrived,
        } = self.sums;
        println!(
            "counted {counted}, Envoy had {host}, the access log has {logged}; {never_arrived} \
             clients left before their request had arrived"
        );
        println!("books:\n{}", self.books);
        if let Some((warm, end)) = laws::memory(&self.memory).0 {
            println!(
                "memory: {} MiB when warm, {} MiB at the end",
                warm >> 20,
                end >> 20
            );
        }
        let fine = self.unexplained == 0 && self.findings.is_empty();
        for finding in &self.findings {
            println!("FOUND: {finding}");
        }
        self.print_stories(rig);
        let hung = count("hung") + count("unknown");
        let lost = counted.abs_diff(host).max(host.abs_diff(logged));
        println!(
            "{hung} hung, {} unexplained, {lost} lost in the counters",
            self.unexplained
        );
        if !fine {
            println!(
                "again: cargo xtask chaos --seed {} --requests {all}",
                self.seed
            );
        }
        fine
    }

    fn print_stories(&self, rig: &Rig) {
        if self.stories.is_empty() {
            return;
        }
        let lines = self.access_log_lines(rig);
        for (number, story) in &self.stories {
            println!("\n{story}");
            match lines.get(number) {
                Some(line) => println!("  access log: {line}"),
                None => println!("  access log: nothing"),
            }
            let from = (number / PHASE).saturating_sub(PHASES_BEFORE) * PHASE;
            println!(
                "  again: cargo xtask chaos --seed {} --first {from} --requests {}",
                self.seed,
                number - from + PHASE
            );
        }
    }

    fn access_log_lines(&self, rig: &Rig) -> BTreeMap<u64, String> {
        let wanted: BTreeMap<String, u64> = self
            .stories
            .iter()
            .map(|(number, _)| (format!("?n={number}\""), *number))
            .collect();
        let Ok(file) = std::fs::File::open(rig.envoy().access_log_file()) else {
            return BTreeMap::new();
        };
        let lines = BufReader::new(file).lines().map_while(Result::ok);
        let of_story = |line: String| {
            let (_, number) = wanted
                .iter()
                .find(|(mark, _)| line.contains(mark.as_str()))?;
            Some((*number, line))
        };
        lines.filter_map(of_story).collect()
    }
}

fn end_word(end: Option<&End>) -> &'static str {
    match end {
        Some(End::Answered(_)) => "answered",
        Some(End::Broken(_)) => "broken",
        Some(End::Hung) => "hung",
        Some(End::Left) => "left",
        None => "unknown",
    }
}

/// Everything about one request.
fn story(case: &Case<'_>, findings: &[String], start: Instant) -> String {
    let Case {
        planned, record, ..
    } = case;
    let at = |instant: Instant| instant.saturating_duration_since(start).as_millis();
    let protocol = match (planned.grpc, planned.http2) {
        (true, _) => "gRPC",
        (false, true) => "HTTP/2",
        (false, false) => "HTTP/1.1",
    };
    let mut text = format!(
        "UNEXPLAINED request {}: {}\n  sent: {} {} over {protocol}, body {:?}, {:?}\n",
        planned.number,
        findings.join("; "),
        planned.method,
        planned.target(),
        planned.body,
        planned.headers()
    );
    text += &format!(
        "  from {} ms to {} ms; the client: {:?}; leaves after {:?} us\n",
        at(record.sent),
        at(record.done),
        record.end,
        planned.leaves_after_us
    );
    text += &format!(
        "  upstream: {} times, told {:?}; backends: {} checks, the last {:?}\n",
        record.seen, record.told, record.checks, record.answered
    );
    let near = case.timeline.between(record.sent, case.over());
    for entry in near {
        text += &format!(
            "  in force from {} to {} ms: phase {}, {:?}, {:?}\n",
            at(entry.from),
            at(entry.done),
            entry.phase.number,
            entry.phase.variant,
            entry.phase.weather
        );
    }
    text.trim_end().to_owned()
}

/// Enough to see what is wrong.
const STORIES: usize = 10;

/// Often enough that also a short run has a look between two large answers.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A replay begins a little earlier: breakers and caches have a past.
const PHASES_BEFORE: u64 = 6;
