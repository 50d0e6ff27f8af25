//! Whether the operator is changing the cluster towards the spec, and which templates the pods have.

use k8s_openapi::api::apps::v1::DeploymentStatus;

use super::{Finding, Seen, Verdict, config_applied, finding, ready_condition};
use crate::reconcile::plan::situation::is_paused;
use crate::reconcile::plan::{Plan, Rollout};
use crate::reconcile::validate::Validated;

pub(super) fn progressing(cluster: &Validated, seen: &Seen<'_>, opened: bool, missing: &[String]) -> Finding {
    let with = |verdict, reason, message: String| finding("Progressing", verdict, reason, message);
    if let Some((reason, message)) = &seen.problem {
        let reason = if *reason == "NameTaken" { "NameTaken" } else { "ApplyFailed" };
        return with(Verdict::False, reason, message.clone());
    }
    if !opened {
        let waits = if missing.is_empty() { ready_condition(seen).message } else { missing.join("; ") };
        return with(Verdict::True, "Creating", waits);
    }
    match seen.plan.rollout {
        Rollout::Moving | Rollout::Queued => return with(Verdict::True, reason(seen.plan), seen.plan.message.clone()),
        Rollout::Done | Rollout::Blocked | Rollout::Paused => {}
    }
    if let Some(message) = rolling_out(seen) {
        return with(Verdict::True, "RollingOut", message);
    }
    let pods = seen.stateful_set.and_then(|set| set.spec.as_ref()).and_then(|spec| spec.replicas).unwrap_or_default();
    let wanted = i32::from(cluster.live.followers);
    let in_force = seen.leader.open().map(|leader| leader.status.config.in_force.followers);
    if pods != wanted || in_force.is_some_and(|in_force| in_force != cluster.live.followers) {
        let from = in_force.map_or_else(|| pods.to_string(), |in_force| in_force.to_string());
        return with(Verdict::True, "Scaling", format!("from {from} to {wanted} followers"));
    }
    let applied = config_applied(cluster, seen);
    if applied.verdict == Verdict::False && applied.reason == "Pending" {
        return with(Verdict::True, "Configuring", applied.message);
    }
    if seen.plan.rollout == Rollout::Blocked {
        return with(Verdict::False, reason(seen.plan), seen.plan.message.clone());
    }
    with(Verdict::False, "Settled", "the cluster is as the spec asks for".to_owned())
}

/// Whether every pod has the newest template, and otherwise which one does not, and why.
pub(super) fn rolled_out(seen: &Seen<'_>) -> Finding {
    let verdict = if seen.plan.rollout == Rollout::Done { Verdict::True } else { Verdict::False };
    finding("RolledOut", verdict, reason(seen.plan), seen.plan.message.clone())
}

fn reason(plan: &Plan) -> &'static str {
    match plan.rollout {
        Rollout::Done => "Current",
        Rollout::Moving => "RollingOut",
        Rollout::Queued => "RolloutQueued",
        Rollout::Blocked => "RolloutBlocked",
        Rollout::Paused => "Paused",
    }
}

/// Describes how the Deployment replaces or adds leader pods, while it does.
pub(super) fn rolling_out(seen: &Seen<'_>) -> Option<String> {
    let deployment = seen.deployment.filter(|deployment| !is_paused(deployment))?;
    let status = deployment.status.as_ref()?;
    let updated = status.updated_replicas.unwrap_or_default();
    let behind = status.observed_generation != deployment.metadata.generation;
    let old_remain = status.replicas.unwrap_or_default() > updated;
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    if wanted > 1 {
        let available = status.available_replicas.unwrap_or_default();
        return (behind || old_remain || updated < wanted || is_starting(status))
            .then(|| format!("leader: {updated} of {wanted} pods are updated, {available} of all pods are available"));
    }
    (behind || old_remain || updated < 1).then(|| "leader: a new pod takes over".to_owned())
}

/// Whether the pods of the newest template have not all been available at once yet.
fn is_starting(status: &DeploymentStatus) -> bool {
    let conditions = status.conditions.iter().flatten();
    let progressing = conditions.filter(|condition| condition.type_ == "Progressing");
    progressing
        .filter_map(|condition| condition.reason.as_deref())
        .any(|reason| matches!(reason, "NewReplicaSetCreated" | "FoundNewReplicaSet" | "ReplicaSetUpdated"))
}
