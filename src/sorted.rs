//! A small ordered map that costs little code: sorted pairs.
//!
//! The standard's tree is instantiated anew for each pair of types and made up a quarter of the
//! shipped module. Here a look-up is a binary search, and an insertion or removal moves what lies
//! behind its place. Almost all keys in this crate are numbers that grow, so they are inserted at
//! the end, and a removal moves some kilobytes at worst. Large values belong in a `Box`.

use alloc::vec::Vec;
use core::cmp::Ordering;

/// Pairs in the order of their keys.
#[derive(Clone, Debug)]
pub struct SortedMap<K, V> {
    pairs: Vec<(K, V)>,
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> SortedMap<K, V> {
    /// A map with nothing in it.
    #[must_use]
    pub const fn new() -> Self {
        Self { pairs: Vec::new() }
    }

    /// How many pairs there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The pair with the smallest key.
    #[must_use]
    pub fn first(&self) -> Option<&(K, V)> {
        self.pairs.first()
    }

    /// The value of the smallest key.
    pub fn first_mut(&mut self) -> Option<&mut V> {
        self.pairs.first_mut().map(|(_, value)| value)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.pairs.iter().map(|(_, value)| value)
    }

    /// All values, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.pairs.iter_mut().map(|(_, value)| value)
    }

    /// All pairs.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.pairs.iter().map(|(key, value)| (key, value))
    }

    /// Takes out the values that `wants` agrees to, of all keys above `from`, then of the others.
    pub fn take_where(&mut self, from: &K, mut wants: impl FnMut(&V) -> bool) -> Vec<(K, V)>
    where
        K: Ord,
    {
        let start = self.pairs.partition_point(|(key, _)| key <= from);
        let mut taken: Vec<(K, V)> = self
            .pairs
            .extract_if(start.., |(_, value)| wants(value))
            .collect();
        taken.extend(self.pairs.extract_if(..start, |(_, value)| wants(value)));
        taken
    }

    /// The pairs, smallest key first; nothing is left.
    pub fn drain(&mut self) -> impl Iterator<Item = (K, V)> {
        core::mem::take(&mut self.pairs).into_iter()
    }
}

impl<K: Copy, V> SortedMap<K, V> {
    /// The first key whose value is like that.
    pub fn find_key(&self, is_it: impl Fn(&V) -> bool) -> Option<K> {
        let mut pairs = self.pairs.iter();
        pairs.find_map(|(key, value)| is_it(value).then_some(*key))
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        let at = self.place(key).ok()?;
        self.pairs.get(at).map(|(_, value)| value)
    }

    /// The value of the key that `order` finds equal.
    #[must_use]
    pub fn find(&self, order: impl Fn(&K) -> Ordering) -> Option<&V> {
        let at = self.pairs.binary_search_by(|(own, _)| order(own)).ok()?;
        self.pairs.get(at).map(|(_, value)| value)
    }

    /// The value of the key that `order` finds equal, to be changed.
    pub fn find_mut(&mut self, order: impl Fn(&K) -> Ordering) -> Option<&mut V> {
        let at = self.pairs.binary_search_by(|(own, _)| order(own)).ok()?;
        self.pairs.get_mut(at).map(|(_, value)| value)
    }

    /// The value of `key`, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.place(key).ok()?;
        self.pairs.get_mut(at).map(|(_, value)| value)
    }

    /// Sets the value of `key`.
    pub fn insert(&mut self, key: K, value: V) {
        match self.place(&key) {
            Ok(at) => {
                if let Some(pair) = self.pairs.get_mut(at) {
                    pair.1 = value;
                }
            }
            Err(at) => self.pairs.insert(at, (key, value)),
        }
    }

    /// Takes the value of `key` out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.place(key).ok()?;
        Some(self.pairs.remove(at).1)
    }

    fn place(&self, key: &K) -> Result<usize, usize> {
        // A number that grows belongs at the end. (`<` would bring in a second comparison.)
        match self.pairs.last() {
            Some((last, _)) if last.cmp(key).is_lt() => Err(self.pairs.len()),
            Some(_) | None => self.pairs.binary_search_by(|(own, _)| own.cmp(key)),
        }
    }
}

/// Sorts by insertion, which costs a fraction of the standard sort's code; equal items keep their
/// order. For lists that are short, or come almost in order.
pub fn sort_by<T>(items: &mut [T], order: impl Fn(&T, &T) -> Ordering) {
    for end in 1..items.len() {
        let mut at = end;
        while let Some(before) = at.checked_sub(1) {
            let Some([one, other]) = items.get(before..=at) else {
                break;
            };
            if order(one, other).is_le() {
                break;
            }
            items.swap(before, at);
            at = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_and_keeps_equal_items_in_order() {
        let mut items = [(3, 'a'), (1, 'b'), (3, 'c'), (2, 'd'), (1, 'e')];

        sort_by(&mut items, |one, other| one.0.cmp(&other.0));

        assert_eq!(items, [(1, 'b'), (1, 'e'), (2, 'd'), (3, 'a'), (3, 'c')]);
    }

    #[test]
    fn holds_what_a_tree_holds() {
        let mut map = SortedMap::default();
        let mut tree = alloc::collections::BTreeMap::new();
        for step in 0_u32..2000 {
            let key = step.wrapping_mul(2_654_435_761) % 97;
            if step % 3 == 0 {
                assert_eq!(map.remove(&key), tree.remove(&key));
            } else {
                map.insert(key, step);
                tree.insert(key, step);
            }
            assert_eq!(map.len(), tree.len());
            assert_eq!(
                map.first().map(|pair| (&pair.0, &pair.1)),
                tree.first_key_value()
            );
            assert_eq!(map.get(&key), tree.get(&key));
        }
        assert!(map.drain().eq(tree));
        assert!(map.is_empty());
    }
}
