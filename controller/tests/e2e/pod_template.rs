//! Goal: what the spec adds to pods and Services gets there, one pod after the other, beside what others have added, and no
//! acknowledged write is lost meanwhile.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use kvcluster_api::resource::Phase;
use serde_json::json;

use crate::harness::{Demo, is_ready, is_true, phase};
use crate::writer::Writer;

#[tokio::test]
async fn pods_and_services_are_as_the_spec_asks_for_and_fields_of_others_stay() {
    let demo =
        Demo::ready(json!({"replicas": 3, "writeQuorum": 2, "delay": {"maxMs": 20}, "storage": {"size": "64Mi"}}))
            .await;
    let theirs = json!({"metadata": {"labels": {"someone.example/cost": "7"}}});
    demo.api::<StatefulSet>().patch("demo-follower", &PatchParams::default(), &Patch::Merge(&theirs)).await.unwrap();
    let image = demo.leader().await.spec.unwrap().containers[0].image.clone();
    let writer = Writer::start(&demo).await;
    let before = demo.identities().await;
    let services = json!({"type": "NodePort", "annotations": {"lb.example/internal": "yes"}, "trafficDistribution": "PreferClose"});
    demo.patch(json!({"service": services})).await.unwrap();
    demo.until_object::<Service>("demo-read", "as the spec asks for", |service| {
        let spec = service.and_then(|service| service.spec.clone()).unwrap_or_default();
        spec.type_.as_deref() == Some("NodePort") && spec.traffic_distribution.as_deref() == Some("PreferClose")
    })
    .await;
    assert_eq!(demo.api::<Service>().get("demo").await.unwrap().annotations()["lb.example/internal"], "yes");
    assert_eq!(demo.identities().await, before, "no pod restarts for a Service");

    // A second node as the sidecar: an image that is there.
    let template = json!({
        "labels": {"team": "shop"},
        "annotations": {"example.com/owner": "shop"},
        "env": [{"name": "CONNECTIONS_MAX", "value": "777"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "Exists"}]}]}}},
        "topologySpreadConstraints": [{"maxSkew": 3, "topologyKey": "kubernetes.io/os", "whenUnsatisfiable": "ScheduleAnyway"}],
        "securityContext": {"supplementalGroups": [4242]},
        "sidecars": [{"name": "beside", "image": image, "command": ["kv-node"],
            "env": [{"name": "PORT", "value": "9000"}], "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}],
        "volumes": [{"name": "scratch", "emptyDir": {}}]});
    demo.patch(json!({"leader": {"podTemplate": template}, "followers": {"podTemplate": template}})).await.unwrap();
    let took =
        demo.until("rolled out", |cluster| phase(cluster) == Phase::Ready && is_true(cluster, "RolledOut")).await;
    println!("rolled out after {took:?}: {}", writer.finish(&demo).await);
    let pods: Vec<Pod> = demo.pods(None).await.into_iter().filter(is_ready).collect();
    assert_eq!(pods.len(), 4, "{pods:?}");
    for pod in pods {
        assert_eq!(pod.labels()["team"], "shop");
        assert_eq!(pod.annotations()["example.com/owner"], "shop");
        let spec = pod.spec.unwrap();
        assert_eq!(spec.containers.len(), 2);
        assert_eq!(spec.security_context.unwrap().supplemental_groups, Some(vec![4242]));
        assert!(spec.affinity.is_some_and(|affinity| affinity.node_affinity.is_some()));
        let constraints = spec.topology_spread_constraints.unwrap();
        assert!(constraints.iter().any(|one| one.topology_key == "kubernetes.io/os"), "{constraints:?}");
        let env = spec.containers[0].env.clone().unwrap();
        assert!(env.iter().any(|one| one.name == "CONNECTIONS_MAX" && one.value.as_deref() == Some("777")), "{env:?}");
    }
    let set = demo.api::<StatefulSet>().get("demo-follower").await.unwrap();
    assert_eq!(set.labels()["someone.example/cost"], "7");

    demo.patch(json!({"leader": {"podTemplate": null}, "followers": {"podTemplate": null}})).await.unwrap();
    demo.until("rolled out again", |cluster| phase(cluster) == Phase::Ready && is_true(cluster, "RolledOut")).await;
    let pods: Vec<Pod> = demo.pods(None).await.into_iter().filter(is_ready).collect();
    assert!(
        pods.iter().all(|pod| !pod.labels().contains_key("team") && pod.spec.as_ref().unwrap().containers.len() == 1)
    );
    demo.remove().await;
}
