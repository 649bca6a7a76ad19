//! Where the value of a 64-bit hash is: open addressing, small in code and quick to search.
//!
//! The hashes are keyed and hard to guess, so their low bits are as good as random and nobody can
//! make them collide on purpose. A removal moves the cells behind it up, so there are no graves.

use alloc::vec;
use alloc::vec::Vec;

/// Numbers of places by hash.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// A power of two, or none yet.
    cells: Vec<Cell>,
    len: usize,
}

/// A hash and its place; [`EMPTY`] where there is none.
#[derive(Clone, Copy, Debug)]
struct Cell {
    hash: u64,
    place: u32,
}

impl Index {
    pub(super) const fn new() -> Self {
        Self {
            cells: Vec::new(),
            len: 0,
        }
    }

    /// How many hashes there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The place of a hash.
    pub(super) fn get(&self, hash: u64) -> Option<usize> {
        let (_, cell) = self.search(hash)?;
        (cell.place != EMPTY).then_some(usize::try_from(cell.place).ok()?)
    }

    /// Notes the place of a hash that is not there. More than `u32::MAX` places are not noted.
    pub(super) fn insert(&mut self, hash: u64, place: usize) {
        let Ok(place) = u32::try_from(place) else {
            return;
        };
        if self.len >= (self.cells.len() / 4).saturating_mul(3) {
            self.grow();
        }
        if self.set(Cell { hash, place }) {
            self.len = self.len.saturating_add(1);
        }
    }

    /// Forgets a hash.
    pub(super) fn remove(&mut self, hash: u64) {
        let Some((mut gap, cell)) = self.search(hash) else {
            return;
        };
        if cell.place == EMPTY {
            return;
        }
        self.len = self.len.saturating_sub(1);
        // Each cell behind the gap that is not where its hash wants it moves up, unless it would
        // move in front of where its own search begins.
        let mut at = gap;
        loop {
            at = self.next(at);
            let Some(cell) = self.cells.get(at).copied() else {
                return;
            };
            if cell.place == EMPTY {
                break;
            }
            let home = self.home(cell.hash);
            let strays = self.distance(home, at) >= self.distance(gap, at);
            if strays {
                self.put(gap, cell);
                gap = at;
            }
        }
        self.put(gap, NOTHING);
    }

    /// The cell of a hash, or the empty one where it belongs.
    fn search(&self, hash: u64) -> Option<(usize, Cell)> {
        let mut at = self.home(hash);
        // One cell in four at least is empty, so this ends.
        loop {
            let cell = *self.cells.get(at)?;
            if cell.place == EMPTY || cell.hash == hash {
                return Some((at, cell));
            }
            at = self.next(at);
        }
    }

    /// Writes a cell where its hash belongs; whether the hash is new.
    fn set(&mut self, cell: Cell) -> bool {
        let Some((at, old)) = self.search(cell.hash) else {
            return false;
        };
        self.put(at, cell);
        old.place == EMPTY
    }

    fn put(&mut self, at: usize, cell: Cell) {
        if let Some(own) = self.cells.get_mut(at) {
            *own = cell;
        }
    }

    fn grow(&mut self) {
        let size = self.cells.len().saturating_mul(2).max(SMALLEST);
        let old = core::mem::replace(&mut self.cells, vec![NOTHING; size]);
        for cell in old.into_iter().filter(|cell| cell.place != EMPTY) {
            self.set(cell);
        }
    }

    const fn mask(&self) -> usize {
        self.cells.len().saturating_sub(1)
    }

    fn home(&self, hash: u64) -> usize {
        // What does not fit a 32-bit machine is masked off in any case.
        let low = u32::try_from(hash & u64::from(u32::MAX)).unwrap_or(0);
        usize::try_from(low).unwrap_or(0) & self.mask()
    }

    const fn next(&self, at: usize) -> usize {
        at.wrapping_add(1) & self.mask()
    }

    const fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.mask()
    }
}

const EMPTY: u32 = u32::MAX;

const NOTHING: Cell = Cell {
    hash: 0,
    place: EMPTY,
};

/// Cells of the smallest index.
const SMALLEST: usize = 16;

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::collections::btree_map::Entry;

    use super::*;

    #[test]
    fn holds_what_a_tree_holds() {
        // Few home cells, so that rows of cells form and wrap around the end.
        for spread in [1_u64, 3, 16, 257, 0x9e37_79b9_7f4a_7c15] {
            let mut index = Index::new();
            let mut tree = BTreeMap::new();
            for step in 0_usize..5000 {
                let hash = (step as u64).wrapping_mul(2_654_435_761) % 511;
                let hash = hash.wrapping_mul(spread);
                if step % 5 < 2 {
                    index.remove(hash);
                    tree.remove(&hash);
                } else if let Entry::Vacant(place) = tree.entry(hash) {
                    index.insert(hash, step);
                    place.insert(step);
                }
                assert_eq!(index.len(), tree.len());
                assert_eq!(index.get(hash), tree.get(&hash).copied());
            }
            for (hash, place) in &tree {
                assert_eq!(index.get(*hash), Some(*place));
            }
        }
    }

    #[test]
    fn an_empty_index_knows_nothing() {
        let mut index = Index::default();

        index.remove(7);

        assert_eq!(index.get(7), None);
        assert_eq!(index.len(), 0);
    }
}
