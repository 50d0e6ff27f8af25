//! The keys of a follower that changed last. A standby asks for them, so that its copy of the
//! follower's state stays up to date.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::types::Key;

/// The place at which the copy of a follower's state continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CopyCursor {
    /// Position of the next record; `None` once the follower has sent every record.
    pub position: Option<u64>,
    /// Number of the next change.
    pub change: u64,
}

/// The last changes, numbered in the order in which they happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    /// `None` until a standby asks.
    keys: Option<VecDeque<Key>>,
    /// Length of `keys` together.
    bytes: usize,
    /// Number of the first change in `keys`.
    first: u64,
}

/// Maximum length of the remembered keys together.
const BYTES_MAX: usize = 16 << 20;

impl Changes {
    /// Notes changes from now on. Returns the number of the next one.
    pub(super) fn begin(&mut self) -> u64 {
        self.first + self.keys.get_or_insert_default().len() as u64
    }

    /// A key got another record. Only the last `most` changes are kept, and [`BYTES_MAX`] of keys.
    pub(super) fn note(&mut self, key: &Key, most: usize) {
        let Some(keys) = &mut self.keys else { return };
        keys.push_back(key.clone());
        self.bytes += key.len();
        while keys.len() > most || self.bytes > BYTES_MAX {
            let Some(oldest) = keys.pop_front() else { break };
            self.bytes -= oldest.len();
            self.first += 1;
        }
    }

    /// Positions of records changed, or no standby asks any more: every copy has to start again.
    pub(super) fn forget(&mut self) {
        if let Some(keys) = self.keys.take() {
            self.first += keys.len() as u64 + 1;
            self.bytes = 0;
        }
    }

    /// The keys that changed, from the change with this number on; `None` if some are missing.
    pub(super) fn since(&self, change: u64) -> Option<impl Iterator<Item = &Key>> {
        let skipped = usize::try_from(change.checked_sub(self.first)?).ok()?;
        self.keys.as_ref().filter(|keys| skipped <= keys.len()).map(|keys| keys.range(skipped..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn since(changes: &Changes, change: u64) -> Option<Vec<&str>> {
        changes.since(change).map(|keys| keys.map(|key| &**key).collect())
    }

    // Goal: a standby gets every change since its last question, or learns that some are missing. Method: three changes
    // with room for two, and a start again.
    #[test]
    fn changes_are_numbered_and_the_oldest_go() {
        let mut changes = Changes::default();
        changes.note(&"before".into(), 2);
        assert_eq!(since(&changes, 0), None, "no standby asks");
        let first = changes.begin();
        assert_eq!(since(&changes, first), Some(vec![]));
        ["a", "b", "c"].iter().for_each(|key| changes.note(&Key::from(*key), 2));
        assert_eq!(since(&changes, first), None);
        assert_eq!(since(&changes, first + 1), Some(vec!["b", "c"]));
        let second = changes.begin();
        assert_eq!(since(&changes, second), Some(vec![]), "a second standby starts");
        assert_eq!(since(&changes, first + 4), None, "a number that was not given out");
        changes.forget();
        (first..first + 5).for_each(|change| assert_eq!(since(&changes, change), None));
        let again = changes.begin();
        (first..again).for_each(|change| assert_eq!(since(&changes, change), None));
    }

    // Goal: long keys take no more memory than `BYTES_MAX`. Method: keys of 1 MiB, then one that is longer than all of it.
    #[test]
    fn long_keys_are_bounded_by_their_length() {
        let mut changes = Changes::default();
        let first = changes.begin();
        let long: Key = "k".repeat(1 << 20).into();
        (0..20).for_each(|_| changes.note(&long, 1_000));
        assert_eq!(since(&changes, first + 3), None);
        assert_eq!(since(&changes, first + 4).map(|keys| keys.len()), Some(16));
        changes.note(&"k".repeat(BYTES_MAX + 1).into(), 1_000);
        assert_eq!(since(&changes, changes.first), Some(vec![]));
        assert_eq!(changes.bytes, 0);
    }
}
