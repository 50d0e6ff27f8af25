//! Goal: fifty KvClusters at once reach their state.

use std::time::Instant;

use kube::api::{Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kv_controller::crd::{KvCluster, Phase};
use serde_json::json;

use crate::harness::{Demo, PATIENCE, phase};
use crate::idle::{metrics, writes};

const CLUSTERS: usize = 50;

#[tokio::test]
#[ignore = "starts a hundred pods: run it alone"]
async fn fifty_clusters_of_one_follower_become_ready() {
    let demo = Demo::empty().await;
    let before: u64 = writes().await.values().sum();
    let started = Instant::now();
    let names: Vec<String> = (0..CLUSTERS).map(|number| format!("many-{number}")).collect();
    for name in &names {
        let body = json!({"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "metadata": {"name": name},
            "spec": {"replicas": 1, "writeQuorum": 1, "durability": "Memory",
                "leader": {"resources": {"requests": {"cpu": "1m"}}}, "followers": {"resources": {"requests": {"cpu": "1m"}}}}});
        demo.api::<KvCluster>().patch(name, &PatchParams::apply("e2e"), &Patch::Apply(&body)).await.unwrap();
    }
    for name in &names {
        let ready = |cluster: Option<&KvCluster>| cluster.is_some_and(|cluster| phase(cluster) == Phase::Ready);
        let waited = tokio::time::timeout(2 * PATIENCE, await_condition(demo.api::<KvCluster>(), name, ready)).await;
        assert!(waited.is_ok(), "{name} does not become ready");
    }
    let after: u64 = writes().await.values().sum();
    println!("{CLUSTERS} clusters ready after {:?}; {} requests that write", started.elapsed(), after - before);
    for text in metrics().await {
        println!("{}", text.lines().find(|line| line.starts_with("process_resident_memory_bytes")).unwrap_or_default());
    }
    demo.remove().await;
}
