//! What clients saw, and what every answer's version says about it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kv_node::protocol::etag::Etag;
use kv_node::protocol::leader::{self, Condition};
use kv_node::protocol::types::{Epoch, Record, Version};
use kv_node::protocol::value::Value;

use super::Summary;
use super::clients::key_name;
use super::linearizability::{self, Call};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Read,
    /// Nothing deletes.
    Write(Option<Value>),
    Add(i64),
}

/// What an answer showed of a key: the sequence number and the value.
pub(crate) type Shown = (u64, Option<Value>);

/// One operation of one client, over all its attempts.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) client: Option<usize>,
    pub(crate) key: usize,
    pub(crate) act: Act,
    pub(crate) token: Option<Arc<str>>,
    /// The version that a write asks for. The sequence number 0 asks for no value.
    pub(crate) condition: Option<Shown>,
    pub(crate) marks_before: usize,
    pub(crate) attempts: u32,
    pub(crate) abandoned: bool,
    pub(crate) called_us: u64,
    returned_us: Option<u64>,
    /// A leader took it: without an answer its outcome is unknown.
    entered: bool,
    refused: bool,
    /// The condition of the write does not hold: it is a read of what refused it.
    unmet: bool,
    /// Sequence number of what was written or read; 0 when nothing was found.
    pub(crate) seq: u64,
    pub(crate) found: Option<Value>,
    /// The sum that an increment stored, if its last answer shows it.
    pub(crate) sum: Option<Value>,
}

impl Op {
    pub(crate) fn new(
        client: Option<usize>,
        key: usize,
        act: Act,
        token: Option<Arc<str>>,
        marks_before: usize,
        called_us: u64,
    ) -> Self {
        Self {
            client,
            key,
            act,
            token,
            condition: None,
            marks_before,
            attempts: 0,
            abandoned: false,
            called_us,
            returned_us: None,
            entered: false,
            refused: false,
            unmet: false,
            seq: 0,
            found: None,
            sum: None,
        }
    }

    pub(crate) fn refused(&mut self) {
        self.refused = true;
    }

    /// A key of a backup.
    pub(crate) fn is_restored(&self) -> bool {
        self.client.is_none() && self.act != Act::Read
    }

    pub(crate) fn is_acknowledged(&self) -> bool {
        self.returned_us.is_some()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.returned_us.is_some() || (self.refused && !self.entered && self.attempts <= 1)
    }

    /// The condition as a leader takes it.
    pub(crate) fn asks_for(&self) -> Condition {
        match &self.condition {
            None => Condition::Always,
            Some((0, _)) => Condition::Absent,
            Some((seq, value)) => Condition::Version(Etag::new(*seq, value.as_deref())),
        }
    }

    pub(crate) fn is_write(&self) -> bool {
        self.act != Act::Read && !self.unmet
    }

    fn value(&self) -> Option<Value> {
        match &self.act {
            _ if self.unmet => self.found.clone(),
            Act::Read => self.found.clone(),
            Act::Write(value) => value.clone(),
            Act::Add(_) => self.sum.clone(),
        }
    }

    /// What it adds.
    fn by(&self) -> Option<i64> {
        match self.act {
            Act::Add(by) if !self.unmet => Some(by),
            _ => None,
        }
    }

    /// The sum of an increment in an answer, before the answer itself.
    pub(crate) fn add_up(&mut self, sum: Option<i64>) {
        if self.returned_us.is_none() && !self.abandoned {
            self.sum = sum.map(|sum| sum.to_string().into());
        }
    }

    /// Whether a record does not refuse the write.
    fn holds_at(&self, record: Option<&Record>) -> bool {
        let value = record.and_then(|record| record.value.as_ref());
        if let Act::Add(by) = self.act {
            return leader::sum(value.map(|value| &**value), by).is_ok();
        }
        self.condition.as_ref().is_none_or(|(seq, expected)| match record {
            None => *seq == 0,
            Some(_) if *seq == 0 => value.is_none(),
            Some(found) => found.version.seq == *seq && value == expected.as_ref(),
        })
    }
}

/// The state with which a leader opened.
type State = BTreeMap<String, Record>;

/// A value, and the epoch in which it was accepted; no value for a deletion.
type Valued = (Epoch, Option<Value>);

#[derive(Default)]
pub(crate) struct History {
    pub(crate) ops: Vec<Op>,
    opened: BTreeMap<Epoch, State>,
    /// Per key and sequence number: in which epochs which value got it.
    accepted: HashMap<(String, u64), Vec<Valued>>,
    /// Per key and sequence number: the value that was acknowledged or read.
    settled: HashMap<(usize, u64), Option<Value>>,
    acknowledged: Vec<(Epoch, String, u64)>,
    failure: Option<String>,
}

impl History {
    pub(crate) fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    pub(crate) fn failed(&self) -> bool {
        self.failure.is_some()
    }

    pub(crate) fn last_opened(&self) -> Epoch {
        self.opened.keys().next_back().copied().unwrap_or_default()
    }

    /// A leader gave the operation this version.
    pub(crate) fn accepted(&mut self, op: usize, version: Version) {
        let it = &mut self.ops[op];
        it.entered = true;
        let (key, value) = (key_name(it.key), it.value());
        self.gave(key, version, value);
    }

    /// A leader gave the value this version.
    pub(crate) fn gave(&mut self, key: String, version: Version, value: Option<Value>) {
        let places = self.accepted.entry((key, version.seq)).or_default();
        if places.iter().any(|(epoch, other)| *epoch == version.epoch && *other != value) {
            self.fail(format!("version {version:?} was given twice"));
            return;
        }
        places.push((version.epoch, value));
    }

    /// A leader acknowledged it, whether or not the client hears of it.
    pub(crate) fn acknowledged(&mut self, epoch: Epoch, op: usize, seq: u64) {
        self.committed(epoch, key_name(self.ops[op].key), seq);
    }

    /// The same of any key.
    pub(crate) fn committed(&mut self, epoch: Epoch, key: String, seq: u64) {
        // A leader that opened above must have found it, even if this one counts the last confirmation only now.
        let above = self.opened.iter().filter(|(at, _)| **at > epoch);
        let without = above.filter(|(_, state)| newest(state, &key) < seq).map(|(at, _)| *at).next();
        if let Some(later) = without {
            self.fail(format!("{key:?} seq {seq} is acknowledged in {epoch}, but {later} opened without it"));
        }
        self.acknowledged.push((epoch, key, seq));
    }

    pub(crate) fn opened(&mut self, epoch: Epoch, state: State) {
        let before = self.acknowledged.iter().filter(|(at, ..)| *at < epoch);
        let lost = before.filter(|(_, key, seq)| newest(&state, key) < *seq).max_by_key(|(_, _, seq)| *seq);
        if let Some((at, key, seq)) = lost.cloned() {
            self.fail(format!("{epoch} opens without {key} seq {seq}, which {at} acknowledged"));
        }
        for (key, record) in &state {
            self.observe(key.clone(), record.version.seq, record.value.clone(), epoch);
        }
        self.opened.insert(epoch, state);
    }

    /// A value shown by a leader of this epoch must be in every state that leaders since its acceptance opened with.
    fn observe(&mut self, key: String, seq: u64, value: Option<Value>, epoch: Epoch) {
        let given = self.accepted.get(&(key.clone(), seq)).into_iter().flatten();
        let born = given.filter(|(at, other)| *at <= epoch && *other == value).map(|(at, _)| *at).max();
        let Some(born) = born else {
            self.fail(format!("{key} seq {seq} shows a value that nobody wrote there"));
            return;
        };
        let passed = self.opened.iter().find(|(at, state)| {
            **at > born
                && **at <= epoch
                && state
                    .get(&key)
                    .is_none_or(|found| found.version.seq < seq || (found.version.seq == seq && found.value != value))
        });
        if let Some((passed, _)) = passed {
            let passed = *passed;
            self.fail(format!("{key} seq {seq} of {born} shows in {epoch}, though {passed} opened without it"));
        }
    }

    pub(crate) fn read(&mut self, op: usize, record: Option<Record>, epoch: Epoch, now_us: u64) {
        let key = key_name(self.ops[op].key);
        if let Some(record) = &record {
            self.observe(key, record.version.seq, record.value.clone(), epoch);
        }
        self.ops[op].found = record.as_ref().and_then(|record| record.value.clone());
        self.answer(op, record.map_or(0, |record| record.version.seq), now_us);
    }

    /// The leader refused the write because of this record.
    pub(crate) fn unmet(&mut self, op: usize, record: Option<Record>, epoch: Epoch, now_us: u64) {
        let it = &mut self.ops[op];
        if it.abandoned || it.returned_us.is_some() {
            return;
        }
        it.unmet = true;
        if it.holds_at(record.as_ref()) {
            let (act, condition) = (&it.act, &it.condition);
            let why = format!("op {op} is refused by {record:?}, though {act:?} with {condition:?} holds");
            self.failure.get_or_insert(why);
        }
        self.read(op, record, epoch, now_us);
    }

    /// The last answer about a key.
    pub(crate) fn last_shown(&self, key: usize) -> Option<Shown> {
        let answered = self.ops.iter().filter(|op| op.key == key && op.returned_us.is_some());
        answered.max_by_key(|op| op.returned_us).map(|op| (op.seq, op.value()))
    }

    pub(crate) fn answer(&mut self, op: usize, seq: u64, now_us: u64) {
        let it = &mut self.ops[op];
        if it.abandoned || it.returned_us.is_some() {
            return;
        }
        it.returned_us = Some(now_us);
        it.seq = seq;
        let (key, value) = (it.key, it.value());
        // The answer to the retry of an increment may show no sum.
        let is_shown = value.is_some() || self.ops[op].unmet || !matches!(self.ops[op].act, Act::Add(_));
        if seq > 0 && is_shown && *self.settled.entry((key, seq)).or_insert_with(|| value.clone()) != value {
            self.fail(format!("op {op}: two values were shown as k{key} seq {seq}"));
        }
        let (called, write) = (self.ops[op].called_us, self.ops[op].is_write());
        if let Some((before, _)) = self.ops[op].condition.as_ref().filter(|(before, _)| write && *before > 0)
            && seq != before + 1
        {
            self.fail(format!("op {op} asks for k{key} seq {before} and is acknowledged as seq {seq}"));
        }
        let newest = self
            .ops
            .iter()
            .enumerate()
            .filter(|(_, other)| other.key == key && other.returned_us.is_some_and(|returned| returned < called));
        let newest = newest.map(|(number, other)| (other.seq, number)).max();
        if let Some((before, number)) = newest
            && (seq < before || (write && seq == before))
        {
            self.fail(format!("op {op} answers k{key} seq {seq} after op {number} answered seq {before}"));
        }
    }

    /// Everything at once, at the end.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let keys = self.ops.iter().map(|op| op.key + 1).max().unwrap_or(0);
        (0..keys).try_for_each(|key| {
            let calls = self.ops.iter().filter(|op| op.key == key && (op.returned_us.is_some() || op.entered));
            let calls = calls.filter(|op| op.is_write() || op.returned_us.is_some());
            let calls: Vec<Call<Value>> = calls
                .map(|op| Call {
                    called: op.called_us,
                    returned: op.returned_us,
                    is_write: op.is_write(),
                    // Each attempt of an increment may have a sum of its own.
                    value: op.value().filter(|_| op.by().is_none() || op.returned_us.is_some()),
                    by: op.by(),
                    expected: op.condition.as_ref().filter(|_| op.is_write()).map(|(_, value)| value.clone()),
                })
                .collect();
            linearizability::check(&calls).map_err(|why| format!("k{key} is not linearizable: {why}"))
        })
    }

    pub(crate) fn summary(&self) -> Summary {
        let writes = || self.ops.iter().filter(|op| op.is_write());
        Summary {
            acknowledged: writes().filter(|op| op.returned_us.is_some()).count(),
            unknown: writes().filter(|op| op.returned_us.is_none() && op.entered).count(),
            conditional: writes().filter(|op| op.returned_us.is_some() && op.condition.is_some()).count(),
            increments: writes().filter(|op| op.returned_us.is_some() && op.by().is_some()).count(),
            unmet: self.ops.iter().filter(|op| op.unmet).count(),
            reads: self.ops.iter().filter(|op| op.act == Act::Read && op.returned_us.is_some()).count(),
            opened: self.opened.len(),
            ..Summary::default()
        }
    }
}

/// The newest sequence number of a key in a state; 0 when it has none.
fn newest(state: &State, key: &str) -> u64 {
    state.get(key).map_or(0, |record| record.version.seq)
}
