//! The state as a backup has it, of one moment, while writes go on.
//!
//! It is given out part by part, in the order of positions. Where something else is about to be committed at a position that
//! is still to come, what was there before is kept until then.

use std::collections::BTreeMap;

use super::restore::Saved;
use super::{Entry, Leader};
use crate::protocol::follower::approximate_bytes;
use crate::protocol::types::{RESTORE_MARK, Record};

/// A backup that is being given out.
#[derive(Clone, Debug)]
pub(super) struct Saving {
    /// The next position to look at.
    cursor: usize,
    /// Keys from here on came after that moment.
    end: usize,
    /// What was committed at that moment, by position, where something else is by now.
    before: BTreeMap<usize, Option<Record>>,
}

impl Saving {
    /// Something else is about to be committed at a position.
    pub(super) fn keep(&mut self, position: usize, committed: Option<&Record>) {
        if (self.cursor..self.end).contains(&position) {
            self.before.entry(position).or_insert_with(|| committed.cloned());
        }
    }
}

impl<W, R> Leader<W, R> {
    /// Takes every key as it is committed now: one moment for all of them, which [`Leader::saved_part`] gives out. Returns how
    /// many there are. Ends what was begun before.
    pub fn begin_saving(&mut self) -> usize {
        self.saving = Some(Saving { cursor: 0, end: self.entries.len(), before: BTreeMap::new() });
        let mark = self.entries.get(RESTORE_MARK).and_then(Entry::committed);
        self.committed_keys - usize::from(mark.is_some())
    }

    /// The next part: at most so many keys, up to the one that exceeds so many bytes of keys and values. Nothing once there
    /// are no more. The part shares keys and values with the state.
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

    /// Nobody wants the rest.
    pub fn end_saving(&mut self) {
        self.saving = None;
    }
}
