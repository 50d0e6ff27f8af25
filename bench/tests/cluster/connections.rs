//! Goal: clients that are idle, slow or gone cost a node neither descriptors nor memory without bound, and every client that
//! asks properly gets an answer. Method: real nodes with short limits, and clients that speak TCP by hand.

use std::{
    io::{Read, Write},
    net::TcpStream as StdTcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::StatusCode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{KV_BENCH, PATIENCE, address, connect, eventually, one_follower};

/// Everything until the node closes the connection.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is a close as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the node closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn put_request(body: &str) -> String {
    format!("POST /put HTTP/1.1\r\nHost: node\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

const BODY: &str = r#"{"key":"k","value":"v"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_idle_or_slow_is_closed() {
    let logs = TempDir::new().expect("a directory");
    let limits = [("HEAD_TIMEOUT_MS", "400"), ("BODY_TIMEOUT_MS", "300"), ("IDLE_TIMEOUT_MS", "500")];
    let cluster = one_follower(KV_BENCH, logs.path(), &limits).await;
    for url in [cluster.leader_url(), cluster.follower_url(0)] {
        let mut silent = connect(&url).await;
        assert_eq!(until_closed(&mut silent).await, "", "a silent connection");

        let mut half_head = connect(&url).await;
        half_head.write_all(b"GET /status HTTP/1.1\r\nHost: no").await.expect("sent");
        assert_eq!(until_closed(&mut half_head).await, "", "half a head");

        let mut idle = connect(&url).await;
        idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n").await.expect("sent");
        let answer = until_closed(&mut idle).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "an idle connection: {answer}");

        let route = if url == cluster.leader_url() { "put" } else { "replicate" };
        let mut half_body = connect(&url).await;
        let head = format!("POST /{route} HTTP/1.1\r\nHost: node\r\nContent-Length: 100\r\n\r\n{{\"key\"");
        half_body.write_all(head.as_bytes()).await.expect("sent");
        let answer = until_closed(&mut half_body).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "half a body: {answer}");
        assert!(answer.contains("the body did not arrive within 300 ms"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_sending_half_gets_its_answer() {
    let logs = TempDir::new().expect("a directory");
    let cluster = one_follower(KV_BENCH, logs.path(), &[("MIN_DELAY_MS", "30"), ("MAX_DELAY_MS", "30")]).await;
    let requests = [put_request(BODY), "GET /get?key=k HTTP/1.1\r\nHost: node\r\n\r\n".to_owned()].into_iter().cycle();
    for request in requests.take(20) {
        let mut stream = connect(&cluster.leader_url()).await;
        stream.write_all(request.as_bytes()).await.expect("sent");
        stream.shutdown().await.expect("half closed");
        let answer = until_closed(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{request}: {answer:?}");
    }
}

/// As a plain client does it: everything is written before anything is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_far_over_the_limit_is_answered() {
    let logs = TempDir::new().expect("a directory");
    let cluster = one_follower(KV_BENCH, logs.path(), &[]).await;
    let address = address(&cluster.leader_url()).to_owned();
    let answers = tokio::task::spawn_blocking(move || {
        ["", "Expect: nothing-of-interest\r\n"].map(|header| {
            let mut stream = StdTcpStream::connect(&address).expect("connects");
            let body = vec![b'x'; 20 << 20];
            let head = format!("POST /put HTTP/1.1\r\nHost: node\r\n{header}Content-Length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).expect("sent");
            stream.write_all(&body).expect("the node reads on");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            answer
        })
    });
    for answer in answers.await.expect("no panic") {
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("not_applied"), "{answer}");
    }
}

/// A program that runs nodes under a low limit of open files.
fn limited(directory: &Path, open_files: u32) -> PathBuf {
    let path = directory.join("limited.sh");
    std::fs::write(&path, format!("#!/bin/sh\nulimit -n {open_files}\nexec {KV_BENCH} \"$@\"\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

async fn answer(request: reqwest::RequestBuilder) -> Option<(StatusCode, Value)> {
    let answer = request.timeout(Duration::from_secs(10)).send().await.ok()?;
    Some((answer.status(), answer.json().await.ok()?))
}

/// More connections than the node has descriptors, none of which sends anything, and none of which is closed for an hour.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_leave_descriptors_for_answers_operations_and_replication() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the test itself needs descriptors");
    let logs = TempDir::new().expect("a directory");
    let hour = "3600000";
    let limits = [("HEAD_TIMEOUT_MS", hour), ("IDLE_TIMEOUT_MS", hour), ("AUTH_TOKEN", "token")];
    let mut cluster = one_follower(limited(logs.path(), 1_024), logs.path(), &limits).await;
    let log = std::fs::read_to_string(cluster.leader_log()).expect("a log");
    let words = "CONNECTIONS_MAX is above what the limit of open files allows";
    let line = log.lines().find(|line| line.contains(words)).expect("a line about it");
    assert!(line.contains("16384") && line.contains("1024"), "{line}");

    let (leader, follower) = (cluster.leader_url(), cluster.follower_url(0));
    let mut idle = Vec::new();
    for url in [&leader, &follower] {
        for _ in 0..1_100 {
            idle.push(connect(url).await);
        }
    }
    // Each request opens a connection of its own.
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client");
    let refused =
        eventually("a write that is answered", async || answer(client.post(format!("{leader}/put")).body(BODY)).await);
    let (status, body) = refused.await;
    assert_eq!((status, &body["outcome"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("not_applied")), "{body}");
    assert_eq!(body["message"], "too many connections");
    for url in [&leader, &follower] {
        let ready = eventually("a probe that is answered", async || answer(client.get(format!("{url}/readyz"))).await);
        assert_eq!(ready.await.0, StatusCode::OK);
    }
    let configured = eventually("an administrator who is answered", async || {
        answer(client.patch(format!("{leader}/config")).bearer_auth("token").body(r#"{"max_delay_ms":1}"#)).await
    });
    assert_eq!(configured.await.0, StatusCode::OK);

    cluster.kill_leader().expect("killed");
    idle.truncate(0);
    for _ in 0..1_100 {
        idle.push(connect(&follower).await);
    }
    cluster.start_leader().await.expect("starts");
    cluster.wait_until_open().await.expect("the new leader reaches its follower");
    let written = answer(client.post(format!("{leader}/put")).body(BODY)).await.expect("an answer");
    assert_eq!(written.0, StatusCode::OK, "{}", written.1);
}
