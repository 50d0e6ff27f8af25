//! Goal: a cluster's volumes outlive its StatefulSet, and go where the spec says so: with the KvCluster, or with the
//! follower that leaves.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use kube::api::DeleteParams;
use kvcluster_api::resource::KvCluster;
use serde_json::json;

use crate::harness::Demo;

const CLAIMS: [&str; 3] = ["data-demo-follower-0", "data-demo-follower-1", "data-demo-follower-2"];

#[tokio::test]
async fn volumes_outlive_the_stateful_set_and_go_with_the_kvcluster() {
    let demo = Demo::empty().await;
    let storage = json!({"size": "64Mi", "onDelete": "Delete", "onScaleDown": "Delete"});
    demo.create(json!({"replicas": 3, "writeQuorum": 2, "storage": storage})).await.expect("the spec is accepted");
    let mut uids = Vec::new();
    for claim in CLAIMS {
        owned(&demo, claim, true).await;
        uids.push(demo.api::<PersistentVolumeClaim>().get(claim).await.unwrap().uid());
    }

    let set = demo.api::<StatefulSet>().get("demo-follower").await.unwrap().uid();
    demo.api::<StatefulSet>().delete("demo-follower", &DeleteParams::foreground()).await.unwrap();
    demo.until_object::<StatefulSet>("demo-follower", "back", |object| object.is_some_and(|o| o.uid() != set)).await;
    for (claim, uid) in CLAIMS.iter().zip(&uids) {
        let now = demo.api::<PersistentVolumeClaim>().get(claim).await.unwrap();
        assert_eq!((now.uid(), now.metadata.deletion_timestamp), (uid.clone(), None), "{claim}");
    }

    demo.patch(json!({"storage": {"onDelete": "Retain"}})).await.unwrap();
    owned(&demo, CLAIMS[0], false).await;
    demo.patch(json!({"storage": {"onDelete": "Delete"}})).await.unwrap();
    owned(&demo, CLAIMS[0], true).await;

    // Before the KvCluster goes: the claim of a follower that leaves is deleted although the KvCluster owned it.
    demo.patch(json!({"replicas": 2})).await.unwrap();
    demo.until_object::<PersistentVolumeClaim>(CLAIMS[2], "gone", |claim| claim.is_none()).await;

    demo.api::<KvCluster>().delete("demo", &DeleteParams::default()).await.unwrap();
    for claim in CLAIMS {
        demo.until_object::<PersistentVolumeClaim>(claim, "gone", |claim| claim.is_none()).await;
    }
    demo.remove().await;
}

async fn owned(demo: &Demo, claim: &str, by_the_cluster: bool) {
    let what = if by_the_cluster { "owned by the KvCluster" } else { "without owner" };
    let holds = |claim: Option<&PersistentVolumeClaim>| {
        claim.is_some_and(|claim| {
            let owners: Vec<&str> = claim.owner_references().iter().map(|owner| owner.kind.as_str()).collect();
            if by_the_cluster { owners == ["KvCluster"] } else { owners.is_empty() }
        })
    };
    demo.until_object::<PersistentVolumeClaim>(claim, what, holds).await;
}
