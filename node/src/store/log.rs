//! The log. Each batch is appended with one sync; obsolete segments are removed from its beginning.
//!
//! **Appending.** The newest segment is extended ahead with zeros. A batch then overwrites existing
//! blocks, and its sync writes neither a new length nor new blocks, which is a large part of the
//! cost of a sync. Where the file system writes directly, in whole blocks, a batch also writes the
//! beginning of its first block again, as the page cache would.
//!
//! **The next segment** is created while no confirmation waits for it: a synced file of zeros under
//! another name, which stays open. When the newest segment is full, the log renames this file,
//! which needs no new descriptor. While the process has no free descriptor or the disk is full, the
//! newest segment grows instead.
//!
//! **Cleaning.** Once the log exceeds its limit, every commit also reads a part of the oldest
//! segment, in proportion to what it writes. It copies the records that are still the newest of
//! their keys, according to the [`Ledger`], into its own batch. Once a segment is read to its end
//! and that batch is synced, the log removes the segment. It removes the oldest segment first,
//! since the entry that removes a key must outlast the records that it removes. Cleaning needs no
//! thread and never blocks for long.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoreError;
use super::batches::Damaged;
use super::cleaner::Cleaner;
use super::files::{Files, OpenFile, is_shortage, sync_dir};
use super::ledger::{Ledger, Operations};
use super::segment;
use crate::protocol::types::FollowerId;

/// Sizes of the log, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A batch starts the next segment once the newest one has this length.
    pub segment: u64,
    /// How far the newest segment is extended ahead with zeros.
    pub ahead: u64,
    /// The log may be twice as long as the newest records, plus this.
    pub slack: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment: 8 << 20, ahead: 256 << 10, slack: 32 << 20 }
    }
}

/// How many bytes cleaning reads for each byte that a commit writes. With 3, the log grows by at
/// most a third until all old segments are read, and thus removed or copied.
const CLEAN_FACTOR: usize = 3;
/// Capacity that the buffer keeps after a large batch.
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
    /// The log's directory, for syncing names.
    directory: Box<dyn OpenFile>,
    /// The next segment, ready to be used.
    next: Option<Box<dyn OpenFile>>,
    /// Length of the newest segment from which [`Log::prepare`] tries again, so that it does not
    /// try at every batch after a shortage.
    prepare_from: u64,
    /// A descriptor to close if the cleaner cannot open a segment for lack of one.
    spare: Option<Box<dyn OpenFile>>,
    /// Position of the next batch, in bytes.
    end: u64,
    /// Offsets and lengths of the writes to the newest segment are multiples of this, in bytes.
    unit: usize,
    /// The bytes of the newest segment from the last multiple of `unit` to `end`. The next batch
    /// writes them again.
    tail: Vec<u8>,
    buffer: Vec<u8>,
    /// Reads the oldest segment.
    cleaner: Option<Cleaner>,
    /// The damaged batch that the cleaner found. Cleaning pauses until it is repaired.
    damaged: Option<Damaged>,
    /// Whether the next batch begins a segment, if one is ready.
    rotates: bool,
}

/// A file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    /// The number of its first batch.
    pub(super) first: u64,
    /// Its length, zeros included.
    pub(super) bytes: u64,
}

/// The written part of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// The number of its first batch.
    pub(super) first: u64,
    /// All its batches have lower numbers.
    pub(super) after: u64,
    /// Its end, in bytes.
    pub(super) end: u64,
}

impl Log {
    /// Creates a log whose first batch contains only the head.
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

    /// Continues a log that was read. `written` is the newest segment up to the end of its last
    /// batch; the rest of the file is overwritten.
    ///
    /// That segment is written again. After a failed sync the page cache may keep pages marked
    /// clean that never reached the disk, so only rewritten data is certainly durable.
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
        match files.remove_file(&path.join(NEXT)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let unit = newest.direct();
        let tail = written[end as usize / unit * unit..end as usize].to_vec();
        let directory = files.open_dir(path)?;
        directory.sync_all()?;
        let spare = Some(files.open_dir(path)?);
        Ok(Self {
            files,
            path: path.to_owned(),
            id,
            limits,
            segments,
            newest,
            directory,
            next: None,
            prepare_from: 0,
            spare,
            end,
            unit,
            tail,
            buffer: Vec::new(),
            cleaner: None,
            damaged: None,
            rotates: false,
        })
    }

    /// Stores a batch atomically. The batch is synced when this returns.
    pub(super) fn commit(&mut self, ledger: &Ledger, operations: Operations) -> Result<(), StoreError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let head = ledger.head();
        let next = if self.rotates || self.end >= self.limits.segment { self.next.take() } else { None };
        match &next {
            Some(_) => segment::put_header(&mut buffer, self.id, head.batch),
            None => buffer.extend_from_slice(&self.tail),
        }
        let before = buffer.len();
        let mut cleaned = false;
        segment::put_batch(&mut buffer, self.id, head, |buffer| {
            for (key, record) in &operations {
                segment::put_entry(buffer, (key, record.as_deref()));
            }
            cleaned = self.clean(ledger, (buffer.len() - before) * CLEAN_FACTOR, buffer);
        })
        .ok_or_else(|| StoreError::Failed("a batch is longer than 4 GiB".to_owned()))?;
        let written = match next {
            Some(next) => self.rotate(next, head.batch, &mut buffer),
            None => self.append(&mut buffer),
        };
        buffer.shrink_to(BUFFER_BYTES_KEPT);
        self.buffer = buffer;
        written.and_then(|()| if cleaned { self.remove_oldest() } else { Ok(()) }).map_err(failed)
    }

    /// Prepares the next segment, unless it is ready. Called while no confirmation waits. A lack of
    /// descriptors or of disk space is not an error here, since the newest segment can grow.
    pub(super) fn prepare(&mut self) -> Result<(), StoreError> {
        if self.next.is_some() || self.end < self.prepare_from {
            return Ok(());
        }
        self.prepare_from = self.end + self.limits.ahead;
        let path = self.path.join(NEXT);
        let file = match self.files.create_new(&path) {
            Err(error) if is_shortage(&error) => return Ok(()),
            other => other.map_err(failed)?,
        };
        match file.write_all_at(&vec![0; self.limits.ahead as usize], 0) {
            Err(error) if is_shortage(&error) => return self.files.remove_file(&path).map_err(failed),
            other => other.map_err(failed)?,
        }
        file.sync_all().and_then(|()| self.directory.sync_all()).map_err(failed)?;
        (self.next, self.prepare_from) = (Some(file), 0);
        Ok(())
    }

    /// Length of the log in bytes, without the prepared segment.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Writes the tail and a batch, filled up with zeros.
    fn append(&mut self, buffer: &mut Vec<u8>) -> std::io::Result<()> {
        let (unit, ahead) = (self.unit as u64, self.limits.ahead);
        let segment = self.segments.back_mut().ok_or(ErrorKind::NotFound)?;
        let (start, length) = (self.end - self.tail.len() as u64, buffer.len());
        let end = start + length as u64;
        let mut written = end.next_multiple_of(unit);
        if written > segment.bytes {
            written = ((end / ahead + 1) * ahead).next_multiple_of(unit);
            segment.bytes = written;
        }
        buffer.resize((written - start) as usize, 0);
        self.newest.write_synced_at(buffer, start)?;
        self.end = end;
        self.tail.clear();
        self.tail.extend_from_slice(&buffer[length / self.unit * self.unit..length]);
        Ok(())
    }

    /// Writes a batch as the first of the next segment. It may be confirmed only once the name of
    /// the file is synced.
    fn rotate(&mut self, next: Box<dyn OpenFile>, first: u64, buffer: &mut Vec<u8>) -> std::io::Result<()> {
        self.files.rename(&self.path.join(NEXT), &self.path.join(name(first)))?;
        self.unit = next.direct();
        self.newest = next;
        self.rotates = false;
        self.segments.push_back(Segment { first, bytes: self.limits.ahead });
        self.end = 0;
        self.tail.clear();
        self.append(buffer)?;
        self.directory.sync_all()
    }

    pub(super) fn id(&self) -> FollowerId {
        self.id
    }

    /// The damaged batch at which cleaning stopped.
    pub(super) fn damaged(&self) -> Option<Damaged> {
        self.damaged
    }

    /// Stops cleaning at a damaged batch.
    pub(super) fn stop_cleaning(&mut self, damaged: Damaged) {
        (self.damaged, self.cleaner) = (Some(damaged), None);
    }

    /// The first segment whose first batch has this number or a higher one.
    pub(super) fn part_from(&self, first: u64) -> Option<Part> {
        let position = self.segments.partition_point(|segment| segment.first < first);
        let segment = self.segments.get(position)?;
        let next = self.segments.get(position + 1);
        let (after, end) = next.map_or((u64::MAX, self.end), |next| (next.first, segment.bytes));
        Some(Part { first: segment.first, after, end })
    }

    pub(super) fn open(&self, first: u64) -> std::io::Result<Box<dyn OpenFile>> {
        self.files.open(&self.path.join(name(first)))
    }

    /// Makes the next batch begin a segment. Returns whether one is ready.
    pub(super) fn rotate_next(&mut self) -> bool {
        self.rotates = self.next.is_some();
        self.rotates
    }

    /// Removes the oldest segment if all of it is before this batch; otherwise lets cleaning
    /// continue. Returns whether it removed one.
    pub(super) fn remove_before(&mut self, batch: u64) -> Result<bool, StoreError> {
        let removes = self.segments.get(1).is_some_and(|second| second.first <= batch);
        if removes {
            self.remove_oldest().map_err(failed)?;
        } else {
            self.damaged = None;
        }
        Ok(removes)
    }

    /// Continues to read the oldest segment, and appends the records that are still the newest.
    /// Returns whether it read the whole segment.
    fn clean(&mut self, ledger: &Ledger, budget: usize, buffer: &mut Vec<u8>) -> bool {
        if self.damaged.is_some() {
            return false;
        }
        let cleaned = self.try_clean(ledger, budget, buffer);
        cleaned.unwrap_or_else(|damaged| {
            self.stop_cleaning(damaged);
            false
        })
    }

    fn try_clean(&mut self, ledger: &Ledger, budget: usize, buffer: &mut Vec<u8>) -> Result<bool, Damaged> {
        let (Some(oldest), Some(after)) = (self.segments.front(), self.segments.get(1)) else {
            return Ok(false);
        };
        let enough = self.bytes() <= 2 * ledger.live_bytes() + self.limits.slack;
        let cleaner = match &mut self.cleaner {
            Some(cleaner) => cleaner,
            None if enough => return Ok(false),
            none => {
                let path = self.path.join(name(oldest.first));
                let file = match self.files.open(&path) {
                    Err(error) if is_shortage(&error) && self.spare.take().is_some() => self.files.open(&path),
                    other => other,
                };
                match file {
                    // The log grows until a descriptor is free.
                    Err(error) if is_shortage(&error) => return Ok(false),
                    Err(_) => return Err(Damaged(oldest.first)),
                    Ok(file) => none.insert(Cleaner::open(file, self.id, oldest.first)?),
                }
            }
        };
        cleaner.advance(self.id, after.first, ledger, budget, buffer)
    }

    fn remove_oldest(&mut self) -> std::io::Result<()> {
        let cleaned = self.cleaner.take().map(Cleaner::into_file);
        if let Some(segment) = self.segments.pop_front() {
            self.files.remove_file(&self.path.join(name(segment.first)))?;
        }
        // Syncs each removal, so that the file system cannot reorder them.
        self.directory.sync_all()?;
        // The removal is durable. Truncating the open file frees its blocks, and its descriptor
        // becomes the spare one.
        cleaned.map_or(Ok(()), |file| file.set_len(0).map(|()| self.spare = Some(file)))
    }
}

/// The name of the prepared segment.
const NEXT: &str = "next.log";

/// The name of a segment: the number of its first batch, padded so that names sort by number.
pub(super) fn name(first: u64) -> String {
    format!("{first:020}.log")
}

/// The number of the first batch, if this is the name of a segment.
pub(super) fn first_of(file_name: &str) -> Option<u64> {
    file_name.strip_suffix(".log")?.parse().ok().filter(|first| name(*first) == file_name)
}

pub(super) fn failed(error: std::io::Error) -> StoreError {
    StoreError::Failed(format!("the log: {error}"))
}
