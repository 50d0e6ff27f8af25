//! Goal: the status says what is wrong, and nothing else changes where the spec is wrong or the cluster goes.

use super::*;

#[tokio::test]
async fn a_contradiction_changes_nothing_but_the_status() {
    let (api, client) = ApiServer::start(|_| None);
    reconcile(guarded(cluster("{replicas: 2, writeQuorum: 3}")), context(client, 1, vec![]))
        .await
        .expect("it succeeds");
    let paths: Vec<String> = api.asked().into_iter().map(|asked| asked.path).collect();
    assert_eq!(paths.len(), 2, "the status and one event: {paths:?}");
    assert_eq!(api.applied("/status")["status"]["message"], json!("writeQuorum 3 is greater than replicas 2"));
}

// Goal: a resource that this operator cannot read says so, once, and keeps what it knew. Method: one that was open.
#[tokio::test]
pub(super) async fn a_malformed_resource_does_not_stay_ready() {
    let ready = json!({"type": "Ready", "status": "True", "reason": "Open", "message": "", "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let malformed = json!({"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster",
        "metadata": {"name": "odd", "namespace": "shop", "generation": 2}, "spec": {"replicas": "many"},
        "status": {"opened": true, "appliedWriteQuorum": 3, "conditions": [ready]}});
    let stored = Arc::new(Mutex::new(malformed.clone()));
    let server = stored.clone();
    let (api, client) = ApiServer::start(move |asked| {
        let mut stored = server.lock();
        if asked.path.ends_with("/status") {
            for (field, value) in asked.body["status"].as_object().expect("a status") {
                stored["status"][field] = value.clone();
            }
        }
        asked.path.contains("kvclusters/odd").then(|| (200, stored.clone()))
    });
    let context = context(client, 1, vec![]);
    let guard = || serde_json::from_value::<DeserializeGuard<KvCluster>>(malformed.clone()).expect("a guard");
    assert!(guard().0.is_err());
    for _ in 0..2 {
        reconcile(Arc::new(guard()), context.clone()).await.expect("it is reported");
    }
    assert_eq!(api.writes().len(), 1, "{:?}", api.writes());
    assert!(api.writes()[0].query.contains("fieldManager=kv-controller"));
    let status = stored.lock().clone();
    assert_eq!(condition_of(&status, "Ready")["status"], json!("Unknown"));
    assert!(status["status"]["message"].to_string().contains("cannot read the resource: "), "{status}");
    assert_eq!((&status["status"]["opened"], &status["status"]["appliedWriteQuorum"]), (&json!(true), &json!(3)));
}

#[tokio::test]
async fn a_deleted_resource_asks_for_nothing() {
    let (api, client) = ApiServer::start(|_| None);
    let context = context(client, 1, vec![]);
    let mut going = cluster("{}");
    going.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    reconcile(guarded(going), context).await.expect("it is left to the garbage collector");
    assert!(api.asked().is_empty(), "{:?}", api.asked());
}

#[tokio::test]
async fn a_status_that_cannot_be_written_makes_no_event() {
    let (api, client) = ApiServer::start(|asked| {
        asked.path.ends_with("/status").then(|| failure(500, "InternalError", "etcd is away"))
    });
    let error = reconcile(guarded(cluster("{replicas: 2, writeQuorum: 3}")), context(client, 1, vec![])).await;
    assert_eq!(error.expect_err("it fails").reason(), "ApiFailed");
    assert!(!api.asked().iter().any(|asked| asked.path.ends_with("/events")));
}
