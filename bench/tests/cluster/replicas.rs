//! Goal: `GET /replicas` shows what each follower has, really read there, and which of them are stale. Method: real nodes, one
//! of which gets its writes much later than the others.

use std::sync::Arc;

use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use kvcluster_api::delay::{Constant, DelayLaw};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{KV_BENCH, eventually};

const CLUSTER: &str = "token-of-the-cluster";
const CLIENTS: &str = "token-of-clients";

/// Three followers, W = 2, the last of which gets each write this much later. Clients need a token.
pub(crate) fn with_a_late_follower(directory: &TempDir, late_ms: f64) -> LocalClusterOptions {
    let constant = |ms: f64| DelayLaw { constant: Some(Constant { ms }), ..DelayLaw::default() };
    let late = DelayLaw { follower: Some(2), ..constant(late_ms) };
    LocalClusterOptions {
        followers: 3,
        write_quorum: 2,
        delay: Some(Arc::new(DelayLaw { per_follower: Some(vec![late]), ..constant(0.0) })),
        replication_timeout_ms: 60_000,
        ..LocalClusterOptions::new(KV_BENCH, directory.path())
    }
}

/// The key as the leader and each follower have it: `seq`, and then `(seq, value, stale)` of each.
async fn everywhere(client: &Client, leader: &str, key: &str) -> (Value, Vec<(Value, Value, Value)>) {
    let answer =
        client.get(format!("{leader}/replicas?key={key}")).bearer_auth(CLIENTS).send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let mut body: Value = answer.json().await.expect("JSON");
    assert_eq!(body["key"], key);
    let of = |replica: &mut Value| (replica["seq"].take(), replica["value"].take(), replica["stale"].take());
    (body["seq"].take(), body["replicas"].as_array_mut().expect("a list").iter_mut().map(of).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_at_each_follower_shows_which_are_stale() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("tokens");
    std::fs::write(&file, format!("{CLIENTS}\n")).expect("written");
    let options = with_a_late_follower(&directory, 4_000.0);
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let file = file.to_str().expect("text");
    let tokens = vec![setting("AUTH_TOKEN", CLUSTER), setting("CLIENT_TOKEN_FILE", file)];
    let mut cluster =
        LocalCluster::start(LocalClusterOptions { environment: tokens, ..options }).await.expect("started");
    let (leader, client) = (cluster.leader_url(), Client::new());
    let post = async |path: &str, body: Value| {
        let answer = client.post(format!("{leader}{path}")).bearer_auth(CLIENTS).json(&body).send().await;
        assert_eq!(answer.expect("an answer").status(), StatusCode::OK, "{path}");
    };
    let all = async || everywhere(&client, &leader, "color").await;

    let nothing = || (Value::Null, Value::Null, json!(false));
    assert_eq!(all().await, (Value::Null, vec![nothing(), nothing(), nothing()]), "no such key yet");
    post("/put", json!({"key": "color", "value": "blue"})).await;
    let blue = |stale: bool| (json!(1), json!("blue"), json!(stale));
    let late = (Value::Null, Value::Null, json!(true));
    assert_eq!(all().await, (json!(1), vec![blue(false), blue(false), late]));
    eventually("the last follower has it", async || (all().await.1[2] == blue(false)).then_some(())).await;

    post("/put", json!({"key": "color", "value": "red"})).await;
    let red = || (json!(2), json!("red"), json!(false));
    assert_eq!(all().await, (json!(2), vec![red(), red(), blue(true)]), "the value before");
    eventually("the last follower has it", async || (all().await.1[2] == red()).then_some(())).await;
    post("/delete", json!({"key": "color"})).await;
    let stale_red = (json!(2), json!("red"), json!(true));
    assert_eq!(all().await, (json!(3), vec![nothing(), nothing(), stale_red]), "a deleted key");

    // A follower that does not answer is neither stale nor up to date.
    cluster.kill_follower(1).expect("killed");
    let unknown = || (Value::Null, Value::Null, Value::Null);
    assert_eq!(all().await.1[1], unknown());

    let without = client.get(format!("{leader}/replicas?key=color")).send().await.expect("an answer");
    assert_eq!(without.status(), StatusCode::UNAUTHORIZED);
    for query in ["", "?key=", "?key=a&raw=true", "?key=a&key=b"] {
        let answer = client.get(format!("{leader}/replicas{query}")).bearer_auth(CLIENTS).send().await;
        assert_eq!(answer.expect("an answer").status(), StatusCode::BAD_REQUEST, "{query:?}");
    }
    let elsewhere = client.get(format!("{}/replicas?key=color", cluster.follower_url(0))).bearer_auth(CLIENTS);
    let elsewhere = elsewhere.send().await.expect("an answer");
    assert_eq!(elsewhere.status(), StatusCode::NOT_FOUND);
    assert_eq!(elsewhere.json::<Value>().await.expect("JSON")["leader"], leader);
}

/// Each request opens a connection to every follower, so few are answered at once. A follower that is paused holds them up.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_ask_the_followers_are_bounded() {
    let directory = TempDir::new().expect("a directory");
    let cluster = LocalCluster::start(with_a_late_follower(&directory, 0.0)).await.expect("started");
    cluster.pause_follower(2).expect("paused");
    let (client, url) = (Client::new(), format!("{}/replicas?key=color", cluster.leader_url()));
    let asked = (0..12).map(|_| client.get(&url).send());
    let answers = futures::future::join_all(asked).await;
    let statuses: Vec<_> = answers.into_iter().map(|answer| answer.expect("an answer").status()).collect();
    let count = |wanted: StatusCode| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!((count(StatusCode::OK), count(StatusCode::TOO_MANY_REQUESTS)), (4, 8), "{statuses:?}");
}
