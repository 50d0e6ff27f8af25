//! Goal: the load as its users run it: what it counts is what happened, and a stall is not left out. Method: the real program,
//! against a real local cluster and against servers with prepared answers. Durations are asserted only where a server
//! is known to take at least as long.

mod redis;
#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kv_bench::{
    cluster::{LocalCluster, LocalClusterOptions},
    load::Observer,
};
use serde_json::Value;
use support::{KV_BENCH, eventually, kv_bench, signal, stderr, stdout};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};

const COMMITTED: &str = r#"{"ok":true,"seq":1,"message":"committed (quorum reached)"}"#;

/// What a fake server does about its n-th request, from 0.
#[derive(Clone, Debug)]
enum Reply {
    Status(u16, &'static str),
    /// Sent byte for byte.
    Raw(&'static str),
    /// Nobody is answered for so long; then as committed.
    Stall(Duration),
    Close,
}

struct FakeServer {
    url: String,
    requests: Arc<AtomicU64>,
}

/// Serves HTTP/1.1 with keep-alive; one request at a time, so that a stall meets all connections.
async fn fake_server(reply: impl Fn(u64) -> Reply + Send + Sync + 'static) -> FakeServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let requests = Arc::new(AtomicU64::new(0));
    let (counted, turn, reply) = (requests.clone(), Arc::new(Mutex::new(())), Arc::new(reply));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (counted, turn, reply) = (counted.clone(), turn.clone(), reply.clone());
            tokio::spawn(async move { serve(stream, &counted, &turn, &*reply).await });
        }
    });
    FakeServer { url, requests }
}

async fn serve(
    stream: TcpStream,
    counted: &AtomicU64,
    turn: &Mutex<()>,
    reply: &(impl Fn(u64) -> Reply + Send + Sync),
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().expect("a length");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        let _turn = turn.lock().await;
        let answer = |status: u16, body: &str| {
            format!(
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let text = match reply(counted.fetch_add(1, Ordering::Relaxed)) {
            Reply::Status(status, body) => answer(status, body),
            Reply::Raw(text) => text.to_owned(),
            Reply::Stall(duration) => {
                tokio::time::sleep(duration).await;
                answer(200, COMMITTED)
            }
            Reply::Close => return None,
        };
        stream.write_all(text.as_bytes()).await.ok()?;
    }
}

fn report(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("load.json")).expect("written")).expect("valid JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_it_counts_is_in_the_cluster() {
    let out = tempfile::tempdir().expect("temporary directory");
    let options = LocalClusterOptions {
        followers: 3,
        write_quorum: 2,
        max_delay_ms: 0,
        ..LocalClusterOptions::new(KV_BENCH, out.path().join("nodes"))
    };
    let cluster = LocalCluster::start(options).await.expect("starts");
    let (leader, followers) = (cluster.leader_url(), cluster.follower_urls().join(","));
    let arguments = ["load", "--leader", &leader, "--followers", &followers, "--connections", "8", "--keys", "40"];
    let more = ["--reads", "0.5", "--read-from", "followers", "--value-size-bytes", "100", "--distribution", "zipf"];
    let times = ["--seconds", "1.5", "--warmup-seconds", "0"];
    let output = kv_bench(out.path(), &[&arguments[..], &more, &times].concat()).await;
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    assert_eq!(stderr(&output), "", "no progress where no terminal is");

    let report = report(out.path());
    let (puts, gets) = (&report["puts"], &report["gets"]);
    let ok = puts["outcomes"]["ok"].as_u64().expect("a count");
    assert!(ok > 0 && gets["outcomes"]["ok"].as_u64() > Some(0), "{report}");
    assert_eq!(puts["service"]["count"].as_u64(), Some(ok));
    assert_eq!(puts["response"], Value::Null, "a closed loop knows one latency");
    for (outcome, count) in puts["outcomes"].as_object().expect("by name") {
        assert!(outcome == "ok" || count == 0, "{outcome}: {count}");
    }
    let status: Value = reqwest::get(format!("{leader}/status")).await.expect("answers").json().await.expect("JSON");
    assert_eq!(status["writes"]["committed"].as_u64(), Some(ok + 40), "the load's writes, and every key once before");
    let dump: Value = reqwest::get(format!("{leader}/dump")).await.expect("answers").json().await.expect("JSON");
    let entries = dump["entries"].as_object().expect("entries");
    assert_eq!(entries.len(), 40);
    assert!(entries.values().all(|entry| entry["value"].as_str().is_some_and(|value| value.len() == 100)));

    let seconds = report["seconds"].as_array().expect("a list");
    assert_eq!(seconds.len(), 2);
    let answered: u64 = seconds.iter().map(|second| second["puts"].as_u64().expect("a count")).sum();
    assert!(answered <= ok && answered + 8 >= ok, "{answered} within the window of {ok} that were due in it");
    let csv = fs::read_to_string(out.path().join("load.csv")).expect("written");
    assert_eq!(csv.lines().count(), 3, "{csv}");
    assert!(fs::read(out.path().join("load.png")).expect("written").starts_with(b"\x89PNG\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_cluster_tells_what_a_write_costs() {
    let out = tempfile::tempdir().expect("temporary directory");
    let arguments = ["load", "--follower-count", "2", "--durability", "disk", "--connections", "4"];
    let output = kv_bench(out.path(), &[&arguments[..], &["--seconds", "1", "--warmup-seconds", "0.2"]].concat()).await;
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    assert!(text.starts_with("local processes: leader and 2 followers, W = 2, no delay, on disk\n"), "{text}");
    let report = report(out.path());
    for who in ["leader", "followers", "load"] {
        let time = &report["cpu"][who];
        assert!(number(&time["user_us"]) + number(&time["system_us"]) > 0.0, "{who}: {time}");
        assert!(text.lines().any(|line| line.starts_with(who)), "{text}");
    }
    for (place, name) in ["leader_bytes", "follower_bytes", "disk_bytes"].into_iter().enumerate() {
        let [first, end] = ["at_first", "at_end"].map(|at| number(&report["footprint"][at][name]));
        // A log grows in steps, so that few writes may not show.
        assert!(first >= 0.0 && end > 0.0 && (place < 2 || end >= first), "{name}: {first}, {end}");
    }
    let left: Vec<_> =
        fs::read_dir(out.path()).expect("readable").map(|entry| entry.expect("readable").file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("data-")), "{left:?}");
}

/// The delays that were drawn are no overhead: what the nodes add to them is told apart, write by write.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_delays_tells_what_writes_took_beyond_them() {
    let out = tempfile::tempdir().expect("temporary directory");
    let delays = ["load", "--follower-count", "3", "--min-delay-ms", "20", "--max-delay-ms", "40"];
    let rate = ["--rate", "100", "--seconds", "2", "--warmup-seconds", "0.2", "--keys", "50", "--fill"];
    let output = kv_bench(out.path(), &[&delays[..], &rate].concat()).await;
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    let report = report(out.path());
    let puts = &report["puts"];
    for (latency, overhead) in [("service", "service_overhead"), ("response", "response_overhead")] {
        let (latency, overhead) = (&puts[latency], &puts[overhead]);
        assert_eq!(overhead["count"], puts["outcomes"]["ok"], "each write was explained: {text}");
        let delay_ms = number(&latency["mean_ms"]) - number(&overhead["mean_ms"]);
        assert!((20.0..=40.0).contains(&delay_ms), "the mean of what was drawn is {delay_ms} ms: {text}");
    }
    assert!(text.contains("… response time over the delays") && text.contains("bytes a key"), "{text}");
    assert!(text.contains("every key written once"), "{text}");
    assert_eq!(report["fill"]["latency"]["count"], 50, "each key once, and told apart from what was measured");
    let fill = fs::read_to_string(out.path().join("fill.csv")).expect("written");
    let written = fill.lines().skip(1).filter_map(|second| second.split(',').nth(1)?.parse::<u64>().ok()).sum::<u64>();
    assert_eq!(written, 50, "{fill}");
    let csv = fs::read_to_string(out.path().join("load.csv")).expect("written");
    let (header, first) = csv.split_once('\n').expect("lines");
    assert!(header.ends_with("overhead_p50_ms,overhead_p99_ms,leader_bytes,follower_bytes,disk_bytes"), "{csv}");
    assert_eq!(first.lines().next().expect("a line").split(',').count(), header.split(',').count(), "{csv}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overhead_is_the_latency_without_the_quorum_s_delay() {
    const EXPLAINED: &str = r#"{"ok":true,"seq":1,"explain":{"write_quorum":3,"quorum_delay_ms":50.0}}"#;
    let out = tempfile::tempdir().expect("temporary directory");
    let server = fake_server(|_| Reply::Status(200, EXPLAINED)).await;
    // No answer takes 50 ms here: the difference is none, never less.
    let arguments =
        ["load", "--leader", &server.url, "--connections", "1", "--seconds", "0.5", "--warmup-seconds", "0"];
    let output = kv_bench(out.path(), &arguments).await;
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    assert_eq!(report(out.path())["puts"]["service_overhead"], Value::Null, "nobody asked");
    let output = kv_bench(out.path(), &[&arguments[..], &["--explain"]].concat()).await;
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    let puts = &report(out.path())["puts"];
    assert_eq!(puts["service_overhead"]["count"], puts["service"]["count"]);
    assert!(number(&puts["service"]["p50_ms"]) < 50.0 && number(&puts["service_overhead"]["p50_ms"]) < 0.001, "{puts}");
}

/// Two connections, four hundred requests a second, one stall of 300 ms: at most two requests meet it under way, but more than
/// a hundred become due meanwhile. Response times must show that; service times cannot.
#[tokio::test(flavor = "multi_thread")]
async fn a_stall_is_in_the_response_times_of_all_that_were_due() {
    let out = tempfile::tempdir().expect("temporary directory");
    let stall = Duration::from_millis(300);
    let server = fake_server(move |request| match request {
        400 => Reply::Stall(stall),
        _ => Reply::Status(200, COMMITTED),
    })
    .await;
    let arguments = ["load", "--leader", &server.url, "--rate", "400", "--arrivals", "even", "--connections", "2"];
    let output = kv_bench(out.path(), &[&arguments[..], &["--seconds", "3", "--warmup-seconds", "0"]].concat()).await;
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    let report = report(out.path());
    let (service, response) = (&report["puts"]["service"], &report["puts"]["response"]);
    assert_eq!(
        (service["count"].as_u64(), response["count"].as_u64()),
        (Some(1_200), Some(1_200)),
        "all that were due"
    );
    assert!(number(&response["p99_ms"]) >= 200.0, "{text}");
    assert!(number(&service["p99_ms"]) < number(&response["p99_ms"]) / 2.0, "{text}");
    assert!(number(&service["max_ms"]) >= 300.0, "{text}");
    assert!(text.contains("put response time, ms") && text.contains("put service time, ms"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_are_counted_apart() {
    let out = tempfile::tempdir().expect("temporary directory");
    let replies = [
        Reply::Status(500, r#"{"ok":false,"message":"quorum not reached","outcome":"indeterminate"}"#),
        Reply::Status(503, r#"{"ok":false,"message":"recovering","outcome":"not_applied"}"#),
        Reply::Status(413, r#"{"ok":false,"message":"too long"}"#),
        Reply::Close,
        Reply::Raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ];
    let server = fake_server(move |request| {
        let failing = usize::try_from(request / 10).ok().and_then(|place| replies.get(place).cloned());
        failing.filter(|_| request % 10 == 3).unwrap_or(Reply::Status(200, COMMITTED))
    })
    .await;
    let arguments = ["load", "--leader", &server.url, "--connections", "1", "--seconds", "2", "--warmup-seconds", "0"];
    let output = kv_bench(out.path(), &arguments).await;
    let (text, report) = (stdout(&output), report(out.path()));
    assert_eq!(output.status.code(), Some(1), "{text}{}", stderr(&output));
    let mut outcomes: BTreeMap<String, u64> =
        serde_json::from_value(report["puts"]["outcomes"].clone()).expect("counts");
    let ok = outcomes.remove("ok").expect("counted");
    let failed = [
        ("indeterminate", 1),
        ("no_answer", 2),
        ("not_applied", 1),
        ("not_connected", 0),
        ("not_found", 0),
        ("refused", 1),
    ];
    assert_eq!(outcomes, BTreeMap::from(failed.map(|(name, count)| (name.to_owned(), count))), "{text}");
    assert_eq!(ok + 5, server.requests.load(Ordering::Relaxed), "nothing is left out");
    assert!(text.contains("the first failure: HTTP 500: quorum not reached"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_system_cannot_take_is_told() {
    let out = tempfile::tempdir().expect("temporary directory");
    let server = fake_server(|_| Reply::Stall(Duration::from_millis(50))).await;
    // Twenty a second at most: of two hundred that are due in two seconds, most wait when it is over, and are answered late.
    let arguments = ["load", "--leader", &server.url, "--rate", "100", "--connections", "4"];
    let output = kv_bench(out.path(), &[&arguments[..], &["--seconds", "2", "--warmup-seconds", "0"]].concat()).await;
    let (text, report) = (stdout(&output), report(out.path()));
    assert!(output.status.success(), "{text}{}", stderr(&output));
    assert!(number(&report["puts"]["per_second"]) <= 21.0, "{text}");
    assert!(number(&report["late_ms_max"]) > 1_000.0, "{text}");
    assert!(text.contains("ms after they were due"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_one_line_that_says_what_and_where() {
    let out = tempfile::tempdir().expect("temporary directory");
    let server = fake_server(|_| Reply::Status(200, COMMITTED)).await;
    let refusing = fake_server(|_| Reply::Status(503, r#"{"message":"recovering","outcome":"not_applied"}"#)).await;
    for (arguments, expected) in [
        (vec!["--follower-count", "3", "--write-quorum", "4"], "write quorum 4 is not possible with 3 followers"),
        (
            vec!["--min-delay-ms", "5", "--max-delay-ms", "2"],
            "minimum delay of 5 ms is above the maximum delay of 2 ms",
        ),
        (vec!["--leader", "http://127.0.0.1:9"], "failed to open connection 1 of 64: failed to connect to 127.0.0.1:9"),
        (vec!["--leader", &server.url, "--reads", "1", "--read-from", "followers"], "none is known (--followers)"),
        (
            vec!["--leader", &server.url, "--connections", "4000000000"],
            "open files are needed, but this process may have",
        ),
        (vec!["--leader", &refusing.url, "--reads", "1", "--keys", "3"], "3 of 3 writes failed: HTTP 503: recovering"),
    ] {
        let output = kv_bench(out.path(), &[&["load"][..], &arguments].concat()).await;
        let errors = stderr(&output);
        let code = if arguments[0] == "--leader" { 1 } else { 2 };
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.starts_with("error: ") && errors.contains(expected), "{arguments:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    for (arguments, expected) in [
        (["--reads", "1.5"], "must lie between 0 and 1"),
        (["--rate", "0"], "must be above 0"),
        (["--connections", "0"], "must be at least 1"),
        (["--arrivals", "even"], "--rate"),
    ] {
        let output = kv_bench(out.path(), &[&["load"][..], &arguments].concat()).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_it_reports_what_it_has() {
    let out = tempfile::tempdir().expect("temporary directory");
    let server = fake_server(|_| Reply::Status(200, COMMITTED)).await;
    let load = tokio::process::Command::new(KV_BENCH)
        .args(["load", "--seconds", "3600", "--warmup-seconds", "0", "--leader", &server.url, "--out"])
        .arg(out.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("kv-bench runs");
    eventually("requests", async || (server.requests.load(Ordering::Relaxed) > 1_000).then_some(())).await;
    signal("INT", load.id().expect("running"));
    let output = load.wait_with_output().await.expect("ends");
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(130), "{text}{}", stderr(&output));
    let report = report(out.path());
    assert_eq!(report["interrupted"], true);
    assert_eq!(report["puts"]["outcomes"]["ok"].as_u64(), Some(server.requests.load(Ordering::Relaxed)));
}

struct Quiet;

impl Observer for Quiet {
    fn progress(&mut self, _: &str, _: Duration, _: u64, _: u64) {}

    fn is_stopped(&self) -> bool {
        false
    }
}
