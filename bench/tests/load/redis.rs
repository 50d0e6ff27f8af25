//! Goal: over Redis' protocol, with pipelines, the load counts what happened too. Method: a real cluster, and servers with
//! prepared answers.

use std::{path::Path, time::Duration};

use kv_bench::{
    cluster::{LocalCluster, LocalClusterOptions},
    load::{
        self, Acknowledgement, Dialect, Distribution, LoadOptions, LoadTarget, Pace, Processes, ReadFrom,
        RequestOutcome,
    },
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    Quiet, number, report,
    support::{KV_BENCH, kv_bench, stderr, stdout},
};

/// A server that answers each SET with the next of these lines, over and over, however its requests are cut.
async fn fake_redis(lines: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut buffer, mut received, mut lines) = (vec![0; 4096], String::new(), lines.iter().cycle());
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    received.push_str(std::str::from_utf8(&buffer[..count]).expect("text"));
                    while let Some(end) = received.find("SET\r\n") {
                        received.drain(..end + 5);
                        let line = lines.next().expect("endless");
                        stream.write_all(line.as_bytes()).await.expect("sent");
                    }
                }
            });
        }
    });
    address
}

async fn run(out: &Path, arguments: &[&str]) -> (std::process::Output, Value) {
    let times = ["--seconds", "0.5", "--warmup-seconds", "0", "--connections", "2", "--keys", "40"];
    let output = kv_bench(out, &[&["load", "--protocol", "redis"], arguments, &times].concat()).await;
    let report = report(out);
    (output, report)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_of_a_pipeline_is_in_the_cluster() {
    let out = tempfile::tempdir().expect("temporary directory");
    let options = LocalClusterOptions {
        followers: 3,
        write_quorum: 2,
        max_delay_ms: 0,
        ..LocalClusterOptions::new(KV_BENCH, out.path().join("nodes"))
    };
    let cluster = LocalCluster::start(options).await.expect("starts");
    let (leader, redis) = (cluster.leader_url(), cluster.leader_redis());
    let arguments = ["--leader", &leader, "--redis-address", &redis, "--pipeline", "16", "--reads", "0.5"];
    let (output, report) = run(out.path(), &arguments).await;
    let text = stdout(&output);
    assert!(output.status.success(), "{text}{}", stderr(&output));
    assert!(text.contains("2 connections with pipelines of 16") && text.contains("16 puts latency, ms"), "{text}");
    for kind in ["puts", "gets"] {
        let (pipelines, ok) = (&report[kind]["service"]["count"], &report[kind]["outcomes"]["ok"]);
        assert!(number(pipelines) > 0.0 && number(ok) == 16.0 * number(pipelines), "{kind}: {report}");
        assert_eq!(report[kind]["errors"], serde_json::json!({}));
    }
    let status: Value = reqwest::get(format!("{leader}/status")).await.expect("answers").json().await.expect("JSON");
    let written = number(&report["puts"]["outcomes"]["ok"]) + 40.0;
    assert_eq!(number(&status["writes"]["committed"]), written, "the load's writes, and every key once before");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_cluster_is_reached_where_it_was_started_and_at_its_rate() {
    let out = tempfile::tempdir().expect("temporary directory");
    let rate = ["--follower-count", "1", "--pipeline", "10", "--rate", "400", "--arrivals", "even"];
    let (output, report) = run(out.path(), &rate).await;
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    let puts = &report["puts"];
    assert_eq!(number(&puts["outcomes"]["ok"]), 200.0, "400 a second: {report}");
    assert_eq!((number(&puts["response"]["count"]), number(&puts["service"]["count"])), (20.0, 20.0));
    assert_eq!(
        report["target"],
        "local processes: leader and 1 followers, W = 1, no delay, in memory, Redis' protocol"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_counted_by_what_they_mean_and_by_their_first_word() {
    let out = tempfile::tempdir().expect("temporary directory");
    let redis = fake_redis(&["+OK\r\n", "-INDETERMINATE seq 7\r\n", "-LOADING recovers\r\n", "-OOM a limit\r\n"]).await;
    let arguments = ["--leader", "http://127.0.0.1:1", "--redis-address", &redis, "--pipeline", "4"];
    let (output, report) = run(out.path(), &arguments).await;
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}{}", stderr(&output));
    let puts = &report["puts"];
    let ok = number(&puts["outcomes"]["ok"]);
    assert!(ok > 0.0 && puts["service"] == Value::Null, "no pipeline was done entirely: {report}");
    for (name, expected) in [("indeterminate", ok), ("not_applied", 2.0 * ok), ("refused", 0.0)] {
        assert_eq!(number(&puts["outcomes"][name]), expected, "{name}: {report}");
    }
    for word in ["INDETERMINATE", "LOADING", "OOM"] {
        assert_eq!(number(&puts["errors"][word]), ok, "{word}: {report}");
    }
    assert!(text.contains(&format!("(errors: {ok} INDETERMINATE, {ok} LOADING, {ok} OOM)")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_a_node_that_does_not_lead_is_opened_anew() {
    let out = tempfile::tempdir().expect("temporary directory");
    // Each connection is answered from the first line on, so that a second one shows.
    let redis = fake_redis(&["-READONLY follows\r\n", "+OK\r\n"]).await;
    let (output, report) = run(out.path(), &["--leader", "http://127.0.0.1:1", "--redis-address", &redis]).await;
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
    assert!(number(&report["puts"]["errors"]["READONLY"]) > 2.0, "{report}");
    assert_eq!(number(&report["puts"]["outcomes"]["ok"]), 0.0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_protocol_does_not_have_is_refused_in_words() {
    for (arguments, expected) in [
        (&["--pipeline", "4"][..], "--pipeline 4 needs --protocol redis: over HTTP a client has one request under way"),
        (&["--redis-address", "localhost:1"], "--redis-address needs --protocol redis"),
        (
            &["--protocol", "redis", "--explain"],
            "--explain needs --protocol http: Redis' protocol has no word for delays",
        ),
        (
            &["--protocol", "redis", "--reads", "1", "--read-from", "local"],
            "--read-from needs --protocol http: over Redis' protocol the leader is read",
        ),
    ] {
        let out = tempfile::tempdir().expect("temporary directory");
        let output = kv_bench(out.path(), &[&["load"], arguments].concat()).await;
        assert_eq!((output.status.code(), stderr(&output)), (Some(2), format!("error: {expected}\n")));
    }
}

/// The engine speaks to Redis as it does to a node: a write counts once enough replicas have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_whose_replicas_are_too_few_does_not_count() {
    for (replicas, expected) in [(3, RequestOutcome::Ok), (2, RequestOutcome::Indeterminate)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let leader = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = vec![0; 4096];
                    while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                        let answer = format!("+OK\r\n:{replicas}\r\n");
                        stream.write_all(answer.as_bytes()).await.expect("sent");
                    }
                });
            }
        });
        let target = LoadTarget {
            description: "fake".into(),
            dialect: Dialect::Redis { acknowledgement: Acknowledgement::Wait { replicas: 3 } },
            leader,
            followers: Vec::new(),
            processes: Processes::default(),
            token: None,
        };
        let options = LoadOptions {
            pace: Pace::Closed,
            connections: 2,
            pipeline: 1,
            reads: 0.0,
            read_from: ReadFrom::Leader,
            keys: 10,
            distribution: Distribution::Uniform,
            value_size_bytes: 64,
            fill: false,
            explain: false,
            warmup: Duration::ZERO,
            duration: Duration::from_millis(500),
            request_timeout: Duration::from_secs(60),
            threads: 2,
            seed: 1,
        };
        let report = load::run(&target, &options, &mut Quiet).expect("runs");
        let puts = report.puts.expect("writes");
        for (outcome, count) in puts.outcomes {
            assert_eq!(count > 0, outcome == expected, "{replicas} replicas: {outcome:?} {count}");
        }
    }
}
