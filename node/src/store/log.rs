//! The log: batches are appended, one sync each; what was overwritten is removed from its beginning.
//!
//! **Appending.** The newest segment is written ahead with zeros: a batch then overwrites what is there, and its sync
//! has neither a new length nor new blocks to write, which is a good part of what a sync costs.
//!
//! **The next segment** is made while nothing waits for it: a file of zeros by another name, synced, and left open. When
//! the newest one is full, the next one gets its name; that needs no descriptor. While the process has no descriptor left,
//! or the disk no room, the newest segment grows instead.
//!
//! **Cleaning.** Once the log is longer than it may be, every commit also reads a part of the oldest segment, in
//! proportion to what it writes itself, and copies the records that are still the newest of their keys into its own
//! batch: the [`Ledger`] knows them. When all of a segment was read and that batch is synced, the segment is removed.
//! Oldest first: a removal is kept until everything that it removed is gone. No thread and no pause.

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
    /// Its directory.
    directory: Box<dyn OpenFile>,
    /// The next segment, ready to be used.
    next: Option<Box<dyn OpenFile>>,
    /// The next segment is made once the newest one is as long: after a shortage it is not tried at every batch.
    prepare_from: u64,
    /// A descriptor to give back when the cleaner gets none for the next segment.
    spare: Option<Box<dyn OpenFile>>,
    /// Where the next batch goes.
    end: u64,
    buffer: Vec<u8>,
    /// Reads the oldest segment.
    cleaner: Option<Cleaner>,
    /// The cleaner found this one. Nothing is cleaned until it is mended.
    damaged: Option<Damaged>,
    /// The next batch begins a segment, if one is ready.
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

/// A segment, as far as it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// The number of its first batch.
    pub(super) first: u64,
    /// All its batches have lower numbers.
    pub(super) after: u64,
    /// In bytes.
    pub(super) end: u64,
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

    /// Goes on with a log that was read. `written` is the newest segment up to the end of its last batch; what is behind
    /// it is overwritten.
    ///
    /// That segment is written again. What was read may have come from memory that never reached the disk, and after a
    /// failed sync the system may keep such memory marked clean: only what is written again can be relied on.
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
            buffer: Vec::new(),
            cleaner: None,
            damaged: None,
            rotates: false,
        })
    }

    /// Stores a batch: all of it or nothing, and synced when this returns.
    pub(super) fn commit(&mut self, ledger: &Ledger, operations: Operations) -> Result<(), StoreError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let head = ledger.head();
        let next = if self.rotates || self.end >= self.limits.segment { self.next.take() } else { None };
        if next.is_some() {
            segment::put_header(&mut buffer, self.id, head.batch);
        }
        let mut cleaned = false;
        segment::put_batch(&mut buffer, self.id, head, |buffer| {
            for (key, record) in &operations {
                segment::put_entry(buffer, (key, record.as_deref()));
            }
            cleaned = self.clean(ledger, buffer.len() * CLEAN_FACTOR, buffer);
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

    /// Makes the next segment ready, unless it is. Called while nothing waits for a confirmation. A shortage of
    /// descriptors or of room is none of the log yet: the newest segment can grow.
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

    /// How long the log is, without the next segment.
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

    /// The batch begins the next segment. It may be confirmed only once the directory names the file.
    fn rotate(&mut self, next: Box<dyn OpenFile>, first: u64, buffer: &mut Vec<u8>) -> std::io::Result<()> {
        self.files.rename(&self.path.join(NEXT), &self.path.join(name(first)))?;
        self.newest = next;
        self.rotates = false;
        self.segments.push_back(Segment { first, bytes: self.limits.ahead });
        self.end = 0;
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

    /// Lets the next batch begin a segment. Returns whether one is ready.
    pub(super) fn rotate_next(&mut self) -> bool {
        self.rotates = self.next.is_some();
        self.rotates
    }

    /// Removes the oldest segment if all of it is before this batch; else goes on cleaning.
    pub(super) fn remove_before(&mut self, batch: u64) -> Result<bool, StoreError> {
        let removes = self.segments.get(1).is_some_and(|second| second.first <= batch);
        if removes {
            self.remove_oldest().map_err(failed)?;
        } else {
            self.damaged = None;
        }
        Ok(removes)
    }

    /// Reads on in the oldest segment, and appends what is still the newest. Returns whether all was read.
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
                    // The log grows until there is a descriptor again.
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
        // One after the other, whatever order the file system would choose.
        self.directory.sync_all()?;
        // The file is gone for good, and its room is free again.
        cleaned.map_or(Ok(()), |file| file.set_len(0).map(|()| self.spare = Some(file)))
    }
}

/// The name of a segment that is not used yet.
const NEXT: &str = "next.log";

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
