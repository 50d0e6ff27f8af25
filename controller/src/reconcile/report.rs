//! Step 8 (client): the status and the events, written only where they differ.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use kvcluster_api::resource::{KvCluster, KvClusterStatus};
use serde_json::json;

use super::Error;
use super::applier::ApplyError;
use super::apply::Applied;
use super::certificates;
use super::client_tokens::ClientTokens;
use super::events::{self, Happened};
use super::leader_client::{Configured, LeaderSeen};
use super::plan::Plan;
use super::status::{self, Seen};
use super::tokens::Tokens;
use super::validate::Validated;
use crate::build::{Component, MANAGER, names};
use crate::context::{Context, cached};

/// What the steps before led to.
pub struct StepResults<'a> {
    /// The leader, with the configuration that it answered last.
    pub leader: &'a LeaderSeen,
    /// The result of sending the leader its configuration.
    pub configured: &'a Configured,
    /// The objects with pods, if any were applied, or why an object could not be.
    pub applied: Result<Option<&'a Applied>, &'a ApplyError>,
    /// Which pods may get a new template.
    pub plan: &'a Plan,
    /// How far a rotation of the token is.
    pub tokens: &'a Tokens,
    /// What the Secret with the tokens of clients has.
    pub clients: &'a ClientTokens,
    /// Whether nodes and clients accept the certificate.
    pub certificates: &'a certificates::State,
}

/// The status that follows from the results and from the objects as the watches see them.
#[must_use]
pub fn status(
    cluster: &Validated,
    results: &StepResults<'_>,
    previous: &KvClusterStatus,
    context: &Context,
) -> KvClusterStatus {
    let (namespace, name) = (&cluster.namespace, &cluster.name);
    let applied = results.applied.ok().flatten();
    let deployment = cached(&context.stores.deployments, namespace, &names::leader(name));
    let deployment = newest(deployment, applied.map(|applied| &applied.leader));
    let stateful_set = cached(&context.stores.stateful_sets, namespace, &names::followers(name));
    let stateful_set = newest(stateful_set, applied.map(|applied| &applied.followers));
    let follower_pods = context.stores.pods_of(namespace, name, Component::Follower);
    let leader_pods = context.stores.pods_of(namespace, name, Component::Leader);
    let backup_pods = context.stores.backup_pods_of(namespace, name);
    let bootstrap_pods = context.stores.bootstrap_pods_of(namespace, name);
    let claims = context.stores.claims_of(namespace, name);
    let seen = Seen {
        leader: results.leader,
        configured: results.configured,
        deployment: deployment.as_deref(),
        stateful_set: stateful_set.as_deref(),
        follower_pods: &follower_pods,
        leader_pods: &leader_pods,
        backup_pods: &backup_pods,
        bootstrap_pods: &bootstrap_pods,
        claims: &claims,
        claim_refused: applied.and_then(|applied| applied.refused.as_deref()),
        plan: results.plan,
        tokens: results.tokens,
        clients: results.clients,
        certificates: results.certificates,
        problem: results.applied.err().map(|error| (error.reason(), error.to_string())),
    };
    status::compute(cluster, &seen, previous, Timestamp::now())
}

/// The applied object, until the watch has delivered it or a later one. The status of an older one would say that the
/// rollout is complete before it began.
fn newest<K: Resource>(cached: Option<Arc<K>>, applied: Option<&Arc<K>>) -> Option<Arc<K>> {
    let generation = |object: &Arc<K>| object.meta().generation;
    match (cached, applied) {
        (Some(cached), Some(applied)) if generation(&cached) < generation(applied) => Some(applied.clone()),
        (cached, applied) => cached.or_else(|| applied.cloned()),
    }
}

/// Writes the status where it differs from the previous one, and then an event for each transition.
///
/// In this order: when the status cannot be written, no event is written either, and the next attempt writes both once.
///
/// # Errors
/// [`Error::Api`] when the API server does not take the status.
pub async fn write(
    resource: &KvCluster,
    previous: &KvClusterStatus,
    status: &KvClusterStatus,
    context: &Context,
) -> Result<(), Error> {
    if previous == status {
        return Ok(());
    }
    let api: Api<KvCluster> = Api::namespaced(context.client.clone(), &resource.namespace().unwrap_or_default());
    let body = json!({
        "apiVersion": KvCluster::api_version(&()),
        "kind": KvCluster::kind(&()),
        "metadata": {"name": resource.name_any()},
        "status": status,
    });
    let parameters = PatchParams::apply(MANAGER).force();
    let written = api
        .patch_status(&resource.name_any(), &parameters, &Patch::Apply(&body))
        .await
        .map_err(Error::api("write the status"))?;
    context.memory.status_written(&written);
    for event in events::between(previous, status) {
        let Happened { reason, note, .. } = &event;
        tracing::info!(name = resource.name_any(), namespace = resource.namespace(), reason, note, "transition");
        context.recorder.publish(resource, &event, Timestamp::now()).await;
    }
    Ok(())
}

/// Reports that a resource cannot be read. Only the phase, the message and the conditions change: what else the status says
/// is needed once the resource can be read again.
///
/// # Errors
/// [`Error::Api`] when the API server does not take the status.
pub async fn malformed(namespace: &str, name: &str, error: &str, context: &Context) -> Result<(), Error> {
    let resource = ApiResource::erase::<KvCluster>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &resource);
    let Some(object) = api.get_opt(name).await.map_err(Error::api("read a KvCluster"))? else { return Ok(()) };
    let previous: KvClusterStatus = serde_json::from_value(object.data["status"].clone()).unwrap_or_default();
    let message = format!("this operator cannot read the resource: {error}");
    let status = status::invalid(object.metadata.generation, &message, &previous, Timestamp::now());
    if previous == status {
        return Ok(());
    }
    let KvClusterStatus { observed_generation, phase, message, conditions, .. } = status;
    let patch = json!({"status": {"observedGeneration": observed_generation, "phase": phase, "message": message,
        "conditions": conditions}});
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    api.patch_status(name, &parameters, &Patch::Merge(&patch)).await.map_err(Error::api("write the status"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;

    use super::*;

    // Goal: a new template is seen before the watch delivers it. Method: every order of the two sources.
    #[test]
    fn the_newer_of_the_cached_and_the_applied_object_counts() {
        let of = |generation| {
            let mut set = StatefulSet::default();
            set.metadata.generation = Some(generation);
            Arc::new(set)
        };
        let newest = |cached: Option<i64>, applied: Option<i64>| {
            newest(cached.map(of), applied.map(of).as_ref()).and_then(|set| set.metadata.generation)
        };
        assert_eq!(newest(Some(4), Some(5)), Some(5), "the watch is behind");
        assert_eq!(newest(Some(6), Some(5)), Some(6), "another change came after it");
        assert_eq!(newest(None, Some(5)), Some(5));
        assert_eq!(newest(Some(4), None), Some(4));
        assert_eq!(newest(None, None), None);
    }
}
