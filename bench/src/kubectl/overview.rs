//! A KvCluster and its pods as text. Pure.

use std::fmt::Write;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kvcluster_api::resource::{KvCluster, KvClusterStatus};

/// What is not known yet.
const NONE: &str = "-";

/// What the cluster does, what it survives, its conditions and its pods.
pub(super) fn render(cluster: &KvCluster, pods: &[Pod]) -> String {
    let KvClusterStatus { phase, message, leader, followers, tolerates, conditions, .. } =
        cluster.status.clone().unwrap_or_default();
    let mut text =
        format!("{} in namespace {}: {phase:?}", cluster.name_any(), cluster.namespace().unwrap_or_default());
    if !message.is_empty() {
        let _ = write!(text, ": {message}");
    }
    let mut facts = vec![
        ["leader".to_owned(), leader.unwrap_or_else(|| NONE.to_owned())],
        ["followers".to_owned(), format!("{followers} have the data and receive new writes")],
        ["quorum".to_owned(), in_force(cluster)],
    ];
    if let Some(tolerates) = tolerates {
        facts.push([
            "survives".to_owned(),
            format!(
                "{} followers down (writes go on), {} volumes lost (no acknowledged write is); a leader needs {} followers \
                 to restart",
                tolerates.followers_down, tolerates.disks_lost, tolerates.followers_needed_to_restart
            ),
        ]);
    }
    let conditions = conditions.into_iter().map(|one| [one.type_, one.status, one.reason, one.message]);
    let conditions = [["CONDITION", "STATUS", "REASON", "MESSAGE"].map(str::to_owned)].into_iter().chain(conditions);
    let pods =
        [["POD", "ROLE", "READY", "RESTARTS", "NODE"].map(str::to_owned)].into_iter().chain(pods.iter().map(pod));
    format!("{text}\n{}\n{}\n{}", table(facts), table(conditions.collect()), table(pods.collect()))
}

/// The quorum in force, in one line.
pub(super) fn quorum(cluster: &KvCluster) -> String {
    format!("write quorum {}\n", in_force(cluster))
}

fn in_force(cluster: &KvCluster) -> String {
    let status = cluster.status.clone().unwrap_or_default();
    let (Some(quorum), Some(replicas)) = (status.applied_write_quorum, status.applied_replicas) else {
        return "is not in force yet".to_owned();
    };
    let spec = &cluster.spec;
    let asked = (spec.write_quorum, spec.replicas);
    let change = match asked == (quorum, replicas) {
        true => String::new(),
        false => format!("; the spec asks for {} of {} followers", asked.0, asked.1),
    };
    format!("{quorum} of {replicas} followers is in force{change}")
}

fn pod(pod: &Pod) -> [String; 5] {
    let status = pod.status.clone().unwrap_or_default();
    let is_ready = status.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
    let restarts: i32 = status.container_statuses.iter().flatten().map(|container| container.restart_count).sum();
    let role = pod.labels().get("app.kubernetes.io/component").cloned().unwrap_or_default();
    let ready = match pod.metadata.deletion_timestamp {
        Some(_) => "ends",
        None if is_ready => "yes",
        None => "no",
    };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_else(|| NONE.to_owned());
    [pod.name_any(), role, ready.to_owned(), restarts.to_string(), node]
}

/// Columns as wide as their widest cell; the last one ends with the line.
fn table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(asked: i32) -> KvCluster {
        serde_json::from_value(json!({
            "apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "metadata": {"name": "demo", "namespace": "shop"},
            "spec": {"replicas": 7, "writeQuorum": asked},
            "status": {"phase": "Degraded", "message": "1 of 7 followers: demo-follower-4: connecting", "leader": "demo-leader-x",
                "followers": "6/7", "appliedWriteQuorum": 3, "appliedReplicas": 7,
                "tolerates": {"followersDown": 4, "disksLost": 2, "followersNeededToRestart": 5},
                "conditions": [{"type": "Ready", "status": "True", "reason": "Open", "message": "demo-leader-x takes writes",
                    "lastTransitionTime": "2026-11-22T10:45:00Z"}]},
        }))
        .expect("a KvCluster")
    }

    #[test]
    fn the_overview_says_what_works_what_is_missing_and_what_the_cluster_survives() {
        let pod = json!({"metadata": {"name": "demo-follower-4", "labels": {"app.kubernetes.io/component": "follower"}},
            "spec": {"containers": [], "nodeName": "node2"},
            "status": {"containerStatuses": [{"name": "kv-node", "image": "x", "imageID": "", "ready": false, "restartCount": 3}]}});
        let text = render(&cluster(3), &[serde_json::from_value(pod).expect("a pod")]);
        for line in [
            "demo in namespace shop: Degraded: 1 of 7 followers: demo-follower-4: connecting",
            "leader     demo-leader-x",
            "quorum     3 of 7 followers is in force",
            "survives   4 followers down (writes go on), 2 volumes lost (no acknowledged write is); a leader needs 5 followers to restart",
            "CONDITION  STATUS  REASON  MESSAGE",
            "Ready      True    Open    demo-leader-x takes writes",
            "demo-follower-4  follower  no     3         node2",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_quorum_that_is_asked_for_and_not_in_force_shows() {
        let expected = "write quorum 3 of 7 followers is in force; the spec asks for 5 of 7 followers\n";
        assert_eq!(quorum(&cluster(5)), expected);
        assert_eq!(quorum(&cluster(3)), "write quorum 3 of 7 followers is in force\n");
    }
}
