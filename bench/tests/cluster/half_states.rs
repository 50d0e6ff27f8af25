//! Goal: a node whose state is not whole says so to every kind of read. Method: real clusters, with a leader that cannot
//! recover and with a restore that has begun.

use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    backup::{TOKEN, cluster, put},
    eventually,
};

async fn get(url: &str) -> (StatusCode, Value) {
    let answer = reqwest::get(url).await.expect("answers");
    (answer.status(), answer.json().await.expect("JSON"))
}

const READS: [&str; 3] = ["/get?key=k", "/get?key=k&consistency=local", "/dump"];

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_recovers_shows_nothing() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = cluster(logs.path()).await;
    put(&cluster, "k", "v").await;
    for read in READS {
        assert_eq!(get(&format!("{}{read}", cluster.leader_url())).await.0, StatusCode::OK, "{read}");
    }
    cluster.kill_leader().expect("killed");
    for follower in 0..3 {
        cluster.kill_follower(follower).expect("killed");
    }
    cluster.start_leader().await.expect("starts");
    for read in READS {
        let (status, body) = get(&format!("{}{read}", cluster.leader_url())).await;
        assert_eq!(
            (status, &body["error"]),
            (StatusCode::SERVICE_UNAVAILABLE, &json!("the leader is recovering")),
            "{read}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_backup_is_shown_by_no_read() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(logs.path()).await;
    let restore = async |query: &str, body: &str| {
        let url = format!("{}/restore?backup=digest{query}", cluster.leader_url());
        let answer = reqwest::Client::new().post(url).bearer_auth(TOKEN).body(body.to_owned()).send().await;
        assert_eq!(answer.expect("answers").status(), StatusCode::OK);
    };
    restore("&stage=begin", "").await;
    restore("", "{\"key\":\"k\",\"seq\":3,\"value\":\"v\"}\n").await;
    for read in READS {
        let (status, body) = get(&format!("{}{read}", cluster.leader_url())).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{read}: {body}");
    }
    for url in cluster.follower_urls() {
        for read in ["/get?key=k", "/get?key=other", "/dump"] {
            let body = eventually("a follower that says so", async || {
                let (status, body) = get(&format!("{url}{read}")).await;
                (status == StatusCode::SERVICE_UNAVAILABLE).then_some(body)
            });
            assert_eq!(body.await["error"], "a restore is not finished", "{read}");
        }
    }

    restore("&stage=end", "").await;
    let whole = json!({"k": {"value": "v", "seq": 3}});
    for url in cluster.follower_urls().into_iter().chain([cluster.leader_url()]) {
        eventually("a whole dump", async || {
            let (status, body) = get(&format!("{url}/dump")).await;
            (status == StatusCode::OK && body["entries"] == whole).then_some(())
        })
        .await;
    }
}

/// A local read asks no follower, so the leader answers it without any.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_followers_shows_what_it_has_when_asked_for_that() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = cluster(logs.path()).await;
    put(&cluster, "k", "v").await;
    for follower in 0..3 {
        cluster.kill_follower(follower).expect("killed");
    }
    let leader = cluster.leader_url();
    eventually("a leader that refuses clients", async || {
        (get(&format!("{leader}/readyz")).await.0 == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    assert_eq!(get(&format!("{leader}/get?key=k")).await.0, StatusCode::SERVICE_UNAVAILABLE);
    let (status, body) = get(&format!("{leader}/get?key=k&consistency=local")).await;
    assert_eq!((status, &body["value"]), (StatusCode::OK, &json!("v")));
    let (status, body) = get(&format!("{leader}/dump")).await;
    assert_eq!((status, &body["entries"]), (StatusCode::OK, &json!({"k": {"value": "v", "seq": 1}})));
}
