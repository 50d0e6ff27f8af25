//! Goal: programs that apply manifests from a repository judge a KvCluster rightly, and nothing fights with them over a field.
//! Method: kstatus, the expressions for Flux and the health check for Argo CD judge real objects by the program of tests/gitops,
//! which E2E_GITOPS names; `kubectl wait` follows a change; two managers apply the same manifest.

use std::io::Write;
use std::process::{Command, Stdio};

use k8s_openapi::api::core::v1::Service;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use kvcluster_api::resource::KvCluster;
use serde_json::{Value, json};

use crate::harness::{Demo, condition, is_true};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn manifest() -> Value {
    let spec = json!({"replicas": 3, "writeQuorum": 2, "durability": "Memory", "delay": {"maxMs": 5},
        "leader": {"resources": {"requests": {"cpu": "10m"}}}});
    json!({"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "metadata": {"name": "demo"}, "spec": spec})
}

/// As a program with this name applies a manifest: by server-side apply, and without force.
async fn apply(demo: &Demo, manager: &str) -> Result<DynamicObject, kube::Error> {
    untyped(demo).patch("demo", &PatchParams::apply(manager), &Patch::Apply(&manifest())).await
}

fn untyped(demo: &Demo) -> Api<DynamicObject> {
    Api::namespaced_with(demo.client.clone(), &demo.namespace, &ApiResource::erase::<KvCluster>(&()))
}

/// What kstatus, Flux and Argo CD say of an object. True without the program that judges.
fn is_judged(object: &DynamicObject, kstatus: &str, argocd: &str) -> bool {
    let Some(program) = std::env::var("E2E_GITOPS").ok().filter(|program| !program.is_empty()) else {
        println!("E2E_GITOPS names no program: not judged to be {kstatus} and {argocd}");
        return true;
    };
    let mut judge =
        Command::new(program).arg(ROOT).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("E2E_GITOPS");
    judge.stdin.take().unwrap().write_all(&serde_json::to_vec(object).unwrap()).unwrap();
    let output = judge.wait_with_output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).expect("a judgement");
    println!("judged: {found}");
    found["kstatus"] == kstatus && found["flux"] == kstatus && found["argocd"] == argocd
}

async fn assert_judged(demo: &Demo, kstatus: &str, argocd: &str) {
    let object = untyped(demo).get("demo").await.unwrap();
    assert!(is_judged(&object, kstatus, argocd), "not {kstatus} and {argocd}: {:#}", object.data["status"]);
}

/// `kubectl wait`, with the namespace of the demo.
async fn wait(demo: &Demo, condition: &str) {
    let words = ["wait", &format!("--for=condition={condition}"), "kvc/demo", "--timeout=120s", "-n", &demo.namespace];
    let ended = tokio::process::Command::new("kubectl").args(words).status().await.unwrap();
    assert!(ended.success(), "kubectl {words:?}");
}

fn is_current(cluster: &KvCluster) -> bool {
    let status = cluster.status.as_ref();
    status.is_some_and(|status| status.observed_generation == cluster.metadata.generation)
        && ["Reconciling", "Stalled"].iter().all(|type_| condition(cluster, type_).0 == "False")
}

#[tokio::test]
async fn a_cluster_is_current_once_it_is_as_the_spec_asks_for_and_no_sooner() {
    let demo = Demo::empty().await;
    let created = apply(&demo, "flux").await.unwrap();
    assert_eq!(created.data["status"]["observedGeneration"], -1, "no operator can have seen it");
    assert!(is_judged(&created, "InProgress", "Progressing"));
    demo.until("is as the spec asks for", is_current).await;
    assert_judged(&demo, "Current", "Healthy").await;

    // A quorum, which needs no new pod, and then something that does.
    let changed = demo.patch(json!({"writeQuorum": 3})).await.unwrap();
    wait(&demo, "Ready").await;
    let seen = demo.api::<KvCluster>().get("demo").await.unwrap();
    assert!(seen.status.unwrap().observed_generation >= changed.metadata.generation, "kubectl wait returned early");
    wait(&demo, "Reconciling=False").await;
    let seen = demo.api::<KvCluster>().get("demo").await.unwrap();
    assert_eq!(seen.status.unwrap().applied_write_quorum, Some(3));
    let change = Patch::Merge(json!({"spec": {"logLevel": "debug"}}));
    let changed = untyped(&demo).patch("demo", &PatchParams::default(), &change).await.unwrap();
    assert!(is_judged(&changed, "InProgress", "Progressing"), "with the status of the spec before");
    wait(&demo, "Reconciling=False").await;
    for pod in demo.staying_pods(None).await {
        let name = pod.name_any();
        let env = pod.spec.unwrap().containers.remove(0).env.unwrap();
        let level = env.into_iter().find(|one| one.name == "LOG_LEVEL").and_then(|one| one.value);
        assert_eq!(level.as_deref(), Some("debug"), "{name}");
    }
    demo.until("is as the spec asks for", is_current).await;
    assert_judged(&demo, "Current", "Healthy").await;

    demo.patch(json!({"paused": true, "logLevel": "info"})).await.unwrap();
    demo.until("is paused", |cluster| is_true(cluster, "Stalled") && is_true(cluster, "Paused")).await;
    assert_judged(&demo, "Failed", "Suspended").await;
    demo.patch(json!({"paused": false})).await.unwrap();
    demo.until("goes on", is_current).await;
    demo.remove().await;
}

#[tokio::test]
async fn a_name_that_is_taken_is_a_failure() {
    let demo = Demo::empty().await;
    let service = json!({"metadata": {"name": "demo"}, "spec": {"ports": [{"port": 8000}]}});
    let service: Service = serde_json::from_value(service).unwrap();
    demo.api::<Service>().create(&PostParams::default(), &service).await.unwrap();
    apply(&demo, "flux").await.unwrap();
    demo.until("is stalled", |cluster| condition(cluster, "Stalled") == ("True".to_owned(), "NameTaken".to_owned()))
        .await;
    assert_judged(&demo, "Failed", "Degraded").await;
    demo.remove().await;
}

// Goal: neither defaults nor the operator change what a manifest says. Method: who owns which field, and what a second manager and
// a second time change.
#[tokio::test]
async fn a_manifest_that_is_applied_again_changes_nothing_and_meets_no_conflict() {
    let demo = Demo::empty().await;
    apply(&demo, "flux").await.unwrap();
    demo.until("is as the spec asks for", is_current).await;
    let before = untyped(&demo).get("demo").await.unwrap();
    for manager in ["flux", "argocd-controller", "argocd-controller", "flux"] {
        let after = apply(&demo, manager).await.unwrap_or_else(|error| panic!("{manager}: {error}"));
        assert_eq!(after.metadata.generation, before.metadata.generation, "{manager}");
        assert_eq!(after.data["spec"], before.data["spec"], "{manager}");
    }
    // Values of the manifest itself, written as they are, have no other form in the cluster.
    let manifest = manifest();
    for (field, value) in manifest["spec"].as_object().unwrap() {
        let found = &before.data["spec"][field];
        let same = match (found, value) {
            (Value::Object(found), Value::Object(value)) => {
                value.iter().all(|(key, value)| found.get(key) == Some(value))
            }
            (found, value) => found == value,
        };
        assert!(same, "{field}: {found}, not {value}");
    }
    let now = untyped(&demo).get("demo").await.unwrap();
    let mut managers = Vec::new();
    for entry in now.managed_fields() {
        let owned: Vec<&String> = entry
            .fields_v1
            .as_ref()
            .unwrap()
            .0
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "f:metadata")
            .collect();
        managers.push((entry.manager.clone().unwrap(), entry.subresource.clone().unwrap_or_default()));
        let expected = if entry.subresource.is_some() { "f:status" } else { "f:spec" };
        assert_eq!(owned, [expected], "{managers:?}");
    }
    managers.sort();
    let expected = [("argocd-controller", ""), ("flux", ""), ("kv-controller", "status")];
    assert_eq!(managers, expected.map(|(manager, part)| (manager.to_owned(), part.to_owned())));
    demo.remove().await;
}
