//! Goal: a new pod template moves nothing that writes, or a leader that restarts, may need; it reaches every pod, the leader
//! last; and no drain takes more meanwhile.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config, ResourceExt};
use kvcluster_api::resource::Phase;
use serde_json::json;

use crate::harness::{Demo, condition, is_true, phase};
use crate::writer::Writer;

#[tokio::test]
async fn an_upgrade_and_a_drain_wait_for_the_follower_that_is_down_and_lose_nothing() {
    // A leader that restarts needs 4 of the 5.
    let demo =
        Demo::ready(json!({"replicas": 5, "writeQuorum": 2, "delay": {"maxMs": 20}, "storage": {"size": "64Mi"}}))
            .await;
    let writer = Writer::start(&demo).await;
    // As many pods as run without the follower, so that it stays away.
    let quota = json!({"metadata": {"name": "pods"}, "spec": {"hard": {"pods": "5"}}});
    let quotas = demo.api::<ResourceQuota>();
    quotas.create(&PostParams::default(), &serde_json::from_value(quota).unwrap()).await.unwrap();
    demo.until_object::<ResourceQuota>("pods", "in force", |quota| {
        quota.is_some_and(|quota| quota.status.as_ref().is_some_and(|status| status.used.is_some()))
    })
    .await;
    demo.api::<Pod>().delete("demo-follower-1", &DeleteParams::default()).await.unwrap();
    demo.until("degraded", |cluster| is_true(cluster, "Degraded")).await;
    demo.until_object::<Pod>("demo-follower-1", "gone", |pod| pod.is_none()).await;
    let before = demo.identities().await;

    demo.patch(json!({"logLevel": "debug"})).await.unwrap();
    let blocked = |cluster: &_| condition(cluster, "RolledOut") == ("False".to_owned(), "RolloutBlocked".to_owned());
    demo.until("blocked", blocked).await;
    // The operator goes on with everything else.
    demo.patch(json!({"delay": {"maxMs": 30}})).await.unwrap();
    demo.until("configured and blocked", |cluster| {
        let applied = cluster.status.as_ref().and_then(|status| status.applied_delay);
        applied.is_some_and(|delay| delay.max_ms == 30) && blocked(cluster)
    })
    .await;
    let refused = evict(&demo, "demo-follower-2").await.expect_err("a drain does not get a follower that is needed");
    assert!(refused.to_string().contains("violate the pod's disruption budget"), "{refused}");
    assert_eq!(demo.identities().await, before, "a pod moved while a follower was down");

    quotas.delete("pods", &DeleteParams::default()).await.unwrap();
    // Its controller tries again at the next change.
    let woken = json!({"metadata": {"annotations": {"someone.example/note": "woken"}}});
    let sets = demo.api::<StatefulSet>();
    sets.patch("demo-follower", &PatchParams::default(), &Patch::Merge(&woken)).await.unwrap();
    let took = demo.until("upgraded", |cluster| phase(cluster) == Phase::Ready && is_true(cluster, "RolledOut")).await;
    println!("upgraded {took:?} after the follower was let back: {}", writer.finish(&demo).await);

    let created = |pods: &[Pod]| pods.iter().map(|pod| pod.creation_timestamp().unwrap()).max().unwrap();
    let (leaders, followers) = (demo.staying_pods(Some("leader")).await, demo.staying_pods(Some("follower")).await);
    for pod in leaders.iter().chain(&followers) {
        let env = pod.spec.as_ref().unwrap().containers[0].env.clone().unwrap();
        assert!(env.iter().any(|one| one.name == "LOG_LEVEL" && one.value.as_deref() == Some("debug")), "{env:?}");
    }
    assert!(created(&leaders) >= created(&followers), "the leader goes last");
    demo.remove().await;
}

/// As `kubectl drain` does. The usual client would repeat a refused eviction.
async fn evict(demo: &Demo, pod: &str) -> Result<kube::core::Status, kube::Error> {
    let mut config = Config::infer().await.unwrap();
    config.default_retry = false;
    let pods: Api<Pod> = Api::namespaced(Client::try_from(config).unwrap(), &demo.namespace);
    pods.evict(pod, &EvictParams::default()).await
}
