//! The label of the pod that leads, by which the Service finds it in a cluster with standbys.
//!
//! A standby takes over within a second, and clients of the Service should notice as little of it. So a task for each
//! such cluster asks its leader pods several times a second. It does not wait for reconciliations, which may be slow, or
//! pause after a failure. A new label triggers a reconciliation, which reports the new leader.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::AbortHandle;

use super::leader_client::LeaderClients;
use super::validate::Validated;
use crate::build::{self, Component, LEADS, MANAGER, names};
use crate::context::{Context, Stores, cached};
use crate::pods;

/// The delay between two looks at the leader pods of a cluster.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a pod may take to answer. One on a lost machine does not answer at all.
const PATIENCE: Duration = Duration::from_millis(300);
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
        self.tasks.lock().entry((namespace.clone(), name.clone())).or_insert_with(|| {
            let labeller = Labeller {
                namespace: namespace.clone(),
                cluster: name.clone(),
                client: context.client.clone(),
                leaders: context.leaders.clone(),
                stores: context.stores.clone(),
            };
            tokio::spawn(labeller.run()).abort_handle()
        });
        let service = cached(&context.stores.services, namespace, &names::write(name));
        selects_by_label(service.as_deref(), pods)
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
    stores: Stores,
}

impl Labeller {
    async fn run(self) {
        loop {
            self.label().await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Labels the pod that leads, and takes the label from others. While no leader is open, nothing changes.
    async fn label(&self) {
        let pods = self.stores.pods_of(&self.namespace, &self.cluster, Component::Leader);
        let Some(leader) = self.leaders.of(&self.namespace, &self.cluster).find_open(&pods, PATIENCE).await else {
            return;
        };
        let (cluster, namespace) = (&self.cluster, &self.namespace);
        let api: &Api<Pod> = &Api::namespaced(self.client.clone(), namespace);
        let parameters = &PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        // At once: while both have the label, or none, kube-proxy may send clients to a lost pod, or refuse them.
        let patches = changes(&pods, &leader.pod).into_iter().map(|(pod, leads)| async move {
            let metadata = json!({
                "labels": {LEADS: leads.then_some("true")},
                "annotations": {DELETION_COST: leads.then_some("1")},
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

/// The pods whose label is wrong, and whether each leads.
fn changes(pods: &[Arc<Pod>], leader: &str) -> Vec<(String, bool)> {
    let leads = |pod: &Pod| pod.name_any() == leader;
    let wrong = pods.iter().filter(|pod| pods::is_labelled_as_leader(pod) != leads(pod));
    wrong.map(|pod| (pod.name_any(), leads(pod))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, leads: bool) -> Arc<Pod> {
        let labels = if leads { json!({LEADS: "true"}) } else { json!({}) };
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).expect("a pod"))
    }

    #[test]
    fn the_pod_that_leads_alone_has_the_label() {
        let pods = [pod("a", true), pod("b", false), pod("c", false)];
        assert_eq!(changes(&pods, "b"), [("a".to_owned(), false), ("b".to_owned(), true)]);
        assert_eq!(changes(&pods, "a"), []);
        assert_eq!(changes(&pods, "gone"), [("a".to_owned(), false)]);
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
