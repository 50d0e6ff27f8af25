//! Goal: a new cluster serves no client before it has the whole backup of another one, key by key, and gets it once. Method:
//! clusters with W = 1 and W = 3 that wait for a backup which is made later, and a hibernation after the restore.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams};
use kvcluster_api::resource::{KvCluster, Phase};
use reqwest::Method;
use serde_json::{Value, json};

use crate::backup::{claim, values};
use crate::harness::{Demo, PATIENCE, Selection, ask, comes_true, condition, forward, is_true, phase};
use crate::plugin::kv;
use crate::writer::Writer;

const NEVER: &str = "0 0 29 2 *";

#[tokio::test]
async fn a_new_cluster_starts_from_a_backup_once_and_serves_no_client_before() {
    let demo = Demo::ready(json!({"replicas": 3, "writeQuorum": 2, "delay": {"maxMs": 20}})).await;
    claim(&demo, "archive").await;
    let backup = json!({"schedule": NEVER, "destination": "pvc://archive/of/demo"});
    demo.patch(json!({"backup": backup})).await.unwrap();
    let writer = Writer::start(&demo).await;
    writer.progress().await;
    println!("before the backup: {}", writer.finish(&demo).await);

    // The backup is not there yet, which they say, and try again.
    for quorum in [1, 3] {
        let source = json!({"source": "pvc://archive/of/demo", "cluster": format!("{}/demo", demo.namespace)});
        let spec = json!({"replicas": 3, "writeQuorum": quorum, "durability": if quorum == 1 { "Disk" } else { "Memory" },
            "delay": {"maxMs": 20}, "bootstrap": {"fromBackup": source}});
        apply(&demo, &name(quorum), spec).await.expect("the spec is accepted");
    }
    for quorum in [1, 3] {
        until(&demo, &name(quorum), "says that the backup is missing", |cluster| {
            condition(cluster, "Bootstrapped") == ("False".to_owned(), "RestoreFailed".to_owned())
                && message(cluster).contains("/backups/of/demo")
        })
        .await;
        let cluster = demo.api::<KvCluster>().get(&name(quorum)).await.unwrap();
        assert_eq!(condition(&cluster, "Ready"), ("False".to_owned(), "Restoring".to_owned()));
        let leader = leader(&demo, &name(quorum)).await;
        for (method, path, body) in [
            (Method::GET, "/get?key=a", None),
            (Method::GET, "/dump", None),
            (Method::POST, "/put", Some(json!({"key": "a", "value": "b"}))),
        ] {
            let (code, answer) = ask(method, &format!("{leader}{path}"), body).await;
            assert_eq!(code, 503, "{path}: {answer}");
        }
    }
    let events = demo.api::<Event>().list(&ListParams::default()).await.unwrap().items;
    assert!(events.iter().any(|event| event.reason.as_deref() == Some("RestoreFailed")));

    kv(&demo, &["backup", "demo", "--now"]).await;
    demo.until("has a backup", |cluster| is_true(cluster, "BackupSucceeded")).await;
    let expected = values(&demo.service().await).await;
    assert!(!expected.is_empty());
    for quorum in [1, 3] {
        let name = name(quorum);
        until(&demo, &name, "has the backup", |cluster| {
            phase(cluster) == Phase::Ready && is_true(cluster, "Ready") && is_true(cluster, "Bootstrapped")
        })
        .await;
        let leader = leader(&demo, &name).await;
        assert!(values(&leader).await == expected, "W = {quorum}: something else than the backup is there");
        println!("W = {quorum}: {} keys are as in the backup", expected.len());
        let put = json!({"key": "after", "value": "the restore"});
        assert_eq!(ask(Method::POST, &format!("{leader}/put"), Some(put)).await.0, 200);
        assert!(comes_true(&demo.api::<Job>(), &format!("{name}-bootstrap"), PATIENCE, |job| job.is_none()).await);
    }

    let changed = json!({"bootstrap": {"fromBackup": {"source": "pvc://archive/of/other"}}});
    let error = patch(&demo, &name(1), changed).await.expect_err("it is fixed").to_string();
    assert!(error.contains("bootstrap is for new clusters: it cannot be added, changed or removed"), "{error}");
    let error = patch(&demo, "demo", json!({"bootstrap": {"fromBackup": {"source": "pvc://archive"}}})).await;
    assert!(error.expect_err("it is not new").to_string().contains("bootstrap is for new clusters"));

    // Nothing is restored again: what was written since is still there.
    let first = name(1);
    let status = demo.api::<KvCluster>().get(&first).await.unwrap().status.unwrap().bootstrap;
    assert!(status.as_ref().is_some_and(|status| status.completed.is_some()));
    patch(&demo, &first, json!({"hibernated": true})).await.unwrap();
    until(&demo, &first, "hibernated", |cluster| phase(cluster) == Phase::Hibernated).await;
    patch(&demo, &first, json!({"hibernated": false})).await.unwrap();
    until(&demo, &first, "awake", |cluster| phase(cluster) == Phase::Ready).await;
    let leader = leader(&demo, &first).await;
    let (code, answer) = ask(Method::GET, &format!("{leader}/get?key=after"), None).await;
    assert_eq!((code, &answer["value"]), (200, &json!("the restore")), "{answer}");
    assert_eq!(values(&leader).await.len(), expected.len() + 1);
    assert!(demo.api::<Job>().get_opt(&format!("{first}-bootstrap")).await.unwrap().is_none());
    assert_eq!(demo.api::<KvCluster>().get(&first).await.unwrap().status.unwrap().bootstrap, status);
    demo.remove().await;
}

fn name(quorum: i32) -> String {
    format!("copy-{quorum}")
}

fn message(cluster: &KvCluster) -> String {
    cluster.status.clone().unwrap_or_default().message
}

async fn apply(demo: &Demo, name: &str, spec: Value) -> Result<KvCluster, kube::Error> {
    let body =
        json!({"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "metadata": {"name": name}, "spec": spec});
    demo.api::<KvCluster>().patch(name, &PatchParams::apply("e2e"), &Patch::Apply(&body)).await
}

async fn patch(demo: &Demo, name: &str, spec: Value) -> Result<KvCluster, kube::Error> {
    demo.api::<KvCluster>().patch(name, &PatchParams::default(), &Patch::Merge(&json!({"spec": spec}))).await
}

async fn until(demo: &Demo, name: &str, what: &str, holds: impl Fn(&KvCluster) -> bool) {
    let api = demo.api::<KvCluster>();
    if !comes_true(&api, name, PATIENCE, |cluster| cluster.is_some_and(&holds)).await {
        let status = api.get(name).await.map(|cluster| cluster.status);
        panic!("{name} in {} does not become: {what}; its status: {status:#?}", demo.namespace);
    }
}

/// A URL at which the leader of a cluster answers.
async fn leader(demo: &Demo, name: &str) -> String {
    let labels = format!("app.kubernetes.io/instance={name},app.kubernetes.io/component=leader");
    forward(demo.client.clone(), demo.namespace.clone(), Selection::Labels(labels), 8000).await
}
