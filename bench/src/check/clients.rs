//! Clients: each has one operation under way, and records each answer and its time.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use reqwest::{RequestBuilder, StatusCode, header::ETAG};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{
    history::{Action, Clock, Condition, Operation, OperationOutcome, parse_epoch},
    target::{Endpoint, Endpoints},
};

/// How often a write is sent under one idempotency key.
const ATTEMPTS_MAX: u32 = 5;
/// No retry begins later than this after its write: the nodes remember a bounded number of idempotency keys.
const RETRY_MAX_US: u64 = 5_000_000;
/// A key remembers its last 16 idempotency keys. So many are used in [`MARKS_WINDOW_US`] at most, which leaves room for
/// retries, and for attempts that lay in a paused node's socket.
const MARKS_MAX: usize = 10;
const MARKS_WINDOW_US: u64 = 12_000_000;

/// What clients do.
#[derive(Clone, Debug, Serialize)]
pub struct Load {
    /// How many there are.
    pub clients: u32,
    /// How many keys they share.
    pub keys: u32,
    /// Operations a second that they aim at, all together.
    pub rate: f64,
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
    http: reqwest::Client,
    endpoints: watch::Receiver<Endpoints>,
    keys: Vec<Key>,
    written: mpsc::UnboundedSender<Operation>,
    stopped: AtomicBool,
    /// How far they are.
    pub counters: Counters,
}

#[derive(Debug)]
struct Key {
    name: Arc<str>,
    /// When writes with an idempotency key began, the latest last.
    marks: Mutex<VecDeque<u64>>,
    /// The last version that an answer showed, and its ETag.
    shown: Mutex<Option<(String, Condition)>>,
}

/// An answer's body; each has its part of this.
#[derive(Debug, Default, Deserialize)]
struct Answer {
    value: Option<String>,
    seq: Option<u64>,
    epoch: Option<String>,
    staleness_ms: Option<f64>,
    message: Option<String>,
    error: Option<String>,
    outcome: Option<String>,
    #[serde(skip)]
    etag: Option<String>,
}

/// What one attempt of a write brought.
#[derive(Debug)]
enum Attempt {
    Committed(Answer),
    Unmet(Answer),
    NotApplied(String),
    Unknown(Answer, String),
}

impl Clients {
    /// Clients of these nodes; what they see goes to `written`.
    pub fn new(
        load: Load,
        run: String,
        clock: Clock,
        http: reqwest::Client,
        endpoints: watch::Receiver<Endpoints>,
        written: mpsc::UnboundedSender<Operation>,
    ) -> Self {
        let keys = (0..load.keys).map(|number| Key {
            name: format!("{run}k{number}").into(),
            marks: Mutex::default(),
            shown: Mutex::default(),
        });
        let (keys, stopped, counters) = (keys.collect(), AtomicBool::new(false), Counters::default());
        Self { load, run, clock, http, endpoints, keys, written, stopped, counters }
    }

    /// No client begins anything after this.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// One client, until all are stopped; it ends with no operation under way.
    pub async fn client(self: Arc<Self>, client: u32) {
        let mut rng =
            SmallRng::seed_from_u64(self.load.seed ^ (u64::from(client) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let pause_us = (2e6 * f64::from(self.load.clients) / self.load.rate) as u64;
        let mut number = 0_u64;
        loop {
            sleep(Duration::from_micros(rng.random_range(0..=pause_us))).await;
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            let key = rng.random_range(0..self.keys.len());
            number += 1;
            let operation = match rng.random_range(0..100) {
                0..45 => self.put(&mut rng, client, key, number).await,
                45..80 => self.get(&mut rng, client, key).await,
                _ => self.local_get(&mut rng, client, key).await,
            };
            let refused = matches!(operation.outcome, OperationOutcome::NotApplied | OperationOutcome::Failed);
            self.write_down(operation);
            if refused {
                // While no node serves, asking faster shows nothing new.
                sleep(Duration::from_millis(rng.random_range(20..100))).await;
            }
        }
    }

    /// A linearizable read of every key by one more client, once all others have ended.
    pub async fn final_reads(&self) {
        let mut rng = SmallRng::seed_from_u64(self.load.seed);
        for key in 0..self.keys.len() {
            self.write_down(self.get(&mut rng, self.load.clients, key).await);
        }
    }

    fn write_down(&self, operation: Operation) {
        self.counters.operations.fetch_add(1, Ordering::Relaxed);
        if operation.action == Action::Put && operation.is_answered() {
            self.counters.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        // The receiver ends after the clients.
        let _ = self.written.send(operation);
    }

    fn begin(&self, client: u32, action: Action, key: usize, value: Option<Arc<str>>) -> Operation {
        Operation {
            client,
            action,
            key: self.keys[key].name.clone(),
            value,
            condition: None,
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

    fn pick(&self, rng: &mut SmallRng, among: impl Fn(&Endpoints) -> &[Endpoint]) -> Option<Endpoint> {
        let endpoints = self.endpoints.borrow();
        let all = among(&endpoints);
        (!all.is_empty()).then(|| all[rng.random_range(0..all.len())].clone())
    }

    async fn put(&self, rng: &mut SmallRng, client: u32, key: usize, number: u64) -> Operation {
        let value: Arc<str> = format!("c{client}-{number}").into();
        let token = (rng.random_bool(0.6) && self.keys[key].may_mark(self.clock.now_us()))
            .then(|| format!("{}{value}", self.run));
        let etag = self.condition(rng, key);
        let mut operation = self.begin(client, Action::Put, key, Some(value));
        let (etag, condition) = etag.unzip();
        operation.condition = condition;
        // Once an attempt has an unknown outcome, a later refusal does not take it back.
        let mut uncertain = false;
        while let Some(leader) = self.pick(rng, |endpoints| &endpoints.leaders) {
            operation.attempts += 1;
            operation.node = leader.name;
            let attempt = self.attempt(&leader.url, &operation, token.as_deref(), etag.as_deref()).await;
            operation.ended_us = self.clock.now_us();
            match attempt {
                Attempt::Committed(answer) => {
                    operation.outcome = OperationOutcome::Answered;
                    operation.detail = None;
                    operation.told(&answer);
                    self.keys[key].shows(&operation, answer.etag);
                    return operation;
                }
                Attempt::Unmet(answer) if !uncertain => {
                    operation.action = Action::Unmet;
                    operation.outcome = OperationOutcome::Answered;
                    operation.value = answer.value.as_deref().map(Into::into);
                    operation.told(&answer);
                    operation.seq.get_or_insert(0);
                    self.keys[key].shows(&operation, answer.etag);
                    return operation;
                }
                // An earlier attempt may have been applied, and may even be what refuses this one.
                Attempt::Unmet(answer) => {
                    operation.detail = Some(answer.words(StatusCode::PRECONDITION_FAILED));
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
            sleep(Duration::from_millis(rng.random_range(10..200))).await;
        }
        operation.ended_us = self.clock.now_us();
        if !uncertain {
            operation.outcome = OperationOutcome::NotApplied;
        }
        operation
    }

    /// The condition of a write, and the ETag that it names (`*` for no value); most writes have none.
    fn condition(&self, rng: &mut SmallRng, key: usize) -> Option<(String, Condition)> {
        if rng.random_bool(0.6) {
            return None;
        }
        let shown = self.keys[key].shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let absent = || ("*".to_owned(), Condition { seq: 0, value: None });
        Some(shown.filter(|_| rng.random_bool(0.9)).unwrap_or_else(absent))
    }

    /// Sends a write once.
    async fn attempt(&self, url: &str, operation: &Operation, token: Option<&str>, etag: Option<&str>) -> Attempt {
        let body = serde_json::json!({"key": &*operation.key, "value": operation.value.as_deref()});
        let mut request = self.http.post(format!("{url}/put")).json(&body);
        if let Some(token) = token {
            request = request.header("Idempotency-Key", token);
        }
        request = match etag {
            None => request,
            Some("*") => request.header("If-None-Match", "*"),
            Some(etag) => request.header("If-Match", etag),
        };
        match self.send(request).await {
            Ok((StatusCode::OK, answer)) => Attempt::Committed(answer),
            Ok((StatusCode::PRECONDITION_FAILED, answer)) => Attempt::Unmet(answer),
            Ok((status, answer)) => {
                let words = answer.words(status);
                let refused = answer.outcome.as_deref() == Some("not_applied") || status.is_client_error();
                if refused { Attempt::NotApplied(words) } else { Attempt::Unknown(answer, words) }
            }
            // No connection: nothing was sent.
            Err(error) if error.is_connect() => Attempt::NotApplied(words_of(error)),
            Err(error) => Attempt::Unknown(Answer::default(), words_of(error)),
        }
    }

    async fn get(&self, rng: &mut SmallRng, client: u32, key: usize) -> Operation {
        let mut operation = self.begin(client, Action::Get, key, None);
        let leader = self.pick(rng, |endpoints| &endpoints.leaders);
        let etag = self.read(&mut operation, leader).await;
        if operation.is_answered() {
            operation.seq.get_or_insert(0);
            self.keys[key].shows(&operation, etag);
        }
        operation
    }

    async fn local_get(&self, rng: &mut SmallRng, client: u32, key: usize) -> Operation {
        let mut operation = self.begin(client, Action::LocalGet, key, None);
        let follower = self.pick(rng, |endpoints| &endpoints.followers);
        self.read(&mut operation, follower.clone()).await;
        // Only where no other life of the process can have answered.
        let endpoints = self.endpoints.borrow();
        let now = endpoints.followers.iter().find(|now| Some(&now.name) == follower.as_ref().map(|then| &then.name));
        operation.incarnation = follower.filter(|then| now == Some(then)).and_then(|then| then.incarnation);
        operation
    }

    /// Reads the operation's key, and returns the ETag of what the node showed.
    async fn read(&self, operation: &mut Operation, node: Option<Endpoint>) -> Option<String> {
        let Some(Endpoint { name, url, .. }) = node else {
            operation.ended_us = self.clock.now_us();
            return None;
        };
        operation.node = name;
        operation.attempts = 1;
        // Keys are of letters, digits and dashes.
        let answer = self.send(self.http.get(format!("{url}/get?key={}", operation.key))).await;
        operation.ended_us = self.clock.now_us();
        match answer {
            Ok((StatusCode::OK, answer)) => {
                operation.outcome = OperationOutcome::Answered;
                operation.value = answer.value.as_deref().map(Into::into);
                operation.told(&answer);
                return answer.etag;
            }
            Ok((StatusCode::NOT_FOUND, answer)) if answer.error.as_deref() == Some("Key not found") => {
                operation.outcome = OperationOutcome::Answered;
                operation.staleness_ms = answer.staleness_ms;
            }
            Ok((status, answer)) => operation.detail = Some(answer.words(status)),
            Err(error) => operation.detail = Some(words_of(error)),
        }
        None
    }

    async fn send(&self, request: RequestBuilder) -> Result<(StatusCode, Answer), reqwest::Error> {
        let response = request.timeout(Duration::from_millis(self.load.timeout_ms.into())).send().await?;
        let status = response.status();
        let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(ToOwned::to_owned);
        let body = response.bytes().await?;
        let answer: Answer = serde_json::from_slice(&body).unwrap_or_default();
        Ok((status, Answer { etag, ..answer }))
    }
}

impl Key {
    /// Whether one more write of this key may carry an idempotency key now.
    fn may_mark(&self, now_us: u64) -> bool {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        while marks.front().is_some_and(|at| at + MARKS_WINDOW_US < now_us) {
            marks.pop_front();
        }
        let may = marks.len() < MARKS_MAX;
        if may {
            marks.push_back(now_us);
        }
        may
    }

    /// An answer showed this version to a client.
    fn shows(&self, operation: &Operation, etag: Option<String>) {
        if let Some((etag, seq)) = etag.zip(operation.seq) {
            let condition = Condition { seq, value: operation.value.clone() };
            *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some((etag, condition));
        }
    }
}

impl Operation {
    fn told(&mut self, answer: &Answer) {
        self.seq = answer.seq;
        self.epoch = answer.epoch.as_deref().and_then(parse_epoch);
        self.staleness_ms = answer.staleness_ms;
    }
}

impl Answer {
    fn words(&self, status: StatusCode) -> String {
        let said = self.message.as_deref().or(self.error.as_deref()).unwrap_or("no message");
        format!("HTTP {}: {said}", status.as_u16())
    }
}

fn words_of(error: reqwest::Error) -> String {
    format!("{:#}", anyhow::Error::new(error.without_url()))
}
