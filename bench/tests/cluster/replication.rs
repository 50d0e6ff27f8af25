//! What replication promises, with real processes that are killed, paused and restarted.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::task::JoinSet;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kv-bench");

async fn cluster(logs: &TempDir, change: impl FnOnce(&mut LocalClusterOptions)) -> LocalCluster {
    let mut options = LocalClusterOptions::new(PROGRAM, logs.path());
    options.write_quorum = 3;
    options.max_delay_ms = 10;
    change(&mut options);
    let mut cluster = LocalCluster::start(options).await.expect("the cluster starts");
    cluster.wait_until_open().await.expect("the leader opens");
    cluster
}

async fn put(client: &Client, leader: &str, key: &str, value: &str) -> (u16, Value) {
    let request = client.post(format!("{leader}/put?explain=true")).json(&json!({"key": key, "value": value}));
    match request.send().await {
        Ok(response) => {
            let status = response.status().as_u16();
            (status, response.json().await.unwrap_or_default())
        }
        Err(_) => (0, Value::Null),
    }
}

async fn get_json(url: &str) -> Value {
    let response = Client::new().get(url).send().await.expect("an answer");
    response.json().await.expect("JSON")
}

async fn set_quorum(leader: &str, quorum: u16) {
    let request = Client::new().patch(format!("{leader}/config?wait_ms=20000")).json(&json!({"write_quorum": quorum}));
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status().as_u16(), 200, "quorum {quorum} is in force");
}

/// Waits until a condition on the leader's status holds. Fails after a minute.
async fn until(leader: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let limit = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        if let Ok(response) = Client::new().get(format!("{leader}/status")).send().await
            && let Ok(status) = response.json::<Value>().await
        {
            if condition(&status) {
                return status;
            }
            assert!(tokio::time::Instant::now() < limit, "the condition never held: {status}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn drained(status: &Value) -> bool {
    status["state"] == "open"
        && status["writes"]["backlog"] == 0
        && status["followers"].as_array().is_some_and(|all| all.iter().all(|one| one["state"] == "streaming"))
}

async fn entries(url: &str) -> Value {
    get_json(&format!("{url}/dump")).await["entries"].clone()
}

/// Clients that write without pause, each to a key of its own, and what they were answered.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Vec<(u16, Value)>>,
}

impl Writers {
    fn start(leader: &str, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for writer in 0..count {
            let (stop, leader) = (stop.clone(), leader.to_owned());
            tasks.spawn(async move {
                let (client, mut answers) = (Client::new(), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let value = format!("{writer}-{}", answers.len());
                    let (status, mut answer) = put(&client, &leader, &format!("writer{writer}"), &value).await;
                    answer["written"] = json!(value);
                    answers.push((status, answer));
                }
                answers
            });
        }
        Self { stop, tasks }
    }

    async fn stop(self) -> Vec<Vec<(u16, Value)>> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await
    }
}

/// The acknowledged write of a key with the highest number must be there, or a later one of the same writer.
fn assert_nothing_lost(answers: &[Vec<(u16, Value)>], entries: &Value) {
    for answers in answers {
        let acknowledged = answers.iter().filter(|(status, _)| *status == 200);
        let Some((_, last)) = acknowledged.max_by_key(|(_, answer)| answer["seq"].as_u64()) else { continue };
        let written = last["written"].as_str().expect("a value");
        let (writer, _) = written.split_once('-').expect("writer-number");
        let entry = &entries[format!("writer{writer}")];
        assert!(entry["seq"].as_u64() >= last["seq"].as_u64(), "writer {writer}: {last} lost, found {entry}");
        if entry["seq"] == last["seq"] {
            assert_eq!(entry["value"], last["written"], "writer {writer}: the acknowledged value is another one");
        }
    }
}

/// Goal: the quorum changes 1 → 5 → 2 on a running leader without a failed write, a lost write, a restart, or an answer
/// under a quorum that was not in force while the write was under way.
#[tokio::test(flavor = "multi_thread")]
async fn the_quorum_changes_under_load() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, |options| options.write_quorum = 1).await;
    let (leader, processes) = (cluster.leader_url(), cluster.process_ids());
    let mut epoch = Value::Null;
    for (before, after) in [(1, 5), (5, 2)] {
        let writers = Writers::start(&leader, 8);
        until(&leader, |status| status["writes"]["committed"].as_u64() > Some(50)).await;
        set_quorum(&leader, after).await;
        // In force: from here on nothing is answered under the earlier one.
        let client = Client::new();
        let mut quorums = Vec::new();
        for number in 0..20 {
            let (status, answer) = put(&client, &leader, "after", &format!("{after}-{number}")).await;
            assert_eq!(status, 200, "{answer}");
            quorums.push(answer["explain"]["write_quorum"].as_u64());
        }
        assert!(quorums.iter().all(|quorum| *quorum == Some(after.into())), "{quorums:?}");
        let answers = writers.stop().await;
        for (status, answer) in answers.iter().flatten() {
            assert_eq!(*status, 200, "{answer}");
            let quorum = answer["explain"]["write_quorum"].as_u64().expect("a quorum");
            assert!([before, after, before.max(after)].contains(&u16::try_from(quorum).expect("small")), "{answer}");
        }
        let status = until(&leader, drained).await;
        assert!(epoch.is_null() || epoch == status["epoch"], "the leader is the same");
        epoch = status["epoch"].clone();
        assert_nothing_lost(&answers, &entries(&leader).await);
    }
    assert_eq!(processes, cluster.process_ids());
}

/// Goal: a follower that was killed and comes back empty is caught up without help while writes go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_follower_is_caught_up_under_load() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = cluster(&logs, |_| {}).await;
    let leader = cluster.leader_url();
    let writers = Writers::start(&leader, 8);
    until(&leader, |status| status["writes"]["committed"].as_u64() > Some(100)).await;
    cluster.kill_follower(2).expect("killed");
    let down = until(&leader, |status| status["followers"][2]["state"] == "unreachable").await;
    let committed = down["writes"]["committed"].as_u64();
    until(&leader, |status| status["writes"]["committed"].as_u64() > committed.map(|count| count + 100)).await;
    cluster.start_follower(2).await.expect("started");
    until(&leader, |status| status["followers"][2]["state"] == "streaming").await;
    let answers = writers.stop().await;
    for (status, answer) in answers.iter().flatten() {
        assert_eq!(*status, 200, "writes went on: {answer}");
    }
    until(&leader, drained).await;
    let truth = entries(&leader).await;
    assert_nothing_lost(&answers, &truth);
    for follower in cluster.follower_urls() {
        assert_eq!(entries(&follower).await, truth, "{follower}");
    }
}

/// Goal: at W = N with a follower down, a write is answered as indeterminate, with its number; it commits once the
/// follower is back, even though that one came back empty.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_its_quorum_is_indeterminate_and_commits_later() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = cluster(&logs, |options| {
        options.write_quorum = 5;
        options.replication_timeout_ms = 300;
    })
    .await;
    let (leader, client) = (cluster.leader_url(), Client::new());
    assert_eq!(put(&client, &leader, "k", "before").await.0, 200);
    cluster.kill_follower(4).expect("killed");
    let (status, answer) = put(&client, &leader, "k", "unsure").await;
    assert_eq!(status, 500, "{answer}");
    assert_eq!(answer["ok"], false);
    assert_eq!(answer["message"], "quorum not reached");
    assert_eq!(answer["outcome"], "indeterminate");
    assert_eq!(answer["seq"], 2);
    let local = get_json(&format!("{leader}/get?key=k&consistency=local")).await;
    assert_eq!((&local["value"], &local["committed"]), (&json!("unsure"), &json!(false)));
    cluster.start_follower(4).await.expect("started");
    until(&leader, drained).await;
    let now = get_json(&format!("{leader}/get?key=k")).await;
    assert_eq!((&now["value"], &now["seq"]), (&json!("unsure"), &json!(2)));
}

/// Goal: a leader killed under load comes back with nothing; everything acknowledged is there and numbers go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_recovers_everything_acknowledged() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = cluster(&logs, |_| {}).await;
    let leader = cluster.leader_url();
    let mut highest = 0;
    for round in 1..=3 {
        let writers = Writers::start(&leader, 8);
        until(&leader, |status| status["writes"]["committed"].as_u64() > Some(100)).await;
        cluster.kill_leader().expect("killed");
        let answers = writers.stop().await;
        cluster.start_leader().await.expect("started");
        cluster.wait_until_open().await.expect("open");
        assert_nothing_lost(&answers, &entries(&leader).await);
        let (status, answer) = put(&Client::new(), &leader, "writer0", "after").await;
        assert_eq!(status, 200);
        let seq = answer["seq"].as_u64().expect("a number");
        assert!(seq > highest, "round {round}: numbers go on");
        highest = seq;
        assert_eq!(until(&leader, drained).await["epoch"]["term"], round + 1);
    }
}

/// Goal: a paused leader that comes back acknowledges nothing and shows nothing once another one took over.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_leader_serves_no_more() {
    let logs = TempDir::new().expect("a directory");
    let old = cluster(&logs, |_| {}).await;
    let (old_url, client) = (old.leader_url(), Client::new());
    assert_eq!(put(&client, &old_url, "k", "old").await.0, 200);
    old.pause_leader().expect("paused");
    // As a Deployment starts one before the first is gone.
    let (_second, new_url) = second_leader(&old, &[], "leader open").await;
    assert_eq!(get_json(&format!("{new_url}/get?key=k")).await["value"], "old");
    assert_eq!(put(&client, &new_url, "k", "new").await.0, 200);

    old.resume_leader().expect("resumed");
    let response = client.get(format!("{old_url}/get?key=k")).send().await.expect("an answer");
    assert_eq!(response.status().as_u16(), 503, "the old leader shows nothing");
    until(&old_url, |status| status["state"] == "fenced").await;
    let (status, answer) = put(&client, &old_url, "k", "late").await;
    assert_eq!((status, &answer["outcome"]), (503, &json!("not_applied")), "{answer}");
    let health = client.get(format!("{old_url}/healthz")).send().await.expect("an answer");
    assert_eq!(health.status().as_u16(), 503, "whoever runs it is told to replace it");
    assert_eq!(get_json(&format!("{new_url}/get?key=k")).await["value"], "new");
}

/// Goal: with more followers lost than the quorum allows, a starting leader stays closed, says what it waits for and what
/// accepting the loss would take, and opens only after that.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_lost_followers_keep_the_leader_closed() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = cluster(&logs, |_| {}).await;
    let (leader, client) = (cluster.leader_url(), Client::new());
    assert_eq!(put(&client, &leader, "k", "kept").await.0, 200);
    until(&leader, drained).await;
    cluster.kill_leader().expect("killed");
    for follower in 0..3 {
        cluster.kill_follower(follower).expect("killed");
        cluster.start_follower(follower).await.expect("started");
    }
    cluster.start_leader().await.expect("started");
    let closed =
        until(&leader, |status| status["recovery"]["blank"] == 3 && status["recovery"]["non_blank"] == 2).await;
    assert_eq!(closed["state"], "recovering");
    assert_eq!(closed["recovery"]["needed"], 3);
    let message = closed["message"].as_str().expect("a message");
    assert!(message.contains("waits for 3 followers that have state: 2 of 5 answered (3 more are blank)"), "{message}");
    let (status, answer) = put(&client, &leader, "k", "too early").await;
    assert_eq!((status, &answer["outcome"]), (503, &json!("not_applied")));
    let accepted = client.post(format!("{leader}/recover")).json(&json!({"accept_data_loss": true})).send().await;
    assert_eq!(accepted.expect("an answer").status().as_u16(), 200);
    cluster.wait_until_open().await.expect("open");
    assert_eq!(get_json(&format!("{leader}/get?key=k")).await["value"], "kept");
}

/// Goal: where somebody remembers that the cluster was open, blank followers alone are not taken for a new cluster.
#[tokio::test(flavor = "multi_thread")]
async fn an_opened_cluster_does_not_start_over_empty() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = cluster(&logs, |_| {}).await;
    cluster.kill_leader().expect("killed");
    for follower in 0..5 {
        cluster.kill_follower(follower).expect("killed");
        cluster.start_follower(follower).await.expect("started");
    }
    let (_second, leader) = second_leader(&cluster, &[("CLUSTER_OPENED", "true")], "leader starts").await;
    let closed = until(&leader, |status| status["recovery"]["blank"] == 5).await;
    let message = closed["message"].as_str().expect("a message");
    assert!(
        message.contains("this cluster was open before, but 5 of 5 followers answered and all are blank"),
        "{message}"
    );
    assert_eq!(put(&Client::new(), &leader, "k", "v").await.0, 503);
}

/// Another leader of the same followers; returns once its log says so.
async fn second_leader(cluster: &LocalCluster, settings: &[(&str, &str)], said: &str) -> (Child, String) {
    let mut leader = tokio::process::Command::new(PROGRAM)
        .arg("node")
        .env("ROLE", "leader")
        .env("PORT", "0")
        .env("WRITE_QUORUM", "3")
        .env("MAX_DELAY_MS", "10")
        .env("FOLLOWERS", cluster.follower_urls().join(","))
        .envs(settings.iter().copied())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a second leader");
    let mut lines = BufReader::new(leader.stderr.take().expect("a log")).lines();
    let mut url = String::new();
    while let Some(line) = lines.next_line().await.expect("a line") {
        if let Some((_, address)) = line.split_once("address=0.0.0.0:") {
            let port: String = address.chars().take_while(char::is_ascii_digit).collect();
            url = format!("http://127.0.0.1:{port}");
        }
        if line.contains(said) {
            break;
        }
    }
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (leader, url)
}
