//! Step 1 (no client): from a resource to a type that the later steps may trust.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use kvcluster_api::config::{ConfigError, LiveConfig};
use kvcluster_api::resource::{
    BackupSettings, BackupSource, ClientAuth, DisruptionBudget, Durability, ImagePullPolicy, KvCluster, KvClusterSpec,
    LogLevel, NAME_LENGTH_MAX, NetworkAccess, PodSettings, ServiceSettings, Spread, Storage, Tls,
};
use thiserror::Error;

/// A resource that cannot become a cluster, in one sentence for the user.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum Invalid {
    /// Its values contradict each other or are out of bounds.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its name does not fit the objects that are named after it.
    #[error("the name {0} cannot name its Services: use at most {NAME_LENGTH_MAX} of a-z, 0-9 and -")]
    Name(String),
    /// It is not a stored resource: it lacks this field.
    #[error("the KvCluster has no {0}")]
    Incomplete(&'static str),
}

/// The operator's own defaults for a spec.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// The image of leader and followers, unless the spec names one.
    pub image: String,
    /// When it is pulled.
    pub image_pull_policy: ImagePullPolicy,
    /// The cluster's DNS domain, where known.
    pub domain: Option<String>,
    /// Where the operator runs, for the NetworkPolicy.
    pub operator_namespace: String,
    /// What depends on the platform.
    pub platform: Platform,
}

/// What the pods depend on beside the spec.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// Whether the pods ask for the user and the group of the image. Otherwise the platform assigns them.
    pub fixed_user: bool,
    /// Whether pods have IPv6 addresses alone.
    pub ipv6: bool,
}

/// A valid KvCluster.
#[derive(Clone, Debug)]
pub struct Validated {
    /// Its name, with which the names of its objects begin.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its generation: of the spec, not of the status.
    pub generation: i64,
    /// The owner reference of its objects.
    pub owner: OwnerReference,
    /// The values that the leader uses. A change of them restarts no pod.
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
    /// Resources and scheduling of the leader pods.
    pub leader: PodSettings,
    /// How many of them run beside the one that leads.
    pub standbys: u16,
    /// Resources and scheduling of the followers.
    pub followers: PodSettings,
    /// How followers are spread.
    pub spread: Spread,
    /// How clients reach the Services.
    pub service: ServiceSettings,
    /// Which pods may connect.
    pub network: NetworkAccess,
    /// Whether replication and administration have ports of their own.
    pub separate_ports: bool,
    /// Whether there is a PodDisruptionBudget.
    pub disruption_budget: DisruptionBudget,
    /// Whether the operator changes nothing.
    pub paused: bool,
    /// Whether there are no pods, and the volumes stay.
    pub hibernated: bool,
    /// The tokens that clients need.
    pub auth: Option<ClientAuth>,
    /// Where the certificate of the nodes comes from. None where they speak without TLS.
    pub tls: Option<Tls>,
    /// Backups by a schedule.
    pub backup: Option<BackupSettings>,
    /// The backup with which the cluster starts.
    pub bootstrap: Option<BackupSource>,
    /// The cluster's DNS domain, where known.
    pub domain: Option<String>,
    /// Where the operator runs.
    pub operator_namespace: String,
    /// What depends on the platform.
    pub platform: Platform,
}

/// Checks a resource and completes it with the operator's defaults.
///
/// # Errors
/// When values contradict each other or the resource is not one of a cluster (no name, namespace or uid).
pub fn validate(cluster: &KvCluster, defaults: &Defaults) -> Result<Validated, Invalid> {
    let name = cluster.name_any();
    let namespace = cluster.namespace().ok_or(Invalid::Incomplete("namespace"))?;
    let owner = cluster.controller_owner_ref(&()).ok_or(Invalid::Incomplete("name or uid"))?;
    let name_fits = name.len() <= NAME_LENGTH_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !name_fits {
        return Err(Invalid::Name(name));
    }
    let live = cluster.live_config()?;
    // Without `..`, so that a new field of the spec does not compile until it is handled here.
    let KvClusterSpec {
        replicas: _,
        write_quorum: _,
        delay: _,
        replication_timeout_ms: _,
        durability,
        storage,
        image,
        image_pull_policy,
        image_pull_secrets,
        log_level,
        leader,
        followers,
        spread,
        service,
        network_policy,
        separate_ports,
        disruption_budget,
        paused,
        hibernated,
        auth,
        tls,
        backup,
        bootstrap,
    } = cluster.spec.clone();
    if hibernated && durability == Durability::Memory {
        let lost = "hibernated is true: with durability Memory that would lose all data".to_owned();
        return Err(ConfigError(lost).into());
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
        leader: leader.pod,
        standbys: cluster.standbys()?,
        followers,
        spread,
        service,
        network: network_policy,
        separate_ports,
        disruption_budget,
        paused,
        hibernated,
        auth,
        tls,
        backup,
        bootstrap: bootstrap.map(|bootstrap| bootstrap.from_backup),
        domain: defaults.domain.clone(),
        operator_namespace: defaults.operator_namespace.clone(),
        platform: defaults.platform,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{cluster, defaults};

    #[test]
    fn a_spec_of_nothing_is_the_documented_default() {
        let validated = validate(&cluster("{}"), &defaults()).expect("the defaults do not contradict each other");
        let expected = LiveConfig {
            generation: 4,
            write_quorum: 3,
            followers: 5,
            min_delay_ms: 0,
            max_delay_ms: 200,
            delay: None,
            replication_timeout_ms: 5000,
        };
        assert_eq!(validated.live, expected);
        assert_eq!(validated.image, "registry.example/kvcluster:7");
        assert_eq!(validated.durability, Durability::Disk);
    }

    #[test]
    fn contradictions_are_refused_with_both_values() {
        let error = validate(&cluster("{replicas: 2, writeQuorum: 3}"), &defaults()).expect_err("3 of 2");
        assert_eq!(error.to_string(), "writeQuorum 3 is greater than replicas 2");
    }

    #[test]
    fn a_hibernation_that_would_lose_everything_is_refused() {
        let error = validate(&cluster("{durability: Memory, hibernated: true}"), &defaults()).expect_err("no volumes");
        assert_eq!(error.to_string(), "hibernated is true: with durability Memory that would lose all data");
        assert!(validate(&cluster("{hibernated: true}"), &defaults()).expect("on disk").hibernated);
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
