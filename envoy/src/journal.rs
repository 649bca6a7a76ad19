//! What a server has seen, in order of arrival, for tests to look at.

use std::sync::Mutex;

use crate::eventually::{PATIENCE, within};
use crate::server::lock;

/// Entries in their order of arrival.
#[derive(Debug)]
pub(crate) struct Journal<T>(Mutex<Vec<T>>);

impl<T> Default for Journal<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + std::fmt::Debug> Journal<T> {
    /// Appends an entry, and returns its place.
    pub(crate) fn push(&self, entry: T) -> usize {
        let mut entries = lock(&self.0);
        entries.push(entry);
        entries.len() - 1
    }

    /// Changes the entry at `place`, unless it was taken meanwhile.
    pub(crate) fn amend(&self, place: usize, change: impl FnOnce(&mut T)) {
        if let Some(entry) = lock(&self.0).get_mut(place) {
            change(entry);
        }
    }

    /// A copy of all entries.
    pub(crate) fn all(&self) -> Vec<T> {
        lock(&self.0).clone()
    }

    /// All entries; the journal is empty afterwards.
    pub(crate) fn take(&self) -> Vec<T> {
        std::mem::take(&mut lock(&self.0))
    }

    /// Waits until there are `count` entries, and expects that there are no more.
    #[track_caller]
    pub(crate) fn expect(&self, what: &str, count: usize) -> Vec<T> {
        let enough = || (lock(&self.0).len() >= count).then_some(());
        let _ = within(PATIENCE, enough);
        let entries = self.all();
        assert_eq!(entries.len(), count, "{what}: {entries:#?}");
        entries
    }
}
