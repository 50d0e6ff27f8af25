//! Goal: a browser gets a page at every node, programs get what they got before, and open pages are bounded, show
//! what happens, and do not delay a shutdown. Method: real nodes, asked as a browser and as a program ask; the events are read as the page
//! reads them.

use std::{collections::BTreeMap, path::Path};

use futures::StreamExt;
use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use reqwest::{Response, StatusCode, header, redirect};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::{KV_BENCH, PATIENCE, eventually, one_follower};

/// What browsers send when their user enters an address.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// Pages that a leader serves at once.
const PAGES_MAX: usize = 16;

async fn ask(url: &str, accept: &str) -> Response {
    let client = reqwest::Client::builder().redirect(redirect::Policy::none()).build().expect("a client");
    client.get(url).header(header::ACCEPT, accept).send().await.expect("an answer")
}

/// The updates that an open page gets.
struct Page {
    response: Response,
    read: Vec<u8>,
}

impl Page {
    async fn open(leader: &str) -> Self {
        let response = reqwest::get(format!("{leader}/live")).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        Self { response, read: Vec::new() }
    }

    /// The next update. `None` at the end of the stream, if the node ended it in order.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.read.drain(..end + 2).collect();
                return Some(serde_json::from_slice(event.strip_prefix(b"data: ").expect("data")).expect("JSON"));
            }
            let chunk = timeout(PATIENCE, self.response.chunk()).await.expect("an update");
            self.read.extend_from_slice(&chunk.expect("the stream is intact")?);
        }
    }
}

async fn start(logs: &Path, write_quorum: u16) -> LocalCluster {
    let options = LocalClusterOptions {
        followers: 3,
        write_quorum,
        max_delay_ms: 40,
        ..LocalClusterOptions::new(KV_BENCH, logs)
    };
    LocalCluster::start(options).await.expect("the cluster starts")
}

/// Writes this many keys, all at once.
async fn put(leader: &str, writes: usize) {
    let client = reqwest::Client::new();
    let put = |number: usize| {
        let body = json!({"key": format!("key{number}"), "value": "v"});
        let request = client.post(format!("{leader}/put")).json(&body);
        async move { assert_eq!(request.send().await.expect("an answer").status(), StatusCode::OK) }
    };
    futures::stream::iter((0..writes).map(put)).for_each_concurrent(50, |put| put).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_get_a_page_and_programs_what_they_got_before() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = one_follower(KV_BENCH, logs.path(), &[("TAKEOVER_AFTER_MS", "500")]).await;
    let (_, standby) = cluster.start_rival().await.expect("the standby starts");
    let (leader, follower) = (cluster.leader_url(), cluster.follower_url(0));
    for (url, title) in [(&leader, "One write at a time"), (&follower, "This node"), (&standby, "This node")] {
        let page = ask(url, BROWSER).await;
        assert_eq!(page.status(), StatusCode::OK, "{url}");
        let headers = page.headers().clone();
        assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().expect("text");
        assert!(policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        let html = page.text().await.expect("text");
        assert!(html.contains(title), "{url}: {html}");
        assert!(!html.contains("://"), "the page names no other place");
        let files = html.split('"').filter(|text| text.starts_with("page/"));
        for file in files.chain(["page/theory.js"]) {
            let file = ask(&format!("{url}/{file}"), "*/*").await;
            assert_eq!(
                (file.status(), &file.headers()[header::X_CONTENT_TYPE_OPTIONS]),
                (StatusCode::OK, &headers[header::X_CONTENT_TYPE_OPTIONS])
            );
        }
        assert_eq!(ask(&format!("{url}/page/nothing.js"), BROWSER).await.status(), StatusCode::NOT_FOUND);
    }
    for accept in ["*/*", "application/json", "text/plain"] {
        let answer = ask(&leader, accept).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        assert_eq!(answer.json::<Value>().await.expect("JSON")["message"], "no such route: /");
        assert_eq!(ask(&follower, accept).await.status(), StatusCode::NOT_FOUND);
        assert_eq!(ask(&standby, accept).await.status(), StatusCode::TEMPORARY_REDIRECT);
    }
    let posted = reqwest::Client::new().post(&leader).header(header::ACCEPT, BROWSER).send().await.expect("an answer");
    assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED, "only reads get the page");

    let elsewhere = ask(&format!("{follower}/live"), "*/*").await;
    assert_eq!(elsewhere.status(), StatusCode::NOT_FOUND);
    assert_eq!(elsewhere.json::<Value>().await.expect("JSON")["leader"], leader);
    assert_eq!(ask(&format!("{standby}/live"), "*/*").await.status(), StatusCode::TEMPORARY_REDIRECT);
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_show_the_delays_and_the_moment_of_the_commit() {
    let logs = TempDir::new().expect("a directory");
    let cluster = start(logs.path(), 2).await;
    let leader = cluster.leader_url();
    put(&leader, 5).await;
    let mut page = Page::open(&leader).await;
    let first = page.next().await.expect("an update");
    // Nothing is recorded before the first page.
    assert_eq!((&first["status"]["state"], &first["latency"]["count"]), (&json!("open"), &json!(0)));

    let writes = 300;
    put(&leader, writes).await;
    let (mut samples, mut last, mut updates) = (Vec::new(), Value::Null, 1);
    while last["latency"]["count"] != writes || last["status"]["writes"]["backlog"] != 0 || last["writes"] != json!([])
    {
        last = page.next().await.expect("an update");
        updates += 1;
        samples.extend(last["writes"].as_array().expect("a list").clone());
    }
    let number = |value: &Value| value.as_f64().expect("a number");
    assert!((1..=5 * updates).contains(&samples.len()), "{} in {updates} updates", samples.len());
    let mut seen = BTreeMap::new();
    for sample in &samples {
        *seen.entry(sample["key"].to_string()).or_insert(0) += 1;
        assert_eq!(sample["write_quorum"], 2, "{sample}");
        let followers = sample["followers"].as_array().expect("a list");
        assert_eq!(followers.len(), 3, "{sample}");
        let mut confirmed = Vec::new();
        for follower in followers {
            let delay = number(&follower["delay_ms"]);
            assert!((0.0..=40.0).contains(&delay), "{sample}");
            // On a slow machine the leader may give up waiting for a follower.
            if let Some(at) = follower["confirmed_ms"].as_f64() {
                assert!(at >= delay, "{sample}");
                confirmed.push(at);
            }
        }
        confirmed.sort_by(f64::total_cmp);
        assert_eq!(sample["committed_ms"].as_f64(), Some(confirmed[1]), "the second confirmation commits: {sample}");
    }
    assert!(seen.values().all(|times| *times == 1), "a write is shown once: {seen:?}");
    let counted: u64 =
        last["latency"]["buckets"].as_array().expect("a list").iter().filter_map(|it| it[2].as_u64()).sum();
    assert_eq!(counted, writes as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_pages_are_bounded_and_end_with_the_leader() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = start(logs.path(), 1).await;
    let leader = cluster.leader_url();
    let mut pages = Vec::new();
    for _ in 0..PAGES_MAX {
        pages.push(Page::open(&leader).await);
    }
    let refused = reqwest::get(format!("{leader}/live")).await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key(header::RETRY_AFTER));
    let message = refused.json::<Value>().await.expect("JSON")["message"].to_string();
    assert!(message.contains("16 live pages are open"), "{message}");

    pages.pop();
    let another = eventually("a free place", async || {
        let answer = reqwest::get(format!("{leader}/live")).await.expect("an answer");
        (answer.status() == StatusCode::OK).then_some(answer)
    });
    pages.push(Page { response: another.await, read: Vec::new() });

    let ends = tokio::spawn(async move {
        for mut page in pages {
            let mut last = page.next().await.expect("an update");
            while let Some(update) = page.next().await {
                last = update;
            }
            assert_eq!(last["status"]["state"], "draining", "the last update reports the shutdown");
        }
    });
    assert_eq!(cluster.terminate_leader().await.expect("the leader ends"), Some(0));
    ends.await.expect("every stream ends in order");
}
