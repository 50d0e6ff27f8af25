//! Goal: what is deleted or edited by hand comes back; what others added stays.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use kvcluster_api::resource::Phase;
use serde_json::{Value, json};

use crate::for_every_object;
use crate::harness::{Demo, phase};

#[tokio::test]
async fn every_object_deleted_by_hand_comes_back() {
    let demo = Demo::ready(small()).await;
    for_every_object!(|Kind, name| {
        let uid = demo.api::<Kind>().get(name).await.unwrap().uid();
        demo.api::<Kind>().delete(name, &DeleteParams::background()).await.unwrap();
        demo.until_object::<Kind>(name, "back", |object| object.is_some_and(|object| object.uid() != uid)).await;
    });
    demo.until("is ready again", |cluster| phase(cluster) == Phase::Ready).await;
    demo.remove().await;
}

#[tokio::test]
async fn every_edit_by_hand_is_undone_and_what_others_added_stays() {
    let demo = Demo::ready(small()).await;
    let foreign = json!({"metadata": {"annotations": {"someone.example/note": "kept"}, "labels": {"team": "blue"}}});
    for_every_object!(|Kind, name| {
        demo.api::<Kind>().patch(name, &PatchParams::default(), &Patch::Merge(&foreign)).await.unwrap();
        let stripped =
            json!({"metadata": {"ownerReferences": null, "labels": {"app.kubernetes.io/instance": "stolen"}}});
        demo.api::<Kind>().patch(name, &PatchParams::default(), &Patch::Merge(&stripped)).await.unwrap();
        demo.until_object::<Kind>(name, "ours again, with what others added", |object| {
            let Some(object) = object else { return false };
            let label = |key: &str| object.labels().get(key).map(String::as_str);
            object.owner_references().len() == 1
                && label("app.kubernetes.io/instance") == Some("demo")
                && label("team") == Some("blue")
                && object.annotations().get("someone.example/note").is_some_and(|note| note == "kept")
        })
        .await;
    });
    edited::<ConfigMap>(&demo, "demo-config", json!({"data": {"WRITE_QUORUM": "1"}})).await;
    edited::<Service>(&demo, "demo", json!({"spec": {"selector": {"app.kubernetes.io/component": "follower"}}})).await;
    edited::<Service>(&demo, "demo-followers", json!({"spec": {"publishNotReadyAddresses": false}})).await;
    edited::<ServiceAccount>(&demo, "demo", json!({"automountServiceAccountToken": true})).await;
    edited::<NetworkPolicy>(&demo, "demo", json!({"spec": {"ingress": null}})).await;
    edited::<PodDisruptionBudget>(&demo, "demo-follower", json!({"spec": {"minAvailable": 0}})).await;
    edited::<StatefulSet>(&demo, "demo-follower", json!({"spec": {"replicas": 1}})).await;
    edited::<Deployment>(&demo, "demo-leader", json!({"spec": {"replicas": 0}})).await;
    demo.until("is ready again", |cluster| phase(cluster) == Phase::Ready).await;
    demo.remove().await;
}

// Makes the edit, and waits until what it changed is as it was.
async fn edited<K>(demo: &Demo, name: &str, edit: Value)
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned
        + Send
        + 'static,
{
    let part = edit.as_object().unwrap().keys().next().unwrap().clone();
    let seen = |object: &K| serde_json::to_value(object).unwrap()[&part].clone();
    let before = seen(&demo.api::<K>().get(name).await.unwrap());
    let changed = seen(&demo.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(&edit)).await.unwrap());
    assert_ne!(changed, before, "{name}: the edit changes something");
    demo.until_object::<K>(name, "as it was", |object| object.is_some_and(|object| seen(object) == before)).await;
}

// On disk: without its StatefulSet every follower is gone for a moment, and what was in memory with it.
fn small() -> Value {
    json!({"replicas": 3, "writeQuorum": 2, "delay": {"maxMs": 10}, "storage": {"size": "64Mi"}})
}
