//! State that the workers of a process share: what the host must offer, and a stand-in for tests.
//!
//! proxy-wasm's shared data is a map of bytes with compare-and-swap. It has no deletion, one name
//! space for every plugin whose `vm_id` is empty, and a write to a missing key succeeds whatever
//! the expected version. Whoever uses it keeps to a fixed number of slots and checks what it reads.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

/// The version of a value, as the host counts them; 0 stands for a value that is not there.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Version(pub u32);

/// The workers' shared data.
pub trait Shared {
    /// The value under `key` and its version; an empty value with version 0 where there is none
    /// or it can't be read.
    fn load(&mut self, key: &str) -> (Vec<u8>, Version);

    /// Writes `value` if the version is still `expected` (or nothing is there yet). `false` when
    /// somebody else was faster, or the host refused.
    fn store(&mut self, key: &str, value: &[u8], expected: Version) -> bool;
}

/// Shared data in memory, with the host's own semantics.
#[derive(Clone, Debug, Default)]
pub struct PlainShared {
    values: BTreeMap<String, (Vec<u8>, u32)>,
    versions: u32,
}

impl PlainShared {
    /// The names that something was ever written under.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }
}

impl Shared for PlainShared {
    fn load(&mut self, key: &str) -> (Vec<u8>, Version) {
        match self.values.get(key) {
            Some((value, version)) => (value.clone(), Version(*version)),
            None => (Vec::new(), Version(0)),
        }
    }

    fn store(&mut self, key: &str, value: &[u8], expected: Version) -> bool {
        let raced = self
            .values
            .get(key)
            .is_some_and(|(_, version)| expected != Version(0) && *version != expected.0);
        if raced {
            return false;
        }
        self.versions = self.versions.saturating_add(1);
        self.values
            .insert(key.to_owned(), (value.to_vec(), self.versions));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_with_an_old_version_loses() {
        let mut shared = PlainShared::default();
        assert!(shared.store("k", b"1", Version(0)));
        let (_, version) = shared.load("k");
        assert!(shared.store("k", b"2", version));

        assert!(!shared.store("k", b"3", version));
        assert_eq!(shared.load("k").0, b"2");
    }

    #[test]
    fn a_first_write_succeeds_whatever_it_expects() {
        let mut shared = PlainShared::default();

        assert!(shared.store("k", b"1", Version(77)));
    }
}
