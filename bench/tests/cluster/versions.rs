//! The versions of keys that clients see, and the writes that depend on them.

use kv_bench::cluster::LocalCluster;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{KV_BENCH, one_follower};

async fn cluster(logs: &TempDir) -> LocalCluster {
    let mut cluster = one_follower(KV_BENCH, logs.path(), &[]).await;
    cluster.wait_until_open().await.expect("the leader opens");
    cluster
}

/// An answer: its status, its ETag, its body.
#[derive(Debug)]
struct Seen {
    status: u16,
    etag: Option<String>,
    body: Value,
}

async fn send(method: Method, url: String, headers: &[(&str, &str)], body: Value) -> Seen {
    let mut request = Client::new().request(method, url).body(body.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.expect("an answer");
    let etag = response.headers().get("etag").map(|etag| etag.to_str().expect("text").to_owned());
    Seen { status: response.status().as_u16(), etag, body: response.json().await.expect("JSON") }
}

async fn post(url: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Seen {
    send(Method::POST, format!("{url}{path}"), headers, body).await
}

async fn get(url: &str, key: &str) -> Seen {
    send(Method::GET, format!("{url}/get?key={key}"), &[], Value::Null).await
}

/// Goal: every answer about one key names the same version, from the write to the reads of leader and follower, and another
/// one after every write. Method: writes of long and short values, a retry, a deletion.
#[tokio::test(flavor = "multi_thread")]
async fn every_answer_about_a_key_has_its_etag() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs).await;
    let (leader, follower) = (cluster.leader_url(), cluster.follower_url(0));
    assert_eq!(get(&leader, "k").await.etag, None, "the key was never written");
    let token = [("Idempotency-Key", "t")];
    let mut known = Vec::new();
    for value in ["blue".to_owned(), "x".repeat(100_000), "blue".to_owned()] {
        let put =
            post(&leader, "/put", &token[..usize::from(known.is_empty())], json!({"key": "k", "value": value})).await;
        assert_eq!(put.status, 200, "{put:?}");
        let etag = put.etag.expect("an ETag");
        assert!(etag.starts_with(&format!("\"{}-", put.body["seq"])) && etag.len() == 20, "{etag}");
        for (url, query) in [(&leader, "k"), (&leader, "k&consistency=local"), (&follower, "k")] {
            let got = get(url, query).await;
            assert_eq!((got.body["value"].as_str(), got.etag.as_deref()), (Some(value.as_str()), Some(etag.as_str())));
        }
        assert!(!known.contains(&etag), "{etag} names two versions");
        known.push(etag);
    }
    assert_eq!(known[0][3..], known[2][3..], "one value has one hash");
    let retried = post(&leader, "/put", &token, json!({"key": "k", "value": "blue"})).await;
    assert_eq!(retried.etag.as_ref(), Some(&known[0]));

    let deletion = Some("\"4-0000000000000000\"");
    assert_eq!(post(&leader, "/delete", &[], json!({"key": "k"})).await.etag.as_deref(), deletion);
    let gone = get(&leader, "k").await;
    assert_eq!((gone.status, gone.etag.as_deref()), (404, deletion));
}
