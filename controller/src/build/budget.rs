//! How many followers a drain and other voluntary disruptions leave.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::build::{Component, Inputs, metadata, names, selector};
use crate::reconcile::validate::Validated;

/// Keeps every follower pod except the spare ones. None when the spec switches it off.
pub(super) fn budget(cluster: &Validated, inputs: &Inputs) -> Option<PodDisruptionBudget> {
    if !cluster.disruption_budget.enabled {
        return None;
    }
    let kept = inputs.follower_pods.saturating_sub(inputs.spare_followers.into()).max(1);
    Some(PodDisruptionBudget {
        metadata: metadata(cluster, names::followers(&cluster.name), Some(Component::Follower)),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(kept)),
            selector: Some(selector(cluster, Some(Component::Follower))),
            // A follower that is not ready does not count, so evicting it changes nothing.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}
