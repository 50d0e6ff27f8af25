//! Goal: clients that speak HTTP/2 are served as all others, and one that is idle, slow or never reads costs the node no
//! more than over HTTP/1.1. Method: real nodes with short limits, and a client that decides what it reads.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future;
use h2::Reason;
use h2::client::{Builder, ResponseFuture, SendRequest};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, task::JoinHandle, time::timeout};

use crate::support::{KV_BENCH, PATIENCE, connect, eventually, one_follower};

/// A client that knows that the node speaks HTTP/2, and the task of its connection, which ends with it.
struct Http2 {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
    url: String,
}

impl Http2 {
    /// Each answer may have `window` bytes before the client has read them.
    async fn connect(url: &str, window: u32) -> Self {
        let stream = connect(url).await;
        let mut builder = Builder::new();
        builder.initial_connection_window_size(1 << 20);
        let (requests, connection) =
            builder.initial_window_size(window).handshake(stream).await.expect("the node speaks HTTP/2");
        Self { requests, connection: tokio::spawn(connection), url: url.to_owned() }
    }

    /// Sends a request with a body.
    async fn send(&self, method: &str, path: &str, body: &str) -> ResponseFuture {
        let request = http::Request::builder().method(method).uri(format!("{}{path}", self.url)).body(());
        let mut requests = self.requests.clone().ready().await.expect("the connection takes a request");
        let request = request.expect("a request");
        let (answer, mut stream) = requests.send_request(request, body.is_empty()).expect("sent");
        if !body.is_empty() {
            // A node that has answered already takes no body.
            let _ = stream.send_data(Bytes::copy_from_slice(body.as_bytes()), true);
        }
        answer
    }

    /// The status and the body of the answer to a request.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        read(self.send(method, path, body).await).await
    }

    /// Waits until the node has closed the connection.
    async fn closed(self) {
        let _ = timeout(PATIENCE, self.connection).await.expect("the node closes the connection");
    }
}

async fn read(answer: ResponseFuture) -> (u16, Value) {
    let (head, mut body) = timeout(PATIENCE, answer).await.expect("an answer in time").expect("an answer").into_parts();
    let mut bytes = Vec::new();
    while let Some(part) = timeout(PATIENCE, body.data()).await.expect("a part in time") {
        let part = match part {
            // So a node ends a stream whose request it has not read to its end. The answer is whole.
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => break,
            part => part.expect("a part"),
        };
        body.flow_control().release_capacity(part.len()).expect("room for more");
        bytes.extend(part);
    }
    assert!(!head.headers.contains_key("connection"), "it belongs to HTTP/1.1: {:?}", head.headers);
    (head.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

fn put(key: usize, value: &str) -> String {
    json!({"key": format!("k{key}"), "value": value}).to_string()
}

/// Window of a client that reads everything.
const WIDE: u32 = 64 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_connection_are_answered_side_by_side() {
    let logs = TempDir::new().expect("a directory");
    let cluster = one_follower(KV_BENCH, logs.path(), &[("MIN_DELAY_MS", "200"), ("MAX_DELAY_MS", "200")]).await;
    let leader = Http2::connect(&cluster.leader_url(), WIDE).await;
    // A stream of events goes on beside them.
    let events = leader.send("GET", "/watch?prefix=k", "").await;
    let begun = Instant::now();
    let mut puts = Vec::new();
    for key in 0..40 {
        puts.push(leader.send("POST", "/put", &put(key, "v")).await);
    }
    for (status, body) in future::join_all(puts.into_iter().map(read)).await {
        assert_eq!((status, &body["ok"]), (200, &json!(true)), "{body}");
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(40 * 200), "one after the other they take 8 s at least, and took {took:?}");
    let mut events = events.await.expect("an answer").into_body();
    let event = events.data().await.expect("events").expect("an event");
    assert!(String::from_utf8_lossy(&event).contains("event: current"), "{event:?}");
    // What it leaves unread would fill the window of the connection.
    drop(events);

    // Longer than any window, in both directions, and shown by a follower too.
    let long = "x".repeat(900_000);
    assert_eq!(leader.ask("POST", "/put", &put(0, &long)).await.0, 200);
    let follower = Http2::connect(&cluster.follower_url(0), WIDE).await;
    for node in [&leader, &follower] {
        let (status, body) = node.ask("GET", "/get?key=k0", "").await;
        assert!(status == 200 && body["value"] == long.as_str(), "{status}");
    }
    let (status, body) = follower.ask("POST", "/put", &put(0, "v")).await;
    assert_eq!(status, 404, "{body}");
    let (status, body) = leader.ask("POST", "/put", "no JSON").await;
    assert_eq!((status, &body["message"]), (400, &json!("the body must be a JSON object")), "{body}");
    let (status, body) = leader.ask("DELETE", "/put", "").await;
    assert_eq!(status, 405, "{body}");
    assert_eq!(leader.ask("GET", "/nothing", "").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_idle_or_slow_is_closed() {
    let logs = TempDir::new().expect("a directory");
    let limits = [("HEAD_TIMEOUT_MS", "400"), ("BODY_TIMEOUT_MS", "300"), ("IDLE_TIMEOUT_MS", "500")];
    let cluster = one_follower(KV_BENCH, logs.path(), &limits).await;
    for url in [cluster.leader_url(), cluster.follower_url(0)] {
        let mut half_preface = connect(&url).await;
        half_preface.write_all(b"PRI * HTT").await.expect("sent");
        let _ = timeout(PATIENCE, half_preface.read_to_end(&mut Vec::new())).await.expect("half a preface is closed");

        Http2::connect(&url, WIDE).await.closed().await;

        let idle = Http2::connect(&url, WIDE).await;
        assert_eq!(idle.ask("GET", "/healthz", "").await.0, 200);
        idle.closed().await;

        // Half a body is answered, and the connection goes on.
        let route = if url == cluster.leader_url() { "/put" } else { "/replicate" };
        let slow = Http2::connect(&url, WIDE).await;
        let request = http::Request::builder().method("POST").uri(format!("{url}{route}")).body(()).expect("a request");
        let (answer, mut body) = slow.requests.clone().send_request(request, false).expect("sent");
        body.send_data(Bytes::from_static(b"{\"key\""), false).expect("sent");
        let (status, body) = read(answer).await;
        assert!(status == 408 && body["message"] == "the body did not arrive within 300 ms", "{status} {body}");
        assert_eq!(slow.ask("GET", "/healthz", "").await.0, 200);
    }
}

/// The budget for long answers holds so many of these values.
const LONG_BYTES: usize = 100_000;
const LONG_ANSWERS: usize = 6;

/// A client reads nothing of its long answers, or their beginnings alone. Others are refused such answers meanwhile, and
/// get them once the node has closed the connection of that client.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_no_answer_is_closed() {
    let logs = TempDir::new().expect("a directory");
    let limits = [("STALL_TIMEOUT_MS", "1500"), ("ANSWERS_BYTES_MAX", "620000"), ("VALUE_BYTES_MAX", "100000")];
    let limits = [&limits[..], &[("KEY_BYTES_MAX", "100"), ("IDLE_TIMEOUT_MS", "3600000")]].concat();
    let cluster = one_follower(KV_BENCH, logs.path(), &limits).await;
    let other = Http2::connect(&cluster.leader_url(), WIDE).await;
    assert_eq!(other.ask("POST", "/put", &put(0, &"x".repeat(LONG_BYTES))).await.0, 200);
    for window in [0, 1, 20_000] {
        let client = Http2::connect(&cluster.leader_url(), window).await;
        let mut unread = Vec::new();
        for _ in 0..LONG_ANSWERS {
            unread.push(client.send("GET", "/get?key=k0", "").await);
        }
        let unread = future::join_all(unread).await;
        assert!(unread.iter().flatten().all(|answer| answer.status() == 200), "{unread:?}");
        let refused = async || (other.ask("GET", "/get?key=k0", "").await.0 == 503).then_some(());
        eventually("an answer that is refused", refused).await;
        client.closed().await;
        let served = async || (other.ask("GET", "/get?key=k0", "").await.0 == 200).then_some(());
        eventually("an answer once that connection is closed", served).await;
    }
}

/// The end of an answer that the client has no room for keeps nothing of the rest.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_answer_is_small() {
    let logs = TempDir::new().expect("a directory");
    let limits = [("ANSWERS_BYTES_MAX", "620000"), ("VALUE_BYTES_MAX", "100000"), ("KEY_BYTES_MAX", "100")];
    let cluster = one_follower(KV_BENCH, logs.path(), &limits).await;
    let other = Http2::connect(&cluster.leader_url(), WIDE).await;
    assert_eq!(other.ask("POST", "/put", &put(0, &"x".repeat(LONG_BYTES))).await.0, 200);
    let client = Http2::connect(&cluster.leader_url(), LONG_BYTES as u32 - 1_000).await;
    let mut unread = Vec::new();
    for _ in 0..LONG_ANSWERS {
        unread.push(client.send("GET", "/get?key=k0", "").await);
    }
    let unread = future::join_all(unread).await;
    assert!(unread.iter().flatten().all(|answer| answer.status() == 200), "{unread:?}");
    let served = async || (other.ask("GET", "/get?key=k0", "").await.0 == 200).then_some(());
    eventually("an answer beside them", served).await;
    assert!(!client.connection.is_finished());
}

/// One request more than the node takes of a connection waits with the client, and other connections are served.
#[tokio::test(flavor = "multi_thread")]
async fn the_requests_of_a_connection_are_bounded() {
    let logs = TempDir::new().expect("a directory");
    let cluster = one_follower(KV_BENCH, logs.path(), &[("REPLICATION_TIMEOUT_MS", "600000")]).await;
    let client = Http2::connect(&cluster.leader_url(), WIDE).await;
    assert_eq!(client.ask("GET", "/healthz", "").await.0, 200);
    let mut watches = Vec::new();
    for _ in 0..100 {
        watches.push(client.send("GET", "/watch?prefix=k", "").await);
    }
    let mut waiting = client.send("GET", "/healthz", "").await;
    let other = Http2::connect(&cluster.leader_url(), WIDE).await;
    assert_eq!(other.ask("POST", "/put", &put(0, "v")).await.0, 200);
    assert!(futures::poll!(&mut waiting).is_pending(), "it waits for another one of its connection");
    drop(watches.pop());
    assert_eq!(read(waiting).await.0, 200);
}
