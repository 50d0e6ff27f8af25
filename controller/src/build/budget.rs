//! How many followers a drain and other voluntary disruptions leave.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kvcluster_api::tolerance::Tolerance;

use crate::build::{Component, metadata, names, selector};
use crate::reconcile::validate::Validated;

/// Keeps as many followers as a restarting leader needs: max(W, N - W + 1). W of them acknowledge writes. N - W + 1 of
/// them, with durability Memory, also mean that evictions never empty more than W - 1 followers at once.
pub(super) fn budget(cluster: &Validated) -> PodDisruptionBudget {
    let needed = Tolerance::of(cluster.live.followers, cluster.live.write_quorum).followers_needed_to_restart;
    PodDisruptionBudget {
        metadata: metadata(cluster, names::followers(&cluster.name), Some(Component::Follower)),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(needed.into())),
            selector: Some(selector(cluster, Some(Component::Follower))),
            // A follower that is not ready does not count, so evicting it changes nothing.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
