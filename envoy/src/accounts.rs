//! What the backend has charged, by descriptor, and the reports that it knows already.

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
    /// What checks have been granted, of what is charged.
    granted: BTreeMap<String, u64>,
    ids: BTreeSet<String>,
}

impl Accounts {
    /// Charges units, or takes them back.
    pub(crate) fn charge(&self, descriptor: &Descriptor, units: i64) {
        if units != 0 {
            let mut state = lock(&self.0);
            *state.charged.entry(name_of(descriptor)).or_default() += units;
        }
    }

    /// Charges units that a check is granted.
    pub(crate) fn grant(&self, descriptor: &Descriptor, units: u64) {
        self.charge(descriptor, i64::try_from(units).unwrap_or(i64::MAX));
        if units != 0 {
            let mut state = lock(&self.0);
            *state.granted.entry(name_of(descriptor)).or_default() += units;
        }
    }

    /// Whether a report is new; the next one of that id is not.
    pub(crate) fn is_new(&self, id: &str) -> bool {
        lock(&self.0).ids.insert(id.to_owned())
    }

    /// Units charged by descriptor, `tenant=acme&plan=free`.
    pub(crate) fn charged(&self) -> BTreeMap<String, i64> {
        lock(&self.0).charged.clone()
    }

    /// Units granted to checks, by descriptor.
    pub(crate) fn granted(&self) -> BTreeMap<String, u64> {
        lock(&self.0).granted.clone()
    }
}

fn name_of(descriptor: &Descriptor) -> String {
    let entries = descriptor.iter();
    let entries: Vec<String> = entries
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    entries.join("&")
}
