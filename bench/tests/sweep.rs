//! Goal: the sweep as its users run it, from the command line to exit code and files. Method: the real program, over a
//! real local cluster with short delays, and over leaders that misbehave in known ways. Durations are never asserted.

mod support;

use std::fs;

use axum::{Router, routing::get};
use serde_json::Value;

use support::{Fake, eventually, fake_leader, kv_bench, serve, signal, stderr, stdout};

const SMALL: [&str; 6] = ["--writes", "80", "--concurrency", "8", "--keys", "5"];

fn with_small<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    ["sweep"].iter().chain(arguments).chain(&SMALL).copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_sweep_measures_every_quorum_and_writes_every_file() {
    let out = tempfile::tempdir().expect("temporary directory");
    let arguments = with_small(&["--follower-count", "3", "--max-delay-ms", "120", "--delay-seed", "7"]);
    let output = kv_bench(out.path(), &arguments).await;
    let (text, errors) = (stdout(&output), stderr(&output));
    assert!(output.status.success(), "{text}{errors}");
    assert_eq!(errors, "", "no progress bar where no terminal is");

    let report: Value =
        serde_json::from_slice(&fs::read(out.path().join("sweep.json")).expect("written")).expect("valid JSON");
    assert_eq!(report["settings"]["delay_seed"], 7);
    let quorums = report["quorums"].as_array().expect("a list");
    assert_eq!(quorums.len(), 3);
    let mut means = Vec::new();
    for (quorum, expected) in quorums.iter().zip(1..) {
        assert_eq!(quorum["write_quorum"], expected);
        assert_eq!(quorum["writes"], 80);
        assert_eq!(
            quorum["failures"],
            serde_json::json!({"indeterminate": 0, "not_applied": 0, "refused": 0, "no_answer": 0})
        );
        assert_eq!(quorum["under_other_quorum"], 0);
        let earliest_ms = quorum["overhead"]["min_ms"].as_f64().expect("explained");
        assert!(earliest_ms > -0.1, "answered {earliest_ms} ms after its quorum");
        means.push(quorum["latency"]["mean_ms"].as_f64().expect("measured"));
    }
    assert!(means.is_sorted(), "a larger quorum waits longer: {means:?}");
    let followers = report["consistency"]["followers"].as_array().expect("compared");
    assert_eq!(followers.len(), 3);
    for follower in followers {
        let counts = ["keys", "leader_keys", "missing", "mismatches"].map(|name| follower[name].as_u64());
        assert_eq!(counts, [Some(5), Some(5), Some(0), Some(0)], "{follower}");
    }

    let rows = text.lines().filter(|line| line.trim_start().starts_with(['1', '2', '3']) && line.contains("  80  "));
    assert_eq!(rows.count(), 3, "{text}");
    assert_eq!(text.matches("5/5 keys, 0 mismatches").count(), 3, "{text}");
    let csv = fs::read_to_string(out.path().join("sweep.csv")).expect("written");
    assert_eq!(csv.lines().count(), 4, "{csv}");
    assert!(fs::read(out.path().join("quorum_vs_latency.png")).expect("written").starts_with(b"\x89PNG\r\n"));
    assert!(fs::read_to_string(out.path().join("quorum_vs_latency.svg")).expect("written").contains("</svg>"));
    assert!(fs::read_to_string(out.path().join("sweep.md")).expect("written").contains("| 3 | 80 | 0 |"));
    for name in ["leader", "follower1", "follower2", "follower3"] {
        assert!(out.path().join(format!("logs/{name}.log")).exists(), "{name}'s log is kept");
    }
    for follower in followers {
        let url = follower["url"].as_str().expect("a URL").trim_start_matches("http://").to_owned();
        assert!(std::net::TcpStream::connect(&url).is_err(), "{url} still listens after the sweep");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_over_redis_protocol_measures_the_same_writes() {
    let out = tempfile::tempdir().expect("temporary directory");
    let arguments = ["--protocol", "redis", "--follower-count", "3", "--max-delay-ms", "120", "--delay-seed", "7"];
    let output = kv_bench(out.path(), &with_small(&arguments)).await;
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    assert!(text.contains("local processes, Redis' protocol; kv-node"), "{text}");
    let report: Value =
        serde_json::from_slice(&fs::read(out.path().join("sweep.json")).expect("written")).expect("valid JSON");
    assert_eq!(report["settings"]["protocol"], "redis");
    let quorums = report["quorums"].as_array().expect("a list");
    let means: Vec<f64> = quorums.iter().filter_map(|quorum| quorum["latency"]["mean_ms"].as_f64()).collect();
    assert!(means.len() == 3 && means.is_sorted(), "a larger quorum waits longer: {means:?}");
    for quorum in quorums {
        assert_eq!((&quorum["writes"], &quorum["overhead"]), (&80.into(), &Value::Null), "{quorum}");
        let failures = quorum["failures"].as_object().expect("counts");
        assert!(failures.values().all(|count| *count == 0), "{quorum}");
    }
    assert_eq!(text.matches("5/5 keys, 0 mismatches").count(), 3, "{text}");

    let output = kv_bench(out.path(), &["sweep", "--redis-address", "localhost:6379"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output), "error: --redis-address needs --protocol redis\n");
}

/// The delays that a leader draws have their law, with a heavy tail and with a mixture, followers that differ and a shared
/// part. The seed makes the draws the same each time, so that the band leaves nothing to chance.
#[tokio::test(flavor = "multi_thread")]
async fn the_delays_of_any_law_are_inside_their_band() {
    let heavy = r#"{"pareto":{"scaleMs":2.0,"shape":1.5},"capMs":2000.0}"#;
    let mixed = r#"{"mixture":[{"exponential":{"meanMs":6.0},"weight":3.0},{"lognormal":{"medianMs":20.0,"sigma":0.5},"weight":1.0}],
        "perFollower":[{"constant":{"ms":9.0},"follower":1}],"shared":{"maxMs":4.0}}"#;
    for (law, quorums) in [(heavy, "1,3"), (mixed, "2,3")] {
        let out = tempfile::tempdir().expect("temporary directory");
        let arguments = ["sweep", "--delay", law, "--follower-count", "3", "--quorums", quorums, "--delay-seed", "11"];
        let writes = ["--writes", "1500", "--concurrency", "48"];
        let output = kv_bench(out.path(), &[&arguments[..], &writes].concat()).await;
        let text = stdout(&output);
        assert!(output.status.success(), "{text}{}", stderr(&output));
        assert!(text.contains("medians in ms, and the distances of whole distributions from theory:"), "{text}");
        let report: Value =
            serde_json::from_slice(&fs::read(out.path().join("sweep.json")).expect("written")).expect("valid JSON");
        assert_eq!(report["settings"]["delay"], serde_json::from_str::<Value>(law).expect("JSON"));
        for quorum in report["quorums"].as_array().expect("a list") {
            let distance = |name: &str| quorum["distribution"][name].as_f64().expect("a number");
            assert!(distance("law") <= distance("band"), "{law}: {quorum}");
            let earliest_ms = quorum["overhead"]["min_ms"].as_f64().expect("explained");
            assert!(earliest_ms > -0.1, "answered {earliest_ms} ms after its quorum");
        }
        assert!(fs::read_to_string(out.path().join("latency_distributions.svg")).expect("written").contains("</svg>"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_waits_for_every_follower_is_recognised_and_deviates() {
    let out = tempfile::tempdir().expect("temporary directory");
    let leader = fake_leader(Fake::WaitsForEveryFollower).await;
    // Delays far above what a busy machine adds, so that the means stay as flat as the leader makes them.
    let delays = ["--max-delay-ms", "200", "--quorums", "1,5"];
    let arguments = [&["--leader", &leader, "--max-deviation-ms", "4"][..], &delays].concat();
    let output = kv_bench(out.path(), &with_small(&arguments)).await;
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(3), "{text}{}", stderr(&output));
    assert!(text.contains("answers wait for every follower"), "{text}");
    assert!(text.contains("check failed: not every mean lies within 4 ms of theory: at W = 1"), "{text}");
    assert!(text.contains("kv-node 9.9.9"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_takes_one_write_at_a_time_queues() {
    let out = tempfile::tempdir().expect("temporary directory");
    let leader = fake_leader(Fake::OneAtATime).await;
    let output = kv_bench(out.path(), &with_small(&["--leader", &leader, "--quorums", "3,4"])).await;
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    assert!(text.contains("the system queues: at W = 3 and 4 mean or median lies above 20 ms"), "{text}");
    assert!(fs::read_to_string(out.path().join("sweep.md")).expect("written").contains("the system queues"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_force_is_restored_also_after_a_failure() {
    for (fake, code) in [(Fake::WaitsForEveryFollower, 0), (Fake::NeverReachesItsQuorum, 1)] {
        let out = tempfile::tempdir().expect("temporary directory");
        let leader = fake_leader(fake).await;
        let output = kv_bench(out.path(), &with_small(&["--leader", &leader, "--max-delay-ms", "6"])).await;
        assert_eq!(output.status.code(), Some(code), "{}{}", stdout(&output), stderr(&output));
        let config: Value =
            reqwest::get(format!("{leader}/config")).await.expect("answers").json().await.expect("JSON");
        assert_eq!((config["write_quorum"].as_u64(), config["max_delay_ms"].as_u64()), (Some(2), Some(20)));
        assert!(config["generation"].as_u64() > Some(2), "it was changed in between");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_one_line_that_says_what_and_where() {
    let out = tempfile::tempdir().expect("temporary directory");
    let refusing = fake_leader(Fake::NeverReachesItsQuorum).await;
    let foreign = serve(Router::new().route("/get", get(async || "a program of another kind"))).await;
    for (arguments, expected) in [
        (vec!["--leader", &refusing], "failed to warm up at write quorum 1: "),
        (vec!["--leader", &foreign], "answered 404 (Not Found) to /config"),
        (vec!["--leader", "http://127.0.0.1:9"], "failed to reach http://127.0.0.1:9"),
        (vec!["--leader", &refusing, "--quorums", "6"], "write quorum 6 is not possible with 5 followers"),
        (vec!["--leader", &refusing, "--followers", &foreign], "1 follower URLs were given, but the leader has 5"),
        (vec!["--quorums", "9"], "write quorum 9 is not possible with 5 followers"),
        (vec!["--min-delay-ms", "300"], "minimum delay of 300 ms is above the maximum delay of 200 ms"),
    ] {
        let output = kv_bench(out.path(), &with_small(&arguments)).await;
        let errors = stderr(&output);
        let code = if arguments[0] == "--leader" { 1 } else { 2 };
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.starts_with("error: ") && errors.contains(expected), "{arguments:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

/// What the command line parser refuses, it refuses with its own words and a hint.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_values_of_options_end_with_code_2() {
    let out = tempfile::tempdir().expect("temporary directory");
    let negative = r#"{"exponential":{"meanMs":-4}}"#;
    for (arguments, expected) in [
        (["--writes", "many"], "invalid digit"),
        (["--quorums", "0"], "0 is not in 1.."),
        (["--delay", "jammer"], "nor one of linkedin-disk, yammer, wan-3-zones"),
        (["--delay", negative], "delay.exponential.meanMs is -4: it must be above 0"),
    ] {
        let output = kv_bench(out.path(), &[&["sweep"][..], &arguments].concat()).await;
        let errors = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
    }
}

/// A bench with far more writes to do than this test waits for, its leader's URL, and its nodes' process ids.
async fn bench_in_full_swing(out: &std::path::Path) -> (tokio::process::Child, Vec<u32>) {
    let bench = tokio::process::Command::new(support::KV_BENCH)
        .args(["sweep", "--follower-count", "2", "--max-delay-ms", "10", "--writes", "1000000", "--out"])
        .arg(out)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("kv-bench runs");
    let bench_id = bench.id().expect("running");
    let nodes = eventually("three nodes", async || {
        let nodes = children_of(bench_id);
        (nodes.len() == 3).then_some(nodes)
    })
    .await;
    let url = eventually("the leader's port", async || nodes.iter().find_map(|node| leader_url(*node))).await;
    eventually("writes under way", async || {
        let status: Value = reqwest::get(format!("{url}/status")).await.ok()?.json().await.ok()?;
        // More than the warm-up, so that something was measured.
        (status["writes"]["committed"].as_u64()? > 500).then_some(())
    })
    .await;
    (bench, nodes)
}

fn children_of(process_id: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{process_id}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    children.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<u32>>()).collect()
}

fn leader_url(process_id: u32) -> Option<String> {
    let environment = fs::read_to_string(format!("/proc/{process_id}/environ")).ok()?;
    let settings: Vec<&str> = environment.split('\0').collect();
    let port = settings.iter().find_map(|setting| setting.strip_prefix("PORT="))?;
    settings.contains(&"ROLE=leader").then(|| format!("http://127.0.0.1:{port}"))
}

/// Whether it ended; one that nobody has waited for yet counts as ended.
fn is_gone(process_id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process_id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_it_reports_what_it_has_and_ends_its_nodes() {
    let out = tempfile::tempdir().expect("temporary directory");
    let (bench, nodes) = bench_in_full_swing(out.path()).await;
    signal("INT", bench.id().expect("running"));
    let output = bench.wait_with_output().await.expect("ends");
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(130), "{text}{}", stderr(&output));
    assert!(text.contains("interrupted: 1 of 2 quorums measured, the last perhaps in part"), "{text}");
    let report: Value =
        serde_json::from_slice(&fs::read(out.path().join("sweep.json")).expect("written")).expect("JSON");
    assert_eq!(report["interrupted"], true);
    assert_eq!(report["quorums"][0]["failures"]["no_answer"], 0, "the writes under way were finished");
    assert!(report["quorums"][0]["writes"].as_u64() < Some(1_000_000));
    for node in nodes {
        eventually("the end of the nodes", async || is_gone(node).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_it_leaves_no_node_behind() {
    let out = tempfile::tempdir().expect("temporary directory");
    let (mut bench, nodes) = bench_in_full_swing(out.path()).await;
    bench.start_kill().expect("running");
    bench.wait().await.expect("killed");
    for node in nodes {
        eventually("the end of the nodes", async || is_gone(node).then_some(())).await;
    }
}

/// As under `kv-bench sweep | head -1`: the reader ends before the table is printed.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_ends_early_is_no_failure() {
    let out = tempfile::tempdir().expect("temporary directory");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = tokio::process::Command::new(support::KV_BENCH);
    command.args(with_small(&["--follower-count", "3", "--quorums", "1"])).arg("--out").arg(out.path());
    command.env_remove("AUTH_TOKEN").kill_on_drop(true);
    let output = command.stdout(writer).stderr(std::process::Stdio::piped()).spawn().expect("kv-bench runs");
    let output = output.wait_with_output().await.expect("it ends");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    assert!(out.path().join("sweep.json").exists(), "the results are in files all the same");
}
