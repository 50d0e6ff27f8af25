//! The leader pods. They have no volume, because followers store all data, and may start on any machine.
//!
//! An upgrade starts a new pod beside the old ones. Without standbys the new leader takes over once it has the followers'
//! promises, and the old one acknowledges nothing from then on. Ending the old one first would stop writes for the whole
//! start of a pod. With standbys the new pod waits, and is ready as a standby. Kubernetes then ends an old pod; one that
//! leads hands over.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{ConfigMapEnvSource, EnvFromSource, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::build::{Component, Inputs, PORT, additions, names, pod, replication_port, selector, workload_metadata};
use crate::reconcile::certificates::server_name;
use crate::reconcile::validate::Validated;

/// How long the leader stays on an unreachable machine, in seconds. Moving it costs nothing, and waiting stops writes. The
/// default of 300 s suits pods whose data would have to move too.
const NODE_LOST_TOLERATION_S: i64 = 5;

/// The setting that the pods have in a cluster with standbys alone.
pub(super) const TAKEOVER: &str = "TAKEOVER_AFTER_MS";

/// For how long followers must not have heard the leader before a standby takes over, in milliseconds.
const TAKEOVER_AFTER_MS: u32 = 500;

pub(super) fn deployment(cluster: &Validated, inputs: &Inputs) -> Deployment {
    // The leader's page shows commands for this resource in place of controls that the operator would overrule.
    let resource = format!("{}/{}", cluster.namespace, cluster.name);
    let mut env = vec![pod::env("FOLLOWERS", &discovery_url(cluster)), pod::env("KVCLUSTER", &resource)];
    // What followers and standbys name to clients. By address, because pods of a Deployment have no names in DNS.
    env.push(pod::env_of_field("POD_IP", "status.podIP"));
    let host = if cluster.platform.ipv6 { "[$(POD_IP)]" } else { "$(POD_IP)" };
    // With TLS by the name of the Service: no certificate names an address.
    let url = match &cluster.tls {
        Some(_) => format!("https://{}:{PORT}", server_name(&cluster.namespace, &cluster.name)),
        None => format!("http://{host}:{PORT}"),
    };
    env.push(pod::env("ADVERTISE_URL", &url));
    if cluster.standbys > 0 {
        // Here and not in the ConfigMap: a pod that restarts while standbys are being removed would read 0 there, and
        // take the lead back from the pod that replaces it.
        env.push(pod::env(TAKEOVER, &TAKEOVER_AFTER_MS.to_string()));
    }
    let mut template = pod::template(cluster, Component::Leader, env);
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
        spec.topology_spread_constraints = (cluster.standbys > 0).then(|| vec![spread(cluster)]);
    }
    additions::add(&mut template, cluster, Component::Leader);
    Deployment {
        metadata: workload_metadata(cluster, names::leader(&cluster.name), Component::Leader, &template),
        spec: Some(DeploymentSpec {
            replicas: Some(inputs.leader_pods),
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

/// Spreads the pods of one revision: a standby on the machine of the leader would be lost with it.
fn spread(cluster: &Validated) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: cluster.spread.topology_key.clone(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(selector(cluster, Some(Component::Leader))),
        match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
        ..TopologySpreadConstraint::default()
    }
}

/// Where followers are found. With a known domain the name is absolute, which takes one DNS query instead of one for each
/// entry of the search list. Otherwise the pod's search list completes it.
fn discovery_url(cluster: &Validated) -> String {
    let service = format!("{}.{}.svc", names::peers(&cluster.name), cluster.namespace);
    let port = replication_port(cluster);
    match &cluster.domain {
        Some(domain) => format!("dns://{service}.{domain}.:{port}"),
        None => format!("dns://{service}:{port}"),
    }
}
