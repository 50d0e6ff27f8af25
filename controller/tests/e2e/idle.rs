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
        let api = demo.api::<kv_controller::crd::KvCluster>();
        async move { api.get("demo").await.unwrap().resource_version() }
    };
    let before = (writes().await, version(&demo).await);
    tokio::time::sleep(MINUTE).await; // not a wait for something: the minute is what is measured
    let after = (writes().await, version(&demo).await);
    println!("requests that write, before and after an idle minute: {:?}", after.0);
    assert_eq!(before, after);
    demo.remove().await;
}

/// Requests that write, by resource, of all replicas of the operator; without those that renew the Lease.
pub async fn writes() -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for text in metrics().await {
        let lines = text.lines().filter(|line| line.starts_with("kvcluster_operator_api_requests_total"));
        for line in lines.filter(|line| !line.contains("method=\"GET\"") && !line.contains("resource=\"leases\"")) {
            let (name, count) = line.rsplit_once(' ').unwrap();
            *found.entry(name.to_owned()).or_default() += count.parse::<u64>().unwrap();
        }
    }
    found
}

/// `/metrics` of every replica of the operator.
pub async fn metrics() -> Vec<String> {
    let client = client().await;
    let pods: Api<Pod> = Api::all(client.clone());
    let operators = pods.list(&ListParams::default().labels("app.kubernetes.io/name=kv-controller")).await.unwrap();
    let mut texts = Vec::new();
    for operator in operators {
        let url = forward_to(client.clone(), operator, 8080).await;
        texts.push(http().get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap());
    }
    texts
}
