//! Goal: tokens of clients and of the cluster open what they are for and nothing else, and a rotation stops nobody. Method:
//! real nodes that share the files of their tokens.

use std::fs;
use std::path::{Path, PathBuf};

use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use reqwest::{Client, Method};
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::{KV_BENCH, KVCTL, eventually, kv_bench, stderr, stdout};

const CLIENT: &str = "client-token";
const OF_THE_CLUSTER: &str = "cluster-token";

struct Files {
    clients: PathBuf,
    cluster: PathBuf,
}

async fn guarded(directory: &Path) -> (LocalCluster, Files) {
    let files = Files { clients: directory.join("clients"), cluster: directory.join("cluster") };
    write(&files.clients, CLIENT);
    write(&files.cluster, OF_THE_CLUSTER);
    let setting = |name: &str, path: &Path| (name.to_owned(), path.display().to_string());
    let options = LocalClusterOptions {
        followers: 2,
        write_quorum: 2,
        max_delay_ms: 0,
        environment: vec![
            setting("CLIENT_TOKEN_FILE", &files.clients),
            setting("AUTH_TOKEN_FILE", &files.cluster),
            // A second leader process is a standby.
            ("TAKEOVER_AFTER_MS".to_owned(), "500".to_owned()),
        ],
        ..LocalClusterOptions::new(KV_BENCH, directory.join("logs"))
    };
    (LocalCluster::start(options).await.expect("starts"), files)
}

/// As the kubelet does: no reader sees half of it.
fn write(path: &Path, lines: &str) {
    let new = path.with_extension("new");
    fs::write(&new, format!("{lines}\n")).expect("written");
    fs::rename(&new, path).expect("renamed");
}

async fn send(method: Method, url: &str, token: Option<&str>, body: &'static str) -> reqwest::Response {
    let request = Client::new().request(method, url).body(body);
    let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
    request.send().await.expect("an answer")
}

async fn status(method: Method, url: &str, token: Option<&str>, body: &'static str) -> u16 {
    send(method, url, token, body).await.status().as_u16()
}

const PUT: &str = r#"{"key":"k","value":"1"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn each_token_opens_what_it_is_for() {
    let directory = TempDir::new().expect("a directory");
    let (mut cluster, _files) = guarded(directory.path()).await;
    let (_, standby) = cluster.start_rival().await.expect("the standby starts");
    let (leader, follower) = (cluster.leader_url(), cluster.follower_url(0));
    assert_eq!(status(Method::POST, &format!("{leader}/put"), Some(CLIENT), PUT).await, 200);

    for (method, url, body) in [
        (Method::POST, format!("{leader}/put"), PUT),
        (Method::POST, format!("{leader}/delete"), r#"{"key":"k"}"#),
        (Method::POST, format!("{leader}/incr"), r#"{"key":"k"}"#),
        (Method::GET, format!("{leader}/get?key=k"), ""),
        (Method::POST, format!("{leader}/batch"), r#"{"get":{"key":"k"}}"#),
        (Method::GET, format!("{leader}/keys"), ""),
        (Method::GET, format!("{leader}/watch?key=k"), ""),
        (Method::GET, format!("{leader}/dump"), ""),
        (Method::GET, format!("{leader}/live"), ""),
        (Method::GET, format!("{leader}/no-such-route"), ""),
        (Method::GET, format!("{follower}/get?key=k"), ""),
        (Method::GET, format!("{follower}/dump"), ""),
    ] {
        for token in [None, Some("client-tokem"), Some("client"), Some(""), Some(OF_THE_CLUSTER)] {
            let answer = send(method.clone(), &url, token, body).await;
            assert_eq!(answer.status(), 401, "{method} {url} with {token:?}");
            assert_eq!(answer.headers()["www-authenticate"], "Bearer");
            let body: serde_json::Value = answer.json().await.expect("JSON");
            assert_eq!(body["error"], "this route needs the bearer token of a client", "{body}");
        }
        let code = status(method.clone(), &url, Some(CLIENT), body).await;
        assert!([200, 404].contains(&code), "{method} {url}: {code}");
    }
    for (method, url, body) in [
        (Method::PATCH, format!("{leader}/config"), r#"{"max_delay_ms":0}"#),
        (Method::GET, format!("{leader}/backup"), ""),
        (Method::GET, format!("{leader}/auth"), ""),
        (Method::GET, format!("{follower}/auth"), ""),
        (Method::GET, format!("{standby}/auth"), ""),
        (Method::POST, format!("{follower}/replicate"), r#"{"key":"other","value":"v","seq":9}"#),
    ] {
        for token in [None, Some(CLIENT)] {
            assert_eq!(status(method.clone(), &url, token, body).await, 401, "{method} {url} with {token:?}");
        }
        assert_eq!(status(method.clone(), &url, Some(OF_THE_CLUSTER), body).await, 200, "{method} {url}");
    }
    for path in ["/", "/page/main.js", "/config", "/status", "/readyz", "/healthz", "/metrics"] {
        assert_ne!(status(Method::GET, &format!("{leader}{path}"), None, "").await, 401, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_rotate_while_clients_write_and_nodes_restart() {
    let directory = TempDir::new().expect("a directory");
    let (mut cluster, files) = guarded(directory.path()).await;
    let put = format!("{}/put", cluster.leader_url());
    let config = format!("{}/config", cluster.leader_url());
    let code = async |token: &'static str| status(Method::POST, &put, Some(token), PUT).await;
    let admin = async |token: &'static str| status(Method::PATCH, &config, Some(token), "{}").await;

    // Both are accepted for a while. Meanwhile neither clients nor nodes notice.
    write(&files.clients, "client-new\nclient-token");
    write(&files.cluster, "cluster-new\ncluster-token");
    eventually("the new tokens", async || {
        assert_eq!((code(CLIENT).await, admin(OF_THE_CLUSTER).await), (200, 200));
        (code("client-new").await == 200 && admin("cluster-new").await == 200).then_some(())
    })
    .await;
    // A node with both tokens joins nodes with both.
    cluster.kill_follower(0).expect("killed");
    cluster.start_follower(0).await.expect("starts");
    cluster.wait_until_open().await.expect("takes part");

    write(&files.clients, "client-new");
    write(&files.cluster, "cluster-new");
    eventually("the end of the old tokens", async || {
        assert_eq!((code("client-new").await, admin("cluster-new").await), (200, 200));
        (code(CLIENT).await == 401 && admin(OF_THE_CLUSTER).await == 401).then_some(())
    })
    .await;
    cluster.kill_leader().expect("killed");
    cluster.start_leader().await.expect("starts");
    cluster.wait_until_open().await.expect("opens with the new token");
    assert_eq!(code("client-new").await, 200);

    // A file that breaks changes nothing, and the log says why, once.
    write(&files.clients, "two words");
    let log = directory.path().join("logs/leader.log");
    let words = "has a line 1 that is no token";
    let text = eventually("a line in the log", async || {
        assert_eq!(code("client-new").await, 200);
        let text = fs::read_to_string(&log).expect("read");
        text.contains(words).then_some(text)
    })
    .await;
    assert!(text.contains("the tokens that it had before stay in force"), "{text}");
    let shown = async |path: &str| {
        let answer = send(Method::GET, &format!("{}{path}", cluster.leader_url()), None, "").await;
        answer.text().await.expect("text")
    };
    let warned: serde_json::Value = serde_json::from_str(&shown("/status").await).expect("JSON");
    assert!(warned["warnings"][0].as_str().is_some_and(|warning| warning.contains(words)), "{warned}");
    let metric =
        |setting: &str, value: u8| format!("kvcluster_setting_file_unusable{{setting=\"{setting}\"}} {value}\n");
    let metrics = shown("/metrics").await;
    assert!(metrics.contains(&metric("CLIENT_TOKEN_FILE", 1)), "{metrics}");
    assert!(metrics.contains(&metric("AUTH_TOKEN_FILE", 0)), "{metrics}");
    fs::remove_file(&files.clients).expect("removed");
    eventually("another line in the log", async || {
        assert_eq!(code("client-new").await, 200);
        let text = fs::read_to_string(&log).expect("read");
        text.contains("failed to read CLIENT_TOKEN_FILE").then_some(())
    })
    .await;
    let text = fs::read_to_string(&log).expect("read");
    assert_eq!(text.matches(words).count(), 1, "{text}");
    // A file that is whole again ends the warning.
    write(&files.clients, "client-new");
    eventually("no warning", async || (!shown("/status").await.contains("warnings")).then_some(())).await;
    assert!(shown("/metrics").await.contains(&metric("CLIENT_TOKEN_FILE", 0)));
}

/// Everything that works with a cluster without tokens works with one that has them, and says so where they are missing.
#[tokio::test(flavor = "multi_thread")]
async fn the_tools_show_the_tokens() {
    let directory = TempDir::new().expect("a directory");
    let (cluster, files) = guarded(directory.path()).await;
    let (leader, followers) = (cluster.leader_url(), cluster.follower_urls().join(","));
    let out = directory.path().join("out");
    let (clients, of_the_cluster) = (files.clients.display().to_string(), files.cluster.display().to_string());
    let redis = format!("--redis-address={}", cluster.leader_redis());
    let running = ["--leader", &leader, "--followers", &followers];
    let sweep = ["sweep", "--writes", "20", "--concurrency", "2", "--max-delay-ms", "1", "--quorums", "1,2"];
    let load = ["load", "--connections", "2", "--seconds", "0.2", "--warmup-seconds", "0", "--reads", "0.5"];
    let over_redis = [&load[..], &["--protocol", "redis", "--pipeline", "4", &redis]].concat();
    let tokens = ["--client-token-file", &clients, "--auth-token-file", &of_the_cluster];
    for command in [&sweep[..], &load, &over_redis] {
        let with = kv_bench(&out, &[command, &running, &tokens].concat()).await;
        assert!(with.status.success(), "{command:?}: {} {}", stdout(&with), stderr(&with));
        let text = stdout(&with);
        assert!(!text.contains("refused") && !text.contains("NOAUTH"), "{command:?}: {text}");
        let without = kv_bench(&out, &[command, &running].concat()).await;
        let text = [stdout(&without), stderr(&without)].concat();
        assert!(text.contains("needs the bearer token of") || text.contains("NOAUTH"), "{command:?}: {text}");
    }
    let backup = directory.path().join("backup").display().to_string();
    for (token, succeeds) in [(&of_the_cluster, true), (&clients, false)] {
        let mut command = Command::new(KVCTL);
        command.args(["backup", "--leader", &leader, "--to", &backup, "--auth-token-file", token]);
        let output = command.output().await.expect("kvctl runs");
        assert_eq!(output.status.success(), succeeds, "{}", stderr(&output));
    }
}

/// A check starts its own cluster, whose nodes ask for tokens by their settings.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_runs_with_tokens() {
    let directory = TempDir::new().expect("a directory");
    let (clients, cluster) = (directory.path().join("clients"), directory.path().join("cluster"));
    write(&clients, CLIENT);
    write(&cluster, OF_THE_CLUSTER);
    let setting = |name: &str, path: &Path| format!("--node-setting={name}={}", path.display());
    let (clients, cluster) = (setting("CLIENT_TOKEN_FILE", &clients), setting("AUTH_TOKEN_FILE", &cluster));
    let check =
        ["check", "--rounds", "1", "--faults", "quorum", "--fill", "50", "--follower-count", "3", &clients, &cluster];
    let output = kv_bench(&directory.path().join("out"), &check).await;
    let text = stdout(&output);
    assert!(output.status.success() && !text.contains("HTTP 401"), "{text} {}", stderr(&output));
}
