//! Test doubles and small helpers shared by the integration tests.
#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod backup;
pub(crate) mod node;

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::Mutex};

/// The program under test.
pub(crate) const KV_BENCH: &str = env!("CARGO_BIN_EXE_kv-bench");

/// The program for operators.
pub(crate) const KVCTL: &str = env!("CARGO_BIN_EXE_kvctl");

/// Conditions are waited for this long; reached only when something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One follower, W = 1, no delays, in memory, with these settings of both nodes. Its logs go to `logs`.
pub(crate) async fn one_follower(program: impl AsRef<Path>, logs: &Path, settings: &[(&str, &str)]) -> LocalCluster {
    let environment = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let options = LocalClusterOptions {
        followers: 1,
        max_delay_ms: 0,
        environment,
        ..LocalClusterOptions::new(program.as_ref(), logs)
    };
    LocalCluster::start(options).await.expect("the cluster starts")
}

/// The host and port of a node's URL.
pub(crate) fn address(url: &str) -> &str {
    url.trim_start_matches("http://")
}

/// A connection to a node, for requests by hand.
pub(crate) async fn connect(url: &str) -> TcpStream {
    TcpStream::connect(address(url)).await.expect("connects")
}

/// `kv-bench` with these arguments, results in `out`, run to its end.
pub(crate) async fn kv_bench(out: &Path, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(KV_BENCH);
    command.args(arguments).arg("--out").arg(out).kill_on_drop(true);
    for name in ["AUTH_TOKEN", "AUTH_TOKEN_FILE", "CLIENT_TOKEN", "CLIENT_TOKEN_FILE", "TLS_CA_FILE"] {
        command.env_remove(name);
    }
    command.output().await.expect("kv-bench runs")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sends a signal by name.
pub(crate) fn signal(name: &str, process_id: u32) {
    let status = Command::new("kill")
        .args([format!("-{name}"), process_id.to_string()])
        .stderr(Stdio::null())
        .status()
        .expect("kill runs");
    assert!(status.success(), "kill -{name} {process_id}");
}

/// How a [`fake_leader`] answers its writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fake {
    /// When the slowest follower would have confirmed, whatever the quorum.
    WaitsForEveryFollower,
    /// After the quorum's delay, but one write at a time.
    OneAtATime,
    /// With "quorum not reached".
    NeverReachesItsQuorum,
}

struct Leader {
    fake: Fake,
    config: Mutex<Value>,
    turn: Mutex<()>,
}

/// A leader without followers, of N = 5 and delays 0-20 ms, that behaves as it is told; returns its URL.
pub(crate) async fn fake_leader(fake: Fake) -> String {
    let config = json!({"generation": 1, "write_quorum": 2, "followers": 5, "min_delay_ms": 0, "max_delay_ms": 20,
        "replication_timeout_ms": 500, "pending": null});
    let leader = Arc::new(Leader { fake, config: Mutex::new(config), turn: Mutex::new(()) });
    let routes = Router::new()
        .route("/config", get(config_in_force).patch(change_config))
        .route("/status", get(status))
        .route("/put", post(put))
        .with_state(leader);
    serve(routes).await
}

/// Serves `routes` on a free port for as long as the test runs.
pub(crate) async fn serve(routes: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

async fn status(State(leader): State<Arc<Leader>>) -> Json<Value> {
    let config = leader.config.lock().await.clone();
    Json(json!({"role": "leader", "version": "9.9.9", "state": "open", "config": config}))
}

async fn config_in_force(State(leader): State<Arc<Leader>>) -> Json<Value> {
    Json(leader.config.lock().await.clone())
}

async fn change_config(State(leader): State<Arc<Leader>>, Json(change): Json<Value>) -> Json<Value> {
    let mut config = leader.config.lock().await;
    for (name, value) in change.as_object().expect("an object") {
        config[name] = value.clone();
    }
    config["generation"] = json!(config["generation"].as_u64().expect("a number") + 1);
    Json(config.clone())
}

async fn put(State(leader): State<Arc<Leader>>) -> (StatusCode, Json<Value>) {
    let config = leader.config.lock().await.clone();
    let number = |name: &str| config[name].as_u64().expect("a number");
    let mut delays: Vec<f64> = (0..number("followers"))
        .map(|_| rand::rng().random_range(number("min_delay_ms") as f64..=number("max_delay_ms") as f64))
        .collect();
    delays.sort_by(f64::total_cmp);
    let wait = async |ms: f64| tokio::time::sleep(Duration::from_secs_f64(ms / 1e3)).await;
    let quorum_delay_ms = delays[number("write_quorum") as usize - 1];
    match leader.fake {
        Fake::WaitsForEveryFollower => {
            wait(delays[delays.len() - 1]).await;
            (StatusCode::OK, Json(json!({"ok": true, "seq": 1})))
        }
        Fake::OneAtATime => {
            let _turn = leader.turn.lock().await;
            wait(quorum_delay_ms).await;
            let explain = json!({"write_quorum": config["write_quorum"], "quorum_delay_ms": quorum_delay_ms});
            (StatusCode::OK, Json(json!({"ok": true, "seq": 1, "explain": explain})))
        }
        Fake::NeverReachesItsQuorum => {
            let body = json!({"ok": false, "message": "quorum not reached", "outcome": "indeterminate"});
            (StatusCode::INTERNAL_SERVER_ERROR, Json(body))
        }
    }
}
