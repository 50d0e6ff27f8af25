//! What the operator reports of a KvCluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup::BackupStatus;
use super::bootstrap::BootstrapStatus;
use crate::config::LiveConfig;
use crate::tolerance::Tolerance;

/// What the operator observed. `kubectl wait --for=condition=Ready kvc/NAME` waits until the cluster takes writes.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KvClusterStatus {
    /// The generation of the spec that this status describes; -1 before the operator has seen the KvCluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The state in one word: Creating, Recovering, Ready, Updating, Degraded, Unavailable, Hibernating,
    /// Hibernated or Invalid.
    #[serde(default)]
    pub phase: Phase,

    /// What the cluster waits for or what is wrong, in one sentence. Empty in phase Ready, unless the
    /// cluster is paused.
    #[serde(default)]
    pub message: String,

    /// The pod that leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,

    /// Whether the cluster was ever open for writes, after the restore of `spec.bootstrap`. From then on an empty follower
    /// is one that lost its data, and a leader does not open an empty cluster again.
    #[serde(default)]
    pub opened: bool,

    /// Followers that have the data and receive new writes, and followers that the spec asks for, as READY/DESIRED.
    #[serde(default)]
    pub followers: String,

    /// Follower pods that exist, for `kubectl scale` and autoscalers.
    #[serde(default)]
    pub replicas: i32,

    /// Followers that have the data and receive new writes.
    #[serde(default)]
    pub ready_replicas: i32,

    /// The label selector of the follower pods, for autoscalers.
    #[serde(default)]
    pub selector: String,

    /// The write quorum that is in force now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_write_quorum: Option<i32>,

    /// The number of followers that is in force now. Only these count for a quorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_replicas: Option<i32>,

    /// The delay that is in force now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_delay: Option<AppliedDelay>,

    /// The replication timeout that is in force now, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_replication_timeout_ms: Option<i32>,

    /// Which failures the cluster survives with the values that are in force now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerates: Option<Tolerates>,

    /// The last backup by the schedule of the spec, or by hand from its CronJob, and the last one that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupStatus>,

    /// How far the restore of `spec.bootstrap` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapStatus>,

    /// Ready: the cluster takes writes. Progressing: the operator is changing the cluster towards the spec.
    /// QuorumAvailable: enough followers confirm writes. ConfigApplied: quorum, delay, timeout and number of followers of
    /// the spec are in force. Degraded: the leader does not take writes, or a follower is missing. Drainable: a drain may
    /// evict followers. RolledOut: every pod has the newest template; otherwise the message says which pod waits for what.
    /// CertificateValid: the nodes have a certificate that clients and other nodes accept, where the spec asks for TLS.
    /// Paused: the operator changes nothing. Hibernated: no pods run, and the volumes keep the data. BackupSucceeded: the
    /// last backup was verified. Bootstrapped: the backup of `spec.bootstrap` is restored. VolumesGrown: the followers'
    /// volumes have the size of the spec. Reconciling: the cluster is not as the spec asks for yet. Stalled: it stays so until
    /// a person changes something.
    #[serde(default)]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// One word for the state of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub enum Phase {
    /// It has never taken writes.
    #[default]
    Creating,
    /// A leader collects the followers' data.
    Recovering,
    /// It takes writes, and every follower has the data.
    Ready,
    /// It takes writes, and the operator is changing it towards the spec.
    Updating,
    /// It takes writes, and a follower is missing.
    Degraded,
    /// It takes no writes.
    Unavailable,
    /// Its pods end, as the spec asks for.
    Hibernating,
    /// No pods run, as the spec asks for, and the volumes keep the data.
    Hibernated,
    /// The spec contradicts itself. The operator changes nothing until the spec is corrected.
    Invalid,
}

/// The delay that is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppliedDelay {
    /// The shortest delay, in milliseconds.
    pub min_ms: i32,
    /// The longest delay, in milliseconds.
    pub max_ms: i32,
}

/// Which failures a cluster of N followers with the write quorum W survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tolerates {
    /// How many followers may be down before writes stop: N - W.
    pub followers_down: i32,
    /// How many followers' volumes may be lost with no acknowledged write lost: W - 1.
    pub disks_lost: i32,
    /// How many followers a restarting leader needs: the greater of N - W + 1 and W.
    pub followers_needed_to_restart: i32,
}

impl From<&LiveConfig> for AppliedDelay {
    fn from(config: &LiveConfig) -> Self {
        Self { min_ms: milliseconds(config.min_delay_ms), max_ms: milliseconds(config.max_delay_ms) }
    }
}

impl From<Tolerance> for Tolerates {
    fn from(tolerance: Tolerance) -> Self {
        let Tolerance { followers_down, disks_lost, followers_needed_to_restart } = tolerance;
        Self {
            followers_down: followers_down.into(),
            disks_lost: disks_lost.into(),
            followers_needed_to_restart: followers_needed_to_restart.into(),
        }
    }
}

impl KvClusterStatus {
    /// Reports these values as those in force.
    pub fn report_in_force(&mut self, config: &LiveConfig) {
        self.applied_write_quorum = Some(config.write_quorum.into());
        self.applied_replicas = Some(config.followers.into());
        self.applied_delay = Some(config.into());
        self.applied_replication_timeout_ms = Some(milliseconds(config.replication_timeout_ms));
        self.tolerates = Some(Tolerance::of(config.followers, config.write_quorum).into());
    }
}

// A node accepts far fewer milliseconds than an i32 can count.
fn milliseconds(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

// A list that server-side apply merges by the condition's type.
fn conditions(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let item = generator.subschema_for::<Condition>();
    schemars::json_schema!({
        "type": "array",
        "items": item,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_force_is_reported_with_what_it_tolerates() {
        let mut status = KvClusterStatus::default();
        status.report_in_force(&LiveConfig {
            generation: 9,
            write_quorum: 3,
            followers: 7,
            min_delay_ms: 20,
            max_delay_ms: 60,
            delay: None,
            replication_timeout_ms: 4000,
        });
        assert_eq!((status.applied_replicas, status.applied_write_quorum), (Some(7), Some(3)));
        assert_eq!(status.applied_delay, Some(AppliedDelay { min_ms: 20, max_ms: 60 }));
        assert_eq!(status.applied_replication_timeout_ms, Some(4000));
        let expected = Tolerates { followers_down: 4, disks_lost: 2, followers_needed_to_restart: 5 };
        assert_eq!(status.tolerates, Some(expected));
    }
}
