//! Reads the oldest segment of a log, bit by bit, for what is still the newest record of its key.

use std::io::{BufReader, Read};
use std::ops::Range;

use super::StoreError;
use super::files::{OpenFile, Reader};
use super::ledger::Ledger;
use super::log::failed;
use super::segment::{self, Entries, HEADER_BYTES, PREFIX_BYTES};
use crate::protocol::types::FollowerId;

const READ_BYTES: usize = 64 << 10;

/// A segment that is being read.
#[derive(Debug)]
pub(super) struct Cleaner {
    reader: BufReader<Reader>,
    batch: Vec<u8>,
    /// Where in the batch the entries are that were not looked at yet.
    left: Range<usize>,
    /// The number of the next batch.
    next: u64,
}

impl Cleaner {
    pub(super) fn open(file: Box<dyn OpenFile>, first: u64) -> std::io::Result<Self> {
        let mut reader = BufReader::with_capacity(READ_BYTES, Reader::new(file));
        reader.read_exact(&mut [0; HEADER_BYTES])?;
        Ok(Self { reader, batch: Vec::new(), left: 0..0, next: first })
    }

    /// Reads about `budget` bytes, not beyond the batch before `after`, and appends the entries that are still the newest.
    /// Returns whether all was read.
    ///
    /// A damaged batch ends the follower, before anything was removed: the next start reads everything, and says so.
    pub(super) fn advance(
        &mut self,
        id: FollowerId,
        after: u64,
        ledger: &Ledger,
        mut budget: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        while budget > 0 {
            if self.left.is_empty() {
                if self.next == after {
                    return Ok(true);
                }
                self.read(id)?;
                budget = budget.saturating_sub(self.batch.len() - self.left.len());
            }
            let mut entries = Entries::of(&self.batch[self.left.clone()]);
            while budget > 0
                && let Some(entry) = entries.next()
            {
                let (key, record) = entry.map_err(StoreError::Failed)?;
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

    fn read(&mut self, id: FollowerId) -> Result<(), StoreError> {
        let mut prefix = [0; PREFIX_BYTES];
        self.batch.clear();
        self.reader.read_exact(&mut prefix).map_err(failed)?;
        self.batch.extend_from_slice(&prefix);
        let body = segment::body_bytes(&prefix) as u64;
        (&mut self.reader).take(body).read_to_end(&mut self.batch).map_err(failed)?;
        let batch = segment::batch(&self.batch, id).filter(|batch| batch.number == self.next);
        let (_, entries) = batch
            .and_then(|batch| batch.open())
            .ok_or_else(|| StoreError::Failed(format!("batch {} is damaged on the disk", self.next)))?;
        let end = self.batch.len() - segment::END_BYTES;
        self.left = end - entries.bytes()..end;
        self.next += 1;
        Ok(())
    }
}
