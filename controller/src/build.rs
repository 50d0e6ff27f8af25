//! From a validated KvCluster to its Kubernetes objects. Pure: no client, one file for each object.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodTemplateSpec, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ObjectMeta;
use kvcluster_api::resource::NODE_CONTAINER;

use crate::hash::fnv1a;
use crate::reconcile::certificates::Certificates;
use crate::reconcile::tokens::Tokens;
use crate::reconcile::validate::Validated;

mod additions;
mod backup;
mod bootstrap;
mod budget;
mod config_map;
mod followers;
mod leader;
mod network_policy;
mod pod;
mod secret;
mod service_account;
mod services;
mod tls;

pub use backup::{BACKUP, CONTAINER as BACKUP_CONTAINER};
pub use bootstrap::BOOTSTRAP;
pub(crate) use followers::ON_DELETE;
pub use secret::{ACCEPTED_KEY, DROPPED_KEY, TOKEN_KEY, new_token};

/// The port of every node's HTTP interface.
pub const PORT: i32 = 8000;

/// The port of every node for Redis' protocol.
pub const RESP_PORT: i32 = 6379;

/// The port of a follower for replication, in a cluster with separate ports.
pub const REPLICATION_PORT: i32 = 8001;

/// The port of every node for administration, in a cluster with separate ports.
pub const ADMIN_PORT: i32 = 8002;

/// The name of that port in pods and Services.
pub const ADMIN: &str = "admin";

/// The value of `app.kubernetes.io/name` on every object.
pub const APP: &str = "kvcluster";

/// The label with the name of the KvCluster.
pub const INSTANCE: &str = "app.kubernetes.io/instance";

/// The label with the role of a pod.
pub const COMPONENT: &str = "app.kubernetes.io/component";

/// The label of the pod that leads, with the value `true`, in a cluster with standbys. The operator sets it.
pub const LEADS: &str = "kvcluster.io/leads";

/// The annotation of the StatefulSet, the Deployment and the Job of a bootstrap with the hash of their pod templates.
pub const TEMPLATE: &str = "kvcluster.io/template";

/// The annotation of a hibernated cluster's StatefulSet with the number of followers that come back.
pub const AWAKE_FOLLOWERS: &str = "kvcluster.io/awake-followers";

/// The value of `app.kubernetes.io/managed-by` on every object.
pub const MANAGER: &str = "kv-controller";

/// The desired objects of one KvCluster.
#[derive(Clone, Debug)]
pub struct Resources {
    /// The identity of the pods, without rights and without a token.
    pub account: ServiceAccount,
    /// The token that guards replication and administration, for users.
    pub secret: Secret,
    /// The tokens that the nodes accept.
    pub accepted: Secret,
    /// The operator's CA for this cluster, whose key it alone reads. None where it has none.
    pub authority: Option<Secret>,
    /// What the nodes show. None where the operator does not issue it.
    pub certificate: Option<Secret>,
    /// The certificates of the CA, for clients. None without TLS.
    pub trusted: Option<ConfigMap>,
    /// The settings of the next leader that starts.
    pub config: ConfigMap,
    /// The name behind which the leader finds its followers.
    pub peers: Service,
    /// The leader, for clients.
    pub write: Service,
    /// The ready followers, for clients.
    pub read: Service,
    /// The followers.
    pub followers: StatefulSet,
    /// The leader.
    pub leader: Deployment,
    /// Keeps enough followers through drains. None when the spec switches it off.
    pub budget: Option<PodDisruptionBudget>,
    /// Which pods may connect. None when the spec switches it off.
    pub policy: Option<NetworkPolicy>,
    /// Makes backups. None when the spec has no schedule.
    pub backup: Option<CronJob>,
    /// Where its pods may connect to. None when they need no more than the leader.
    pub backup_policy: Option<NetworkPolicy>,
    /// Restores the backup with which the cluster starts. None when there is none to restore now.
    pub bootstrap: Option<Job>,
    /// Where its pods may connect to. None when they need no more than the leader.
    pub bootstrap_policy: Option<NetworkPolicy>,
}

/// What the objects depend on beside the spec.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The tokens that guard replication and administration.
    pub tokens: Tokens,
    /// The certificates of the nodes.
    pub certificates: Certificates,
    /// The number of follower pods: more than the spec asks for while a scale-down is under way.
    pub follower_pods: i32,
    /// Whether the cluster is hibernated and its leader pods have ended, so that no follower pod is to run.
    pub asleep: bool,
    /// How many of them may be disrupted at once.
    pub spare_followers: u16,
    /// The number of leader pods: fewer than the spec asks for while pods are prepared for the first standbys.
    pub leader_pods: i32,
    /// Whether the cluster was ever open for writes.
    pub opened: bool,
    /// Whether the backup of the spec is to be restored now.
    pub bootstraps: bool,
    /// Whether the Service of the leader selects the pod with the label [`LEADS`].
    pub leader_by_label: bool,
}

/// Builds every object of a KvCluster.
#[must_use]
pub fn build(cluster: &Validated, inputs: &Inputs) -> Resources {
    Resources {
        account: service_account::service_account(cluster),
        secret: secret::wanted(cluster, &inputs.tokens),
        accepted: secret::accepted(cluster, &inputs.tokens),
        authority: tls::authority(cluster, inputs),
        certificate: tls::certificate(cluster, inputs),
        trusted: tls::trusted(cluster, inputs),
        config: config_map::config_map(cluster, inputs.opened),
        peers: services::peers(cluster),
        write: services::write(cluster, inputs.leader_by_label),
        read: services::read(cluster),
        followers: followers::stateful_set(cluster, inputs),
        leader: leader::deployment(cluster, inputs),
        budget: budget::budget(cluster, inputs),
        policy: network_policy::network_policy(cluster),
        backup: backup::cron_job(cluster),
        backup_policy: backup::policy(cluster),
        bootstrap: bootstrap::job(cluster, inputs),
        bootstrap_policy: bootstrap::policy(cluster, inputs),
    }
}

/// The ports of a component, by name.
fn ports(cluster: &Validated, component: Component) -> Vec<(&'static str, i32)> {
    let separate: &[_] = match (cluster.separate_ports, component) {
        (false, _) => &[],
        (true, Component::Leader) => &[(ADMIN, ADMIN_PORT)],
        (true, Component::Follower) => &[("replication", REPLICATION_PORT), (ADMIN, ADMIN_PORT)],
    };
    [("http", PORT), ("redis", RESP_PORT)].into_iter().chain(separate.iter().copied()).collect()
}

/// The port at which a node is administered.
fn admin_port(cluster: &Validated) -> i32 {
    if cluster.separate_ports { ADMIN_PORT } else { PORT }
}

/// The port at which a leader finds its followers.
fn replication_port(cluster: &Validated) -> i32 {
    if cluster.separate_ports { REPLICATION_PORT } else { PORT }
}

/// The role of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// Takes the writes.
    Leader,
    /// Stores them.
    Follower,
}

impl Component {
    /// The value of `app.kubernetes.io/component`, and of the node's ROLE.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
        }
    }
}

/// The names of a cluster's objects.
pub mod names {
    /// The leader's Deployment.
    #[must_use]
    pub fn leader(cluster: &str) -> String {
        format!("{cluster}-leader")
    }
    /// The followers' StatefulSet; its pods are this and an ordinal.
    #[must_use]
    pub fn followers(cluster: &str) -> String {
        format!("{cluster}-follower")
    }
    /// What the names of the followers' claims begin with; an ordinal follows.
    #[must_use]
    pub fn claim_prefix(cluster: &str) -> String {
        format!("{}-{}-", super::followers::DATA, followers(cluster))
    }
    /// The headless Service of the followers.
    #[must_use]
    pub fn peers(cluster: &str) -> String {
        format!("{cluster}-followers")
    }
    /// The Service of the leader.
    #[must_use]
    pub fn write(cluster: &str) -> String {
        cluster.to_owned()
    }
    /// The Service of the ready followers.
    #[must_use]
    pub fn read(cluster: &str) -> String {
        format!("{cluster}-read")
    }
    /// The ConfigMap of what a leader starts with.
    #[must_use]
    pub fn config(cluster: &str) -> String {
        format!("{cluster}-config")
    }
    /// The CronJob of backups, and the NetworkPolicy of its pods.
    #[must_use]
    pub fn backup(cluster: &str) -> String {
        format!("{cluster}-backup")
    }
    /// The Job that restores the backup with which a cluster starts, and the NetworkPolicy of its pods.
    #[must_use]
    pub fn bootstrap(cluster: &str) -> String {
        format!("{cluster}-bootstrap")
    }
    /// The Secret with the token.
    #[must_use]
    pub fn secret(cluster: &str) -> String {
        format!("{cluster}-auth")
    }

    /// The Secret with the operator's CA, and the ConfigMap with the certificates of the CA for clients.
    #[must_use]
    pub fn authority(cluster: &str) -> String {
        format!("{cluster}-ca")
    }

    /// The Secret with the certificate that the operator issues to the nodes.
    #[must_use]
    pub fn certificate(cluster: &str) -> String {
        format!("{cluster}-tls")
    }

    /// The Secret with the tokens that the nodes accept.
    #[must_use]
    pub fn accepted_tokens(cluster: &str) -> String {
        format!("{}-accepted", secret(cluster))
    }
}

/// Whether a leader pod was made for a cluster with standbys, and so may wait as a standby.
#[must_use]
pub fn may_stand_by(pod: &Pod) -> bool {
    has_setting(pod, leader::TAKEOVER)
}

/// Whether a pod was made for a cluster with TLS.
#[must_use]
pub fn speaks_tls(pod: &Pod) -> bool {
    has_setting(pod, pod::TLS_SETTING)
}

fn has_setting(pod: &Pod, setting: &str) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let nodes = containers.filter(|container| container.name == NODE_CONTAINER);
    nodes.flat_map(|container| container.env.iter().flatten()).any(|env| env.name == setting)
}

/// The labels that select the pods of a cluster, or those of one component. They never change: selectors are immutable.
#[must_use]
pub fn selector_labels(cluster: &str, component: Option<Component>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), APP.to_owned()),
        (INSTANCE.to_owned(), cluster.to_owned()),
    ]);
    if let Some(component) = component {
        labels.insert(COMPONENT.to_owned(), component.as_str().to_owned());
    }
    labels
}

/// The labels of an object: those that select, and who manages it.
#[must_use]
pub fn labels(cluster: &str, component: Option<Component>) -> BTreeMap<String, String> {
    let mut labels = selector_labels(cluster, component);
    labels.insert("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned());
    labels
}

/// The label selector of a component, as the scale subresource reports it.
#[must_use]
pub fn selector_text(cluster: &str, component: Component) -> String {
    let pairs: Vec<String> =
        selector_labels(cluster, Some(component)).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

fn selector(cluster: &Validated, component: Option<Component>) -> LabelSelector {
    LabelSelector { match_labels: Some(selector_labels(&cluster.name, component)), match_expressions: None }
}

/// The metadata of an object with this pod template.
fn workload_metadata(
    cluster: &Validated,
    name: String,
    component: Component,
    template: &PodTemplateSpec,
) -> ObjectMeta {
    let template = serde_json::to_string(template).unwrap_or_default();
    let annotations = BTreeMap::from([(TEMPLATE.to_owned(), fnv1a(template.as_bytes()))]);
    ObjectMeta { annotations: Some(annotations), ..metadata(cluster, name, Some(component)) }
}

fn metadata(cluster: &Validated, name: String, component: Option<Component>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(labels(&cluster.name, component)),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests;
