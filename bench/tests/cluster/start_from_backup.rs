//! Goal: the nodes of a cluster that starts from a backup show nothing and take nothing until a restore has ended in it, and
//! never wait again after that. Method: real clusters with `AWAIT_RESTORE`, which are restored, killed and started again.

use std::{fs, path::Path};

use kv_bench::{
    client::{Credentials, Dump, Entry, NodeClient},
    cluster::{LocalCluster, LocalClusterOptions},
};
use kv_node::{backup::Writer, protocol::leader::Saved};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{
    KV_BENCH,
    backup::{TOKEN, backup, dump, post, put, restore},
    eventually, stderr,
};

const WORDS: &str = "this new cluster starts from a backup, and its restore has not begun";

/// A backup of three keys, and what a cluster has that was given it.
fn saved(file: &Path) -> Dump {
    let mut writer = Writer::of_cluster(Some("shop/old"));
    let mut text = writer.header("7.01".to_owned(), 3);
    let mut entries = Dump::new();
    for (key, value, seq) in [("fruit", "quince", 4), ("color", "teal", 9), ("metal", "zinc", 2)] {
        text.push_str(&writer.key(&Saved { key: key.into(), seq, value: Some(value.into()), marks: None }));
        entries.insert(key.to_owned(), Entry { value: value.into(), seq });
    }
    text.push_str(&writer.trailer());
    fs::write(file, text).expect("written");
    entries
}

async fn waiting_cluster(directory: &Path, data: &str, write_quorum: u16) -> LocalCluster {
    let environment = [("AUTH_TOKEN", TOKEN), ("AWAIT_RESTORE", "true")];
    let options = LocalClusterOptions {
        followers: 3,
        write_quorum,
        max_delay_ms: 10,
        environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        data_directory: Some(directory.join(data)),
        ..LocalClusterOptions::new(KV_BENCH, directory.join("logs"))
    };
    let mut cluster = LocalCluster::start(options).await.expect("starts");
    cluster.wait_until_open().await.expect("open");
    cluster
}

async fn get(url: &str) -> (StatusCode, Value) {
    let answer = reqwest::get(url).await.expect("answers");
    (answer.status(), answer.json().await.expect("JSON"))
}

async fn restart(cluster: &mut LocalCluster) {
    cluster.kill_all().expect("killed");
    cluster.start_all().await.expect("start");
    cluster.wait_until_open().await.expect("open");
}

/// No node says that a key is missing, and none takes a write.
async fn assert_closed(cluster: &LocalCluster) {
    let leader = cluster.leader_url();
    for read in ["/get?key=fruit", "/get?key=fruit&consistency=local", "/dump", "/keys"] {
        let (status, body) = get(&format!("{leader}{read}")).await;
        assert_eq!((status, &body["error"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(WORDS)), "{read}");
        for follower in cluster.follower_urls() {
            let (status, body) = get(&format!("{follower}{read}")).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{read} at {follower}: {body}");
        }
    }
    let (status, body) = post(cluster, "/put", None, json!({"key": "fruit", "value": "mine"})).await;
    assert_eq!((status, &body["outcome"], &body["message"]), (503, &json!("not_applied"), &json!(WORDS)));
    let (status, body) = get(&format!("{leader}/status")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&body["start_pending"], &body["message"]), (&json!(true), &json!(WORDS)));
}

async fn start_pending(cluster: &LocalCluster) -> Value {
    get(&format!("{}/status", cluster.leader_url())).await.1["start_pending"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_starts_from_a_backup_serves_no_client_before_and_waits_for_none_after() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("state.jsonl");
    let expected = saved(&file);
    for write_quorum in [1, 3] {
        let mut cluster = waiting_cluster(directory.path(), &format!("data-{write_quorum}"), write_quorum).await;
        assert_closed(&cluster).await;
        let output = backup(&cluster, &directory.path().join("nothing.jsonl")).await;
        assert!(!output.status.success() && stderr(&output).contains(WORDS), "{}", stderr(&output));
        // Neither another leader nor the end of a restore that never began opens it.
        restart(&mut cluster).await;
        let end = format!("{}/restore?backup=ab12&stage=end", cluster.leader_url());
        let answer = reqwest::Client::new().post(end).bearer_auth(TOKEN).send().await.expect("answers");
        assert_eq!(answer.status(), StatusCode::CONFLICT);
        assert_closed(&cluster).await;

        let output = restore(&cluster, &file, &[]).await;
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(start_pending(&cluster).await, json!(false));
        assert_eq!(dump(&cluster).await, expected);
        assert_eq!(put(&cluster, "fruit", "medlar").await, 5);
        // Never again.
        restart(&mut cluster).await;
        assert_eq!(start_pending(&cluster).await, json!(false));
        assert_eq!(get(&format!("{}/get?key=fruit", cluster.leader_url())).await.1["value"], json!("medlar"));
        let output = restore(&cluster, &file, &[]).await;
        assert!(!output.status.success() && stderr(&output).contains("has 3 keys already"), "{}", stderr(&output));
        for url in cluster.follower_urls() {
            let follower = NodeClient::with(&Credentials::default(), &url, 1).expect("a client");
            eventually("a follower that has the whole state", async || {
                (follower.dump().await.ok()?.len() == expected.len()).then_some(())
            })
            .await;
            assert_eq!(get(&format!("{url}/get?key=missing")).await.0, StatusCode::NOT_FOUND);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_backup_is_given_up_opens_empty_and_stays_so() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let mut cluster = waiting_cluster(directory.path(), "data", 2).await;
    let give_up = format!("{}/restore?stage=give-up", cluster.leader_url());
    let answer = reqwest::Client::new().post(give_up).bearer_auth(TOKEN).send().await.expect("answers");
    assert_eq!(answer.status(), StatusCode::OK);
    restart(&mut cluster).await;
    assert_eq!(start_pending(&cluster).await, json!(false));
    put(&cluster, "fruit", "medlar").await;
}
