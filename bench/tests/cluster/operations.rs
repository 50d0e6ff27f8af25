//! Goal: what an operator changes is never lost, and the log says once what he needs to know. Method: real nodes, many
//! changes at once, and followers that are gone or have two names.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    KV_BENCH, eventually,
    node::{Node, free_ports},
    one_follower,
};

#[tokio::test(flavor = "multi_thread")]
async fn of_many_changes_at_once_each_gets_a_generation_of_its_own() {
    const CHANGES: u64 = 1_000;
    let logs = TempDir::new().expect("a directory");
    let cluster = one_follower(KV_BENCH, logs.path(), &[("WORKER_THREADS", "4")]).await;
    let url = format!("{}/config", cluster.leader_url());
    let config = async || reqwest::get(&url).await.ok()?.json::<Value>().await.ok();
    let before = config().await.expect("a configuration")["generation"].as_u64().expect("a number");

    let (client, next) = (reqwest::Client::new(), std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0)));
    let writers: Vec<_> = (0..16)
        .map(|_| {
            let (client, url, next) = (client.clone(), url.clone(), next.clone());
            tokio::spawn(async move {
                while next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < CHANGES {
                    let patch = client.patch(&url).body(r#"{"max_delay_ms":0}"#).send().await.expect("an answer");
                    assert!(patch.status().is_success(), "{}", patch.status());
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    let after = eventually("the last change in force", async || {
        let config = config().await?;
        config["pending"].is_null().then(|| config["generation"].clone())
    });
    assert_eq!(after.await, json!(before + CHANGES), "changes were lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_says_in_its_log_which_follower_it_does_not_reach() {
    let directory = TempDir::new().expect("a directory");
    let [port] = free_ports();
    let follower = format!("http://127.0.0.1:{port}");
    let leader =
        Node::start(directory.path(), "leader", &[("ROLE", "leader"), ("PORT", "0"), ("FOLLOWERS", &follower)]);
    let log = leader.logs("follower is not connected").await;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("follower is not connected")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    for words in [follower.as_str(), "attempts=", "for_s=", "refused"] {
        assert!(lines[0].contains(words), "{words}: {}", lines[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_follower_under_two_names_does_not_flood_the_log() {
    let directory = TempDir::new().expect("a directory");
    let [port] = free_ports();
    let _follower = Node::start(directory.path(), "follower", &[("PORT", port.to_string())]);
    let followers = format!("http://127.0.0.1:{port},http://localhost:{port}");
    let settings = [("ROLE", "leader"), ("PORT", "0"), ("FOLLOWERS", followers.as_str())];
    let leader = Node::start(directory.path(), "leader", &settings);
    let log = leader.logs("follower is not connected").await;
    let lines = log.lines().filter(|line| line.contains("follower")).count();
    assert!(lines < 15, "{lines} lines: {log}");
}
