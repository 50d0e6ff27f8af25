//! The reading of a log as a fuzz target sees it.

use std::path::Path;

use super::files::Files;
use super::head::Head;
use super::log;
use super::replay::{self, LoadError};
use super::segment;
use crate::protocol::types::{Epoch, FollowerId};

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// How many records.
    pub records: usize,
    /// The number of the last batch.
    pub batch: u64,
    /// How many bytes of an unfinished batch follow it.
    pub torn_bytes: u64,
}

/// The name and the bytes of a segment of batches, each with these bytes as its entries. Heads and checksums are right; each
/// head names `records` records, and all of them without a digest.
pub fn framed<'a>(id: u64, first: u64, records: u64, batches: impl IntoIterator<Item = &'a [u8]>) -> (String, Vec<u8>) {
    let (id, mut bytes) = (FollowerId(id), Vec::new());
    segment::put_header(&mut bytes, id, first);
    for (batch, entries) in (first..).zip(batches) {
        let head = Head { id, batch, promised: Epoch::default(), synced: None, records, digest: 0 };
        segment::put_batch(&mut bytes, id, &head, |buffer| buffer.extend_from_slice(entries));
    }
    (log::name(first), bytes)
}

/// Reads the log in a directory, and what can be saved of it if it is damaged. The error is the damage.
///
/// # Errors
/// The damage in words.
pub fn load(files: &dyn Files, path: &Path, id: u64) -> Result<Loaded, String> {
    let loaded = replay::load(files, path, FollowerId(id)).map_err(|error| match error {
        LoadError::Damaged(why) => why,
        LoadError::Refused(error) => error.to_string(),
    });
    // The records of a damaged log are a hint.
    drop(replay::salvage(files, path, FollowerId(id)).into_changes());
    loaded.map(|loaded| Loaded {
        records: loaded.kept.records.len(),
        batch: loaded.ledger.head().batch,
        torn_bytes: loaded.torn_bytes,
    })
}
