//! The label of the pod that leads, by which the Service finds it in a cluster with standbys.
//!
//! A standby takes over within a second, and clients of the Service should notice as little of it. So a task for each
//! such cluster keeps a stream to each of its leader pods, by which a pod reports at once that it leads. It does not wait for
//! reconciliations, which may be slow, or pause after a failure. A new label triggers a reconciliation, which reports the new
//! leader.
//!
//! Every replica of the operator keeps the labels, also one that waits for its Lease: where a machine is lost with the leader
//! and the replica that reconciles, clients do not wait for the Lease to end.
//!
//! While a pod has no stream, because it is lost or of a version without one, all pods are asked several times a second.

mod streams;
pub mod waiting;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use kvcluster_api::status::Epoch;
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::AbortHandle;

use self::streams::Streams;
use super::leader_client::LeaderClients;
use super::validate::Validated;
use crate::build::{self, Component, LEADS, MANAGER, names};
use crate::context::{Context, Indexed, cached};
use crate::pods;

/// The delay between two looks at which leader pods there are, and at what they answer while one of them has no stream.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The delay between two looks at what they answer while each of them has a stream.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How long a pod may take to answer. One on a lost machine does not answer at all.
const PATIENCE: Duration = Duration::from_millis(300);
/// The annotation of the pod with the label: the epoch that it leads.
const EPOCH: &str = "kvcluster.io/leads-epoch";
/// When Kubernetes removes one of several leader pods, it prefers those without this annotation.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The tasks that keep the labels, one for each cluster with standbys.
#[derive(Default)]
pub struct LeadLabels {
    tasks: Mutex<HashMap<(String, String), AbortHandle>>,
}

impl LeadLabels {
    /// Keeps the label of a cluster on the one of its leader pods that leads, while one may be a standby. Returns whether
    /// the Service selects by the label.
    pub fn keep(&self, cluster: &Validated, pods: &[Arc<Pod>], context: &Context) -> bool {
        let (namespace, name) = (&cluster.namespace, &cluster.name);
        // Pods of an earlier spec remain until Kubernetes has replaced them.
        if cluster.standbys == 0 && !pods.iter().any(|pod| build::may_stand_by(pod)) {
            self.stop(namespace, name);
            return false;
        }
        self.start(namespace, name, &context.stores.pods, &context.client, &context.leaders);
        let service = cached(&context.stores.services, namespace, &names::write(name));
        selects_by_label(service.as_deref(), pods)
    }

    fn start(&self, namespace: &str, name: &str, pods: &Indexed<Pod>, client: &Client, leaders: &Arc<LeaderClients>) {
        self.tasks.lock().entry((namespace.to_owned(), name.to_owned())).or_insert_with(|| {
            let labeller = Labeller {
                namespace: namespace.to_owned(),
                cluster: name.to_owned(),
                client: client.clone(),
                leaders: leaders.clone(),
                pods: pods.clone(),
            };
            tokio::spawn(labeller.run()).abort_handle()
        });
    }

    /// The clusters with a task.
    fn clusters(&self) -> Vec<(String, String)> {
        self.tasks.lock().keys().cloned().collect()
    }

    /// How many tasks run.
    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.tasks.lock().len()
    }

    /// Ends the task of a cluster. The labels stay as they are.
    pub fn stop(&self, namespace: &str, name: &str) {
        if let Some(task) = self.tasks.lock().remove(&(namespace.to_owned(), name.to_owned())) {
            task.abort();
        }
    }
}

impl Drop for LeadLabels {
    fn drop(&mut self) {
        self.tasks.get_mut().values().for_each(AbortHandle::abort);
    }
}

/// Whether the Service of a cluster with standbys selects by the label. One that selects without it changes once a pod has
/// the label. Before, it would select nothing.
fn selects_by_label(service: Option<&Service>, pods: &[Arc<Pod>]) -> bool {
    let selector = service.and_then(|service| service.spec.as_ref()?.selector.as_ref());
    selector.is_none_or(|selector| selector.contains_key(LEADS))
        || pods.iter().any(|pod| pods::is_labelled_as_leader(pod))
}

/// Keeps the label in one cluster.
struct Labeller {
    namespace: String,
    cluster: String,
    client: Client,
    leaders: Arc<LeaderClients>,
    pods: Indexed<Pod>,
}

impl Labeller {
    async fn run(self) {
        let mut streams = Streams::new(self.leaders.clone(), &self.namespace, &self.cluster);
        let mut asked: Option<Instant> = None;
        loop {
            let pods = self.pods.of(&self.namespace, &self.cluster, Component::Leader);
            streams.keep(&pods);
            let ask_every = if streams.are_complete() { ASK_EVERY } else { LOOK_EVERY };
            let is_due = asked.is_none_or(|asked| asked.elapsed() >= ask_every);
            let answered = if is_due { self.ask(&pods).await } else { None };
            asked = if is_due { Some(Instant::now()) } else { asked };
            // What was reported last, since the answers took some time.
            let reported = streams.leader().map(|(pod, leadership)| (Some(leadership.epoch), pod));
            if let Some((epoch, leader)) = answered.max(reported)
                && !is_outdated(&pods, epoch.as_ref(), |pod| pod == leader || streams.hear(pod))
            {
                self.label(&pods, &leader, epoch.as_ref()).await;
            }
            tokio::select! {
                () = streams.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// The highest epoch of those that answer that they lead, and its pod.
    async fn ask(&self, pods: &[Arc<Pod>]) -> Option<(Option<Epoch>, String)> {
        let leader = self.leaders.of(&self.namespace, &self.cluster).find_open(pods, PATIENCE).await?;
        Some((leader.status.epoch, leader.pod))
    }

    /// Labels the pod that leads, and takes the label from others.
    async fn label(&self, pods: &[Arc<Pod>], leader: &str, epoch: Option<&Epoch>) {
        let wrong = changes(pods.iter().map(Arc::as_ref), leader, epoch);
        if wrong.is_empty() {
            return;
        }
        let (cluster, namespace) = (&self.cluster, &self.namespace);
        let api = Api::namespaced(self.client.clone(), namespace);
        self.patch(&api, wrong, epoch).await;
        // Soon after its machine was cut off, this replica may not have seen that another one labelled a pod, and the Service
        // would send clients to both.
        let labelled = format!("{},{LEADS}=true", build::selector_text(cluster, Component::Leader));
        match api.list(&ListParams::default().labels(&labelled)).await {
            Ok(labelled) => self.patch(&api, changes(&labelled.items, leader, epoch), epoch).await,
            Err(error) => tracing::warn!(%error, cluster, namespace, "failed to list the pods with the label"),
        }
    }

    async fn patch(&self, api: &Api<Pod>, wrong: Vec<(String, bool)>, epoch: Option<&Epoch>) {
        let (cluster, namespace) = (&self.cluster, &self.namespace);
        let parameters = &PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        // At once: while both have the label, or none, kube-proxy may send clients to a lost pod, or refuse them.
        let patches = wrong.into_iter().map(|(pod, leads)| async move {
            let metadata = json!({
                "labels": {LEADS: leads.then_some("true")},
                "annotations": {DELETION_COST: leads.then_some("1"), EPOCH: epoch.filter(|_| leads).map(text)},
            });
            match api.patch_metadata(&pod, parameters, &Patch::Merge(json!({"metadata": metadata}))).await {
                Ok(_) => tracing::info!(cluster, namespace, pod, leads, "labelled"),
                // A pod that is gone has no clients.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => tracing::warn!(%error, cluster, namespace, pod, "failed to label a pod"),
            }
        });
        join_all(patches).await;
    }
}

/// The pods whose label or annotation is wrong, and whether each leads.
fn changes<'a>(pods: impl IntoIterator<Item = &'a Pod>, leader: &str, epoch: Option<&Epoch>) -> Vec<(String, bool)> {
    let leads = |pod: &Pod| pod.name_any() == leader;
    let is_right = |pod: &Pod| {
        pods::is_labelled_as_leader(pod) == leads(pod) && (!leads(pod) || labelled_epoch(pod).as_ref() == epoch)
    };
    let wrong = pods.into_iter().filter(|pod| !is_right(pod));
    wrong.map(|pod| (pod.name_any(), leads(pod))).collect()
}

/// Whether another replica labelled a pod by a later epoch, as far as this one knows: of a pod that it hears it knows
/// better. A replica that reaches an earlier leader alone would take the label back again and again.
fn is_outdated(pods: &[Arc<Pod>], epoch: Option<&Epoch>, hears: impl Fn(&str) -> bool) -> bool {
    let unheard = pods.iter().filter(|pod| pods::is_labelled_as_leader(pod) && !hears(&pod.name_any()));
    unheard.filter_map(|pod| labelled_epoch(pod)).any(|labelled| Some(&labelled) > epoch)
}

fn labelled_epoch(pod: &Pod) -> Option<Epoch> {
    serde_json::from_str(pod.annotations().get(EPOCH)?).ok()
}

fn text(epoch: &Epoch) -> String {
    json!(epoch).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, leads: bool) -> Arc<Pod> {
        let labels = if leads { json!({LEADS: "true"}) } else { json!({}) };
        let annotations = if leads { json!({EPOCH: text(&epoch(4))}) } else { json!({}) };
        let metadata = json!({"name": name, "labels": labels, "annotations": annotations});
        Arc::new(serde_json::from_value(json!({"metadata": metadata})).expect("a pod"))
    }

    fn epoch(term: u64) -> Epoch {
        Epoch { term, leader: "a".to_owned() }
    }

    #[test]
    fn the_pod_that_leads_alone_has_the_label() {
        let pods = [pod("a", true), pod("b", false), pod("c", false)];
        let changes = |leader, term| changes(pods.iter().map(Arc::as_ref), leader, Some(&epoch(term)));
        assert_eq!(changes("b", 5), [("a".to_owned(), false), ("b".to_owned(), true)]);
        assert_eq!(changes("a", 4), []);
        assert_eq!(changes("a", 5), [("a".to_owned(), true)], "it leads again");
        assert_eq!(changes("gone", 5), [("a".to_owned(), false)]);
    }

    // Goal: of two replicas that keep the labels, one that does not reach the leader does not give the label back to an earlier
    // one. Method: every epoch that it may have heard of another pod, with and without a stream of the labelled one.
    #[test]
    fn a_replica_that_hears_less_leaves_the_label() {
        let pods = [pod("a", true), pod("b", false)];
        let outdated = |term, hears| is_outdated(&pods, Some(&epoch(term)), |_| hears);
        assert!(outdated(3, false));
        assert!(!outdated(3, true), "it hears from the pod itself that it does not lead, or leads by less");
        assert!(!outdated(5, false), "a later leader");
    }

    // Goal: the Service never selects by a label that no pod has yet, and stays with the label while the next leader is
    // sought. Method: every Service and pod that a reconciliation may find.
    #[test]
    fn a_service_that_has_pods_selects_by_label_once_a_pod_has_it() {
        let service = |selector: serde_json::Value| -> Service {
            serde_json::from_value(json!({"spec": {"selector": selector}})).expect("a Service")
        };
        let (before, after) = (service(json!({"a": "b"})), service(json!({"a": "b", LEADS: "true"})));
        let (none, one) = ([pod("a", false), pod("b", false)], [pod("a", false), pod("b", true)]);
        assert!(!selects_by_label(Some(&before), &none));
        assert!(selects_by_label(Some(&before), &one));
        assert!(selects_by_label(Some(&after), &none));
        assert!(selects_by_label(None, &none), "a new cluster");
    }
}
