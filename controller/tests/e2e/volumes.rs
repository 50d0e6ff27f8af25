//! Goal: a cluster's volumes outlive its StatefulSet, and go where the spec says so: with the KvCluster, or with the
//! follower that leaves. They grow with the spec, under load and without a pod that ends.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use kvcluster_api::resource::KvCluster;
use serde_json::json;

use crate::harness::{Demo, condition, is_true};
use crate::writer::Writer;

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

#[tokio::test]
async fn volumes_grow_under_load_once_their_class_allows_it_and_no_pod_ends() {
    let storage = |size: &str| json!({"storage": {"size": size}});
    let demo =
        Demo::ready(json!({"replicas": 3, "writeQuorum": 2, "delay": {"maxMs": 20}, "storage": {"size": "64Mi"}}))
            .await;
    let claims = demo.api::<PersistentVolumeClaim>();
    let class = claims.get(CLAIMS[0]).await.unwrap().spec.unwrap().storage_class_name.expect("a class");
    let classes: Api<StorageClass> = Api::all(demo.client.clone());
    if classes.get(&class).await.unwrap().allow_volume_expansion != Some(true) {
        println!("skipped: volumes of the class {class} do not grow");
        return demo.remove().await;
    }
    let allow = async |allowed: bool| {
        let change = Patch::Merge(json!({"allowVolumeExpansion": allowed}));
        classes.patch(&class, &PatchParams::default(), &change).await.unwrap();
    };
    let writer = Writer::start(&demo).await;
    writer.progress().await;
    let (pods, set) = (demo.identities().await, demo.api::<StatefulSet>().get("demo-follower").await.unwrap().uid());

    allow(false).await;
    demo.patch(storage("96Mi")).await.unwrap();
    demo.until("says that its volumes may not grow", |cluster| {
        condition(cluster, "VolumesGrown") == ("False".to_owned(), "Refused".to_owned())
    })
    .await;
    assert_eq!(demo.api::<StatefulSet>().get("demo-follower").await.unwrap().uid(), set);
    allow(true).await;
    demo.until("has larger volumes", |cluster| is_true(cluster, "VolumesGrown") && is_true(cluster, "Ready")).await;
    for claim in CLAIMS {
        let capacity = claims.get(claim).await.unwrap().status.unwrap().capacity.unwrap()["storage"].clone();
        assert_eq!(capacity.0, "96Mi", "{claim}");
    }
    demo.until_object::<StatefulSet>("demo-follower", "another one with all pods", |object| {
        object.is_some_and(|object| {
            let ready = object.status.as_ref().and_then(|status| status.ready_replicas);
            object.uid() != set && ready == Some(3)
        })
    })
    .await;
    writer.progress().await;
    assert_eq!(demo.identities().await, pods, "a pod ended");

    demo.patch(json!({"replicas": 4})).await.unwrap();
    let later = "data-demo-follower-3";
    demo.until_object::<PersistentVolumeClaim>(later, "as large as the others", |claim| {
        let requests = claim.and_then(|claim| claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref());
        requests.is_some_and(|requests| requests["storage"].0 == "96Mi")
    })
    .await;
    println!("volumes that grow: {}", writer.finish(&demo).await);
    demo.remove().await;
}
