//! The HTTP interface of a node, against real processes: every answer that it promises, and the words of every refusal.

use std::sync::Arc;

use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use kvcluster_api::delay::{Constant, DelayLaw};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kv-bench");

async fn cluster(logs: &TempDir, change: impl FnOnce(&mut LocalClusterOptions)) -> LocalCluster {
    let mut options = LocalClusterOptions::new(PROGRAM, logs.path());
    options.max_delay_ms = 0;
    change(&mut options);
    let mut cluster = LocalCluster::start(options).await.expect("the cluster starts");
    cluster.wait_until_open().await.expect("the leader opens");
    cluster
}

async fn send(method: Method, url: &str, body: &str) -> (u16, Value) {
    let request = Client::new().request(method, url).body(body.to_owned());
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{url} answered {status} without JSON: {text}")))
}

/// Goal: a law of the delays is in force from the next write on, each follower has its own, and bounds replace it again.
/// Method: constant delays that differ by follower, which the leader reports for each write.
#[tokio::test(flavor = "multi_thread")]
async fn a_law_of_the_delays_changes_live() {
    let logs = TempDir::new().expect("a directory");
    let constant = |ms: f64| DelayLaw { constant: Some(Constant { ms }), ..DelayLaw::default() };
    let cluster = cluster(&logs, |options| {
        options.followers = 3;
        options.write_quorum = 2;
        let third = DelayLaw { follower: Some(2), ..constant(7.5) };
        options.delay = Some(Arc::new(DelayLaw { per_follower: Some(vec![third]), ..constant(2.25) }));
    })
    .await;
    let leader = cluster.leader_url();
    let drawn = async || {
        let put = send(Method::POST, &format!("{leader}/put?explain=true"), r#"{"key":"k","value":"v"}"#).await;
        put.1["explain"].clone()
    };
    assert_eq!(drawn().await["delays_ms"], json!([2.25, 2.25, 7.5]), "DELAY");

    let law = json!({"constant": {"ms": 1.0}, "perFollower": [{"follower": 0, "constant": {"ms": 4.5}}],
        "shared": {"constant": {"ms": 2.0}}});
    let change = async |body: Value| {
        let (status, config) = send(Method::PATCH, &format!("{leader}/config?wait_ms=5000"), &body.to_string()).await;
        assert_eq!(status, 200, "{config}");
    };
    change(json!({"delay": law})).await;
    let explained = drawn().await;
    assert_eq!((&explained["delays_ms"], &explained["quorum_delay_ms"]), (&json!([6.5, 3.0, 3.0]), &json!(3.0)));
    let config = send(Method::GET, &format!("{leader}/config"), "").await.1;
    assert_eq!((&config["delay"], &config["min_delay_ms"], &config["max_delay_ms"]), (&law, &json!(3), &json!(7)));
    assert_eq!(send(Method::GET, &format!("{leader}/status"), "").await.1["config"]["delay"], law);

    change(json!({"min_delay_ms": 1, "max_delay_ms": 1})).await;
    assert_eq!(drawn().await["delays_ms"], json!([1.0, 1.0, 1.0]));
    let config = send(Method::GET, &format!("{leader}/config"), "").await.1;
    assert_eq!(config.get("delay"), None, "the uniform law is shown by its bounds");
}

/// Goal: whatever a client sends, the answer is JSON with the status and the words of the interface.
/// Method: a table of requests to a leader and a follower.
#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_answered_in_json() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, |options| {
        options.followers = 2;
        options.environment = vec![("KEY_BYTES_MAX".into(), "10".into()), ("VALUE_BYTES_MAX".into(), "20".into())];
    })
    .await;
    let (leader, follower) = (cluster.leader_url(), cluster.follower_url(0));
    let missing = json!({"ok": false, "message": "Missing key or value"});
    let strings = json!({"ok": false, "message": "key and value must be strings"});
    let object = json!({"ok": false, "message": "the body must be a JSON object"});
    let too_big = "x".repeat(10_000);
    let big_body = format!(r#"{{"key":"k","value":"{too_big}"}}"#);
    let table: Vec<(Method, String, &str, u16, Value)> = vec![
        (
            Method::POST,
            format!("{leader}/put"),
            r#"{"key":"k","value":"v"}"#,
            200,
            json!({"ok": true, "seq": 1, "message": "committed (quorum reached)"}),
        ),
        (Method::POST, format!("{leader}/put"), r#"{"key":"k","value":""}"#, 200, json!({"ok": true, "seq": 2})),
        (Method::POST, format!("{leader}/put"), r#"{"key":"k"}"#, 400, missing.clone()),
        (Method::POST, format!("{leader}/put"), r#"{"value":"v"}"#, 400, missing.clone()),
        (Method::POST, format!("{leader}/put"), r#"{"key":"","value":"v"}"#, 400, missing.clone()),
        (Method::POST, format!("{leader}/put"), r#"{"key":null,"value":"v"}"#, 400, missing.clone()),
        (Method::POST, format!("{leader}/put"), r#"{"key":"k","value":null}"#, 400, missing.clone()),
        (Method::POST, format!("{leader}/put"), "{}", 400, missing.clone()),
        (Method::POST, format!("{leader}/put"), r#"{"key":1,"value":"v"}"#, 400, strings.clone()),
        (Method::POST, format!("{leader}/put"), r#"{"key":"k","value":{"a":[1]}}"#, 400, strings.clone()),
        (Method::POST, format!("{leader}/put"), r#"{"key":"k","value":true}"#, 400, strings.clone()),
        (Method::POST, format!("{leader}/put"), r#"["k","v"]"#, 400, object.clone()),
        (Method::POST, format!("{leader}/put"), r#" "k""#, 400, object.clone()),
        (Method::POST, format!("{leader}/put"), "null", 400, object.clone()),
        (Method::POST, format!("{leader}/put"), r#"{"key":"k","#, 400, json!({"ok": false})),
        (Method::POST, format!("{leader}/put"), "", 400, json!({"ok": false})),
        (
            Method::POST,
            format!("{leader}/put"),
            r#"{"key":"12345678901","value":"v"}"#,
            413,
            json!({"ok": false, "message": "the key has 11 bytes (limit 10)", "outcome": "not_applied"}),
        ),
        (
            Method::POST,
            format!("{leader}/put"),
            r#"{"key":"k","value":"123456789012345678901"}"#,
            413,
            json!({"ok": false, "message": "the value has 21 bytes (limit 20)"}),
        ),
        (Method::POST, format!("{leader}/put"), &big_body, 413, json!({"ok": false, "outcome": "not_applied"})),
        (Method::POST, format!("{leader}/put?explain=maybe"), r#"{"key":"k","value":"v"}"#, 400, json!({"ok": false})),
        (
            Method::GET,
            format!("{leader}/put"),
            "",
            405,
            json!({"ok": false, "message": "the method GET is not allowed here"}),
        ),
        (Method::DELETE, format!("{leader}/get?key=k"), "", 405, json!({"ok": false})),
        (Method::GET, format!("{leader}/nowhere"), "", 404, json!({"ok": false, "message": "no such route: /nowhere"})),
        (Method::GET, format!("{leader}/get?key=k"), "", 200, json!({"key": "k", "value": "", "seq": 2})),
        (Method::GET, format!("{leader}/get?key=k&consistency=local"), "", 200, json!({"seq": 2, "committed": true})),
        (Method::GET, format!("{leader}/get?key=k&consistency=perfect"), "", 400, json!({})),
        (Method::GET, format!("{leader}/get"), "", 400, json!({"error": "Missing key parameter"})),
        (Method::GET, format!("{leader}/get?key="), "", 400, json!({"error": "Missing key parameter"})),
        (Method::GET, format!("{leader}/get?key=other"), "", 404, json!({"error": "Key not found"})),
        (
            Method::GET,
            format!("{leader}/dump"),
            "",
            200,
            json!({"role": "leader", "entries": {"k": {"value": "", "seq": 2}}}),
        ),
        (Method::POST, format!("{leader}/delete"), r#"{"key":"k"}"#, 200, json!({"ok": true, "seq": 3})),
        (Method::GET, format!("{leader}/get?key=k"), "", 404, json!({"error": "Key not found"})),
        (Method::POST, format!("{leader}/put"), r#"{"key":"k","value":"back"}"#, 200, json!({"ok": true, "seq": 4})),
        (Method::POST, format!("{leader}/replicate"), r#"{"key":"k","value":"v","seq":1}"#, 404, json!({"ok": false})),
        (
            Method::PATCH,
            format!("{leader}/config"),
            r#"{"write_quorum":3}"#,
            400,
            json!({"ok": false, "message": "the write quorum (3) is above the number of followers (2)"}),
        ),
        (
            Method::PATCH,
            format!("{leader}/config"),
            r#"{"write_quorum":0}"#,
            400,
            json!({"ok": false, "message": "the write quorum (0) must be at least 1 and at most the number of followers (2)"}),
        ),
        (
            Method::PATCH,
            format!("{leader}/config"),
            r#"{"min_delay_ms":9,"max_delay_ms":8}"#,
            400,
            json!({"ok": false, "message": "the minimum delay (9 ms) is above the maximum delay (8 ms)"}),
        ),
        (Method::PATCH, format!("{leader}/config"), r#"{"min_delay_ms":-1}"#, 400, json!({"ok": false})),
        (
            Method::PATCH,
            format!("{leader}/config"),
            r#"{"min_delay_ms":5000,"max_delay_ms":5000}"#,
            400,
            json!({"ok": false, "message": "the minimum delay (5000 ms) is not below the replication timeout (5000 ms): no write could reach its quorum in time"}),
        ),
        (
            Method::PATCH,
            format!("{leader}/config"),
            r#"{"delay":{"preset":"yammer"},"max_delay_ms":7}"#,
            400,
            json!({"ok": false, "message": "delay and max_delay_ms (7 ms) were both given: give the law or its bounds"}),
        ),
        (
            Method::PATCH,
            format!("{leader}/config"),
            r#"{"delay":{"mixture":[{"weight":0,"constant":{"ms":1}}]}}"#,
            400,
            json!({"ok": false, "message": "delay.mixture[0].weight is 0: it must be above 0 and at most 1000000000"}),
        ),
        (Method::PATCH, format!("{leader}/config"), r#"{"quorum":1}"#, 400, json!({"ok": false})),
        (
            Method::PATCH,
            format!("{leader}/config"),
            r#"{"followers":3}"#,
            400,
            json!({"ok": false, "message": "the followers are listed by URL (2): their number changes with the list, not to 3"}),
        ),
        (
            Method::POST,
            format!("{leader}/recover"),
            r#"{"accept_data_loss":true}"#,
            409,
            json!({"ok": false, "message": "the leader is not recovering"}),
        ),
        (Method::GET, format!("{leader}/healthz"), "", 200, json!({"ok": true})),
        (Method::GET, format!("{leader}/auth"), "", 200, json!({"ok": true})),
        (Method::GET, format!("{follower}/auth"), "", 200, json!({"ok": true})),
        (Method::GET, format!("{leader}/readyz"), "", 200, json!({"ok": true})),
        (
            Method::GET,
            format!("{leader}/status"),
            "",
            200,
            json!({"role": "leader", "state": "open", "tolerates": {"followers_down": 1, "disks_lost": 0, "followers_needed_to_restart": 2}}),
        ),
        (
            Method::POST,
            format!("{follower}/replicate"),
            r#"{"key":"r","value":"five","seq":5}"#,
            200,
            json!({"ok": true}),
        ),
        (
            Method::POST,
            format!("{follower}/replicate"),
            r#"{"key":"r","value":"three","seq":3}"#,
            200,
            json!({"ok": true}),
        ),
        (Method::GET, format!("{follower}/get?key=r"), "", 200, json!({"key": "r", "value": "five", "seq": 5})),
        (Method::POST, format!("{follower}/replicate"), r#"{"key":"r","value":"six"}"#, 400, json!({"ok": false})),
        (Method::POST, format!("{follower}/replicate"), r#"{"key":"r","seq":6}"#, 400, json!({"ok": false})),
        (Method::POST, format!("{follower}/replicate"), r#"{"value":"six","seq":6}"#, 400, json!({"ok": false})),
        (
            Method::POST,
            format!("{follower}/replicate"),
            r#"{"key":"r","value":"six","seq":"6"}"#,
            400,
            json!({"ok": false}),
        ),
        (Method::POST, format!("{follower}/replicate"), "nonsense", 400, json!({"ok": false})),
        (
            Method::POST,
            format!("{follower}/put"),
            r#"{"key":"k","value":"v"}"#,
            404,
            json!({"ok": false, "leader": leader}),
        ),
        (Method::GET, format!("{follower}/get"), "", 400, json!({"error": "Missing key parameter"})),
        (Method::GET, format!("{follower}/get?key=other"), "", 404, json!({"error": "Key not found"})),
        (Method::GET, format!("{follower}/replication"), "", 426, json!({"ok": false})),
        (Method::GET, format!("{follower}/replicate"), "", 405, json!({"ok": false})),
        (Method::GET, format!("{follower}/nowhere"), "", 404, json!({"ok": false})),
        (Method::GET, format!("{follower}/status"), "", 200, json!({"role": "follower", "state": "synced"})),
        (Method::GET, format!("{follower}/healthz"), "", 200, json!({"ok": true})),
    ];
    for (method, url, body, status, expected) in table {
        let (seen, answer) = send(method.clone(), &url, body).await;
        let request = format!("{method} {url} {}", &body[..body.len().min(80)]);
        assert_eq!(seen, status, "{request}: {answer}");
        for (field, value) in expected.as_object().expect("an object") {
            assert_eq!(answer.get(field), Some(value), "{request}: {answer}");
        }
    }
}

/// Goal: a retried request that carries an `Idempotency-Key` applies once, and the key never hides another value.
#[tokio::test(flavor = "multi_thread")]
async fn a_marked_retry_applies_once() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, |options| options.followers = 1).await;
    let url = format!("{}/put", cluster.leader_url());
    let put = async |token: &str, value: &str| {
        let body = json!({"key": "k", "value": value});
        let request = Client::new().post(&url).header("Idempotency-Key", token).json(&body);
        let response = request.send().await.expect("an answer");
        (response.status().as_u16(), response.json::<Value>().await.expect("JSON"))
    };
    assert_eq!(put("first", "a").await.1["seq"], 1);
    assert_eq!(put("second", "b").await.1["seq"], 2);
    assert_eq!(put("first", "a").await.1["seq"], 1, "the retry of the first is not a third write");
    assert_eq!(put("first", "c").await.0, 422);
    let (_, now) = send(Method::GET, &format!("{}/get?key=k", cluster.leader_url()), "").await;
    assert_eq!((&now["value"], &now["seq"]), (&json!("b"), &json!(2)));
}

/// Goal: with a token set, replication and administration need it, while clients read and write as before.
#[tokio::test(flavor = "multi_thread")]
async fn the_token_guards_replication_and_administration() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, |options| {
        options.followers = 1;
        options.environment = vec![("AUTH_TOKEN".into(), "correct horse".into())];
    })
    .await;
    let (leader, follower) = (cluster.leader_url(), cluster.follower_url(0));
    let closed = [
        (Method::PATCH, format!("{leader}/config"), r#"{"max_delay_ms":1}"#),
        (Method::POST, format!("{leader}/recover"), r#"{"accept_data_loss":true}"#),
        (Method::POST, format!("{follower}/replicate"), r#"{"key":"k","value":"v","seq":9}"#),
        (Method::GET, format!("{follower}/replication"), ""),
    ];
    for (method, url, body) in closed {
        assert_eq!(send(method, &url, body).await.0, 401, "{url}");
    }
    assert_eq!(send(Method::POST, &format!("{leader}/put"), r#"{"key":"k","value":"v"}"#).await.0, 200);
    // Wrong ones of the same length, too short and too long, and then the right one.
    for (token, code) in
        [("correct house", 401), ("correct", 401), ("correct horses", 401), ("", 401), ("correct horse", 200)]
    {
        let request = Client::new().patch(format!("{leader}/config")).bearer_auth(token);
        let response = request.body(r#"{"max_delay_ms":1}"#).send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), code, "{token}");
    }
}

/// Goal: what comes to a follower by `POST /replicate` never replaces an acknowledged value.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_from_outside_cannot_undo_an_acknowledged_one() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = cluster(&logs, |options| options.followers = 1).await;
    let (leader, follower) = (cluster.leader_url(), cluster.follower_url(0));
    send(Method::POST, &format!("{leader}/put"), r#"{"key":"k","value":"true"}"#).await;
    let foreign = r#"{"key":"k","value":"false","seq":99}"#;
    assert_eq!(send(Method::POST, &format!("{follower}/replicate"), foreign).await.0, 200);
    cluster.kill_leader().expect("killed");
    cluster.start_leader().await.expect("started");
    cluster.wait_until_open().await.expect("open");
    let (_, value) = send(Method::GET, &format!("{leader}/get?key=k"), "").await;
    assert_eq!((&value["value"], &value["seq"]), (&json!("true"), &json!(1)));
}
