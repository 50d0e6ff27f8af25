//! What a pause and a hibernation change in the conditions.

use kube::ResourceExt;
use kvcluster_api::resource::KvClusterStatus;

use super::{Finding, Seen, Verdict, finding, ready_condition};
use crate::reconcile::validate::Validated;

/// Why the operator leaves a paused cluster alone.
pub(super) const PAUSED: &str = "paused: the operator changes nothing until spec.paused is false";

/// How far a cluster is on its way into hibernation or out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// It is in use.
    Awake,
    /// Its pods end.
    Hibernating,
    /// It has no pods.
    Hibernated,
    /// Its pods start again.
    Waking,
}

impl Rest {
    pub(super) fn of(cluster: &Validated, seen: &Seen<'_>, previous: &KvClusterStatus) -> Self {
        let without_pods = seen.leader_pods.is_empty() && seen.follower_pods.is_empty();
        match cluster.hibernated {
            true if without_pods => Self::Hibernated,
            // The pods of a paused cluster stay.
            true if !cluster.paused => Self::Hibernating,
            _ => {
                let before = previous.conditions.iter().find(|condition| condition.type_ == "Hibernated");
                let wakes = before
                    .is_some_and(|before| matches!(before.reason.as_str(), "Hibernating" | "Hibernated" | "Waking"));
                if wakes && seen.leader.open().is_none() { Self::Waking } else { Self::Awake }
            }
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Awake => "Awake",
            Self::Hibernating => "Hibernating",
            Self::Hibernated => "Hibernated",
            Self::Waking => "Waking",
        }
    }

    fn message(self, seen: &Seen<'_>) -> String {
        match self {
            Self::Awake => "the cluster is in use".to_owned(),
            Self::Hibernating => {
                let pods = seen.leader_pods.iter().chain(seen.follower_pods).map(|pod| pod.name_any());
                format!("the pods end, the leader's first: {} remain", pods.collect::<Vec<_>>().join(", "))
            }
            Self::Hibernated => "no pods run, and the volumes keep the data".to_owned(),
            Self::Waking => {
                format!("the pods start again with the data of the volumes: {}", ready_condition(seen).message)
            }
        }
    }
}

pub(super) fn paused(cluster: &Validated) -> Finding {
    match cluster.paused {
        true => finding("Paused", Verdict::True, "Paused", PAUSED),
        false => finding("Paused", Verdict::False, "NotPaused", "the operator changes the cluster towards the spec"),
    }
}

pub(super) fn hibernated(rest: Rest, seen: &Seen<'_>) -> Finding {
    let verdict = if rest == Rest::Hibernated { Verdict::True } else { Verdict::False };
    finding("Hibernated", verdict, rest.reason(), rest.message(seen))
}

/// The conditions of a cluster that is paused or hibernated: what is missing on purpose is no failure. An object that cannot
/// be applied remains one.
pub(super) fn overrule(found: Finding, cluster: &Validated, rest: Rest, seen: &Seen<'_>) -> Finding {
    use Verdict::{False, True, Unknown};
    let failed = found.type_ == "Progressing" && seen.problem.is_some();
    if failed {
        return found;
    }
    if cluster.paused && found.type_ == "Progressing" {
        return finding("Progressing", False, "Paused", PAUSED);
    }
    let with = |verdict| finding(found.type_, verdict, rest.reason(), rest.message(seen));
    match (rest, found.type_) {
        (Rest::Hibernating | Rest::Hibernated, "Ready" | "QuorumAvailable" | "Degraded") => with(False),
        (Rest::Hibernating | Rest::Hibernated, "ConfigApplied") => with(Unknown),
        (Rest::Hibernating | Rest::Hibernated, "Drainable") => with(True),
        (Rest::Hibernating | Rest::Waking, "Progressing") => with(True),
        (Rest::Hibernated, "Progressing") | (Rest::Waking, "Degraded") => with(False),
        _ => found,
    }
}
