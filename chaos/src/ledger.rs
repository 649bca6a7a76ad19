//! One record for each request: what its client, the access log, the upstream and the backends say
//! of it. Journals are emptied as they fill, so that a million requests fit.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use envoy_harness::{Check, Fault, LogEntry, Seen, Told};
use quota_gate::decision::{CheckError, Outcome as Decided};

use crate::books::Journal;
use crate::client::{End, Outcome};
use crate::plan::Class;
use crate::terms::{ACCOUNTS, Account};
use crate::traffic::number_in;

/// What is known of a request.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) sent: Instant,
    pub(crate) done: Instant,
    /// `None` until its client says how it ended.
    pub(crate) end: Option<End>,
    pub(crate) logged: Logged,
    /// How often it reached the upstream, and what that was told.
    pub(crate) seen: u32,
    pub(crate) told: Option<Decided>,
    /// How often a backend was asked with its id, and how the last of these was answered.
    pub(crate) checks: u32,
    pub(crate) answered: Class,
    /// How much later than at once.
    pub(crate) delay: Duration,
}

/// What the access log says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Logged {
    pub(crate) lines: u32,
    pub(crate) decision: Option<Decided>,
    pub(crate) cause: Option<CheckError>,
    pub(crate) would_deny: bool,
    pub(crate) ms: Option<u64>,
    /// The policy, by its place in the list of kinds; `None` where it names none.
    pub(crate) policy: Option<&'static str>,
    /// Details and decision go together.
    pub(crate) details_agree: bool,
    pub(crate) status: u64,
    /// What the upstream says that it has used.
    pub(crate) used: Option<u64>,
}

/// All records.
pub(crate) struct Ledger {
    first: u64,
    records: Vec<Record>,
    tail: Tail,
    /// Lines of the access log, and those that tell no decision.
    pub(crate) lines: u64,
    /// Requests at the upstream that nobody has sent.
    pub(crate) strange: Vec<String>,
    pub(crate) checks: u64,
    /// What the backends say of each account.
    pub(crate) journals: [Journal; ACCOUNTS.len()],
}

impl Ledger {
    /// For the requests from `first` on.
    pub(crate) fn new(first: u64, access_log: &Path) -> Result<Self> {
        Ok(Self {
            first,
            records: Vec::new(),
            tail: Tail::open(access_log)?,
            lines: 0,
            strange: Vec::new(),
            checks: 0,
            journals: Default::default(),
        })
    }

    /// Every record with its number.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u64, &Record)> {
        (self.first..).zip(&self.records)
    }

    fn record(&mut self, number: u64, at: Instant) -> Option<&mut Record> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        // A number from nowhere must not fill the memory.
        if index > self.records.len() + AHEAD_MAX {
            return None;
        }
        if index >= self.records.len() {
            self.records.resize(index + 1, Record::new(at));
        }
        self.records.get_mut(index)
    }

    pub(crate) fn note_outcome(&mut self, outcome: Outcome) {
        if let Some(record) = self.record(outcome.number, outcome.sent) {
            record.sent = outcome.sent;
            record.done = outcome.done;
            record.end = Some(outcome.end);
        }
    }

    pub(crate) fn note_seen(&mut self, seen: &Seen) {
        if seen.path == "/probe" {
            return;
        }
        let told = seen.header_values("x-quota-decision");
        let number = number_in(&seen.path);
        let record = number.and_then(|number| self.record(number, seen.at));
        let Some(record) = record else {
            self.strange.push(format!("{seen:?}"));
            return;
        };
        record.seen += 1;
        record.told = match told.as_slice() {
            [told] => told.strip_prefix("allow; reason=").and_then(allowed),
            _ => None,
        };
    }

    pub(crate) fn note_check(&mut self, check: &Check) {
        self.checks += 1;
        if let Some(place) = check.entry("account").and_then(Account::place) {
            let units_are_reports = ACCOUNTS[place].preset == "envoy_ratelimit";
            self.journals[place].note_check(check, units_are_reports);
        }
        let id = check.header_values("x-request-id").pop();
        let number = id.and_then(|id| number_in(&id));
        // The renewal of a lease has the id of the request that brought it about.
        if let Some(record) = number.and_then(|number| self.record(number, check.at)) {
            record.checks += 1;
            record.answered = Class::of(check.fault.as_ref());
            record.delay = match check.fault {
                Some(Fault::Delay(delay)) => delay,
                _ => Duration::ZERO,
            };
        }
    }

    pub(crate) fn note_told(&mut self, told: &Told) {
        let account = told.descriptor.iter().find(|(name, _)| name == "account");
        match account.and_then(|(_, name)| Account::place(name)) {
            Some(place) => self.journals[place].note_report(told),
            None => self
                .strange
                .push(format!("a report of no account: {told:?}")),
        }
    }

    /// Reads what has been added to the access log.
    pub(crate) fn read_log(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some(line) = self.tail.next_line()? {
            let Some(entry) = LogEntry::parse(&line) else {
                self.strange
                    .push(format!("a line of the access log: {line}"));
                continue;
            };
            self.lines += 1;
            let number = number_in(&entry.path);
            match number.and_then(|number| self.record(number, now)) {
                Some(record) => record.logged.note(&entry),
                None => self.strange.push(format!("in the access log: {entry:?}")),
            }
        }
        Ok(())
    }
}

impl Record {
    fn new(at: Instant) -> Self {
        Self {
            sent: at,
            done: at,
            end: None,
            logged: Logged::default(),
            seen: 0,
            told: None,
            checks: 0,
            answered: Class::Good,
            delay: Duration::ZERO,
        }
    }
}

impl Logged {
    fn note(&mut self, entry: &LogEntry) {
        let reason = entry.field("reason").unwrap_or_default();
        let decision = decided(entry.decision(), reason);
        let details = match decision {
            Some(Decided::Deny(reason)) => {
                entry.details.strip_prefix("quota_gate_") == Some(reason.code())
            }
            _ => !entry.details.starts_with("quota_gate_"),
        };
        let cause = entry.field("cause").unwrap_or_default();
        let policy = entry.field("policy").unwrap_or_default();
        let kinds = crate::traffic::KINDS.iter().map(|kind| kind.policy);
        *self = Self {
            lines: self.lines + 1,
            decision,
            cause: CheckError::ALL.into_iter().find(|own| own.code() == cause),
            would_deny: entry.field("would_deny").is_some(),
            ms: entry.field("ms").and_then(|ms| ms.parse().ok()),
            policy: kinds.into_iter().find(|own| *own == policy),
            details_agree: details,
            status: entry.status,
            used: entry.used,
        };
    }
}

fn decided(word: &str, reason: &str) -> Option<Decided> {
    Decided::ALL
        .into_iter()
        .find(|own| own.word() == word && own.reason() == reason)
}

fn allowed(reason: &str) -> Option<Decided> {
    decided("allow", reason)
}

/// A file that is read as it grows, whole lines only.
struct Tail {
    reader: BufReader<File>,
    start: u64,
}

impl Tail {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self {
            reader: BufReader::with_capacity(1 << 20, file),
            start: 0,
        })
    }

    fn next_line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line)?;
        if !line.ends_with('\n') {
            // The rest of it is still to come.
            self.reader.seek(SeekFrom::Start(self.start))?;
            return Ok(None);
        }
        self.start += read as u64;
        line.pop();
        Ok(Some(line))
    }
}

/// No request is so far ahead of one that is known.
const AHEAD_MAX: usize = 1 << 20;
