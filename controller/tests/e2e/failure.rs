//! Goal: writes resume after a failure, nothing acknowledged is lost, and the conditions tell the truth meanwhile.

use std::process::Command;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use kvcluster_api::resource::Phase;
use serde_json::{Value, json};

use crate::harness::{Demo, is_true, phase};
use crate::writer::Writer;

#[tokio::test]
async fn a_leader_pod_is_deleted_and_another_is_killed_under_load() {
    let demo = Demo::ready(five()).await;
    for (what, how) in
        [("deleted", DeleteParams::default()), ("deleted by force", DeleteParams::default().grace_period(0))]
    {
        let writer = Writer::start(&demo).await;
        let old = demo.leader().await;
        demo.api::<Pod>().delete(&old.name_any(), &how).await.unwrap();
        demo.until("led by another pod", |cluster| leader_other_than(cluster, &old)).await;
        writer.progress().await;
        println!("leader {what}: {}", writer.finish(&demo).await);
    }
    demo.remove().await;
}

#[tokio::test]
async fn a_follower_pod_is_deleted_under_load() {
    let demo = Demo::ready(five()).await;
    let writer = Writer::start(&demo).await;
    demo.api::<Pod>().delete("demo-follower-2", &DeleteParams::default()).await.unwrap();
    let took = demo.until("degraded", |cluster| is_true(cluster, "Degraded") && is_true(cluster, "Ready")).await;
    println!("degraded after {took:?}");
    demo.until("healed", |cluster| phase(cluster) == Phase::Ready).await;
    println!("follower deleted: {}", writer.finish(&demo).await);
    demo.remove().await;
}

#[tokio::test]
#[ignore = "needs E2E_CABLE: a program that takes `cut N` and `heal N` and pulls or plugs the cable of the node nodeN"]
async fn the_node_of_the_leader_is_cut_off_and_healed() {
    let demo = Demo::ready(five()).await;
    // The API server lives on node0: a cluster without it tells nothing about a leader.
    let old = loop {
        let leader = demo.leader().await;
        if node_of(&leader) != "node0" {
            break leader;
        }
        demo.api::<Pod>().delete(&leader.name_any(), &DeleteParams::default()).await.unwrap();
        demo.until("led by another pod", |cluster| leader_other_than(cluster, &leader)).await;
    };
    let writer = Writer::start(&demo).await;
    let cable = Cable::cut(&node_of(&old));
    let took = demo
        .until("not ready or led by another", |cluster| !is_true(cluster, "Ready") || leader_other_than(cluster, &old))
        .await;
    println!("noticed after {took:?}");
    let took = demo.until("led by another pod", |cluster| leader_other_than(cluster, &old)).await;
    println!("led by another pod after {took:?} more");
    writer.progress().await;
    drop(cable);
    demo.until("healed", |cluster| phase(cluster) == Phase::Ready && leader_other_than(cluster, &old)).await;
    println!("node of the leader cut: {}", writer.finish(&demo).await);
    demo.until_object::<Pod>(&old.name_any(), "gone", |pod| pod.is_none()).await;
    demo.remove().await;
}

#[tokio::test]
#[ignore = "needs E2E_CABLE: a program that takes `cut N` and `heal N` and pulls or plugs the cable of the node nodeN"]
async fn the_node_of_a_follower_is_cut_off_and_healed() {
    let demo = Demo::ready(five()).await;
    let leader = node_of(&demo.leader().await);
    let followers = demo.pods(Some("follower")).await;
    let node =
        followers.iter().map(node_of).find(|node| *node != leader && node != "node0").expect("followers are spread");
    let writer = Writer::start(&demo).await;
    let cable = Cable::cut(&node);
    let took = demo.until("degraded", |cluster| is_true(cluster, "Degraded")).await;
    println!("degraded after {took:?}");
    writer.progress().await;
    drop(cable);
    demo.until("healed", |cluster| phase(cluster) == Phase::Ready).await;
    println!("node of a follower cut: {}", writer.finish(&demo).await);
    demo.remove().await;
}

/// A pulled cable; it is plugged again when this goes, also when the test fails.
pub struct Cable {
    program: String,
    node: String,
}

impl Cable {
    pub fn cut(node: &str) -> Self {
        let program = std::env::var("E2E_CABLE").expect("E2E_CABLE names the program that pulls cables");
        let node = node.trim_start_matches("node").to_owned();
        assert!(Command::new(&program).args(["cut", &node]).status().unwrap().success());
        Self { program, node }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let healed = Command::new(&self.program).args(["heal", &self.node]).status();
        println!("node{} healed: {healed:?}", self.node);
    }
}

pub fn leader_other_than(cluster: &kvcluster_api::resource::KvCluster, old: &Pod) -> bool {
    let leader = cluster.status.as_ref().and_then(|status| status.leader.clone());
    leader.is_some_and(|leader| leader != old.name_any()) && is_true(cluster, "Ready")
}

pub fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap()
}

fn five() -> Value {
    json!({"replicas": 5, "writeQuorum": 3, "delay": {"maxMs": 20}, "replicationTimeoutMs": 4000, "storage": {"size": "64Mi"}})
}
