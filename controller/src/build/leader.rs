//! The leader. It has no volume, because followers store all data, and it may start on any machine.
//!
//! An upgrade starts the new leader beside the old one. Two at once are safe: followers obey the higher epoch, so the new
//! leader takes over once it has their promises, and the old one acknowledges nothing from then on. Ending the old one
//! first would stop writes for the whole start of a pod.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{ConfigMapEnvSource, EnvFromSource, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::build::{Component, Inputs, PORT, metadata, names, pod, selector};
use crate::reconcile::validate::Validated;

/// How long the leader stays on an unreachable machine, in seconds. Moving it costs nothing, and waiting stops writes. The
/// default of 300 s suits pods whose data would have to move too.
const NODE_LOST_TOLERATION_S: i64 = 5;

pub(super) fn deployment(cluster: &Validated, inputs: &Inputs) -> Deployment {
    let env = vec![pod::env("FOLLOWERS", &discovery_url(cluster))];
    let mut template = pod::template(cluster, Component::Leader, &inputs.token, env);
    if let Some(spec) = template.spec.as_mut() {
        for container in &mut spec.containers {
            container.env_from = Some(vec![EnvFromSource {
                config_map_ref: Some(ConfigMapEnvSource { name: names::config(&cluster.name), optional: None }),
                ..EnvFromSource::default()
            }]);
        }
        let leaves = ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"].map(|taint| Toleration {
            key: Some(taint.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            toleration_seconds: Some(NODE_LOST_TOLERATION_S),
            value: None,
        });
        spec.tolerations.get_or_insert_default().extend(leaves);
    }
    Deployment {
        metadata: metadata(cluster, names::leader(&cluster.name), Some(Component::Leader)),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            selector: selector(cluster, Some(Component::Leader)),
            revision_history_limit: Some(2),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template,
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// Where followers are found. With a known domain the name is absolute, which takes one DNS query instead of one for each
/// entry of the search list. Otherwise the pod's search list completes it.
fn discovery_url(cluster: &Validated) -> String {
    let service = format!("{}.{}.svc", names::peers(&cluster.name), cluster.namespace);
    match &cluster.domain {
        Some(domain) => format!("dns://{service}.{domain}.:{PORT}"),
        None => format!("dns://{service}:{PORT}"),
    }
}
