//! Conditions and increments over HTTP, against real processes.

use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::{KV_BENCH, one_follower};

/// An answer: its status, its ETag and its body.
type Answer = (u16, Option<String>, Value);

async fn post(url: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
    let mut request = Client::new().post(format!("{url}{path}")).json(&body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(request.send().await.expect("an answer")).await
}

async fn get(url: &str, key: &str) -> Answer {
    answer(Client::new().get(format!("{url}/get?key={key}")).send().await.expect("an answer")).await
}

async fn answer(response: reqwest::Response) -> Answer {
    let etag = response.headers().get("etag").map(|etag| etag.to_str().expect("text").to_owned());
    (response.status().as_u16(), etag, response.json().await.expect("JSON"))
}

async fn open(logs: &TempDir) -> LocalCluster {
    let mut cluster = one_follower(KV_BENCH, logs.path(), &[]).await;
    cluster.wait_until_open().await.expect("the leader opens");
    cluster
}

// Goal: a write with a condition applies if the condition holds; if not, the answer shows what the key has. Method: one key
// from its first write to its deletion, with conditions in headers and in bodies.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_applies_only_if_its_condition_holds() {
    let logs = TempDir::new().expect("a directory");
    let cluster = open(&logs).await;
    let url = cluster.leader_url();
    let put = async |headers: &[(&str, &str)], body| post(&url, "/put", headers, body).await;
    let unmet = |(status, etag, body): Answer, found: Value, seq: Option<u64>, version: &Option<String>| {
        assert_eq!((status, &etag), (412, version), "{body}");
        let expected = json!({"ok": false, "message": "the condition does not hold", "outcome": "not_applied",
            "key": "k", "value": found});
        assert_eq!(body.get("seq").and_then(Value::as_u64), seq, "{body}");
        for (field, value) in expected.as_object().expect("an object") {
            assert_eq!(body.get(field), Some(value), "{body}");
        }
    };

    let blue = json!({"key": "k", "value": "blue"});
    unmet(put(&[("If-Match", "*")], blue.clone()).await, Value::Null, None, &None);
    unmet(put(&[("If-Match", "\"0-0000000000000000\"")], blue.clone()).await, Value::Null, None, &None);
    let (status, first, _) = put(&[("If-None-Match", "*")], blue.clone()).await;
    assert_eq!(status, 200);
    let tag = first.clone().expect("an ETag");
    unmet(put(&[("If-None-Match", "*")], blue.clone()).await, json!("blue"), Some(1), &first);
    unmet(put(&[], json!({"key": "k", "value": "red", "if_absent": true})).await, json!("blue"), Some(1), &first);
    let other = format!("\"1-{:016x}\"", 1);
    unmet(put(&[("If-Match", &other)], blue.clone()).await, json!("blue"), Some(1), &first);
    let later = tag.replacen("\"1-", "\"2-", 1);
    unmet(put(&[("If-Match", &later)], blue.clone()).await, json!("blue"), Some(1), &first);

    let (status, second, body) = put(&[("If-Match", &tag)], json!({"key": "k", "value": "red"})).await;
    assert_eq!((status, &body["seq"]), (200, &json!(2)));
    unmet(put(&[("If-Match", &tag)], blue.clone()).await, json!("red"), Some(2), &second);
    let second = second.expect("an ETag");
    // In a body, with the quotes and without them.
    let third = put(&[], json!({"key": "k", "value": "v", "if_match": second.trim_matches('"')})).await;
    assert_eq!((third.0, &third.2["seq"]), (200, &json!(3)));
    let fourth = put(&[], json!({"key": "k", "value": "v", "if_match": third.1, "if_absent": false})).await;
    assert_eq!((fourth.0, &fourth.2["seq"]), (200, &json!(4)));
    assert_eq!(put(&[("If-Match", "*")], json!({"key": "k", "value": "w"})).await.0, 200);

    let (_, newest, _) = get(&url, "k").await;
    let delete = async |headers: &[(&str, &str)], body| post(&url, "/delete", headers, body).await;
    unmet(delete(&[("If-Match", &second)], json!({"key": "k"})).await, json!("w"), Some(5), &newest);
    let (status, deleted, _) = delete(&[("If-Match", &newest.expect("an ETag"))], json!({"key": "k"})).await;
    assert_eq!(status, 200);
    unmet(put(&[("If-Match", "*")], blue.clone()).await, Value::Null, Some(6), &deleted);
    unmet(delete(&[("If-Match", "*")], json!({"key": "k"})).await, Value::Null, Some(6), &deleted);
    // A deletion is a version too.
    let tombstone = deleted.expect("an ETag");
    assert_eq!(put(&[("If-Match", &tombstone)], blue.clone()).await.2["seq"], 7);
    assert_eq!(get(&url, "k").await.2["value"], "blue");
}

// Goal: a condition that is malformed never becomes a write without one. Method: a table.
#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_condition_is_refused_in_words() {
    let logs = TempDir::new().expect("a directory");
    let cluster = open(&logs).await;
    let url = cluster.leader_url();
    let version = r#"a version is * or one ETag in quotes: "<seq>-<16 hexadecimal digits>""#;
    let (tag, several) = ("\"1-0000000000000001\"", "a write has at most one condition");
    let plain = json!({"key": "k", "value": "v"});
    let with = |name: &str, value: Value| json!({"key": "k", "value": "v", name: value});
    let table = [
        ("/put", vec![("If-Match", "")], plain.clone(), version),
        ("/put", vec![("If-Match", "1-0000000000000001")], plain.clone(), version),
        ("/put", vec![("If-Match", "W/\"1-0000000000000001\"")], plain.clone(), version),
        ("/put", vec![("If-Match", "\"1-0000000000000001\", \"2-0000000000000001\"")], plain.clone(), version),
        ("/put", vec![("If-Match", "\"1\"")], plain.clone(), version),
        ("/put", vec![("If-Match", tag), ("If-Match", tag)], plain.clone(), "if-match appears more than once"),
        ("/put", vec![("If-None-Match", tag)], plain.clone(), "If-None-Match must be *"),
        ("/put", vec![("If-Match", tag), ("If-None-Match", "*")], plain.clone(), several),
        ("/put", vec![("If-Match", tag)], with("if_absent", json!(true)), several),
        ("/put", vec![("If-Match", tag)], with("if_match", json!(tag)), several),
        ("/put", vec![], with("if_match", json!(1)), "if_match must be a string"),
        ("/put", vec![], with("if_match", json!("blue")), version),
        ("/put", vec![], with("if_absent", json!("yes")), "expected a boolean"),
        ("/delete", vec![("If-Match", "blue")], json!({"key": "k"}), version),
        ("/incr", vec![("If-None-Match", "*")], json!({"key": "k"}), "POST /incr takes no condition"),
        ("/incr", vec![], json!({"key": "k", "by": 1.5}), "by must be a 64-bit integer, not 1.5"),
        ("/incr", vec![], json!({"key": "k", "by": "1"}), "by must be a 64-bit integer, not \"1\""),
        ("/incr", vec![], json!({"key": "k", "by": 9_223_372_036_854_775_808_u64}), "by must be a 64-bit integer"),
        ("/incr", vec![], json!({"by": 1}), "Missing key"),
        ("/incr", vec![], json!({"key": 1}), "key must be a string"),
    ];
    for (path, headers, body, words) in table {
        let (status, _, answer) = post(&url, path, &headers, body.clone()).await;
        assert_eq!(status, 400, "{path} {headers:?} {body}: {answer}");
        let message = answer["message"].as_str().expect("a message");
        assert!(message.contains(words), "{path} {headers:?} {body}: {message}");
    }
    assert_eq!(get(&url, "k").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_increment_adds_to_an_integer_and_to_nothing_else() {
    let logs = TempDir::new().expect("a directory");
    let cluster = open(&logs).await;
    let url = cluster.leader_url();
    let incr = async |body: Value| post(&url, "/incr", &[], body).await;
    for (by, value, seq) in [(json!(null), "1", 1), (json!(41), "42", 2), (json!(-50), "-8", 3), (json!(0), "-8", 4)] {
        let (status, etag, body) = incr(json!({"key": "n", "by": by})).await;
        assert_eq!((status, &body["value"], &body["seq"]), (200, &json!(value), &json!(seq)), "{body}");
        let (_, read, found) = get(&url, "n").await;
        assert_eq!((&found["value"], read), (&json!(value), etag));
    }
    let retried = [("Idempotency-Key", "once")];
    for _ in 0..2 {
        let (status, _, body) = post(&url, "/incr", &retried, json!({"key": "n", "by": 10})).await;
        assert_eq!((status, &body["value"], &body["seq"]), (200, &json!("2"), &json!(5)), "{body}");
    }
    let (status, _, _) = post(&url, "/incr", &retried, json!({"key": "n", "by": 11})).await;
    assert_eq!(status, 422);

    let long = "x".repeat(100);
    let shown = format!("the value \"{}\" … is not a decimal 64-bit integer", &long[..40]);
    for (value, by, words) in [
        ("blue", 1, "the value \"blue\" is not a decimal 64-bit integer"),
        ("", 1, "the value \"\" is not a decimal 64-bit integer"),
        (" 1", 1, "the value \" 1\" is not a decimal 64-bit integer"),
        (&long, 1, &*shown),
        ("9223372036854775807", 1, "9223372036854775807 + 1 is outside of the 64-bit integers"),
        ("-9223372036854775808", -1, "-9223372036854775808 + -1 is outside of the 64-bit integers"),
    ] {
        let (_, etag, _) = post(&url, "/put", &[], json!({"key": "m", "value": value})).await;
        let (status, refused, body) = incr(json!({"key": "m", "by": by})).await;
        assert_eq!((status, refused), (400, etag), "{body}");
        assert_eq!((&body["message"], &body["outcome"]), (&json!(words), &json!("not_applied")));
        assert_eq!(get(&url, "m").await.2["value"], value, "a refused increment changes nothing");
    }
}

// Goal: of clients that change one key at the same time, none undoes the change of another. Method: clients add to two
// counters while writes take time, by increments and by conditions, and each addition is there in the end.
#[tokio::test(flavor = "multi_thread")]
async fn no_change_of_many_clients_is_lost() {
    const CLIENTS: u64 = 8;
    const ADDITIONS: u64 = 12;
    let logs = TempDir::new().expect("a directory");
    let options = LocalClusterOptions {
        followers: 3,
        write_quorum: 2,
        max_delay_ms: 5,
        ..LocalClusterOptions::new(KV_BENCH, logs.path())
    };
    let mut cluster = LocalCluster::start(options).await.expect("the cluster starts");
    cluster.wait_until_open().await.expect("the leader opens");
    let url = cluster.leader_url();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let url = url.clone();
        clients.spawn(async move {
            let mut refused = 0;
            for _ in 0..ADDITIONS {
                assert_eq!(post(&url, "/incr", &[], json!({"key": "by-increment"})).await.0, 200);
                let (_, mut etag, mut found) = get(&url, "by-condition").await;
                loop {
                    let number: u64 = found["value"].as_str().map_or(0, |value| value.parse().expect("a number"));
                    let headers = etag.as_ref().map_or([("If-None-Match", "*")], |etag| [("If-Match", etag)]);
                    let body = json!({"key": "by-condition", "value": (number + 1).to_string()});
                    let answer = post(&url, "/put", &headers, body).await;
                    match answer.0 {
                        200 => break,
                        412 => refused += 1,
                        _ => panic!("{answer:?}"),
                    }
                    (etag, found) = (answer.1, answer.2);
                }
            }
            refused
        });
    }
    let refused: u64 = clients.join_all().await.into_iter().sum();
    assert!(refused > 0, "clients met each other");
    for key in ["by-increment", "by-condition"] {
        let (_, _, found) = get(&url, key).await;
        assert_eq!((&found["value"], &found["seq"]), (&json!("96"), &json!(CLIENTS * ADDITIONS)), "{key}");
    }
}

// Goal: a leader that cannot find out whether it still leads refuses no write for what it has: another leader may have a newer
// value. Method: the only follower is stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_quorum_reports_no_condition() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = one_follower(KV_BENCH, logs.path(), &[("REPLICATION_TIMEOUT_MS", "500")]).await;
    cluster.wait_until_open().await.expect("the leader opens");
    let url = cluster.leader_url();
    let body = json!({"key": "k", "value": "v"});
    assert_eq!(post(&url, "/put", &[], body.clone()).await.0, 200);
    cluster.pause_follower(0).expect("paused");
    let put = post(&url, "/put", &[("If-None-Match", "*")], body).await;
    let incr = post(&url, "/incr", &[], json!({"key": "k"})).await;
    cluster.resume_follower(0).expect("resumed");
    for (status, etag, body) in [put, incr] {
        assert_eq!((status, etag, &body["outcome"]), (503, None, &json!("not_applied")), "{body}");
        assert!(body["message"].as_str().is_some_and(|message| message.contains("within 500 ms")), "{body}");
    }
}
