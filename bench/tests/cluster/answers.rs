//! Goal: what real nodes answer to `GET /status` and `GET /config` stays the same, byte by byte.
//! Method: each answer is compared with the file that records it, after what differs from run to run is replaced. The
//! types of kvcluster-api are compared with the same files.

use std::{path::Path, time::Duration};

use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kv-bench");

/// What differs from run to run, and what replaces it in the files.
fn varying() -> Vec<(String, Value)> {
    let id = json!("0123456789abcdef");
    let mut varying = vec![
        ("/version".to_owned(), json!("VERSION")),
        ("/id".to_owned(), id.clone()),
        ("/epoch/leader".to_owned(), id.clone()),
        ("/promised/leader".to_owned(), id.clone()),
        ("/staleness_ms".to_owned(), json!(1.5)),
        // The check of the log in the background may have begun.
        ("/disk/checked_bytes".to_owned(), json!(0)),
    ];
    for index in 0..3 {
        varying.extend([
            (format!("/followers/{index}/id"), id.clone()),
            (format!("/followers/{index}/lag_ms"), json!(0.5)),
            (format!("/followers/{index}/last_error"), json!("ERROR")),
        ]);
    }
    varying
}

/// The answer with what varies replaced. Fails unless it is the compact form of a JSON object.
fn steady(body: &str, cluster: &LocalCluster) -> String {
    let mut answer: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(answer.to_string(), body, "compact, with fields in this order");
    for (pointer, replacement) in varying() {
        if let Some(value) = answer.pointer_mut(&pointer).filter(|value| !value.is_null()) {
            *value = replacement;
        }
    }
    let mut text = serde_json::to_string_pretty(&answer).expect("JSON") + "\n";
    text = text.replace(&cluster.leader_url(), "http://LEADER");
    for (index, url) in cluster.follower_urls().iter().enumerate() {
        text = text.replace(url, &format!("http://FOLLOWER-{index}"));
    }
    text
}

async fn body(url: &str) -> String {
    Client::new().get(url).send().await.expect("an answer").text().await.expect("a body")
}

/// Asks until the answer is as recorded: a follower's confirmation may be on its way. Fails with the last answer.
async fn compare(name: &str, url: &str, cluster: &LocalCluster) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/tests/answers").join(name);
    let recorded = std::fs::read_to_string(&path).expect("a recorded answer");
    let mut seen = String::new();
    for _ in 0..200 {
        seen = steady(&body(url).await, cluster);
        if seen == recorded {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(seen, recorded, "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_config_are_as_recorded() {
    let directory = TempDir::new().expect("a directory");
    let mut options = LocalClusterOptions::new(PROGRAM, directory.path());
    options.followers = 3;
    options.write_quorum = 2;
    options.max_delay_ms = 0;
    options.delay_seed = Some(7);
    options.data_directory = Some(directory.path().join("data"));
    let mut cluster = LocalCluster::start(options).await.expect("the cluster starts");
    cluster.wait_until_open().await.expect("the leader opens");
    let (leader, follower) = (cluster.leader_url(), cluster.follower_url(0));
    let put = Client::new().post(format!("{leader}/put")).json(&json!({"key": "k", "value": "v"}));
    assert!(put.send().await.expect("an answer").status().is_success());
    compare("leader-open.json", &format!("{leader}/status"), &cluster).await;
    compare("config.json", &format!("{leader}/config"), &cluster).await;
    compare("follower-synced.json", &format!("{follower}/status"), &cluster).await;

    cluster.kill_all().expect("killed");
    cluster.start_follower(0).await.expect("started");
    cluster.start_leader().await.expect("started");
    compare("leader-recovering.json", &format!("{leader}/status"), &cluster).await;
    compare("config-pending.json", &format!("{leader}/config"), &cluster).await;

    cluster.kill_leader().expect("killed");
    cluster.wipe_follower(1).expect("wiped");
    cluster.start_follower(1).await.expect("started");
    let blank = cluster.follower_url(1);
    compare("follower-blank.json", &format!("{blank}/status"), &cluster).await;
}
