//! `POST /batch` at real nodes.

use std::time::Duration;

use futures::StreamExt;
use kv_bench::cluster::LocalCluster;
use reqwest::{Body, Client, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::support::{KV_BENCH, PATIENCE, connect, eventually, one_follower};

async fn open(logs: &TempDir, settings: &[(&str, &str)]) -> LocalCluster {
    let mut cluster = one_follower(KV_BENCH, logs.path(), settings).await;
    cluster.wait_until_open().await.expect("the leader opens");
    cluster
}

/// The answers to these lines.
async fn batch(url: &str, lines: impl Into<Body>) -> Vec<Value> {
    let answer = Client::new().post(format!("{url}/batch")).body(lines).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let text = answer.text().await.expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

async fn get(url: &str, key: &str) -> Value {
    let answer = Client::new().get(format!("{url}/get?key={key}")).send().await.expect("an answer");
    answer.json().await.expect("JSON")
}

fn statuses(answers: &[Value]) -> Vec<u64> {
    answers.iter().map(|answer| answer["status"].as_u64().expect("a status")).collect()
}

// Goal: each line is answered as its single route answers, in order, and a line that is wrong harms no other. Method: a batch
// and its twin of single requests, on different keys.
#[tokio::test(flavor = "multi_thread")]
async fn lines_are_answered_as_their_routes_answer() {
    let logs = TempDir::new().expect("a directory");
    let cluster = open(&logs, &[]).await;
    let url = cluster.leader_url();
    let etag = "1-2d06800538d394c2";
    let requests = [
        ("put", json!({"key": "K", "value": ""})),
        ("get", json!({"key": "K"})),
        ("put", json!({"key": "K", "value": "other", "if_absent": true})),
        ("put", json!({"key": "K", "value_base64": "/w==", "if_match": etag})),
        ("get", json!({"key": "K"})),
        ("delete", json!({"key": "K", "if_match": "*"})),
        ("get", json!({"key": "K"})),
        ("put", json!({"key": "K", "value": "paid", "idempotency_key": "order-17"})),
        ("put", json!({"key": "K", "value": "paid", "idempotency_key": "order-17"})),
        ("put", json!({"key": "K", "value": "unpaid", "idempotency_key": "order-17"})),
        ("put", json!({"key": "K", "value": "paid", "idempotency_key": ""})),
        ("incr", json!({"key": "K"})),
        ("incr", json!({"key": "Kn", "by": 5, "idempotency_key": "n"})),
        ("incr", json!({"key": "Kn", "by": 5, "idempotency_key": "n"})),
        ("incr", json!({"key": "Kn", "by": -7})),
        ("incr", json!({"key": "Kn", "by": 0.5})),
        ("put", json!({"key": "K"})),
        ("put", json!({"key": 1, "value": "v"})),
        ("get", json!({})),
        ("delete", json!({"key": "K".repeat(5_000)})),
    ];
    let line = |(name, body): &(&str, Value)| json!({*name: body}).to_string() + "\n";
    let lines: String = requests.iter().map(line).collect();
    let mut answers = batch(&url, lines.replace('K', "batch")).await;
    assert_eq!(answers.len(), requests.len());
    // One of each kind: a get has its own words for a missing key.
    answers.remove(18);
    let singles = requests.iter().enumerate().filter(|(number, _)| *number != 18).map(|(_, request)| request);
    for ((name, body), answered) in singles.zip(answers) {
        let body: Value = serde_json::from_str(&body.to_string().replace('K', "alone")).expect("JSON");
        let client = Client::new();
        let single = match *name {
            "get" => client.get(format!("{url}/get?key={}", body["key"].as_str().expect("text"))),
            name => client.post(format!("{url}/{name}")).json(&body),
        };
        let single = single.send().await.expect("an answer");
        let (status, etag) = (single.status().as_u16(), single.headers().get("etag").cloned());
        let mut expected = json!({"status": status});
        if let Some(etag) = etag {
            expected["etag"] = etag.to_str().expect("text").trim_matches('"').into();
        }
        expected["body"] = single.json().await.expect("JSON");
        let answered: Value = serde_json::from_str(&answered.to_string().replace("batch", "alone")).expect("JSON");
        assert_eq!(answered, expected, "{name} {body}");
    }

    let long = "x".repeat(8 << 20);
    let lines = [
        r#"{"put":{"key":"a","value":"1"}}"#,
        "",
        "nonsense",
        r#"{"putt":{"key":"a","value":"1"}}"#,
        r#"{"put":{"key":"a","value":"2"},"get":{"key":"a"}}"#,
        "{}",
        "[]",
        &long,
        "\u{7f}\u{0}",
        r#"{"get":{"key":"a"}}"#,
    ];
    let answers = batch(&url, lines.join("\n")).await;
    assert_eq!(statuses(&answers), [200, 400, 400, 400, 400, 400, 413, 400, 200], "{answers:?}");
    assert_eq!(answers[8]["body"]["value"], "1");
    assert_eq!(batch(&url, "").await.len(), 0);
    assert_eq!(Client::new().get(format!("{url}/batch")).send().await.expect("an answer").status(), 405);
    let follower = Client::new().post(format!("{}/batch", cluster.follower_url(0))).send().await.expect("an answer");
    assert_eq!(follower.status(), StatusCode::NOT_FOUND);
    assert_eq!(follower.json::<Value>().await.expect("JSON")["leader"], url);
}

// Goal: writes of a batch are under way together, and a read sees those before it on its key, and none behind it. Method:
// long delays, so that every line has begun before the first is committed; W = N, so that the delays do not sort the writes.
#[tokio::test(flavor = "multi_thread")]
async fn lines_are_replicated_together_and_read_in_order() {
    let logs = TempDir::new().expect("a directory");
    let cluster = open(&logs, &[]).await;
    let url = cluster.leader_url();
    let delays = json!({"min_delay_ms": 0, "max_delay_ms": 300});
    Client::new().patch(format!("{url}/config?wait_ms=5000")).json(&delays).send().await.expect("an answer");
    let lines: String = (0..200)
        .map(|number| {
            let (key, value) = (format!("k{}", number % 10), number.to_string());
            let (put, get) = (json!({"put": {"key": key, "value": value}}), json!({"get": {"key": key}}));
            let incr = json!({"incr": {"key": "n"}});
            format!("{put}\n{get}\n{incr}\n")
        })
        .collect();
    let begun = std::time::Instant::now();
    let answers = batch(&url, lines).await;
    // One after another, the 400 writes would take 400 × 150 ms.
    println!("400 writes and 200 reads took {} ms", begun.elapsed().as_millis());
    assert_eq!(answers.len(), 600);
    for (number, three) in answers.chunks(3).enumerate() {
        assert_eq!(three[0]["body"]["seq"], json!(number / 10 + 1), "{three:?}");
        assert_eq!(three[1]["body"]["value"], json!(number.to_string()), "{three:?}");
        assert_eq!(three[2]["body"]["value"], json!((number + 1).to_string()), "{three:?}");
    }
}

// Goal: a batch may be much longer than what the node keeps of it, and its answers come while it is sent. Method: 20,000
// lines and a value of 100 kB that is read often; then a line that is sent only after the answer to the one before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_a_stream() {
    let logs = TempDir::new().expect("a directory");
    let cluster = open(&logs, &[]).await;
    let url = cluster.leader_url();
    let value = "long ".repeat(20_000);
    let first = json!({"put": {"key": "long", "value": value}}).to_string();
    let lines = (0..20_000).map(move |number| {
        let line = match number {
            0 => first.clone(),
            number if number % 100 == 0 => json!({"get": {"key": "long"}}).to_string(),
            number => json!({"put": {"key": format!("k{}", number % 500), "value": number.to_string()}}).to_string(),
        };
        Ok::<_, std::convert::Infallible>(line + "\n")
    });
    let answers = batch(&url, Body::wrap_stream(futures::stream::iter(lines))).await;
    assert_eq!(answers.len(), 20_000);
    assert!(answers.iter().all(|answer| answer["status"] == 200));
    assert!(answers.iter().skip(100).step_by(100).all(|answer| answer["body"]["value"] == *value));
    assert_eq!(get(&url, "k499").await["value"], "19999");

    let (sender, lines) = futures::channel::mpsc::unbounded::<Result<String, std::convert::Infallible>>();
    let put = |value: u64| Ok(json!({"put": {"key": "talk", "value": value.to_string()}}).to_string() + "\n");
    sender.unbounded_send(put(0)).expect("open");
    let request = Client::new().post(format!("{url}/batch")).body(Body::wrap_stream(lines)).send();
    let mut answer = request.await.expect("an answer").bytes_stream();
    for turn in 1..=5 {
        let text = timeout(PATIENCE, answer.next()).await.expect("a line").expect("a line").expect("no error");
        let answered: Value = serde_json::from_slice(&text).expect("one line");
        assert_eq!(answered["body"]["seq"], turn);
        sender.unbounded_send(put(turn)).expect("open");
    }
    sender.close_channel();
    assert!(timeout(PATIENCE, answer.next()).await.expect("the last line").is_some());
    assert!(timeout(PATIENCE, answer.next()).await.expect("the end").is_none());
}

// Goal: a client that stops half way carries out its whole lines and no other, and one that reads nothing holds up nobody.
// Method: half of a batch and silence; a batch that is cut off within a line that would be a request by itself; a client that
// sends and never reads, beside another client.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stop_harm_nobody() {
    let logs = TempDir::new().expect("a directory");
    let cluster = open(&logs, &[("BODY_TIMEOUT_MS", "300"), ("STALL_TIMEOUT_MS", "500")]).await;
    let url = cluster.leader_url();
    let head = |length: usize| format!("POST /batch HTTP/1.1\r\nHost: n\r\nContent-Length: {length}\r\n\r\n");
    let put = |key: &str, value: &str| json!({"put": {"key": key, "value": value}}).to_string();

    let mut silent = connect(&url).await;
    let sent = head(10_000) + &put("half", "1") + "\n" + &put("half", "2")[..20];
    silent.write_all(sent.as_bytes()).await.expect("sent");
    let mut text = String::new();
    timeout(PATIENCE, silent.read_to_string(&mut text)).await.expect("it is closed").expect("text");
    assert!(text.contains("\"status\":200") && text.contains("{\"status\":408,"), "{text}");
    assert!(text.contains("no whole line arrived within 300 ms"), "{text}");

    let mut cut_off = connect(&url).await;
    let sent = head(10_000) + &put("cut", "1") + "\n" + &put("cut", "2");
    cut_off.write_all(sent.as_bytes()).await.expect("sent");
    cut_off.shutdown().await.expect("the client closes its side");
    let mut text = String::new();
    let _ = timeout(PATIENCE, cut_off.read_to_string(&mut text)).await.expect("it is closed");
    for key in ["half", "cut"] {
        let found = eventually("the whole line", async || {
            let found = get(&url, key).await;
            found.get("value").is_some().then_some(found)
        })
        .await;
        assert_eq!((&found["value"], &found["seq"]), (&json!("1"), &json!(1)), "{key}: {text}");
    }

    let value = "x".repeat(500_000);
    assert_eq!(statuses(&batch(&url, put("long", &value)).await), [200]);
    let mut deaf = connect(&url).await;
    let line = json!({"get": {"key": "long"}}).to_string() + "\n";
    deaf.write_all(head(usize::MAX >> 8).as_bytes()).await.expect("sent");
    let send = async { while deaf.write_all(line.as_bytes()).await.is_ok() {} };
    let others = async {
        for number in 0..50 {
            let answers = batch(&url, put("other", &number.to_string())).await;
            assert_eq!(statuses(&answers), [200]);
        }
    };
    // The node closes the connection of the client that reads nothing.
    timeout(PATIENCE, async { tokio::join!(send, others) }).await.expect("it is closed");
    tokio::time::timeout(Duration::from_secs(60), batch(&url, "{\"get\":{\"key\":\"other\"}}"))
        .await
        .expect("an answer");
}
