//! The copy of a follower's state that a standby keeps, so that its recovery fetches only what
//! differs.
//!
//! The copy is a cache and proves nothing: it may be old, and may contain records that no leader
//! acknowledged. Recovery uses only those of its buckets that equal the buckets of a follower that
//! promised, as if that follower had sent them.

use super::slot::{Link, Slot};
use super::{Entry, Leader, Output, SlotId};
use crate::protocol::changes::CopyCursor;
use crate::protocol::digest::{Buckets, Digest};
use crate::protocol::keymap::KeyMap;
use crate::protocol::messages::ToFollower;
use crate::protocol::types::{Epoch, Key, Record};

/// The copy of a standby.
#[derive(Clone, Debug, Default)]
pub(super) struct WarmCopy {
    pub(super) records: KeyMap<Entry>,
    /// The follower that sends it.
    source: Option<SlotId>,
    /// Where it continues; `None` to start.
    cursor: Option<CopyCursor>,
    /// Whether a question is unanswered.
    asked: bool,
}

impl WarmCopy {
    /// Whether it contained every record of the follower at some moment.
    pub(super) fn is_complete(&self) -> bool {
        self.source.is_some() && self.cursor.is_some_and(|cursor| cursor.position.is_none())
    }

    /// Asks its follower no more. The records stay until another follower starts to send its own.
    pub(super) fn stop(&mut self) {
        (self.source, self.cursor, self.asked) = (None, None, false);
    }

    /// The connection of a follower is another one now, or none.
    pub(super) fn on_disconnect(&mut self, id: SlotId) {
        if self.source == Some(id) {
            self.stop();
        }
    }
}

impl<W, R> Leader<W, R> {
    /// A tick of a standby: asks one follower that hears the leader for what changed.
    pub(super) fn tick_copy(&mut self) {
        let is_usable =
            |slot: &Slot| slot.link == Link::Greeted && slot.synced_epoch().is_some() && !self.is_silent(slot);
        if !self.copy.source.and_then(|source| self.slot(source)).is_some_and(is_usable) {
            let source = self.each_slot().find(|(_, slot)| is_usable(slot)).map(|(id, _)| id);
            self.copy.stop();
            self.copy.source = source;
        }
        self.continue_copy();
    }

    fn continue_copy(&mut self) {
        let Some(source) = self.copy.source.filter(|_| !self.copy.asked) else { return };
        self.copy.asked = true;
        self.out.push(Output::Send(source, ToFollower::Copy { from: self.copy.cursor }));
    }

    /// A follower answered [`ToFollower::Copy`].
    pub(super) fn on_copied(
        &mut self,
        id: SlotId,
        records: Vec<(Key, Record)>,
        next: CopyCursor,
        (anew, more): (bool, bool),
    ) {
        // The first answer to this copy starts it anew. Any other answers a question that was asked
        // before an election, for a copy that is gone.
        let outdated = self.copy.cursor.is_none() && !anew;
        if !self.is_candidate() || self.copy.source != Some(id) || outdated {
            return;
        }
        if anew {
            self.copy.records = KeyMap::default();
        }
        for (key, record) in records {
            self.copy.records.insert(key, Entry::recovered(record));
        }
        (self.copy.cursor, self.copy.asked) = (Some(next), false);
        if more {
            self.continue_copy();
        }
    }
}

/// The copy while recovery compares it with the first follower.
#[derive(Clone, Debug)]
pub(super) struct Compared {
    records: KeyMap<Entry>,
    /// Digest of the first `digested` records.
    digest: Digest,
    digested: usize,
}

impl Compared {
    /// `None` without a copy.
    pub(super) fn new(records: KeyMap<Entry>, buckets: usize, seed: u64) -> Option<Self> {
        (!records.is_empty()).then(|| Self { records, digest: Digest::new(buckets as u32, seed), digested: 0 })
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// The records, for a later recovery.
    pub(super) fn into_records(self) -> KeyMap<Entry> {
        self.records
    }

    /// Goes on with the digest, with so many records.
    pub(super) fn digest_more(&mut self, records: usize) {
        let end = self.records.len().min(self.digested.saturating_add(records));
        for (key, entry) in self.records.range(self.digested..end) {
            self.digest.add(key, &entry.latest);
        }
        self.digested = end;
    }

    /// The records that a follower has too, as records of the epoch whose state it has; their
    /// digest; and the buckets in which it has others.
    ///
    /// A digest leaves out epochs, so the follower may have such a record under another epoch than
    /// the copy. In a follower with the whole state of `source`, no record outranks one of `source`
    /// with the same number.
    pub(super) fn shared_with(mut self, theirs: &Digest, source: Epoch) -> (KeyMap<Entry>, Digest, Buckets) {
        self.digest_more(usize::MAX);
        let differing = self.digest.folded(theirs.buckets()).differing(theirs);
        if !differing.is_empty() {
            self.records.retain(|key, _| !differing.contains(key));
        }
        self.records.values_mut().for_each(|entry| entry.latest.version.epoch = source);
        (self.records, self.digest.without(&differing), differing)
    }
}
