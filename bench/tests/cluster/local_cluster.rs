//! Goal: the local cluster does to its processes what its methods say. Method: real nodes, killed, frozen and started
//! again; what they do is asked over HTTP.

use std::path::Path;

use kv_bench::cluster::{LocalCluster, LocalClusterOptions, Program};
use serde_json::{Value, json};

use crate::support::{KV_BENCH, PATIENCE, eventually};

fn options(logs: &Path) -> LocalClusterOptions {
    LocalClusterOptions { followers: 2, write_quorum: 1, max_delay_ms: 5, ..LocalClusterOptions::new(KV_BENCH, logs) }
}

async fn put(cluster: &LocalCluster, key: &str, value: &str) -> u16 {
    let body = json!({"key": key, "value": value});
    let request = reqwest::Client::new().post(format!("{}/put", cluster.leader_url())).json(&body);
    request.send().await.expect("answers").status().as_u16()
}

async fn value_at(url: &str, key: &str) -> Option<String> {
    let body: Value = reqwest::get(format!("{url}/get?key={key}")).await.ok()?.json().await.ok()?;
    Some(body["value"].as_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_killed_and_started_again_where_they_were() {
    let logs = tempfile::tempdir().expect("temporary directory");
    let mut cluster = LocalCluster::start(options(logs.path())).await.expect("starts");
    assert_eq!(cluster.process_ids().len(), 3);
    assert_eq!(put(&cluster, "before", "a").await, 200);

    let url = cluster.follower_url(1);
    cluster.kill_follower(1).expect("killed");
    assert_eq!(cluster.process_ids().len(), 2);
    assert!(reqwest::get(format!("{url}/healthz")).await.is_err(), "nothing listens");
    assert_eq!(put(&cluster, "during", "b").await, 200, "one of two followers is a quorum of one");
    cluster.start_follower(1).await.expect("starts");
    cluster.wait_until_open().await.expect("takes part again");
    assert_eq!(cluster.follower_url(1), url);
    for key in ["before", "during"] {
        eventually("the follower's catching up", async || value_at(&url, key).await).await;
    }

    cluster.kill_leader().expect("killed");
    cluster.start_leader().await.expect("starts");
    cluster.wait_until_open().await.expect("recovers");
    assert_eq!(value_at(&cluster.leader_url(), "during").await.as_deref(), Some("b"), "followers remember");
    assert!(cluster.start_leader().await.is_err(), "it runs already");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_follower_gets_its_writes_when_it_goes_on() {
    let logs = tempfile::tempdir().expect("temporary directory");
    let mut cluster = LocalCluster::start(options(logs.path())).await.expect("starts");
    cluster.pause_follower(0).expect("frozen");
    assert_eq!(put(&cluster, "while-frozen", "c").await, 200);
    cluster.resume_follower(0).expect("goes on");
    eventually("the write", async || value_at(&cluster.follower_url(0), "while-frozen").await).await;
    assert_eq!(cluster.terminate_follower(0).await.expect("ends"), Some(0), "SIGTERM ends a node in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_cannot_start_says_why_and_shows_the_log() {
    let logs = tempfile::tempdir().expect("temporary directory");
    let wrong = LocalClusterOptions { write_quorum: 3, ..options(logs.path()) };
    let error = LocalCluster::start(wrong).await.expect_err("3 of 2").to_string();
    assert!(error.starts_with("leader ended by itself (exit status: "), "{error}");
    assert!(error.contains("the end of ") && error.contains('3') && error.contains('2'), "{error}");

    let missing = LocalClusterOptions { program: Program::at("/nonexistent".into()), ..options(logs.path()) };
    let error = LocalCluster::start(missing).await.expect_err("no program").to_string();
    assert!(error.contains("failed to start follower1 from /nonexistent"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_replace_each_other_and_disks_outlive_everybody_but_a_wipe() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let data = directory.path().join("data");
    let options = LocalClusterOptions { data_directory: Some(data.clone()), ..options(&directory.path().join("logs")) };
    let mut cluster = LocalCluster::start(options).await.expect("starts");
    assert_eq!(put(&cluster, "kept", "a").await, 200);

    let first = cluster.leader_url();
    let (_, second) = cluster.start_rival().await.expect("starts");
    assert_eq!((cluster.rival_urls(), cluster.process_ids().len()), (vec![second.clone()], 4));
    cluster.keep_one_leader(PATIENCE).await.expect("one is replaced");
    assert_eq!((cluster.leader_url(), cluster.rival_urls()), (second, Vec::new()));
    assert_ne!(cluster.leader_url(), first);
    cluster.wait_until_open().await.expect("open");
    assert_eq!(put(&cluster, "by-the-second", "b").await, 200);

    cluster.kill_all().expect("killed");
    assert!(cluster.process_ids().is_empty());
    for follower in 0..2 {
        cluster.start_follower(follower).await.expect("starts");
    }
    cluster.start_leader().await.expect("starts");
    cluster.wait_until_open().await.expect("recovers");
    assert_eq!(value_at(&cluster.leader_url(), "by-the-second").await.as_deref(), Some("b"), "disks remember");

    assert!(cluster.wipe_follower(1).is_err(), "it runs");
    cluster.kill_follower(1).expect("killed");
    cluster.wipe_follower(1).expect("emptied");
    assert!(data.join("follower1").exists() && !data.join("follower2").exists());
}
