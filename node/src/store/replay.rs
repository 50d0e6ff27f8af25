//! Reads a log at start: every batch in its order, and at the end the question what the rest is.
//!
//! A batch is written when the one before it is synced. So only the very last one can be unfinished. Where another batch
//! of this follower begins anywhere behind what can be read, one in the middle was stored once and is damaged. Otherwise
//! the rest is a batch that was never finished, unless its number was confirmed: the caller compares that. A segment that
//! has a successor has to be whole.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::StoreError;
use super::disk::Trouble;
use super::files::{Files, Listed, read_all, sync_dir};
use super::ledger::{Head, Ledger, decode};
use super::log::{self, Limits, Log, Segment};
use super::segment::{self, HEADER_BYTES};
use crate::protocol::follower::{Change, Kept, approximate_bytes};
use crate::protocol::types::{Epoch, FollowerId, Key, Record};

/// What a log holds.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) ledger: Ledger,
    pub(super) kept: Kept,
    /// How many bytes of a batch that was never finished were cut off.
    pub(super) torn_bytes: u64,
    pub(super) tail: Tail,
}

/// Where the log goes on.
#[derive(Debug)]
pub(super) struct Tail {
    segments: VecDeque<Segment>,
    /// The newest segment, up to the end of its last batch.
    newest: Vec<u8>,
    /// A segment behind it that was never finished.
    unfinished: Option<Segment>,
}

/// What was read so far.
struct Replay {
    id: FollowerId,
    records: HashMap<Key, Vec<u8>, FixedState>,
    head: Option<Head>,
}

/// Reads the log in a directory. Changes nothing.
pub(super) fn load(files: &dyn Files, path: &Path, id: FollowerId) -> Result<Loaded, Trouble> {
    let refused =
        |source| Trouble::Refused(StoreError::Io { action: "read the log in", path: path.to_owned(), source });
    let mut segments = VecDeque::from(list(files, path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Trouble::Damaged("the log is missing".to_owned()),
        _ => refused(error),
    })?);
    let mut replay = Replay { id, records: HashMap::with_hasher(FixedState::with_seed(id.0)), head: None };
    let (mut newest, mut torn_bytes, mut unfinished) = (Vec::new(), 0, None);
    for position in 0..segments.len() {
        let Segment { first, .. } = segments[position];
        let mut bytes = files.open(&path.join(log::name(first))).and_then(|file| read_all(&*file)).map_err(refused)?;
        let whole = replay.segment(first, &bytes).map_err(Trouble::Damaged)?;
        let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if whole < written || whole == 0 {
            let expected = replay.head.as_ref().map_or(first, |head| head.batch + 1);
            let later = segment::any_batch(&bytes[whole..], id, expected + 1);
            // What is behind the last batch of an older segment is of no use, where the next one goes on.
            let ends = segments.get(position + 1).is_none_or(|next| whole > 0 && next.first == expected);
            if !ends || later.is_some() {
                let after = later.map_or_else(|| "others".to_owned(), |later| format!("batch {later}"));
                return Err(Trouble::Damaged(format!("batch {expected} cannot be read, and {after} came after it")));
            }
            if position + 1 == segments.len() {
                torn_bytes = written.saturating_sub(whole) as u64;
            }
        }
        if whole == 0 && position > 0 {
            unfinished = segments.pop_back();
            break;
        }
        bytes.truncate(whole);
        newest = bytes;
    }
    let Replay { records, head, .. } = replay;
    let head = head.ok_or_else(|| Trouble::Damaged("the log has no batch that can be read".to_owned()))?;
    let (ledger, kept) = Ledger::restore(head, records.into_iter()).map_err(Trouble::Damaged)?;
    Ok(Loaded { ledger, kept, torn_bytes, tail: Tail { segments, newest, unfinished } })
}

impl Replay {
    /// Takes the batches of a segment; returns how far they go.
    fn segment(&mut self, first: u64, bytes: &[u8]) -> Result<usize, String> {
        let expected = self.head.as_ref().map_or(first, |head| head.batch + 1);
        if expected != first {
            return Err(format!("batch {expected} is missing, and a segment begins with {first}"));
        }
        if segment::header(bytes, self.id) != Some(first) {
            return Ok(0);
        }
        let (mut end, mut expected) = (HEADER_BYTES, first);
        while let Some(batch) = segment::batch(&bytes[end..], self.id).filter(|batch| batch.number == expected) {
            let (head, entries) = batch.open().ok_or_else(|| format!("batch {expected} has no head"))?;
            for entry in entries {
                match entry? {
                    (key, Some(record)) => match self.records.get_mut(key) {
                        Some(known) => record.clone_into(known),
                        None => _ = self.records.insert(key.into(), record.to_vec()),
                    },
                    (key, None) => _ = self.records.remove(key),
                }
            }
            self.head = Some(head);
            end += batch.bytes();
            expected += 1;
        }
        Ok(if expected == first { 0 } else { end })
    }
}

/// What can still be read of a damaged log. None of it has to be right.
#[derive(Debug, Default)]
pub(super) struct Hint {
    /// At least as high as the epoch of any record or head that can be read.
    pub(super) promised: Epoch,
    pub(super) records: HashMap<Key, Record>,
}

/// About as many bytes of records are stored with one sync.
const HINT_BYTES: usize = 1 << 20;

/// Takes every batch that can be read, wherever it is.
pub(super) fn salvage(files: &dyn Files, path: &Path, id: FollowerId) -> Hint {
    let mut hint = Hint::default();
    for Segment { first, .. } in list(files, path).unwrap_or_default() {
        let Ok(bytes) = files.open(&path.join(log::name(first))).and_then(|file| read_all(&*file)) else { continue };
        let mut rest = &bytes[..];
        while let Some((start, batch)) = segment::next_batch(rest, id, first) {
            rest = &rest[start + batch.bytes()..];
            let Some((head, entries)) = batch.open() else { continue };
            let synced = head.synced.map(|synced| synced.epoch);
            hint.promised = hint.promised.max(head.promised).max(synced.unwrap_or_default());
            for (key, record) in entries.flatten() {
                match record.map(decode) {
                    Some(Some(record)) => hint.take(key, record),
                    Some(None) => {}
                    None => _ = hint.records.remove(key),
                }
            }
        }
    }
    hint
}

impl Hint {
    fn take(&mut self, key: &str, record: Record) {
        self.promised = self.promised.max(record.version.epoch);
        match self.records.get_mut(key) {
            Some(known) if known.version >= record.version => {}
            Some(known) => *known = record,
            None => _ = self.records.insert(key.into(), record),
        }
    }

    /// What stores it, in parts.
    pub(super) fn into_changes(self) -> Vec<Vec<Change>> {
        let mut parts = vec![vec![Change::Promised(self.promised)]];
        let mut records: Vec<_> = self.records.into_iter().collect();
        records.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        let mut bytes = 0;
        for (key, record) in records {
            if bytes > HINT_BYTES {
                bytes = 0;
                parts.push(Vec::new());
            }
            bytes += approximate_bytes(&key, &record);
            parts.last_mut().into_iter().for_each(|part| part.push(Change::Put(key.clone(), record.clone())));
        }
        parts
    }
}

impl Tail {
    /// Takes what was never finished away, and goes on behind the last batch.
    pub(super) fn resume(
        self,
        files: Arc<dyn Files>,
        path: &Path,
        id: FollowerId,
        limits: Limits,
    ) -> std::io::Result<Log> {
        if let Some(segment) = self.unfinished {
            files.remove_file(&path.join(log::name(segment.first)))?;
            sync_dir(&*files, path)?;
        }
        Log::resume(files, path, id, limits, self.segments, self.newest)
    }
}

fn list(files: &dyn Files, path: &Path) -> std::io::Result<Vec<Segment>> {
    let listed = files.list(path)?.into_iter();
    let segment = |entry: Listed| Some(Segment { first: log::first_of(entry.name.to_str()?)?, bytes: entry.bytes });
    let mut segments: Vec<_> = listed.filter_map(segment).collect();
    segments.sort_by_key(|segment| segment.first);
    Ok(segments)
}
