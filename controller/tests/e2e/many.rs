//! Goal: fifty KvClusters at once reach their state.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams};
use kvcluster_api::resource::{KvCluster, Phase};
use serde_json::json;

use crate::harness::{Demo, PATIENCE, comes_true, phase};
use crate::idle::{metrics, of_operators, writes_in};

const CLUSTERS: usize = 50;
const LOOK_EVERY: Duration = Duration::from_secs(5);

#[tokio::test]
#[ignore = "starts a hundred pods: run it alone"]
async fn fifty_clusters_of_one_follower_become_ready() {
    let demo = Demo::empty().await;
    let mut counts = Counts::default();
    let before = counts.look().await;
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
        // In short waits, each with a look at the counters: an operator that loses its Lease starts them anew.
        while !comes_true(&demo.api::<KvCluster>(), name, LOOK_EVERY, ready).await {
            counts.look().await;
            assert!(started.elapsed() < 3 * PATIENCE, "{name} does not become ready");
        }
    }
    let took = started.elapsed();
    let writes = counts.look().await - before;
    println!("{CLUSTERS} clusters ready after {took:?}; {writes} requests that write; {}", counts.restarts());
    for text in metrics().await {
        println!("{}", text.lines().find(|line| line.starts_with("process_resident_memory_bytes")).unwrap_or_default());
    }
    demo.remove().await;
}

/// Requests that write, of each process that was an operator.
#[derive(Default)]
struct Counts(BTreeMap<(String, i32), u64>);

impl Counts {
    /// The sum over all of them, each as it was when it was last seen.
    async fn look(&mut self) -> u64 {
        for (pod, restarts, metrics) in of_operators().await {
            self.0.insert((pod, restarts), writes_in(&metrics).values().sum());
        }
        self.0.values().sum()
    }

    fn restarts(&self) -> String {
        let pods: std::collections::BTreeSet<&String> = self.0.keys().map(|(pod, _)| pod).collect();
        format!("{} processes of {} operator pods were seen", self.0.len(), pods.len())
    }
}
