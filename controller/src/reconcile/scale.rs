//! Step 3 (no client): how many follower pods and leader pods there have to be.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kvcluster_api::resource::KvClusterStatus;

use super::leader_client::LeaderSeen;
use super::validate::Validated;
use crate::build::{self, names};

/// How many follower pods there have to be: as many as the spec asks for, and during a scale-down all that exist.
///
/// A scale-down is complete when an open leader has the smaller number in force, has no change pending, and no longer
/// lists a follower that leaves. Until then another leader could depend on the data of those that leave. `existing` is
/// the number of replicas that the StatefulSet asks for now.
#[must_use]
pub fn follower_pods(
    cluster: &Validated,
    leader: &LeaderSeen,
    previous: &KvClusterStatus,
    existing: Option<i32>,
) -> i32 {
    let wanted = i32::from(cluster.live.followers);
    if !previous.opened && leader.open().is_none() {
        return wanted; // The cluster never took a write, so no follower has data to keep.
    }
    let prefix = format!("{}-", names::followers(&cluster.name));
    let views = leader.answered().map(|leader| leader.status.followers.as_slice()).unwrap_or_default();
    let highest = views.iter().filter_map(|view| view.name.strip_prefix(&prefix)?.parse::<i32>().ok()).max();
    let listed = highest.map_or(0, |ordinal| ordinal.saturating_add(1));
    if let Some(leader) = leader.open() {
        let config = &leader.status.config;
        let in_force = config.pending.is_none() && i32::from(config.in_force.followers) == wanted;
        if in_force && listed <= wanted {
            return wanted;
        }
    }
    // A StatefulSet that was deleted by hand comes back with as many pods as were in use.
    let in_use = existing.unwrap_or(0).max(previous.applied_replicas.unwrap_or(0));
    wanted.max(in_use).max(listed)
}

/// How many leader pods there have to be: one, and the standbys. None in a hibernation.
///
/// The first standbys wait until no pod is left that was made without. When a Deployment grows, Kubernetes adds pods of the
/// old template too, and such a pod takes the lead at once.
#[must_use]
pub fn leader_pods(cluster: &Validated, existing: &[Arc<Pod>]) -> i32 {
    let stays = |pod: &&Arc<Pod>| pod.metadata.deletion_timestamp.is_none();
    let prepared = existing.iter().filter(stays).all(|pod| build::may_stand_by(pod));
    if cluster.hibernated {
        return 0;
    }
    1 + if prepared { i32::from(cluster.standbys) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::validated;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    #[test]
    fn the_first_standbys_wait_until_pods_made_without_are_on_their_way_out() {
        let with = |variable: &str, going: bool| {
            let containers = json!([{"name": "kv-node", "env": [{"name": variable, "value": "x"}]}]);
            let deleted = going.then(|| Timestamp::UNIX_EPOCH.to_string());
            let pod =
                json!({"metadata": {"name": "x", "deletionTimestamp": deleted}, "spec": {"containers": containers}});
            Arc::new(serde_json::from_value(pod).expect("a pod"))
        };
        let two = validated("{leader: {standbys: 2}}");
        assert_eq!(leader_pods(&two, &[]), 3);
        assert_eq!(leader_pods(&two, &[with("ROLE", false), with("TAKEOVER_AFTER_MS", false)]), 1);
        assert_eq!(leader_pods(&two, &[with("ROLE", true), with("TAKEOVER_AFTER_MS", false)]), 3);
        assert_eq!(leader_pods(&validated("{}"), &[with("TAKEOVER_AFTER_MS", false)]), 1);
        assert_eq!(leader_pods(&validated("{leader: {standbys: 2}, hibernated: true}"), &[]), 0);
    }

    #[test]
    fn a_leader_that_does_not_answer_keeps_every_follower_and_a_new_cluster_has_none_to_keep() {
        let three = validated("{replicas: 3, writeQuorum: 2}");
        let no_leader = LeaderSeen::NotRunning("no leader pod runs".to_owned());
        let before = KvClusterStatus { opened: true, applied_replicas: Some(3), ..KvClusterStatus::default() };
        let pods = |previous, existing| follower_pods(&three, &no_leader, previous, existing);
        assert_eq!(pods(&before, Some(7)), 7, "the status may be ahead of what followers store");
        let seven = KvClusterStatus { applied_replicas: Some(7), ..before.clone() };
        assert_eq!(pods(&seven, None), 7, "the StatefulSet was deleted");
        assert_eq!(pods(&KvClusterStatus::default(), Some(7)), 3);
    }
}
