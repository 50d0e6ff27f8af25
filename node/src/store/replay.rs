//! Reads a log at start: every batch in order. Then decides whether the rest is an unfinished batch
//! or damage.
//!
//! The log writes a batch only after the one before it is synced, so only the last batch can be
//! unfinished. If another batch of this follower begins anywhere behind the readable part, a batch
//! in between was stored and is damaged. Otherwise the rest is an unfinished batch, unless its
//! number was confirmed, which the caller checks. A segment with a successor has to be complete.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::StoreError;
use super::files::{Files, Listed, read_all, sync_dir};
use super::head::Head;
use super::ledger::{Ledger, decode};
use super::log::{self, Limits, Log, Segment};
use super::segment::{self, HEADER_BYTES};
use crate::protocol::follower::{Change, Kept, approximate_bytes};
use crate::protocol::types::{Epoch, FollowerId, Key, Record};

/// The content of a log.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) ledger: Ledger,
    pub(super) kept: Kept,
    /// How many bytes of an unfinished batch were cut off.
    pub(super) torn_bytes: u64,
    pub(super) tail: Tail,
}

/// The end of the log, where writing continues.
#[derive(Debug)]
pub(super) struct Tail {
    segments: VecDeque<Segment>,
    /// The newest segment, up to the end of its last batch.
    newest: Vec<u8>,
    /// A later segment without a complete batch.
    unfinished: Option<Segment>,
}

/// The records and the head read so far.
struct Replay {
    id: FollowerId,
    records: HashMap<Key, Vec<u8>, FixedState>,
    head: Option<Head>,
}

/// Why a state cannot be loaded.
#[derive(Debug)]
pub(super) enum LoadError {
    /// The state differs from what was stored; the reason.
    Damaged(String),
    /// It may be intact, but cannot be used now.
    Refused(StoreError),
}

/// Reads the log in a directory without changing it.
pub(super) fn load(files: &dyn Files, path: &Path, id: FollowerId) -> Result<Loaded, LoadError> {
    let refused =
        |source| LoadError::Refused(StoreError::Io { action: "read the log in", path: path.to_owned(), source });
    let mut segments = VecDeque::from(list(files, path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => LoadError::Damaged("the log is missing".to_owned()),
        _ => refused(error),
    })?);
    let mut replay = Replay { id, records: HashMap::with_hasher(FixedState::with_seed(id.0)), head: None };
    let (mut newest, mut torn_bytes, mut unfinished) = (Vec::new(), 0, None);
    for position in 0..segments.len() {
        let Segment { first, .. } = segments[position];
        let mut bytes = files.open(&path.join(log::name(first))).and_then(|file| read_all(&*file)).map_err(refused)?;
        let whole = replay.segment(first, &bytes).map_err(LoadError::Damaged)?;
        let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if whole < written || whole == 0 {
            let expected = replay.head.as_ref().map_or(first, |head| head.batch + 1);
            let later = segment::any_batch(&bytes[whole..], id, expected + 1);
            // Bytes behind the last batch of an older segment are ignored if the next segment
            // continues with the next number.
            let ends = segments.get(position + 1).is_none_or(|next| whole > 0 && next.first == expected);
            if !ends || later.is_some() {
                let after = later.map_or_else(|| "others".to_owned(), |later| format!("batch {later}"));
                return Err(LoadError::Damaged(format!("batch {expected} cannot be read, and {after} came after it")));
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
    let head = head.ok_or_else(|| LoadError::Damaged("the log has no batch that can be read".to_owned()))?;
    let (ledger, kept) = Ledger::restore(head, records.into_iter()).map_err(LoadError::Damaged)?;
    Ok(Loaded { ledger, kept, torn_bytes, tail: Tail { segments, newest, unfinished } })
}

impl Replay {
    /// Reads the batches of a segment; returns the position of their end.
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

/// The readable content of a damaged log. Any of it may be wrong.
#[derive(Debug, Default)]
pub(super) struct Hint {
    /// At least as high as every epoch in a readable record or head.
    pub(super) promised: Epoch,
    pub(super) records: HashMap<Key, Record>,
}

/// About how many bytes of records are stored with one sync.
const HINT_BYTES: usize = 1 << 20;

/// Reads every readable batch, at any position.
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

    /// The changes that store the hint, in batches.
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
    /// Removes an unfinished segment and continues the log behind the last batch.
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
