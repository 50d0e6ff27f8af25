//! The `KvCluster` resource: its schema, its rules, and what `kubectl explain kvcluster` shows.
//!
//! Doc comments on the fields of this module are the user manual of the resource: they are part of the CRD. Ordinary
//! comments are for readers of the Rust code.

// The derive of CEL rules repeats the structs in an inner scope, where `pub` has no effect.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

// One rule: its condition, and the message with which the API server refuses, which names the values.
macro_rules! rule {
    ($rule:expr, $message:expr) => {
        kube::core::Rule::new($rule).message(kube::core::Message::Expression($message.to_owned()))
    };
}

mod backup;
mod bootstrap;
mod delay;
mod live;
mod pod_template;
mod service;
mod status;

pub use self::backup::{BackupFailure, BackupSettings, BackupStatus, BackupSuccess};
pub use self::bootstrap::{BackupSource, Bootstrap, BootstrapStatus};
pub use self::delay::{
    Constant, Delay, DelayPreset, Exponential, FollowerDelay, Law, Lognormal, MixturePart, Pareto, SharedDelay, capped,
};
pub use self::pod_template::{DATA_VOLUME, NODE_CONTAINER, PodTemplate, PodVolume};
pub use self::service::{ServiceSettings, ServiceType, TrafficDistribution};
pub use self::status::{AppliedDelay, KvClusterStatus, Phase, Tolerates};

/// The API group of the resource.
pub const GROUP: &str = "kvcluster.io";

/// The longest name of a KvCluster: `NAME-follower-<revision hash>` has to fit into a label of 63 characters.
pub const NAME_LENGTH_MAX: usize = 40;

/// A replicated key-value store: one leader takes the writes, and followers store them. The leader acknowledges a write
/// once `writeQuorum` followers have confirmed it. It delays each send to a follower by a random time, so that the cost
/// of a quorum can be measured. An acknowledged write survives the loss of the leader and of up to `writeQuorum - 1`
/// followers' volumes. A small example: `{"replicas": 5, "writeQuorum": 3}`.
#[derive(Clone, Debug, PartialEq, CustomResource, KubeSchema, Serialize, Deserialize)]
#[kube(
    group = "kvcluster.io",
    version = "v1alpha1",
    kind = "KvCluster",
    namespaced,
    status = "KvClusterStatus",
    derive = "PartialEq",
    shortname = "kvc",
    category = "all",
    doc = "A replicated key-value store: one leader takes the writes, and followers store them.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the cluster takes writes."
    ),
    printcolumn(
        name = "Followers",
        type_ = "string",
        json_path = ".status.followers",
        description = "Followers that have the data and receive new writes, of those that the spec asks for."
    ),
    printcolumn(
        name = "Quorum",
        type_ = "integer",
        json_path = ".status.appliedWriteQuorum",
        description = "The write quorum that is in force now."
    ),
    printcolumn(
        name = "Leader",
        type_ = "string",
        json_path = ".status.leader",
        description = "The pod that leads."
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.phase",
        description = "The state in one word. The conditions have the reasons."
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.message",
        priority = 1,
        description = "What the cluster waits for."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = rule!(
        "self.metadata.name.size() <= 40",
        "'the name %s has %d characters; at most 40 fit into the names of its pods'.format([self.metadata.name, self.metadata.name.size()])"
    ),
    validation = rule!(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "'the name %s cannot name a Service: use a-z, 0-9 and -, and begin with a letter'.format([self.metadata.name])"
    ),
    validation = rule!(
        "!has(self.spec.auth) || !(self.spec.auth.secretName in [self.metadata.name + '-auth', self.metadata.name + '-auth-accepted', self.metadata.name + '-ca', self.metadata.name + '-tls'])",
        "'auth.secretName %s is a Secret of the nodes: clients need another one'.format([self.spec.auth.secretName])"
    ),
    validation = rule!(
        "!has(self.spec.tls) || !has(self.spec.tls.secretName) || !(self.spec.tls.secretName in [self.metadata.name + '-auth', self.metadata.name + '-auth-accepted'])",
        "'tls.secretName %s is the Secret of the token between the nodes: it has no certificate'.format([self.spec.tls.secretName])"
    )
)]
#[x_kube(
    validation = rule!(
        "self.replicas >= 1 && self.replicas <= 64",
        "'replicas is %d: it must be 1 to 64'.format([self.replicas])"
    ),
    validation = rule!(
        "self.writeQuorum >= 1",
        "'writeQuorum is %d: it must be at least 1'.format([self.writeQuorum])"
    ),
    validation = rule!(
        "self.writeQuorum <= self.replicas",
        "'writeQuorum %d is greater than replicas %d: no write could ever be acknowledged'.format([self.writeQuorum, self.replicas])"
    ),
    validation = rule!(
        "self.replicationTimeoutMs >= 1 && self.replicationTimeoutMs <= 600000",
        "'replicationTimeoutMs is %d: it must be 1 to 600000 milliseconds'.format([self.replicationTimeoutMs])"
    ),
    validation = rule!(
        "!has(self.delay.minMs) || self.delay.minMs < self.replicationTimeoutMs",
        "'delay.minMs %d is not below replicationTimeoutMs %d: no write could reach its quorum in time'.format([self.delay.minMs, self.replicationTimeoutMs])"
    ),
    validation = rule!(
        "self.durability == oldSelf.durability",
        "'durability cannot change from %s to %s: the volumes of running followers are fixed; create another KvCluster from a backup of this one (bootstrap.fromBackup)'.format([oldSelf.durability, self.durability])"
    ),
    validation = rule!(
        "!has(self.hibernated) || !self.hibernated || self.durability == 'Disk'",
        "'hibernated: true would lose all data: with durability %s the followers have it only in their pods'.format([self.durability])"
    ),
    validation = rule!(
        "has(self.bootstrap) == has(oldSelf.bootstrap) && (!has(self.bootstrap) || self.bootstrap == oldSelf.bootstrap)",
        "'bootstrap is for new clusters: it cannot be added, changed or removed. Create another KvCluster'"
    ),
    validation = rule!(
        "has(self.tls) == has(oldSelf.tls) && (!has(self.tls) || has(self.tls.secretName) == has(oldSelf.tls.secretName) && (!has(self.tls.secretName) || self.tls.secretName == oldSelf.tls.secretName))",
        "'tls cannot change: nodes with TLS and nodes without it, or those of two CAs, refuse each other. Create another KvCluster from a backup of this one (bootstrap.fromBackup); another certificate of the same CA goes into the same Secret'"
    ),
    validation = rule!(
        "(has(self.separatePorts) && self.separatePorts) == (has(oldSelf.separatePorts) && oldSelf.separatePorts)",
        "'separatePorts cannot change: a leader finds no follower that listens at the other port. Create another KvCluster from a backup of this one (bootstrap.fromBackup)'"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct KvClusterSpec {
    /// The number of followers (N), 1 to 64. They are the pods `NAME-follower-0` to `NAME-follower-(N-1)`. Change it here
    /// or with `kubectl scale kvc NAME --replicas=7`. A new follower counts once it has received all data. A follower
    /// leaves once the remaining ones have all data.
    #[serde(default = "defaults::replicas")]
    pub replicas: i32,

    /// How many followers must confirm a write before the leader acknowledges it (W), 1 to `replicas`. Writes go on while
    /// up to N - W followers are down. No acknowledged write is lost while at most W - 1 volumes are lost. The mean time
    /// to commit is min + (max - min) * W / (N + 1) of a uniform delay. A change takes effect on the running leader without a
    /// restart: see `status.appliedWriteQuorum` and the condition ConfigApplied.
    #[serde(default = "defaults::write_quorum")]
    pub write_quorum: i32,

    /// The delay before each send of a write to a follower, drawn anew for each write and follower. A change takes effect
    /// on the running leader without a restart.
    #[serde(default)]
    pub delay: Delay,

    /// How long a write waits for its quorum, in milliseconds, 1 to 600000 and above `delay.minMs`. After that the client
    /// receives "quorum not reached", and the outcome of the write is unknown. A change takes effect without a restart.
    #[serde(default = "defaults::replication_timeout_ms")]
    pub replication_timeout_ms: i32,

    /// Where followers store the data. It cannot change later. Disk: each follower has a volume and confirms a write once
    /// it is synced, so the data survives restarts. Memory: a restarted follower is empty, counts as a lost disk, and
    /// receives all data again.
    #[serde(default)]
    pub durability: Durability,

    /// The volume of each follower, for durability Disk.
    #[serde(default)]
    pub storage: Storage,

    /// The image of leader and followers. Default: the image of the operator. A change replaces the pods one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// When a machine pulls the image: Always, IfNotPresent or Never. Default: as for the operator's own image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// Names of Secrets with registry credentials for the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,

    /// How much the pods log: error, warn, info, debug or trace. A change replaces the pods one by one.
    #[serde(default)]
    pub log_level: LogLevel,

    /// Standbys, and resources and scheduling of the leader's pods. A leader keeps all keys in memory and has no volume.
    #[serde(default)]
    pub leader: LeaderSettings,

    /// Resources and scheduling of the followers' pods.
    #[serde(default)]
    pub followers: PodSettings,

    /// How the followers are spread over the machines.
    #[serde(default)]
    pub spread: Spread,

    /// How clients reach the Services.
    #[serde(default)]
    pub service: ServiceSettings,

    /// Which pods may connect to the cluster's pods.
    #[serde(default)]
    pub network_policy: NetworkAccess,

    /// Whether replication and administration have ports of their own, 8001 and 8002, so that the NetworkPolicy admits clients
    /// to neither: leaders alone replicate, and the operator and backups administer. It cannot change later. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub separate_ports: bool,

    /// How many followers drains and other voluntary disruptions leave.
    #[serde(default)]
    pub disruption_budget: DisruptionBudget,

    /// Whether the operator leaves the cluster alone. While it is true the operator changes no object, no pod and no setting
    /// of the leader, and status goes on reporting what it observes. It only keeps the label of the pod that leads, by which
    /// clients find it. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,

    /// Whether the cluster rests: no pods, while the volumes keep the data. Writes in flight are answered first. A change
    /// back to false starts the pods again with all data. It needs durability Disk. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hibernated: bool,

    /// The tokens without which no client may read or write. Default: clients need none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<ClientAuth>,

    /// TLS on every port: `{}` with certificates of the operator, or with those of a Secret. Clients find the certificates of
    /// the CA under the key ca.crt of the ConfigMap `NAME-ca`. It cannot change later. Default: no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// Backups by a schedule. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupSettings>,

    /// Where a new cluster has its first data from. It cannot be added, changed or removed later. Default: the cluster
    /// starts empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,
}

/// Where the certificate of the nodes comes from. Nodes take over a new one without a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// The name of a Secret in the namespace of the KvCluster, as cert-manager writes it: tls.crt, tls.key and ca.crt. The
    /// certificate is for servers and clients (usages `server auth` and `client auth`), and names `NAME.NAMESPACE.svc` and
    /// `NAME-followers.NAMESPACE.svc`, with the cluster's domain where the operator knows it. Until it exists, no pod starts.
    /// Default: the operator has a CA of its own for each KvCluster, and renews certificates in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rule!(
        "self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')",
        "'tls.secretName %s is not the name of a Secret: use a-z, 0-9, - and .'.format([self])"
    ))]
    pub secret_name: Option<String>,
}

/// The tokens of clients. The nodes take over a change of the Secret without a restart. To rotate a token, put the new one
/// above the old one, change the clients, and remove the old one. Adding or removing `auth` replaces the pods one by one.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientAuth {
    /// The name of a Secret in the namespace of the KvCluster. Until it exists, no pod starts.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rule!(
        "self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')",
        "'auth.secretName %s is not the name of a Secret: use a-z, 0-9, - and .'.format([self])"
    ))]
    pub secret_name: String,
    /// The key of the Secret with the tokens, one a line, in printable ASCII without spaces. Empty lines and lines that begin
    /// with # do not count. All of them are accepted.
    #[serde(default = "defaults::auth_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rule!(
        "self.matches('^[-._a-zA-Z0-9]+$')",
        "'auth.key %s is not a key of a Secret: use a-z, A-Z, 0-9, -, _ and .'.format([self])"
    ))]
    pub key: String,
}

/// Where followers store the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum Durability {
    /// On a volume each.
    #[default]
    Disk,
    /// Only in the pod's memory.
    Memory,
}

/// The volume of each follower. Once the cluster exists its class cannot change, and its size only grows.
#[derive(Clone, Debug, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(
    validation = rule!(
        "!isQuantity(self.size) || !isQuantity(oldSelf.size) || !quantity(self.size).isLessThan(quantity(oldSelf.size))",
        "'storage.size cannot shrink from %s to %s: a volume only grows; create another KvCluster from a backup of this one (bootstrap.fromBackup)'.format([oldSelf.size, self.size])"
    ),
    validation = kube::core::Rule::new(
        "has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)"
    ).message("storage.storageClassName cannot change: the volumes of running followers are fixed; create another KvCluster from a backup of this one (bootstrap.fromBackup)")
)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// The size of each follower's volume, such as 1Gi; at least 64Mi. A follower's log needs up to 2 1/3 times the size
    /// of its newest records, and about 50Mi more. It may grow later, without a restart, where the StorageClass allows it.
    #[serde(default = "defaults::storage_size")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        validation = rule!(
            "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
            "'storage.size %s is not a size such as 1Gi'.format([self])"
        ),
        validation = rule!(
            "!isQuantity(self) || !quantity(self).isLessThan(quantity('64Mi'))",
            "'storage.size %s is too small for the log of a follower: it must be at least 64Mi'.format([self])"
        )
    )]
    pub size: String,
    /// The StorageClass of the volumes. Default: the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// Whether the volumes are kept when the KvCluster is deleted: Retain or Delete. A new KvCluster with the same name and
    /// namespace uses retained volumes, with their data.
    #[serde(default)]
    pub on_delete: VolumePolicy,
    /// Whether the volumes of followers that leave in a scale-down are kept: Retain or Delete.
    #[serde(default)]
    pub on_scale_down: VolumePolicy,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            size: defaults::storage_size(),
            storage_class_name: None,
            on_delete: VolumePolicy::default(),
            on_scale_down: VolumePolicy::default(),
        }
    }
}

/// Whether a volume that is no longer used is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum VolumePolicy {
    /// It is kept.
    #[default]
    Retain,
    /// It is deleted, with its data.
    Delete,
}

/// When a machine pulls the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum ImagePullPolicy {
    /// Before every start.
    Always,
    /// When the machine does not have it.
    IfNotPresent,
    /// Never. The machine must have it already.
    Never,
}

/// How much a pod logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it, and a description each would only lengthen the manual")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// Standbys, and resources and scheduling of the leader's pods. A change replaces the pods one by one.
#[derive(Clone, Debug, Default, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = rule!(
    "self.standbys >= 0 && self.standbys <= 4",
    "'leader.standbys is %d: it must be 0 to 4'.format([self.standbys])"
))]
#[serde(rename_all = "camelCase")]
pub struct LeaderSettings {
    /// The number of leader pods beside the one that leads, 0 to 4, on other machines where possible; 1 is recommended. A
    /// standby takes over once the followers have not heard the leader for half a second. The Service NAME has the pod that
    /// leads. Without standbys a lost leader is replaced once Kubernetes notices the loss.
    #[serde(default)]
    pub standbys: i32,
    /// Resources and scheduling.
    #[serde(flatten)]
    pub pod: PodSettings,
}

/// Resources and scheduling of a pod. A change replaces the pods one by one.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSettings {
    /// CPU and memory. Default: requests of 20m CPU and 32Mi memory, no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Labels that the machine must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pod tolerates, in addition to those that the operator sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// The PriorityClass of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Labels, annotations, affinity, variables, sidecars and the like. Names that the operator sets itself are refused.
    #[serde(default, skip_serializing_if = "PodTemplate::is_empty")]
    pub pod_template: PodTemplate,
}

/// CPU and memory of a pod.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
pub struct Resources {
    /// What the scheduler reserves, such as `{"cpu": "100m", "memory": "64Mi"}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub requests: BTreeMap<String, Quantity>,
    /// The most that the pod may use. A pod that exceeds its memory is killed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub limits: BTreeMap<String, Quantity>,
}

/// How the followers are spread over the machines.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spread {
    /// The label of machines over whose values followers are spread, such as kubernetes.io/hostname or
    /// topology.kubernetes.io/zone.
    #[serde(default = "defaults::topology_key")]
    #[schemars(length(min = 1, max = 316))]
    pub topology_key: String,
    /// Preferred: a follower starts even where that makes the spread uneven. Required: it waits.
    #[serde(default)]
    pub mode: SpreadMode,
}

impl Default for Spread {
    fn default() -> Self {
        Self { topology_key: defaults::topology_key(), mode: SpreadMode::default() }
    }
}

/// How strict the spread is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum SpreadMode {
    /// As even as the machines allow.
    #[default]
    Preferred,
    /// A follower that would make the spread uneven waits.
    Required,
}

/// Which pods may connect to the cluster's pods, as a NetworkPolicy. The policy also limits the connections of the
/// cluster's pods to each other and to DNS.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkAccess {
    /// Whether there is a NetworkPolicy.
    #[serde(default = "defaults::enabled")]
    pub enabled: bool,
    /// The clients that may read and write. Empty: every client, inside and outside the Kubernetes cluster. The cluster's
    /// own pods and the operator may always connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<NetworkPolicyPeer>,
}

impl Default for NetworkAccess {
    fn default() -> Self {
        Self { enabled: defaults::enabled(), clients: Vec::new() }
    }
}

/// How many followers drains and other voluntary disruptions leave, as a PodDisruptionBudget.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionBudget {
    /// Whether there is a PodDisruptionBudget. It keeps as many followers as writes and a restarting leader need. The
    /// condition Drainable reports whether it allows a drain. Without it a drain may stop writes, and with durability
    /// Memory it may lose acknowledged writes.
    #[serde(default = "defaults::enabled")]
    pub enabled: bool,
}

impl Default for DisruptionBudget {
    fn default() -> Self {
        Self { enabled: defaults::enabled() }
    }
}

// One place for the defaults of the schema and of Rust.
mod defaults {
    pub(super) fn replicas() -> i32 {
        5
    }
    pub(super) fn write_quorum() -> i32 {
        3
    }
    pub(super) fn replication_timeout_ms() -> i32 {
        5000
    }
    pub(super) fn storage_size() -> String {
        "1Gi".to_owned()
    }
    pub(super) fn auth_key() -> String {
        "tokens".to_owned()
    }

    pub(super) fn backups_kept() -> i32 {
        7
    }
    pub(super) fn topology_key() -> String {
        "kubernetes.io/hostname".to_owned()
    }
    pub(super) fn enabled() -> bool {
        true
    }
}

// Amounts may be numbers (`cpu: 2`) or strings (`cpu: 500m`), as in a pod.
fn quantities(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "additionalProperties": {
            "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
            "x-kubernetes-int-or-string": true
        }
    })
}
