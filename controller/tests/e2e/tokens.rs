//! Goal: the token of a cluster is rotated under load, by an edit and by a deletion of its Secret, and no write fails, no
//! pod restarts, and in the end the nodes accept the new token alone.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, Patch, PatchParams};
use reqwest::Method;
use serde_json::json;

use crate::harness::{Demo, condition, http};
use crate::writer::Writer;

#[tokio::test]
async fn a_token_is_rotated_under_load_and_no_write_fails() {
    let rounds = std::env::var("E2E_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    let demo =
        Demo::ready(json!({"replicas": 3, "writeQuorum": 2, "delay": {"maxMs": 10}, "durability": "Memory"})).await;
    let leader = demo.url("leader").await;
    let before = demo.identities().await;
    let writer = Writer::start(&demo).await;
    let mut old = token(&demo).await;
    for round in 0..rounds {
        let started = Instant::now();
        let secrets = demo.api::<Secret>();
        if round % 2 == 0 {
            let edit = json!({"stringData": {"token": format!("token-of-round-{round}")}});
            secrets.patch("demo-auth", &PatchParams::default(), &Patch::Merge(&edit)).await.unwrap();
        } else {
            secrets.delete("demo-auth", &DeleteParams::default()).await.unwrap();
        }
        let is_new =
            |secret: Option<&Secret>| secret.and_then(|secret| value(secret, "token")).is_some_and(|new| new != old);
        demo.until_object::<Secret>("demo-auth", "another token", is_new).await;
        let new = token(&demo).await;
        if round == 1 {
            // A pod that starts in the middle of it.
            demo.api::<Pod>().delete("demo-follower-2", &DeleteParams::default()).await.unwrap();
        }
        demo.until_object::<Secret>("demo-auth-accepted", "the new token alone", |secret| {
            let lines = |key: &str| secret.and_then(|secret| value(secret, key)).unwrap_or_default();
            lines("tokens").trim() == new && lines("dropped").is_empty()
        })
        .await;
        demo.until("rotated", |cluster| {
            condition(cluster, "TokenApplied") == ("True".to_owned(), "Applied".to_owned())
        })
        .await;
        println!("rotation {round} took {:?}", started.elapsed());
        for (token, code) in [(&new, 200), (&old, 401)] {
            let request = http().request(Method::PATCH, format!("{leader}/config")).bearer_auth(token).body("{}");
            assert_eq!(request.send().await.unwrap().status().as_u16(), code, "round {round}");
        }
        writer.progress().await;
        old = new;
    }
    let report = writer.finish(&demo).await;
    println!("{rounds} rotations: {report}");
    assert_eq!(report.failed, 0);
    let mut after = demo.identities().await;
    for name in before.keys().filter(|name| *name != "demo-follower-2" || rounds < 2) {
        assert_eq!(after.remove(name), Some(before[name].clone()), "{name} restarted");
    }
    demo.remove().await;
}

async fn token(demo: &Demo) -> String {
    value(&demo.api::<Secret>().get("demo-auth").await.unwrap(), "token").unwrap()
}

fn value(secret: &Secret, key: &str) -> Option<String> {
    Some(String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).unwrap())
}
