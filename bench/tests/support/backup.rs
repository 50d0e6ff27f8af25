//! Clusters that ask for a token, and the program that saves and restores them.

use std::{path::Path, process::Output};

use kv_bench::{
    client::{Credentials, Dump, NodeClient},
    cluster::{LocalCluster, LocalClusterOptions},
};
use serde_json::{Value, json};

use super::{KV_BENCH, KVCTL};

/// What the clusters ask for.
pub(crate) const TOKEN: &str = "correct-horse";

/// Three followers, W = 2, no delays, in memory.
pub(crate) async fn cluster(directory: &Path) -> LocalCluster {
    let environment = vec![("AUTH_TOKEN".to_owned(), TOKEN.to_owned())];
    let options = LocalClusterOptions {
        followers: 3,
        write_quorum: 2,
        max_delay_ms: 0,
        environment,
        ..LocalClusterOptions::new(KV_BENCH, directory)
    };
    LocalCluster::start(options).await.expect("starts")
}

/// `kvctl` with the token, run to its end.
async fn program(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(KVCTL);
    command.args(arguments).env("AUTH_TOKEN", TOKEN).kill_on_drop(true);
    command.output().await.expect("kvctl runs")
}

/// `kvctl backup`.
pub(crate) async fn backup(cluster: &LocalCluster, file: &Path) -> Output {
    program(&["backup", "--leader", &cluster.leader_url(), "--to", &file.display().to_string()]).await
}

/// `kvctl restore`.
pub(crate) async fn restore(cluster: &LocalCluster, file: &Path, more: &[&str]) -> Output {
    let (url, file) = (cluster.leader_url(), file.display().to_string());
    program(&[&["restore", "--leader", &url, "--from", &file], more].concat()).await
}

/// The status and the body of the answer to a `POST` at the leader.
pub(crate) async fn post(cluster: &LocalCluster, path: &str, token: Option<&str>, body: Value) -> (u16, Value) {
    let mut request = reqwest::Client::new().post(format!("{}{path}", cluster.leader_url())).json(&body);
    if let Some(token) = token {
        request = request.header("idempotency-key", token);
    }
    let answer = request.send().await.expect("answers");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

/// Writes, and returns the sequence number.
pub(crate) async fn put(cluster: &LocalCluster, key: &str, value: &str) -> u64 {
    let (status, body) = post(cluster, "/put", None, json!({"key": key, "value": value})).await;
    assert_eq!(status, 200, "{body}");
    body["seq"].as_u64().expect("a number")
}

/// What the leader has.
pub(crate) async fn dump(cluster: &LocalCluster) -> Dump {
    NodeClient::with(&Credentials::default(), &cluster.leader_url(), 1).expect("a client").dump().await.expect("a dump")
}
