//! The state as a backup has it, of one moment, while writes go on.
//!
//! It is given out part by part, in the order of positions. Where something else is about to be committed at a position that
//! is still to come, what was there before is kept until then.

use std::collections::BTreeMap;

use super::restore::Saved;
use super::{Entry, Leader};
use crate::protocol::types::{Key, RESTORE_MARK, Record};

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

    /// Looks at so many more keys. Nothing once there are no more. Shares keys and values, copies none.
    pub fn saved_part(&mut self, keys: usize) -> Option<Vec<Saved>> {
        let saving = self.saving.as_mut()?;
        let positions = saving.cursor..saving.end.min(saving.cursor + keys);
        if positions.is_empty() {
            self.saving = None;
            return None;
        }
        saving.cursor = positions.end;
        let saved = |(position, (key, entry)): (usize, (&Key, &Entry))| {
            let before = saving.before.remove(&position);
            let Record { version, value, marks } = before.unwrap_or_else(|| entry.committed().cloned())?;
            (**key != *RESTORE_MARK).then(|| Saved { key: key.clone(), seq: version.seq, value, marks })
        };
        Some(positions.clone().zip(self.entries.range(positions)).filter_map(saved).collect())
    }

    /// Nobody wants the rest.
    pub fn end_saving(&mut self) {
        self.saving = None;
    }
}
