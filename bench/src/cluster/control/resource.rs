//! A KvCluster as a sweep and a check need it: which quorum it asks for, which one its operator reports as applied.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    config::KubeConfigOptions,
};
use kvcluster_api::{
    config::LiveConfig,
    resource::{Durability, KvCluster, KvClusterStatus, Phase},
};
use serde::Serialize;
use serde_json::json;
use tokio::time::sleep;

use crate::client::ConfigChange;

/// Under this name the resource remembers who changed its fields.
const FIELD_MANAGER: &str = "kv-bench";
/// For how long an API server that does not answer, or not now, is asked again.
const PERSISTENCE: Duration = Duration::from_secs(20);
/// How long a cluster may take to be complete before a sweep goes on without.
const COMPLETE_TIMEOUT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How many followers there are, and how many of them confirm a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    /// N.
    pub replicas: u16,
    /// W.
    pub write_quorum: u16,
}

/// What a KvCluster asks for, as far as a check has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// N and W.
    pub size: Size,
    /// Longest random wait before a send to a follower, in ms.
    pub max_delay_ms: u32,
    /// After this long without a quorum a write's outcome is unknown, in ms.
    pub replication_timeout_ms: u32,
    /// Whether followers keep what they have when their pods go.
    pub durable: bool,
}

/// A Kubernetes cluster, and from where it is used.
#[derive(Clone)]
pub struct Access {
    /// Speaks with the API server.
    pub client: Client,
    /// Whether this program is a pod of that cluster, so that it reaches the nodes by their names.
    pub inside: bool,
}

impl Access {
    /// From a pod by its service account, from elsewhere (and where KUBECONFIG is set) by the kubeconfig.
    ///
    /// # Errors
    /// When there is neither.
    pub async fn infer() -> Result<Self> {
        let set = |name| std::env::var_os(name).is_some();
        let inside = set("KUBERNETES_SERVICE_HOST") && !set("KUBECONFIG");
        let config = if inside {
            Config::incluster().context("failed to use this pod's service account")?
        } else {
            let found = Config::from_kubeconfig(&KubeConfigOptions::default()).await;
            found.context("failed to find a Kubernetes cluster by KUBECONFIG")?
        };
        Ok(Self { client: Client::try_from(config).context("failed to make a Kubernetes client")?, inside })
    }

    /// By this context of the kubeconfig; without one as [`Access::infer`].
    ///
    /// # Errors
    /// When there is none of this name.
    pub async fn of_context(context: Option<&str>) -> Result<Self> {
        let Some(context) = context else { return Self::infer().await };
        let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
        let found = Config::from_kubeconfig(&options).await;
        let config = found.with_context(|| format!("failed to use the context {context} of the kubeconfig"))?;
        Ok(Self { client: Client::try_from(config).context("failed to make a Kubernetes client")?, inside: false })
    }
}

/// One KvCluster.
#[derive(Clone)]
pub struct KvClusterResource {
    api: Arc<Api<KvCluster>>,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

impl KvClusterResource {
    /// The KvCluster of this name; without a namespace in that of the kubeconfig, or of this pod.
    pub fn new(client: Client, name: &str, namespace: Option<&str>) -> Self {
        let namespace = namespace.unwrap_or(client.default_namespace()).to_owned();
        let api = Api::namespaced(client, &namespace);
        Self { api: Arc::new(api), name: name.to_owned(), namespace }
    }

    /// Waits until the cluster takes writes and, for a while, until it is complete. Returns the number of its followers.
    ///
    /// # Errors
    /// When there is no such KvCluster, or it does not get ready.
    pub async fn ready(&self) -> Result<u16> {
        let began = Instant::now();
        loop {
            let cluster = self.get().await?;
            let generation = cluster.metadata.generation;
            let status = cluster.status.unwrap_or_default();
            let open = is_true(&status, "Ready", generation.unwrap_or_default());
            if let (true, Some(followers)) = (open, status.applied_replicas)
                && (status.phase == Phase::Ready || began.elapsed() > COMPLETE_TIMEOUT)
            {
                return Ok(u16::try_from(followers)?);
            }
            if began.elapsed() > COMPLETE_TIMEOUT {
                bail!("{self} is not ready ({:?}): {}", status.phase, status.message);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// The pod that leads.
    ///
    /// # Errors
    /// When no pod does, or the API server does not answer.
    pub async fn leader(&self) -> Result<String> {
        let status = self.get().await?.status.unwrap_or_default();
        status.leader.with_context(|| format!("{self} has no leader: {}", status.message))
    }

    pub(super) async fn asked_for(&self) -> Result<ConfigChange> {
        let cluster = self.get().await?;
        let LiveConfig { write_quorum, min_delay_ms, max_delay_ms, .. } = cluster.live_config()?;
        // As the spec has it, so that it is the same once it is restored.
        let delay = cluster.spec.delay.law()?.map(Arc::new);
        Ok(ConfigChange { write_quorum, min_delay_ms, max_delay_ms, delay })
    }

    /// Returns the generation of the spec with these values.
    pub(super) async fn ask_for(&self, change: ConfigChange) -> Result<i64> {
        let ConfigChange { write_quorum, min_delay_ms, max_delay_ms, delay } = change;
        let delay = match delay {
            Some(law) => serde_json::to_value(&*law).context("failed to write the law of the delays")?,
            None => json!({"minMs": min_delay_ms, "maxMs": max_delay_ms}),
        };
        let delay = replacing(delay);
        let patched = self.patch(json!({"writeQuorum": write_quorum, "delay": delay})).await?;
        Ok(patched.metadata.generation.unwrap_or_default())
    }

    /// What the spec says.
    ///
    /// # Errors
    /// When there is no such KvCluster, or the API server does not answer.
    pub async fn asked(&self) -> Result<Asked> {
        let cluster = self.get().await?;
        let LiveConfig { followers, write_quorum, max_delay_ms, replication_timeout_ms, .. } = cluster.live_config()?;
        let size = Size { replicas: followers, write_quorum };
        Ok(Asked { size, max_delay_ms, replication_timeout_ms, durable: cluster.spec.durability == Durability::Disk })
    }

    /// Asks for this many followers and this quorum.
    ///
    /// # Errors
    /// When it is refused, or the API server does not answer.
    pub async fn resize(&self, size: Size) -> Result<()> {
        self.patch(json!(size)).await.map(drop)
    }

    /// What is missing, in words; nothing once the operator reports this size as applied.
    ///
    /// # Errors
    /// When there is no such KvCluster, or the API server does not answer.
    pub async fn missing_size(&self, size: Size) -> Result<Option<String>> {
        Ok(missing_size(&self.get().await?, size))
    }

    /// The same, and what is missing until all is well.
    ///
    /// # Errors
    /// As [`KvClusterResource::missing_size`].
    pub async fn missing_anything(&self, size: Size) -> Result<Option<String>> {
        let cluster = self.get().await?;
        let unwell = || {
            let KvClusterStatus { phase, message, .. } = cluster.status.clone().unwrap_or_default();
            (phase != Phase::Ready).then(|| format!("{self} is {phase:?}: {message}"))
        };
        Ok(missing_size(&cluster, size).or_else(unwell))
    }

    pub(crate) async fn patch(&self, spec: serde_json::Value) -> Result<KvCluster> {
        let patch = Patch::Merge(json!({"spec": spec}));
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        persist("patch", self, || self.api.patch(&self.name, &parameters, &patch)).await
    }

    /// What the status still lacks, in words; nothing once it reports these values of this generation as applied.
    pub(super) async fn missing(&self, change: &ConfigChange, generation: i64) -> Option<String> {
        match self.get().await {
            Ok(cluster) => missing(&cluster.status.unwrap_or_default(), change, generation),
            Err(error) => Some(format!("{error:#}")),
        }
    }

    pub(crate) async fn get(&self) -> Result<KvCluster> {
        persist("get", self, || self.api.get(&self.name)).await
    }
}

/// Asks again while the API server does not answer; what it refuses stays refused.
pub(super) async fn persist<T, F>(what: &str, of: &impl std::fmt::Display, ask: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = kube::Result<T>>,
{
    let began = Instant::now();
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let refused =
            matches!(&error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429);
        if refused || began.elapsed() > PERSISTENCE {
            return Err(error).with_context(|| format!("failed to {what} {of}"));
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// The value of `spec.delay` in a merge patch: a law replaces another one only if the fields of that one become null.
fn replacing(law: serde_json::Value) -> serde_json::Value {
    let mut delay = json!({"minMs": null, "maxMs": null, "constant": null, "exponential": null, "lognormal": null,
        "pareto": null, "mixture": null, "preset": null, "offsetMs": null, "capMs": null, "perFollower": null,
        "shared": null});
    if let serde_json::Value::Object(fields) = law {
        fields.into_iter().for_each(|(name, value)| delay[name] = value);
    }
    delay
}

fn missing_size(cluster: &KvCluster, size: Size) -> Option<String> {
    let expected = (i32::from(size.replicas), i32::from(size.write_quorum));
    let asked = (cluster.spec.replicas, cluster.spec.write_quorum);
    if asked != expected {
        return Some(format!("someone else asks for {} followers and quorum {}", asked.0, asked.1));
    }
    let generation = cluster.metadata.generation.unwrap_or_default();
    let status = cluster.status.clone().unwrap_or_default();
    if status.observed_generation < Some(generation) {
        return Some(format!("the operator has not seen generation {generation} of the spec yet"));
    }
    let applied = (status.applied_replicas, status.applied_write_quorum);
    if applied != (Some(expected.0), Some(expected.1)) {
        let words = |number: Option<i32>| number.map_or_else(|| "none".to_owned(), |number| number.to_string());
        let (replicas, quorum) = (words(applied.0), words(applied.1));
        return Some(format!("the status says that {replicas} followers and quorum {quorum} are applied"));
    }
    unless_applied(&status, generation)
}

fn is_true(status: &KvClusterStatus, type_: &str, generation: i64) -> bool {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_);
    found.is_some_and(|found| found.status == "True" && found.observed_generation >= Some(generation))
}

fn missing(status: &KvClusterStatus, change: &ConfigChange, generation: i64) -> Option<String> {
    // The law itself is compared at the leader.
    let ConfigChange { write_quorum, min_delay_ms, max_delay_ms, delay: _ } = change;
    if status.observed_generation < Some(generation) {
        return Some(format!("the operator has not seen generation {generation} of the spec yet"));
    }
    let delay = status.applied_delay.map(|delay| (i64::from(delay.min_ms), i64::from(delay.max_ms)));
    let expected = (i64::from(*min_delay_ms), i64::from(*max_delay_ms));
    if status.applied_write_quorum != Some((*write_quorum).into()) || delay != Some(expected) {
        let applied = status.applied_write_quorum.map_or_else(|| "none".to_owned(), |quorum| quorum.to_string());
        return Some(format!("the status says that write quorum {applied} is applied"));
    }
    unless_applied(status, generation)
}

fn unless_applied(status: &KvClusterStatus, generation: i64) -> Option<String> {
    if is_true(status, "ConfigApplied", generation) {
        return None;
    }
    let condition = status.conditions.iter().find(|condition| condition.type_ == "ConfigApplied");
    Some(condition.map_or_else(|| "no condition ConfigApplied".to_owned(), |found| found.message.clone()))
}

impl std::fmt::Display for KvClusterResource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "KvCluster {} in namespace {}", self.name, self.namespace)
    }
}

impl std::fmt::Debug for KvClusterResource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, namespace, .. } = self;
        formatter
            .debug_struct("KvClusterResource")
            .field("name", name)
            .field("namespace", namespace)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Access").field("inside", &self.inside).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use kvcluster_api::delay::DelayLaw;

    use super::*;

    const CHANGE: ConfigChange = ConfigChange { write_quorum: 4, min_delay_ms: 20, max_delay_ms: 60, delay: None };

    fn status(observed: i64, quorum: u16, max_ms: u32, applied: &str) -> KvClusterStatus {
        serde_json::from_value(json!({
            "observedGeneration": observed, "phase": "Ready", "opened": true, "appliedWriteQuorum": quorum,
            "appliedDelay": {"minMs": 20, "maxMs": max_ms},
            "conditions": [{"type": "ConfigApplied", "status": applied, "reason": "R", "message": "stored on 2 followers",
                "observedGeneration": observed, "lastTransitionTime": "2026-11-22T10:45:00Z"}],
        }))
        .expect("as the operator writes it")
    }

    #[test]
    fn a_change_is_applied_when_the_status_of_its_generation_says_so() {
        assert_eq!(missing(&status(7, 4, 60, "True"), &CHANGE, 7), None);
        assert_eq!(missing(&status(8, 4, 60, "True"), &CHANGE, 7), None, "someone changed something else since");
        for (status, expected) in [
            (status(6, 4, 60, "True"), "the operator has not seen generation 7 of the spec yet"),
            (status(7, 3, 60, "True"), "the status says that write quorum 3 is applied"),
            (status(7, 4, 61, "True"), "the status says that write quorum 4 is applied"),
            (status(7, 4, 60, "False"), "stored on 2 followers"),
            (KvClusterStatus::default(), "the operator has not seen generation 7 of the spec yet"),
        ] {
            assert_eq!(missing(&status, &CHANGE, 7).as_deref(), Some(expected));
        }
    }

    /// A leader reports the law with the caps that the operator adds.
    #[test]
    fn a_law_is_expected_as_the_operator_passes_it_on() {
        let law = DelayLaw::preset("yammer");
        let asked = ConfigChange { delay: Some(Arc::new(law.clone())), max_delay_ms: 3_600_000, ..CHANGE };
        let expected = asked.of_kvcluster();
        assert_eq!((expected.min_delay_ms, expected.max_delay_ms), (0, 600_000));
        assert_eq!(expected.delay, Some(Arc::new(DelayLaw { cap_ms: Some(600_000.0), ..law })));
        assert_eq!(CHANGE.of_kvcluster(), CHANGE);
    }

    /// A merge patch that names one law removes the others.
    #[test]
    fn a_patch_replaces_the_law() {
        let patch = replacing(json!({"preset": "yammer"}));
        assert_eq!(
            (&patch["preset"], &patch["minMs"], &patch["exponential"]),
            (&json!("yammer"), &json!(null), &json!(null))
        );
        let fields = patch.as_object().expect("an object").len();
        assert_eq!(fields, 12, "every field of the law that is not in an entry of a list");
    }

    #[test]
    fn a_size_is_applied_when_the_status_of_the_present_spec_says_so() {
        let cluster = |replicas: u16, observed: i64, applied: u16, condition: &str| -> KvCluster {
            let mut status = json!({"observedGeneration": observed, "phase": "Ready", "appliedWriteQuorum": 3});
            status["appliedReplicas"] = json!(applied);
            status["conditions"] = json!([{"type": "ConfigApplied", "status": condition, "reason": "R",
                "message": "stored on 2 followers", "observedGeneration": observed,
                "lastTransitionTime": "2026-11-22T10:45:00Z"}]);
            let spec = json!({"replicas": replicas, "writeQuorum": 3, "delay": {"minMs": 0, "maxMs": 9},
                "replicationTimeoutMs": 1000, "durability": "Disk"});
            serde_json::from_value(json!({"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster",
                "metadata": {"name": "demo", "generation": 4}, "spec": spec, "status": status}))
            .expect("as the API server gives it")
        };
        let size = Size { replicas: 6, write_quorum: 3 };
        assert_eq!(missing_size(&cluster(6, 4, 6, "True"), size), None);
        for (cluster, expected) in [
            (cluster(5, 4, 6, "True"), "someone else asks for 5 followers and quorum 3"),
            (cluster(6, 3, 6, "True"), "the operator has not seen generation 4 of the spec yet"),
            (cluster(6, 4, 5, "True"), "the status says that 5 followers and quorum 3 are applied"),
            (cluster(6, 4, 6, "False"), "stored on 2 followers"),
        ] {
            assert_eq!(missing_size(&cluster, size).as_deref(), Some(expected));
        }
    }
}
