//! The log: batches go to its end, one sync each; what was overwritten is cleared away from its beginning.
//!
//! **Appending.** The newest segment is written ahead of itself with zeros: a batch then overwrites what is there, and its
//! sync has neither a new length nor new blocks to put down, which is a good part of what a sync costs.
//!
//! **Cleaning.** Once the log is longer than it may be, every commit also reads a part of the oldest segment, in
//! proportion to what it writes itself, and takes what is still the newest record of its key along in its own batch: the
//! [`Ledger`] knows. When all of a segment was read and that batch is synced, the segment goes. Oldest first: whatever a
//! removed key could come back from is gone before its removal is. No thread and no pause.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoreError;
use super::cleaner::Cleaner;
use super::files::{Files, OpenFile, sync_dir};
use super::ledger::{Ledger, Operations};
use super::segment;
use crate::protocol::types::FollowerId;

/// Sizes of the log, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A segment of this length or more is followed by the next one.
    pub segment: u64,
    /// How far the newest segment is written ahead with zeros.
    pub ahead: u64,
    /// The log may be twice as long as the newest records, and this much longer.
    pub slack: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment: 8 << 20, ahead: 256 << 10, slack: 32 << 20 }
    }
}

/// How much is read for cleaning, by what is written. With 3 the log grows by at most a third of what is in it until
/// everything old was read, and what is read is gone for good or was written again.
const CLEAN_FACTOR: usize = 3;
/// What is kept of the memory that a large batch took.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// A log that can be written.
#[derive(Debug)]
pub(super) struct Log {
    files: Arc<dyn Files>,
    path: PathBuf,
    id: FollowerId,
    limits: Limits,
    /// Oldest first, never empty.
    segments: VecDeque<Segment>,
    newest: Box<dyn OpenFile>,
    /// Where the next batch goes.
    end: u64,
    buffer: Vec<u8>,
    /// Reads the oldest segment.
    cleaner: Option<Cleaner>,
}

/// A file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    /// The number of its first batch.
    pub(super) first: u64,
    /// Its length, zeros included.
    pub(super) bytes: u64,
}

impl Log {
    /// Makes a log whose first batch holds the head alone.
    pub(super) fn create(files: &dyn Files, path: &Path, id: FollowerId, ledger: &Ledger) -> std::io::Result<()> {
        files.create_dir(path)?;
        let mut bytes = Vec::new();
        segment::put_header(&mut bytes, id, ledger.head().batch);
        segment::put_batch(&mut bytes, id, ledger.head(), |_| ()).ok_or(ErrorKind::FileTooLarge)?;
        let file = files.create_new(&path.join(name(ledger.head().batch)))?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        sync_dir(files, path)
    }

    /// Goes on with a log that was read. `written` is the newest segment up to the end of its last batch; what is behind it
    /// goes.
    ///
    /// That segment is written again. What was read may have come from memory that never reached the disk, and after a
    /// failed sync the system may hold such memory for clean for ever: only what is written again can be relied on.
    pub(super) fn resume(
        files: Arc<dyn Files>,
        path: &Path,
        id: FollowerId,
        limits: Limits,
        segments: VecDeque<Segment>,
        mut written: Vec<u8>,
    ) -> std::io::Result<Self> {
        let newest = segments.back().ok_or(ErrorKind::NotFound)?;
        let (end, length) = (written.len() as u64, newest.bytes);
        let newest = files.open(&path.join(name(newest.first)))?;
        written.resize(length as usize, 0);
        newest.write_all_at(&written, 0)?;
        newest.sync_all()?;
        sync_dir(&*files, path)?;
        Ok(Self { files, path: path.to_owned(), id, limits, segments, newest, end, buffer: Vec::new(), cleaner: None })
    }

    /// Stores a batch: all of it or nothing, and synced when this returns.
    pub(super) fn commit(&mut self, ledger: &Ledger, operations: Operations) -> Result<(), StoreError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let head = ledger.head();
        let full = self.end >= self.limits.segment;
        if full {
            segment::put_header(&mut buffer, self.id, head.batch);
        }
        let mut cleaned = Ok(false);
        segment::put_batch(&mut buffer, self.id, head, |buffer| {
            for (key, record) in &operations {
                segment::put_entry(buffer, (key, record.as_deref()));
            }
            cleaned = self.clean(ledger, buffer.len() * CLEAN_FACTOR, buffer);
        })
        .ok_or_else(|| StoreError::Failed("a batch is longer than 4 GiB".to_owned()))?;
        let cleaned = cleaned?;
        let written = if full { self.rotate(head.batch, &mut buffer) } else { self.append(&mut buffer) };
        buffer.shrink_to(BUFFER_BYTES_KEPT);
        self.buffer = buffer;
        written.and_then(|()| if cleaned { self.remove_oldest() } else { Ok(()) }).map_err(failed)
    }

    /// How long the log is.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    fn append(&mut self, buffer: &mut Vec<u8>) -> std::io::Result<()> {
        let segment = self.segments.back_mut().ok_or(ErrorKind::NotFound)?;
        let end = self.end + buffer.len() as u64;
        if end > segment.bytes {
            segment.bytes = (end / self.limits.ahead + 1) * self.limits.ahead;
            buffer.resize((segment.bytes - self.end) as usize, 0);
        }
        self.newest.write_all_at(buffer, self.end)?;
        self.newest.sync_data()?;
        self.end = end;
        Ok(())
    }

    /// The batch begins a new segment. It may be confirmed only once the directory names the file.
    fn rotate(&mut self, first: u64, buffer: &mut Vec<u8>) -> std::io::Result<()> {
        self.newest = self.files.create_new(&self.path.join(name(first)))?;
        self.segments.push_back(Segment { first, bytes: 0 });
        self.end = 0;
        self.append(buffer)?;
        sync_dir(&*self.files, &self.path)
    }

    /// Reads on in the oldest segment, and appends what is still the newest. Returns whether all was read.
    fn clean(&mut self, ledger: &Ledger, budget: usize, buffer: &mut Vec<u8>) -> Result<bool, StoreError> {
        let (Some(oldest), Some(after)) = (self.segments.front(), self.segments.get(1)) else {
            return Ok(false);
        };
        let enough = self.bytes() <= 2 * ledger.live_bytes() + self.limits.slack;
        let cleaner = match &mut self.cleaner {
            Some(cleaner) => cleaner,
            None if enough => return Ok(false),
            none => {
                let file = self.files.open(&self.path.join(name(oldest.first)));
                none.insert(file.and_then(|file| Cleaner::open(file, oldest.first)).map_err(failed)?)
            }
        };
        cleaner.advance(self.id, after.first, ledger, budget, buffer)
    }

    fn remove_oldest(&mut self) -> std::io::Result<()> {
        self.cleaner = None;
        if let Some(segment) = self.segments.pop_front() {
            self.files.remove_file(&self.path.join(name(segment.first)))?;
        }
        // One after the other, whatever order the file system would choose.
        sync_dir(&*self.files, &self.path)
    }
}

/// The files of a log by the number of their first batch: in the order of names.
pub(super) fn name(first: u64) -> String {
    format!("{first:020}.log")
}

/// The number of its first batch, if this is what a segment is called.
pub(super) fn first_of(file_name: &str) -> Option<u64> {
    file_name.strip_suffix(".log")?.parse().ok().filter(|first| name(*first) == file_name)
}

pub(super) fn failed(error: std::io::Error) -> StoreError {
    StoreError::Failed(format!("the log: {error}"))
}
