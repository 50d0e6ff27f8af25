//! Goal: `kv-bench check` breaks a real cluster in every way that pods can be broken, as the supplied Job and from outside,
//! finds nothing, and leaves it as it was. What really happened is asked of the API server, not of the check.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kv_bench::check::clients::Load;
use kv_bench::check::faults::FaultKind;
use kv_bench::check::kube::KubeTarget;
use kv_bench::check::{self, CheckOptions, Limit};
use kv_bench::client::Credentials;
use kv_bench::cluster::control::{Access, KvClusterResource};
use kv_bench::commands::Protocol;
use kv_bench::interrupt::Interrupt;
use kv_bench::progress::Progress;
use kvcluster_api::resource::KvCluster;
use serde_json::{Value, json};

use crate::harness::{Demo, ask, is_true};
use crate::job::{Supplied, cut};

const CHECK: Supplied = Supplied { manifest: include_str!("../../../deploy/check-job.yaml"), name: "kvcluster-check" };

#[tokio::test]
async fn the_job_breaks_it_in_every_way_and_finds_nothing() {
    let mut spec = small("Disk");
    spec["networkPolicy"] =
        json!({"clients": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": CHECK.name}}}]});
    let demo = Demo::ready(spec).await;
    let (before, pods) = (size(&demo).await, demo.identities().await);
    // A turn as the first of its round for each of the six kinds.
    CHECK.start(&demo, &["--rounds=6", "--seed=20261122"]).await;
    let (ended, log) = CHECK.end(&demo).await;
    println!("{}", log.split("\n{").next().unwrap_or_default());
    assert_eq!(ended, "Complete", "{log}");
    assert!(log.contains("\nverdict: no violation. What clients saw of 16 keys is linearizable, nothing"), "{log}");

    let report: Value = serde_json::from_str(&cut(&log, "{", "}")).unwrap();
    assert!(report["target"].as_str().unwrap().contains(", from inside"), "{}", report["target"]);
    every_kind_of_operation_was_answered(&report);
    let kinds = kinds(&report);
    assert_eq!(kinds, BTreeSet::from(["all", "delete", "force-delete", "quorum", "scale", "two-leaders"]));

    let after = demo.identities().await;
    assert!(after.iter().all(|(name, pod)| pods.get(name) != Some(pod)), "every pod was replaced: {after:?}");
    let notes = notes(&demo).await;
    for change in ["followers count for a quorum, 5 before", "is in force, 3 before", "leads and takes writes"] {
        assert!(notes.iter().any(|note| note.contains(change)), "{change} is not among {notes:#?}");
    }
    let leader = demo.api::<Deployment>().get("demo-leader").await.unwrap().spec.unwrap().template.metadata.unwrap();
    let annotations = leader.annotations.unwrap_or_default();
    assert!(annotations.contains_key("kubectl.kubernetes.io/restartedAt"), "restarted: {annotations:?}");
    assert_eq!(size(&demo).await, before, "restored");
    demo.remove().await;
}

#[tokio::test]
async fn a_check_job_that_is_deleted_restores_quorum_and_replicas() {
    let demo = Demo::ready(small("Disk")).await;
    let before = size(&demo).await;
    CHECK.start(&demo, &["--seconds=3600", "--faults=scale"]).await;
    demo.until("scaled", |cluster| applied(cluster).is_some_and(|applied| applied != 5)).await;
    let pod = CHECK.delete(&demo).await;
    let took = demo.until("as it was", |cluster| applied(cluster) == Some(5)).await;
    println!("restored {took:?} after the Job was deleted");
    demo.until_object::<k8s_openapi::api::core::v1::Pod>(&pod, "gone", |pod| pod.is_none()).await;
    assert_eq!(size(&demo).await, before, "restored");
    demo.remove().await;
}

#[tokio::test]
async fn from_outside_it_follows_the_pods_that_come_and_go() {
    let demo = Demo::ready(small("Memory")).await;
    let (before, pods) = (size(&demo).await, demo.identities().await);
    let url = demo.url("leader").await;
    let (status, _) =
        ask(reqwest::Method::POST, &format!("{url}/put"), Some(json!({"key": "k0", "value": "old"}))).await;
    assert_eq!(status, 200);
    let access = Access { client: demo.client.clone(), inside: false };
    let resource = KvClusterResource::new(access.client.clone(), "demo", Some(&demo.namespace));
    let mut target =
        KubeTarget::reach(&access, resource, Credentials::default(), Duration::from_secs(300)).await.unwrap();
    let refused = target.shape().only(&[FaultKind::All]).unwrap_err();
    assert!(refused.ends_with("followers that keep nothing cannot all be killed"), "{refused}");
    let kinds = [FaultKind::ForceDelete, FaultKind::Delete, FaultKind::TwoLeaders];
    let asked = target.asked();
    let timeout_ms = asked.replication_timeout_ms + 500;
    let options = CheckOptions {
        limit: Limit::Rounds(4),
        shape: target.shape().only(&kinds).unwrap(),
        load: Load {
            clients: 16,
            keys: 8,
            rate: 100.0,
            protocols: vec![Protocol::Http, Protocol::Redis],
            timeout_ms,
            seed: 20_261_122,
        },
        fill: None,
        run: "outside-".to_owned(),
        max_delay_ms: asked.max_delay_ms,
    };
    let (_, interrupt) = Interrupt::manual();
    let (report, history) = check::run(&mut target, &options, &interrupt, &Progress::hidden()).await.unwrap();
    println!("{}", kv_bench::check::report::text(&report));
    assert_eq!(report.failure, None);
    assert!(report.verdict.violations.is_empty(), "{:#?}", report.verdict);
    every_kind_of_operation_was_answered(&serde_json::to_value(&report).unwrap());
    assert!(history.operations.iter().all(|operation| operation.key.starts_with("outside-")));
    let after = demo.identities().await;
    assert!(pods.iter().any(|(name, pod)| after.get(name) != Some(pod)), "{after:?}");
    assert_eq!(size(&demo).await, before);
    // Its own keys are gone, and nothing else.
    let (_, dump) = ask(reqwest::Method::GET, &format!("{}/dump", demo.url("leader").await), None).await;
    let keys: Vec<&String> = dump["entries"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["k0"]);
    demo.remove().await;
}

fn small(durability: &str) -> Value {
    json!({"replicas": 5, "writeQuorum": 3, "delay": {"maxMs": 20}, "replicationTimeoutMs": 1000,
        "durability": durability, "storage": {"size": "64Mi"}})
}

fn every_kind_of_operation_was_answered(report: &Value) {
    assert_eq!(report["failure"], Value::Null);
    for (of, what, at_least) in
        [("puts", "acknowledged", 100), ("gets", "answered", 50), ("local_gets", "answered", 50)]
    {
        let count = report[of][what].as_u64().unwrap();
        assert!(count >= at_least, "{of} {what}: {count} in {report:#}");
    }
}

/// Kinds of faults after which the cluster was whole again.
fn kinds(report: &Value) -> BTreeSet<&str> {
    let faults = report["faults"].as_array().unwrap().iter();
    faults.filter(|fault| fault["recovery_max_ms"].is_number()).map(|fault| fault["kind"].as_str().unwrap()).collect()
}

async fn size(demo: &Demo) -> (i32, i32) {
    let spec = demo.api::<KvCluster>().get("demo").await.unwrap().spec;
    (spec.replicas, spec.write_quorum)
}

/// How many followers are in force, once they are those of the spec.
fn applied(cluster: &KvCluster) -> Option<i32> {
    let status = cluster.status.as_ref().filter(|status| status.observed_generation == cluster.metadata.generation)?;
    status.applied_replicas.filter(|_| is_true(cluster, "ConfigApplied"))
}

/// What the operator told of the KvCluster.
async fn notes(demo: &Demo) -> Vec<String> {
    let events = demo.api::<Event>().list(&ListParams::default()).await.unwrap();
    events.items.into_iter().filter_map(|event| event.note).collect()
}
