//! Goal: where a standby waits, writes go on soon after the leader is lost or ends, and the Service follows the leader.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use kvcluster_api::resource::Phase;
use serde_json::{Value, json};

use crate::failure::{Cable, leader_other_than, node_of};
use crate::harness::{Demo, PATIENCE, phase};
use crate::writer::Writer;

/// The label of the pod that leads.
const LEADS: &str = "kvcluster.io/leads";
/// After how long a client gives a request up. A write takes some 20 ms.
const GIVE_UP: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_standby_takes_over_from_a_leader_that_is_killed_and_from_one_that_is_deleted() {
    let demo = Demo::ready(five(1)).await;
    for (what, how) in [("killed", DeleteParams::default().grace_period(0)), ("deleted", DeleteParams::default())] {
        let old = demo.leader().await;
        let writer = Writer::start_at(vec![demo.service().await], GIVE_UP).await;
        demo.api::<Pod>().delete(&old.name_any(), &how).await.unwrap();
        demo.until("led by another pod", |cluster| leader_other_than(cluster, &old)).await;
        writer.progress().await;
        println!("leader {what}, clients of the Service: {}", writer.finish(&demo).await);
        whole(&demo).await;
        the_service_leads_to_no_standby(&demo).await;
    }
    demo.remove().await;
}

#[tokio::test]
async fn standbys_come_and_go_while_clients_write() {
    let demo = Demo::ready(five(0)).await;
    for standbys in [1, 2, 0] {
        let writer = Writer::start_at(vec![demo.service().await], GIVE_UP).await;
        demo.patch(json!({"leader": {"standbys": standbys}})).await.unwrap();
        whole(&demo).await;
        let by_label = standbys > 0;
        demo.until_object::<Service>("demo", "selects the leader", |service| {
            selector(service).is_some_and(|selector| selector.contains_key(LEADS) == by_label)
        })
        .await;
        assert_eq!(demo.pods(Some("leader")).await.len(), 1 + standbys);
        writer.progress().await;
        println!("now {standbys} standbys: {}", writer.finish(&demo).await);
        the_service_leads_to_no_standby(&demo).await;
    }
    demo.remove().await;
}

#[tokio::test]
#[ignore = "needs E2E_CABLE, as cut_off does; E2E_ROUNDS says how often each way of losing the leader is measured, E2E_LOSS names one"]
async fn standby_cut() {
    let rounds = std::env::var("E2E_ROUNDS").map_or(1, |rounds| rounds.parse().expect("E2E_ROUNDS is a number"));
    let all = [Loss::Cut, Loss::CutWithOperator, Loss::ForceDelete, Loss::Delete];
    let wanted = std::env::var("E2E_LOSS").unwrap_or_default();
    let losses: Vec<Loss> = all.into_iter().filter(|loss| wanted.is_empty() || format!("{loss:?}") == wanted).collect();
    assert!(!losses.is_empty(), "E2E_LOSS is one of {all:?}, not {wanted}");
    let demo = Demo::ready(five(1)).await;
    for loss in losses {
        let mut gaps: [Vec<Duration>; 2] = Default::default();
        for _ in 0..rounds {
            let lost = lose(&demo, loss).await;
            gaps.iter_mut().zip(lost).for_each(|(gaps, gap)| gaps.push(gap));
        }
        for (clients, gaps) in ["of the Service", "that know both pods"].iter().zip(&mut gaps) {
            gaps.sort();
            let at = |share: f64| gaps[((gaps.len() as f64 * share).ceil() as usize).max(1) - 1];
            println!(
                "{loss:?} {rounds} times, clients {clients}: no write acknowledged for {:?} (median), {:?} (p99), {:?} (most)",
                at(0.5),
                at(0.99),
                at(1.0)
            );
        }
    }
    demo.remove().await;
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    /// The node of the leader loses its network. The replica of the operator that works is on another one.
    Cut,
    /// The node of the leader and of that replica loses its network.
    CutWithOperator,
    ForceDelete,
    Delete,
}

/// Loses the leader while clients of the Service and clients that know both pods write. Returns for how long no write of
/// either was acknowledged.
async fn lose(demo: &Demo, loss: Loss) -> [Duration; 2] {
    whole(demo).await;
    if matches!(loss, Loss::CutWithOperator) {
        operator_is_whole(demo).await;
    }
    while !suits(demo, loss).await {
        if matches!(loss, Loss::CutWithOperator) && node_of_operator(demo).await.as_deref() == Some("node0") {
            move_operator(demo).await;
            operator_is_whole(demo).await;
            continue;
        }
        let old = demo.leader().await;
        demo.api::<Pod>().delete(&old.name_any(), &DeleteParams::default()).await.unwrap();
        demo.until("led by another pod", |cluster| leader_other_than(cluster, &old)).await;
        whole(demo).await;
    }
    let old = demo.leader().await;
    let urls = demo.pods(Some("leader")).await.iter().map(|pod| format!("http://{}:8000", address(pod))).collect();
    let of_service = Writer::start_at(vec![demo.service().await], GIVE_UP).await;
    let of_both = Writer::start_at(urls, GIVE_UP).await;
    let cable = match loss {
        Loss::Cut | Loss::CutWithOperator => Some(Cable::cut(&node_of(&old))),
        Loss::ForceDelete | Loss::Delete => {
            let how = DeleteParams::default();
            let how = if matches!(loss, Loss::ForceDelete) { how.grace_period(0) } else { how };
            demo.api::<Pod>().delete(&old.name_any(), &how).await.unwrap();
            None
        }
    };
    demo.until("led by another pod", |cluster| leader_other_than(cluster, &old)).await;
    of_service.progress().await;
    of_both.progress().await;
    if let Some(cable) = cable {
        drop(cable);
        // It ended when it found itself replaced. Kubernetes starts it again later each time.
        demo.api::<Pod>().delete(&old.name_any(), &DeleteParams::default()).await.unwrap();
        demo.until_object::<Pod>(&old.name_any(), "gone", |pod| pod.is_none()).await;
    }
    let (of_service, of_both) = (of_service.finish(demo).await, of_both.finish(demo).await);
    println!("{loss:?}\n    of the Service: {of_service}\n    that know both pods: {of_both}");
    [of_service.longest_gap, of_both.longest_gap]
}

/// Whether the leader is on a node that this loss may cut off. The API server is on node0.
async fn suits(demo: &Demo, loss: Loss) -> bool {
    let (leader, operator) = (node_of(&demo.leader().await), node_of_operator(demo).await);
    match loss {
        Loss::Cut => leader != "node0" && Some(leader) != operator,
        Loss::CutWithOperator => leader != "node0" && Some(leader) == operator,
        Loss::ForceDelete | Loss::Delete => true,
    }
}

/// The node of the operator's replica that works.
async fn node_of_operator(demo: &Demo) -> Option<String> {
    let (pods, name) = operator(demo).await?;
    pods.get_opt(&name).await.unwrap().map(|pod| node_of(&pod))
}

/// Ends the operator's replica that works, and waits until another one does.
async fn move_operator(demo: &Demo) {
    let Some((pods, name)) = operator(demo).await else { return };
    pods.delete(&name, &DeleteParams::default()).await.unwrap();
    let started = Instant::now();
    while operator(demo).await.is_none_or(|(_, now)| now == name) {
        assert!(started.elapsed() < PATIENCE, "no other replica of the operator works for {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until each replica of the operator runs. A node that was cut off is ready again only some seconds later.
async fn operator_is_whole(demo: &Demo) {
    let Some((pods, _)) = operator(demo).await else { return };
    let ours = ListParams::default().labels("app.kubernetes.io/name=kv-controller");
    let is_ready = |pod: &Pod| {
        let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let started = Instant::now();
    while !pods.list(&ours).await.unwrap().items.iter().all(is_ready) {
        assert!(started.elapsed() < PATIENCE, "a replica of the operator does not run for {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The operator's replica that works, by its Lease: its name, and the pods among which it is.
async fn operator(demo: &Demo) -> Option<(Api<Pod>, String)> {
    let leases: Api<Lease> = Api::all(demo.client.clone());
    // The chart puts the name of its release in front.
    let all = leases.list(&ListParams::default()).await.unwrap().items;
    let held = all.into_iter().find(|lease| lease.name_any().ends_with("kv-controller"))?;
    let pods = Api::namespaced(demo.client.clone(), &held.namespace()?);
    Some((pods, held.spec?.holder_identity.filter(|name| !name.is_empty())?))
}

fn address(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap()
}

/// Writes through the Service of a cluster that is whole. While the leader changes, a client may still reach the pod that
/// led, which redirects it.
async fn the_service_leads_to_no_standby(demo: &Demo) {
    let writer = Writer::start_at(vec![demo.service().await], GIVE_UP).await;
    writer.progress().await;
    let report = writer.finish(demo).await;
    assert_eq!(report.redirected, 0, "{report}");
}

/// Waits until every pod that the spec asks for works, and no other is left.
async fn whole(demo: &Demo) {
    demo.until("whole", |cluster| phase(cluster) == Phase::Ready).await;
    for pod in demo.pods(Some("leader")).await.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()) {
        demo.until_object::<Pod>(&pod.name_any(), "gone", |pod| pod.is_none()).await;
    }
}

fn selector(service: Option<&Service>) -> Option<&std::collections::BTreeMap<String, String>> {
    service?.spec.as_ref()?.selector.as_ref()
}

fn five(standbys: u32) -> Value {
    json!({"replicas": 5, "writeQuorum": 3, "delay": {"maxMs": 20}, "replicationTimeoutMs": 4000,
        "durability": "Memory", "leader": {"standbys": standbys}})
}
