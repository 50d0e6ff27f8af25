//! Goal: a leader that is lost is replaced by its standby, nothing acknowledged is lost, and no client has to know who leads.
//! Method: real processes, of which the leading one is killed, paused, and asked to hand over.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::{self, KV_BENCH, eventually};

/// Gives up on a leader that does not answer.
fn client() -> reqwest::Client {
    reqwest::Client::builder().timeout(Duration::from_secs(1)).build().expect("a client")
}

struct Pair {
    cluster: LocalCluster,
    urls: [String; 2],
    client: reqwest::Client,
    /// The acknowledged values by their keys.
    acknowledged: BTreeMap<String, u64>,
    _logs: TempDir,
}

impl Pair {
    /// A leader, its standby, and five followers with W = 3.
    async fn start() -> Self {
        let logs = TempDir::new().expect("a directory");
        let options = LocalClusterOptions {
            write_quorum: 3,
            max_delay_ms: 0,
            environment: vec![("TAKEOVER_AFTER_MS".to_owned(), "500".to_owned())],
            ..LocalClusterOptions::new(KV_BENCH, logs.path())
        };
        let mut cluster = LocalCluster::start(options).await.expect("the cluster starts");
        let (_, standby) = cluster.start_rival().await.expect("the standby starts");
        let urls = [cluster.leader_url(), standby];
        let pair = Self { cluster, urls, client: client(), acknowledged: BTreeMap::new(), _logs: logs };
        pair.is_ready(1).await;
        assert_eq!(pair.reports(1, "standby").await["state"], "standby");
        pair
    }

    /// Waits until a node leads, or is a standby with a copy of the state.
    async fn is_ready(&self, node: usize) {
        let url = format!("{}/readyz", self.urls[node]);
        eventually("readiness", async || self.client.get(&url).send().await.ok()?.error_for_status().ok()).await;
    }

    async fn status(&self, node: usize) -> Option<Value> {
        self.client.get(format!("{}/status", self.urls[node])).send().await.ok()?.json().await.ok()
    }

    async fn reports(&self, node: usize, state: &str) -> Value {
        eventually(state, async || self.status(node).await.filter(|status| status["state"] == state)).await
    }

    /// Writes by way of one node; follows redirects.
    async fn put(&mut self, node: usize) -> Option<StatusCode> {
        let number = self.acknowledged.len() as u64;
        let body = json!({"key": format!("key{number}"), "value": number.to_string()}).to_string();
        let answer = self.client.post(format!("{}/put", self.urls[node])).body(body).send().await.ok()?;
        if answer.status().is_success() {
            self.acknowledged.insert(format!("key{number}"), number);
        }
        Some(answer.status())
    }

    async fn reads_everything(&self, node: usize) {
        for (key, value) in &self.acknowledged {
            let url = format!("{}/get?key={key}", self.urls[node]);
            let found: Value = self.client.get(url).send().await.expect("an answer").json().await.expect("JSON");
            assert_eq!(found["value"], value.to_string(), "{key}: {found}");
        }
    }

    /// Writes by way of `node` until a write is acknowledged.
    async fn writes_again(&mut self, node: usize) {
        let begun = Instant::now();
        let deadline = begun + support::PATIENCE;
        while self.put(node).await != Some(StatusCode::OK) {
            assert!(Instant::now() < deadline, "no write is acknowledged");
        }
        println!("writes go on after {} ms", begun.elapsed().as_millis());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_and_comes_back_as_the_standby() {
    let mut pair = Pair::start().await;
    for _ in 0..100 {
        assert_eq!(pair.put(0).await, Some(StatusCode::OK));
    }
    for killed in [0, 1] {
        let next = 1 - killed;
        assert_eq!(pair.put(next).await, Some(StatusCode::OK), "the standby redirects to the leader");
        if killed == 0 { pair.cluster.kill_leader() } else { pair.cluster.kill_rivals() }.expect("killed");
        pair.writes_again(next).await;
        pair.reads_everything(next).await;
        if killed == 0 { pair.cluster.start_leader().await } else { pair.cluster.start_rival().await.map(drop) }
            .expect("it starts again");
        pair.is_ready(killed).await;
        let status = pair.reports(killed, "standby").await;
        assert!(status["message"].as_str().is_some_and(|it| it.starts_with(&pair.urls[next])), "{status}");
        let copied = format!("its copy of the state has {} keys", pair.acknowledged.len());
        let message = async || pair.status(killed).await?["message"].as_str().map(ToOwned::to_owned);
        eventually(&copied, async || message().await.filter(|message| message.ends_with(&copied))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_names_the_leader_and_answers_for_itself_alone() {
    let pair = Pair::start().await;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    let leader = &pair.urls[0];
    for (method, path) in [
        (reqwest::Method::POST, "/put"),
        (reqwest::Method::POST, "/delete"),
        (reqwest::Method::GET, "/get?key=a%20b&consistency=local"),
        (reqwest::Method::GET, "/dump"),
        (reqwest::Method::GET, "/config"),
        (reqwest::Method::PATCH, "/config?wait_ms=5"),
    ] {
        let url = format!("{}{path}", pair.urls[1]);
        let answer = client.request(method, url).body(r#"{"key":"k","value":"v"}"#).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT, "{path}");
        assert_eq!(answer.headers()["location"], format!("{leader}{path}"));
        let body: Value = answer.json().await.expect("JSON");
        assert_eq!((&body["ok"], &body["leader"]), (&json!(false), &json!(leader)), "{body}");
        assert_eq!(body["outcome"], "not_applied");
    }
    for path in ["/status", "/readyz", "/healthz", "/metrics"] {
        let answer = client.get(format!("{}{path}", pair.urls[1])).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
    }
    let follower = pair.client.post(format!("{}/put", pair.cluster.follower_url(0))).send().await.expect("an answer");
    assert_eq!(follower.status(), StatusCode::NOT_FOUND);
    assert_eq!(follower.json::<Value>().await.expect("JSON")["leader"], json!(leader));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_too_long_ends_and_says_why() {
    let mut pair = Pair::start().await;
    assert_eq!(pair.put(0).await, Some(StatusCode::OK));
    pair.cluster.pause_leader().expect("paused");
    pair.writes_again(1).await;
    pair.cluster.resume_leader().expect("resumed");
    assert_eq!(pair.cluster.leader_ends().await.expect("it ends"), Some(1), "its supervisor starts it again");
    let log = std::fs::read_to_string(pair.cluster.leader_log()).expect("a log");
    assert!(log.contains("replaced by the leader of epoch"), "{log}");
    pair.reads_everything(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_hands_over() {
    let mut pair = Pair::start().await;
    for _ in 0..100 {
        assert_eq!(pair.put(0).await, Some(StatusCode::OK));
    }
    let answer = pair.client.post(format!("{}/hand-over", pair.urls[0])).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(pair.cluster.leader_ends().await.expect("it ends"), Some(0));
    pair.writes_again(1).await;
    pair.reads_everything(1).await;
    let answer = pair.client.post(format!("{}/hand-over", pair.urls[0])).send().await;
    assert!(answer.is_err(), "the process is gone");
    pair.cluster.start_leader().await.expect("it starts again");
    pair.reports(0, "standby").await;
    let refused = pair.client.get(format!("{}/status", pair.urls[1])).send().await.expect("an answer");
    assert_eq!(refused.json::<Value>().await.expect("JSON")["state"], "open");
}

/// The events of `GET /leadership`, as they arrive.
struct Leadership {
    answer: reqwest::Response,
    text: String,
}

impl Leadership {
    async fn of(url: &str) -> Self {
        // Without a time limit: the answer does not end.
        let answer = reqwest::get(format!("{url}/leadership")).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        Self { answer, text: String::new() }
    }

    /// The next event; none after the end of the stream.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.strip_prefix("data: ").map(|data| serde_json::from_str(data).expect("JSON"));
                self.text = rest.to_owned();
                match data {
                    Some(data) => return Some(data),
                    None => continue,
                }
            }
            let part = timeout(support::PATIENCE, self.answer.chunk()).await.expect("a comment each second");
            self.text += std::str::from_utf8(&part.expect("a whole answer")?).expect("text");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leads_is_reported_as_it_changes() {
    let pair = Pair::start().await;
    let (mut first, mut second) = (Leadership::of(&pair.urls[0]).await, Leadership::of(&pair.urls[1]).await);
    let led = first.next().await.expect("an event");
    assert_eq!((&led["state"], &led["leader"]), (&json!("open"), &Value::Null));
    let waits = second.next().await.expect("an event");
    assert_eq!((&waits["state"], &waits["leader"]), (&json!("standby"), &json!(pair.urls[0])));
    let answer = pair.client.get(format!("{}/leadership", pair.cluster.follower_url(0))).send().await;
    assert_eq!(answer.expect("an answer").status(), StatusCode::NOT_FOUND);
    let answer = pair.client.post(format!("{}/hand-over", pair.urls[0])).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let mut last = led.clone();
    while let Some(event) = first.next().await {
        last = event;
    }
    assert_eq!(last["state"], "draining", "the stream ends with the leader");
    let leads = loop {
        let event = second.next().await.expect("an event");
        if event["state"] == "open" {
            break event;
        }
    };
    assert!(leads["epoch"]["term"].as_u64() > led["epoch"]["term"].as_u64(), "{led} {leads}");
}

// Goal: streams that no reader closes take no place from others for ever, and no more than 64 are open.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_streams_of_who_leads_are_open_as_the_documents_say() {
    let pair = Pair::start().await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(Leadership::of(&pair.urls[1]).await);
    }
    let url = format!("{}/leadership", pair.urls[1]);
    let one_more = async || pair.client.get(&url).send().await.expect("an answer").status();
    assert_eq!(one_more().await, StatusCode::SERVICE_UNAVAILABLE);
    open.pop();
    eventually("a place", async || (one_more().await == StatusCode::OK).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kv_bench_measures_for_how_long_writes_stop() {
    let out = TempDir::new().expect("a directory");
    for (loss, words) in [("kill", "killed 2 times"), ("hand-over", "asked to hand over 2 times")] {
        let line = ["failover", "--rounds", "2", "--loss", loss, "--fill", "100", "--disk", "--quorum", "2"];
        let run = support::kv_bench(out.path(), &line).await;
        let text = support::stdout(&run);
        assert!(run.status.success(), "{text}{}", support::stderr(&run));
        for words in [words, "writes stop for", "acknowledged writes: all are there", "100 keys before", "on disk"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        if loss == "hand-over" {
            for clean in ["0 answered in another way", "0 ended before the answer", "0 of unknown outcome"] {
                assert!(text.contains(&format!(" {clean}")), "{clean}: {text}");
            }
            // A client that was not answered in time tries the other process, which may just have ended.
            let clean = [" 0 connections refused", " 0 requests without an answer"].map(|words| text.contains(words));
            assert!(clean[0] || !clean[1], "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kv_bench_measures_what_a_standby_costs() {
    let out = TempDir::new().expect("a directory");
    let line =
        ["standby", "--rounds", "2", "--seconds", "0.3", "--connections", "4", "--keys", "100", "--durability", "disk"];
    let run = support::kv_bench(out.path(), &line).await;
    let text = support::stdout(&run);
    assert!(run.status.success(), "{text}{}", support::stderr(&run));
    for words in ["W = 3, 4 connections, 100 keys, Disk", "beside one (medians of 2 rounds)", "failed             0"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

// Goal: clients of a leader that ends are sent to the next one, on connections that they have and on new ones. Method: it is
// asked until it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_ends_sends_its_clients_to_the_next_one() {
    let mut pair = Pair::start().await;
    assert_eq!(pair.put(0).await, Some(StatusCode::OK));
    let redirects = reqwest::redirect::Policy::none();
    let client = reqwest::Client::builder().redirect(redirects).timeout(support::PATIENCE).build().expect("a client");
    let put = format!("{}/put", pair.urls[0]);
    let body = r#"{"key":"k","value":"v"}"#;
    client.post(&put).body(body).send().await.expect("an answer").error_for_status().expect("it leads");
    pair.cluster.end_leader().expect("it is asked to end");
    let mut redirected = 0;
    while let Ok(answer) = client.post(&put).body(body).send().await {
        let headers = answer.headers().clone();
        match answer.status() {
            StatusCode::OK => assert_eq!(redirected, 0, "it has handed over"),
            StatusCode::SERVICE_UNAVAILABLE => assert!(headers.contains_key("retry-after")),
            status => {
                assert_eq!(status, StatusCode::TEMPORARY_REDIRECT);
                assert_eq!(headers["location"], format!("{}/put", pair.urls[1]));
                assert_eq!(headers["connection"], "close");
                redirected += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(redirected > 0, "it was gone before clients knew the next leader");
    assert_eq!(pair.cluster.leader_ends().await.expect("it ends"), Some(0));
    pair.reads_everything(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kv_bench_finds_no_needless_takeover() {
    let out = TempDir::new().expect("a directory");
    // Shorter pauses than an hour of the same has: other tests take processors here.
    let line = ["steady", "--seconds", "6", "--longest-pause-ms", "150", "--busy-threads", "1", "--quiet-disk"];
    let run = support::kv_bench(out.path(), &line).await;
    let text = support::stdout(&run);
    assert!(run.status.success(), "{text}{}", support::stderr(&run));
    for words in ["takeovers: 0", "followers paused", "longest pause", "acknowledged writes: all are there"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

// Goal: a takeover is counted, so that none means none. Method: the leader alone is paused, longer than it may be silent.
#[tokio::test(flavor = "multi_thread")]
async fn kv_bench_counts_takeovers() {
    let out = TempDir::new().expect("a directory");
    let pauses = ["--nodes", "leader", "--longest-pause-ms", "4000", "--takeover-after-ms", "300"];
    let line = [&["steady", "--seconds", "15", "--busy-threads", "0", "--quiet-disk"][..], &pauses].concat();
    let run = support::kv_bench(out.path(), &line).await;
    let text = support::stdout(&run);
    assert_eq!(run.status.code(), Some(3), "{text}{}", support::stderr(&run));
    assert!(text.contains("TAKEOVER after ") && !text.contains("takeovers: 0"), "{text}");
    assert!(text.contains("acknowledged writes: all are there") && !text.contains("followers"), "{text}");
}
