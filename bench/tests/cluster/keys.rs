//! `GET /keys` at real nodes.

use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{KV_BENCH, eventually, one_follower};

async fn post(url: &str, path: &str, body: Value) -> Value {
    let answer = Client::new().post(format!("{url}{path}")).json(&body).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK, "{body}");
    answer.json().await.expect("JSON")
}

async fn page(url: &str, query: &str) -> (u16, Value) {
    let answer = Client::new().get(format!("{url}/keys?{query}")).send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

fn names(page: &Value) -> Vec<&str> {
    let keys = page["keys"].as_array().expect("keys");
    keys.iter().map(|key| key["key"].as_str().expect("text")).collect()
}

// Goal: pages list each key that has a value once, in order, with the version that `/get` gives; deleted keys are missing;
// a follower lists what it has. Method: 50 keys written in another order, some deleted, some written twice.
#[tokio::test(flavor = "multi_thread")]
async fn pages_list_what_is_there_with_its_versions() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = one_follower(KV_BENCH, logs.path(), &[]).await;
    cluster.wait_until_open().await.expect("the leader opens");
    let url = cluster.leader_url();
    for number in (0..50).map(|number| number * 7 % 50) {
        post(&url, "/put", json!({"key": format!("k{number:02}"), "value": format!("v{number}")})).await;
    }
    post(&url, "/put", json!({"key": "other", "value": "o"})).await;
    post(&url, "/put", json!({"key": "k07", "value": "again"})).await;
    post(&url, "/delete", json!({"key": "k09"})).await;
    let expected: Vec<String> = (0..50).filter(|number| *number != 9).map(|number| format!("k{number:02}")).collect();

    for (of, consistency) in [(url.clone(), "linearizable"), (cluster.follower_url(0), "local")] {
        let (mut listed, mut after, mut pages) = (Vec::new(), Some(String::new()), 0);
        while let Some(from) = after {
            // The follower has everything: W = N.
            let (status, page) = page(&of, &format!("prefix=k&limit=20&after={from}")).await;
            assert_eq!((status, &page["snapshot"]), (200, &json!(false)), "{page}");
            assert_eq!(page["consistency"], consistency);
            listed.extend(names(&page).into_iter().map(ToOwned::to_owned));
            after = page["next"].as_str().map(ToOwned::to_owned);
            pages += 1;
        }
        assert_eq!((listed, pages), (expected.clone(), 3), "{of}");
        let (_, all) = page(&of, "after=k48").await;
        assert_eq!((names(&all), &all["next"]), (vec!["k49", "other"], &Value::Null));
        let (_, again) = page(&of, "prefix=k07").await;
        let got = Client::new().get(format!("{of}/get?key=k07")).send().await.expect("an answer");
        let etag = got.headers()["etag"].to_str().expect("text").trim_matches('"').to_owned();
        assert_eq!(again["keys"], json!([{"key": "k07", "seq": 2, "etag": etag}]), "{of}");
    }

    for (query, error) in [
        ("limit=0", "limit (0) must be from 1 to 10000"),
        ("limit=10001", "limit (10001) must be from 1 to 10000"),
        ("limit=many", "invalid digit"),
    ] {
        let (status, body) = page(&url, query).await;
        assert!(status == 400 && body["error"].as_str().is_some_and(|text| text.contains(error)), "{status} {body}");
    }
    let posted = Client::new().post(format!("{url}/keys")).send().await.expect("an answer");
    assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
}

// Goal: a page shows no write before it is committed, and a leader that cannot know whether it still leads answers 503.
// Method: one of two followers, W = 2, stops; a value is overwritten, a key is written and one deleted meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_shows_committed_values_of_a_leader_that_leads() {
    let logs = TempDir::new().expect("a directory");
    let options = LocalClusterOptions {
        followers: 2,
        write_quorum: 2,
        max_delay_ms: 0,
        environment: vec![("REPLICATION_TIMEOUT_MS".to_owned(), "500".to_owned())],
        ..LocalClusterOptions::new(KV_BENCH, logs.path())
    };
    let mut cluster = LocalCluster::start(options).await.expect("the cluster starts");
    cluster.wait_until_open().await.expect("the leader opens");
    let url = cluster.leader_url();
    for key in ["a", "b"] {
        post(&url, "/put", json!({"key": key, "value": "committed"})).await;
    }
    let (_, before) = page(&url, "").await;
    assert_eq!(names(&before), ["a", "b"]);
    cluster.pause_follower(1).expect("paused");
    for (path, key) in [("/put", "a"), ("/delete", "b"), ("/put", "c")] {
        let body = json!({"key": key, "value": "pending"});
        let answer = Client::new().post(format!("{url}{path}")).json(&body).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR, "its outcome is unknown");
    }
    let (status, refused) = page(&url, "").await;
    assert_eq!(status, 503, "{refused}");

    // The first page that is answered may come before or after the writes are committed, but after a fresh confirmation.
    cluster.resume_follower(1).expect("continued");
    let after = eventually("a page", async || {
        let (status, page) = page(&url, "").await;
        (status == 200 && names(&page) == ["a", "c"]).then_some(page)
    })
    .await;
    let seqs: Vec<&Value> = after["keys"].as_array().expect("keys").iter().map(|key| &key["seq"]).collect();
    assert_eq!(seqs, [&json!(2), &json!(1)]);
}

// Goal: a page shows what is committed, not what is accepted, and waits for no write. Method: writes whose delays are longer
// than the test lasts.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_shows_no_write_under_way() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = one_follower(KV_BENCH, logs.path(), &[("REPLICATION_TIMEOUT_MS", "300000")]).await;
    cluster.wait_until_open().await.expect("the leader opens");
    let url = cluster.leader_url();
    for key in ["a", "b"] {
        post(&url, "/put", json!({"key": key, "value": "committed"})).await;
    }
    let (_, before) = page(&url, "").await;
    let delays = json!({"min_delay_ms": 200_000, "max_delay_ms": 200_000});
    let patched =
        Client::new().patch(format!("{url}/config?wait_ms=5000")).json(&delays).send().await.expect("an answer");
    assert_eq!(patched.status(), StatusCode::OK);
    for (path, key) in [("/put", "a"), ("/delete", "b"), ("/put", "c")] {
        let body = json!({"key": key, "value": "pending"});
        let request = Client::new().post(format!("{url}{path}")).json(&body);
        tokio::spawn(async move { request.send().await.map(drop) });
        eventually("the write is accepted", async || {
            let got = Client::new().get(format!("{url}/get?key={key}&consistency=local")).send().await.ok()?;
            let (status, body) = (got.status(), got.json::<Value>().await.ok()?);
            (body["committed"] == false || (path == "/delete" && status == StatusCode::NOT_FOUND)).then_some(())
        })
        .await;
    }
    let (status, during) = page(&url, "").await;
    assert_eq!((status, &during["keys"]), (200, &before["keys"]));
}
