//! Goal: each verb of `kubectl kv` does what its help says, on a cluster with a standby.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::DeleteParams;
use kv_bench::kubectl;
use kvcluster_api::resource::{KvCluster, Phase};
use reqwest::Method;
use serde_json::json;

use crate::harness::{Demo, ask, phase};

/// Runs `kubectl kv` on the namespace of the demo.
pub async fn kv(demo: &Demo, words: &[&str]) {
    try_kv(demo, words).await.unwrap_or_else(|error| panic!("kubectl kv {words:?}: {error:#}"));
}

async fn try_kv(demo: &Demo, words: &[&str]) -> anyhow::Result<()> {
    let words: Vec<&str> =
        ["kubectl-kv"].iter().chain(words).chain(&["-n", demo.namespace.as_str()]).copied().collect();
    kubectl::execute(&words).await
}

#[tokio::test]
async fn each_verb_of_the_plugin_does_what_its_help_says() {
    let spec = json!({"replicas": 2, "writeQuorum": 2, "durability": "Memory", "leader": {"standbys": 1}});
    let demo = Demo::ready(spec).await;
    kv(&demo, &["status", "demo"]).await;
    kv(&demo, &["logs", "demo", "--tail", "3"]).await;
    kv(&demo, &["quorum", "demo", "1"]).await;
    kv(&demo, &["quorum", "demo"]).await;
    let applied = demo.api::<KvCluster>().get("demo").await.unwrap().status.unwrap().applied_write_quorum;
    assert_eq!(applied, Some(1));
    let refused = format!("{:#}", try_kv(&demo, &["quorum", "demo", "3"]).await.expect_err("3 of 2"));
    assert!(refused.contains("writeQuorum 3 is greater than replicas 2"), "{refused}");
    let missing = format!("{:#}", try_kv(&demo, &["status", "other"]).await.expect_err("no such KvCluster"));
    assert!(missing.contains("other") && missing.contains("not found"), "{missing}");

    let leader = demo.service().await;
    let put = |value: &str| Some(json!({"key": "fruit", "value": value}));
    assert_eq!(ask(Method::POST, &format!("{leader}/put"), put("quince")).await.0, 200);
    let path = std::env::temp_dir().join(format!("{}.backup", demo.namespace));
    let file = path.to_str().unwrap();
    kv(&demo, &["backup", "demo", "--to", file]).await;
    assert_eq!(ask(Method::POST, &format!("{leader}/put"), put("medlar")).await.0, 200);
    let refused = try_kv(&demo, &["restore", "demo", "--from", file]).await.expect_err("the cluster has a key");
    println!("refused: {refused:#}");
    kv(&demo, &["restore", "demo", "--from", file, "--overwrite"]).await;
    assert_eq!(ask(Method::GET, &format!("{leader}/get?key=fruit"), None).await.1["value"], json!("quince"));
    std::fs::remove_file(&path).unwrap();

    let before = demo.api::<KvCluster>().get("demo").await.unwrap().status.unwrap().leader;
    kv(&demo, &["promote", "demo"]).await;
    let after = demo.api::<KvCluster>().get("demo").await.unwrap().status.unwrap().leader;
    assert_ne!(before, after);
    demo.until("is complete again", |cluster| phase(cluster) == Phase::Ready).await;
    let refused = format!("{:#}", try_kv(&demo, &["hibernate", "demo"]).await.expect_err("in memory"));
    assert!(refused.contains("hibernated: true would lose all data"), "{refused}");

    kv(&demo, &["pause", "demo"]).await;
    demo.api::<ConfigMap>().delete("demo-config", &DeleteParams::default()).await.unwrap();
    demo.patch(json!({"writeQuorum": 2})).await.unwrap();
    kv(&demo, &["resume", "demo"]).await;
    demo.until_object::<ConfigMap>("demo-config", "back", |config| config.is_some()).await;
    demo.remove().await;
}
