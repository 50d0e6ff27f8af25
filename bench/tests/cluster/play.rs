//! Goal: `kv-bench play` starts a cluster that a person can look at and break. Method: the program itself, with commands on
//! its standard input.

use std::process::Stdio;

use reqwest::{StatusCode, header};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::support::{KV_BENCH, PATIENCE, eventually};

struct Terminal {
    commands: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Terminal {
    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.output.read_line(&mut line)).await.expect("a line in time").expect("a line");
        line.trim_start_matches("> ").trim_end().to_owned()
    }

    async fn ask(&mut self, command: &str) -> String {
        self.commands.write_all(format!("{command}\n").as_bytes()).await.expect("written");
        self.line().await
    }
}

async fn state(leader: &str, follower: usize) -> Option<String> {
    let status: Value = reqwest::get(format!("{leader}status")).await.ok()?.json().await.ok()?;
    Some(status["followers"][follower]["state"].as_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_started_shown_and_broken_by_commands() {
    let out = TempDir::new().expect("a directory");
    let mut process = Command::new(KV_BENCH)
        .args(["play", "--no-browser", "--follower-count", "3", "--write-quorum", "2", "--max-delay-ms", "5", "--out"])
        .arg(out.path())
        .env_remove("AUTH_TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("kv-bench runs");
    let commands = process.stdin.take().expect("a pipe");
    let output = BufReader::new(process.stdout.take().expect("a pipe"));
    let mut terminal = Terminal { commands, output };
    let line = terminal.line().await;
    let leader = line.strip_prefix("page: ").unwrap_or_else(|| panic!("no address: {line}"));
    assert!(terminal.line().await.starts_with("commands: kill NODE, start NODE"), "help");

    let page = reqwest::Client::new().get(leader).header(header::ACCEPT, "text/html").send().await.expect("an answer");
    assert_eq!(page.status(), StatusCode::OK);
    let until = async |follower, expected: &str| {
        eventually(expected, async || state(leader, follower).await.filter(|state| state == expected)).await;
    };
    assert_eq!(terminal.ask("kill 2").await, "follower 2 is killed");
    until(1, "unreachable").await;
    assert_eq!(terminal.ask("start 2").await, "follower 2 is started");
    until(1, "streaming").await;
    assert_eq!(terminal.ask("pause 3").await, "follower 3 is paused");
    assert_eq!(terminal.ask("start 3").await, "failed to start follower3: it is already running");
    assert_eq!(terminal.ask("resume 3").await, "follower 3 goes on");
    assert_eq!(terminal.ask("kill leader").await, "the leader is killed");
    assert_eq!(terminal.ask("resume leader").await, "leader is not running");
    assert_eq!(terminal.ask("start leader").await, "the leader is started");
    until(0, "streaming").await;
    assert!(terminal.ask("kill 4").await.starts_with("there is no node \"4\""));

    terminal.commands.write_all(b"quit\n").await.expect("written");
    let ended = timeout(PATIENCE, process.wait()).await.expect("an end in time").expect("an end");
    assert_eq!(ended.code(), Some(0));
    assert!(reqwest::get(format!("{leader}status")).await.is_err(), "no node is left");
    assert!(!out.path().join("data").exists(), "no data is left");
}
