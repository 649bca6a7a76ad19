//! What the backend has charged, by descriptor, the reports that it knows already, and the units
//! that it only seems to have charged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use crate::books::Descriptor;
use crate::server::lock;

/// Units charged, and ids seen.
#[derive(Debug, Default)]
pub(crate) struct Accounts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    charged: BTreeMap<String, i64>,
    ids: BTreeSet<String>,
    /// Reports with a final answer that are not counted: their units, and whether it was a yes.
    ended: BTreeMap<String, (u64, bool)>,
}

impl Accounts {
    /// Charges units, or takes them back.
    pub(crate) fn charge(&self, descriptor: &Descriptor, units: i64) {
        if units != 0 {
            let mut state = lock(&self.0);
            *state.charged.entry(name_of(descriptor)).or_default() += units;
        }
    }

    /// Whether a report is new; the next one of that id is not.
    pub(crate) fn is_new(&self, id: &str) -> bool {
        lock(&self.0).ids.insert(id.to_owned())
    }

    /// Notes that a report has a yes, or a final no, and is not counted.
    pub(crate) fn end_uncounted(&self, id: &str, units: i64, yes: bool) {
        let mut state = lock(&self.0);
        state
            .ended
            .insert(id.to_owned(), (units.unsigned_abs(), yes));
    }

    /// Units of reports that were ended by such an answer, and not counted when they came again.
    pub(crate) fn uncounted(&self, yes: bool) -> u64 {
        let state = lock(&self.0);
        let ended = state.ended.iter();
        let own = ended.filter(|(id, (_, its))| *its == yes && !state.ids.contains(*id));
        own.map(|(_, (units, _))| units).sum()
    }

    /// Units charged by descriptor, `tenant=acme&plan=free`.
    pub(crate) fn charged(&self) -> BTreeMap<String, i64> {
        lock(&self.0).charged.clone()
    }
}

fn name_of(descriptor: &Descriptor) -> String {
    let entries = descriptor.iter();
    let entries: Vec<String> = entries
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    entries.join("&")
}
