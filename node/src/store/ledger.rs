//! The count and the digest of all records, which prove a state complete.
//!
//! The digest is the sum of a hash of every record. A write updates it with the old and the new
//! hash alone, and it does not depend on the order of records. At load, the digest of the records
//! must equal the stored one. This detects a log that lost a batch in the middle, has an older
//! value of a key or a removed record.

use foldhash::fast::FixedState;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::head::Head;
use super::segment;
use crate::protocol::digest::Buckets;
use crate::protocol::follower::{Change, Kept};
use crate::protocol::keymap::KeyMap;
use crate::protocol::types::{Epoch, FollowerId, Key, Record};

/// By key, the new encoded record, or `None` if the record is removed. The order depends only on
/// the follower's id and the keys, so that a simulation can be replayed.
pub(super) type Operations = std::collections::HashMap<Key, Option<Vec<u8>>, FixedState>;

/// A bit in the length of an entry, which never needs it. Its value changes with each renewal.
const TURN: u32 = 1 << 31;

/// The head, and the hash of every stored record, with which the head is updated.
#[derive(Debug)]
pub(super) struct Ledger {
    head: Head,
    /// Hash, index in `epochs`, and length in the log in bytes, with the [`TURN`] of its last
    /// change.
    entries: KeyMap<(u64, u32, u32)>,
    live_bytes: u64,
    /// [`TURN`] of the entries that were stored since the last renewal began, and how many these
    /// are.
    turn: u32,
    renewed: u64,
    /// The epochs that entries refer to: one for each leader since the process started.
    epochs: Vec<Epoch>,
}

impl Ledger {
    pub(super) fn new(id: FollowerId) -> Self {
        let head = Head { id, batch: 0, promised: Epoch::default(), synced: None, records: 0, digest: 0 };
        Self { head, entries: KeyMap::default(), live_bytes: 0, turn: 0, renewed: 0, epochs: Vec::new() }
    }

    /// Checks the records of a log against its head.
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
            return Err(format!("the log has {records} records, but batch {batch} names {expected}"));
        }
        if digest != *expected_digest {
            return Err(format!("the digest of the {records} records is not that of batch {batch}"));
        }
        Ok((ledger, kept))
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// Applies a batch to the head. The caller has to write the returned operations together with
    /// the head.
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

    /// How many bytes the log needs for the newest records, without the heads of batches.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Starts to count the records that are stored again.
    pub(super) fn begin_renewal(&mut self) {
        (self.turn, self.renewed) = (self.turn ^ TURN, 0);
    }

    /// Whether every record was stored again since the renewal began.
    pub(super) fn is_renewed(&self) -> bool {
        self.renewed == self.head.records
    }

    /// Whether these bytes are the newest record of the key.
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

    /// Removes older records in the same batch as the end of the install: after a crash, either all
    /// of them remain with the old `synced`, or none with the new one. They are few, since an
    /// install replaces most records.
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

/// Depends on the key, the record and the boundary between them.
fn fingerprint(key: &str, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, xxh3_64(key.as_bytes()))
}

/// Encodes a record. The first allocation is nearly always large enough.
fn encode_record(record: &Record) -> Vec<u8> {
    let capacity = record.value.as_ref().map_or(0, |value| value.len()) + 48;
    postcard::to_extend(record, Vec::with_capacity(capacity)).expect("plain data always encodes")
}

/// Decodes a stored record; `None` if the bytes are not a record.
pub(super) fn decode(bytes: &[u8]) -> Option<Record> {
    postcard::take_from_bytes(bytes).ok().filter(|(_, rest)| rest.is_empty()).map(|(record, _)| record)
}
