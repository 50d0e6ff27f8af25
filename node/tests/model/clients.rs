//! What clients saw, and what must hold of it.
//!
//! 1. An acknowledged write is in every state with which a later leader opens, or below what is there.
//! 2. One value per sequence number: two leaders never both acknowledge conflicting ones.
//! 3. What is shown is in every state with which leaders opened since it was written: no value comes back that a recovery
//!    did not pick.
//! 4. All answers together can be explained by one register.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use kv_node::protocol::types::{Epoch, Record, Version};
use xxhash_rust::xxh3::Xxh3;

use crate::linearizability::{self, Call};
use crate::world::Digest;

/// A write or a read of the one key.
#[derive(Clone, Debug, Hash)]
struct Op {
    /// What is written; nothing reads.
    writes: Option<Arc<str>>,
    /// Which version a leader gave to the write.
    version: Option<Version>,
    /// The operations that had been answered before this one was called, as bits.
    before: u32,
    /// Sequence number and value, once answered.
    answer: Option<(u64, Option<Arc<str>>)>,
}

/// The newest record with which a leader opened.
#[derive(Clone, Debug, Hash)]
struct Opened {
    epoch: Epoch,
    seq: u64,
    value: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Clients {
    ops: Vec<Op>,
    opened: Vec<Opened>,
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
        self.ops.iter().filter(|op| op.writes.is_some() && op.answer.is_some()).count()
    }

    /// A client calls; returns the number of the operation, and for a write its value.
    pub(crate) fn call(&mut self, is_write: bool) -> (usize, Arc<str>) {
        let number = self.ops.len();
        let value: Arc<str> = format!("v{number}").into();
        let answered = self.ops.iter().enumerate().filter(|(_, op)| op.answer.is_some());
        let before = answered.fold(0, |before, (number, _)| before | 1 << number);
        self.ops.push(Op { writes: is_write.then(|| value.clone()), version: None, before, answer: None });
        (number, value)
    }

    /// A leader took the write and gave it this version.
    pub(crate) fn accepted(&mut self, number: usize, version: Version) {
        if self.ops.iter().any(|op| op.version == Some(version)) {
            self.fail(format!("two writes got {version:?}"));
        }
        self.ops[number].version = Some(version);
    }

    pub(crate) fn acknowledged(&mut self, number: usize, epoch: Epoch, seq: u64) {
        let value = self.ops[number].writes.clone();
        let without = self.opened.iter().find(|later| later.epoch > epoch && !later.covers(seq, &value));
        if let Some(later) = without {
            let later = later.epoch;
            self.fail(format!("write {number} (seq {seq}) is acknowledged in {epoch}, but {later} opened without it"));
        }
        self.answer(number, seq, value);
    }

    pub(crate) fn opened(&mut self, epoch: Epoch, record: Option<&Record>) {
        let seq = record.map_or(0, |record| record.version.seq);
        let opened = Opened { epoch, seq, value: record.and_then(|record| record.value.clone()) };
        let lost = self.ops.iter().enumerate().find(|(_, op)| {
            let earlier = op.version.is_some_and(|version| version.epoch < epoch);
            earlier && op.answer.as_ref().is_some_and(|(seq, value)| !opened.covers(*seq, value))
        });
        if let Some((number, _)) = lost {
            self.fail(format!("{epoch} opens without write {number}, which was acknowledged"));
        }
        self.shown(record, epoch);
        self.opened.push(opened);
        // In which order they opened is all the same to what is asked of them.
        self.opened.sort_by_key(|opened| opened.epoch);
    }

    pub(crate) fn read(&mut self, number: usize, record: Option<&Record>, epoch: Epoch) {
        self.shown(record, epoch);
        let seq = record.map_or(0, |record| record.version.seq);
        self.answer(number, seq, record.and_then(|record| record.value.clone()));
    }

    /// A leader of this epoch shows a record.
    fn shown(&mut self, record: Option<&Record>, epoch: Epoch) {
        let Some(record) = record else {
            return;
        };
        let (seq, value) = (record.version.seq, &record.value);
        let given = self.ops.iter().filter(|op| op.writes.is_some() && op.writes == *value);
        let Some(born) = given.filter_map(|op| op.version).find(|version| version.seq == seq) else {
            return self.fail(format!("{epoch} shows seq {seq} with a value that nobody wrote there"));
        };
        let passed = self
            .opened
            .iter()
            .find(|opened| opened.epoch > born.epoch && opened.epoch <= epoch && !opened.covers(seq, value));
        if let Some(passed) = passed {
            let (born, passed) = (born.epoch, passed.epoch);
            self.fail(format!("seq {seq} of {born} shows in {epoch}, though {passed} opened without it"));
        }
    }

    fn answer(&mut self, number: usize, seq: u64, value: Option<Arc<str>>) {
        let conflict = self.ops.iter().flat_map(|op| &op.answer).any(|(other, shown)| *other == seq && *shown != value);
        if conflict && seq > 0 {
            self.fail(format!("two values were shown as seq {seq}"));
        }
        self.ops[number].answer = Some((seq, value));
        if let Err(why) = linearizability::check(&self.calls()) {
            self.fail(format!("not linearizable: {why}"));
        }
    }

    /// The operations on a clock on which one that was answered before another was called comes first.
    fn calls(&self) -> Vec<Call<Arc<str>>> {
        let counted = |op: &&Op| op.writes.is_some() || op.answer.is_some();
        let time = |before: u32| u64::from(before.count_ones()) * 2 + 1;
        let answered_at = |number: usize| {
            let later = self.ops.iter().filter(|op| op.before & 1 << number != 0).map(|op| time(op.before) - 1).min();
            later.unwrap_or(u64::MAX - 1)
        };
        let ops = self.ops.iter().enumerate().filter(|(_, op)| counted(op));
        ops.map(|(number, op)| Call {
            called: time(op.before),
            returned: op.answer.as_ref().map(|_| answered_at(number)),
            is_write: op.writes.is_some(),
            value: op.writes.clone().or_else(|| op.answer.as_ref().and_then(|(_, value)| value.clone())),
        })
        .collect()
    }

    fn fail(&mut self, why: String) {
        self.violation.get_or_insert(why);
    }
}

impl Opened {
    /// Whether this state has that version of the key, or a later one.
    fn covers(&self, seq: u64, value: &Option<Arc<str>>) -> bool {
        self.seq > seq || (self.seq == seq && self.value == *value)
    }
}
