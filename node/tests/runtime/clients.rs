//! Clients: one operation at a time each, with a limited patience, and retries under the same idempotency key.

use std::sync::Arc;
use std::time::Duration;

use kv_node::protocol::leader::{Accepted, Increment, NewWrite, Refusal};
use kv_node::protocol::value::Value;
use kv_node::replication::coordinator::{Coordinator, Placed, WriteOutcome};
use rand::RngExt;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::history::{Act, Op, Shown};
use crate::world::World;

/// How many attempts a client makes under one idempotency key.
const ATTEMPTS_MAX: u32 = 4;

/// Marked writes of a key after which a retry may not be recognised any more. Clients give up before.
const MARKED_WRITES_MAX: usize = 8;

/// How an attempt ended.
enum Ended {
    Answered,
    Refused,
    /// No answer in time, or none that says anything.
    Unknown,
}

impl World {
    /// One client, until clients end.
    pub(crate) async fn client(self: Arc<Self>, client: usize) {
        loop {
            sleep(self.wait_ms(60)).await;
            let (key, act, condition, marked, gone) = {
                let state = &mut *self.state.lock();
                if !state.clients_on {
                    return;
                }
                let op = state.history.ops.len();
                let act = match state.rng.random_range(0..10) {
                    0..=2 if self.plan.counters => Act::Add(op as i64 + 1),
                    0..=4 => Act::Write(Some(self.value(op))),
                    5 => Act::Write(None),
                    _ => Act::Read,
                };
                let marked = act != Act::Read && state.rng.random_bool(0.4);
                let key = state.rng.random_range(0..self.plan.keys);
                let is_conditional = matches!(act, Act::Write(_)) && state.rng.random_bool(0.3);
                let condition = is_conditional.then(|| state.history.last_shown(key).unwrap_or_default());
                (key, act, condition, marked, state.rng.random_bool(0.02))
            };
            let patience = self.wait_ms(600) + Duration::from_millis(50);
            self.note(|| format!("client {client} begins"));
            self.operate(key, act, condition, marked, gone, patience).await;
        }
    }

    /// A value that no other operation writes, longer than a frame or a message where the plan says so. Where clients
    /// increment, half of the values are numbers.
    fn value(&self, op: usize) -> Value {
        if self.plan.counters && op.is_multiple_of(2) {
            return format!("{op}000000").into();
        }
        format!("v{op}-{}", "x".repeat(self.plan.value_bytes)).into()
    }

    /// Writes the keys that make the state long, each once.
    pub(crate) async fn fill(self: &Arc<Self>) {
        for key in self.plan.keys..self.plan.keys + self.plan.filled_keys {
            let value = self.value(self.state.lock().history.ops.len());
            if !self.operate(key, Act::Write(Some(value)), None, false, false, Duration::from_secs(5)).await {
                self.fail(format!("liveness: k{key} is not written though nothing fails"));
            }
        }
    }

    /// One operation with all its attempts. Returns whether it was answered.
    pub(crate) async fn operate(
        self: &Arc<Self>,
        key: usize,
        act: Act,
        condition: Option<Shown>,
        marked: bool,
        gone: bool,
        patience: Duration,
    ) -> bool {
        let Some((_, leader)) = self.pick_leader() else { return false };
        let op = {
            let state = &mut *self.state.lock();
            let ops = &mut state.history.ops;
            let op = ops.len();
            let marks = ops.iter().filter(|other| other.key == key && other.token.is_some()).count();
            let token: Option<Arc<str>> = marked.then(|| format!("t{op}").into());
            let mut new = Op::new(None, key, act, token, marks, self.now_us());
            new.condition = condition;
            ops.push(new);
            op
        };
        let mut leader = leader;
        for attempt in 1..=ATTEMPTS_MAX {
            self.state.lock().history.ops[op].attempts = attempt;
            match self.attempt(op, leader, gone, patience).await {
                Ended::Answered => return true,
                Ended::Refused => self.state.lock().history.ops[op].refused(),
                Ended::Unknown => {}
            }
            let retries = {
                let ops = &self.state.lock().history.ops;
                let it = &ops[op];
                let marked = ops.iter().filter(|other| other.key == key && other.token.is_some()).count();
                it.token.is_some() && !it.is_over() && marked - it.marks_before < MARKED_WRITES_MAX
            };
            match self.pick_leader().filter(|_| retries) {
                Some((number, next)) => {
                    self.note(|| format!("op {op}: attempt {attempt} is given up, next at L{number}"));
                    leader = next;
                }
                None => break,
            }
        }
        self.state.lock().history.ops[op].abandoned = true;
        false
    }

    /// Clients find any leader that opened, also one that was replaced and does not know it.
    fn pick_leader(&self) -> Option<(usize, Arc<Coordinator>)> {
        let state = &mut *self.state.lock();
        let serving = state.leads.iter().enumerate().filter(|(_, lead)| lead.serving);
        let serving: Vec<_> = serving.filter_map(|(number, lead)| Some((number, lead.coordinator.clone()?))).collect();
        if serving.is_empty() {
            return None;
        }
        let at = state.rng.random_range(0..serving.len());
        serving.into_iter().nth(at)
    }

    async fn attempt(self: &Arc<Self>, op: usize, leader: Arc<Coordinator>, gone: bool, patience: Duration) -> Ended {
        let Op { key, act, token, .. } = self.state.lock().history.ops[op].clone();
        let key = key_name(key);
        match act {
            Act::Read => match timeout(patience, leader.read(&key)).await {
                Ok(Ok(record)) => {
                    self.note(|| format!("op {op}: read {:?}", record.as_ref().map(|record| record.version)));
                    self.state.lock().history.read(op, record, leader.epoch(), self.now_us());
                    Ended::Answered
                }
                Ok(Err(_)) => Ended::Refused,
                Err(_) => Ended::Unknown,
            },
            Act::Write(value) => {
                let now_us = leader.now_us();
                let new = NewWrite { key: key.into(), value, retry_token: token, explain: false, now_us };
                let condition = self.state.lock().history.ops[op].asks_for();
                let key = new.key.clone();
                let placed = leader.put_if(new, condition);
                self.placed(op, &leader, &key, placed, gone, patience).await
            }
            Act::Add(by) => {
                let new = Increment { key: key.into(), by, retry_token: token, now_us: leader.now_us() };
                let key = new.key.clone();
                let placed = leader.increment(new).map(|(placed, sum)| {
                    self.state.lock().history.ops[op].add_up(sum);
                    placed
                });
                self.placed(op, &leader, &key, placed, gone, patience).await
            }
        }
    }

    /// What a leader made of one attempt of a write.
    async fn placed(
        self: &Arc<Self>,
        op: usize,
        leader: &Arc<Coordinator>,
        key: &str,
        placed: Result<Placed, Refusal>,
        gone: bool,
        patience: Duration,
    ) -> Ended {
        let Placed { accepted, outcome, .. } = match placed {
            Ok(placed) => placed,
            Err(Refusal::TokenReused { .. }) => {
                self.fail(format!("op {op} is taken for a reuse of its own idempotency key"));
                return Ended::Refused;
            }
            Err(refusal) => {
                self.note(|| format!("op {op}: {refusal}"));
                return Ended::Refused;
            }
        };
        self.note(|| format!("op {op}: {key} {accepted:?}"));
        let seq = match accepted {
            Accepted::Pending { seq } => seq,
            Accepted::Unmet => return self.unmet(op, leader, outcome, patience).await,
            Accepted::AlreadyCommitted { seq } => {
                self.state.lock().history.answer(op, seq, self.now_us());
                return Ended::Answered;
            }
        };
        // A retry that joined an earlier attempt was entered by that one.
        let latest = leader.latest(key).ok().flatten();
        if let Some((record, _)) = latest.filter(|(record, _)| record.version.seq == seq) {
            self.state.lock().history.accepted(op, record.version);
        }
        if gone {
            return Ended::Unknown;
        }
        // What was committed counts also when the client has stopped to wait for it.
        let world = self.clone();
        let committed = tokio::spawn(async move {
            let Ok(WriteOutcome::Committed(receipt)) = outcome.await else { return None };
            world.note(|| format!("op {op}: committed as {}", receipt.seq));
            world.state.lock().history.acknowledged(receipt.epoch, op, receipt.seq);
            Some(receipt.seq)
        });
        match timeout(patience, committed).await {
            Ok(Ok(Some(seq))) => {
                self.state.lock().history.answer(op, seq, self.now_us());
                Ended::Answered
            }
            _ => Ended::Unknown,
        }
    }

    /// Waits for the record that refuses a write.
    async fn unmet(
        &self,
        op: usize,
        leader: &Coordinator,
        outcome: oneshot::Receiver<WriteOutcome>,
        patience: Duration,
    ) -> Ended {
        let Ok(Ok(WriteOutcome::Unmet(found))) = timeout(patience, outcome).await else { return Ended::Unknown };
        let state = &mut *self.state.lock();
        if state.history.ops[op].attempts > 1 {
            // An earlier attempt may have been applied, and may even be what refuses this one.
            return Ended::Unknown;
        }
        state.history.unmet(op, found.map(|record| *record), leader.epoch(), self.now_us());
        Ended::Answered
    }
}

pub(crate) fn key_name(key: usize) -> String {
    format!("k{key}")
}
