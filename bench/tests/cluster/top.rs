//! Goal: `kv-bench top` shows a real cluster, goes on with the next leader, and gives the terminal back as it was. Method: the
//! program itself, once as text and once on a terminal of `script`; and its feed, while leaders come and go.

use std::process::Stdio;

use futures::future::join;
use kv_bench::{
    client::Credentials,
    cluster::{LocalCluster, LocalClusterOptions, RunningCluster},
    top::feed::{self, Event, Update},
};
use reqwest::{Client, StatusCode};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    sync::mpsc,
    time::timeout,
};

use crate::support::{KV_BENCH, PATIENCE};

const CLUSTER: &str = "token-of-the-cluster";
const CLIENTS: &str = "token-of-clients";

async fn two_of_three(directory: &TempDir, settings: &[(&str, &str)]) -> LocalCluster {
    let environment = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let options = LocalClusterOptions {
        followers: 3,
        write_quorum: 2,
        max_delay_ms: 40,
        environment,
        ..LocalClusterOptions::new(KV_BENCH, directory.path())
    };
    LocalCluster::start(options).await.expect("the cluster starts")
}

/// What `top --once` prints, or its last words.
async fn once(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(KV_BENCH);
    command.args(["top", "--once"]).args(arguments).env_remove("CLIENT_TOKEN").stdin(Stdio::null());
    let output = timeout(PATIENCE, command.output()).await.expect("in time").expect("kv-bench runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_frame_is_printed_of_a_cluster_with_tokens() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("tokens");
    std::fs::write(&file, format!("{CLIENTS}\n")).expect("written");
    let mut cluster =
        two_of_three(&directory, &[("AUTH_TOKEN", CLUSTER), ("CLIENT_TOKEN_FILE", file.to_str().expect("text"))]).await;
    let leader = cluster.leader_url();
    cluster.kill_follower(2).expect("killed");

    let refused = once(&["--leader", &leader]).await.expect_err("no token");
    assert!(refused.contains("asks for the token of a client: --client-token"), "{refused}");
    let frame = once(&["--leader", &leader, "--client-token", CLIENTS]).await.expect("a frame");
    for words in ["kvcluster  open", "epoch 1", "W = 2 of 3, delays 0-40 ms", "1 follower may be down", "26.7 ms"] {
        assert!(frame.contains(words), "no {words:?} in\n{frame}");
    }
    let down = frame.lines().find(|line| line.contains(cluster.follower_url(2).trim_start_matches("http://")));
    assert!(down.is_some_and(|line| line.contains("down")), "{frame}");
    assert_eq!(frame.lines().filter(|line| line.contains("streaming")).count(), 2, "{frame}");
    let gone = once(&["--leader", "http://127.0.0.1:9"]).await.expect_err("nothing is there");
    assert!(gone.contains("failed to reach http://127.0.0.1:9"), "{gone}");
}

/// The next update that satisfies a condition, with the URL of its leader.
async fn next(events: &mut mpsc::Receiver<Event>, wanted: impl Fn(&Update) -> bool) -> (String, Update) {
    let found = async {
        loop {
            if let Event::Update(leader, update) = events.recv().await.expect("the feed goes on")
                && wanted(&update)
            {
                return (leader, *update);
            }
        }
    };
    timeout(PATIENCE, found).await.expect("in time")
}

/// The feed does not know the standby: the followers name the leader that they obey.
#[tokio::test(flavor = "multi_thread")]
async fn the_feed_goes_on_with_the_next_leader() {
    let directory = TempDir::new().expect("a directory");
    let mut cluster = two_of_three(&directory, &[("TAKEOVER_AFTER_MS", "500")]).await;
    let running = RunningCluster::new("test", cluster.leader_url(), Vec::new(), Credentials::default());
    let (sender, mut events) = mpsc::channel(16);
    let term = |update: &Update| update.status.epoch.as_ref().map(|epoch| epoch.term);
    let watched = async {
        let (leader, first) = next(&mut events, |_| true).await;
        assert_eq!((leader, term(&first)), (cluster.leader_url(), Some(1)));

        let put = Client::new().post(format!("{}/put", cluster.leader_url()));
        let put = put.json(&json!({"key": "color", "value": "blue"})).send().await.expect("an answer");
        assert_eq!(put.status(), StatusCode::OK);
        let (_, counted) = next(&mut events, |update| update.latency.count == 1).await;
        assert_eq!(counted.status.writes.committed, 1);
        assert_eq!(counted.latency.buckets.iter().map(|bucket| bucket.2).sum::<u64>(), 1);

        let (_, standby) = cluster.start_rival().await.expect("the standby starts");
        cluster.kill_leader().expect("killed");
        let (leader, second) = next(&mut events, |update| term(update) > Some(1)).await;
        assert_eq!((leader, second.status.followers.len()), (standby, 3));
        drop(events);
    };
    let (ended, ()) = timeout(3 * PATIENCE, join(feed::follow(&running, sender), watched)).await.expect("in time");
    ended.expect("it ends with its receiver");
}

/// The alternate screen is left and the cursor shown again, whichever key ends it. `script` makes the terminal.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_ends_it_and_the_terminal_is_as_it_was() {
    if Command::new("script").arg("--version").output().await.is_err() {
        println!("skipped: script (util-linux) is not installed");
        return;
    }
    let directory = TempDir::new().expect("a directory");
    let cluster = two_of_three(&directory, &[]).await;
    for key in ["q", "\u{3}"] {
        let command = format!(
            "stty cols 120 rows 30; {KV_BENCH} top --leader {}; echo ended with $?; stty -a",
            cluster.leader_url()
        );
        let mut script = Command::new("script")
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("script runs");
        let (mut keys, mut screen) = (script.stdin.take().expect("a pipe"), script.stdout.take().expect("a pipe"));
        let mut shown = String::new();
        let mut until = async |words: &str| {
            let mut part = [0; 4096];
            while !shown.contains(words) {
                let read =
                    timeout(PATIENCE, screen.read(&mut part)).await.unwrap_or_else(|_| panic!("no {words}: {shown}"));
                let read = read.expect("the terminal is read");
                assert!(read > 0, "no {words:?} in {shown:?}");
                shown.push_str(&String::from_utf8_lossy(&part[..read]));
            }
            shown.clone()
        };
        until("streaming").await;
        keys.write_all(key.as_bytes()).await.expect("pressed");
        let all = until("ended with 0").await;
        let (entered, left) = (all.find("\u{1b}[?1049h"), all.rfind("\u{1b}[?1049l"));
        assert!(entered.is_some() && left > entered, "the screen before is back: {all:?}");
        assert!(all.rfind("\u{1b}[?25h") > all.rfind("\u{1b}[?25l"), "the cursor is shown: {all:?}");
        let settings = until(" icanon").await;
        assert!(!settings.contains("-icanon"), "lines are read as lines again: {settings:?}");
    }
}
