//! Goal: a restore that is interrupted leaves nothing that passes for a whole state, says so, and goes on when it is
//! repeated. Method: real clusters, and `kvctl restore` in the middle of a backup of some 40 requests, while the program,
//! the leader, a follower or all nodes are killed with SIGKILL.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use kv_bench::{
    client::{Credentials, Dump, Entry, NodeClient},
    cluster::{LocalCluster, LocalClusterOptions},
};
use kv_node::{backup::Writer, protocol::leader::Saved};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::{
    KV_BENCH, KVCTL,
    backup::{TOKEN, backup, cluster, dump, post, put, restore},
    eventually, stderr,
};

/// Keys of the backup: with their values, about 10 MB.
const KEYS: u64 = 5_000;

/// A whole backup, and what a cluster has that was given it.
fn saved(file: &Path, value: &str) -> Dump {
    let mut writer = Writer::default();
    let mut text = writer.header("7.01".to_owned(), KEYS);
    let mut entries = Dump::new();
    for number in 0..KEYS {
        let (key, value, seq) =
            (format!("key {number}"), format!("{value} {number} {}", "x".repeat(2_000)), number + 1);
        text.push_str(&writer.key(&Saved {
            key: key.as_str().into(),
            seq,
            value: Some(value.as_str().into()),
            marks: None,
        }));
        entries.insert(key, Entry { value: value.into(), seq });
    }
    text.push_str(&writer.trailer());
    fs::write(file, text).expect("written");
    entries
}

/// Three followers with disks, and delays that make a restore take seconds.
async fn slow_cluster(directory: &Path, write_quorum: u16) -> LocalCluster {
    let options = LocalClusterOptions {
        followers: 3,
        write_quorum,
        min_delay_ms: 80,
        max_delay_ms: 120,
        replication_timeout_ms: 1_000,
        environment: vec![("AUTH_TOKEN".to_owned(), TOKEN.to_owned())],
        data_directory: Some(directory.join("data")),
        ..LocalClusterOptions::new(KV_BENCH, directory.join("logs"))
    };
    LocalCluster::start(options).await.expect("starts")
}

/// `kvctl restore` that runs, and has begun to hand in keys.
async fn restoring(cluster: &LocalCluster, place: &Path) -> Child {
    let mut command = Command::new(KVCTL);
    command.args(["restore", "--leader", &cluster.leader_url(), "--from"]).arg(place).env("AUTH_TOKEN", TOKEN);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("kv-bench runs");
    let some = eventually("the first keys of the backup", async || {
        let keys = status(cluster).await["keys"].as_u64()?;
        (keys >= KEYS / 10).then_some(keys)
    });
    let some = some.await;
    assert!(some < KEYS, "the restore was over before it was interrupted");
    child
}

/// A restore that is under way.
struct Midway {
    child: Child,
    cluster: LocalCluster,
    /// What the whole backup is.
    expected: Dump,
    file: PathBuf,
    directory: TempDir,
}

async fn midway(write_quorum: u16) -> Midway {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("state.jsonl");
    let expected = saved(&file, "blue");
    let cluster = slow_cluster(directory.path(), write_quorum).await;
    Midway { child: restoring(&cluster, &file).await, cluster, expected, file, directory }
}

/// How the leader is; null while it does not answer.
async fn status(cluster: &LocalCluster) -> Value {
    match reqwest::get(format!("{}/status", cluster.leader_url())).await {
        Ok(answer) => answer.json().await.unwrap_or_default(),
        Err(_) => Value::Null,
    }
}

/// The status and the body of `GET /get` of the backup's last key.
async fn get_last(url: &str) -> (StatusCode, Value) {
    let answer = reqwest::get(format!("{url}/get?key=key%20{}", KEYS - 1)).await.expect("answers");
    (answer.status(), answer.json().await.expect("JSON"))
}

/// Whole, served, and the same at every node.
async fn assert_whole(cluster: &mut LocalCluster, expected: &Dump) {
    cluster.wait_until_open().await.expect("open");
    assert_eq!(get_last(&cluster.leader_url()).await.0, StatusCode::OK);
    assert!(dump(cluster).await == *expected, "the leader has something else than the backup");
    for url in cluster.follower_urls() {
        let follower = NodeClient::with(&Credentials::default(), &url, 1).expect("a client");
        eventually("a follower that has the whole backup", async || {
            (follower.dump().await.ok()? == *expected).then_some(())
        })
        .await;
    }
    let status = status(cluster).await;
    assert_eq!((&status["restore"], &status["message"]), (&Value::Null, &json!("")));
    assert_eq!(status["keys"], json!(KEYS));
}

/// The restore that runs gets to its end.
async fn goes_on(child: Child, cluster: &mut LocalCluster, expected: &Dump) {
    let output = child.wait_with_output().await.expect("ends");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_whole(cluster, expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_backup_is_shown_to_nobody_and_a_repetition_goes_on() {
    let Midway { directory, mut cluster, mut child, expected, file } = midway(2).await;
    child.kill().await.expect("killed");
    // Not even a leader that knows nothing but what is on the followers' disks takes it for a whole state.
    cluster.kill_all().expect("killed");
    cluster.start_all().await.expect("start");
    cluster.wait_until_open().await.expect("open");

    let half = status(&cluster).await;
    let keys = half["keys"].as_u64().expect("a number");
    assert!((1..KEYS).contains(&keys), "{keys} of {KEYS} keys");
    let words = "is not finished: it has to be repeated, or given up";
    assert!(half["message"].as_str().is_some_and(|message| message.contains(words)), "{half}");
    assert_eq!(half["restore"]["overwrite"], json!(false));
    let (answer, body) = get_last(&cluster.leader_url()).await;
    assert!(
        answer == StatusCode::SERVICE_UNAVAILABLE && body["error"].as_str().expect("words").contains(words),
        "{body}"
    );
    let (answer, body) = post(&cluster, "/put", None, json!({"key": "key 4999", "value": "mine"})).await;
    assert!(answer == 503 && body["outcome"] == "not_applied", "{answer} {body}");
    for url in cluster.follower_urls() {
        eventually("a follower that tells half a state from a missing key", async || {
            (get_last(&url).await.0 == StatusCode::SERVICE_UNAVAILABLE).then_some(())
        })
        .await;
    }
    let output = backup(&cluster, &directory.path().join("half.jsonl")).await;
    assert!(!output.status.success() && stderr(&output).contains(words), "{}", stderr(&output));
    let other = directory.path().join("other.jsonl");
    saved(&other, "green");
    let output = restore(&cluster, &other, &[]).await;
    assert!(!output.status.success() && stderr(&output).contains(words), "{}", stderr(&output));

    let output = restore(&cluster, &file, &[]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert_whole(&mut cluster, &expected).await;
    assert_eq!(put(&cluster, "key 6", "next").await, 8, "the numbers go on");
}

/// The newest backup of a directory is another one by the time of the repetition.
#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_goes_on_with_the_backup_that_it_began_with() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (file, place) = (directory.path().join("state.jsonl"), directory.path().join("place/"));
    let expected = saved(&file, "blue");
    let source = cluster(&directory.path().join("source")).await;
    assert!(restore(&source, &file, &[]).await.status.success());
    let output = backup(&source, &place).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let mut target = slow_cluster(directory.path(), 2).await;
    let mut child = restoring(&target, &place).await;
    child.kill().await.expect("killed");

    put(&source, "key 6", "newer").await;
    // Names and times of backups are in seconds.
    let newer = eventually("a backup with a later time", async || {
        assert!(backup(&source, &place).await.status.success());
        let list = Command::new(KVCTL).args(["list", "--from"]).arg(&place).output().await.expect("kvctl runs");
        let list = String::from_utf8(list.stdout).expect("text");
        let times: BTreeSet<String> =
            list.lines().skip(1).filter_map(|line| line.split_whitespace().rev().nth(2)).map(str::to_owned).collect();
        (times.len() > 1).then_some(times.len())
    });
    newer.await;
    let report = directory.path().join("report.json");
    let output = restore(&target, &place, &["--report", &report.display().to_string()]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert_whole(&mut target, &expected).await;
    let report: Value = serde_json::from_slice(&fs::read(report).expect("written")).expect("JSON");
    assert_eq!(report["keys"], json!(KEYS));
    assert!(
        output
            .stdout
            .starts_with(format!("{KEYS} keys of {} of ", report["name"].as_str().expect("a name")).as_bytes())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_goes_on_after_its_leader_was_killed() {
    let Midway { directory: _directory, mut cluster, child, expected, .. } = midway(2).await;
    cluster.kill_leader().expect("killed");
    cluster.start_leader().await.expect("starts");
    goes_on(child, &mut cluster, &expected).await;
}

/// With every follower in the quorum nothing is acknowledged while one is away; it comes back with an empty disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_goes_on_after_a_follower_was_killed_and_emptied() {
    let Midway { directory: _directory, mut cluster, child, expected, .. } = midway(3).await;
    cluster.kill_follower(1).expect("killed");
    cluster.wipe_follower(1).expect("wiped");
    cluster.start_follower(1).await.expect("starts");
    goes_on(child, &mut cluster, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_cannot_go_on_says_how_far_it_came_and_can_be_given_up() {
    let Midway { directory: _directory, mut cluster, mut child, expected, file } = midway(2).await;
    child.kill().await.expect("killed");
    (0..2).for_each(|index| cluster.kill_follower(index).expect("killed"));
    let output = restore(&cluster, &file, &["--patience-s", "1"]).await;
    let words = format!("of its {KEYS} keys are restored for certain. The cluster serves no client until the same");
    assert!(!output.status.success() && stderr(&output).contains(&words), "{}", stderr(&output));
    for index in 0..2 {
        cluster.start_follower(index).await.expect("starts");
    }
    cluster.wait_until_open().await.expect("open");

    let leader = cluster.leader_url();
    let mut give_up = Command::new(KVCTL);
    give_up.args(["restore", "--leader", &leader, "--give-up"]).env("AUTH_TOKEN", TOKEN);
    let output = give_up.output().await.expect("kv-bench runs");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(get_last(&leader).await.0, StatusCode::NOT_FOUND);
    put(&cluster, "mine", "here").await;

    // After that the state is no unfinished restore any more: only `--overwrite` replaces it.
    let output = restore(&cluster, &file, &[]).await;
    assert!(!output.status.success() && stderr(&output).contains("keys already"), "{}", stderr(&output));
    let output = restore(&cluster, &file, &["--overwrite"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let mut after = dump(&cluster).await;
    assert_eq!(after.remove("mine").map(|entry| entry.value), Some("here".into()));
    assert!(after == expected, "the leader has something else than the backup");
}
