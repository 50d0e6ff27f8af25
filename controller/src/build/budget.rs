//! Drains and other voluntary disruptions leave a write quorum of followers.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::build::{Component, metadata, names, selector};
use crate::reconcile::validate::Validated;

pub(super) fn budget(cluster: &Validated) -> PodDisruptionBudget {
    let quorum = i32::from(cluster.live.write_quorum);
    PodDisruptionBudget {
        metadata: metadata(cluster, names::followers(&cluster.name), Some(Component::Follower)),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(quorum)),
            selector: Some(selector(cluster, Some(Component::Follower))),
            // A follower that is not ready protects nobody: it may always be evicted.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
