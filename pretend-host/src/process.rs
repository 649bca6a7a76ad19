//! What the workers of a proxy share: clocks, shared data, metrics, the log, the backend.

use std::collections::BTreeMap;

use crate::call::Backend;
use crate::random::Random;
use crate::status::Status;

/// Log levels, as the host numbers them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// Finest.
    Trace,
    /// For who debugs the module.
    Debug,
    /// State changes.
    Info,
    /// Something to look at.
    Warn,
    /// Something is wrong.
    Error,
    /// The end.
    Critical,
}

impl Level {
    pub(crate) const fn of(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Trace),
            1 => Some(Self::Debug),
            2 => Some(Self::Info),
            3 => Some(Self::Warn),
            4 => Some(Self::Error),
            5 => Some(Self::Critical),
            _ => None,
        }
    }
}

/// A line that the module wrote to the host's log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogLine {
    /// When, in nanoseconds of the clock that does not jump.
    pub at: u64,
    /// Which VM: a worker, or the main thread behind the last of them.
    pub worker: usize,
    /// How much it matters.
    pub level: Level,
    /// What it says.
    pub text: String,
}

/// The kinds of metric, as the ABI numbers them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// Metrics by name, one set for the whole process.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// They only grow.
    pub counters: BTreeMap<String, u64>,
    /// They are set, or move up and down; below 0 they wrap, as in the host.
    pub gauges: BTreeMap<String, u64>,
    /// How many values were recorded, and their sum.
    pub histograms: BTreeMap<String, (u64, u64)>,
}

impl Metrics {
    /// A counter; 0 where it was never moved.
    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// The sum of all counters whose name begins so.
    #[must_use]
    pub fn counters_sum(&self, prefix: &str) -> u64 {
        self.counters
            .range(prefix.to_owned()..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(_, value)| value)
            .sum()
    }

    /// A gauge.
    #[must_use]
    pub fn gauge(&self, name: &str) -> Option<u64> {
        self.gauges.get(name).copied()
    }

    /// Every name of every kind.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let histograms = self.histograms.keys();
        self.counters
            .keys()
            .chain(self.gauges.keys())
            .chain(histograms)
            .map(String::as_str)
    }

    pub(crate) fn define(&mut self, kind: MetricKind, name: &str) {
        let name = name.to_owned();
        match kind {
            MetricKind::Counter => drop(self.counters.entry(name).or_default()),
            MetricKind::Gauge => drop(self.gauges.entry(name).or_default()),
            MetricKind::Histogram => drop(self.histograms.entry(name).or_default()),
        }
    }
}

/// The shared data of one `vm_id`: a map with one counter of versions for all of it.
#[derive(Debug, Default)]
pub(crate) struct SharedData {
    values: BTreeMap<Vec<u8>, (Vec<u8>, u32)>,
    last: u32,
}

impl SharedData {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&(Vec<u8>, u32)> {
        self.values.get(key)
    }

    /// A missing key takes any version; 0 is "whatever is there".
    pub(crate) fn set(&mut self, key: &[u8], value: &[u8], expected: u32) -> Status {
        let stale = |(_, version): &(Vec<u8>, u32)| expected != 0 && *version != expected;
        if self.values.get(key).is_some_and(stale) {
            return Status::CasMismatch;
        }
        let version = self.next_version();
        self.values.insert(key.to_vec(), (value.to_vec(), version));
        Status::Ok
    }

    /// Somebody else writes the same value again, so that the next write with a version loses.
    pub(crate) fn touch(&mut self, key: &[u8]) {
        let version = self.next_version();
        if let Some(entry) = self.values.get_mut(key) {
            entry.1 = version;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    const fn next_version(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1);
        if self.last == 0 {
            self.last = 1;
        }
        self.last
    }
}

/// Something that is going to happen.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A worker takes a new configuration.
    Configure { worker: usize },
    /// A callout ends.
    Reply {
        worker: usize,
        token: u32,
        reply: crate::call::CallReply,
        last: bool,
    },
    /// A root's timer.
    Tick {
        worker: usize,
        root: u32,
        timer: u64,
    },
    /// The upstream answers a stream.
    Upstream { worker: usize, stream: u32 },
}

/// What all VMs of the proxy see.
pub(crate) struct Process {
    pub(crate) now: u64,
    /// How far the wall clock is ahead of `now`; jumps move it.
    pub(crate) wall_ahead: u64,
    pub(crate) shared: SharedData,
    pub(crate) metrics: Metrics,
    pub(crate) log: Vec<LogLine>,
    pub(crate) complaints: Vec<String>,
    pub(crate) traps: Vec<String>,
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) random: Random,
    pub(crate) races_per_mille: u32,
    events: BTreeMap<(u64, u64), Event>,
    numbers: u64,
}

impl Process {
    pub(crate) fn new(backend: Box<dyn Backend>, seed: u64, wall: u64, races: u32) -> Self {
        Self {
            now: 0,
            wall_ahead: wall,
            shared: SharedData::default(),
            metrics: Metrics::default(),
            log: Vec::new(),
            complaints: Vec::new(),
            traps: Vec::new(),
            backend,
            random: Random::new(seed),
            races_per_mille: races,
            events: BTreeMap::new(),
            numbers: 0,
        }
    }

    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        self.numbers += 1;
        let at = self.now.saturating_add(delay);
        self.events.insert((at, self.numbers), event);
    }

    pub(crate) fn next_at(&self) -> Option<u64> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the next event and moves the clock to it.
    pub(crate) fn next(&mut self, until: u64) -> Option<Event> {
        if self.next_at()? > until {
            return None;
        }
        let ((at, _), event) = self.events.pop_first()?;
        self.now = self.now.max(at);
        Some(event)
    }

    pub(crate) const fn wall(&self) -> u64 {
        self.now.saturating_add(self.wall_ahead)
    }

    /// Notes something that the module did and a real host would take badly.
    pub(crate) fn complain(&mut self, what: String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(what);
        }
    }
}

/// One is enough to fail a test; a hundred are enough to see a pattern.
const COMPLAINTS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_key_takes_any_version() {
        let mut shared = SharedData::default();

        assert_eq!(shared.set(b"k", b"one", 77), Status::Ok);
        assert_eq!(shared.set(b"k", b"two", 77), Status::CasMismatch);
        assert_eq!(shared.set(b"k", b"two", 1), Status::Ok);
        assert_eq!(shared.set(b"k", b"three", 0), Status::Ok);
        assert_eq!(shared.get(b"k"), Some(&(b"three".to_vec(), 3)));
    }

    #[test]
    fn versions_are_counted_for_all_keys_together() {
        let mut shared = SharedData::default();

        shared.set(b"a", b"", 0);
        shared.set(b"b", b"", 0);

        assert_eq!(shared.get(b"b"), Some(&(Vec::new(), 2)));
    }
}
