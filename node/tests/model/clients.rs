//! What clients saw, and what must hold of it.
//!
//! 1. An acknowledged write is in every state with which a later leader opens, or below what is there.
//! 2. One value per sequence number: two leaders never both acknowledge conflicting ones.
//! 3. What is shown is in every state with which leaders opened since it was written: no value comes back that a recovery
//!    did not pick.
//! 4. All answers together can be explained by one register per key.
//! 5. A write that is retried under its idempotency key takes effect once: it is shown under one sequence number.
//! 6. From the moment when the beginning of a restore is committed until its end is, no client that asks then is answered.

use std::hash::{Hash, Hasher};

use kv_node::protocol::types::{Epoch, RESTORE_MARK, Record, Version};
use kv_node::protocol::value::Value;
use xxhash_rust::xxh3::Xxh3;

use crate::linearizability::{self, Call};
use crate::restores::Restore;
use crate::world::Digest;

pub(crate) const KEYS: [&str; 3] = ["k", "l", RESTORE_MARK];

/// The number of the mark of a restore among the keys.
pub(crate) const MARK: usize = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Act {
    Read,
    /// Nothing deletes.
    Write(Option<Value>),
}

/// The newest record of a key in some state. Sequence number 0: none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Seen {
    seq: u64,
    value: Option<Value>,
}

/// A write or a read of one key.
#[derive(Clone, Debug, Hash)]
struct Op {
    key: usize,
    act: Act,
    /// The versions that leaders gave to the write: each attempt may get another one.
    versions: Vec<Version>,
    /// The sequence number under which the write was shown or acknowledged.
    shown: Option<u64>,
    /// The leader of this epoch acknowledged the write.
    acknowledged: Option<Epoch>,
    /// The operations that had been answered before this one was called, as bits.
    before: u64,
    /// The first answer.
    answer: Option<Seen>,
    /// It is a key of a backup.
    restored: bool,
}

/// The state with which a leader opened.
#[derive(Clone, Debug, Hash)]
struct Opened {
    epoch: Epoch,
    state: [Seen; KEYS.len()],
}

#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Clients {
    ops: Vec<Op>,
    opened: Vec<Opened>,
    /// The restore under way.
    pub(crate) restore: Option<Restore>,
    /// While the committed mark of a restore exists: its version, and the first operation that was called after it.
    hidden: Option<(Version, usize)>,
    /// The newest end of a restore that was committed, or with which a leader opened.
    ended: Version,
    pub(crate) violation: Option<String>,
}

impl Digest for Clients {
    fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        self.hash(&mut hash);
        hash.finish()
    }
}

impl Clients {
    pub(crate) fn last_opened(&self) -> Epoch {
        self.opened.iter().map(|opened| opened.epoch).max().unwrap_or_default()
    }

    pub(crate) fn acknowledged_writes(&self) -> usize {
        self.ops.iter().filter(|op| op.acknowledged.is_some()).count()
    }

    /// The writes that a client may repeat. A restore replaces the idempotency keys of a key, so that a repetition of an
    /// earlier write would be another write.
    pub(crate) fn writes(&self) -> impl Iterator<Item = usize> {
        let writes = self.ops.iter().enumerate().filter(|(_, op)| op.act != Act::Read && op.key != MARK);
        let replaced = |key: usize, from: usize| self.ops[from..].iter().any(|op| op.restored && op.key == key);
        writes.filter(move |(number, op)| !replaced(op.key, *number)).map(|(number, _)| number)
    }

    pub(crate) fn is_acknowledged(&self, number: usize) -> bool {
        self.ops[number].acknowledged.is_some()
    }

    /// Whether it is a request of a client that restores a backup.
    pub(crate) fn is_restored(&self, number: usize) -> bool {
        self.ops[number].restored || self.ops[number].key == MARK
    }

    /// A key of a backup is to be restored; returns the number of the operation.
    pub(crate) fn call_restored(&mut self, key: usize) -> usize {
        let number = self.call(key, Act::Write(Some(self.new_value())));
        self.ops[number].restored = true;
        number
    }

    pub(crate) fn key(&self, number: usize) -> usize {
        self.ops[number].key
    }

    /// What a write writes; nothing for a deletion.
    pub(crate) fn value(&self, number: usize) -> Option<Value> {
        match &self.ops[number].act {
            Act::Read => None,
            Act::Write(value) => value.clone(),
        }
    }

    /// A value that no other operation writes.
    pub(crate) fn new_value(&self) -> Value {
        format!("v{}", self.ops.len()).into()
    }

    /// A client calls; returns the number of the operation.
    pub(crate) fn call(&mut self, key: usize, act: Act) -> usize {
        let answered = self.ops.iter().enumerate().filter(|(_, op)| op.answer.is_some());
        let before = answered.fold(0, |before, (number, _)| before | 1 << number);
        let (versions, restored) = (Vec::new(), false);
        let op = Op { key, act, versions, shown: None, acknowledged: None, before, answer: None, restored };
        self.ops.push(op);
        self.ops.len() - 1
    }

    /// A leader took the write and gave it this version.
    pub(crate) fn accepted(&mut self, number: usize, version: Version) {
        let key = self.ops[number].key;
        if self.ops[number].versions.contains(&version) {
            // The attempt joined an earlier one.
            return;
        }
        // A request to end a restore joins another one.
        let joined = key == MARK && self.value(number).is_none();
        if !joined && self.ops.iter().any(|op| op.key == key && op.versions.contains(&version)) {
            self.fail(format!("two writes got {version:?}"));
        }
        self.ops[number].versions.push(version);
    }

    /// A leader of this epoch acknowledged the write.
    pub(crate) fn acknowledged(&mut self, number: usize, epoch: Epoch, seq: u64) {
        if self.restore.as_ref().is_some_and(|restore| restore.ends_with(number)) {
            self.restore = None;
        }
        if self.ops[number].key == MARK {
            self.mark_committed(Version { epoch, seq }, self.value(number).is_some());
        }
        if seq == 0 {
            // There was no restore to end.
            self.ops[number].acknowledged.get_or_insert(epoch);
            return;
        }
        let (key, seen) = (self.ops[number].key, Seen { seq, value: self.value(number) });
        let without = self.opened.iter().find(|later| later.epoch > epoch && !later.covers(key, &seen));
        if let Some(later) = without {
            let later = later.epoch;
            self.fail(format!("write {number} (seq {seq}) is acknowledged in {epoch}, but {later} opened without it"));
        }
        // One that ends a restore has no value that identifies it.
        if key != MARK || seen.value.is_some() {
            self.applied(number, seq);
        }
        self.ops[number].acknowledged.get_or_insert(epoch);
        self.answer(number, seen);
    }

    /// The mark of a restore, or its removal, is committed.
    fn mark_committed(&mut self, version: Version, begins: bool) {
        if begins && version > self.ended {
            let next = self.ops.len();
            self.hidden.get_or_insert((version, next));
        } else if !begins {
            self.ended = self.ended.max(version);
            self.hidden = self.hidden.filter(|(mark, _)| *mark > version);
        }
    }

    fn applied(&mut self, number: usize, seq: u64) {
        let before = *self.ops[number].shown.get_or_insert(seq);
        if before != seq {
            self.fail(format!("write {number} is applied twice, as seq {before} and as seq {seq}"));
        }
    }

    /// A leader opened with this state.
    pub(crate) fn opened(&mut self, epoch: Epoch, state: [Option<&Record>; KEYS.len()]) {
        let opened = Opened { epoch, state: state.map(Seen::of) };
        let lost = self.ops.iter().position(|op| {
            let earlier = op.acknowledged.is_some_and(|at| at < epoch);
            earlier && op.answer.as_ref().is_some_and(|answer| !opened.covers(op.key, answer))
        });
        if let Some(number) = lost {
            self.fail(format!("{epoch} opens without write {number}, which was acknowledged"));
        }
        state.iter().enumerate().for_each(|(key, record)| self.shown(key, *record, epoch));
        if let Some(mark) = state[MARK].filter(|mark| mark.value.is_none()) {
            self.mark_committed(mark.version, false);
        }
        self.opened.push(opened);
        // The order in which leaders opened makes no difference to what must hold.
        self.opened.sort_by_key(|opened| opened.epoch);
    }

    pub(crate) fn read(&mut self, number: usize, record: Option<&Record>, epoch: Epoch) {
        self.shown(self.ops[number].key, record, epoch);
        self.answer(number, Seen::of(record));
    }

    /// A leader of this epoch shows a record.
    fn shown(&mut self, key: usize, record: Option<&Record>, epoch: Epoch) {
        let Some(record) = record else {
            return;
        };
        let seen = Seen::of(Some(record));
        let act = Act::Write(seen.value.clone());
        let given = self.ops.iter().enumerate().filter(|(_, op)| op.key == key && op.act == act);
        let given = given.flat_map(|(number, op)| op.versions.iter().map(move |version| (*version, number)));
        let given = given.filter(|(version, _)| version.seq == seen.seq && version.epoch <= epoch);
        let Some((born, number)) = given.max() else {
            return self.fail(format!("{epoch} shows {seen:?}, which no client wrote"));
        };
        let passed = self
            .opened
            .iter()
            .find(|opened| opened.epoch > born.epoch && opened.epoch <= epoch && !opened.covers(key, &seen));
        if let Some(passed) = passed {
            let (born, passed) = (born.epoch, passed.epoch);
            self.fail(format!("{seen:?} of {born} shows in {epoch}, though {passed} opened without it"));
        }
        // Deletions have no value that identifies them.
        if seen.value.is_some() {
            self.applied(number, seen.seq);
        }
    }

    fn answer(&mut self, number: usize, seen: Seen) {
        let key = self.ops[number].key;
        if let Some((mark, _)) = self.hidden.filter(|(_, next)| number >= *next && !self.is_restored(number)) {
            self.fail(format!("operation {number} is answered, though the restore of {mark:?} has not ended"));
        }
        let answers = self.ops.iter().filter(|op| op.key == key).flat_map(|op| &op.answer);
        let conflict = answers.clone().any(|other| other.seq == seen.seq && other.value != seen.value);
        if conflict && seen.seq > 0 {
            self.fail(format!("two values were shown as seq {}", seen.seq));
        }
        if self.ops[number].answer.is_some() {
            return;
        }
        self.ops[number].answer = Some(seen);
        if let Err(why) = linearizability::check(&self.calls(key)) {
            self.fail(format!("not linearizable: {why}"));
        }
    }

    /// The operations of a key on a clock on which one that was answered before another was called comes first.
    fn calls(&self, key: usize) -> Vec<Call<Value>> {
        let counted = |op: &Op| op.key == key && (op.act != Act::Read || op.answer.is_some());
        let time = |before: u64| u64::from(before.count_ones()) * 2 + 1;
        let answered_at = |number: usize| {
            let later = self.ops.iter().filter(|op| op.before & 1 << number != 0).map(|op| time(op.before) - 1).min();
            later.unwrap_or(u64::MAX - 1)
        };
        let ops = self.ops.iter().enumerate().filter(|(_, op)| counted(op));
        ops.map(|(number, op)| Call {
            called: time(op.before),
            returned: op.answer.as_ref().map(|_| answered_at(number)),
            is_write: op.act != Act::Read,
            value: match &op.act {
                Act::Read => op.answer.as_ref().and_then(|answer| answer.value.clone()),
                Act::Write(value) => value.clone(),
            },
            expected: None,
            by: None,
        })
        .collect()
    }

    fn fail(&mut self, why: String) {
        self.violation.get_or_insert(why);
    }
}

impl Seen {
    fn of(record: Option<&Record>) -> Self {
        let (seq, value) = record.map_or((0, None), |record| (record.version.seq, record.value.clone()));
        Self { seq, value }
    }
}

impl Opened {
    /// Whether this state has that version of the key, or a later one.
    fn covers(&self, key: usize, seen: &Seen) -> bool {
        self.state[key].seq > seen.seq || self.state[key] == *seen
    }
}
