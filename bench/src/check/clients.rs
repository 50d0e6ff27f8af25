//! Clients: each has one operation under way, and records each answer and its time.

mod http;
mod keys;
mod redis;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use kv_node::protocol::types::Epoch;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use self::{
    http::Http,
    keys::{Key, Kind, Step},
    redis::Redis,
};
use super::{
    history::{Action, Before, Clock, Condition, Operation, OperationOutcome},
    target::{Endpoint, Endpoints},
};
use crate::commands::Protocol;

/// How often a write is sent under one idempotency key.
const ATTEMPTS_MAX: u32 = 5;
/// No retry begins later than this after its write: the nodes remember a bounded number of idempotency keys.
const RETRY_MAX_US: u64 = 5_000_000;
/// Numbers that are written to a counter are smaller than this, and not smaller than the negative of it.
const NUMBER_END: i64 = 1 << 40;

/// What clients do.
#[derive(Clone, Debug, Serialize)]
pub struct Load {
    /// How many there are.
    pub clients: u32,
    /// How many keys they share.
    pub keys: u32,
    /// Operations a second that they aim at, all together.
    pub rate: f64,
    /// How they ask leaders: client N in the protocol N modulo their number.
    pub protocols: Vec<Protocol>,
    /// What a client waits for an answer, in ms.
    pub timeout_ms: u32,
    /// Seed of what they do.
    pub seed: u64,
}

/// How many operations there were so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// All of them.
    pub operations: AtomicU64,
    /// Writes that were acknowledged.
    pub acknowledged: AtomicU64,
}

/// What all clients share.
#[derive(Debug)]
pub struct Clients {
    load: Load,
    /// Prefix that separates the keys and tokens of this run from those of others in the same cluster.
    run: String,
    clock: Clock,
    http: Http,
    endpoints: watch::Receiver<Endpoints>,
    keys: Vec<Key>,
    written: mpsc::UnboundedSender<Operation>,
    stopped: AtomicBool,
    /// How far they are.
    pub counters: Counters,
}

/// What an answer shows; each has its part of this.
#[derive(Debug, Default)]
struct Answer {
    value: Option<Arc<str>>,
    seq: Option<u64>,
    epoch: Option<Epoch>,
    staleness_ms: Option<f64>,
    etag: Option<String>,
    before: Option<Before>,
}

/// One client.
#[derive(Debug)]
struct Client {
    number: u32,
    rng: SmallRng,
    /// Where it asks over Redis' protocol.
    redis: Option<Redis>,
}

/// What one attempt of a write brought, with the words of a node or of this client where it is not committed.
#[derive(Debug)]
enum Attempt {
    Committed(Answer),
    Unmet(Answer, String),
    NotApplied(String),
    Unknown(Answer, String),
}

impl Clients {
    /// Clients of these nodes; what they see goes to `written`.
    pub fn new(
        load: Load,
        run: String,
        clock: Clock,
        client: reqwest::Client,
        endpoints: watch::Receiver<Endpoints>,
        written: mpsc::UnboundedSender<Operation>,
    ) -> Self {
        let http = Http { client, timeout: Duration::from_millis(load.timeout_ms.into()) };
        let keys = (0..load.keys).map(|number| Key::new(&run, number)).collect();
        let (stopped, counters) = (AtomicBool::new(false), Counters::default());
        Self { load, run, clock, http, endpoints, keys, written, stopped, counters }
    }

    /// No client begins anything after this.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// One client, until all are stopped; it ends with no operation under way.
    pub async fn client(self: Arc<Self>, number: u32) {
        let seed = self.load.seed ^ (u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let protocol = self.load.protocols.get(number as usize % self.load.protocols.len().max(1));
        let redis = (protocol == Some(&Protocol::Redis)).then(|| Redis::new(self.http.timeout));
        let mut client = Client { number, rng: SmallRng::seed_from_u64(seed), redis };
        let pause_us = (2e6 * f64::from(self.load.clients) / self.load.rate) as u64;
        let mut count = 0_u64;
        loop {
            sleep(Duration::from_micros(client.rng.random_range(0..=pause_us))).await;
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            let key = &self.keys[client.rng.random_range(0..self.keys.len())];
            count += 1;
            let operation = match client.rng.random_range(0..100) {
                0..45 => self.write(&mut client, key, count).await,
                45..80 => self.get(&mut client, key, key.name()).await,
                _ => self.local_get(&mut client, key).await,
            };
            let refused = matches!(operation.outcome, OperationOutcome::NotApplied | OperationOutcome::Failed);
            self.write_down(operation);
            if refused {
                // While no node serves, asking faster shows nothing new.
                sleep(Duration::from_millis(client.rng.random_range(20..100))).await;
            }
        }
    }

    /// A linearizable read of every key by one more client, over HTTP, once all others have ended.
    pub async fn final_reads(&self) {
        let rng = SmallRng::seed_from_u64(self.load.seed);
        let mut client = Client { number: self.load.clients, rng, redis: None };
        for key in &self.keys {
            for name in key.names() {
                self.write_down(self.get(&mut client, key, name).await);
            }
        }
    }

    fn write_down(&self, operation: Operation) {
        self.counters.operations.fetch_add(1, Ordering::Relaxed);
        if operation.is_write() && operation.is_answered() {
            self.counters.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        // The receiver ends after the clients.
        let _ = self.written.send(operation);
    }

    fn begin(&self, client: &Client, action: Action, key: Arc<str>, value: Option<Arc<str>>) -> Operation {
        Operation {
            client: client.number,
            protocol: if client.redis.is_some() { Protocol::Redis } else { Protocol::Http },
            action,
            key,
            value,
            by: None,
            condition: None,
            before: None,
            node: "".into(),
            incarnation: None,
            called_us: self.clock.now_us(),
            ended_us: 0,
            outcome: OperationOutcome::Failed,
            seq: None,
            epoch: None,
            staleness_ms: None,
            attempts: 0,
            detail: None,
        }
    }

    fn pick(&self, client: &mut Client, among: impl Fn(&Endpoints) -> &[Endpoint]) -> Option<Endpoint> {
        let endpoints = self.endpoints.borrow();
        let all = among(&endpoints);
        (!all.is_empty()).then(|| all[client.rng.random_range(0..all.len())].clone())
    }

    async fn write(&self, client: &mut Client, key: &Key, count: u64) -> Operation {
        let name = format!("c{}-{count}", client.number);
        // Redis' protocol has no idempotency keys.
        let may_retry = client.redis.is_none() && client.rng.random_bool(0.6) && key.may_mark(self.clock.now_us());
        let token = may_retry.then(|| format!("{}{name}", self.run));
        match key.kind {
            Kind::Counter if client.rng.random_bool(0.9) => self.increment(client, key, token).await,
            Kind::Counter => {
                let value = client.rng.random_range(-NUMBER_END..NUMBER_END).to_string();
                let operation = self.begin(client, Action::Put, key.name(), Some(value.into()));
                self.send(client, key, operation, token, None).await
            }
            Kind::Deleted if client.rng.random_bool(0.2) => {
                let operation = self.begin(client, Action::Delete, key.name(), None);
                // DEL says whether there was something to delete.
                let condition = client.redis.is_some().then_some(Condition::Present);
                self.send(client, key, Operation { condition, ..operation }, token, None).await
            }
            Kind::Register | Kind::Deleted => {
                let (condition, etag) = self.condition(client, key);
                let operation = self.begin(client, Action::Put, key.name(), Some(name.into()));
                self.send(client, key, Operation { condition, ..operation }, token, etag).await
            }
        }
    }

    async fn increment(&self, client: &mut Client, key: &Key, token: Option<String>) -> Operation {
        let step: Step = key.step();
        let operation = self.begin(client, Action::Increment, step.key.clone(), None);
        let operation = self.send(client, key, Operation { by: Some(step.by()), ..operation }, token, None).await;
        if operation.outcome != OperationOutcome::Unknown {
            key.settles(&step);
        }
        operation
    }

    /// The condition of a write, and the ETag that it names; most writes have none.
    fn condition(&self, client: &mut Client, key: &Key) -> (Option<Condition>, Option<String>) {
        let Client { rng, redis, .. } = client;
        if rng.random_bool(0.6) {
            return (None, None);
        }
        if redis.is_some() {
            return (Some(if rng.random_bool(0.5) { Condition::Absent } else { Condition::Present }), None);
        }
        match key.shown().filter(|_| rng.random_bool(0.9)) {
            Some((etag, version)) => (Some(version), Some(etag)),
            None => (Some(Condition::Absent), None),
        }
    }

    /// Sends a write until its outcome is known, or it has no token under which it may be sent again.
    async fn send(
        &self,
        client: &mut Client,
        key: &Key,
        mut operation: Operation,
        token: Option<String>,
        etag: Option<String>,
    ) -> Operation {
        // Once an attempt has an unknown outcome, a later refusal does not take it back.
        let mut uncertain = false;
        let asks_before = client.redis.is_some() && operation.action == Action::Put && client.rng.random_bool(0.4);
        while let Some(Endpoint { name, url, redis, .. }) = self.pick(client, |endpoints| &endpoints.leaders) {
            operation.attempts += 1;
            operation.node = name;
            let attempt = match &mut client.redis {
                Some(connections) => connections.write(&redis, &operation, asks_before).await,
                None => self.http.write(&url, &operation, token.as_deref(), etag.as_deref()).await,
            };
            operation.ended_us = self.clock.now_us();
            match attempt {
                Attempt::Committed(answer) => {
                    operation.outcome = OperationOutcome::Answered;
                    operation.detail = None;
                    operation.told(&answer);
                    operation.before = answer.before;
                    if operation.action == Action::Increment {
                        operation.value = answer.value;
                    }
                    key.note(&operation, answer.etag);
                    return operation;
                }
                Attempt::Unmet(answer, _) if !uncertain => {
                    operation.action = Action::Unmet;
                    operation.outcome = OperationOutcome::Answered;
                    operation.told(&answer);
                    operation.value = answer.value;
                    operation.key_was_never_written();
                    key.note(&operation, answer.etag);
                    return operation;
                }
                // An earlier attempt may have been applied, and may even be what refuses this one.
                Attempt::Unmet(_, why) => {
                    operation.detail = Some(why);
                    return operation;
                }
                Attempt::NotApplied(why) if !uncertain => {
                    operation.outcome = OperationOutcome::NotApplied;
                    operation.detail = Some(why);
                    return operation;
                }
                Attempt::NotApplied(why) => operation.detail = Some(why),
                Attempt::Unknown(answer, why) => {
                    uncertain = true;
                    operation.outcome = OperationOutcome::Unknown;
                    operation.detail = Some(why);
                    operation.told(&answer);
                }
            }
            let elapsed_us = operation.ended_us - operation.called_us;
            if token.is_none() || operation.attempts >= ATTEMPTS_MAX || elapsed_us > RETRY_MAX_US {
                return operation;
            }
            sleep(Duration::from_millis(client.rng.random_range(10..200))).await;
        }
        operation.ended_us = self.clock.now_us();
        if !uncertain {
            operation.outcome = OperationOutcome::NotApplied;
        }
        operation
    }

    async fn get(&self, client: &mut Client, key: &Key, name: Arc<str>) -> Operation {
        let mut operation = self.begin(client, Action::Get, name, None);
        if let Some(leader) = self.pick(client, |endpoints| &endpoints.leaders) {
            operation.node = leader.name;
            operation.attempts = 1;
            let answer = match &mut client.redis {
                Some(connections) => connections.read(&leader.redis, &operation.key).await,
                None => self.http.read(&leader.url, &operation.key).await,
            };
            if let Some(etag) = operation.shows(answer) {
                key.note(&operation, Some(etag));
            }
        }
        operation.ended_us = self.clock.now_us();
        if operation.is_answered() {
            operation.key_was_never_written();
        }
        operation
    }

    /// A read at a follower, over HTTP.
    async fn local_get(&self, client: &mut Client, key: &Key) -> Operation {
        let mut operation = self.begin(client, Action::LocalGet, key.name(), None);
        operation.protocol = Protocol::Http;
        let Some(follower) = self.pick(client, |endpoints| &endpoints.followers) else {
            operation.ended_us = self.clock.now_us();
            return operation;
        };
        operation.node = follower.name.clone();
        operation.attempts = 1;
        let answer = self.http.read(&follower.url, &operation.key).await;
        operation.ended_us = self.clock.now_us();
        operation.shows(answer);
        // Only where no other life of the process can have answered.
        let endpoints = self.endpoints.borrow();
        let now = endpoints.followers.iter().find(|now| now.name == follower.name);
        operation.incarnation = now.filter(|now| **now == follower).and_then(|now| now.incarnation);
        operation
    }
}

impl Key {
    /// An answer showed a version to a client.
    fn note(&self, operation: &Operation, etag: Option<String>) {
        if let Some((etag, seq)) = etag.zip(operation.seq) {
            self.shows(etag, Condition::Version { seq, value: operation.value.clone() });
        }
    }
}

impl Operation {
    fn told(&mut self, answer: &Answer) {
        (self.seq, self.epoch, self.staleness_ms) = (answer.seq, answer.epoch, answer.staleness_ms);
    }

    /// What the answer to a read shows. Returns the ETag.
    fn shows(&mut self, answer: Result<Answer, String>) -> Option<String> {
        match answer {
            Ok(answer) => {
                self.outcome = OperationOutcome::Answered;
                self.told(&answer);
                self.value = answer.value;
                answer.etag
            }
            Err(why) => {
                self.detail = Some(why);
                None
            }
        }
    }

    /// Over HTTP a leader shows a sequence number of every key that was ever written.
    fn key_was_never_written(&mut self) {
        if self.protocol == Protocol::Http {
            self.seq.get_or_insert(0);
        }
    }
}
