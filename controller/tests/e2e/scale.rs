//! Goal: the number of followers changes under load; an upgrade of the nodes and the end of the operator lose nothing.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use kvcluster_api::resource::{KvCluster, Phase};
use serde_json::{Value, json};

use crate::harness::{Demo, phase};
use crate::writer::Writer;

#[tokio::test]
async fn from_five_to_seven_to_three_under_load() {
    let demo = Demo::ready(five()).await;
    let writer = Writer::start(&demo).await;
    for replicas in [7, 3] {
        let leader = demo.leader().await;
        let scale = json!({"spec": {"replicas": replicas}});
        demo.api::<KvCluster>().patch_scale("demo", &PatchParams::default(), &Patch::Merge(&scale)).await.unwrap();
        if replicas == 3 {
            // A new leader may need those that leave, and a new operator must not take them away before.
            let at_once = DeleteParams::default().grace_period(0);
            demo.api::<Pod>().delete(&leader.name_any(), &at_once).await.unwrap();
            kill_operators(&demo).await;
        }
        let took = demo.until("scaled", |cluster| {
            let status = cluster.status.as_ref();
            phase(cluster) == Phase::Ready
                && status.is_some_and(|s| s.applied_replicas == Some(replicas) && s.replicas == replicas)
        });
        println!("{replicas} followers after {:?}", took.await);
        writer.progress().await;
    }
    for gone in ["demo-follower-3", "demo-follower-6"] {
        demo.until_object::<Pod>(gone, "gone", |pod| pod.is_none()).await;
    }
    println!("scaled: {}", writer.finish(&demo).await);
    let scale = json!({"spec": {"replicas": 2}});
    let error = demo
        .api::<KvCluster>()
        .patch_scale("demo", &PatchParams::default(), &Patch::Merge(&scale))
        .await
        .expect_err("below the quorum");
    assert!(error.to_string().contains("writeQuorum 3 is greater than replicas 2"), "{error}");
    demo.remove().await;
}

#[tokio::test]
async fn the_nodes_are_upgraded_and_the_operator_is_killed_under_load() {
    let demo = Demo::ready(five()).await;
    let before = demo.identities().await;
    let writer = Writer::start(&demo).await;

    // The same image under its full name: another template, as a new version would be.
    let image = demo.pods(None).await[0].spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    let full_name = format!("docker.io/library/{}", image.trim_start_matches("docker.io/library/"));
    let renamed =
        if image == full_name { image.trim_start_matches("docker.io/library/").to_owned() } else { full_name };
    demo.patch(json!({"image": renamed})).await.unwrap();
    demo.until("on its way", |cluster| phase(cluster) != Phase::Ready).await;
    kill_operators(&demo).await;
    let took = demo.until("upgraded", |cluster| phase(cluster) == Phase::Ready).await;
    println!("upgraded after {took:?}: {}", writer.finish(&demo).await);
    let after = demo.identities().await;
    let kept: Vec<_> = after.iter().filter(|(name, identity)| before.get(*name) == Some(identity)).collect();
    assert!(kept.is_empty(), "old pods stay: {kept:?}");
    for pod in demo.staying_pods(None).await {
        assert_eq!(pod.spec.as_ref().unwrap().containers[0].image.as_deref(), Some(renamed.as_str()));
    }
    demo.remove().await;
}

#[tokio::test]
async fn a_restart_of_the_operator_touches_no_pod() {
    let demo = Demo::ready(five()).await;
    let before = demo.identities().await;
    kill_operators(&demo).await;
    // A change that the new operator carries out shows that it works.
    demo.patch(json!({"writeQuorum": 4})).await.unwrap();
    let took = demo
        .until("applied", |cluster| {
            cluster.status.as_ref().is_some_and(|status| status.applied_write_quorum == Some(4))
        })
        .await;
    println!("a new operator works after {took:?}");
    assert_eq!(demo.identities().await, before);
    demo.remove().await;
}

async fn kill_operators(demo: &Demo) {
    let operators: Api<Pod> = Api::all(demo.client.clone());
    let ours = ListParams::default().labels("app.kubernetes.io/name=kv-controller");
    for operator in operators.list(&ours).await.unwrap() {
        let pods: Api<Pod> = Api::namespaced(demo.client.clone(), &operator.namespace().unwrap());
        pods.delete(&operator.name_any(), &DeleteParams::default().grace_period(0)).await.unwrap();
    }
}

fn five() -> Value {
    json!({"replicas": 5, "writeQuorum": 3, "delay": {"maxMs": 20}, "replicationTimeoutMs": 4000, "durability": "Memory"})
}
