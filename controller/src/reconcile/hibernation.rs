//! Part of step 3 (no client): a hibernated cluster has no pods and keeps its volumes.
//!
//! The leader pods end first, so that the leader answers the writes in flight while the followers still confirm them. The
//! StatefulSet then shrinks to no pod, and an annotation keeps the number of followers to return to: the spec may ask for
//! fewer, and those that would leave may have the only copies of a write.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::observe::Objects;
use super::plan::Plan;
use super::plan::situation::is_paused;
use super::validate::Validated;
use crate::build::AWAKE_FOLLOWERS;

/// Which pods a cluster has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// All.
    Awake,
    /// The followers, until the leader pods have ended.
    LeaderEnds,
    /// None.
    Asleep,
}

/// Which pods the cluster should have now. A leader pod that does not end in its time, on a lost machine for example, holds
/// nothing up.
#[must_use]
pub fn stage(cluster: &Validated, leader_pods: &[Arc<Pod>], now: Timestamp) -> Stage {
    let ends = |pod: &Arc<Pod>| pod.metadata.deletion_timestamp.as_ref().is_none_or(|deadline| deadline.0 > now);
    match cluster.hibernated {
        false => Stage::Awake,
        true if leader_pods.iter().any(ends) => Stage::LeaderEnds,
        true => Stage::Asleep,
    }
}

/// How many follower pods a StatefulSet asks for, or did before the hibernation.
#[must_use]
pub fn followers_of(set: &StatefulSet) -> Option<i32> {
    let before = set.annotations().get(AWAKE_FOLLOWERS).and_then(|count| count.parse().ok());
    before.or_else(|| set.spec.as_ref()?.replicas)
}

/// The plan of a cluster without pods. Its Deployment must not stay paused: nothing is left to roll out.
pub fn plan(leader: &mut Deployment, live: &Objects) -> Plan {
    let paused = live.deployment.as_ref().is_some_and(|deployment| is_paused(deployment));
    if let Some(spec) = leader.spec.as_mut() {
        spec.paused = paused.then_some(false);
    }
    Plan::without_pods()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::validated;
    use serde_json::json;

    // Goal: followers confirm the last writes of a leader that ends, and a lost machine holds no hibernation up. Method:
    // every state of a leader pod.
    #[test]
    fn followers_end_after_the_leader_pods() {
        let now: Timestamp = "2026-05-04T03:02:01Z".parse().expect("a time");
        let pod = |deleted: Option<&str>| -> Vec<Arc<Pod>> {
            let pod = json!({"metadata": {"name": "demo-leader-x", "deletionTimestamp": deleted}});
            vec![Arc::new(serde_json::from_value(pod).expect("a pod"))]
        };
        let hibernated = validated("hibernated: true");
        assert_eq!(stage(&hibernated, &pod(None), now), Stage::LeaderEnds);
        assert_eq!(stage(&hibernated, &pod(Some("2026-05-04T03:02:31Z")), now), Stage::LeaderEnds);
        assert_eq!(stage(&hibernated, &pod(Some("2026-05-04T03:01:59Z")), now), Stage::Asleep, "it should be gone");
        assert_eq!(stage(&hibernated, &[], now), Stage::Asleep);
        assert_eq!(stage(&validated("{}"), &[], now), Stage::Awake);
    }

    #[test]
    fn a_hibernated_stateful_set_knows_how_many_followers_come_back() {
        let set = |annotations: serde_json::Value| -> StatefulSet {
            let metadata = json!({"annotations": annotations});
            let spec = json!({"selector": {}, "serviceName": "x", "template": {}, "replicas": 0});
            serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a StatefulSet")
        };
        assert_eq!(followers_of(&set(json!({AWAKE_FOLLOWERS: "7"}))), Some(7));
        assert_eq!(followers_of(&set(json!({}))), Some(0));
    }
}
