//! From a resource to a type that builders may trust. No client.
//!
//! The API server refuses contradictions by the CRD's rules already. A resource may still break them: it was stored
//! before a rule existed, or the CRD in the cluster is an older one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use thiserror::Error;

use crate::crd::{
    Durability, ImagePullPolicy, KvCluster, KvClusterSpec, LogLevel, NAME_LENGTH_MAX, NetworkAccess, PodSettings,
    Spread, Storage,
};

/// A spec that contradicts itself, in one sentence for the user.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Invalid(pub String);

/// What the operator adds to a spec: its own defaults.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// The nodes' image, unless the spec names one.
    pub image: String,
    /// When it is pulled.
    pub image_pull_policy: ImagePullPolicy,
    /// The cluster's DNS domain, where known.
    pub domain: Option<String>,
    /// Where the operator runs, for the NetworkPolicy.
    pub operator_namespace: String,
}

/// What a running leader is to use: changes of these never touch a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveConfig {
    /// The number of followers (N).
    pub followers: u32,
    /// How many of them confirm a write (W).
    pub write_quorum: u32,
    /// The shortest wait before a send, in milliseconds.
    pub min_delay_ms: u64,
    /// The longest wait before a send, in milliseconds.
    pub max_delay_ms: u64,
    /// How long a client waits for the quorum, in milliseconds.
    pub replication_timeout_ms: u64,
}

/// A KvCluster without contradictions.
#[derive(Clone, Debug)]
pub struct Validated {
    /// Its name, the stem of all names.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its generation: of the spec, not of the status.
    pub generation: i64,
    /// The reference by which everything is owned by it.
    pub owner: OwnerReference,
    /// What the leader is to use.
    pub live: LiveConfig,
    /// Where followers keep the data.
    pub durability: Durability,
    /// Their volumes.
    pub storage: Storage,
    /// The nodes' image.
    pub image: String,
    /// When it is pulled.
    pub image_pull_policy: ImagePullPolicy,
    /// Names of Secrets with registry credentials.
    pub image_pull_secrets: Vec<String>,
    /// How much the pods log.
    pub log_level: LogLevel,
    /// Resources and scheduling of the leader.
    pub leader: PodSettings,
    /// Resources and scheduling of the followers.
    pub followers: PodSettings,
    /// How followers are spread.
    pub spread: Spread,
    /// Who may reach the pods.
    pub network: NetworkAccess,
    /// The cluster's DNS domain, where known.
    pub domain: Option<String>,
    /// Where the operator runs.
    pub operator_namespace: String,
}

/// Checks a resource and completes it with the operator's defaults.
///
/// # Errors
/// When values contradict each other or the resource is not one of a cluster (no name, namespace or uid).
pub fn validate(cluster: &KvCluster, defaults: &Defaults) -> Result<Validated, Invalid> {
    let name = cluster.name_any();
    let namespace = cluster.namespace().ok_or_else(|| Invalid("the KvCluster has no namespace".to_owned()))?;
    let owner =
        cluster.controller_owner_ref(&()).ok_or_else(|| Invalid("the KvCluster has no name or uid yet".to_owned()))?;
    let name_fits = name.len() <= NAME_LENGTH_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !name_fits {
        return Err(Invalid(format!(
            "the name {name} cannot name its Services: use at most {NAME_LENGTH_MAX} of a-z, 0-9 and -"
        )));
    }
    // Without `..`: a new field of the spec does not compile until it is thought of here.
    let KvClusterSpec {
        replicas,
        write_quorum,
        delay,
        replication_timeout_ms,
        durability,
        storage,
        image,
        image_pull_policy,
        image_pull_secrets,
        log_level,
        leader,
        followers,
        spread,
        network_policy,
    } = cluster.spec.clone();
    let live = LiveConfig {
        followers: at_least("replicas", replicas, 1)?,
        write_quorum: at_least("writeQuorum", write_quorum, 1)?,
        min_delay_ms: at_least("delay.minMs", delay.min_ms, 0)?.into(),
        max_delay_ms: at_least("delay.maxMs", delay.max_ms, 0)?.into(),
        replication_timeout_ms: at_least("replicationTimeoutMs", replication_timeout_ms, 1)?.into(),
    };
    if write_quorum > replicas {
        return Err(Invalid(format!("writeQuorum {write_quorum} is greater than replicas {replicas}")));
    }
    if delay.min_ms > delay.max_ms {
        return Err(Invalid(format!("delay.minMs {} is greater than delay.maxMs {}", delay.min_ms, delay.max_ms)));
    }
    Ok(Validated {
        name,
        namespace,
        generation: cluster.metadata.generation.unwrap_or_default(),
        owner,
        live,
        durability,
        storage,
        image: image.unwrap_or_else(|| defaults.image.clone()),
        image_pull_policy: image_pull_policy.unwrap_or(defaults.image_pull_policy),
        image_pull_secrets,
        log_level,
        leader,
        followers,
        spread,
        network: network_policy,
        domain: defaults.domain.clone(),
        operator_namespace: defaults.operator_namespace.clone(),
    })
}

fn at_least(field: &str, value: i32, minimum: u32) -> Result<u32, Invalid> {
    u32::try_from(value)
        .ok()
        .filter(|value| *value >= minimum)
        .ok_or_else(|| Invalid(format!("{field} is {value}: it has to be at least {minimum}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{cluster, defaults};

    #[test]
    fn a_spec_of_nothing_is_the_documented_default() {
        let validated = validate(&cluster("{}"), &defaults()).expect("the defaults do not contradict each other");
        let expected = LiveConfig {
            followers: 5,
            write_quorum: 3,
            min_delay_ms: 0,
            max_delay_ms: 200,
            replication_timeout_ms: 5000,
        };
        assert_eq!(validated.live, expected);
        assert_eq!(validated.image, "registry.example/kvcluster:7");
        assert_eq!(validated.durability, Durability::Disk);
    }

    #[test]
    fn contradictions_are_refused_with_both_values() {
        let cases = [
            ("{replicas: 2, writeQuorum: 3}", "writeQuorum 3 is greater than replicas 2"),
            ("{writeQuorum: 0}", "writeQuorum is 0: it has to be at least 1"),
            ("{delay: {minMs: 30, maxMs: 20}}", "delay.minMs 30 is greater than delay.maxMs 20"),
            ("{delay: {minMs: -4}}", "delay.minMs is -4: it has to be at least 0"),
            ("{replicationTimeoutMs: 0}", "replicationTimeoutMs is 0: it has to be at least 1"),
        ];
        for (spec, message) in cases {
            let error = validate(&cluster(spec), &defaults()).expect_err(spec);
            assert_eq!(error, Invalid(message.to_owned()));
        }
    }

    #[test]
    fn a_name_that_no_service_can_have_is_refused() {
        for name in ["1st", "a.b", "a-name-that-is-far-too-long-for-its-pods-x"] {
            let mut cluster = cluster("{}");
            cluster.metadata.name = Some(name.to_owned());
            assert!(validate(&cluster, &defaults()).is_err(), "{name}");
        }
    }
}
