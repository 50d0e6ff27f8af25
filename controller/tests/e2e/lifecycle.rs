//! Goal: from nothing to ready, and from ready to nothing.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use kvcluster_api::resource::KvCluster;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Demo, ask, is_true};

/// Runs a block for every kind and name that a KvCluster `demo` owns.
#[macro_export]
macro_rules! for_every_object {
    (|$kind:ident, $name:ident| $body:block) => {
        $crate::for_every_object!(@each $kind, $name, $body;
            (ConfigMap, "demo-config"), (Secret, "demo-auth"), (Secret, "demo-auth-accepted"), (ServiceAccount, "demo"), (NetworkPolicy, "demo"),
            (Service, "demo"), (Service, "demo-read"), (Service, "demo-followers"),
            (PodDisruptionBudget, "demo-follower"), (StatefulSet, "demo-follower"), (Deployment, "demo-leader"));
    };
    (@each $kind:ident, $name:ident, $body:block; $(($type:ty, $object:literal)),*) => {
        $({ type $kind = $type; let $name: &str = $object; $body })*
    };
}

#[tokio::test]
async fn from_nothing_to_ready_and_back() {
    let demo =
        Demo::ready(json!({"replicas": 3, "writeQuorum": 2, "delay": {"maxMs": 20}, "durability": "Memory"})).await;
    let uid = demo.api::<KvCluster>().get("demo").await.unwrap().uid().unwrap();
    for_every_object!(|Kind, name| {
        let object = demo.api::<Kind>().get(name).await.unwrap();
        assert_eq!(object.owner_references()[0].uid, uid, "{name}");
    });
    let cluster = demo.api::<KvCluster>().get("demo").await.unwrap();
    for (type_, expected) in [
        ("Ready", true),
        ("QuorumAvailable", true),
        ("ConfigApplied", true),
        ("Degraded", false),
        ("Progressing", false),
    ] {
        assert_eq!(is_true(&cluster, type_), expected, "{type_}: {:?}", cluster.status);
    }
    let status = cluster.status.clone().unwrap();
    assert_eq!(status.followers, "3/3");
    assert_eq!(status.tolerates.unwrap().followers_down, 1);
    assert!(status.conditions.iter().all(|condition| !condition.reason.is_empty()));

    reads_and_writes_go_through_the_services(&demo).await;

    let events = demo.api::<Event>().list(&ListParams::default()).await.unwrap().items;
    let told = |reason: &str| {
        events
            .iter()
            .filter(|e| {
                e.reason.as_deref() == Some(reason)
                    && e.regarding.as_ref().and_then(|r| r.kind.as_deref()) == Some("KvCluster")
            })
            .count()
    };
    assert_eq!((told("Ready"), told("LeaderOpen")), (1, 1));

    demo.api::<KvCluster>().delete("demo", &DeleteParams::default()).await.unwrap();
    for_every_object!(|Kind, name| {
        demo.until_object::<Kind>(name, "gone", |object| object.is_none()).await;
    });
    for pod in demo.pods(None).await {
        demo.until_object::<k8s_openapi::api::core::v1::Pod>(&pod.name_any(), "gone", |object| object.is_none()).await;
    }
    assert!(demo.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.unwrap().items.is_empty());
    demo.remove().await;
}

// The contract's words, as a client of the two Services gets them.
async fn reads_and_writes_go_through_the_services(demo: &Demo) {
    let (leader, follower) = (demo.url("leader").await, demo.url("follower").await);
    let put = |body: Value| ask(Method::POST, Box::leak(format!("{leader}/put").into_boxed_str()), Some(body));
    let (code, answer) = put(json!({"key": "fruit", "value": "quince"})).await;
    assert_eq!((code, &answer["ok"], &answer["seq"]), (200, &json!(true), &json!(1)), "{answer}");
    assert_eq!(answer["message"], json!("committed (quorum reached)"));
    let (code, answer) = put(json!({"key": "fruit"})).await;
    assert_eq!((code, &answer["message"]), (400, &json!("Missing key or value")));
    let (code, answer) = put(json!({"key": "fruit", "value": 7})).await;
    assert_eq!((code, &answer["message"]), (400, &json!("key and value must be strings")));

    let (code, answer) = ask(Method::GET, &format!("{leader}/get?key=fruit"), None).await;
    assert_eq!((code, &answer["value"], &answer["seq"]), (200, &json!("quince"), &json!(1)));
    assert_eq!(ask(Method::GET, &format!("{leader}/get?key=none"), None).await.0, 404);
    let (code, answer) = ask(Method::GET, &format!("{leader}/get"), None).await;
    assert_eq!((code, &answer["error"]), (400, &json!("Missing key parameter")));

    assert_eq!(ask(Method::POST, &format!("{follower}/put"), Some(json!({"key": "a", "value": "b"}))).await.0, 404);
    let (code, answer) = ask(Method::GET, &format!("{follower}/dump"), None).await;
    assert_eq!((code, &answer["role"]), (200, &json!("follower")));
    let body = json!({"key": "fruit", "value": "forged", "seq": 9});
    assert!(
        matches!(ask(Method::POST, &format!("{follower}/replicate"), Some(body)).await.0, 401 | 403),
        "without the token"
    );
    assert!(matches!(
        ask(Method::PATCH, &format!("{leader}/config"), Some(json!({"write_quorum": 1}))).await.0,
        401 | 403
    ));
}
