//! Reads the oldest segment of a log in parts and copies the records that are still the newest of
//! their keys.

use std::ops::Range;

use super::batches::{Batches, Damaged};
use super::files::OpenFile;
use super::ledger::Ledger;
use super::segment::{self, Entries};
use crate::protocol::types::FollowerId;

/// A segment that is being read.
#[derive(Debug)]
pub(super) struct Cleaner {
    batches: Batches,
    /// The range of the batch with the entries that were not examined yet.
    left: Range<usize>,
}

impl Cleaner {
    pub(super) fn open(file: Box<dyn OpenFile>, id: FollowerId, first: u64) -> Result<Self, Damaged> {
        Ok(Self { batches: Batches::open(file, id, first, u64::MAX)?, left: 0..0 })
    }

    pub(super) fn into_file(self) -> Box<dyn OpenFile> {
        self.batches.into_file()
    }

    /// Reads about `budget` bytes, up to batch `after` (excluded), and appends the entries that are
    /// still the newest to `buffer`. Returns whether it read the whole segment.
    pub(super) fn advance(
        &mut self,
        id: FollowerId,
        after: u64,
        ledger: &Ledger,
        mut budget: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, Damaged> {
        while budget > 0 {
            if self.left.is_empty() {
                if self.batches.next() == after {
                    return Ok(true);
                }
                self.left = self.batches.read(id)?;
                budget = budget.saturating_sub(self.batches.bytes().len() - self.left.len());
            }
            let mut entries = Entries::of(&self.batches.bytes()[self.left.clone()]);
            while budget > 0
                && let Some(entry) = entries.next()
            {
                let (key, record) = entry.map_err(|_| Damaged(self.batches.next() - 1))?;
                if let Some(record) = record.filter(|record| ledger.holds(key, record)) {
                    segment::put_entry(buffer, (key, Some(record)));
                }
                let start = self.left.end - entries.bytes();
                budget = budget.saturating_sub(start - self.left.start);
                self.left.start = start;
            }
        }
        Ok(false)
    }
}
