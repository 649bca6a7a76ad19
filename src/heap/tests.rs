//! Blocks that owners write into, taken and given back at random.

use std::collections::BTreeMap;

use super::*;

#[test]
fn blocks_keep_their_bytes_whatever_is_taken_and_given_back() {
    for seed in 1..=20 {
        let mut world = World::new(seed);
        for _ in 0..3_000 {
            world.step(2_000, 200_000);
        }
        world.expect_untouched();
    }
}

#[test]
fn large_blocks_are_like_small_ones() {
    let mut world = World::new(7);
    for _ in 0..2_000 {
        world.step(300_000, 4_000_000);
    }
    world.expect_untouched();
}

#[test]
fn what_is_given_back_is_one_block_again() {
    let mut world = World::new(3);
    for _ in 0..3_000 {
        world.step(5_000, 300_000);
    }
    world.give_all();
    let pages = world.pages();

    // The header, and what lies in front of the first block and behind the last.
    world.take(pages * PAGE - WORD - STEP);

    assert_eq!(world.pages(), pages);
}

#[test]
fn what_one_size_has_left_is_there_for_another() {
    let mut world = World::new(5);
    for _ in 0..10_000 {
        world.take(100);
    }
    world.give_all();
    let pages = world.pages();

    for _ in 0..1_000 {
        world.take(1_000);
    }

    assert_eq!(world.pages(), pages);
}

/// A client that lets the sizes of its keys wander must not make the memory grow.
#[test]
fn sizes_that_wander_take_little_more_than_they_have() {
    let mut world = World::new(11);
    for size in 1..=400 {
        for _ in 0..200 {
            world.make_room(1_000_000);
            world.take(size * 10);
        }
    }

    assert!(world.pages() * PAGE < 2_000_000, "{}", world.pages());
}

#[test]
fn a_block_grows_where_it_lies_when_there_is_room() {
    let mut world = World::new(1);
    let block = world.take(100);
    let behind = world.take(100);
    world.take(1);
    world.give(behind);

    assert!(world.heap.lists().resize(block, 180));
    assert!(!world.heap.lists().resize(block, 1_000));
    assert!(world.heap.lists().resize(block, 10));
}

#[test]
fn two_heaps_share_the_memory_of_the_host() {
    let (mut one, mut other) = (World::new(1), World::new(2));
    for _ in 0..2_000 {
        one.step(20_000, 400_000);
        other.step(20_000, 400_000);
    }
    one.expect_untouched();
    other.expect_untouched();
}

#[test]
fn a_block_lies_where_its_type_has_to() {
    let mut world = World::new(1);
    for align in [1, 8, 16, 64, 4_096] {
        let layout = Layout::from_size_align(24, align).unwrap();
        // SAFETY: the size is not 0.
        let block = unsafe { world.heap.alloc(layout) }.expose_provenance();
        assert_eq!(block % align, 0);
        world.own(block, 24);
        world.take(100);
    }
    world.expect_untouched();
}

#[test]
fn what_cannot_be_had_is_refused() {
    let heap = Heap::new();
    let layout = Layout::from_size_align((1 << 30) + 1, 1).unwrap();

    // SAFETY: the size is not 0.
    assert!(unsafe { heap.alloc(layout) }.is_null());
}

/// A heap, and what its owners wrote into their blocks.
struct World {
    heap: Heap,
    random: u64,
    /// By their address: the size, and the byte that all of it has.
    blocks: BTreeMap<usize, (usize, u8)>,
    live: usize,
    pages_before: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            heap: Heap::new(),
            random: seed,
            blocks: BTreeMap::new(),
            live: 0,
            pages_before: memory::grown(),
        }
    }

    fn random(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005);
        self.random = self.random.wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.random >> 40).unwrap() % below
    }

    /// Takes a block, gives one back or changes one.
    fn step(&mut self, size_max: usize, live_max: usize) {
        // Small ones are the most.
        let size_max = 1 + self.random(size_max);
        let size = 1 + self.random(size_max);
        match self.random(4) {
            0 => {
                if let Some(block) = self.any() {
                    self.resize(block, size);
                }
            }
            1 => {
                if let Some(block) = self.any() {
                    self.give(block);
                }
            }
            _ => {
                self.take(size);
            }
        }
        self.make_room(live_max);
    }

    fn make_room(&mut self, live_max: usize) {
        while self.live > live_max {
            let block = self.any().unwrap();
            self.give(block);
        }
    }

    fn any(&mut self) -> Option<usize> {
        let position = self.random(self.blocks.len().max(1));
        self.blocks.keys().nth(position).copied()
    }

    fn take(&mut self, size: usize) -> usize {
        let layout = Layout::from_size_align(size, 1).unwrap();
        // SAFETY: the size is not 0.
        let block = unsafe { self.heap.alloc(layout) }.expose_provenance();
        assert_ne!(block, 0);
        assert_eq!(block % STEP, 0);
        self.own(block, size);
        block
    }

    fn own(&mut self, block: usize, size: usize) {
        let byte = u8::try_from(self.random(256)).unwrap();
        bytes(block, size).fill(byte);
        self.blocks.insert(block, (size, byte));
        self.live += size;
    }

    /// The block's size; all its bytes are as its owner left them.
    fn leave(&mut self, block: usize) -> usize {
        let (size, byte) = self.blocks.remove(&block).unwrap();
        assert!(bytes(block, size).iter().all(|own| *own == byte));
        self.live -= size;
        size
    }

    fn give(&mut self, block: usize) {
        let size = self.leave(block);
        let layout = Layout::from_size_align(size, 1).unwrap();
        // SAFETY: it was taken with this layout.
        unsafe {
            self.heap
                .dealloc(ptr::with_exposed_provenance_mut(block), layout)
        };
    }

    fn resize(&mut self, block: usize, size: usize) {
        let byte = self.blocks.get(&block).unwrap().1;
        let before = self.leave(block);
        let layout = Layout::from_size_align(before, 1).unwrap();
        let block = ptr::with_exposed_provenance_mut(block);
        // SAFETY: it was taken with this layout.
        let block = unsafe { self.heap.realloc(block, layout, size) }.expose_provenance();
        assert_ne!(block, 0);
        let kept = size.min(before);
        assert!(bytes(block, kept).iter().all(|own| *own == byte));
        self.own(block, size);
    }

    fn give_all(&mut self) {
        while let Some(block) = self.any() {
            self.give(block);
        }
    }

    fn expect_untouched(mut self) {
        self.give_all();
    }

    fn pages(&self) -> usize {
        memory::grown() - self.pages_before
    }
}

fn bytes<'a>(block: usize, size: usize) -> &'a mut [u8] {
    // SAFETY: the block was taken with this size, and only the test looks into it.
    unsafe { std::slice::from_raw_parts_mut(ptr::with_exposed_provenance_mut(block), size) }
}

/// A host's memory.
#[cfg(not(target_arch = "wasm32"))]
pub(super) mod memory {
    use std::alloc::{Layout, alloc};
    use std::cell::Cell;

    use super::super::PAGE;

    thread_local! {
        /// Where it begins, and how many pages of it are given.
        static GIVEN: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    }

    pub(in super::super) fn grow(pages: usize) -> Option<usize> {
        let (mut start, given) = GIVEN.get();
        if start == 0 {
            let layout = Layout::from_size_align(PAGES_MAX * PAGE, PAGE).unwrap();
            // SAFETY: the size is not 0. The system brings each page when it is used.
            start = unsafe { alloc(layout) }.expose_provenance();
        }
        GIVEN.set((start, given + pages));
        (given + pages <= PAGES_MAX).then_some(start + given * PAGE)
    }

    pub(super) fn grown() -> usize {
        GIVEN.get().1
    }

    const PAGES_MAX: usize = 4_096;
}
