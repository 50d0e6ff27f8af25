//! Step 8 (client): replaces the one follower pod that may move, or a leader that was left behind, and counts the clusters
//! that roll.
//!
//! The operator evicts the pod instead of letting the StatefulSet update it (`updateStrategy: OnDelete`). Any pod can be the
//! next one, a broken one for example, where a partition of a StatefulSet goes by ordinals alone. And an eviction
//! counts against the PodDisruptionBudget at the moment it happens, so that a rollout and a drain together never take
//! more followers than the budget allows.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use kvcluster_api::status::LeaderState;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Error;
use super::leader_client::LeaderSeen;
use super::plan::{Plan, Situation, Turn, decide};
use crate::context::Context;

/// The clusters that roll out a template.
#[derive(Default)]
pub struct Rollouts {
    rolling: Mutex<HashSet<(String, String)>>,
}

impl Rollouts {
    /// Makes the plan of a cluster, in turn: two clusters never take the same place. One that rolls already keeps its place.
    pub fn plan(&self, namespace: &str, name: &str, situation: &Situation, cap: usize) -> Plan {
        let key = (namespace.to_owned(), name.to_owned());
        let mut rolling = self.rolling.lock();
        let rolls = rolling.contains(&key);
        let plan = decide(situation, Turn { rolls, others: rolling.len() - usize::from(rolls), cap });
        if plan.rolls {
            rolling.insert(key)
        } else {
            rolling.remove(&key)
        };
        plan
    }

    /// How many clusters roll.
    #[must_use]
    pub fn count(&self) -> usize {
        self.rolling.lock().len()
    }

    /// Gives the place of a cluster away.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.rolling.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }
}

/// The pod of a leader that another one replaced, where no other leader pod is there to go on. Such a leader serves no client
/// until it starts again, and no probe restarts it.
#[must_use]
pub fn left_behind<'a>(leader: &LeaderSeen, leader_pods: &'a [Arc<Pod>]) -> Option<&'a Pod> {
    let fenced = leader.answered().filter(|leader| leader.status.state == LeaderState::Fenced)?;
    let mut staying = leader_pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let pod = staying.next().filter(|pod| pod.name_any() == fenced.pod)?;
    staying.next().is_none().then_some(pod.as_ref())
}

/// Replaces a pod: evicts it, or deletes it where no budget could allow that. Returns why the API server did not allow it.
///
/// # Errors
/// [`Error::Api`] when the API server does not answer.
pub async fn replace(pod: &Pod, within_budget: bool, context: &Context) -> Result<Option<String>, Error> {
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    // The pod that was judged, and no other of its name.
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    let delete = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    // The usual client would repeat a refused eviction for minutes.
    let api: Api<Pod> = Api::namespaced(context.without_retries.clone(), &namespace);
    let done = if within_budget {
        // Not by `Api::evict`, which sends the preconditions under a name that the API server ignores.
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace}, "deleteOptions": delete});
        api.create_subresource("eviction", &name, &PostParams::default(), &eviction).await.map(|_: Value| ())
    } else {
        api.delete(&name, &delete).await.map(drop)
    };
    match done {
        Ok(()) => {
            tracing::info!(name, namespace, within_budget, "replaced a pod");
            Ok(None)
        }
        // It is gone, or another one has its name.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(None),
        // 500: more than one budget selects the pod.
        Err(kube::Error::Api(status)) if status.code == 429 || status.code == 500 => {
            Ok(Some(format!("{name} cannot move: the API server refuses its eviction: {}", status.message)))
        }
        Err(source) => Err(Error::api("replace a pod")(source)),
    }
}
