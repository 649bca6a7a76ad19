//! Named slots in the workers' shared data: a fixed number of them, sealed, written by
//! compare-and-swap.
//!
//! Shared data has no deletion, so a name for each client would grow until the process dies; here
//! the names are counted once and for all. Its name space may be shared with other plugins and
//! with older versions of this one, so a value is believed only if its seal holds; anything else
//! counts as nothing written. A plain first write would lose a race without being told (the host
//! accepts any version for a name that is not there, and version 0 for one that is), so the first
//! write of a slot expects a version that the host never gives: it succeeds only for the first.

use alloc::string::String;
use alloc::vec::Vec;

use crate::shared::{Shared, Version};
use crate::text::{self, decimal};

/// A fixed set of slots under one name.
#[derive(Clone, Debug)]
pub struct Slots {
    keys: Vec<String>,
    kind: u8,
}

/// What a slot holds, from the view of one who looks for a place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// Nothing that anybody needs.
    Free,
    /// What is looked for.
    Ours,
    /// Somebody else's.
    Taken,
}

/// A slot that was found, as it was at that moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Slot {
    /// Its place in the set.
    pub index: usize,
    /// What it holds, if that is what was looked for.
    pub body: Option<Vec<u8>>,
    version: Version,
}

/// Nobody's write came through: others were faster each time, or the host refuses writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Contended;

impl Slots {
    /// The slots `quota_gate/1/<name>/0` and so on. `kind` is sealed into every value, so that
    /// two sets can't be mistaken for each other.
    #[must_use]
    pub fn new(name: &str, kind: u8, count: usize) -> Self {
        let keys = (0..count)
            .map(|index| text::fill("{}/{}/{}", &[PREFIX, name, &decimal(text::count(index))]))
            .collect();
        Self { keys, kind }
    }

    /// The slot by which `hash` is to be found first.
    #[must_use]
    pub fn home(&self, hash: u64) -> usize {
        u64::try_from(self.keys.len())
            .ok()
            .and_then(|count| scatter(hash).checked_rem(count))
            .and_then(|index| usize::try_from(index).ok())
            .unwrap_or(0)
    }

    /// Walks the slots from the home of `hash` and returns the first that is ours, else the first
    /// that is free. `None` when every slot is taken.
    ///
    /// The walk ends at a slot that was never written: nothing can lie behind it.
    pub fn probe(
        &self,
        shared: &mut dyn Shared,
        hash: u64,
        mut claim: impl FnMut(&[u8]) -> Claim,
    ) -> Option<Slot> {
        let home = self.home(hash);
        let mut free = None;
        let walk = self.keys.iter().enumerate().cycle().skip(home);
        for (index, key) in walk.take(self.keys.len()) {
            let (value, version) = shared.load(key);
            let body = unseal(self.kind, &value);
            match body.map_or(Claim::Free, &mut claim) {
                Claim::Ours => {
                    let body = body.map(<[u8]>::to_vec);
                    return Some(Slot {
                        index,
                        body,
                        version,
                    });
                }
                Claim::Free => {
                    free.get_or_insert(Slot {
                        index,
                        body: None,
                        version,
                    });
                }
                Claim::Taken => {}
            }
            if version == ABSENT {
                break;
            }
        }
        free
    }

    /// Writes a slot if nobody has since it was found. `false` when somebody was faster or the
    /// host refused.
    pub fn write(&self, shared: &mut dyn Shared, slot: &Slot, body: &[u8]) -> bool {
        self.store(shared, slot.index, slot.version, body)
    }

    /// Replaces what the slot `index` holds by what `edit` makes of it, or leaves it when `edit`
    /// returns no new body. `edit` is called anew each time somebody else was faster.
    ///
    /// # Errors
    /// [`Contended`] after [`TRIES`] writes that did not come through.
    pub fn update<T>(
        &self,
        shared: &mut dyn Shared,
        index: usize,
        mut edit: impl FnMut(Option<&[u8]>) -> (T, Option<Vec<u8>>),
    ) -> Result<T, Contended> {
        let key = self.keys.get(index).ok_or(Contended)?;
        for _ in 0..TRIES {
            let (value, version) = shared.load(key);
            let (outcome, body) = edit(unseal(self.kind, &value));
            let Some(body) = body else {
                return Ok(outcome);
            };
            if self.store(shared, index, version, &body) {
                return Ok(outcome);
            }
        }
        Err(Contended)
    }

    fn store(&self, shared: &mut dyn Shared, index: usize, found: Version, body: &[u8]) -> bool {
        let Some(key) = self.keys.get(index) else {
            return false;
        };
        let expected = if found == ABSENT { FIRST } else { found };
        shared.store(key, &seal(self.kind, body), expected)
    }
}

/// Reads numbers off the front of a body; `None` where it is too short.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.chunk::<1>().map(u8::from_le_bytes)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.chunk::<4>().map(u32::from_le_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.chunk::<8>().map(u64::from_le_bytes)
    }

    /// Whether all was read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest): (&'a [u8; N], _) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*chunk)
    }
}

/// Spreads the bits of a number, so that near ones land far apart (the finaliser of SplitMix64).
#[must_use]
pub const fn scatter(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn seal(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(body.len().saturating_add(MARK_AND_SUM));
    value.extend([MARK, LAYOUT, kind]);
    value.extend(body);
    value.extend(sum(&value).to_le_bytes());
    value
}

fn unseal(kind: u8, value: &[u8]) -> Option<&[u8]> {
    let (sealed, told) = value.split_last_chunk()?;
    if sum(sealed) != u64::from_le_bytes(*told) {
        return None;
    }
    sealed.strip_prefix(&[MARK, LAYOUT, kind])
}

/// FNV-1a: tells damage and foreign bytes, not malice; who can write here is inside the process.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Writes tried before an update gives up: each lost one means that somebody else's came through,
/// so five in a row mean a crowd, and the caller has better things to do than to spin.
pub const TRIES: u32 = 5;

/// Other plugins may share the name space (an empty `vm_id` is one for all); 1 is this scheme.
const PREFIX: &str = "quota_gate/1";

/// The version that [`Shared::load`] gives for a name that is not there.
const ABSENT: Version = Version(0);

/// The host counts versions from 1 for all names together, and would have to write four thousand
/// million times to give this one; a name that is not there accepts it all the same.
const FIRST: Version = Version(u32::MAX);

const MARK: u8 = b'q';

/// Counted up whenever a body's layout changes: workers of two versions can share a process.
const LAYOUT: u8 = 1;

const MARK_AND_SUM: usize = 11;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::PlainShared;

    const KIND: u8 = 7;

    #[test]
    fn a_slot_gives_back_what_was_written() {
        let mut shared = PlainShared::default();
        let slots = Slots::new("test", KIND, 4);

        assert_eq!(append(&slots, &mut shared, 2, b"a"), Ok(b"".to_vec()));
        assert_eq!(append(&slots, &mut shared, 2, b"b"), Ok(b"a".to_vec()));
        assert_eq!(append(&slots, &mut shared, 2, b"c"), Ok(b"ab".to_vec()));
    }

    #[test]
    fn names_are_prefixed_and_counted() {
        let mut shared = PlainShared::default();
        let slots = Slots::new("test", KIND, 2);

        assert_eq!(append(&slots, &mut shared, 1, b"a"), Ok(b"".to_vec()));
        assert_ne!(shared.load("quota_gate/1/test/1").1, Version(0));
        assert_eq!(append(&slots, &mut shared, 2, b"a"), Err(Contended));
    }

    #[test]
    fn what_others_wrote_counts_as_nothing() {
        let slots = Slots::new("test", KIND, 1);
        let whole = seal(KIND, b"body");
        let mut damaged = whole.clone();
        damaged[4] ^= 1;
        let mut older = vec![MARK, LAYOUT - 1, KIND, 1];
        older.extend(sum(&older).to_le_bytes());
        let foreign: [&[u8]; 6] = [
            b"",
            b"some other plugin",
            &damaged,
            &older,
            &seal(KIND + 1, b"body"),
            &whole[..whole.len() - 1],
        ];
        for garbage in foreign {
            let mut shared = PlainShared::default();
            shared.store("quota_gate/1/test/0", garbage, Version(0));

            assert_eq!(append(&slots, &mut shared, 0, b"x"), Ok(b"".to_vec()));
            assert_eq!(append(&slots, &mut shared, 0, b"y"), Ok(b"x".to_vec()));
        }
    }

    #[test]
    fn of_two_first_writes_one_is_told_that_it_lost() {
        let mut shared = PlainShared::default();
        let slots = Slots::new("test", KIND, 1);
        let one = slots.probe(&mut shared, 0, |_| Claim::Taken).unwrap();
        let other = slots.probe(&mut shared, 0, |_| Claim::Taken).unwrap();

        assert!(slots.write(&mut shared, &one, b"one"));
        assert!(!slots.write(&mut shared, &other, b"other"));
        assert_eq!(append(&slots, &mut shared, 0, b""), Ok(b"one".to_vec()));
    }

    #[test]
    fn an_update_sees_what_a_faster_one_wrote() {
        let slots = Slots::new("test", KIND, 1);
        let mut shared = Raced {
            plain: PlainShared::default(),
            races: 4,
            loads: 0,
        };

        assert_eq!(
            append(&slots, &mut shared, 0, b"x"),
            Ok(b"rrrr".to_vec()),
            "four lost, the fifth came through"
        );
    }

    #[test]
    fn an_update_gives_up_after_five_lost_writes() {
        let slots = Slots::new("test", KIND, 1);
        let mut shared = Raced {
            plain: PlainShared::default(),
            races: 5,
            loads: 0,
        };

        assert_eq!(append(&slots, &mut shared, 0, b"x"), Err(Contended));
    }

    #[test]
    fn probing_passes_by_what_is_taken_and_finds_its_own_again() {
        let mut shared = PlainShared::default();
        let slots = Slots::new("test", KIND, 4);
        for id in 0..4_u8 {
            let slot = find(&slots, &mut shared, id).unwrap();
            assert_eq!(slot.body, None);
            assert!(slots.write(&mut shared, &slot, &[id]));
        }

        for id in 0..4_u8 {
            assert_eq!(
                find(&slots, &mut shared, id).unwrap().body,
                Some(vec![id]),
                "all four share a home"
            );
        }
        assert_eq!(find(&slots, &mut shared, 4), None);
    }

    #[test]
    fn probing_ends_where_nothing_was_ever_written() {
        let slots = Slots::new("test", KIND, 64);
        let mut shared = Raced {
            plain: PlainShared::default(),
            races: 0,
            loads: 0,
        };

        assert!(slots.probe(&mut shared, 99, |_| Claim::Taken).is_some());
        assert_eq!(shared.loads, 1);
    }

    #[test]
    fn a_body_that_is_too_short_reads_as_none() {
        let mut reader = Reader(&[1, 2, 0, 0, 0, 3]);

        assert_eq!(reader.u8(), Some(1));
        assert_eq!(reader.u32(), Some(2));
        assert_eq!(reader.u64(), None);
        assert!(!reader.is_empty());
    }

    fn find(slots: &Slots, shared: &mut PlainShared, id: u8) -> Option<Slot> {
        slots.probe(shared, 99, |body| {
            if body == [id] {
                Claim::Ours
            } else {
                Claim::Taken
            }
        })
    }

    fn append(
        slots: &Slots,
        shared: &mut dyn Shared,
        index: usize,
        more: &[u8],
    ) -> Result<Vec<u8>, Contended> {
        slots.update(shared, index, |body| {
            let old = body.unwrap_or_default().to_vec();
            (old.clone(), Some([&old, more].concat()))
        })
    }

    /// Somebody else writes between each load and store, `races` times.
    struct Raced {
        plain: PlainShared,
        races: u32,
        loads: u32,
    }

    impl Shared for Raced {
        fn load(&mut self, key: &str) -> (Vec<u8>, Version) {
            self.loads += 1;
            let seen = self.plain.load(key);
            if let Some(left) = self.races.checked_sub(1) {
                self.races = left;
                let slots = Slots::new("test", KIND, 1);
                append(&slots, &mut self.plain, 0, b"r").unwrap();
            }
            seen
        }

        fn store(&mut self, key: &str, value: &[u8], expected: Version) -> bool {
            self.plain.store(key, value, expected)
        }
    }
}
