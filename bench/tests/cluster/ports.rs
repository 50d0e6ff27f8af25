//! Goal: with ports of their own, replication and administration work there and nowhere else. Method: a real leader and a real
//! follower as processes; every guarded route is tried at every port.

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    eventually,
    node::{Node, free_ports},
};

async fn ask(method: Method, port: u16, path: &str, body: &str) -> Option<(u16, Value)> {
    let request = Client::new().request(method, format!("http://127.0.0.1:{port}{path}")).body(body.to_owned());
    let answer = request.send().await.ok()?;
    Some((answer.status().as_u16(), answer.json().await.unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_port_of_its_own_is_answered_there_alone() {
    let [leader, leader_admin, follower, replication, follower_admin] = free_ports();
    let ports = |all: &[(&'static str, u16)]| all.iter().map(|(name, port)| (*name, port.to_string())).collect();
    let of_follower: Vec<(&str, String)> =
        ports(&[("PORT", follower), ("REPLICATION_PORT", replication), ("ADMIN_PORT", follower_admin)]);
    let mut of_leader: Vec<(&str, String)> = ports(&[("PORT", leader), ("ADMIN_PORT", leader_admin)]);
    of_leader.push(("ROLE", "leader".to_owned()));
    of_leader.push(("MAX_DELAY_MS", "0".to_owned()));
    of_leader.push(("FOLLOWERS", format!("http://127.0.0.1:{replication}")));
    let directory = TempDir::new().expect("a directory");
    let _follower = Node::start(directory.path(), "follower", &of_follower);
    let _leader = Node::start(directory.path(), "leader", &of_leader);
    let put = r#"{"key":"k","value":"v"}"#;
    eventually("an acknowledged write over the replication port", async || {
        ask(Method::POST, leader, "/put", put).await.filter(|(code, _)| *code == 200)
    })
    .await;

    let change = r#"{"max_delay_ms":1}"#;
    let replicate = r#"{"key":"other","value":"v","seq":1}"#;
    let rows = [
        (Method::PATCH, leader_admin, "/config", change, 200, ""),
        (Method::PATCH, leader, "/config", change, 404, "does not serve /config: ADMIN_PORT"),
        (Method::GET, leader_admin, "/backup", "", 200, ""),
        (Method::GET, leader, "/backup", "", 404, "does not serve /backup: ADMIN_PORT"),
        (Method::POST, leader, "/restore", "", 404, "does not serve /restore: ADMIN_PORT"),
        (Method::POST, leader, "/recover", "", 404, "does not serve /recover: ADMIN_PORT"),
        (Method::POST, leader, "/hand-over", "", 404, "does not serve /hand-over: ADMIN_PORT"),
        (Method::GET, leader, "/auth", "", 404, "does not serve /auth: ADMIN_PORT"),
        (Method::GET, follower_admin, "/auth", "", 200, ""),
        (Method::GET, follower, "/auth", "", 404, "does not serve /auth: ADMIN_PORT"),
        (Method::POST, leader_admin, "/put", put, 404, "does not serve /put: PORT does"),
        (Method::GET, leader_admin, "/get?key=k", "", 404, "does not serve /get: PORT does"),
        (Method::GET, leader_admin, "/readyz", "", 200, ""),
        (Method::GET, leader, "/readyz", "", 200, ""),
        (Method::GET, leader, "/config", "", 200, ""),
        (Method::POST, replication, "/replicate", replicate, 200, ""),
        (Method::POST, follower, "/replicate", replicate, 404, "does not serve /replicate: REPLICATION_PORT"),
        (Method::POST, follower_admin, "/replicate", replicate, 404, "does not serve /replicate: REPLICATION_PORT"),
        (Method::GET, follower, "/replication", "", 404, "does not serve /replication: REPLICATION_PORT"),
        (Method::GET, replication, "/get?key=k", "", 200, ""),
        (Method::GET, leader, "/replicas?key=k", "", 200, ""),
        (Method::GET, replication, "/dump", "", 404, "does not serve /dump: PORT does"),
        (Method::GET, replication, "/readyz", "", 404, "does not serve /readyz: PORT does"),
    ];
    for (method, port, path, body, code, words) in rows {
        let (found, answer) = ask(method.clone(), port, path, body).await.expect("an answer");
        assert_eq!(found, code, "{method} {path}: {answer}");
        if code == 404 {
            assert!(answer["message"].as_str().is_some_and(|message| message.contains(words)), "{path}: {answer}");
            assert_eq!(answer["outcome"], json!("not_applied"), "{path}");
        }
    }
}
