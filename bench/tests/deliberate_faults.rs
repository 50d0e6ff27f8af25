//! Goal: `kv-bench check` finds a violation in a cluster that breaks its contract. Method: nodes that leave out one rule
//! each (`cargo test -p kv-bench --features deliberate-faults --test deliberate_faults`), and faults that bring it out; a
//! run is repeated with other seeds, since whether the moment comes is a matter of luck.

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{KV_BENCH, eventually, kv_bench, one_follower, stderr, stdout};

/// Runs until a violation is found, and returns the rules that were broken.
async fn rules_broken(fault: &str, arguments: &[&str]) -> Vec<String> {
    let out = tempfile::tempdir().expect("temporary directory");
    let setting = format!("DELIBERATE_FAULT={fault}");
    for seed in 1..=12 {
        let seed = seed.to_string();
        let mut line = vec!["check", "--node-setting", &setting, "--seed", &seed];
        line.extend(arguments);
        let output = kv_bench(out.path(), &line).await;
        let text = stdout(&output);
        let log = fs::read_to_string(out.path().join("logs/leader.log")).expect("a log");
        assert!(log.contains("violates its contract on purpose"), "{fault} is on");
        match output.status.code() {
            // Whether the cluster could heal afterwards is another matter.
            Some(0 | 1) => continue,
            Some(3) => {}
            _ => panic!("{fault}: {text}{}", stderr(&output)),
        }
        assert!(text.contains("\nviolation, ") && text.contains("\nverdict: "), "{text}");
        let picture = fs::read(out.path().join("violation.png")).expect("a picture");
        assert!(picture.starts_with(b"\x89PNG\r\n"));
        let report: Value =
            serde_json::from_slice(&fs::read(out.path().join("check.json")).expect("written")).expect("JSON");
        let violations = report["verdict"]["violations"].as_array().expect("a list");
        return violations.iter().filter_map(|violation| Some(violation["rule"].as_str()?.to_owned())).collect();
    }
    panic!("{fault} is not found");
}

/// Which rule a loss breaks depends on what clients do meanwhile. When the lost write and its successor overlap, no order
/// of them is wrong, and only their common sequence number shows the loss.
fn shows_a_loss(rules: &[String]) -> bool {
    ["linearizable", "never_back", "one_value_per_version", "in_final_dumps"]
        .iter()
        .any(|rule| rules.iter().any(|broken| broken == rule))
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_that_confirm_before_they_store_are_found() {
    let rules = rules_broken("confirms-before-stored", &["--faults", "all", "--rounds", "3"]).await;
    assert!(shows_a_loss(&rules), "{rules:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_recovers_with_one_promise_fewer_is_found() {
    // Long waits: many writes are on three followers of five when the leader dies.
    let arguments =
        ["--faults", "all,kill", "--rounds", "6", "--max-delay-ms", "300", "--rate", "300", "--clients", "40"];
    let rules = rules_broken("recovers-with-one-fewer", &arguments).await;
    assert!(shows_a_loss(&rules), "{rules:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_that_obey_a_replaced_leader_are_found() {
    // No luck in it: from the moment when the second leader is open both acknowledge what clients give them, and each shows
    // its own. The cluster never heals, since the first one never learns of the second.
    let arguments = ["--faults", "two-leaders", "--rounds", "1", "--heal-timeout-s", "5"];
    let rules = rules_broken("obeys-replaced-leader", &arguments).await;
    assert!(shows_a_loss(&rules), "{rules:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_reads_without_asking_is_found() {
    // No luck in it either: a leader that is cut off shows what it has for as long as that lasts, while another one takes
    // writes.
    let arguments = ["--faults", "partition", "--rounds", "5", "--keys", "4"];
    let rules = rules_broken("reads-without-asking", &arguments).await;
    assert!(shows_a_loss(&rules), "{rules:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_refuses_before_the_commit_is_found() {
    // Long waits: much of what refuses a write is not committed when the leader dies.
    let arguments =
        ["--faults", "all,kill", "--rounds", "6", "--max-delay-ms", "300", "--rate", "300", "--clients", "40"];
    let rules = rules_broken("refuses-before-commit", &arguments).await;
    assert!(shows_a_loss(&rules), "{rules:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_counts_a_retry_is_found() {
    // A short timeout and long waits: many increments are accepted, and their clients do not hear of it in time.
    let arguments =
        ["--faults", "quorum", "--rounds", "3", "--max-delay-ms", "300", "--keys", "4", "--write-quorum", "5"];
    let arguments = [&arguments[..], &["--node-setting", "REPLICATION_TIMEOUT_MS=250"]].concat();
    let rules = rules_broken("counts-retries", &arguments).await;
    // The versions show each of the two increments as one that is well.
    assert_eq!(rules[0], "linearizable", "{rules:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_acknowledges_an_increment_before_the_commit_is_found() {
    let arguments =
        ["--faults", "all,kill", "--rounds", "6", "--max-delay-ms", "300", "--rate", "300", "--clients", "40"];
    let rules = rules_broken("counts-before-commit", &arguments).await;
    assert!(shows_a_loss(&rules) || rules.iter().any(|rule| rule == "sum_of_version_before"), "{rules:?}");
}

// Goal: a node does not go on with a state in which a panic interrupted a step. Method: a leader that panics in a write.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_the_node() {
    let logs = tempfile::tempdir().expect("temporary directory");
    let cluster = one_follower(KV_BENCH, logs.path(), &[("DELIBERATE_FAULT", "panics-in-write")]).await;
    let put = format!("{}/put", cluster.leader_url());
    let put = async || reqwest::Client::new().post(&put).json(&json!({"key": "k", "value": "v"})).send().await;
    put().await.expect_err("no answer of a leader that panics");
    eventually("the leader ends", async || put().await.err().filter(reqwest::Error::is_connect)).await;
    let log = fs::read_to_string(logs.path().join("leader.log")).expect("a log");
    assert!(log.contains("a deliberate panic") && log.contains("the node ends: a panic left"), "{log}");
}
