//! Goal: a comparison tells what it has, and leaves nothing behind. Method: the real program; in place of Redis, which need not
//! be installed here, a program of that name that writes down its process id and never answers.

use std::{fs, path::Path, process::Stdio};

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::support::{self, KV_BENCH, eventually, signal, stderr, stdout};

fn compare(out: &Path, path: &Path) -> Command {
    let mut command = Command::new(KV_BENCH);
    command
        .args([
            "compare",
            "--connections",
            "2,3",
            "--pipelines",
            "4",
            "--pipeline-connections",
            "2",
            "--rounds",
            "2",
            "--seconds",
            "0.3",
            "--warmup-seconds",
            "0",
            "--out",
        ])
        .arg(out)
        .env("PATH", path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_installed_is_told_and_left_out() {
    let out = tempfile::tempdir().expect("temporary directory");
    let nothing = tempfile::tempdir().expect("temporary directory");
    let output = compare(out.path(), nothing.path()).output().await.expect("kv-bench runs");
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    for program in ["redis-server", "valkey-server", "etcd"] {
        let told = format!("not compared: {program} is not installed: there is no such program in PATH");
        assert_eq!(text.matches(&told).count(), 1, "{text}");
    }
    let report: Value =
        serde_json::from_slice(&fs::read(out.path().join("compare.json")).expect("written")).expect("valid JSON");
    let syncs: Vec<f64> = serde_json::from_value(report["bare_sync_ms"].clone()).expect("numbers");
    assert!(syncs.len() == 2 && syncs.iter().all(|sync| *sync > 0.0), "one for each round: {syncs:?}");
    let systems = report["systems"].as_array().expect("a list");
    assert_eq!(systems.len(), 4, "in memory and on disk, each over HTTP and Redis' protocol");
    for system in systems {
        let points = system["points"].as_array().expect("a list");
        assert_eq!(points.len(), 3);
        let is_redis = system["name"].as_str().is_some_and(|name| name.ends_with("Redis' protocol"));
        let mut sum = 0.0;
        for (point, rounds) in points.iter().zip([2, 2, if is_redis { 2 } else { 0 }]) {
            let writes: Vec<f64> = serde_json::from_value(point["writes_per_second"].clone()).expect("numbers");
            assert_eq!(writes.len(), rounds, "one for each round; HTTP has no pipelines: {system}");
            sum += writes.iter().sum::<f64>();
            assert_eq!(point["failures"], 0);
        }
        // A round is short: on a busy machine it may end before its first write does.
        assert!(sum > 0.0, "{system}");
        let [keys, correct] = ["keys", "correct"].map(|name| system["read_back"][name].as_u64());
        assert!(keys > Some(0) && correct == keys, "{system}");
    }
    assert!(fs::read_to_string(out.path().join("compare.md")).expect("written").contains("in memory, HTTP | "));
}

/// A comparison that waits for its fake Redis, and the process ids of that.
async fn waiting(out: &Path, path: &Path) -> (Child, Vec<u32>) {
    let pids = path.join("pids");
    let script = format!("#!/bin/sh\necho $$ >> {}\nexec /bin/sleep 3600\n", pids.display());
    let (text, program) = (path.join("script"), path.join("redis-server"));
    fs::write(&text, script).expect("written");
    // A process of its own writes the program: while this one has it open, a process that another test starts inherits
    // that for a moment, and the kernel runs no program that somebody writes.
    let installed = Command::new("install").args(["-m", "755"]).args([&text, &program]).status().await;
    assert!(installed.expect("install runs").success());
    let bench = compare(out, path).spawn().expect("kv-bench runs");
    let servers = eventually("six servers", async || {
        let text = fs::read_to_string(&pids).ok()?;
        let servers: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        (servers.len() == 6).then_some(servers)
    })
    .await;
    (bench, servers)
}

/// Whether it ended; one that nobody has waited for yet counts as ended.
fn is_gone(process_id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process_id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_or_killed_it_leaves_no_server_behind() {
    for (name, code) in [("INT", Some(130)), ("KILL", None)] {
        let out = tempfile::tempdir().expect("temporary directory");
        let path = tempfile::tempdir().expect("temporary directory");
        let (bench, servers) = waiting(out.path(), path.path()).await;
        assert!(servers.iter().all(|server| !is_gone(*server)));
        signal(name, bench.id().expect("running"));
        let output = bench.wait_with_output().await.expect("ends");
        assert_eq!(output.status.code(), code, "{}", stderr(&output));
        for server in servers {
            eventually("the end of the servers", async || is_gone(server).then_some(())).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curves_are_measured_at_each_value() {
    let out = tempfile::tempdir().expect("temporary directory");
    let arguments = ["curves", "--by", "followers", "--values", "1,2", "--seconds", "0.3", "--warmup-seconds", "0"];
    let output = support::kv_bench(out.path(), &[&arguments[..], &["--connections", "2"]].concat()).await;
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    let curve: Value = serde_json::from_slice(&fs::read(out.path().join("curve_followers.json")).expect("written"))
        .expect("valid JSON");
    let targets: Vec<&str> = curve["points"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|point| point["report"]["target"].as_str())
        .collect();
    assert_eq!(targets.len(), 2);
    assert!(targets[0].contains("1 followers, W = 1,") && targets[1].contains("2 followers, W = 2,"), "{targets:?}");
    assert_eq!(fs::read_to_string(out.path().join("curve_followers.csv")).expect("written").lines().count(), 3);
    assert!(fs::read(out.path().join("curve_followers.png")).expect("written").starts_with(b"\x89PNG\r\n"));

    let output = support::kv_bench(out.path(), &["curves", "--by", "followers", "--values", "61"]).await;
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(2), "error: 61 is above 60, the most that can be measured here\n")
    );
}
