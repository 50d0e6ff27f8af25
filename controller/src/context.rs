//! What every reconciliation shares.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use kvcluster_api::resource::{KvCluster, KvClusterStatus};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

use crate::build::{BACKUP, BOOTSTRAP, Component};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::reconcile::applier::Applier;
use crate::reconcile::events::Recorder;
use crate::reconcile::lead::LeadLabels;
use crate::reconcile::leader_client::{Leader, LeaderClients};
use crate::reconcile::roll::Rollouts;
use crate::reconcile::secrets::Secrets;
use crate::reconcile::tokens::Tokens;
use crate::reconcile::validate::Defaults;

mod indexed;

pub use indexed::Indexed;

/// What every reconciliation shares.
pub struct Context {
    /// Speaks with the API server.
    pub client: Client,
    /// The same, but what is refused is not repeated.
    pub without_retries: Client,
    /// Applies objects.
    pub applier: Applier,
    /// Speaks with leaders.
    pub leaders: Arc<LeaderClients>,
    /// Label the pods that lead.
    pub lead_labels: LeadLabels,
    /// The clusters that roll out a template.
    pub rollouts: Rollouts,
    /// How many may at once.
    pub rollouts_max: usize,
    /// Writes events.
    pub recorder: Recorder,
    /// The objects that the watches cache.
    pub stores: Stores,
    /// The operator's own defaults.
    pub defaults: Defaults,
    /// How often the operator asks the leader of a settled cluster.
    pub poll_interval: Duration,
    /// How many calm clusters are looked at at once. The other places of the controller are for those that change.
    pub calm_looks: Semaphore,
    /// What the operator remembers of each cluster.
    pub memory: Arc<Memory>,
    /// The operator's metrics.
    pub metrics: Arc<Metrics>,
    /// Whether the operator makes progress.
    pub health: Arc<Health>,
}

/// The objects with our label, as the watches cache them. Secrets are not among them: the operator may read a Secret by
/// name, and may not list them.
#[derive(Clone)]
#[allow(missing_docs, reason = "one store for each kind")]
pub struct Stores {
    pub accounts: Store<ServiceAccount>,
    pub configs: Store<ConfigMap>,
    pub services: Store<Service>,
    pub stateful_sets: Store<StatefulSet>,
    pub deployments: Store<Deployment>,
    pub budgets: Store<PodDisruptionBudget>,
    pub policies: Store<NetworkPolicy>,
    pub cron_jobs: Store<CronJob>,
    /// The Jobs of backups and of bootstraps.
    pub jobs: Store<Job>,
    pub pods: Indexed<Pod>,
    pub claims: Indexed<PersistentVolumeClaim>,
    pub listed: Arc<OnceCell<()>>,
    pub unlisted: Unlisted,
}

/// The kinds whose watches have not listed the existing objects yet.
#[derive(Clone, Default)]
pub struct Unlisted(Arc<Mutex<BTreeSet<String>>>);

impl Unlisted {
    /// Counts a kind as not listed until `listed` is done.
    pub async fn until<K: Resource<DynamicType = ()>>(&self, listed: impl Future) {
        let kind = K::kind(&()).into_owned();
        self.0.lock().insert(kind.clone());
        listed.await;
        self.0.lock().remove(&kind);
    }

    /// The kinds, by name.
    #[must_use]
    pub fn kinds(&self) -> Vec<String> {
        self.0.lock().iter().cloned().collect()
    }
}

impl Stores {
    /// Waits until every watch has listed the existing objects.
    ///
    /// One caller waits for the stores, and the others wait for that caller. When several wait for one store at once,
    /// kube 5.0 wakes only the last, and the rest would wait forever.
    pub async fn ready(&self) {
        self.listed.get_or_init(|| self.wait()).await;
    }

    async fn wait(&self) {
        let Self {
            accounts,
            configs,
            services,
            stateful_sets,
            deployments,
            budgets,
            policies,
            cron_jobs,
            jobs,
            pods,
            claims,
            listed: _,
            unlisted,
        } = self;
        // Fails only when a watch was dropped, which happens when this replica loses the Lease.
        tokio::join!(
            unlisted.until::<ServiceAccount>(accounts.wait_until_ready()),
            unlisted.until::<ConfigMap>(configs.wait_until_ready()),
            unlisted.until::<Service>(services.wait_until_ready()),
            unlisted.until::<StatefulSet>(stateful_sets.wait_until_ready()),
            unlisted.until::<Deployment>(deployments.wait_until_ready()),
            unlisted.until::<PodDisruptionBudget>(budgets.wait_until_ready()),
            unlisted.until::<NetworkPolicy>(policies.wait_until_ready()),
            unlisted.until::<CronJob>(cron_jobs.wait_until_ready()),
            unlisted.until::<Job>(jobs.wait_until_ready()),
            unlisted.until::<Pod>(pods.store().wait_until_ready()),
            unlisted.until::<PersistentVolumeClaim>(claims.store().wait_until_ready()),
        );
    }

    /// The pods of one component of a cluster, by name.
    #[must_use]
    pub fn pods_of(&self, namespace: &str, cluster: &str, component: Component) -> Vec<Arc<Pod>> {
        self.pods.of(namespace, cluster, component)
    }

    /// The pods that made a backup of a cluster or make one, by name.
    #[must_use]
    pub fn backup_pods_of(&self, namespace: &str, cluster: &str) -> Vec<Arc<Pod>> {
        self.pods.labelled(namespace, cluster, BACKUP)
    }

    /// The pods that restore the backup with which a cluster starts, by name.
    #[must_use]
    pub fn bootstrap_pods_of(&self, namespace: &str, cluster: &str) -> Vec<Arc<Pod>> {
        self.pods.labelled(namespace, cluster, BOOTSTRAP)
    }

    /// The volume claims of a cluster's followers, by name.
    #[must_use]
    pub fn claims_of(&self, namespace: &str, cluster: &str) -> Vec<Arc<PersistentVolumeClaim>> {
        self.claims.of(namespace, cluster, Component::Follower)
    }
}

/// An object from a store, if it is there.
pub fn cached<K>(store: &Store<K>, namespace: &str, name: &str) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store.get(&ObjectRef::new(name).within(namespace))
}

/// A cluster in which everything is as the spec asks for.
#[derive(Clone, Debug)]
pub struct Calm {
    /// What the leader answered, as far as the status depends on it.
    pub leader: Leader,
    /// How often it answered the same since.
    pub times: u32,
}

/// What the operator remembers of each cluster between reconciliations. A restart loses it, which costs a few reads.
#[derive(Default)]
pub struct Memory {
    clusters: Mutex<HashMap<(String, String), Remembered>>,
    /// Those of which a watch has reported something since they were looked at.
    changed: Mutex<HashSet<(String, String)>>,
}

#[derive(Default)]
struct Remembered {
    uid: Option<String>,
    tokens: Option<Tokens>,
    secrets: Option<Secrets>,
    due: Option<Instant>,
    calm: Option<Calm>,
    status: Option<(u64, KvClusterStatus)>,
    failures: u32,
    unanswered: u32,
}

impl Memory {
    fn with<R>(&self, cluster: &KvCluster, act: impl FnOnce(&mut Remembered) -> R) -> R {
        let key = (cluster.namespace().unwrap_or_default(), cluster.name_any());
        let mut clusters = self.clusters.lock();
        let remembered = clusters.entry(key).or_default();
        // A new cluster with the same name starts without the records of the earlier one.
        if remembered.uid != cluster.uid() {
            *remembered = Remembered { uid: cluster.uid(), ..Remembered::default() };
        }
        act(remembered)
    }

    /// The newest known status: the one that the operator wrote last, until the watch has delivered it.
    pub fn newest_status(&self, cluster: &KvCluster) -> KvClusterStatus {
        let seen = version(cluster);
        let written = self.with(cluster, |remembered| remembered.status.clone());
        match written {
            Some((version, status)) if version > seen => status,
            _ => cluster.status.clone().unwrap_or_default(),
        }
    }

    /// Records a status as the API server returned it.
    pub fn status_written(&self, cluster: &KvCluster) {
        let status = cluster.status.clone().unwrap_or_default();
        self.with(cluster, |remembered| remembered.status = Some((version(cluster), status)));
    }

    /// The tokens that the nodes of a cluster accept.
    pub fn tokens(&self, cluster: &KvCluster) -> Option<Tokens> {
        self.with(cluster, |remembered| remembered.tokens.clone())
    }

    /// Records the tokens, so that the nodes' Secret comes back with them when it is deleted by hand.
    pub fn tokens_seen(&self, cluster: &KvCluster, tokens: &Tokens) {
        self.with(cluster, |remembered| remembered.tokens = Some(tokens.clone()));
    }

    /// The Secrets as they were read or written last.
    pub fn secrets(&self, cluster: &KvCluster) -> Option<Secrets> {
        self.with(cluster, |remembered| remembered.secrets.clone())
    }

    /// Records the Secrets, or that they have to be read again.
    pub fn secrets_seen(&self, cluster: &KvCluster, secrets: Option<Secrets>) {
        self.with(cluster, |remembered| remembered.secrets = secrets);
    }

    /// Records that a watch reported something of a cluster.
    pub fn changed(&self, namespace: &str, name: &str) {
        self.changed.lock().insert((namespace.to_owned(), name.to_owned()));
    }

    /// Begins a look at a cluster. Returns since when it was due, where it is settled and no watch has reported anything of
    /// it: then nothing triggered this look but the time.
    pub fn begin(&self, cluster: &KvCluster) -> Option<Instant> {
        let key = (cluster.namespace().unwrap_or_default(), cluster.name_any());
        let changed = self.changed.lock().remove(&key);
        // Until the look has succeeded, the next one is not calm either.
        let due = self.with(cluster, |remembered| remembered.due.take());
        due.filter(|_| !changed)
    }

    /// Records when the next look at a settled cluster is due. None for one that is changing.
    pub fn due(&self, cluster: &KvCluster, due: Option<Instant>) {
        self.with(cluster, |remembered| remembered.due = due);
    }

    /// What the leader answered when everything was as the spec asks for, and how often since.
    pub fn calm(&self, cluster: &KvCluster) -> Option<Calm> {
        self.with(cluster, |remembered| remembered.calm.clone())
    }

    /// Records it, or that the cluster is not calm.
    pub fn calm_seen(&self, cluster: &KvCluster, calm: Option<Calm>) {
        self.with(cluster, |remembered| remembered.calm = calm);
    }

    /// Counts a failure, and returns how many there were in a row.
    pub fn failed(&self, cluster: &KvCluster) -> u32 {
        self.with(cluster, |remembered| {
            remembered.failures = remembered.failures.saturating_add(1);
            remembered.failures
        })
    }

    /// Resets the count of failures.
    pub fn succeeded(&self, cluster: &KvCluster) {
        self.with(cluster, |remembered| remembered.failures = 0);
    }

    /// How many times in a row no leader answered.
    pub fn unanswered(&self, cluster: &KvCluster) -> u32 {
        self.with(cluster, |remembered| remembered.unanswered)
    }

    /// Counts whether a leader answered.
    pub fn leader_asked(&self, cluster: &KvCluster, answered: bool) {
        self.with(cluster, |remembered| {
            remembered.unanswered = if answered { 0 } else { remembered.unanswered.saturating_add(1) };
        });
    }

    /// Drops the records of a cluster that no longer exists.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.clusters.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }
}

/// The resource version as a number. Versions are opaque by contract, but numbers in every Kubernetes. One that is no
/// number counts as old, which at worst writes a status twice.
fn version(cluster: &KvCluster) -> u64 {
    cluster.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::cluster;

    #[test]
    fn a_stale_watch_does_not_undo_what_was_written() {
        let memory = Memory::default();
        let mut stale = cluster("{}");
        stale.metadata.resource_version = Some("10".to_owned());
        let mut written = stale.clone();
        written.metadata.resource_version = Some("11".to_owned());
        written.status = Some(KvClusterStatus { opened: true, ..KvClusterStatus::default() });
        memory.status_written(&written);
        assert!(memory.newest_status(&stale).opened);

        let mut newer = stale.clone();
        newer.metadata.resource_version = Some("12".to_owned());
        assert!(!memory.newest_status(&newer).opened, "a user reset the status later");
    }

    #[test]
    fn a_look_is_calm_once_where_no_watch_reported_anything() {
        let memory = Memory::default();
        let cluster = cluster("{}");
        let due = Some(Instant::now());
        assert_eq!(memory.begin(&cluster), None, "it is new");
        memory.due(&cluster, due);
        assert_eq!(memory.begin(&cluster), due);
        assert_eq!(memory.begin(&cluster), None, "the look before may have failed");
        memory.due(&cluster, due);
        memory.changed("shop", "other");
        memory.changed("shop", "demo");
        assert_eq!(memory.begin(&cluster), None);
        memory.due(&cluster, due);
        assert_eq!(memory.begin(&cluster), due);
    }

    #[test]
    fn a_new_cluster_of_the_same_name_inherits_nothing() {
        let memory = Memory::default();
        let first = cluster("{}");
        memory.due(&first, Some(Instant::now()));
        let mut second = first.clone();
        second.metadata.uid = Some("another".to_owned());
        assert_eq!(memory.begin(&second), None);
    }
}
