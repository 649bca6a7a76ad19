//! Values under byte keys, each in a place that does not move: the store of the bounded tables.
//!
//! A key is looked up by its seeded hash and then compared in full, so a hit is one search over
//! whole numbers and one comparison of bytes; keys that share their policy's and tenant's first
//! bytes cost nothing extra. The key is held once. Of two keys with the same 64-bit hash only the
//! first is held: the other is simply not in the table, which every user of a table survives.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::index::Index;
use crate::descriptor::hash64;

/// A place in a table, good until its value is removed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place(usize);

/// Values under byte keys.
#[derive(Debug)]
pub(super) struct Table<V> {
    seed: u64,
    /// What an entry is counted as, beside the length of its key.
    overhead: usize,
    places: Index,
    slots: Vec<Option<Slot<V>>>,
    free: Vec<usize>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Slot<V> {
    hash: u64,
    key: Box<[u8]>,
    value: V,
}

impl<V> Table<V> {
    /// An empty table, whose entries weigh `overhead` bytes and their key. Workers need no common
    /// seed; it only has to be hard to guess.
    pub(super) const fn new(seed: u64, overhead: usize) -> Self {
        Self {
            seed,
            overhead,
            places: Index::new(),
            slots: Vec::new(),
            free: Vec::new(),
            bytes: 0,
        }
    }

    /// Puts a value under a key that is not in the table. `None` when its hash is taken.
    pub(super) fn insert(&mut self, key: &[u8], value: V) -> Option<Place> {
        let hash = self.hash(key);
        if self.places.get(hash).is_some() {
            return None;
        }
        let slot = Some(Slot {
            hash,
            key: key.into(),
            value,
        });
        let index = match self.free.pop() {
            Some(index) => {
                *self.slots.get_mut(index)? = slot;
                index
            }
            None => {
                self.slots.push(slot);
                self.slots.len().saturating_sub(1)
            }
        };
        self.places.insert(hash, index);
        self.bytes = self.bytes.saturating_add(self.weight(key));
        Some(Place(index))
    }

    /// Takes the value out of its place.
    pub(super) fn remove(&mut self, place: Place) -> Option<V> {
        let slot = self.slots.get_mut(place.0)?.take()?;
        self.places.remove(slot.hash);
        self.free.push(place.0);
        self.bytes = self.bytes.saturating_sub(self.weight(&slot.key));
        Some(slot.value)
    }

    /// Removes everything, and gives its memory back.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.seed, self.overhead);
    }

    /// The value in a place.
    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut V> {
        self.slots
            .get_mut(place.0)?
            .as_mut()
            .map(|slot| &mut slot.value)
    }

    /// The value of a key.
    pub(super) fn find_mut(&mut self, key: &[u8]) -> Option<&mut V> {
        // Where nothing is ever remembered, no key needs to be hashed.
        if self.len() == 0 {
            return None;
        }
        let index = self.places.get(self.hash(key))?;
        let slot = self.slots.get_mut(index)?.as_mut()?;
        (*slot.key == *key).then_some(&mut slot.value)
    }

    /// The value of a key.
    pub(super) fn find(&self, key: &[u8]) -> Option<&V> {
        if self.len() == 0 {
            return None;
        }
        let index = self.places.get(self.hash(key))?;
        let slot = self.slots.get(index)?.as_ref()?;
        (*slot.key == *key).then_some(&slot.value)
    }

    /// The value in a place.
    pub(super) fn get(&self, place: Place) -> Option<&V> {
        self.slots.get(place.0)?.as_ref().map(|slot| &slot.value)
    }

    /// Every value.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.slots.iter().flatten().map(|slot| &slot.value)
    }

    /// The place after this one, round and round; `None` when the table never held anything.
    pub(super) fn after(&self, place: Place) -> Option<Place> {
        let next = place.0.saturating_add(1);
        match self.slots.len() {
            0 => None,
            len if next < len => Some(Place(next)),
            _ => Some(Self::FIRST),
        }
    }

    /// How many values there are.
    pub(super) const fn len(&self) -> usize {
        self.places.len()
    }

    /// What the entries weigh.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What an entry of this key weighs.
    pub(super) const fn weight(&self, key: &[u8]) -> usize {
        self.overhead.saturating_add(key.len())
    }

    /// Whether an entry of this key would take the table over its bounds.
    pub(super) fn is_full_for(&self, key: &[u8], entries_max: usize, bytes_max: usize) -> bool {
        self.len() >= entries_max || self.bytes.saturating_add(self.weight(key)) > bytes_max
    }

    /// Whether one entry of this key would take too large a share of the table.
    pub(super) const fn is_too_big(&self, key: &[u8], bytes_max: usize) -> bool {
        self.weight(key) > bytes_max / LARGEST_SHARE
    }

    fn hash(&self, key: &[u8]) -> u64 {
        hash64(key, self.seed)
    }
}

impl<V> Table<V> {
    /// Where a round begins.
    pub(super) const FIRST: Place = Place(0);
}

/// No entry may take more than a sixteenth of a table's bytes: one client with huge headers must
/// not push everybody else out.
const LARGEST_SHARE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_put_and_nothing_else() {
        let mut table = Table::new(7, 100);
        let place = table.insert(b"acme", 1).unwrap();
        table.insert(b"", 2).unwrap();

        assert_eq!(table.find_mut(b"acme"), Some(&mut 1));
        assert_eq!(table.find_mut(b""), Some(&mut 2));
        assert_eq!(table.find_mut(b"acm"), None);
        assert_eq!((table.len(), table.bytes()), (2, 204));

        assert_eq!(table.remove(place), Some(1));
        assert_eq!(table.remove(place), None);
        assert_eq!(table.find_mut(b"acme"), None);
        assert_eq!((table.len(), table.bytes()), (1, 100));
    }

    #[test]
    fn a_key_that_only_shares_its_hash_with_another_is_not_found() {
        let mut table = Table::new(7, 0);
        table.insert(b"a", 1).unwrap();
        table.slots[0].as_mut().unwrap().key = (*b"b").into();

        assert_eq!(table.find(b"a"), None);
        assert_eq!(table.find_mut(b"a"), None);
    }

    #[test]
    fn uses_the_places_of_removed_values_again() {
        let mut table = Table::new(7, 0);
        for round in 0..1_000_u32 {
            let place = table.insert(&round.to_le_bytes(), round).unwrap();
            assert_eq!(place, Place(0));
            table.remove(place);
        }
        assert_eq!(table.slots.len(), 1);
    }

    #[test]
    fn goes_round_through_every_place() {
        let mut table = Table::new(7, 0);
        assert_eq!(table.after(Place(0)), None);
        table.insert(b"a", ()).unwrap();
        table.insert(b"b", ()).unwrap();

        assert_eq!(table.after(Place(0)), Some(Place(1)));
        assert_eq!(table.after(Place(1)), Some(Place(0)));
    }

    #[test]
    fn a_second_key_of_the_same_hash_is_not_held() {
        let mut table = Table::new(7, 0);
        table.insert(b"a", 1).unwrap();

        assert_eq!(table.insert(b"a", 2), None);
        assert_eq!(table.find_mut(b"a"), Some(&mut 1));
    }
}
