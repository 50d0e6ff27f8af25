//! Backups: the committed state of one moment, read while writes continue.
//!
//! The leader returns the state in parts, in the order of positions. If it commits a write at a
//! position that it has not returned yet, it first keeps the record that was committed before.

use std::collections::BTreeMap;

use super::restore::Saved;
use super::{Entry, Leader};
use crate::protocol::follower::approximate_bytes;
use crate::protocol::types::{RESTORE_MARK, Record};

/// A backup that is being read.
#[derive(Clone, Debug)]
pub(super) struct Saving {
    /// The next position to read.
    cursor: usize,
    /// Keys from this position on were added after that moment.
    end: usize,
    /// By position, the record that was committed at that moment, where a newer one is committed by
    /// now.
    before: BTreeMap<usize, Option<Record>>,
}

impl Saving {
    /// Called before a write is committed at a position.
    pub(super) fn keep(&mut self, position: usize, committed: Option<&Record>) {
        if (self.cursor..self.end).contains(&position) {
            self.before.entry(position).or_insert_with(|| committed.cloned());
        }
    }
}

impl<W, R> Leader<W, R> {
    /// Begins a backup of every key as it is committed now, which [`Leader::saved_part`] returns in
    /// parts. Returns the number of keys. Ends a backup begun before.
    pub fn begin_saving(&mut self) -> usize {
        self.saving = Some(Saving { cursor: 0, end: self.entries.len(), before: BTreeMap::new() });
        let mark = self.entries.get(RESTORE_MARK).and_then(Entry::committed);
        self.committed_keys - usize::from(mark.is_some())
    }

    /// The next part: at most `keys` keys, and none after the one that reaches `bytes` bytes of
    /// keys and values. `None` after the last part. The part shares keys and values with the state.
    pub fn saved_part(&mut self, keys: usize, bytes: usize) -> Option<Vec<Saved>> {
        let saving = self.saving.as_mut()?;
        if saving.cursor >= saving.end {
            self.saving = None;
            return None;
        }
        let (mut part, mut part_bytes) = (Vec::new(), 0);
        let positions = saving.cursor..saving.end.min(saving.cursor + keys);
        for (position, (key, entry)) in positions.clone().zip(self.entries.range(positions)) {
            saving.cursor = position + 1;
            let before = saving.before.remove(&position);
            let Some(record) = before.unwrap_or_else(|| entry.committed().cloned()) else { continue };
            if **key == *RESTORE_MARK {
                continue;
            }
            part_bytes += approximate_bytes(key, &record);
            let Record { version, value, marks } = record;
            part.push(Saved { key: key.clone(), seq: version.seq, value, marks });
            if part_bytes >= bytes {
                break;
            }
        }
        Some(part)
    }

    /// Ends the backup before its last part.
    pub fn end_saving(&mut self) {
        self.saving = None;
    }
}
