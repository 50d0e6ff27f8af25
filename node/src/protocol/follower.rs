//! The decisions of a follower. Followers store the durable state; a leader only proposes changes.
//!
//! This module uses no clock, socket or disk. [`Follower::step`] changes the state and returns the
//! changes that the caller must store, in order, before it sends the replies.

use std::collections::HashSet;
use std::sync::Arc;

use super::changes::{Changes, CopyCursor};
use super::digest::{Buckets, Digest, seed_of};
use super::keymap::KeyMap;
use super::messages::{Covered, Hello, ToFollower, ToLeader, Write};
use super::types::{Config, Epoch, FollowerId, Key, RESTORE_MARK, Record, Synced};

/// How much of the state one answer covers, which bounds its duration. Tests draw small numbers, so
/// that every state is longer than one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// About how many bytes of keys and values one [`ToLeader::Records`] carries. At least one record.
    pub message_bytes: usize,
    /// How many keys the follower examines for one answer. At least 1.
    pub scan_keys: usize,
    /// About how many bytes of keys and values the follower examines for one digest. At least one
    /// record.
    pub scan_bytes: usize,
    /// How many changes the follower remembers for standbys. At least 1.
    pub changed_keys: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes: MESSAGE_BYTES, scan_keys: 131_072, scan_bytes: 64 << 20, changed_keys: 65_536 }
    }
}

/// About how many bytes of keys and values one message of a state carries.
pub(crate) const MESSAGE_BYTES: usize = 256 * 1024;

/// One durable change. All changes, applied in order, rebuild the follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A promise.
    Promised(Epoch),
    /// The newest record of a key.
    Put(Key, Record),
    /// The state of this epoch is complete.
    Synced {
        /// The epoch and its rule.
        synced: Synced,
        /// The buckets in which the follower drops records of older epochs: the leader sent all its
        /// records there.
        drop_older: Option<Buckets>,
    },
}

/// The effects of a message. The caller stores the changes first, then sends the replies.
#[derive(Debug, Default)]
pub struct Effects {
    /// Changes to store before any reply is sent, in this order.
    pub changes: Vec<Change>,
    /// Replies to the sender of the message, in this order.
    pub replies: Vec<ToLeader>,
}

/// The state of one follower.
#[derive(Clone, Debug)]
pub struct Follower {
    id: FollowerId,
    name: Arc<str>,
    promised: Epoch,
    synced: Option<Synced>,
    /// How many messages of its leader it handled; see [`Hello::heard`]. Not stored: a follower that
    /// starts again does not know how long its leader has been silent.
    heard: u64,
    leader: Option<Arc<str>>,
    limits: Limits,
    /// What standbys may ask for.
    changes: Changes,
    // Records keep their position, which serves as a cursor, until the end of an install drops
    // older records.
    records: KeyMap<Record>,
}

/// The stored state of a follower.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The highest promised epoch.
    pub promised: Epoch,
    /// The last epoch whose whole state is stored.
    pub synced: Option<Synced>,
    /// The newest record of each key.
    pub records: KeyMap<Record>,
}

impl Follower {
    /// A follower with a new disk: no promise, no records.
    pub fn blank(id: FollowerId, name: Arc<str>) -> Self {
        Self::with(id, name, Kept::default())
    }

    /// A follower with the state that it stored before a restart.
    pub fn with(id: FollowerId, name: Arc<str>, kept: Kept) -> Self {
        let Kept { promised, synced, records } = kept;
        // The leader that it promised may be at work, although this process heard nothing of it.
        let heard = u64::from(promised != Epoch::default());
        let (limits, changes) = (Limits::default(), Changes::default());
        Self { id, name, promised, synced, heard, leader: None, limits, changes, records }
    }

    /// The same follower with other limits.
    #[must_use]
    pub fn limited(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Applies a stored change.
    pub fn restore(&mut self, change: Change) {
        match change {
            Change::Promised(epoch) => (self.promised, self.heard) = (epoch, 1),
            Change::Put(key, record) => {
                self.records.insert(key, record);
            }
            Change::Synced { synced, drop_older } => self.complete(synced, drop_older.as_ref()),
        }
    }

    /// This follower's first message on a connection.
    pub fn hello(&self) -> Hello {
        let (id, name, promised, synced) = (self.id, self.name.clone(), self.promised, self.synced.clone());
        Hello { id, name, promised, synced, heard: self.heard, leader: self.leader.clone() }
    }

    /// The disk's id.
    pub fn id(&self) -> FollowerId {
        self.id
    }

    /// The highest promised epoch.
    pub fn promised(&self) -> Epoch {
        self.promised
    }

    /// Changes with each message of its leader; 0 if no process leads, as far as it knows.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// The follower still works on messages of its leader.
    pub fn still_hears(&mut self) {
        self.heard += u64::from(self.heard > 0);
    }

    /// The URL of its leader, if it is known.
    pub fn leader(&self) -> Option<&Arc<str>> {
        self.leader.as_ref()
    }

    /// Sets the URL of the leader whose messages it handles.
    pub fn set_leader(&mut self, leader: Arc<str>) {
        self.leader = Some(leader);
    }

    /// The last epoch whose whole state it has; `None` for a blank follower.
    pub fn synced(&self) -> Option<&Synced> {
        self.synced.as_ref()
    }

    /// The newest record of a key.
    pub fn get(&self, key: &str) -> Option<&Record> {
        self.records.get(key)
    }

    /// How many keys there are, deleted ones included.
    pub fn keys(&self) -> usize {
        self.records.len() - usize::from(self.records.contains(RESTORE_MARK))
    }

    /// All records, deleted keys included. Positions are stable within an epoch.
    pub fn records(&self) -> &KeyMap<Record> {
        &self.records
    }

    /// Handles one message of a leader.
    pub fn step(&mut self, message: ToFollower, effects: &mut Effects) {
        match message {
            ToFollower::Greet => effects.replies.push(ToLeader::Greeted(self.hello())),
            ToFollower::Copy { from } => effects.replies.push(self.copy(from)),
            ToFollower::Resign { epoch } => {
                if self.keeps(epoch, effects) {
                    (self.heard, self.leader) = (0, None);
                    effects.replies.push(ToLeader::Resigned { epoch });
                }
            }
            ToFollower::Prepare { epoch } => self.prepare(epoch, effects),
            ToFollower::Compare { epoch, buckets, cursor, keys, bytes, token } => {
                if self.keeps(epoch, effects) {
                    let (digest, next) = self.digest(epoch, buckets, cursor, (keys as usize, bytes as usize));
                    effects.replies.push(ToLeader::Digested { epoch, token, digest, next });
                }
            }
            ToFollower::Fetch { epoch, cursor, of } => {
                if self.keeps(epoch, effects) {
                    effects.replies.push(self.fetch(epoch, cursor, of.as_ref()));
                }
            }
            ToFollower::Writes { epoch, writes } => {
                self.write(
                    epoch,
                    writes.into_iter().map(|Write { index, key, record, .. }| (index, key, record)),
                    effects,
                );
            }
            ToFollower::Install { epoch, records } => {
                if self.keeps(epoch, effects) {
                    for (key, record) in records {
                        self.take(key, record, effects);
                    }
                }
            }
            ToFollower::InstallEnd { epoch, config, covered, token } => {
                let drop_older = match covered {
                    Covered::Newer => None,
                    Covered::Buckets(buckets) => Some(buckets),
                };
                // Newer records alone complete the state only of a follower that already has the
                // state of this epoch.
                if self.keeps(epoch, effects) && (drop_older.is_some() || self.serves(epoch, effects)) {
                    let generation = self.install_end(epoch, config, drop_older, effects);
                    effects.replies.push(ToLeader::Installed { epoch, token, generation });
                }
            }
            ToFollower::Configure { epoch, config } => {
                if self.keeps(epoch, effects) && self.serves(epoch, effects) {
                    let generation = self.install_end(epoch, config, None, effects);
                    effects.replies.push(ToLeader::Configured { epoch, generation });
                }
            }
            ToFollower::Probe { epoch, round, .. } => {
                if self.keeps(epoch, effects) {
                    effects.replies.push(ToLeader::Probed { epoch, round });
                }
            }
        }
    }

    fn prepare(&mut self, epoch: Epoch, effects: &mut Effects) {
        if epoch < self.promised || !epoch.may_follow(self.promised) {
            effects.replies.push(ToLeader::Refused { promised: self.promised });
            return;
        }
        if epoch > self.promised {
            self.promised = epoch;
            // The standby that asked may be the one that asks for this promise. Another one copies anew.
            self.changes.forget();
            effects.changes.push(Change::Promised(epoch));
        }
        self.heard += 1;
        effects.replies.push(ToLeader::Promised { epoch, synced: self.synced.clone() });
    }

    /// The fence: the follower accepts and confirms only messages of the promised epoch.
    fn keeps(&mut self, epoch: Epoch, effects: &mut Effects) -> bool {
        let keeps = epoch == self.promised;
        if keeps {
            self.heard += 1;
        } else {
            effects.replies.push(ToLeader::Refused { promised: self.promised });
        }
        keeps
    }

    /// Only a follower that has the whole state of the epoch may confirm single writes on top of it.
    fn serves(&self, epoch: Epoch, effects: &mut Effects) -> bool {
        let serves = self.synced.as_ref().is_some_and(|synced| synced.epoch == epoch);
        if !serves {
            effects.replies.push(ToLeader::Refused { promised: self.promised });
        }
        serves
    }

    /// Handles the index, key and record of each write of a [`ToFollower::Writes`].
    pub fn write<K: AsRef<str> + Into<Key>>(
        &mut self,
        epoch: Epoch,
        writes: impl IntoIterator<Item = (u64, K, Record)>,
        effects: &mut Effects,
    ) {
        if !self.keeps(epoch, effects) || !self.serves(epoch, effects) {
            return;
        }
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (index, key, record) in writes {
            self.take(key, record, effects);
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == index => *last = index,
                _ => ranges.push((index, index)),
            }
        }
        effects.replies.push(ToLeader::Confirmed { epoch, ranges });
    }

    /// Keeps the record with the higher version. Installs use the same comparison: a record of the
    /// new epoch replaces any older one, even one with a higher sequence number, and a late install
    /// does not overwrite newer writes.
    fn take<K: AsRef<str> + Into<Key>>(&mut self, key: K, record: Record, effects: &mut Effects) {
        let Some((key, known)) = self.records.find_mut(key.as_ref()) else {
            let key = key.into();
            self.changes.note(&key, self.limits.changed_keys);
            effects.changes.push(Change::Put(key.clone(), record.clone()));
            self.records.insert(key, record);
            return;
        };
        if known.version < record.version {
            self.changes.note(key, self.limits.changed_keys);
            effects.changes.push(Change::Put(key.clone(), record.clone()));
            *known = record;
        }
    }

    /// Stores the rule, unless a newer one of the epoch is stored. Returns the generation of the
    /// stored rule.
    fn install_end(&mut self, epoch: Epoch, config: Config, drop_older: Option<Buckets>, effects: &mut Effects) -> u64 {
        let newest = match &self.synced {
            Some(known) if known.epoch == epoch && known.config.generation >= config.generation => known.config.clone(),
            _ => config,
        };
        let generation = newest.generation;
        let synced = Synced { epoch, config: newest };
        if drop_older.is_some() || self.synced.as_ref() != Some(&synced) {
            effects.changes.push(Change::Synced { synced: synced.clone(), drop_older: drop_older.clone() });
            self.complete(synced, drop_older.as_ref());
        }
        generation
    }

    fn complete(&mut self, synced: Synced, drop_older: Option<&Buckets>) {
        if let Some(buckets) = drop_older.filter(|buckets| !buckets.is_empty()) {
            self.changes.forget();
            self.records.retain(|key, record| record.version.epoch >= synced.epoch || !buckets.contains(key));
        }
        self.synced = Some(synced);
    }

    fn digest(&self, epoch: Epoch, buckets: u32, cursor: u64, (keys, bytes): (usize, usize)) -> (Digest, Option<u64>) {
        let mut digest = Digest::new(buckets, seed_of(epoch));
        let (start, end) = self.part(cursor);
        let end = end.min(start + keys.max(1));
        let (mut at, mut seen) = (start, 0);
        for (key, record) in self.records.range(start..end) {
            digest.add(key, record);
            at += 1;
            seen += approximate_bytes(key, record);
            if seen >= bytes.min(self.limits.scan_bytes) {
                break;
            }
        }
        (digest, self.next(at))
    }

    fn fetch(&self, epoch: Epoch, cursor: u64, of: Option<&Buckets>) -> ToLeader {
        let (records, next) = self.records_from(cursor, of);
        ToLeader::Records { epoch, records, next }
    }

    /// The records of one message, and the position to continue at.
    fn records_from(&self, cursor: u64, of: Option<&Buckets>) -> (Vec<(Key, Record)>, Option<u64>) {
        let (mut at, most) = self.part(cursor);
        let (mut records, mut bytes) = (Vec::new(), 0);
        while at < most && bytes < self.limits.message_bytes {
            if let Some((key, record)) = self.records.at(at)
                && of.is_none_or(|buckets| buckets.contains(key))
            {
                bytes += approximate_bytes(key, record);
                records.push((key.clone(), record.clone()));
            }
            at += 1;
        }
        (records, self.next(at))
    }

    /// The next part of a copy: first every record, then again those that changed.
    fn copy(&mut self, from: Option<CopyCursor>) -> ToLeader {
        let known = from.filter(|from| self.changes.since(from.change).is_some());
        let anew = known.is_none();
        let from = known.unwrap_or_else(|| CopyCursor { position: Some(0), change: self.changes.begin() });
        if let Some(position) = from.position {
            let (records, position) = self.records_from(position, None);
            return ToLeader::Copied { records, next: CopyCursor { position, ..from }, anew, more: true };
        }
        let (records, seen, more) = self.changed_since(from.change);
        ToLeader::Copied { records, next: CopyCursor { change: from.change + seen, ..from }, anew, more }
    }

    /// The records that changed from this change on, each one once; how many changes that covers;
    /// and whether there are more.
    fn changed_since(&self, change: u64) -> (Vec<(Key, Record)>, u64, bool) {
        let (mut records, mut bytes, mut seen) = (Vec::new(), 0, 0);
        let mut sent = HashSet::new();
        for key in self.changes.since(change).into_iter().flatten() {
            if bytes >= self.limits.message_bytes || seen as usize >= self.limits.scan_keys {
                return (records, seen, true);
            }
            seen += 1;
            if let Some(record) = self.records.get(key).filter(|_| sent.insert(key)) {
                bytes += approximate_bytes(key, record);
                records.push((key.clone(), record.clone()));
            }
        }
        (records, seen, false)
    }

    /// The range of positions to examine for one message.
    fn part(&self, cursor: u64) -> (usize, usize) {
        let start = usize::try_from(cursor).unwrap_or(usize::MAX).min(self.records.len());
        (start, self.records.len().min(start.saturating_add(self.limits.scan_keys)))
    }

    fn next(&self, position: usize) -> Option<u64> {
        (position < self.records.len()).then_some(position as u64)
    }
}

/// Approximate length of a record on the wire, in bytes. Exact enough to divide a state into
/// messages.
pub(crate) fn approximate_bytes(key: &str, record: &Record) -> usize {
    let marks = record.marks.as_ref().map_or(0, |marks| marks.iter().map(|mark| mark.token.len() + 16).sum());
    key.len() + record.value.as_ref().map_or(0, |value| value.len()) + marks + 32
}
