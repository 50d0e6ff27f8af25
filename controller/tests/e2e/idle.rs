//! Goal: nothing is written while nothing happens.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

use crate::harness::{Demo, client, forward_to, http};

const MINUTE: Duration = Duration::from_secs(60);

// The whole operator is looked at, so nothing else may go on in the cluster.
#[tokio::test]
#[ignore = "looks at the whole operator: run it alone"]
async fn an_idle_minute_writes_nothing() {
    let demo = Demo::ready(json!({"replicas": 3, "writeQuorum": 2, "durability": "Memory"})).await;
    let version = |demo: &Demo| {
        let api = demo.api::<kvcluster_api::resource::KvCluster>();
        async move { api.get("demo").await.unwrap().resource_version() }
    };
    let before = (writes().await, version(&demo).await);
    tokio::time::sleep(MINUTE).await; // not a wait for something: the minute is what is measured
    let after = (writes().await, version(&demo).await);
    println!("requests that write, before and after an idle minute: {:?}", after.0);
    assert!(!before.0.is_empty(), "the operator tells what it writes");
    assert_eq!(before, after);
    demo.remove().await;
}

/// Requests that write, by resource, of all replicas of the operator; without those that renew the Lease.
pub async fn writes() -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for text in metrics().await {
        for (name, count) in writes_in(&text) {
            *found.entry(name).or_default() += count;
        }
    }
    found
}

/// The same of one replica, from its metrics.
pub fn writes_in(metrics: &str) -> BTreeMap<String, u64> {
    let lines = metrics.lines().filter(|line| line.starts_with("kvcluster_operator_api_requests_total"));
    let writes = lines.filter(|line| !line.contains("method=\"GET\"") && !line.contains("resource=\"leases\""));
    writes
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, count)| (name.to_owned(), count.parse().unwrap()))
        .collect()
}

/// `/metrics` of every replica of the operator.
pub async fn metrics() -> Vec<String> {
    of_operators().await.into_iter().map(|(_, _, text)| text).collect()
}

/// Name, restarts and `/metrics` of every replica of the operator that answers.
pub async fn of_operators() -> Vec<(String, i32, String)> {
    let client = client().await;
    let pods: Api<Pod> = Api::all(client.clone());
    let operators = pods.list(&ListParams::default().labels("app.kubernetes.io/name=kv-controller")).await.unwrap();
    let mut found = Vec::new();
    for operator in operators {
        let restarts =
            operator.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).map(|c| c.restart_count);
        let (name, restarts) = (operator.name_any(), restarts.sum());
        let url = forward_to(client.clone(), operator, 8080).await;
        if let Ok(response) = http().get(format!("{url}/metrics")).send().await
            && let Ok(text) = response.text().await
        {
            found.push((name, restarts, text));
        }
    }
    found
}
