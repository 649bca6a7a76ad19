//! Worlds whose tables hold a few entries, so that they are full most of the time: what is let go
//! is counted, and nobody is let go while there is room.

use std::collections::{BTreeMap, BTreeSet};

use quota_gate::gate::Holdings;
use quota_gate::gate::bounds::Bounds;
use quota_gate::gate::cache::ENTRY_BYTES;
use quota_gate::gate::lease::LEASE_BYTES;

use crate::events::Random;
use crate::model::Key;
use crate::world::{Instance, World};

/// No key of a world is longer than this.
const KEY_BYTES_MAX: usize = 64;

/// Bounds of a few entries.
pub(crate) fn few(random: &mut Random) -> Bounds {
    // Of a table's bytes one entry may take a sixteenth, so a bound in bytes is one of 16 entries.
    let (answers, answer_bytes) = match random.percent(20) {
        true => (10_000, 16 * (ENTRY_BYTES + KEY_BYTES_MAX)),
        false => (*random.pick(&[1, 2, 3, 6, 12]), 1 << 20),
    };
    let (leases, lease_bytes) = match random.percent(20) {
        true => (10_000, 16 * (LEASE_BYTES + KEY_BYTES_MAX)),
        false => (*random.pick(&[1, 2, 3, 6]), 1 << 20),
    };
    Bounds {
        answers,
        answer_bytes,
        leases,
        lease_bytes,
        local_slots: *random.pick(&[1, 1, 2]),
        metadata: *random.pick(&[0, 1, 3]),
        waiters: *random.pick(&[1, 2, 5]),
        ..Bounds::WORKER
    }
}

/// What is known of one gate's tables from outside.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Answers that counted as new and were not used, by key and the time at which they came.
    missed: BTreeSet<(Key, u64)>,
    /// Keys that leases were sought for.
    lease_keys: BTreeSet<Key>,
    /// How many of them came since the last tick.
    met: usize,
    /// At the last tick: the keys that leases are known for, and what had been let go by then.
    leases_then: usize,
    let_go_then: i64,
    /// New keys that sought leases between two ticks, and the room that there was: where there was
    /// too little, and nobody was let go.
    crowded: Option<(usize, i64)>,
    /// Refused by the local limit, though the key had units left.
    pub(crate) unjust: u64,
}

impl Watch {
    /// A fresh answer was there, and the gate asked anew.
    pub(crate) fn miss(&mut self, key: Key, since: u64) {
        self.missed.insert((key, since));
    }

    /// A request that a lease may serve.
    pub(crate) fn meet(&mut self, key: Key) {
        if self.lease_keys.insert(key) {
            self.met += 1;
        }
    }

    /// Takes stock at every tick, one in the middle of another worker's write too: a tick forgets
    /// idle keys, and what is met afterwards may take their room.
    pub(crate) fn tick(&mut self, leases: usize, let_go: i64, leases_max: usize) {
        let room = leases_max as i64 - self.leases_then as i64 + let_go - self.let_go_then;
        if self.met as i64 > room {
            self.crowded = Some((self.met, room));
        }
        (self.met, self.leases_then, self.let_go_then) = (0, leases, let_go);
    }
}

/// Keys that a gate's leases had to let go or found no place for.
pub(crate) fn leases_let_go(metrics: &BTreeMap<String, i64>) -> i64 {
    let names = [
        "quota_gate.evictions.table.lease",
        "quota_gate.leases.event.full",
    ];
    names.iter().filter_map(|name| metrics.get(*name)).sum()
}

impl World {
    /// Every table is within its bound, and whoever found no place in it is counted.
    pub(crate) fn check_tables(&mut self, index: usize) {
        let bounds = self.nature.bounds;
        let own = self.gates[index].as_mut().expect("a gate that is driven");
        let holds = own.gate.holdings();
        let of = |name: &str| own.metrics.get(name).copied().unwrap_or(0);
        let evicted = |table: &str| of(&format!("quota_gate.evictions.table.{table}"));
        within(&holds, &bounds);

        let let_go = evicted("cache");
        let missed = own.watch.missed.len();
        assert!(
            missed as i64 <= let_go,
            "{missed} fresh answers were not used, {let_go} were let go: {:?}",
            own.watch.missed
        );
        let gone = leases_let_go(&own.metrics);
        let crowded = own.watch.crowded;
        assert!(
            bounds.lease_bytes < 1 << 20 || crowded.is_none(),
            "more new keys sought leases than there was room for, and nobody was let go: \
             {crowded:?} (the keys, the room)"
        );
        assert!(
            self.nature.few || let_go + gone + evicted("local_limit") == 0,
            "something is let go, and there was room: {:?}",
            own.metrics
        );
        self.tell_full(&holds, &bounds);
    }

    /// Counts the tables that are full at this tick.
    fn tell_full(&mut self, holds: &Holdings, bounds: &Bounds) {
        let nearly = |bytes: usize, max: usize, entry: usize| bytes + entry + KEY_BYTES_MAX > max;
        for (what, full) in [
            (
                "cache",
                holds.answers == bounds.answers
                    || nearly(holds.answer_bytes, bounds.answer_bytes, ENTRY_BYTES),
            ),
            (
                "leases",
                holds.leases == bounds.leases
                    || nearly(holds.lease_bytes, bounds.lease_bytes, LEASE_BYTES),
            ),
            (
                "metadata",
                bounds.metadata > 0 && holds.metadata == bounds.metadata,
            ),
            ("waiters of a call", holds.waiters_most == bounds.waiters),
        ] {
            if full {
                *self.full.entry(what.to_owned()).or_default() += 1;
            }
        }
    }

    /// When all is over: the local limit refused nobody who had units left, unless it had to let
    /// keys go; and the workers share no more of its slots than there are.
    pub(crate) fn check_local_limits(&mut self) {
        let slots = self.shared.names();
        let slots = slots.filter(|name| name.starts_with("quota_gate/1/local/"));
        let (slots, most) = (slots.count(), self.nature.bounds.local_slots);
        assert!(slots <= most, "{slots} slots of the local limits");
        let gates = || self.gates.iter().flatten();
        let unjust: u64 = gates().map(|own| own.watch.unjust).sum();
        let let_go: i64 = gates().map(|own| sum_of(own, "evictions.table.")).sum();
        let local: i64 = gates()
            .map(|own| sum_of(own, "evictions.table.local_limit"))
            .sum();
        assert!(
            unjust == 0 || local > 0,
            "{unjust} were refused who had units left, and no key was let go"
        );
        let no_place: i64 = gates().map(|own| sum_of(own, "leases.event.full")).sum();
        for (what, times) in [
            ("let go", let_go),
            ("let go by the local limit", local),
            ("no place for a lease", no_place),
        ] {
            if times > 0 {
                *self.full.entry(what.to_owned()).or_default() += times as u64;
            }
        }
    }
}

fn sum_of(own: &Instance, prefix: &str) -> i64 {
    let prefix = format!("quota_gate.{prefix}");
    let found = own.metrics.iter();
    found
        .filter(|(name, _)| name.starts_with(&prefix))
        .map(|(_, value)| *value)
        .sum()
}

fn within(holds: &Holdings, bounds: &Bounds) {
    assert!(
        holds.answers <= bounds.answers && holds.answer_bytes <= bounds.answer_bytes,
        "too much is remembered: {holds:?}"
    );
    assert!(
        holds.leases <= bounds.leases && holds.lease_bytes <= bounds.lease_bytes,
        "too many leases: {holds:?}"
    );
    assert!(
        holds.metadata <= bounds.metadata,
        "too many pieces of metadata: {holds:?}"
    );
    assert!(
        holds.waiters_most <= bounds.waiters,
        "too many wait for one call: {holds:?}"
    );
}

/// A route's metadata, as Envoy serializes it: `filter_metadata.quota_gate` with these texts.
pub(crate) fn metadata(fields: &[(&str, &str)]) -> Vec<u8> {
    let member = |(name, text): &(&str, &str)| {
        let value = field(3, text.as_bytes());
        field(1, &[field(1, name.as_bytes()), field(2, &value)].concat())
    };
    let own: Vec<u8> = fields.iter().flat_map(member).collect();
    field(1, &[field(1, b"quota_gate"), field(2, &own)].concat())
}

/// A field of a protobuf message whose value has a length.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).expect("a short text");
    let length = match length {
        0..0x80 => vec![length],
        _ => vec![length | 0x80, 1],
    };
    [&[number << 3 | 2][..], &length, value].concat()
}
