//! The closed loop: a fixed number of clients, each with one write under way, until all writes are done.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    client::{Explanation, NodeClient},
    commands::{CommandClient, NoReply, Reply},
    interrupt::Interrupt,
};

/// A run is given up after this many writes without success, each of which may have cost a full timeout.
pub const FAILURES_MAX: usize = 50;

/// The smallest `--value-size-bytes`: room for what makes a value unlike all others of the sweep.
pub const VALUE_SIZE_BYTES_MIN: usize = 24;

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Writes in total.
    pub writes: usize,
    /// Clients, each with one write under way.
    pub concurrency: usize,
    /// Keys, written in turn.
    pub keys: usize,
    /// Values are filled up to this size; as short as they can be when absent.
    pub value_size_bytes: Option<usize>,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteOutcome {
    /// The quorum confirmed it.
    Committed,
    /// The quorum was not reached in time: it may or may not be there.
    Indeterminate,
    /// The leader did not take it.
    NotApplied,
    /// The leader called the request wrong.
    Refused,
    /// There was no answer: it may or may not be there.
    NoAnswer,
}

/// One write as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WriteSample {
    /// When it was sent, in ms since the run began.
    pub sent_at_ms: f64,
    /// From sending it to having read the whole answer, in ms, on the client's monotonic clock.
    pub latency_ms: f64,
    /// How it ended.
    pub outcome: WriteOutcome,
    /// The delay that the quorum had to wait for this write (the W-th smallest of those drawn), in ms.
    pub quorum_delay_ms: Option<f64>,
    /// The quorum under which the leader says it answered.
    pub write_quorum: Option<u16>,
}

/// Where the clients write, and how.
#[derive(Clone, Copy, Debug)]
pub enum Leader<'a> {
    /// `POST /put`, which also shows the delays that were drawn.
    Http(&'a NodeClient),
    /// `SET`, at this address, `host:port`.
    Redis(&'a str),
}

/// All writes of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// In the order in which they were sent.
    pub samples: Vec<WriteSample>,
    /// From the first send to the last answer, in ms.
    pub duration_ms: f64,
    /// What the first write without success met.
    pub first_failure: Option<String>,
    /// Whether the run was given up after [`FAILURES_MAX`] failures.
    pub given_up: bool,
}

/// Runs `workload` against `leader`. Values carry `label`, so that no two runs of a sweep write the same value.
/// When the run is interrupted no further write begins, but those under way are measured to their end: stopping at
/// once would keep the fast ones and lose the slow ones.
pub async fn run(
    leader: Leader<'_>,
    workload: &Workload,
    label: &str,
    timeout: Duration,
    interrupt: &Interrupt,
    on_write: impl Fn(&WriteSample),
) -> Run {
    let next = AtomicUsize::new(0);
    let failures = AtomicUsize::new(0);
    let first_failure = Mutex::new(None);
    let began = Instant::now();
    let clients = (0..workload.concurrency).map(|_| async {
        let mut samples = Vec::new();
        let mut redis = CommandClient::new(timeout);
        while !interrupt.is_requested() && failures.load(Ordering::Relaxed) < FAILURES_MAX {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= workload.writes {
                break;
            }
            let key = format!("key{}", index % workload.keys);
            let value = distinct_value(label, index, workload.value_size_bytes);
            let sent_at_ms = milliseconds(began.elapsed());
            let (sample, failure) = match leader {
                Leader::Http(leader) => write(leader, &key, &value, timeout, sent_at_ms).await,
                Leader::Redis(address) => set(&mut redis, address, &key, &value, sent_at_ms).await,
            };
            if let Some(failure) = failure {
                failures.fetch_add(1, Ordering::Relaxed);
                if let Ok(mut first) = first_failure.lock() {
                    first.get_or_insert(failure);
                }
            }
            on_write(&sample);
            samples.push(sample);
        }
        samples
    });
    let mut samples: Vec<WriteSample> = join_all(clients).await.into_iter().flatten().collect();
    samples.sort_by(|left, right| left.sent_at_ms.total_cmp(&right.sent_at_ms));
    Run {
        samples,
        duration_ms: milliseconds(began.elapsed()),
        first_failure: first_failure.into_inner().unwrap_or_default(),
        given_up: failures.into_inner() >= FAILURES_MAX,
    }
}

/// One write, timed from before it is sent until its answer is read; the answer is taken apart after the clock has
/// stopped. The second value says what went wrong.
async fn write(
    leader: &NodeClient,
    key: &str,
    value: &str,
    timeout: Duration,
    sent_at_ms: f64,
) -> (WriteSample, Option<String>) {
    let request = leader.put(key, value, timeout);
    let clock = Instant::now();
    let answer = match request.send().await {
        Ok(response) => {
            let status = response.status();
            response.bytes().await.map(|body| (status, body))
        }
        Err(error) => Err(error),
    };
    let latency_ms = milliseconds(clock.elapsed());
    let (outcome, answer, failure) = match answer {
        Ok((status, body)) => {
            let answer: PutAnswer = serde_json::from_slice(&body).unwrap_or_default();
            let outcome = outcome_of(status, &answer);
            let failure = (outcome != WriteOutcome::Committed)
                .then(|| format!("HTTP {}: {}", status.as_u16(), answer.message.as_deref().unwrap_or("no message")));
            (outcome, answer, failure)
        }
        Err(error) => (WriteOutcome::NoAnswer, PutAnswer::default(), Some(format!("{:#}", anyhow::Error::new(error)))),
    };
    let Explanation { quorum_delay_ms, write_quorum } = answer.explain.unwrap_or_default();
    (WriteSample { sent_at_ms, latency_ms, outcome, quorum_delay_ms, write_quorum }, failure)
}

/// The same over Redis' protocol.
async fn set(
    redis: &mut CommandClient,
    address: &str,
    key: &str,
    value: &str,
    sent_at_ms: f64,
) -> (WriteSample, Option<String>) {
    let clock = Instant::now();
    let reply = redis.ask(address, &["SET", key, value]).await;
    let latency_ms = milliseconds(clock.elapsed());
    let (outcome, failure) = outcome_of_reply(reply);
    (WriteSample { sent_at_ms, latency_ms, outcome, quorum_delay_ms: None, write_quorum: None }, failure)
}

fn outcome_of_reply(reply: Result<Reply, NoReply>) -> (WriteOutcome, Option<String>) {
    match reply {
        Ok(Reply::Ok) => (WriteOutcome::Committed, None),
        Ok(Reply::Error(words)) => {
            let outcome = match words.split(' ').next() {
                Some("INDETERMINATE") => WriteOutcome::Indeterminate,
                Some("LOADING" | "READONLY" | "OOM") => WriteOutcome::NotApplied,
                _ => WriteOutcome::Refused,
            };
            (outcome, Some(words))
        }
        Ok(reply) => (WriteOutcome::Indeterminate, Some(format!("{reply:?} is no reply to SET"))),
        Err(NoReply { is_sent: false, why }) => (WriteOutcome::NotApplied, Some(why)),
        Err(NoReply { is_sent: true, why }) => (WriteOutcome::NoAnswer, Some(why)),
    }
}

#[derive(Debug, Default, Deserialize)]
struct PutAnswer {
    #[serde(default)]
    ok: bool,
    message: Option<String>,
    outcome: Option<String>,
    explain: Option<Explanation>,
}

/// The leader's own word about the outcome counts before the status code: a proxy between may answer 503 too.
fn outcome_of(status: StatusCode, answer: &PutAnswer) -> WriteOutcome {
    match (status, answer.outcome.as_deref()) {
        (StatusCode::OK, _) if answer.ok => WriteOutcome::Committed,
        (_, Some("not_applied")) => WriteOutcome::NotApplied,
        (_, Some("indeterminate")) => WriteOutcome::Indeterminate,
        (StatusCode::TOO_MANY_REQUESTS, _) => WriteOutcome::NotApplied,
        (status, _) if status.is_client_error() => WriteOutcome::Refused,
        _ => WriteOutcome::Indeterminate,
    }
}

fn distinct_value(label: &str, index: usize, size_bytes: Option<usize>) -> String {
    let mut value = format!("value_{label}_{index}");
    while value.len() < size_bytes.unwrap_or(0) {
        value.push('.');
    }
    value
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_differ_and_have_the_size_asked_for() {
        assert_eq!(distinct_value("w3", 7, None), "value_w3_7");
        assert_ne!(distinct_value("w3", 7, Some(64)), distinct_value("w3", 70, Some(64)));
        assert_eq!(distinct_value("w3", 7, Some(64)).len(), 64);
        let longest = distinct_value("warm999", 99_999_999, Some(VALUE_SIZE_BYTES_MIN));
        assert_eq!(longest.len(), VALUE_SIZE_BYTES_MIN, "{longest}");
    }

    #[test]
    fn errors_of_redis_protocol_go_by_their_first_word() {
        let error = |words: &str| Ok(Reply::Error(words.to_owned()));
        let lost = |is_sent| Err(NoReply { is_sent, why: "the connection ended".to_owned() });
        for (reply, expected) in [
            (Ok(Reply::Ok), WriteOutcome::Committed),
            (error("INDETERMINATE no write quorum within 10 ms"), WriteOutcome::Indeterminate),
            (error("LOADING the leader is recovering"), WriteOutcome::NotApplied),
            (error("READONLY this node is a follower"), WriteOutcome::NotApplied),
            (error("OOM a limit"), WriteOutcome::NotApplied),
            (error("ERR syntax error"), WriteOutcome::Refused),
            (Ok(Reply::Integer(1)), WriteOutcome::Indeterminate),
            (lost(true), WriteOutcome::NoAnswer),
            (lost(false), WriteOutcome::NotApplied),
        ] {
            let (outcome, failure) = outcome_of_reply(reply);
            assert_eq!((outcome, failure.is_none()), (expected, expected == WriteOutcome::Committed), "{failure:?}");
        }
    }

    #[test]
    fn outcomes_follow_the_leader_s_word_and_then_the_status() {
        let answer = |json: &str| serde_json::from_str::<PutAnswer>(json).expect("JSON");
        let committed = answer(r#"{"ok":true,"seq":3,"explain":{"write_quorum":3,"quorum_delay_ms":97.5}}"#);
        assert_eq!(outcome_of(StatusCode::OK, &committed), WriteOutcome::Committed);
        for (status, body, expected) in [
            (
                500,
                r#"{"ok":false,"message":"quorum not reached","outcome":"indeterminate"}"#,
                WriteOutcome::Indeterminate,
            ),
            (500, r#"{"ok":false,"message":"quorum not reached"}"#, WriteOutcome::Indeterminate),
            (503, r#"{"ok":false,"outcome":"not_applied"}"#, WriteOutcome::NotApplied),
            (503, "{}", WriteOutcome::Indeterminate),
            (429, "{}", WriteOutcome::NotApplied),
            (413, "{}", WriteOutcome::Refused),
            (200, r#"{"ok":false}"#, WriteOutcome::Indeterminate),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(outcome_of(status, &answer(body)), expected, "{status} {body}");
        }
    }
}
