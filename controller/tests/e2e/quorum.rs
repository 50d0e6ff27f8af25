//! Goal: the quorum and the delay change on a running leader, at once, without a restart and without losing a write.

use kvcluster_api::resource::KvCluster;
use serde_json::json;

use crate::harness::{Demo, condition};
use crate::writer::Writer;

#[tokio::test]
async fn a_quorum_is_patched_under_load() {
    let demo =
        Demo::ready(json!({"replicas": 5, "writeQuorum": 3, "delay": {"maxMs": 40}, "storage": {"size": "64Mi"}}))
            .await;
    let before = demo.identities().await;
    let writer = Writer::start(&demo).await;
    for quorum in [5, 1, 2, 4, 3] {
        let patched = demo.patch(json!({"writeQuorum": quorum})).await.unwrap();
        let took = demo.until("applied", |cluster| applied(cluster, quorum, patched.metadata.generation)).await;
        println!("write quorum {quorum} in force and reported after {took:?}");
        writer.progress().await;
    }
    let patched = demo.patch(json!({"delay": {"minMs": 7, "maxMs": 9}})).await.unwrap();
    let took = demo.until("applied", |cluster| {
        let delay = cluster.status.as_ref().and_then(|status| status.applied_delay);
        applied(cluster, 3, patched.metadata.generation)
            && delay.is_some_and(|delay| (delay.min_ms, delay.max_ms) == (7, 9))
    });
    println!("delay in force and reported after {:?}", took.await);
    writer.progress().await;
    println!("{}", writer.finish(&demo).await);
    assert_eq!(demo.identities().await, before, "no pod was restarted or replaced");
    demo.remove().await;
}

fn applied(cluster: &KvCluster, quorum: i32, generation: Option<i64>) -> bool {
    let Some(status) = &cluster.status else { return false };
    let current = status.observed_generation >= generation;
    current
        && status.applied_write_quorum == Some(quorum)
        && condition(cluster, "ConfigApplied") == ("True".to_owned(), "Applied".to_owned())
}
