//! `spec.service`: how clients reach the Services.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The Services of clients: NAME, which has the leader, and NAME-read, which has the ready followers. A change restarts no
/// pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSettings {
    /// Where the Services can be reached from. ClusterIP: inside the Kubernetes cluster. NodePort: also at a port of every
    /// machine. LoadBalancer: also at an address of the cloud.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// Annotations of the Services, such as those that a cloud's load balancer reads.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = rule!(
        "!self.exists(k, k.startsWith('kvcluster.io/'))",
        "'the annotation %s is set by the operator'.format([self.filter(k, k.startsWith('kvcluster.io/'))[0]])"
    ))]
    pub annotations: BTreeMap<String, String>,
    /// Which followers NAME-read prefers: PreferClose and PreferSameZone those in the zone of the client, PreferSameNode
    /// those on its machine. Reads of followers may be stale either way. Default: no preference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<TrafficDistribution>,
}

/// Where a Service can be reached from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum ServiceType {
    /// Inside the Kubernetes cluster.
    #[default]
    ClusterIP,
    /// Also at a port of every machine.
    NodePort,
    /// Also at an address of the cloud.
    LoadBalancer,
}

/// Which endpoints a Service prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum TrafficDistribution {
    /// Those in the zone of the client. Kubernetes 1.31 and later.
    PreferClose,
    /// The same, by its newer name. Kubernetes 1.34 and later.
    PreferSameZone,
    /// Those on the machine of the client. Kubernetes 1.34 and later.
    PreferSameNode,
}
