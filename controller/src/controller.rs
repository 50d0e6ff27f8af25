//! From settings to a running operator: the Lease, the watches, the reconciliations, the shutdown.

use std::fmt::Debug;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::client::{Body, ClientBuilder};
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::runtime::controller::{Config, Error as ControllerError};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use kvcluster_api::resource::KvCluster;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tower::util::MapRequestLayer;

use crate::build::{APP, COMPONENT, Component, INSTANCE, MANAGER};
use crate::context::{Context, Indexed, Memory, Stores};
use crate::election::Election;
use crate::health::{self, Health};
use crate::metrics::Metrics;
use crate::reconcile;
use crate::reconcile::applier::Applier;
use crate::reconcile::events::Recorder;
use crate::reconcile::lead::LeadLabels;
use crate::reconcile::lead::waiting::Waiting;
use crate::reconcile::leader_client::LeaderClients;
use crate::reconcile::roll::Rollouts;
use crate::reconcile::validate::{Defaults, Platform};
use crate::settings::Settings;

type Guarded = DeserializeGuard<KvCluster>;

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
/// When the API server cannot be reached at the start, the CRD is missing, or the port is taken.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::default());
    let health = Arc::new(Health::new(settings.stuck_after(), metrics.clone()));
    let clients = clients(&metrics).await?;
    require_crd(&clients.0, &settings).await?;
    let server = tokio::spawn(health::serve(settings.serve_at(), health.clone(), metrics.clone()));
    let stop = stop_signal()?;
    tokio::select! {
        ended = take_turns(clients, &settings, &metrics, &health, stop) => ended,
        served = server => bail!("failed to serve {}: {served:?}", settings.serve_at()),
    }
}

/// Reconciles while this replica holds the Lease, and waits for it otherwise. Ends after `stop`.
///
/// A replica that loses the Lease goes on waiting in the same process. Were the process to end, Kubernetes would delay its
/// restart more and more, and after two losses in a row no replica would be there.
///
/// # Errors
/// When the HTTP client cannot be made, or the watches end.
pub(crate) async fn take_turns(
    clients: (Client, Client),
    settings: &Settings,
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
    mut stop: watch::Receiver<()>,
) -> anyhow::Result<()> {
    let client = &clients.0;
    let mut election = Election::new(client.clone(), &settings.pod_namespace, &settings.lease_name, &settings.pod_name);
    loop {
        tokio::select! {
            () = election.acquire(|| health.lease_seen()) => {}
            ended = keep_labels(client, settings.namespace()) => return ended,
            _ = stop.changed() => return Ok(()),
        }
        health.reconciled();
        metrics.leading.set(1);
        let work = work(clients.clone(), settings, metrics.clone(), health.clone(), stop.clone())?;
        let lost = tokio::select! {
            () = work => None,
            lost = election.keep(|| health.lease_seen()) => Some(lost),
        };
        let Some(lost) = lost else {
            // Released only now: no other replica may begin while a reconciliation is under way.
            election.release().await;
            return Ok(());
        };
        // The reconciliations under way ended with `work`.
        metrics.leads_no_more();
        tracing::error!(error = %lost, "waiting for the lease again");
    }
}

/// Keeps the labels of the pods that lead while another replica reconciles. Does not end.
///
/// # Errors
/// When the HTTP client cannot be made.
pub(crate) async fn keep_labels(client: &Client, namespace: Option<&str>) -> anyhow::Result<()> {
    let of_leaders = format!("{},{COMPONENT}={}", our_labels(), Component::Leader.as_str());
    let (pods, pod_changes) = cache::<Pod>(api(client, namespace), &of_leaders);
    // Without the settings of leaders.
    let of_clusters = format!("{},!{COMPONENT}", our_labels());
    let (authorities, authority_changes) = cache::<ConfigMap>(api(client, namespace), &of_clusters);
    let waiting = Waiting {
        pods: Indexed::new(pods),
        authorities,
        leaders: Arc::new(LeaderClients::new().context("failed to make an HTTP client")?),
        labels: LeadLabels::default(),
        client: client.clone(),
    };
    waiting.run(pod_changes, authority_changes).await;
    bail!("failed to watch the leader pods: the watches ended")
}

/// A client that repeats what the API server refuses for the moment, and one that does not.
async fn clients(metrics: &Arc<Metrics>) -> anyhow::Result<(Client, Client)> {
    let config = kube::Config::infer()
        .await
        .context("failed to find a Kubernetes cluster: neither in-cluster nor a kubeconfig")?;
    let mut without_retries = config.clone();
    without_retries.default_retry = false;
    Ok((client(config, metrics)?, client(without_retries, metrics)?))
}

fn client(config: kube::Config, metrics: &Arc<Metrics>) -> anyhow::Result<Client> {
    let metrics = metrics.clone();
    let count = MapRequestLayer::new(move |request: axum::http::Request<Body>| {
        metrics.requested(request.method().as_str(), request.uri().path());
        request
    });
    Ok(ClientBuilder::try_from(config).context("failed to make a client")?.with_layer(&count).build())
}

/// Fails when the CRD is not installed. A watch without it would be retried forever, and no log line would say why.
async fn require_crd(client: &Client, settings: &Settings) -> anyhow::Result<()> {
    let one = ListParams::default().limit(1);
    match api::<Guarded>(client, settings.namespace()).list(&one).await {
        Ok(_) => Ok(()),
        // By the code, not the reason: the API server answers in plain text for a group that does not exist.
        Err(kube::Error::Api(status)) if status.code == 404 => {
            bail!(
                "failed to find the resource KvCluster: install it with `kv-controller crd | kubectl apply --server-side -f -`"
            )
        }
        Err(error) => Err(error).context("failed to list KvClusters"),
    }
}

fn stop_signal() -> anyhow::Result<watch::Receiver<()>> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let (sender, receiver) = watch::channel(());
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("shutting down");
        sender.send_replace(());
        sender.closed().await;
    });
    Ok(receiver)
}

/// Runs the watches and the reconciliations. Ends after `stop`, once the reconciliations under way have ended.
pub(crate) fn work(
    (client, without_retries): (Client, Client),
    settings: &Settings,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    mut stop: watch::Receiver<()>,
) -> anyhow::Result<impl Future<Output = ()>> {
    let namespace = settings.namespace();
    // As many places again as calm clusters may take: those that change never wait for them.
    let config = Config::default().concurrency(settings.concurrency.saturating_mul(2));
    let memory = Arc::new(Memory::default());
    let (clusters, writer) = reflector::store();
    let watch = watcher(api::<Guarded>(&client, namespace), watcher::Config::default()).default_backoff();
    let changes =
        reflector::reflector(writer, watch.modify(|object| object.managed_fields_mut().clear())).applied_objects();
    let noted = memory.clone();
    let changes = changes.inspect_ok(move |cluster: &Guarded| {
        noted.changed(&cluster.namespace().unwrap_or_default(), &cluster.name_any());
    });
    let controller = Controller::for_stream(without_errors(changes), clusters.clone()).with_config(config);
    let (accounts, controller) = watched(controller, &client, namespace, &memory);
    let (configs, controller) = watched(controller, &client, namespace, &memory);
    let (services, controller) = watched(controller, &client, namespace, &memory);
    let (stateful_sets, controller) = watched(controller, &client, namespace, &memory);
    let (deployments, controller) = watched(controller, &client, namespace, &memory);
    let (budgets, controller) = watched(controller, &client, namespace, &memory);
    let (policies, controller) = watched(controller, &client, namespace, &memory);
    let (cron_jobs, controller) = watched(controller, &client, namespace, &memory);
    let (jobs, controller) = watched(controller, &client, namespace, &memory);
    let (pods, changes) = cache::<Pod>(api(&client, namespace), &our_labels());
    let (pods, controller) = indexed(controller, pods, changes, &memory);
    let (claims, changes) = cache::<PersistentVolumeClaim>(api(&client, namespace), &claim_labels());
    let (claims, controller) = indexed(controller, claims, changes, &memory);
    let unlisted = health.unlisted.clone();
    let context = Arc::new(Context {
        applier: Applier::new(client.clone()),
        leaders: Arc::new(LeaderClients::new().context("failed to make an HTTP client")?),
        lead_labels: LeadLabels::default(),
        rollouts: Rollouts::default(),
        rollouts_max: settings.rollouts_max.into(),
        recorder: Recorder::new(client.clone(), settings.pod_name.clone()),
        stores: Stores {
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
            listed: Arc::default(),
            unlisted: health.unlisted.clone(),
        },
        defaults: Defaults {
            image: settings.node_image.clone(),
            image_pull_policy: settings.node_image_pull_policy,
            domain: settings.domain(),
            operator_namespace: settings.pod_namespace.clone(),
            platform: Platform { fixed_user: settings.fixed_user, ipv6: settings.ipv6() },
        },
        poll_interval: settings.poll_interval(),
        calm_looks: Semaphore::new(settings.concurrency.into()),
        memory,
        metrics: metrics.clone(),
        health,
        without_retries,
        client,
    });
    // Before the first reconciliation: without KvClusters none would notice a watch that never lists.
    let stores = context.stores.clone();
    let clusters_listed = clusters.clone();
    tokio::spawn(async move {
        let cluster_list = async { drop(clusters_listed.wait_until_ready().await) };
        tokio::join!(stores.ready(), unlisted.until::<KvCluster>(cluster_list));
    });
    let stopped = async move { drop(stop.changed().await) };
    let results = controller.graceful_shutdown_on(stopped).run(reconcile::reconcile, reconcile::retry, context.clone());
    Ok(results.for_each(move |result| {
        metrics.clusters.set(i64::try_from(clusters.len()).unwrap_or(i64::MAX));
        metrics.rolling.set(i64::try_from(context.rollouts.count()).unwrap_or(i64::MAX));
        match result {
            // Already logged by `retry`.
            Ok(_) | Err(ControllerError::ReconcilerFailed(..)) => {}
            Err(ControllerError::ObjectNotFound(gone)) => {
                let namespace = gone.namespace.clone().unwrap_or_default();
                context.memory.forget(&namespace, &gone.name);
                context.applier.forget(&namespace, &gone.name);
                context.leaders.forget(&namespace, &gone.name);
                context.lead_labels.stop(&namespace, &gone.name);
                context.rollouts.forget(&namespace, &gone.name);
                context.stores.pods.forget(&namespace, &gone.name);
                context.stores.claims.forget(&namespace, &gone.name);
                context.metrics.forget(&namespace, &gone.name);
            }
            Err(error) => tracing::warn!(%error, "failed to watch"),
        }
        std::future::ready(())
    }))
}

/// Keeps the objects with our label in a store. Every change of one triggers a reconciliation of its KvCluster.
fn watched<K>(
    controller: Controller<Guarded>,
    client: &Client,
    namespace: Option<&str>,
    memory: &Arc<Memory>,
) -> (Store<K>, Controller<Guarded>)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, changes) = cache(api(client, namespace), &our_labels());
    (store, controller.watches_stream(changes, noting(memory)))
}

/// Keeps an index by cluster beside the store.
fn indexed<K>(
    controller: Controller<Guarded>,
    store: Store<K>,
    changes: impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
    memory: &Arc<Memory>,
) -> (Indexed<K>, Controller<Guarded>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let indexed = Indexed::new(store);
    let index = indexed.clone();
    let changes = changes.inspect_ok(move |object| index.notice(object));
    (indexed, controller.watches_stream(changes, noting(memory)))
}

/// The KvClusters of an object, of each of which it notes that something has changed.
fn noting<K: Resource<DynamicType = ()>>(
    memory: &Arc<Memory>,
) -> impl Fn(K) -> Vec<ObjectRef<Guarded>> + Send + Sync + 'static {
    let memory = memory.clone();
    move |object| {
        let clusters = belongs_to(object);
        for cluster in &clusters {
            memory.changed(cluster.namespace.as_deref().unwrap_or_default(), &cluster.name);
        }
        clusters
    }
}

/// The labels of every object that the operator makes.
fn our_labels() -> String {
    format!("app.kubernetes.io/managed-by={MANAGER},app.kubernetes.io/name={APP}")
}

/// The labels of followers' claims. They come from the StatefulSet's template, where no label can be added later.
fn claim_labels() -> String {
    format!("app.kubernetes.io/name={APP},{COMPONENT}={}", Component::Follower.as_str())
}

/// Keeps the objects with these labels in a store.
fn cache<K>(api: Api<K>, labels: &str) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let ours = watcher::Config::default().labels(labels);
    // Who set which field takes as much memory as the rest of an object.
    let watch = watcher(api, ours).default_backoff().modify(|object| object.managed_fields_mut().clear());
    (store, without_errors(reflector::reflector(writer, watch).touched_objects()))
}

/// Logs the errors of a watch and drops them. Each watch has a backoff of its own. kube's Controller would delay all
/// watches for each error, and longer each time: for minutes after a restart of the API server, when every watch fails.
fn without_errors<K>(
    changes: impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
) -> impl Stream<Item = Result<K, watcher::Error>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Send + 'static,
{
    changes.filter_map(|change| {
        if let Err(error) = &change {
            tracing::warn!(%error, kind = %K::kind(&()), "failed to watch");
        }
        std::future::ready(change.ok().map(Ok))
    })
}

/// The KvClusters that an object names by label and by owner. A user may have changed both: an object without an owner also
/// counts as one of each KvCluster whose name its own begins with, and those that do not exist are ignored.
fn belongs_to<K: Resource<DynamicType = ()>>(object: K) -> Vec<ObjectRef<Guarded>> {
    let Some(namespace) = object.namespace() else { return Vec::new() };
    let label = object.labels().get(INSTANCE).cloned();
    let owner = object
        .owner_references()
        .iter()
        .find(|owner| owner.kind == KvCluster::kind(&()))
        .map(|owner| owner.name.clone());
    let name = object.name_any();
    let begins = name.match_indices('-').map(|(at, _)| name[..at].to_owned()).chain([name.clone()]);
    let by_name = begins.filter(|_| object.owner_references().is_empty());
    let mut names: Vec<String> = label.into_iter().chain(owner).chain(by_name).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| ObjectRef::new(&name).within(&namespace)).collect()
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use parking_lot::Mutex;
    use serde_json::{Value, json};

    use super::*;
    use crate::rights::empty_api_server;

    fn clusters(labels: &serde_json::Value, owners: &serde_json::Value) -> Vec<String> {
        let metadata =
            json!({"name": "my-demo-backup", "namespace": "shop", "labels": labels, "ownerReferences": owners});
        let object: NetworkPolicy = serde_json::from_value(json!({"metadata": metadata})).expect("an object");
        belongs_to(object).into_iter().map(|cluster| cluster.name).collect()
    }

    #[test]
    fn an_object_finds_its_cluster_also_when_label_and_owner_are_gone() {
        let owner =
            json!([{"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "name": "my-demo", "uid": "1"}]);
        let label = json!({INSTANCE: "my-demo"});
        assert_eq!(clusters(&label, &owner), ["my-demo"]);
        assert_eq!(clusters(&json!({INSTANCE: "stolen"}), &owner), ["my-demo", "stolen"]);
        let stripped = clusters(&json!({INSTANCE: "stolen"}), &json!([]));
        assert_eq!(stripped, ["my", "my-demo", "my-demo-backup", "stolen"]);
        let of_others = json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "my-demo", "uid": "2"}]);
        assert_eq!(clusters(&label, &of_others), ["my-demo"], "a pod's events wake its cluster alone");
    }

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        settings: Settings,
    }

    // Goal: a replica that loses its Lease neither reconciles without it nor ends, and reconciles again once the Lease is free.
    // Method: another replica takes the Lease, and releases it.
    #[tokio::test]
    async fn a_replica_that_loses_its_lease_waits_for_it_again() {
        let lease: Arc<Mutex<Option<Value>>> = Arc::default();
        let client = empty_api_server(lease.clone());
        let settings = Cli::try_parse_from(["kv-controller"]).expect("settings").settings;
        let metrics = Arc::new(Metrics::default());
        let health = Arc::new(Health::new(Duration::from_secs(120), metrics.clone()));
        let (stop, stopped) = watch::channel(());
        let (counted, clients) = (metrics.clone(), (client.clone(), client));
        let replica = tokio::spawn(async move { take_turns(clients, &settings, &counted, &health, stopped).await });
        let held_by = |holder: &str| {
            if let Some(lease) = lease.lock().as_mut() {
                lease["spec"]["holderIdentity"] = json!(holder);
                lease["spec"]["leaseDurationSeconds"] = json!(15);
            }
        };
        // A renewal that is under way may overwrite it.
        let until = async |leading: i64, holder: Option<&str>| {
            let reached = async {
                while metrics.leading.get() != leading {
                    holder.into_iter().for_each(held_by);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), reached).await.unwrap_or_else(|_| panic!("not {leading}"));
            assert!(!replica.is_finished());
        };
        until(1, None).await;
        metrics.clusters.set(3);
        until(0, Some("another")).await;
        assert_eq!(metrics.clusters.get(), 0, "it does not know them now");
        held_by("");
        until(1, None).await;
        drop(stop);
        replica.await.expect("no panic").expect("it ends by itself");
        let holder = lease.lock().as_ref().map(|lease| lease["spec"]["holderIdentity"].clone());
        assert_eq!(holder, Some(json!("")), "the Lease is released");
    }
}
