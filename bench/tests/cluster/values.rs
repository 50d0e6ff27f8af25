//! Goal: a value is any bytes, from the request to the disk and back, and no such value can be taken for anything else.
//! Method: values of every byte through real nodes, that restart, are read at followers, and are saved and restored.

use std::path::Path;

use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use kv_node::protocol::value::{InJson, Value as Stored};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::support::{KV_BENCH, PATIENCE, backup, connect, eventually, one_follower, stderr};

/// Three followers that store on disk below `directory`.
async fn on_disk(directory: &Path) -> LocalCluster {
    let options = LocalClusterOptions {
        followers: 3,
        write_quorum: 2,
        max_delay_ms: 0,
        data_directory: Some(directory.join("data")),
        ..LocalClusterOptions::new(KV_BENCH, directory.join("logs"))
    };
    let mut cluster = LocalCluster::start(options).await.expect("starts");
    cluster.wait_until_open().await.expect("the leader opens");
    cluster
}

/// Values that differ wherever a conversion could change one.
fn values() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("every-byte", (0..=255).collect()),
        ("empty", Vec::new()),
        ("zeros", vec![0; 1_000]),
        ("no-utf8", b"\xff".to_vec()),
        ("half-a-character", "\u{1f511}".as_bytes()[..3].to_vec()),
        ("surrogate", b"\xed\xa0\x80".to_vec()),
        ("text", "blue \u{1f511}\r\n\"\\".into()),
        ("long", (0..100_000_u32).map(|number| (number * 7 % 251) as u8).collect()),
    ]
}

/// The members of a JSON object that contain a value.
fn members(value: &[u8]) -> Value {
    match InJson::from(value) {
        InJson { text: Some(text), .. } => json!({"value": text}),
        InJson { base64, .. } => json!({"value_base64": base64}),
    }
}

async fn put(url: &str, mut body: Value, key: &str) -> (u16, Value) {
    body["key"] = json!(key);
    let answer = Client::new().post(format!("{url}/put")).json(&body).send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

async fn get(url: &str, query: &str) -> Response {
    reqwest::get(format!("{url}/get?key={query}")).await.expect("an answer")
}

fn header(response: &Response, name: &str) -> String {
    response.headers().get(name).map_or("", |value| value.to_str().expect("text")).to_owned()
}

/// Asserts that every way to read a key at a node returns this value.
async fn reads(url: &str, key: &str, value: &[u8]) {
    let got = get(url, key).await;
    let etag = header(&got, "etag");
    let body: Value = got.json().await.expect("JSON");
    for (member, expected) in members(value).as_object().expect("an object") {
        assert_eq!(body[member], *expected, "{key} at {url}");
    }
    assert_eq!(
        (body.get("value").is_some(), body.get("value_base64").is_some()),
        (std::str::from_utf8(value).is_ok(), std::str::from_utf8(value).is_err(),)
    );
    let raw = get(url, &format!("{key}&raw=true")).await;
    assert_eq!((raw.status().as_u16(), header(&raw, "etag")), (200, etag.clone()));
    assert_eq!(header(&raw, "content-type"), "application/octet-stream");
    assert_eq!(header(&raw, "x-content-type-options"), "nosniff");
    assert!(raw.bytes().await.expect("a body") == *value, "{key} at {url}");
    // Hyper omits the length of an empty body.
    let length = if value.is_empty() { String::new() } else { value.len().to_string() };
    let head = Client::new().head(format!("{url}/get?key={key}&raw=true")).send().await.expect("an answer");
    assert_eq!((header(&head, "etag"), header(&head, "content-length")), (etag, length));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_comes_back_also_from_followers_and_from_disk() {
    let directory = TempDir::new().expect("a directory");
    let mut cluster = on_disk(directory.path()).await;
    for (key, value) in values() {
        assert_eq!(put(&cluster.leader_url(), members(&value), key).await.0, 200, "{key}");
    }
    // Base64 of text is a value as any other.
    assert_eq!(put(&cluster.leader_url(), json!({"value_base64": "Ymx1ZQ=="}), "blue").await.0, 200);
    let expected: Vec<(&str, Vec<u8>)> = values().into_iter().chain([("blue", b"blue".to_vec())]).collect();
    for restarted in [false, true] {
        if restarted {
            cluster.kill_all().expect("killed");
            cluster.start_all().await.expect("starts");
            cluster.wait_until_open().await.expect("opens from what the followers have on disk");
        }
        for (key, value) in &expected {
            reads(&cluster.leader_url(), key, value).await;
        }
        for url in cluster.follower_urls() {
            eventually("a follower with every key", async || {
                let dump: Value = reqwest::get(format!("{url}/dump")).await.ok()?.json().await.ok()?;
                (dump["entries"].as_object()?.len() == expected.len()).then_some(())
            })
            .await;
            for (key, value) in &expected {
                reads(&url, key, value).await;
            }
        }
        for url in cluster.follower_urls().into_iter().chain([cluster.leader_url()]) {
            let dump: Value = reqwest::get(format!("{url}/dump")).await.expect("answers").json().await.expect("JSON");
            for (key, value) in &expected {
                let mut entry = members(value);
                entry["seq"] = json!(1);
                assert_eq!(dump["entries"][key], entry, "{key} at {url}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_no_value_is_refused() {
    let directory = TempDir::new().expect("a directory");
    let mut cluster = one_follower(KV_BENCH, directory.path(), &[("VALUE_BYTES_MAX", "20")]).await;
    cluster.wait_until_open().await.expect("the leader opens");
    let (leader, follower) = (cluster.leader_url(), cluster.follower_url(0));
    let table = [
        (json!({"value_base64": "_w=="}), 400, "value_base64 is not Base64: "),
        (json!({"value_base64": "/w"}), 400, "value_base64 is not Base64: "),
        (json!({"value_base64": "/w==\n"}), 400, "value_base64 is not Base64: "),
        (json!({"value_base64": 7}), 400, "value_base64 must be a string"),
        (json!({"value_base64": null}), 400, "Missing key"),
        (json!({"value": "v", "value_base64": "/w=="}), 400, "value or value_base64, not both"),
        (json!({"value": 7, "value_base64": "/w=="}), 400, "value or value_base64, not both"),
        (json!({"value_base64": "AAAAAAAAAAAAAAAAAAAAAAAAAAAA"}), 413, "too long|21 bytes (limit 20)"),
    ];
    for (mut body, status, words) in table {
        body["seq"] = json!(1);
        for (url, path) in [(&leader, "/put"), (&follower, "/replicate")] {
            body["key"] = json!("k");
            let answer = Client::new().post(format!("{url}{path}")).json(&body).send().await.expect("an answer");
            let found = answer.status().as_u16();
            let answer: Value = answer.json().await.expect("JSON");
            let message = answer["message"].as_str().expect("a message");
            assert_eq!(found, status, "{body}: {message}");
            assert!(words.split('|').any(|words| message.contains(words)), "{body}: {message}");
        }
    }
    assert_eq!(get(&leader, "k&raw=true").await.status().as_u16(), 404, "nothing was written");
    let outside = json!({"key": "k", "seq": 3, "value_base64": "/w=="});
    let answer = Client::new().post(format!("{follower}/replicate")).json(&outside).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 200);
    reads(&follower, "k", b"\xff").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_and_an_increment_show_bytes_that_are_no_text() {
    let directory = TempDir::new().expect("a directory");
    let mut cluster = one_follower(KV_BENCH, directory.path(), &[]).await;
    cluster.wait_until_open().await.expect("the leader opens");
    let leader = cluster.leader_url();
    assert_eq!(put(&leader, json!({"value_base64": "/w=="}), "k").await.0, 200);
    let (status, body) = put(&leader, json!({"value": "v", "if_absent": true}), "k").await;
    assert_eq!((status, &body["value_base64"], body.get("value")), (412, &json!("/w=="), None));
    let body = json!({"key": "k", "by": 1});
    let answer = Client::new().post(format!("{leader}/incr")).json(&body).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 400);
    let message = answer.json::<Value>().await.expect("JSON")["message"].clone();
    assert_eq!(message, "the value \"\u{fffd}\" is not a decimal 64-bit integer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_brings_every_byte_back() {
    let directory = TempDir::new().expect("a directory");
    let first = backup::cluster(&directory.path().join("first")).await;
    for (key, value) in values() {
        assert_eq!(put(&first.leader_url(), members(&value), key).await.0, 200, "{key}");
    }
    let file = directory.path().join("state.jsonl");
    let output = backup::backup(&first, &file).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let second = backup::cluster(&directory.path().join("second")).await;
    let output = backup::restore(&second, &file, &[]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    for (key, value) in values() {
        reads(&second.leader_url(), key, &value).await;
    }
    let restored = backup::dump(&second).await;
    assert_eq!(restored["every-byte"].value, Stored::from((0..=255).collect::<Vec<u8>>()));

    // What an earlier release wrote.
    let third = backup::cluster(&directory.path().join("third")).await;
    let mut earlier = kv_node::backup::Writer::of_format(1);
    let mut text = earlier.header("4.01".to_owned(), 1);
    text.push_str(&earlier.key(&kv_node::protocol::leader::Saved {
        key: "k".into(),
        seq: 3,
        value: Some("v".into()),
        marks: None,
    }));
    std::fs::write(&file, text + &earlier.trailer()).expect("written");
    let output = backup::restore(&third, &file, &[]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    reads(&third.leader_url(), "k", b"v").await;
}

/// Goal: the node adds a body to the answers that hyper gives by itself, and to nothing else. Method: a value that looks like
/// such an answer, short and long, read so often that the socket takes the answers in many parts; then a malformed request.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_looks_like_an_answer_stays_as_it_is() {
    const ANSWER: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\ndate: Thu, 26 Nov 2026 20:00:00 GMT\r\n\r\n";
    let directory = TempDir::new().expect("a directory");
    let mut cluster = one_follower(KV_BENCH, directory.path(), &[]).await;
    cluster.wait_until_open().await.expect("the leader opens");
    const READS: usize = 32;
    let repeated = ANSWER.repeat(10_000);
    for value in [ANSWER.to_owned(), format!("x\r\n\r\n{ANSWER}"), repeated] {
        assert_eq!(put(&cluster.leader_url(), json!({"value": value}), "k").await.0, 200);
        let follower = cluster.follower_url(0);
        eventually("the value at the follower", async || {
            (get(&follower, "k&raw=true").await.bytes().await.ok()? == value).then_some(())
        })
        .await;
        for url in [cluster.leader_url(), follower] {
            let mut stream = connect(&url).await;
            let requests = "GET /get?key=k&raw=true HTTP/1.1\r\nHost: n\r\n\r\n".repeat(READS);
            stream.write_all(requests.as_bytes()).await.expect("sent");
            let mut answer = Vec::new();
            for read in 1..=READS {
                let head_and_value = async {
                    loop {
                        if let Some(head) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")
                            && answer.len() >= head + 4 + value.len()
                        {
                            return head + 4;
                        }
                        assert!(stream.read_buf(&mut answer).await.expect("read") > 0, "the connection ended early");
                    }
                };
                let begin = timeout(PATIENCE, head_and_value).await.expect("an answer in time");
                assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "read {read}");
                assert!(answer[begin..begin + value.len()] == *value.as_bytes(), "read {read} is another value");
                answer.drain(..begin + value.len());
            }
            assert!(answer.is_empty(), "{} bytes too many", answer.len());
            // The connection goes on: what hyper itself answers next has a body.
            stream.write_all(b"nonsense\r\n\r\n").await.expect("sent");
            let mut rest = String::new();
            timeout(PATIENCE, stream.read_to_string(&mut rest)).await.expect("an end in time").expect("read");
            assert!(rest.starts_with("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"), "{rest}");
            assert!(rest.ends_with('}') && rest.contains("the request is not valid HTTP/1.1"), "{rest}");
        }
    }
}
