//! From what was observed to the [`Situation`] that a plan is made of. Pure.
//!
//! A follower has the newest template when its revision is the one that the StatefulSet asks for. The templates of the
//! objects are compared by their hashes, in an annotation of the StatefulSet and of the Deployment: the API server
//! may store a template in other words than it was given.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kvcluster_api::resource::{Durability, KvClusterStatus};
use kvcluster_api::status::FollowerView;

use super::{Follower, FollowerState, LeaderIs, LeaderTemplate, Move, Plan, Situation};
use crate::build::{Resources, TEMPLATE, names};
use crate::pods;
use crate::reconcile::disruption;
use crate::reconcile::leader_client::LeaderSeen;
use crate::reconcile::observe::Objects;
use crate::reconcile::validate::Validated;

/// The label with the revision of a pod's template.
const REVISION: &str = "controller-revision-hash";
/// How much older than the longest delay an unconfirmed write may be before its follower counts as behind, in
/// milliseconds. Under load there is always a write on its way.
const BEHIND_MS: f64 = 1000.0;

/// What decides which pod may move.
#[must_use]
pub fn situation(
    cluster: &Validated,
    desired: &Resources,
    live: &Objects,
    leader: &LeaderSeen,
    previous: &KvClusterStatus,
) -> Situation {
    Situation {
        rules: disruption::rules(cluster, leader, previous),
        in_memory: cluster.durability == Durability::Memory,
        recorded: live.stateful_set.as_ref().is_none_or(|set| is_recorded(set, &desired.followers, previous)),
        followers: followers(cluster, live, leader),
        behind: behind(leader),
        leader: leader_is(leader, &live.leader_pods),
        leader_template: live.deployment.as_ref().map_or(LeaderTemplate::Current, |deployment| {
            leader_template(deployment, &desired.leader, &live.leader_pods, is_rolled_out(previous))
        }),
    }
}

/// Whether the StatefulSet has the template, and its controller has made a revision of it. A change of its size alone
/// makes no revision: then the status still says that every pod has the newest template. A StatefulSet that has just been
/// made adopts the pods of the one before, and nothing is known of its revision yet.
fn is_recorded(set: &StatefulSet, desired: &StatefulSet, previous: &KvClusterStatus) -> bool {
    let observed = set.status.as_ref().and_then(|status| status.observed_generation);
    let has_revision = set.status.as_ref().is_some_and(|status| status.update_revision.is_some());
    has_revision
        && set.annotations().get(TEMPLATE) == desired.annotations().get(TEMPLATE)
        && (observed == set.metadata.generation || is_rolled_out(previous))
}

fn is_rolled_out(previous: &KvClusterStatus) -> bool {
    previous.conditions.iter().any(|one| one.type_ == "RolledOut" && one.status == "True")
}

fn followers(cluster: &Validated, live: &Objects, leader: &LeaderSeen) -> Vec<Follower> {
    let Some(set) = &live.stateful_set else { return Vec::new() };
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
    let newest = set.status.as_ref().and_then(|status| status.update_revision.as_ref());
    let views = leader.answered().map(|leader| leader.status.followers.as_slice()).unwrap_or_default();
    let one = |ordinal: i32| {
        let name = format!("{}-{ordinal}", names::followers(&cluster.name));
        let pod = live.follower_pods.iter().find(|pod| pod.name_any() == name);
        let view = views.iter().find(|view| view.name == name);
        let state = pod.map_or(FollowerState::Absent, |pod| state(pod, view));
        let why = pod.and_then(|pod| pods::problem(pod)).unwrap_or_else(|| match view {
            _ if pod.is_none() => format!("{name}: the pod does not exist yet"),
            Some(view) => format!("{name}: {}", view.state),
            None => format!("{name}: the leader has not found it"),
        });
        // A pod that does not exist yet gets the newest template.
        let current = pod.is_none_or(|pod| newest.is_some() && pod.labels().get(REVISION) == newest);
        Follower { name, current, state, why }
    };
    (0..replicas).map(one).collect()
}

fn state(pod: &Pod, view: Option<&FollowerView>) -> FollowerState {
    if pod.metadata.deletion_timestamp.is_some() {
        return FollowerState::Absent;
    }
    let streams = view.is_some_and(|view| view.member && !view.retiring && view.confirms());
    // By both: right after a pod was replaced the leader may still list the one before it.
    match (streams, pods::is_ready(pod)) {
        (true, true) => FollowerState::Streams,
        _ if pods::cannot_run(pod) => FollowerState::Broken,
        _ => FollowerState::Silent,
    }
}

/// A follower whose oldest unconfirmed write is older than delays explain.
fn behind(leader: &LeaderSeen) -> Option<String> {
    let leader = leader.answered()?;
    let longest = f64::from(leader.status.config.in_force.max_delay_ms) + BEHIND_MS;
    let behind = leader.status.followers.iter().find(|view| view.lag_ms > longest)?;
    // Without the age, which would change the status each time.
    Some(format!("{}: has not confirmed writes for more than {longest} ms", behind.name))
}

fn leader_is(leader: &LeaderSeen, pods: &[Arc<Pod>]) -> LeaderIs {
    if leader.open().is_some() {
        return LeaderIs::Open;
    }
    let mut staying = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).peekable();
    let broken = staying.peek().is_some() && staying.all(|pod| pods::cannot_run(pod));
    if broken { LeaderIs::Broken } else { LeaderIs::Closed }
}

/// A Deployment whose template may not be used yet is paused, and keeps its pods as they are.
fn leader_template(live: &Deployment, desired: &Deployment, pods: &[Arc<Pod>], rolled_out: bool) -> LeaderTemplate {
    if live.annotations().get(TEMPLATE) != desired.annotations().get(TEMPLATE) || is_paused(live) {
        return LeaderTemplate::Waits;
    }
    if is_rolling(live, rolled_out) {
        let problem = pods.iter().find(|pod| pods::cannot_run(pod)).and_then(|pod| pods::problem(pod));
        return LeaderTemplate::Rolls { problem };
    }
    LeaderTemplate::Current
}

/// Pauses the leader's Deployment while its newest template may not be used.
pub fn pause(desired: &mut Deployment, live: &Objects, situation: &Situation, plan: &Plan) {
    let waits = situation.leader_template == LeaderTemplate::Waits && plan.next != Some(Move::Leader);
    let paused = live.deployment.as_ref().is_some_and(|deployment| is_paused(deployment));
    if let Some(spec) = desired.spec.as_mut() {
        // What is not there need not be set to false, but another may have set it to true.
        spec.paused = (waits || paused).then_some(waits);
    }
}

/// Whether a Deployment is paused.
#[must_use]
pub fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or_default()
}

/// Whether pods of an earlier template remain. A pod that is missing is replaced by one of the newest, and a change of the
/// size alone starts no rollout.
fn is_rolling(deployment: &Deployment, rolled_out: bool) -> bool {
    let Some(status) = deployment.status.as_ref() else { return false };
    let observed = status.observed_generation == deployment.metadata.generation;
    (!observed && !rolled_out) || status.replicas.unwrap_or_default() > status.updated_replicas.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // Goal: a leader pod that is replaced after its loss, or one more standby, is no rollout. Method: a Deployment with the
    // newest template, and each state that its controller may report.
    #[test]
    fn a_leader_rolls_while_pods_of_an_earlier_template_remain() {
        let deployment = |observed: i64, replicas: i32, updated: i32, paused: bool| -> Deployment {
            let status = json!({"observedGeneration": observed, "replicas": replicas, "updatedReplicas": updated});
            let spec = json!({"selector": {}, "template": {}, "replicas": 2, "paused": paused});
            let metadata = json!({"generation": 7, "annotations": {TEMPLATE: "newest"}});
            serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).expect("a deployment")
        };
        let desired = deployment(7, 2, 2, false);
        let rolls = LeaderTemplate::Rolls { problem: None };
        for (name, live, rolled_out, expected) in [
            ("all there", deployment(7, 2, 2, false), true, LeaderTemplate::Current),
            ("one lost", deployment(7, 1, 1, false), true, LeaderTemplate::Current),
            ("one more asked for", deployment(6, 1, 1, false), true, LeaderTemplate::Current),
            ("an earlier one remains", deployment(7, 3, 2, false), true, rolls.clone()),
            ("not taken up yet", deployment(6, 2, 2, false), false, rolls),
            ("paused", deployment(7, 2, 0, true), false, LeaderTemplate::Waits),
        ] {
            assert_eq!(leader_template(&live, &desired, &[], rolled_out), expected, "{name}");
        }
        let mut earlier = deployment(7, 2, 2, false);
        earlier.annotations_mut().insert(TEMPLATE.to_owned(), "earlier".to_owned());
        assert_eq!(leader_template(&earlier, &desired, &[], true), LeaderTemplate::Waits);
    }
}
