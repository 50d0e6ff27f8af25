//! Goal: `kv-bench check` breaks a sound cluster in every way and finds nothing; its result is complete. Method: the
//! program, over real processes. Only what was seen is asserted, never how long it took.

use std::{collections::BTreeSet, fs, process::Stdio};

use serde_json::Value;

use crate::support::{KV_BENCH, eventually, kv_bench, signal, stderr, stdout};

fn report(out: &std::path::Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("check.json")).expect("written")).expect("valid JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_cluster_stands_everything_that_it_should() {
    let out = tempfile::tempdir().expect("temporary directory");
    // A turn as the first of its round for each of the eight kinds.
    let output = kv_bench(out.path(), &["check", "--rounds", "8", "--write-quorum", "3", "--seed", "20261122"]).await;
    let (text, errors) = (stdout(&output), stderr(&output));
    assert!(output.status.success(), "{text}{errors}");
    assert_eq!(errors, "", "no progress bar where no terminal is");
    // 16, and the counters that are left for others.
    assert!(
        text.contains("verdict: no violation. What clients saw of ") && text.contains("linearizable, nothing"),
        "{text}"
    );

    let report = report(out.path());
    let kinds: BTreeSet<&str> = report["faults"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|fault| fault["recovery_max_ms"].is_number())
        .filter_map(|fault| fault["kind"].as_str())
        .collect();
    assert_eq!(
        kinds,
        BTreeSet::from(["all", "kill", "leader-race", "partition", "pause", "quorum", "two-leaders", "wipe"])
    );
    assert_eq!((&report["settings"]["rounds"], &report["settings"]["load"]["seed"]), (&8.into(), &20_261_122.into()));
    let count = |of: &str, what: &str| report[of][what].as_u64().expect("a number");
    assert!(count("puts", "acknowledged") > 50, "{report:#}");
    assert!(count("puts", "acknowledged_with_condition") > 5 && count("puts", "unmet") > 5, "{report:#}");
    assert!(count("increments", "acknowledged") > 20 && count("deletes", "acknowledged") > 2, "{report:#}");
    assert!(
        count("over_redis", "writes_acknowledged") > 20 && count("over_redis", "reads_answered") > 10,
        "{report:#}"
    );
    assert!(count("gets", "answered") > 16 && count("local_gets", "answered") > 10, "{report:#}");

    let history = fs::read_to_string(out.path().join("history.jsonl")).expect("written");
    let lines: Vec<Value> = history.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |kind: &str| lines.iter().filter(|line| line["type"] == kind).count() as u64;
    let counted = |of: &str| ["acknowledged", "not_applied", "unknown"].map(|what| count(of, what)).iter().sum::<u64>();
    let answers = count("puts", "unmet") + ["puts", "increments", "deletes"].map(counted).iter().sum::<u64>();
    let reads = ["gets", "local_gets"].map(|of| count(of, "answered") + count(of, "failed")).iter().sum::<u64>();
    assert_eq!(of("operation"), answers + reads);
    assert_eq!(of("dump"), 6, "the leader and five followers");
    assert!(!out.path().join("violation.png").exists());
}

/// Goal: a write of the fill that misses its quorum in time and is sent again is the same write. Method: a replication
/// timeout that many writes miss.
#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_is_sent_again_is_no_loss() {
    let out = tempfile::tempdir().expect("temporary directory");
    let line = "check --faults leader-race --rounds 1 --follower-count 3 --write-quorum 2 --max-delay-ms 2 --fill 1000 \
                --node-setting REPLICATION_TIMEOUT_MS=8 --seed 5";
    let output = kv_bench(out.path(), &line.split_whitespace().collect::<Vec<_>>()).await;
    let text = stdout(&output);
    assert!(text.contains("\nkeys before               1000 of 1024 bytes, 1000 intact in the end\n"), "{text}");
    assert!(!text.contains("violation, lost"), "{text}");
}

/// The short form of the check of recoveries in README: a state of a dozen messages instead of eighty, few rounds.
#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_start_together_over_a_large_state_lose_nothing() {
    let out = tempfile::tempdir().expect("temporary directory");
    let line = "check --faults leader-race --rounds 3 --follower-count 3 --write-quorum 2 --fill 3000 --seed 5";
    let output = kv_bench(out.path(), &line.split(' ').collect::<Vec<_>>()).await;
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    assert!(text.contains("\nkeys before               3000 of 1024 bytes, 3000 intact in the end\n"), "{text}");

    let report = report(out.path());
    let count = |kind: &str| {
        let faults = report["faults"].as_array().expect("a list");
        faults.iter().find(|fault| fault["kind"] == kind).and_then(|fault| fault["count"].as_u64()).unwrap_or(0)
    };
    assert!((3..=6).contains(&count("leader-race")), "one or two rivals a round: {report:#}");
    assert_eq!(count("kill"), 6, "the leader and a follower in each round: {report:#}");
    assert_eq!(report["fill"], serde_json::json!({"keys": 3000, "value_bytes": 1024, "intact": 3000}));
    let history = fs::read_to_string(out.path().join("history.jsonl")).expect("written");
    assert!(!history.contains("fill"), "the filled keys are no part of the history");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_check_judges_what_it_saw() {
    let out = tempfile::tempdir().expect("temporary directory");
    let mut command = tokio::process::Command::new(KV_BENCH);
    command.args(["check", "--seconds", "3600", "--durability", "memory", "--faults", "pause"]);
    command.arg("--out").arg(out.path()).env_remove("AUTH_TOKEN").kill_on_drop(true);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kv-bench runs");
    let log = out.path().join("logs/leader.log");
    eventually("an open leader", async || {
        let log = fs::read_to_string(&log).ok()?;
        log.contains("leader open").then_some(())
    })
    .await;
    signal("INT", child.id().expect("it runs"));
    let output = child.wait_with_output().await.expect("it ends");
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(130), "{text}{}", stderr(&output));
    // Where the signal came before the first client, there is nothing to judge.
    if !text.is_empty() {
        assert!(text.contains("\ninterrupted: this is the verdict on what was seen until then\n"), "{text}");
        assert!(text.contains("\nverdict: no violation."), "{text}");
        assert_eq!(report(out.path())["interrupted"], true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_before_anything_starts() {
    let out = tempfile::tempdir().expect("temporary directory");
    let output = kv_bench(out.path(), &["check", "--write-quorum", "7"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output), "error: write quorum 7 is not possible with 5 followers\n");
    assert!(!out.path().join("logs").exists());
}
