//! Goal: dumps delay no write and use little memory, however their clients read. Method: 100 values of 1 MB, many clients,
//! and the leader's resident memory from /proc.

mod support;

use std::time::Duration;

use kv_bench::cluster::LocalCluster;
use reqwest::StatusCode;
use serde_json::json;
use support::{KV_BENCH, connect, eventually, one_follower};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const VALUES: usize = 100;
const VALUE_BYTES: usize = 1_000_000;

async fn filled(logs: &TempDir, settings: &[(&str, &str)]) -> LocalCluster {
    let cluster = one_follower(KV_BENCH, logs.path(), settings).await;
    let client = reqwest::Client::new();
    for number in 0..VALUES {
        let body = json!({"key": format!("key {number}"), "value": "x".repeat(VALUE_BYTES)});
        let answer = client.post(format!("{}/put", cluster.leader_url())).json(&body).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
    }
    cluster
}

/// A client that asked for a dump and has read the head of the answer; with its status.
async fn dumping(url: &str) -> (TcpStream, u16) {
    let mut stream = connect(url).await;
    stream.write_all(b"GET /dump HTTP/1.1\r\nHost: node\r\n\r\n").await.expect("sent");
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.expect("an answer");
    let status = std::str::from_utf8(&head[9..]).expect("a status").parse().expect("a status");
    (stream, status)
}

fn resident_mib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("resident memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

async fn write(cluster: &LocalCluster, value: &str) {
    let body = json!({"key": "small", "value": value});
    let request = reqwest::Client::new().post(format!("{}/put", cluster.leader_url())).json(&body);
    assert_eq!(request.send().await.expect("an answer").status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_never_read_on_get_few_places_and_lose_them() {
    let logs = TempDir::new().expect("a directory");
    let cluster = filled(&logs, &[("STALL_TIMEOUT_MS", "3000")]).await;
    let (url, process) = (cluster.leader_url(), cluster.process_ids()[0]);
    let before = resident_mib(process);
    let mut readers = Vec::new();
    for _ in 0..200 {
        readers.push(dumping(&url).await);
    }
    let refused = readers.iter().filter(|(_, status)| *status == 429).count();
    assert!(refused > 100, "{refused} of 200 dumps were refused");
    assert!(readers.iter().any(|(_, status)| *status == 200));
    for number in 0..20 {
        write(&cluster, &number.to_string()).await;
    }
    let grown = resident_mib(process).saturating_sub(before);
    assert!(grown < 200, "the leader grew by {grown} MiB");

    eventually("a place for another dump", async || {
        let dump = reqwest::get(format!("{url}/dump")).await.ok()?;
        (dump.status() == StatusCode::OK).then_some(())?;
        let entries = dump.json::<serde_json::Value>().await.ok()?;
        (entries["entries"].as_object()?.len() == VALUES + 1).then_some(())
    })
    .await;
    drop(readers);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_do_not_hold_writes_up() {
    let logs = TempDir::new().expect("a directory");
    let cluster = filled(&logs, &[("DUMPS_MAX", "20")]).await;
    let before = resident_mib(cluster.process_ids()[0]);
    let mut readers = Vec::new();
    for _ in 0..20 {
        let (mut stream, status) = dumping(&cluster.leader_url()).await;
        assert_eq!(status, 200);
        readers.push(tokio::spawn(async move {
            let mut space = vec![0; 64 << 10];
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            while stream.read(&mut space).await.is_ok_and(|bytes| bytes > 0) {
                pace.tick().await;
            }
        }));
    }
    for number in 0..50 {
        write(&cluster, &number.to_string()).await;
    }
    let grown = resident_mib(cluster.process_ids()[0]).saturating_sub(before);
    assert!(grown < 300, "the leader grew by {grown} MiB");
    readers.iter().for_each(tokio::task::JoinHandle::abort);
}
