//! What proves a state complete: how many records there are, and a digest over all of them.
//!
//! The digest is the sum of a hash of every record. It changes with every write by the old and the new hash alone, and it
//! does not depend on any order. A log that loses a batch in the middle, serves an older value of a key or brings a
//! deleted one back, for whatever reason, cannot hit it: at load, the sum over what is there has to be the stored one.

use foldhash::fast::FixedState;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::segment;
use crate::protocol::digest::Buckets;
use crate::protocol::follower::{Change, Kept};
use crate::protocol::keymap::KeyMap;
use crate::protocol::types::{Epoch, FollowerId, Key, Record, Synced};

/// Everything a follower stores beside its records. Written with every batch, in one atomic step with the batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The follower's id, made with the directory.
    pub(super) id: FollowerId,
    /// Counts batches.
    pub(super) batch: u64,
    /// The highest promise.
    pub(super) promised: Epoch,
    /// The last epoch taken over in full.
    pub(super) synced: Option<Synced>,
    /// How many records there are.
    pub(super) records: u64,
    /// Sum of the hashes of all records.
    pub(super) digest: u64,
}

/// A key and its new encoded record, or nothing where it goes. Their order depends on the follower's id alone, so that a
/// simulation can be replayed.
pub(super) type Operations = std::collections::HashMap<Key, Option<Vec<u8>>, FixedState>;

/// A bit of the length of an entry, which is far shorter. It changes with each renewal.
const TURN: u32 = 1 << 31;

/// The head, and what it takes to carry it on: the hash of every record as it is stored.
#[derive(Debug)]
pub(super) struct Ledger {
    head: Head,
    /// Hash, epoch, and the bytes that the log takes for it, with [`TURN`] as of its last change.
    entries: KeyMap<(u64, u32, u32)>,
    live_bytes: u64,
    /// [`TURN`] of the entries that were stored since the last renewal began; and how many those are.
    turn: u32,
    renewed: u64,
    /// The epochs that entries point to: one for each leader this process saw.
    epochs: Vec<Epoch>,
}

impl Ledger {
    pub(super) fn new(id: FollowerId) -> Self {
        let head = Head { id, batch: 0, promised: Epoch::default(), synced: None, records: 0, digest: 0 };
        Self { head, entries: KeyMap::default(), live_bytes: 0, turn: 0, renewed: 0, epochs: Vec::new() }
    }

    /// Checks the records that were found against the head that was found with them.
    pub(super) fn restore(head: Head, found: impl Iterator<Item = (Key, Vec<u8>)>) -> Result<(Self, Kept), String> {
        let mut ledger =
            Self { head, entries: KeyMap::default(), live_bytes: 0, turn: 0, renewed: 0, epochs: Vec::new() };
        let (mut records, mut digest) = (0_u64, 0_u64);
        let Head { promised, synced, .. } = ledger.head.clone();
        let mut kept = Kept { promised, synced, records: KeyMap::default() };
        for (key, bytes) in found {
            let record = decode(&bytes).ok_or_else(|| "a record cannot be read".to_owned())?;
            let hash = fingerprint(&key, &bytes);
            (records, digest) = (records + 1, digest.wrapping_add(hash));
            let epoch = ledger.epoch(record.version.epoch);
            let length = entry_length(&key, &bytes);
            ledger.live_bytes += u64::from(length);
            ledger.entries.insert(key.clone(), (hash, epoch, length));
            kept.records.insert(key, record);
        }
        ledger.renewed = records;
        let Head { records: expected, digest: expected_digest, batch, .. } = &ledger.head;
        if records != *expected {
            return Err(format!("{records} records are there, and batch {batch} says {expected}"));
        }
        if digest != *expected_digest {
            return Err(format!("the {records} records are not those of batch {batch}"));
        }
        Ok((ledger, kept))
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// Takes a batch: the head moves on, and what comes back has to be written together with it.
    pub(super) fn apply(&mut self, changes: Vec<Change>) -> Operations {
        let mut operations = Operations::with_capacity_and_hasher(changes.len(), FixedState::with_seed(self.head.id.0));
        for change in changes {
            match change {
                Change::Promised(epoch) => self.head.promised = epoch,
                Change::Put(key, record) => {
                    let bytes = encode_record(&record);
                    let length = entry_length(&key, &bytes);
                    self.put(&key, fingerprint(&key, &bytes), record.version.epoch, length);
                    operations.insert(key, Some(bytes));
                }
                Change::Synced { synced, drop_older } => {
                    if let Some(buckets) = drop_older.filter(|buckets| !buckets.is_empty()) {
                        self.drop_older(synced.epoch, &buckets, &mut operations);
                    }
                    self.head.synced = Some(synced);
                }
            }
        }
        self.head.batch += 1;
        operations
    }

    /// How many bytes the log needs for what is there, without the heads of batches.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// From now on counts which records are stored once more.
    pub(super) fn begin_renewal(&mut self) {
        (self.turn, self.renewed) = (self.turn ^ TURN, 0);
    }

    /// Whether every record was stored since the renewal began.
    pub(super) fn is_renewed(&self) -> bool {
        self.renewed == self.head.records
    }

    /// Whether this is the newest record of its key.
    pub(super) fn holds(&self, key: &str, bytes: &[u8]) -> bool {
        self.entries.get(key).is_some_and(|(hash, _, _)| *hash == fingerprint(key, bytes))
    }

    fn put(&mut self, key: &Key, hash: u64, epoch: Epoch, length: u32) {
        let epoch = self.epoch(epoch);
        let entry = (hash, epoch, length | self.turn);
        match self.entries.get_mut(key) {
            Some(known) => {
                let (old, _, old_length) = std::mem::replace(known, entry);
                self.head.digest = self.head.digest.wrapping_sub(old);
                self.live_bytes -= u64::from(old_length & !TURN);
                self.renewed += u64::from(old_length & TURN != self.turn);
            }
            None => {
                self.entries.insert(key.clone(), entry);
                self.head.records += 1;
                self.renewed += 1;
            }
        }
        self.head.digest = self.head.digest.wrapping_add(hash);
        self.live_bytes += u64::from(length);
    }

    /// In the same batch as the end of the install: a crash leaves either all older records with the old `synced`, or none
    /// with the new one. They are few, since an install replaces what it finds.
    fn drop_older(&mut self, floor: Epoch, buckets: &Buckets, operations: &mut Operations) {
        let Self { head, entries, live_bytes, turn, renewed, epochs } = self;
        entries.retain(|key, (hash, epoch, length)| {
            let stays = epochs[*epoch as usize] >= floor || !buckets.contains(key);
            if !stays {
                head.records -= 1;
                head.digest = head.digest.wrapping_sub(*hash);
                *live_bytes -= u64::from(*length & !TURN);
                *renewed -= u64::from(*length & TURN == *turn);
                operations.insert(key.clone(), None);
            }
            stays
        });
    }

    fn epoch(&mut self, epoch: Epoch) -> u32 {
        let known = self.epochs.iter().rposition(|known| *known == epoch);
        let position = known.unwrap_or_else(|| {
            self.epochs.push(epoch);
            self.epochs.len() - 1
        });
        u32::try_from(position).expect("a process does not live to see four billion leaders")
    }
}

fn entry_length(key: &str, bytes: &[u8]) -> u32 {
    u32::try_from(segment::entry_bytes(key, bytes)).expect("shorter than a message")
}

/// Depends on both, and on where the one ends and the other begins.
fn fingerprint(key: &str, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, xxh3_64(key.as_bytes()))
}

/// Into memory that is large enough from the start, in nearly every case.
fn encode_record(record: &Record) -> Vec<u8> {
    let capacity = record.value.as_ref().map_or(0, |value| value.len()) + 48;
    postcard::to_extend(record, Vec::with_capacity(capacity)).expect("plain data always encodes")
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("plain data always encodes")
}

/// A record as it is stored; none where the bytes are not one.
pub(super) fn decode(bytes: &[u8]) -> Option<Record> {
    postcard::take_from_bytes(bytes).ok().filter(|(_, rest)| rest.is_empty()).map(|(record, _)| record)
}

impl Head {
    /// With its own checksum: nothing else vouches for it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = encode(self);
        bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_last_chunk::<8>()?;
        let intact = xxh3_64(body) == u64::from_le_bytes(*sum);
        intact.then(|| postcard::from_bytes(body).ok()).flatten()
    }
}
