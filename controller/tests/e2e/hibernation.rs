//! Goal: a hibernated cluster has no pods and wakes up with all acknowledged writes, whatever the quorum; a paused one is left
//! alone.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::DeleteParams;
use kvcluster_api::resource::Phase;
use serde_json::json;

use crate::harness::{Demo, condition, is_true, phase};
use crate::writer::Writer;

#[tokio::test]
async fn a_hibernated_cluster_wakes_up_with_every_acknowledged_write_and_a_paused_one_is_left_alone() {
    // The policy that would delete the volumes of followers that leave.
    let storage = json!({"size": "64Mi", "onDelete": "Delete", "onScaleDown": "Delete"});
    let demo = Demo::ready(json!({"replicas": 3, "writeQuorum": 1, "delay": {"maxMs": 20}, "storage": storage})).await;
    for quorum in [1, 3] {
        demo.patch(json!({"writeQuorum": quorum})).await.unwrap();
        demo.until("has its quorum", |cluster| phase(cluster) == Phase::Ready && is_true(cluster, "ConfigApplied"))
            .await;
        let claims = claims(&demo).await;
        let writer = Writer::start(&demo).await;
        demo.patch(json!({"hibernated": true})).await.unwrap();
        let slept = demo.until("hibernated", |cluster| phase(cluster) == Phase::Hibernated).await;
        assert!(demo.pods(None).await.is_empty());
        let asleep = self::claims(&demo).await;
        assert!(asleep.iter().all(|(_, _, owners)| *owners == ["KvCluster"]), "{asleep:?}");
        // What is deleted by hand comes back, asleep.
        demo.api::<StatefulSet>().delete("demo-follower", &DeleteParams::foreground()).await.unwrap();
        demo.until_object::<StatefulSet>("demo-follower", "back without pods", |set| {
            set.is_some_and(|set| set.metadata.deletion_timestamp.is_none() && replicas(set) == Some(0))
        })
        .await;
        demo.patch(json!({"hibernated": false})).await.unwrap();
        let woke = demo.until("awake", |cluster| phase(cluster) == Phase::Ready).await;
        writer.progress().await;
        println!("W = {quorum}: asleep after {slept:?}, awake after {woke:?}: {}", writer.finish(&demo).await);
        assert_eq!(self::claims(&demo).await, claims, "every volume is the same");
    }

    demo.patch(json!({"paused": true})).await.unwrap();
    demo.until("paused", |cluster| is_true(cluster, "Paused")).await;
    let pods = demo.identities().await;
    demo.patch(json!({"writeQuorum": 2, "logLevel": "debug", "replicas": 4})).await.unwrap();
    demo.api::<Deployment>().delete("demo-leader", &DeleteParams::foreground()).await.unwrap();
    demo.until_object::<Deployment>("demo-leader", "gone", |deployment| deployment.is_none()).await;
    // What the operator observes is reported, and nothing else happens.
    demo.until("reported as without a leader", |cluster| {
        condition(cluster, "Ready").0 == "False"
            && condition(cluster, "Progressing") == ("False".to_owned(), "Paused".to_owned())
            && cluster.status.as_ref().is_some_and(|status| status.observed_generation == cluster.metadata.generation)
    })
    .await;
    let followers = |pods: std::collections::BTreeMap<String, (String, i32)>| -> Vec<_> {
        pods.into_iter().filter(|(name, _)| name.contains("follower")).collect()
    };
    assert_eq!(followers(demo.identities().await), followers(pods), "no follower was touched");
    assert!(demo.api::<Deployment>().get_opt("demo-leader").await.unwrap().is_none(), "the operator left it alone");

    demo.patch(json!({"paused": false})).await.unwrap();
    demo.until("as the spec asks for", |cluster| {
        let applied = cluster.status.as_ref().map(|status| (status.applied_write_quorum, status.applied_replicas));
        phase(cluster) == Phase::Ready && applied == Some((Some(2), Some(4))) && is_true(cluster, "RolledOut")
    })
    .await;
    let pod = demo.api::<Pod>().get("demo-follower-0").await.unwrap();
    let env = pod.spec.unwrap().containers[0].env.clone().unwrap();
    assert!(env.iter().any(|one| one.name == "LOG_LEVEL" && one.value.as_deref() == Some("debug")), "{env:?}");
    demo.remove().await;
}

fn replicas(set: &StatefulSet) -> Option<i32> {
    set.spec.as_ref()?.replicas
}

/// The volume claims, each with its uid and the kinds of its owners.
async fn claims(demo: &Demo) -> Vec<(String, Option<String>, Vec<String>)> {
    let claims = demo.api::<PersistentVolumeClaim>().list(&kube::api::ListParams::default()).await.unwrap().items;
    let owners =
        |claim: &PersistentVolumeClaim| claim.owner_references().iter().map(|owner| owner.kind.clone()).collect();
    claims.iter().map(|claim| (claim.name_any(), claim.uid(), owners(claim))).collect()
}
