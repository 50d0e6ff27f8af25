//! Clients: one operation at a time each, with a limited patience, and retries under the same idempotency key.

use std::sync::Arc;

use kv_node::protocol::leader::{self, Accepted, Condition, Increment, Incremented, NewWrite, ReadOf, Refusal};
use kv_node::protocol::types::{Record, Version};
use kv_node::protocol::value::Value;
use rand::RngExt;

use super::history::{Act, Op, Shown};
use super::{Event, World, note};
use crate::mutation::Mutation;

/// How many attempts a client makes under one idempotency key.
const ATTEMPTS_MAX: u32 = 4;

/// Marked writes of a key after which a retry may not be recognised any more; clients give up before that.
const MARKED_WRITES_MAX: usize = 8;

#[derive(Default)]
pub(crate) struct Client {
    busy: bool,
}

impl World {
    pub(crate) fn client_acts(&mut self, client: usize) {
        if !self.clients_on {
            return;
        }
        let wait = self.wait(20_000);
        self.after(wait, Event::Client(client));
        if self.clients[client].busy {
            return;
        }
        let Some(leader) = self.pick_leader() else {
            return;
        };
        let key = self.rng.random_range(0..self.plan.keys);
        let op = self.history.ops.len();
        let act = match self.rng.random_range(0..10) {
            0..=2 if self.plan.counters => Act::Add(op as i64 + 1),
            0..=4 => Act::Write(Some(self.value(op))),
            5 => Act::Write(None),
            _ => Act::Read,
        };
        let marked = act != Act::Read && self.chance(0.4);
        let condition = if matches!(act, Act::Write(_)) { self.condition(key) } else { None };
        let op = self.begin(Some(client), key, act, marked);
        self.history.ops[op].condition = condition;
        self.clients[client].busy = true;
        self.attempt(op, leader);
    }

    /// The condition of a write; most have none.
    fn condition(&mut self, key: usize) -> Option<Shown> {
        let conditional = self.chance(0.3);
        let absent = self.chance(0.2);
        let shown = self.history.last_shown(key).filter(|_| !absent).unwrap_or_default();
        conditional.then_some(shown)
    }

    /// A value that no other operation writes. Where clients increment, half of the values are numbers.
    pub(crate) fn value(&self, op: usize) -> Value {
        let is_number = self.plan.counters && op.is_multiple_of(2);
        if is_number { format!("{op}000000").into() } else { format!("v{op}").into() }
    }

    /// Clients find any leader that answers, also one that was replaced and does not know it.
    pub(crate) fn pick_leader(&mut self) -> Option<usize> {
        let open: Vec<usize> = (0..self.leads.len())
            .filter(|number| !self.leads[*number].dead && self.leads[*number].leader.is_open())
            .collect();
        self.pick(&open)
    }

    pub(crate) fn begin(&mut self, client: Option<usize>, key: usize, act: Act, marked: bool) -> usize {
        let op = self.history.ops.len();
        let marks = self.history.ops.iter().filter(|other| other.key == key && other.token.is_some()).count();
        let token: Option<Arc<str>> = marked.then(|| format!("t{op}").into());
        self.history.ops.push(Op::new(client, key, act, token, marks, self.now_us));
        op
    }

    /// Sends the operation to a leader once.
    pub(crate) fn attempt(&mut self, op: usize, leader: usize) {
        let it = &mut self.history.ops[op];
        it.attempts += 1;
        let attempt = it.attempts;
        if self.history.ops[op].client.is_some() {
            let patience = self.rng.random_range(20_000..200_000);
            self.after(patience, Event::Impatient { op, attempt });
        }
        if self.leads[leader].paused {
            // It lies in a socket that nobody reads; a leader that goes on later finds it abandoned.
            return;
        }
        let Op { key, act, token, .. } = self.history.ops[op].clone();
        let key: Arc<str> = key_name(key).into();
        note!(self, "op {op} at L{leader}: {key} {act:?} {token:?} attempt {attempt}");
        match act {
            Act::Read => {
                let unchecked = self.mutated_reads_without_asking();
                let mut taken = Ok(());
                self.drive(leader, |lead| {
                    if !unchecked {
                        // Every kind of linearizable read.
                        taken = match op % 3 {
                            0 => lead.read(op),
                            1 => lead.read_in_order(&key, ReadOf::Committed, op),
                            _ => lead.read_in_order(&key, ReadOf::Accepted, op),
                        };
                    }
                });
                if unchecked {
                    self.client_reads(leader, op);
                } else if taken.is_err() {
                    self.history.ops[op].refused();
                    self.release(op);
                }
            }
            Act::Write(value) => self.put(op, leader, key, value, token),
            Act::Add(by) => self.add(op, leader, key, by, token),
        }
    }

    fn add(&mut self, op: usize, leader: usize, key: Arc<str>, by: i64, token: Option<Arc<str>>) {
        let now_us = self.now_us;
        // A retry would be no retry: another sum is another value.
        let of_committed = self.plan.mutation == Some(Mutation::IncrementsOfCommittedRecords) && token.is_none();
        let mut taken = Err(Refusal::Recovering);
        let mut sum = None;
        let mut entered = None;
        self.drive(leader, |lead| {
            let committed = lead.committed(&key).and_then(|record| record.value.clone());
            let incremented = match leader::sum(committed.as_deref(), by) {
                Ok(sum) if of_committed => {
                    let (key, value) = (key.clone(), Some(sum.to_string().into()));
                    let new = NewWrite { key, value, retry_token: None, explain: false, now_us };
                    lead.put(new, op).map(|accepted| Incremented { accepted, sum: Some(sum) })
                }
                _ => lead.increment(Increment { key: key.clone(), by, retry_token: token, now_us }, op),
            };
            sum = incremented.as_ref().ok().and_then(|incremented| incremented.sum);
            taken = incremented.map(|incremented| incremented.accepted);
            let newest = lead.latest(&key).map(|(record, _)| record.version);
            entered = newest.filter(|version| taken == Ok(Accepted::Pending { seq: version.seq }));
        });
        self.leads[leader].sums.insert(op, sum);
        self.history.ops[op].add_up(sum);
        self.taken(op, taken, entered);
    }

    fn put(&mut self, op: usize, leader: usize, key: Arc<str>, value: Option<Value>, token: Option<Arc<str>>) {
        let now_us = self.now_us;
        let (asked, condition) = (self.history.ops[op].condition.clone(), self.history.ops[op].asks_for());
        let of_committed = self.plan.mutation == Some(Mutation::ConditionsOfCommittedRecords);
        let new = NewWrite { key: key.clone(), value: value.clone(), retry_token: token, explain: false, now_us };
        let mut taken = Err(Refusal::Recovering);
        let mut entered = None;
        self.drive(leader, |lead| {
            let shown = lead.committed(&key).map_or((0, None), |record| (record.version.seq, record.value.clone()));
            let condition = if of_committed && asked == Some(shown) { Condition::Always } else { condition };
            taken = lead.put_if(new, condition, op);
            let newest = lead.latest(&key).map(|(record, _)| record.version);
            entered = newest.filter(|version| taken == Ok(Accepted::Pending { seq: version.seq }));
        });
        let at_once = self.plan.mutation == Some(Mutation::RefusesAtOnce);
        if taken == Ok(Accepted::Unmet) && at_once {
            let found = self.leads[leader].leader.latest(&key).map(|(record, _)| record.clone());
            self.client_read(leader, op, found);
        }
        self.taken(op, taken, entered);
    }

    /// What a leader made of one attempt of a write. `entered` is its version, if it is new.
    fn taken(&mut self, op: usize, taken: Result<Accepted, Refusal>, entered: Option<Version>) {
        note!(self, "op {op}: {taken:?}");
        match taken {
            Ok(Accepted::Pending { .. }) => {
                // A retry that joined an earlier attempt was entered by that one.
                if let Some(version) = entered {
                    self.history.accepted(op, version);
                }
            }
            Ok(Accepted::Unmet) => {}
            Ok(Accepted::AlreadyCommitted { seq }) => self.client_acknowledged(op, seq),
            Err(Refusal::TokenReused { .. }) => {
                self.history.fail(format!("op {op} was taken for a reuse of its own idempotency key"));
            }
            Err(_) => self.history.ops[op].refused(),
        }
        if self.history.ops[op].is_over() {
            self.release(op);
        }
    }

    pub(crate) fn client_acknowledged(&mut self, op: usize, seq: u64) {
        // Killed between the last confirmation and the answer: the client never learns.
        if self.plan.faults && self.chance(0.02) {
            note!(self, "op {op}: the answer is lost");
            return;
        }
        note!(self, "op {op}: acknowledged as {seq}");
        self.must_be_shown(op);
        self.history.answer(op, seq, self.now_us);
        self.release(op);
    }

    pub(crate) fn client_reads(&mut self, leader: usize, op: usize) {
        let name = key_name(self.history.ops[op].key);
        let lead = &self.leads[leader].leader;
        let record = lead.committed(&name).cloned();
        self.client_read(leader, op, record);
    }

    /// This record answers a read or refuses a write.
    pub(crate) fn client_read(&mut self, leader: usize, op: usize, record: Option<Record>) {
        let epoch = self.leads[leader].leader.epoch();
        note!(self, "op {op}: read {record:?}");
        let Op { act, attempts, .. } = &self.history.ops[op];
        let is_refusal = *act != Act::Read;
        if is_refusal && *attempts > 1 {
            // An earlier attempt may have been applied, and may even be what refuses this one.
            return self.client_uncertain(op);
        }
        self.must_be_shown(op);
        if is_refusal {
            self.history.unmet(op, record, epoch, self.now_us);
        } else {
            self.history.read(op, record, epoch, self.now_us);
        }
        self.release(op);
    }

    /// A client is answered: no restore that hides everything may have begun before it asked.
    fn must_be_shown(&mut self, op: usize) {
        let Op { client, called_us, .. } = &self.history.ops[op];
        if let Some(since_us) = self.restorer.hides_since_us.filter(|since| client.is_some() && called_us > since) {
            self.history.fail(format!("op {op} is answered, though a restore hides everything since {since_us}"));
        }
    }

    pub(crate) fn client_uncertain(&mut self, op: usize) {
        let attempt = self.history.ops[op].attempts;
        self.client_gives_up(op, attempt);
    }

    pub(crate) fn client_gives_up(&mut self, op: usize, attempt: u32) {
        let it = &self.history.ops[op];
        if it.is_over() || it.attempts != attempt || it.abandoned {
            return;
        }
        let marked = self.history.ops.iter().filter(|other| other.key == it.key && other.token.is_some()).count();
        // A restore replaces the marks of a key too: a retry of an earlier write would be a new write.
        let replaced = self.history.ops[op..].iter().any(|other| other.is_restored() && other.key == it.key);
        let retries = it.client.is_some()
            && it.token.is_some()
            && !replaced
            && attempt < ATTEMPTS_MAX
            && marked - it.marks_before < MARKED_WRITES_MAX;
        let leader = if retries { self.pick_leader() } else { None };
        note!(self, "op {op}: attempt {attempt} is given up, next at {leader:?}");
        match leader {
            Some(leader) => self.attempt(op, leader),
            None => {
                self.history.ops[op].abandoned = true;
                self.release(op);
            }
        }
    }

    fn release(&mut self, op: usize) {
        if let Some(client) = self.history.ops[op].client {
            self.clients[client].busy = false;
        }
    }
}

pub(crate) fn key_name(key: usize) -> String {
    format!("k{key}")
}
