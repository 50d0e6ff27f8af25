//! `GET /watch` at real nodes.

use std::collections::BTreeMap;

use kv_bench::cluster::LocalCluster;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::{KV_BENCH, PATIENCE, one_follower};

/// An open watch.
struct Watch {
    response: Response,
    read: Vec<u8>,
}

#[derive(Debug)]
enum Event {
    Change(Value),
    Current,
    End(Value),
}

impl Watch {
    async fn open(url: &str, query: &str) -> Self {
        let response = Client::new().get(format!("{url}/watch?{query}")).send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, read: Vec::new() }
    }

    /// The next event. `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let Some(end) = self.read.windows(2).position(|two| two == b"\n\n") else {
                let chunk = timeout(PATIENCE, self.response.chunk()).await.expect("an event");
                self.read.extend_from_slice(&chunk.ok()??);
                continue;
            };
            let event: Vec<u8> = self.read.drain(..end + 2).collect();
            let event = String::from_utf8(event).expect("text");
            let data = || serde_json::from_str(event.split_once("data: ").expect("data").1).expect("JSON");
            match &event {
                _ if event.starts_with(':') || event.starts_with("retry: ") => {}
                _ if event.starts_with("event: current\n") => return Some(Event::Current),
                _ if event.starts_with("event: end\n") => return Some(Event::End(data())),
                _ => return Some(Event::Change(data())),
            }
        }
    }

    async fn change(&mut self) -> Value {
        match self.next().await {
            Some(Event::Change(change)) => change,
            other => panic!("{other:?} instead of a change"),
        }
    }

    /// What is there.
    async fn until_current(&mut self) -> Vec<Value> {
        let mut there = Vec::new();
        loop {
            match self.next().await {
                Some(Event::Change(change)) => there.push(change),
                Some(Event::Current) => return there,
                other => panic!("{other:?} instead of what is there"),
            }
        }
    }
}

async fn post(url: &str, path: &str, body: Value) -> (u16, String) {
    let answer = Client::new().post(format!("{url}{path}")).json(&body).send().await.expect("an answer");
    let etag = answer.headers().get("etag").map_or("", |etag| etag.to_str().expect("text"));
    (answer.status().as_u16(), etag.trim_matches('"').to_owned())
}

async fn open(logs: &TempDir, settings: &[(&str, &str)]) -> LocalCluster {
    let mut cluster = one_follower(KV_BENCH, logs.path(), settings).await;
    cluster.wait_until_open().await.expect("the leader opens");
    cluster
}

// Goal: a watch begins with what is there, then shows each committed change of its keys alone; it ends in words when the
// leader shuts down. Method: one key, one prefix, values that are no text, deletions.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_what_is_there_and_then_each_change() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = open(&logs, &[]).await;
    let url = cluster.leader_url();
    let (_, first) = post(&url, "/put", json!({"key": "job/1", "value": "new"})).await;
    post(&url, "/put", json!({"key": "other", "value": "o"})).await;
    post(&url, "/put", json!({"key": "job/2", "value": "gone"})).await;
    post(&url, "/delete", json!({"key": "job/2"})).await;

    let (mut jobs, mut third) = (Watch::open(&url, "prefix=job/").await, Watch::open(&url, "key=job/3").await);
    let there = json!({"key": "job/1", "value": "new", "seq": 1, "etag": first, "deleted": false});
    assert_eq!(jobs.until_current().await, [there]);
    assert_eq!(third.until_current().await, Vec::<Value>::new());

    let (_, etag) = post(&url, "/put", json!({"key": "job/3", "value_base64": "/w=="})).await;
    let expected = json!({"key": "job/3", "value_base64": "/w==", "seq": 1, "etag": etag, "deleted": false});
    assert_eq!((jobs.change().await, third.change().await), (expected.clone(), expected));
    post(&url, "/put", json!({"key": "other", "value": "again"})).await;
    let (_, etag) = post(&url, "/delete", json!({"key": "job/1"})).await;
    assert_eq!(jobs.change().await, json!({"key": "job/1", "seq": 2, "etag": etag, "deleted": true}));
    post(&url, "/put", json!({"key": "job/3", "value": "last"})).await;
    for watch in [&mut jobs, &mut third] {
        let change = watch.change().await;
        assert_eq!((&change["value"], &change["seq"]), (&json!("last"), &json!(2)));
    }

    for query in ["", "key=", "key=a&prefix=a", "other=a"] {
        let answer = Client::new().get(format!("{url}/watch?{query}")).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{query}");
    }
    let follower =
        Client::new().get(format!("{}/watch?key=a", cluster.follower_url(0))).send().await.expect("an answer");
    assert_eq!(follower.status(), StatusCode::NOT_FOUND);
    assert_eq!(follower.json::<Value>().await.expect("JSON")["leader"], url);

    let (ended, end) = tokio::join!(cluster.terminate_leader(), jobs.next());
    assert_eq!(ended.expect("it ends"), Some(0));
    assert!(matches!(&end, Some(Event::End(end)) if end["message"] == "the leader is shutting down"), "{end:?}");
    assert!(jobs.next().await.is_none());
}

// Goal: a client that reads nothing costs others nothing and gets the last value of each key. Method: 10,000 keys, each
// written three times while nothing is read; then everything is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_gets_the_newest_of_each_key() {
    let logs = TempDir::new().expect("a directory");
    let cluster = open(&logs, &[]).await;
    let url = cluster.leader_url();
    let mut watch = Watch::open(&url, "prefix=k").await;
    watch.until_current().await;
    // Longer than what the sockets between the two keep.
    let filler = "x".repeat(1_000);
    for round in 1..=3 {
        let line = |number: u32| json!({"put": {"key": format!("k{number}"), "value": format!("{round} {filler}")}});
        let lines: String = (0..10_000).map(|number| line(number).to_string() + "\n").collect();
        let lines = futures::stream::iter(lines.into_bytes().chunks(50_000).map(<[u8]>::to_vec).collect::<Vec<_>>());
        let lines = reqwest::Body::wrap_stream(futures::StreamExt::map(lines, Ok::<_, std::convert::Infallible>));
        let answer = Client::new().post(format!("{url}/batch")).body(lines).send().await.expect("an answer");
        assert_eq!(answer.text().await.expect("text").matches("{\"status\":200,").count(), 10_000);
    }
    let (mut seqs, mut last, mut events): (BTreeMap<String, u64>, _, _) = (BTreeMap::new(), 0, 0);
    while last < 10_000 {
        let change = watch.change().await;
        let (key, seq) = (change["key"].as_str().expect("text"), change["seq"].as_u64().expect("a number"));
        let before = seqs.insert(key.to_owned(), seq);
        assert!(before.is_none_or(|before| before < seq), "{key}: {seq} after {before:?}");
        assert_eq!(
            change["value"].as_str().and_then(|value| value.split_once(' ')).expect("a round").0,
            seq.to_string()
        );
        last += u32::from(seq == 3);
        events += 1;
    }
    println!("{events} events for 30,000 writes");
    assert!(events < 30_000, "it was given every version");
}

// Goal: after a change of leaders a watch begins again with what is there. Method: the leader hands over to a standby.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_again_at_the_next_leader() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = open(&logs, &[("TAKEOVER_AFTER_MS", "500")]).await;
    let (_, standby) = cluster.start_rival().await.expect("the standby starts");
    let url = cluster.leader_url();
    post(&url, "/put", json!({"key": "k", "value": "1"})).await;
    // The client follows the redirect of the standby, which has to hear the leader first.
    crate::support::eventually("the standby knows the leader", async || {
        let answer = Client::new().get(format!("{standby}/get?key=k")).send().await.ok()?;
        (answer.status() == StatusCode::OK).then_some(())
    })
    .await;
    let mut watch = Watch::open(&standby, "key=k").await;
    assert_eq!(watch.until_current().await.len(), 1);
    cluster.kill_leader().expect("killed");
    assert!(watch.next().await.is_none(), "the connection breaks");
    crate::support::eventually("the standby leads", async || {
        let answer = Client::new().post(format!("{standby}/put")).json(&json!({"key": "k", "value": "2"}));
        answer.send().await.ok().filter(|answer| answer.status() == StatusCode::OK)
    })
    .await;
    let mut watch = Watch::open(&standby, "key=k").await;
    let there = watch.until_current().await;
    assert_eq!((there.len(), &there[0]["value"]), (1, &json!("2")));
}

// Goal: the number of watches is bounded, and places are given back. Method: one more than there are.
#[tokio::test(flavor = "multi_thread")]
async fn watches_are_bounded() {
    let logs = TempDir::new().expect("a directory");
    let cluster = open(&logs, &[]).await;
    let url = cluster.leader_url();
    let mut watches = Vec::new();
    for _ in 0..256 {
        watches.push(Watch::open(&url, "key=k").await);
    }
    let more = Client::new().get(format!("{url}/watch?key=k")).send().await.expect("an answer");
    assert_eq!(more.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body: Value = more.json().await.expect("JSON");
    assert_eq!(body["message"], "256 watches are open already");
    watches.pop();
    crate::support::eventually("a place", async || {
        let answer = Client::new().get(format!("{url}/watch?key=k")).send().await.ok()?;
        (answer.status() == StatusCode::OK).then_some(())
    })
    .await;
    assert_eq!(post(&url, "/put", json!({"key": "k", "value": "v"})).await.0, 200);
    for watch in &mut watches {
        assert!(watch.until_current().await.is_empty());
        assert_eq!(watch.change().await["value"], "v");
    }
}
