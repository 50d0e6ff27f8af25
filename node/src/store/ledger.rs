//! What proves a state complete: how many records there are, and a digest over all of them.
//!
//! The digest is the sum of a hash of every record. It changes with every write by the old and the new hash alone, and it
//! does not depend on any order. An engine that loses a batch in the middle, serves an older value of a key or brings a
//! deleted one back, for whatever reason, cannot hit it: at load, the sum over what is there has to be the stored one.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::protocol::digest::Buckets;
use crate::protocol::follower::Change;
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

/// By key, in no order.
type KeyIndex<T> = std::collections::HashMap<Key, T, foldhash::fast::RandomState>;

/// A key and its new encoded record, or nothing where it goes.
pub(super) type Operations = KeyIndex<Option<Vec<u8>>>;

/// The head, and what it takes to carry it on: the hash of every record as it is stored.
#[derive(Debug)]
pub(super) struct Ledger {
    head: Head,
    entries: KeyIndex<(u64, u32)>,
    /// The epochs that entries point to: one for each leader this process saw.
    epochs: Vec<Epoch>,
}

impl Ledger {
    pub(super) fn new(id: FollowerId) -> Self {
        let head = Head { id, batch: 0, promised: Epoch::default(), synced: None, records: 0, digest: 0 };
        Self { head, entries: KeyIndex::default(), epochs: Vec::new() }
    }

    /// Checks the records that were found against the head that was found with them.
    pub(super) fn restore(
        head: Head,
        found: impl Iterator<Item = Result<(Key, Vec<u8>), String>>,
    ) -> Result<(Self, Vec<Change>), String> {
        let mut ledger = Self { head, entries: KeyIndex::default(), epochs: Vec::new() };
        let (mut records, mut digest) = (0_u64, 0_u64);
        let mut changes = vec![Change::Promised(ledger.head.promised)];
        for entry in found {
            let (key, bytes) = entry?;
            let record = decode(&bytes).ok_or_else(|| "a record cannot be read".to_owned())?;
            let hash = fingerprint(&key, &bytes);
            (records, digest) = (records + 1, digest.wrapping_add(hash));
            let epoch = ledger.epoch(record.version.epoch);
            ledger.entries.insert(key.clone(), (hash, epoch));
            changes.push(Change::Put(key, record));
        }
        let Head { records: expected, digest: expected_digest, batch, .. } = &ledger.head;
        if records != *expected {
            return Err(format!("{records} records are there, and batch {batch} says {expected}"));
        }
        if digest != *expected_digest {
            return Err(format!("the {records} records are not those of batch {batch}"));
        }
        if let Some(synced) = &ledger.head.synced {
            changes.push(Change::Synced { synced: synced.clone(), drop_older: None });
        }
        Ok((ledger, changes))
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// Takes a batch: the head moves on, and what comes back has to be written together with it.
    pub(super) fn apply(&mut self, changes: Vec<Change>) -> Operations {
        let mut operations = Operations::default();
        for change in changes {
            match change {
                Change::Promised(epoch) => self.head.promised = epoch,
                Change::Put(key, record) => {
                    let bytes = encode(&record);
                    self.put(&key, fingerprint(&key, &bytes), record.version.epoch);
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

    fn put(&mut self, key: &Key, hash: u64, epoch: Epoch) {
        let epoch = self.epoch(epoch);
        match self.entries.entry(key.clone()) {
            Entry::Occupied(mut known) => {
                let (old, _) = known.insert((hash, epoch));
                self.head.digest = self.head.digest.wrapping_sub(old);
            }
            Entry::Vacant(free) => {
                free.insert((hash, epoch));
                self.head.records += 1;
            }
        }
        self.head.digest = self.head.digest.wrapping_add(hash);
    }

    /// In the same batch as the end of the install: a crash leaves either all older records with the old `synced`, or none
    /// with the new one. They are few, since an install replaces what it finds.
    fn drop_older(&mut self, floor: Epoch, buckets: &Buckets, operations: &mut Operations) {
        let Self { head, entries, epochs } = self;
        entries.retain(|key, (hash, epoch)| {
            let stays = epochs[*epoch as usize] >= floor || !buckets.contains(key);
            if !stays {
                head.records -= 1;
                head.digest = head.digest.wrapping_sub(*hash);
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

/// Depends on both, and on where the one ends and the other begins.
fn fingerprint(key: &str, bytes: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key.as_bytes());
    hash.update(bytes);
    hash.digest()
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("plain data always encodes")
}

fn decode(bytes: &[u8]) -> Option<Record> {
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

/// A key as it is stored, if it is one.
pub(super) fn key_of(bytes: &[u8]) -> Option<Key> {
    std::str::from_utf8(bytes).ok().map(Arc::from)
}
