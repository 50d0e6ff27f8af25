//! One reconciliation, as a pipeline. Each step is a file; those marked with a client speak with the outside.
//!
//! 1. [`validate`]: from the resource to a type that builders may trust.
//! 2. look (client): the token, the leader's own status ([`leader_client`]).
//! 3. [`build`](crate::build): the objects, as they should be.
//! 4. [`apply`] (client): those that differ.
//! 5. configure (client): the leader gets quorum, delay, timeout and number of followers, at once and without a restart.
//! 6. [`status`]: what is reported; [`events`]: what is told. Written (client) only where they differ.
//!
//! A scale-up grows the StatefulSet first and then tells the leader; a scale-down tells the leader first, and the
//! StatefulSet shrinks once the leader has let go of those that leave: [`follower_pods`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};
use kvcluster_api::resource::{KvCluster, KvClusterStatus};
use rand::RngExt;
use serde_json::json;
use thiserror::Error;

use crate::build::{self, Component, MANAGER, Observed, Resources, TOKEN_KEY, names};
use crate::context::{Context, cached};
use crate::reconcile::apply::ApplyError;
use crate::reconcile::events::Happened;
use crate::reconcile::leader_client::{Configured, LeaderSeen};
use crate::reconcile::status::Seen;
use crate::reconcile::validate::Validated;

pub mod apply;
pub mod events;
pub mod leader_client;
pub mod status;
pub mod validate;

/// How soon a cluster on its way somewhere is looked at again.
const UNSETTLED: Duration = Duration::from_millis(1000);
/// How soon a resource that cannot be acted on is looked at again; a change of it brings it back at once.
const IDLE: Duration = Duration::from_secs(30);
/// The first wait after a failure, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// Why a reconciliation failed.
#[derive(Debug, Error)]
pub enum Error {
    /// An object could not be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The API server refused or did not answer.
    #[error("failed to {doing}: {source}")]
    Api {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        source: Box<kube::Error>,
    },
}

impl Error {
    /// One word, for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Apply(error) => error.reason(),
            Self::Api { .. } => "ApiFailed",
        }
    }
}

fn while_(doing: &'static str) -> impl Fn(kube::Error) -> Error {
    move |source| Error::Api { doing, source: Box::new(source) }
}

/// Brings one KvCluster closer to its spec, and tells how it is.
///
/// # Errors
/// [`Error`] when the API server refuses; [`retry`] says when to try again.
pub async fn reconcile(object: Arc<DeserializeGuard<KvCluster>>, context: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let result = match &object.0 {
        Ok(cluster) => one(cluster, &context).await,
        Err(malformed) => {
            // The CRD in the cluster allows what this operator does not know. The others must not suffer from it.
            let name = object.name_any();
            tracing::error!(
                name,
                namespace = object.namespace(),
                error = malformed.error,
                "failed to read a KvCluster"
            );
            Ok(Action::requeue(IDLE))
        }
    };
    context.metrics.reconciled(started.elapsed(), result.as_ref().err().map(Error::reason));
    context.health.reconciled();
    if let (Ok(cluster), Ok(_)) = (&object.0, &result) {
        context.memory.succeeded(cluster);
    }
    result
}

/// When to try again after a failure: later each time, and not all clusters at once.
pub fn retry(object: Arc<DeserializeGuard<KvCluster>>, error: &Error, context: Arc<Context>) -> Action {
    let failures = object.0.as_ref().map_or(1, |cluster| context.memory.failed(cluster));
    let wait = backoff(failures);
    tracing::warn!(name = object.name_any(), namespace = object.namespace(), %error, failures, "failed to reconcile");
    Action::requeue(jittered(wait))
}

fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    first.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(longest)
}

// Up to a fifth more or less, so that clusters do not move in step.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.8..1.2))
}

async fn one(cluster: &KvCluster, context: &Context) -> Result<Action, Error> {
    if cluster.metadata.deletion_timestamp.is_some() {
        // The garbage collector takes what it owns; bringing that back would keep it busy.
        return Ok(Action::requeue(IDLE));
    }
    context.stores.ready().await;
    let previous = context.memory.newest_status(cluster);
    let validated = match validate::validate(cluster, &context.defaults) {
        Ok(validated) => validated,
        Err(contradiction) => {
            let status =
                status::invalid(cluster.metadata.generation, &contradiction.to_string(), &previous, Timestamp::now());
            report(cluster, &previous, status, context).await?;
            return Ok(Action::requeue(IDLE));
        }
    };
    let (secret, token) = token(cluster, &validated, context).await?;
    let leader_pods = context.stores.pods_of(&validated.namespace, &validated.name, Component::Leader);
    let mut leader = context.leaders.observe(&leader_pods).await;
    let existing = cached(&context.stores.stateful_sets, &validated.namespace, &names::followers(&validated.name));
    let existing = existing.and_then(|set| set.spec.as_ref()?.replicas);
    let observed = Observed {
        follower_pods: follower_pods(&validated, &leader, &previous, existing),
        opened: previous.opened || leader.open().is_some(),
        token,
    };
    let desired = build::build(&validated, &observed);
    let applied = apply(desired, secret, &validated, context).await;
    // Also when an object could not be applied: the running leader need not wait for that.
    let configured = match leader.answered() {
        Some(leader) => context.leaders.configure(leader, &validated.live, &observed.token).await,
        None => Configured::Unchanged,
    };
    if let (LeaderSeen::Answered(leader), Configured::Accepted(config)) = (&mut leader, &configured) {
        leader.status.config = config.clone();
    }
    let (namespace, name) = (&validated.namespace, &validated.name);
    let deployment = cached(&context.stores.deployments, namespace, &names::leader(name));
    let stateful_set = cached(&context.stores.stateful_sets, namespace, &names::followers(name));
    let follower_pods = context.stores.pods_of(namespace, name, Component::Follower);
    let seen = Seen {
        leader: &leader,
        configured: &configured,
        deployment: deployment.as_deref(),
        stateful_set: stateful_set.as_deref(),
        follower_pods: &follower_pods,
        problem: applied.as_ref().err().map(|error| (error.reason(), error.to_string())),
    };
    let status = status::compute(&validated, &seen, &previous, Timestamp::now());
    let settled = status.phase == kvcluster_api::resource::Phase::Ready;
    report(cluster, &previous, status, context).await?;
    applied?;
    Ok(Action::requeue(jittered(if settled { context.poll_interval } else { UNSETTLED })))
}

/// How many follower pods there have to be: as many as the spec says, and before a scale-down is through, all that there
/// are. It is through when the leader is open, has the smaller number in force with nothing on its way, and knows none of
/// those that leave any more: until then another leader could depend on what they hold. `existing` is what the
/// StatefulSet asks for now.
#[must_use]
pub fn follower_pods(
    cluster: &Validated,
    leader: &LeaderSeen,
    previous: &KvClusterStatus,
    existing: Option<i32>,
) -> i32 {
    let wanted = i32::from(cluster.live.followers);
    if !previous.opened && leader.open().is_none() {
        return wanted; // it never took a write: nothing to keep
    }
    let leaving = leader.answered().and_then(|leader| {
        let prefix = format!("{}-", names::followers(&cluster.name));
        let views = leader.status.followers.iter();
        views.filter_map(|view| view.name.strip_prefix(&prefix)?.parse::<i32>().ok()).max()
    });
    let known = leaving.map_or(0, |ordinal| ordinal.saturating_add(1));
    if let Some(leader) = leader.open() {
        let config = &leader.status.config;
        let through = config.pending.is_none() && i32::from(config.in_force.followers) == wanted && known <= wanted;
        if through {
            return wanted;
        }
    }
    // A StatefulSet that was deleted by hand comes back with as many as were in use.
    let in_use = existing.unwrap_or(0).max(previous.applied_replicas.unwrap_or(0));
    wanted.max(in_use).max(known)
}

// The token in use: that of the Secret; else the one that the pods were started with; else a new one.
async fn token(
    cluster: &KvCluster,
    validated: &Validated,
    context: &Context,
) -> Result<(Option<Arc<Secret>>, String), Error> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &validated.namespace);
    let live = api.get_opt(&names::secret(&validated.name)).await.map_err(while_("read the token"))?;
    let stored = live
        .as_ref()
        .and_then(|secret| secret.data.as_ref()?.get(TOKEN_KEY))
        .and_then(|token| String::from_utf8(token.0.clone()).ok())
        .filter(|token| !token.is_empty());
    let token = stored.or_else(|| context.memory.token(cluster)).unwrap_or_else(build::new_token);
    context.memory.token_seen(cluster, &token);
    Ok((live.map(Arc::new), token))
}

// What pods need comes before the pods. The first failure ends it: the rest is tried again with it.
async fn apply(
    desired: Resources,
    secret: Option<Arc<Secret>>,
    cluster: &Validated,
    context: &Context,
) -> Result<(), ApplyError> {
    let Resources { account, secret: wanted_secret, config, peers, write, read, followers, leader, budget, policy } =
        desired;
    let (applier, stores, namespace) = (&context.applier, &context.stores, cluster.namespace.as_str());
    macro_rules! bring {
        ($object:expr, $store:expr) => {{
            let object = $object;
            let known = cached(&$store, namespace, &object.name_any());
            applier.apply(object, known).await?;
        }};
    }
    bring!(config, stores.configs);
    bring!(account, stores.accounts);
    applier.apply(wanted_secret, secret).await?;
    match policy {
        Some(policy) => bring!(policy, stores.policies),
        None => remove_policy(cluster, context).await?,
    }
    bring!(peers, stores.services);
    bring!(write, stores.services);
    bring!(read, stores.services);
    bring!(followers, stores.stateful_sets);
    bring!(leader, stores.deployments);
    bring!(budget, stores.budgets);
    Ok(())
}

// Switched off: the policy goes, if it is ours.
async fn remove_policy(cluster: &Validated, context: &Context) -> Result<(), ApplyError> {
    let Some(policy) = cached(&context.stores.policies, &cluster.namespace, &cluster.name) else { return Ok(()) };
    let ours = policy.owner_references().iter().any(|owner| owner.uid == cluster.owner.uid);
    if !ours || policy.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let api: Api<k8s_openapi::api::networking::v1::NetworkPolicy> =
        Api::namespaced(context.client.clone(), &cluster.namespace);
    let this_one = Preconditions { uid: policy.uid(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(this_one), ..DeleteParams::default() };
    match api.delete(&cluster.name, &parameters).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(source) => {
            let kind = "NetworkPolicy".to_owned();
            Err(ApplyError::Api { kind, name: cluster.name.clone(), source: Box::new(source) })
        }
    }
}

// Writes the status where it differs, and then tells what happened: in this order, so that a status that could not be
// written tells nothing, and the next attempt tells it once.
async fn report(
    cluster: &KvCluster,
    previous: &KvClusterStatus,
    status: KvClusterStatus,
    context: &Context,
) -> Result<(), Error> {
    if *previous == status {
        return Ok(());
    }
    let api: Api<KvCluster> = Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    let body = json!({
        "apiVersion": KvCluster::api_version(&()),
        "kind": KvCluster::kind(&()),
        "metadata": {"name": cluster.name_any()},
        "status": status,
    });
    let parameters = PatchParams::apply(MANAGER).force();
    let written = api
        .patch_status(&cluster.name_any(), &parameters, &Patch::Apply(&body))
        .await
        .map_err(while_("write the status"))?;
    context.memory.status_written(&written);
    for event in events::between(previous, &status) {
        let Happened { reason, note, .. } = &event;
        tracing::info!(name = cluster.name_any(), namespace = cluster.namespace(), reason, note, "transition");
        context.recorder.publish(cluster, &event, Timestamp::now()).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
