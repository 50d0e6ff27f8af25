//! Goal: `kv-bench staleness` measures a cluster, says what it found, leaves the cluster as it was, and refuses what is
//! wrong in words. Method: the program itself, against clusters on this machine and against a leader that lies.

mod support;

use std::fs;

use axum::{Json, Router, extract::Query, routing::get};
use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use serde_json::{Value, json};
use support::{KV_BENCH, kv_bench, serve, stderr, stdout};

fn json_of(out: &std::path::Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("staleness.json")).expect("written")).expect("JSON")
}

/// Delays of hundreds of milliseconds, so that what a busy machine adds is little beside them.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_its_own_is_measured_at_every_quorum_under_every_law() {
    let out = tempfile::tempdir().expect("temporary directory");
    let arguments =
        ["staleness", "--follower-count", "3", "--writes", "30", "--concurrency", "30", "--delay-seed", "5"];
    let laws =
        ["--times-ms", "0,150,900", "--delay", r#"{"maxMs":600}"#, "--delay", r#"{"exponential":{"meanMs":150}}"#];
    let output = kv_bench(out.path(), &[&arguments[..], &laws].concat()).await;
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    assert!(text.contains("delays 0-600 ms: stale reads") && text.contains("meanMs"), "{text}");
    let report = json_of(out.path());
    assert_eq!(report["settings"]["delay_seed"], 5);
    for law in report["laws"].as_array().expect("laws") {
        let quorums = law["quorums"].as_array().expect("quorums");
        assert_eq!(quorums.len(), 3);
        for quorum in quorums {
            for cell in quorum["cells"].as_array().expect("cells") {
                assert_eq!(cell["reads"], 30, "{cell}");
            }
            assert!(quorum["cells"][0]["share"].as_f64() >= quorum["cells"][2]["share"].as_f64(), "{quorum}");
        }
        // Two of three followers lack a write that one has confirmed; of 30 reads at least a few meet them.
        assert!(quorums[0]["cells"][0]["stale"].as_u64() > Some(8), "{}", quorums[0]);
    }
    for file in ["staleness.csv", "staleness.md", "staleness.png", "staleness.svg"] {
        assert!(out.path().join(file).exists(), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_force_is_restored() {
    let out = tempfile::tempdir().expect("temporary directory");
    let options =
        LocalClusterOptions { write_quorum: 2, max_delay_ms: 7, ..LocalClusterOptions::new(KV_BENCH, out.path()) };
    let cluster = LocalCluster::start(options).await.expect("starts");
    let (leader, followers) = (cluster.leader_url(), cluster.follower_urls().join(","));
    let arguments = ["staleness", "--leader", &leader, "--followers", &followers, "--quorums", "1,5", "--writes", "20"];
    let output = kv_bench(out.path(), &[&arguments[..], &["--delay", "yammer", "--times-ms", "0,3"]].concat()).await;
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    let config: Value = reqwest::get(format!("{leader}/config")).await.expect("answers").json().await.expect("JSON");
    assert_eq!(
        (&config["write_quorum"], &config["max_delay_ms"], &config["delay"]),
        (&json!(2), &json!(7), &Value::Null)
    );
    assert!(config["generation"].as_u64() > Some(2), "it was changed in between: {config}");
    assert_eq!(json_of(out.path())["laws"][0]["quorums"][1]["write_quorum"], 5);
}

/// A leader that acknowledges what no follower ever receives, and followers that have an older value, or none.
async fn liars() -> (String, String) {
    let config = || async {
        Json(json!({"generation": 1, "write_quorum": 1, "followers": 1, "min_delay_ms": 0, "max_delay_ms": 5,
            "replication_timeout_ms": 500, "pending": null}))
    };
    let status = move || async move {
        Json(json!({"role": "leader", "version": "9.9.9", "state": "open", "config": config().await.0}))
    };
    let put = || async { Json(json!({"ok": true, "seq": 2})) };
    let leader = Router::new().route("/config", get(config).patch(config)).route("/status", get(status));
    let old = |Query(query): Query<Value>| async move { Json(json!({"key": query["key"], "value": "old", "seq": 1})) };
    let leader = serve(leader.route("/put", axum::routing::post(put))).await;
    (leader, serve(Router::new().route("/get", get(old))).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_stays_behind_is_outside_of_theory() {
    let out = tempfile::tempdir().expect("temporary directory");
    let (leader, follower) = liars().await;
    let arguments = ["staleness", "--leader", &leader, "--followers", &follower, "--writes", "30", "--times-ms", "0,9"];
    let output = kv_bench(out.path(), &[&arguments[..], &["--require-theory"]].concat()).await;
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(3), "{text}{}", stderr(&output));
    assert!(text.contains("warning: more reads are stale than theory allows at 2 of 2 times and quorums"), "{text}");
    assert!(text.contains("100.0 % measured") && text.contains("0.0 % in theory"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_one_line_and_wrong_usage_has_code_2() {
    let out = tempfile::tempdir().expect("temporary directory");
    let (leader, follower) = liars().await;
    let two = format!("{follower},{follower}");
    for (arguments, code, expected) in [
        (vec!["--leader", &leader], 2, "reads go to the followers: give their addresses by --followers"),
        (
            vec!["--leader", &leader, "--followers", &two],
            2,
            "the leader has 1 followers and 2 of their addresses are known",
        ),
        (
            vec!["--leader", &leader, "--followers", &follower, "--quorums", "2"],
            2,
            "write quorum 2 is not possible with 1",
        ),
        (vec!["--quorums", "9"], 2, "write quorum 9 is not possible with 5 followers"),
        (vec!["--leader", "http://127.0.0.1:9", "--followers", &follower], 1, "failed to reach http://127.0.0.1:9"),
        (vec!["--leader", &leader, "--followers", "http://127.0.0.1:9"], 1, "failed to measure write quorum 1: "),
    ] {
        let output = kv_bench(out.path(), &[&["staleness"][..], &arguments].concat()).await;
        let errors = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}{}", stdout(&output));
        let said = errors + &stdout(&output);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}
