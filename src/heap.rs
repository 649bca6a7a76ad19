//! The module's memory: who has which block. Small, and as quick for one block as for another.
//!
//! A free block stands in the list of its size, and is joined with free neighbours at once, so that
//! what one kind of request has left is there for every other kind. The allocator of the standard
//! library does the same with seven times the code, which every worker compiles.
//!
//! In front of a block's bytes stands its size, with two flags; in a free one follow the list's
//! links, and its last word is its size again. What lies behind the last block is one that is
//! never free.

#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;

/// What the host has given and nobody has.
#[derive(Debug)]
pub(crate) struct Heap(UnsafeCell<Lists>);

// SAFETY: nothing is shared: a module without threads runs in one, and no callback of the host
// comes while memory is taken or given back.
unsafe impl Sync for Heap {}

impl Heap {
    /// Without any memory yet.
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(Lists {
            filled: 0,
            heads: [0; LISTS],
            end: 0,
            last: 0,
            begun: 0,
        }))
    }

    #[expect(clippy::mut_from_ref, reason = "see `Sync` above")]
    fn lists(&self) -> &mut Lists {
        // SAFETY: no method calls back, so there is never a second one.
        unsafe { &mut *self.0.get() }
    }
}

// SAFETY: a block is in a list or with its owner, and lies in no other one; the tests hold that.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = self.lists().take_aligned(layout.size(), layout.align());
        ptr::with_exposed_provenance_mut(block.unwrap_or(0))
    }

    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        self.lists().give(block.expose_provenance());
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if self.lists().resize(block.expose_provenance(), size) {
            return block;
        }
        let larger = self.lists().take_aligned(size, layout.align());
        let larger: *mut u8 = ptr::with_exposed_provenance_mut(larger.unwrap_or(0));
        if !larger.is_null() {
            // SAFETY: the old block has at least so many bytes, and so has the new one, which is
            // larger: one that shrinks is never moved.
            unsafe { ptr::copy_nonoverlapping(block, larger, layout.size()) };
            self.lists().give(block.expose_provenance());
        }
        larger
    }
}

/// The free blocks, by size. A block is the address of its bytes; 0 is none.
#[derive(Debug)]
struct Lists {
    /// A bit for each list that is not empty.
    filled: u64,
    heads: [usize; LISTS],
    /// Where the newest memory ends.
    end: usize,
    /// The free block in front of that. It is in no list, and taken from when no other block is
    /// large enough: what is filled up there first keeps the memory small.
    last: usize,
    /// The free block that was cut last. It is in no list either.
    begun: usize,
}

impl Lists {
    /// A block that may have to lie on more than a multiple of the step: then what is in front of
    /// it is given back.
    fn take_aligned(&mut self, size: usize, align: usize) -> Option<usize> {
        if align <= STEP {
            return self.take(size);
        }
        let block = self.take(size.saturating_add(align).saturating_add(LEAST))?;
        let aligned = block
            .wrapping_add(LEAST)
            .wrapping_add(align)
            .wrapping_sub(1)
            & !align.wrapping_sub(1);
        let gap = aligned.wrapping_sub(block);
        let flag = word(before(block)) & FREE_BEFORE;
        set(before(aligned), size_of_block(block).wrapping_sub(gap));
        set(before(block), gap | flag);
        self.give(block);
        Some(aligned)
    }

    fn take(&mut self, size: usize) -> Option<usize> {
        if size > SIZE_MAX {
            return None;
        }
        let size = block_size(size);
        let own = list_of(size);
        loop {
            let mut block = self.best_of(own, size);
            let fits = block != 0;
            if !fits && self.begun != 0 && size_of_block(self.begun) >= size {
                block = self.begun;
            }
            if block == 0 {
                let larger = self.filled & (u64::MAX << own << 1);
                let list = usize::try_from(larger.trailing_zeros()).unwrap_or(LISTS);
                block = self.best_of(list, size);
            }
            if block == 0 && self.last != 0 && size_of_block(self.last) >= size {
                block = self.last;
            }
            if block != 0 {
                self.unlink(block);
                let rest = self.cut(block, size_of_block(block), size);
                if rest != 0 {
                    self.link_rest(rest, fits);
                }
                return Some(block);
            }
            if !self.grow(size) {
                return None;
            }
        }
    }

    /// The smallest block of a list that is large enough, as far as it is looked through.
    fn best_of(&self, list: usize, size: usize) -> usize {
        let (mut best, mut least) = (0, usize::MAX);
        let mut block = self.heads.get(list).copied().unwrap_or(0);
        for _ in 0..LOOKS_MAX {
            if block == 0 || least == size {
                break;
            }
            let has = size_of_block(block);
            if has >= size && has < least {
                (best, least) = (block, has);
            }
            block = word(block);
        }
        best
    }

    fn give(&mut self, mut block: usize) {
        let mut size = size_of_block(block);
        let next = block.wrapping_add(size);
        if word(before(next)) & FREE != 0 {
            self.unlink(next);
            size = size.wrapping_add(size_of_block(next));
        }
        if word(before(block)) & FREE_BEFORE != 0 {
            let size_before = word(before(before(block)));
            block = block.wrapping_sub(size_before);
            self.unlink(block);
            size = size.wrapping_add(size_before);
        }
        self.link(block, size);
    }

    /// Makes a block larger or smaller where it lies.
    fn resize(&mut self, block: usize, size: usize) -> bool {
        if size > SIZE_MAX {
            return false;
        }
        let size = block_size(size);
        let mut has = size_of_block(block);
        let next = block.wrapping_add(has);
        if has < size && word(before(next)) & FREE != 0 {
            let both = has.wrapping_add(size_of_block(next));
            if both >= size {
                self.unlink(next);
                has = both;
            }
        }
        if has < size {
            return false;
        }
        let rest = self.cut(block, has, size);
        if rest != 0 {
            self.give(rest);
        }
        true
    }

    /// Makes a block of `has` bytes its owner's. What it has above `size` is a block of its own.
    fn cut(&mut self, block: usize, has: usize, size: usize) -> usize {
        let flag = word(before(block)) & FREE_BEFORE;
        let behind = block.wrapping_add(size);
        let rest = has.wrapping_sub(size);
        if rest < LEAST {
            set(before(block), has | flag);
            let next = before(block.wrapping_add(has));
            set(next, word(next) & !FREE_BEFORE);
            return 0;
        }
        set(before(block), size | flag);
        set(before(behind), rest);
        behind
    }

    /// What a larger block has left is taken from next: what is made together lies together, and
    /// leaves one hole.
    fn link_rest(&mut self, rest: usize, fits: bool) {
        let size = size_of_block(rest);
        if fits || rest.wrapping_add(size) == self.end {
            return self.link(rest, size);
        }
        mark(rest, size);
        let begun = core::mem::replace(&mut self.begun, rest);
        if begun != 0 {
            self.link(begun, size_of_block(begun));
        }
    }

    #[inline(never)]
    fn link(&mut self, block: usize, size: usize) {
        mark(block, size);
        if block.wrapping_add(size) == self.end {
            self.last = block;
            return;
        }
        let list = list_of(size);
        if let Some(head) = self.heads.get_mut(list) {
            set(block, *head);
            set(block.wrapping_add(WORD), 0);
            if *head != 0 {
                set(head.wrapping_add(WORD), block);
            }
            *head = block;
            self.filled |= 1 << list;
        }
    }

    #[inline(never)]
    fn unlink(&mut self, block: usize) {
        for own in [&mut self.last, &mut self.begun] {
            if block == *own {
                *own = 0;
                return;
            }
        }
        let next = word(block);
        let previous = word(block.wrapping_add(WORD));
        if next != 0 {
            set(next.wrapping_add(WORD), previous);
        }
        if previous != 0 {
            set(previous, next);
            return;
        }
        let list = list_of(size_of_block(block));
        if let Some(head) = self.heads.get_mut(list) {
            *head = next;
            if next == 0 {
                self.filled &= !(1 << list);
            }
        }
    }

    /// Gets memory from the host, so that a block of that size ends where it does.
    #[inline(never)]
    fn grow(&mut self, size: usize) -> bool {
        let mut lacks = size.wrapping_add(STEP);
        if self.last != 0 {
            lacks = lacks.saturating_sub(size_of_block(self.last));
        }
        let pages = lacks.div_ceil(PAGE).max(1);
        let Some(start) = memory::grow(pages) else {
            return false;
        };
        if start != self.end {
            // Not behind what it gave before: a first block's header.
            self.end = start.wrapping_add(STEP);
            set(before(self.end), 0);
            let last = core::mem::take(&mut self.last);
            if last != 0 {
                self.link(last, size_of_block(last));
            }
        }
        let block = self.end;
        let flag = word(before(block)) & FREE_BEFORE;
        self.end = start.wrapping_add(pages.wrapping_mul(PAGE));
        set(before(self.end), 0);
        set(before(block), self.end.wrapping_sub(block) | flag);
        self.give(block);
        true
    }
}

/// The list that blocks of a size stand in: each size up to 32 steps has its own, and every power
/// of two above has two.
fn list_of(size: usize) -> usize {
    let steps = size / STEP;
    if steps <= 32 {
        return steps.wrapping_sub(2);
    }
    let log = usize::BITS
        .wrapping_sub(1)
        .wrapping_sub(steps.leading_zeros());
    let half = steps.wrapping_shr(log.wrapping_sub(1)) & 1;
    let log = usize::try_from(log).unwrap_or(0);
    let list = log.wrapping_mul(2).wrapping_add(half).wrapping_add(21);
    list.min(LISTS.wrapping_sub(1))
}

/// The size of the block that can hold so many bytes.
fn block_size(size: usize) -> usize {
    let size = size.wrapping_add(WORD).wrapping_add(STEP).wrapping_sub(1);
    (size & !STEP.wrapping_sub(1)).max(LEAST)
}

/// Notes that a block is free, where itself and its neighbours look.
fn mark(block: usize, size: usize) {
    set(before(block), size | FREE);
    let next = before(block.wrapping_add(size));
    set(before(next), size);
    set(next, word(next) | FREE_BEFORE);
}

fn size_of_block(block: usize) -> usize {
    word(before(block)) & !(FREE | FREE_BEFORE)
}

const fn before(at: usize) -> usize {
    at.wrapping_sub(WORD)
}

fn word(at: usize) -> usize {
    // SAFETY: every address here is that of a word in a block, aligned like it.
    unsafe { *ptr::with_exposed_provenance::<usize>(at) }
}

fn set(at: usize, word: usize) {
    // SAFETY: as above, and the word belongs to no owner of a block.
    unsafe { *ptr::with_exposed_provenance_mut::<usize>(at) = word };
}

#[cfg(target_arch = "wasm32")]
mod memory {
    /// The address of so many new pages.
    pub(super) fn grow(pages: usize) -> Option<usize> {
        let page = core::arch::wasm32::memory_grow(0, pages);
        (page != usize::MAX).then(|| page.wrapping_mul(super::PAGE))
    }

    /// How many pages there are.
    #[cfg(test)]
    pub(super) fn grown() -> usize {
        core::arch::wasm32::memory_size(0)
    }
}

#[cfg(not(target_arch = "wasm32"))]
use tests::memory;

const WORD: usize = size_of::<usize>();
/// What sizes are multiples of, and addresses: 8 in wasm.
const STEP: usize = WORD * 2;
/// A free block's header, links and size.
const LEAST: usize = STEP * 2;
/// Flags of a header: the block is free; the one before it is.
const FREE: usize = 1;
const FREE_BEFORE: usize = 2;
const LISTS: usize = 64;
/// How many blocks of a list are looked at, before a larger one is cut.
const LOOKS_MAX: u32 = 16;
/// Far more than anything here is allowed to have.
const SIZE_MAX: usize = 1 << 30;
/// What memory grows by.
const PAGE: usize = 65_536;

#[cfg(test)]
mod tests;
