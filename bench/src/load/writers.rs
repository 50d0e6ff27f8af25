//! Clients that write without pause and know every process that may lead: for how long they are not served, and what they see.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{
    Response, StatusCode,
    header::{LOCATION, RETRY_AFTER},
    redirect::Policy,
};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::client::{Credentials, Dump};

/// A client gives up on a leader that does not answer for this long, and asks the other one.
pub const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// The pause before a client asks again after it was refused.
const RETRY_PAUSE: Duration = Duration::from_millis(2);

/// What became of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// 200.
    pub acknowledged: u64,
    /// 503 that says when to try again.
    pub refused: u64,
    /// 307 that says where the leader is.
    pub redirected: u64,
    /// 500: the outcome is unknown.
    pub indeterminate: u64,
    /// Anything else: a client knows neither what became of its write nor what to do next.
    pub unclear: u64,
    /// Connections that were refused.
    pub unconnected: u64,
    /// Connections that ended before the answer.
    pub cut_off: u64,
    /// Requests without an answer within [`ANSWER_TIMEOUT`].
    pub late: u64,
}

impl Answers {
    fn of(answer: &Result<Answer, reqwest::Error>) -> Self {
        let mut answers = Self::default();
        *match answer {
            Ok(Answer::Acknowledged) => &mut answers.acknowledged,
            Ok(Answer::Refused) => &mut answers.refused,
            Ok(Answer::Redirected) => &mut answers.redirected,
            Ok(Answer::Indeterminate) => &mut answers.indeterminate,
            Ok(Answer::Unclear) => &mut answers.unclear,
            Err(error) if error.is_connect() && !error.is_timeout() => &mut answers.unconnected,
            Err(error) if error.is_timeout() => &mut answers.late,
            Err(_) => &mut answers.cut_off,
        } = 1;
        answers
    }

    fn add(&mut self, other: Self) {
        let Self { acknowledged, refused, redirected, indeterminate, unclear, unconnected, cut_off, late } = other;
        self.acknowledged += acknowledged;
        self.refused += refused;
        self.redirected += redirected;
        self.indeterminate += indeterminate;
        self.unclear += unclear;
        self.unconnected += unconnected;
        self.cut_off += cut_off;
        self.late += late;
    }
}

/// An answer, as far as a client acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Acknowledged,
    Refused,
    Redirected,
    Indeterminate,
    Unclear,
}

impl From<&Response> for Answer {
    fn from(response: &Response) -> Self {
        let has = |name| response.headers().contains_key(name);
        match response.status() {
            StatusCode::OK => Self::Acknowledged,
            StatusCode::SERVICE_UNAVAILABLE if has(RETRY_AFTER) => Self::Refused,
            StatusCode::TEMPORARY_REDIRECT if has(LOCATION) => Self::Redirected,
            StatusCode::INTERNAL_SERVER_ERROR => Self::Indeterminate,
            _ => Self::Unclear,
        }
    }
}

/// Whom the clients write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Servers {
    /// Leader processes of kvcluster.
    Nodes,
    /// Members of etcd, by the gateway that takes JSON over HTTP.
    Etcd,
}

/// Acknowledgements since a moment.
#[derive(Clone, Debug)]
struct Since {
    last: Instant,
    longest_gap: Duration,
    /// How many each process gave.
    by: Vec<usize>,
}

impl Since {
    fn now(processes: usize) -> Self {
        Self { last: Instant::now(), longest_gap: Duration::ZERO, by: vec![0; processes] }
    }

    fn acknowledged(&mut self, at: Instant, by: usize) {
        self.longest_gap = self.longest_gap.max(at.saturating_duration_since(self.last));
        self.last = self.last.max(at);
        self.by[by] += 1;
    }
}

/// What the clients share.
#[derive(Debug)]
struct Shared {
    servers: Servers,
    urls: Vec<String>,
    http: reqwest::Client,
    answers: Mutex<Answers>,
    since: Mutex<Since>,
    stop: AtomicBool,
}

/// Clients that write. Dropped, they stop.
#[derive(Debug)]
pub(super) struct Writers {
    shared: Arc<Shared>,
    /// The number of each client, and how often its key was written.
    clients: JoinSet<(usize, u64)>,
}

impl Writers {
    /// Starts so many clients of the processes at these URLs. Each writes a key of its own, one write at a time, to the first
    /// process as long as that acknowledges, and then to the next.
    ///
    /// # Errors
    /// When the token cannot be sent.
    pub(super) fn start(servers: Servers, urls: Vec<String>, credentials: &Credentials, count: usize) -> Result<Self> {
        let http = credentials.builder()?.redirect(Policy::none()).timeout(ANSWER_TIMEOUT).build();
        let shared = Arc::new(Shared {
            since: Mutex::new(Since::now(urls.len())),
            servers,
            urls,
            http: http.context("failed to build the HTTP client")?,
            answers: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let mut clients = JoinSet::new();
        for client in 0..count {
            let shared = shared.clone();
            clients.spawn(async move { (client, shared.write(client).await) });
        }
        Ok(Self { shared, clients })
    }

    /// Where a process listens.
    pub(super) fn url(&self, place: usize) -> &str {
        &self.shared.urls[place]
    }

    /// From now on gaps and acknowledgements count.
    pub(super) fn begin(&self) {
        *lock(&self.shared.since) = Since::now(self.shared.urls.len());
    }

    /// How many acknowledgements a process gave since then.
    pub(super) fn acknowledged_by(&self, place: usize) -> usize {
        lock(&self.shared.since).by[place]
    }

    /// How many acknowledgements all processes gave since then.
    pub(super) fn acknowledged(&self) -> usize {
        lock(&self.shared.since).by.iter().sum()
    }

    /// The longest time without an acknowledgement since then, up to the last one.
    pub(super) fn longest_gap(&self) -> Duration {
        lock(&self.shared.since).longest_gap
    }

    /// Stops the clients, each after an acknowledgement or a failure. Returns what became of their requests, and the last
    /// acknowledged write of each.
    ///
    /// # Errors
    /// When a client panicked.
    pub(super) async fn finish(mut self) -> Result<(Answers, LastWrites)> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut last = Vec::new();
        while let Some(client) = self.clients.join_next().await {
            last.push(client.context("a client panicked")?);
        }
        let answers = *lock(&self.shared.answers);
        Ok((answers, LastWrites(last)))
    }
}

/// The last acknowledged write of each client, as long as no two clients write the same key.
#[derive(Clone, Debug)]
pub(super) struct LastWrites(Vec<(usize, u64)>);

impl LastWrites {
    /// What a dump that is later than all of them lacks, in words.
    pub(super) fn lost_in(&self, dump: &Dump) -> Vec<String> {
        let found = |key: &str| dump.get(key).and_then(|entry| entry.value.as_text()?.parse().ok()).unwrap_or(0);
        self.0
            .iter()
            .filter_map(|(client, written)| lost(&key_of(*client), *written, found(&key_of(*client))))
            .collect()
    }

    /// What etcd lacks, asked at this member, in words.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) async fn lost_in_etcd(&self, member: SocketAddr) -> Result<Vec<String>> {
        let http = Credentials::default().http(1)?;
        let mut all = Vec::new();
        for (client, written) in &self.0 {
            let key = key_of(*client);
            let body = json!({"key": STANDARD.encode(&key)}).to_string();
            let answer = http.post(format!("http://{member}/v3/kv/range")).body(body).send().await;
            let answer = answer.and_then(Response::error_for_status).context("failed to read from etcd")?;
            let answer: Value = answer.json().await.context("failed to understand etcd")?;
            let value = answer["kvs"][0]["value"].as_str().and_then(|value| STANDARD.decode(value).ok());
            let found = value.and_then(|value| String::from_utf8(value).ok()?.parse().ok()).unwrap_or(0);
            all.extend(lost(&key, *written, found));
        }
        Ok(all)
    }
}

impl Shared {
    /// Writes one key again and again. Returns its last acknowledged value, which is also how often it was written.
    async fn write(&self, client: usize) -> u64 {
        let (mut place, mut written) = (0, 0);
        while !self.stop.load(Ordering::Relaxed) {
            let value = written + 1;
            let answer = self.attempt(place, client, value).await;
            lock(&self.answers).add(Answers::of(&answer));
            if matches!(answer, Ok(Answer::Acknowledged)) {
                written = value;
                lock(&self.since).acknowledged(Instant::now(), place);
                continue;
            }
            place = (place + 1) % self.urls.len();
            sleep(RETRY_PAUSE).await;
        }
        written
    }

    /// Sends a write once.
    async fn attempt(&self, place: usize, client: usize, value: u64) -> Result<Answer, reqwest::Error> {
        let (key, value) = (key_of(client), value.to_string());
        let request = match self.servers {
            Servers::Nodes => {
                let body = json!({"key": key, "value": value}).to_string();
                let request = self.http.post(format!("{}/put", self.urls[place])).body(body);
                request.header("idempotency-key", format!("{client}-{value}"))
            }
            Servers::Etcd => {
                let body = json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)}).to_string();
                self.http.post(format!("{}/v3/kv/put", self.urls[place])).body(body)
            }
        };
        let response = request.send().await?;
        let answer = Answer::from(&response);
        // Read to its end, so that the connection can be used again.
        response.bytes().await?;
        Ok(answer)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// That an older value than the acknowledged one is there, in words.
fn lost(key: &str, written: u64, found: u64) -> Option<String> {
    (found < written).then(|| format!("{key}: {written} was acknowledged, and {found} is there"))
}

fn key_of(client: usize) -> String {
    format!("client-{client}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Entry;

    #[test]
    fn the_longest_gap_is_found_among_what_came_after_the_begin() {
        let mut since = Since::now(2);
        let begun = since.last;
        for (ms, by) in [(10, 0), (730, 1), (731, 1)] {
            since.acknowledged(begun + Duration::from_millis(ms), by);
        }
        assert_eq!((since.longest_gap, since.by), (Duration::from_millis(720), vec![1, 2]));
    }

    #[test]
    fn a_write_that_is_older_than_the_acknowledged_one_or_missing_is_lost() {
        let entry = |value: &str| Entry { value: value.into(), seq: 1 };
        let dump = Dump::from([(key_of(0), entry("7")), (key_of(1), entry("8")), (key_of(2), entry("9"))]);
        let last = LastWrites(vec![(0, 8), (1, 8), (2, 8), (3, 1)]);
        let lost = last.lost_in(&dump);
        assert_eq!(
            lost,
            ["client-0: 8 was acknowledged, and 7 is there", "client-3: 1 was acknowledged, and 0 is there"]
        );
    }

    // Goal: a leader that closes connections before the answer and one that is slow are counted apart. Method: a server that reads a
    // request and closes the connection, one that never answers, and a port where no server listens.
    #[tokio::test]
    async fn a_connection_that_ends_and_an_answer_that_is_late_differ() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let http = reqwest::Client::builder().timeout(ANSWER_TIMEOUT).build().expect("a client");
        let ask = || async { http.post(&url).send().await.map(|_| Answer::Unclear) };
        let close = async {
            let (stream, _) = listener.accept().await.expect("a client");
            stream.readable().await.expect("a request");
        };
        let (closed, ()) = tokio::join!(ask(), close);
        assert_eq!(Answers::of(&closed), Answers { cut_off: 1, ..Answers::default() });
        assert_eq!(Answers::of(&ask().await), Answers { late: 1, ..Answers::default() });
        drop(listener);
        assert_eq!(Answers::of(&ask().await), Answers { unconnected: 1, ..Answers::default() });
    }

    #[test]
    fn an_answer_without_what_to_do_next_is_unclear() {
        let answer = |status: u16, header: Option<&str>| {
            let mut response = axum::http::Response::builder().status(status);
            response = header.into_iter().fold(response, |response, name| response.header(name, "1"));
            Answer::from(&Response::from(response.body("").expect("a response")))
        };
        assert_eq!(answer(200, None), Answer::Acknowledged);
        assert_eq!((answer(503, Some("retry-after")), answer(503, None)), (Answer::Refused, Answer::Unclear));
        assert_eq!((answer(307, Some("location")), answer(307, None)), (Answer::Redirected, Answer::Unclear));
        assert_eq!((answer(500, None), answer(404, None)), (Answer::Indeterminate, Answer::Unclear));
    }
}
