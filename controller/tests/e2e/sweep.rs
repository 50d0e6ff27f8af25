//! Goal: the sweep runs by the KvCluster's spec, as the supplied Job and from outside, and leaves nothing changed behind,
//! also when it is interrupted.

use k8s_openapi::api::core::v1::Pod;
use kv_bench::client::Credentials;
use kv_bench::cluster::{
    self,
    control::{Access, KvClusterResource},
};
use kv_bench::commands::Protocol;
use kv_bench::interrupt::Interrupt;
use kv_bench::progress::Progress;
use kv_bench::sweep::runner::{self, SweepOptions};
use kv_bench::sweep::workload::Workload;
use kvcluster_api::resource::KvCluster;
use serde_json::{Value, json};

use crate::harness::{Demo, condition};
use crate::job::{Supplied, cut};

const SWEEP: Supplied = Supplied { manifest: include_str!("../../../deploy/sweep-job.yaml"), name: "kvcluster-sweep" };
/// Wide: this shows that a sweep works, not how quiet the machine is.
const DEVIATION_MAX_MS: f64 = 60.0;

#[tokio::test]
async fn the_job_measures_every_quorum_and_changes_nothing() {
    let demo = Demo::ready(spec()).await;
    let (before, pods) = (quorum_and_delay(&demo).await, demo.identities().await);
    let limit = format!("--max-deviation-ms={DEVIATION_MAX_MS}");
    SWEEP.start(&demo, &["--writes=400", &limit]).await;
    let (ended, log) = SWEEP.end(&demo).await;
    println!("{}", log.split("\n<svg").next().unwrap_or_default());
    assert_eq!(ended, "Complete", "{log}");

    let report: Value = serde_json::from_str(&cut(&log, "{", "}")).unwrap();
    medians_rise_and_replicas_agree(&report);
    assert!(report["target"].as_str().unwrap().ends_with(", from inside"), "{}", report["target"]);
    assert!(cut(&log, "<svg", "</svg>").contains("theory"));
    assert_eq!(quorum_and_delay(&demo).await, before, "restored");
    assert_eq!(demo.identities().await, pods, "no pod was restarted or replaced");
    demo.remove().await;
}

#[tokio::test]
async fn a_job_that_is_deleted_restores_the_quorum_and_the_delay() {
    let demo = Demo::ready(spec()).await;
    let before = quorum_and_delay(&demo).await;
    SWEEP.start(&demo, &["--writes=1000000", "--min-delay-ms=5", "--max-delay-ms=15", "--quorums=5,4"]).await;
    demo.until("swept", |cluster| applied(cluster) == Some((5, (5, 15)))).await;
    let pod = SWEEP.delete(&demo).await;
    let took = demo.until("as it was", |cluster| applied(cluster) == Some((3, (50, 450)))).await;
    println!("restored {took:?} after the Job was deleted");
    assert_eq!(quorum_and_delay(&demo).await, before, "restored");
    demo.until_object::<Pod>(&pod, "gone", |pod| pod.is_none()).await;
    demo.remove().await;
}

#[tokio::test]
async fn from_outside_it_reaches_leader_and_followers_by_port_forward() {
    let demo = Demo::ready(spec()).await;
    let (before, pods) = (quorum_and_delay(&demo).await, demo.identities().await);
    let access = Access { client: demo.client.clone(), inside: false };
    let resource = KvClusterResource::new(access.client.clone(), "demo", Some(&demo.namespace));
    let target = cluster::kube(&access, resource, Credentials::default()).await.unwrap();
    let workload = Workload { writes: 200, concurrency: 8, keys: 5, value_size_bytes: None };
    let options = SweepOptions {
        protocol: Protocol::Http,
        quorums: Some(vec![1, 5]),
        min_delay_ms: None,
        max_delay_ms: None,
        delay: None,
        workload,
        warmup_writes: 16,
        max_deviation_ms: Some(DEVIATION_MAX_MS),
    };
    let (_, interrupt) = Interrupt::manual();
    let report = runner::sweep(&target, &options, &interrupt, &Progress::hidden()).await.unwrap();
    println!("{}", kv_bench::sweep::report::text(&report));
    let report = serde_json::to_value(&report).unwrap();
    medians_rise_and_replicas_agree(&report);
    assert_eq!(quorum_and_delay(&demo).await, before, "restored");
    assert_eq!(demo.identities().await, pods, "no pod was restarted or replaced");
    demo.remove().await;
}

// From one quorum to the next the median grows by 75 ms: far above what a busy machine adds. Only the sweep may write: nothing else is admitted but the operator.
fn spec() -> Value {
    json!({"replicas": 5, "writeQuorum": 3, "delay": {"minMs": 50, "maxMs": 450}, "durability": "Disk",
        "storage": {"size": "64Mi"},
        "networkPolicy": {"clients": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": SWEEP.name}}}]}})
}

// Medians, not means: a machine that pauses for a second moves the mean of 400 writes by tens of milliseconds, the median by none.
fn medians_rise_and_replicas_agree(report: &Value) {
    assert_eq!(report["failure"], Value::Null);
    assert_eq!(report["deviation_check"]["passed"], true, "{}", report["deviation_check"]["text"]);
    let quorums = report["quorums"].as_array().unwrap();
    assert_eq!(quorums.len(), report["settings"]["quorums"].as_array().unwrap().len());
    let medians: Vec<f64> = quorums.iter().map(|quorum| quorum["latency"]["p50_ms"].as_f64().unwrap()).collect();
    assert!(medians.is_sorted(), "a larger quorum waits longer: {medians:?}");
    for quorum in quorums {
        assert_eq!(quorum["under_other_quorum"], 0, "the quorum was in force before it was measured");
    }
    let followers = report["consistency"]["followers"].as_array().unwrap();
    assert_eq!(followers.len(), 5);
    for follower in followers {
        assert_eq!((&follower["error"], &follower["mismatches"]), (&Value::Null, &json!(0)), "{follower}");
        assert_eq!(follower["keys"], follower["leader_keys"]);
    }
}

async fn quorum_and_delay(demo: &Demo) -> Value {
    let spec = demo.api::<KvCluster>().get("demo").await.unwrap().spec;
    json!({"writeQuorum": spec.write_quorum, "delay": spec.delay})
}

/// Quorum and delay in force, once they are those of the spec.
fn applied(cluster: &KvCluster) -> Option<(i32, (i32, i32))> {
    let status = cluster.status.as_ref().filter(|status| status.observed_generation == cluster.metadata.generation)?;
    let delay = status.applied_delay?;
    (condition(cluster, "ConfigApplied").0 == "True")
        .then_some((status.applied_write_quorum?, (delay.min_ms, delay.max_ms)))
}
