//! One reconciliation, as a pipeline with one file for each step. A step marked with "client" sends requests.
//!
//! 1. [`validate`]: from the resource to a type that the later steps may trust.
//! 2. [`observe`] (client): the [`secrets`], the leader's status by [`leader_client`], and the next step of a rotation of
//!    the [`tokens`] and of the [`certificates`].
//! 3. [`scale`], [`hibernation`]: how many follower pods and leader pods there have to be.
//! 4. [`lead`]: starts the task that labels the pod that leads, where there are standbys.
//! 5. [`build`](crate::build): the desired objects.
//! 6. [`plan`]: which one pod may get a new template now, and why no other.
//! 7. [`apply`] (client): the objects that differ, by [`applier`].
//! 8. [`roll`] (client): replaces the follower pod that may move.
//! 9. [`configure`] (client): the leader gets quorum, delay, timeout and number of followers, without a restart.
//! 10. [`report`] (client): the [`status`] and the [`events`], written only where they differ.
//!
//! In a paused cluster the steps 7 to 9 do nothing.
//! Where no watch has reported anything since everything was as the spec asks for, [`calm`] asks the leader alone, and
//! later each time.
//!
//! A scale-up first grows the StatefulSet and then configures the leader. A scale-down first configures the leader, and
//! the StatefulSet shrinks once the leader no longer needs the followers that leave.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kvcluster_api::resource::{KvCluster, Phase};
use rand::RngExt;
use thiserror::Error;

use crate::build::{self, Inputs, names};
use crate::context::{Calm, Context, cached};
use crate::reconcile::applier::ApplyError;
use crate::reconcile::apply::Applied;
use crate::reconcile::hibernation::Stage;
use crate::reconcile::leader_client::Configured;
use crate::reconcile::plan::{Move, Plan, Rollout};
use crate::reconcile::report::StepResults;

pub mod applier;
pub mod apply;
pub mod backups;
pub mod bootstrap;
pub mod calm;
pub mod certificates;
pub mod client_tokens;
pub mod configure;
pub mod disruption;
pub mod events;
pub mod growth;
pub mod hibernation;
pub mod lead;
pub mod leader_client;
pub mod observe;
pub mod plan;
pub mod report;
pub mod requests;
pub mod roll;
pub mod scale;
pub mod secrets;
pub mod status;
pub mod tokens;
pub mod validate;
pub mod volumes;

/// The delay before the next look at a cluster that is changing.
const UNSETTLED: Duration = Duration::from_millis(1000);
/// How much longer than the poll interval a leader that answers the same is left alone, at most.
const CALM_MAX: u32 = 5;
/// The longest delay before the next look at a cluster whose leader does not answer.
const UNREACHABLE: Duration = Duration::from_secs(15);
/// The delay before the next look at a resource that the operator cannot act on. A change of it triggers a look at once.
const IDLE: Duration = Duration::from_secs(30);
/// The first delay after a failure, and the longest.
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
        /// What the operator tried.
        doing: &'static str,
        /// The answer of the API server.
        source: Box<kube::Error>,
    },
    /// The operator cannot use a CA.
    #[error("failed to use the CA of the nodes: {0}")]
    Tls(#[from] rustls::Error),
}

impl Error {
    /// One word, for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Apply(error) => error.reason(),
            Self::Api { .. } => "ApiFailed",
            Self::Tls(_) => "TlsFailed",
        }
    }

    /// Adds what the operator tried to an error of the API server.
    fn api(doing: &'static str) -> impl Fn(kube::Error) -> Self {
        move |source| Self::Api { doing, source: Box::new(source) }
    }
}

/// Changes one KvCluster towards its spec, and reports its status.
///
/// # Errors
/// [`Error`] when the API server refuses. [`retry`] decides when to try again.
pub async fn reconcile(object: Arc<DeserializeGuard<KvCluster>>, context: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let result = match &object.0 {
        Ok(resource) => reconcile_valid(resource, &context).await,
        Err(malformed) => {
            // The CRD in the cluster accepts values that this operator does not know. Other resources go on.
            let name = object.name_any();
            let namespace = object.namespace().unwrap_or_default();
            tracing::error!(name, namespace, error = malformed.error, "failed to read a KvCluster");
            report::malformed(&namespace, &name, &malformed.error, &context).await.map(|()| Action::requeue(IDLE))
        }
    };
    context.metrics.reconciled(started.elapsed(), result.as_ref().err().map(Error::reason));
    context.health.reconciled();
    if let (Ok(resource), Ok(_)) = (&object.0, &result) {
        context.memory.succeeded(resource);
    }
    result
}

/// The delay before the next attempt after a failure. It grows with each failure and varies, so that clusters do not
/// retry in step.
pub fn retry(object: Arc<DeserializeGuard<KvCluster>>, error: &Error, context: Arc<Context>) -> Action {
    let failures = object.0.as_ref().map_or(1, |resource| context.memory.failed(resource));
    let delay = backoff(failures);
    tracing::warn!(name = object.name_any(), namespace = object.namespace(), %error, failures, "failed to reconcile");
    Action::requeue(jittered(delay))
}

/// The delay before the next look. A leader that does not answer takes a place among the reconciliations for as long as the
/// operator waits for it, so it is asked later each time. A change of its pods triggers a look at once.
fn next_look(settled: bool, unanswered: u32, poll_interval: Duration) -> Duration {
    match (settled, unanswered) {
        (true, _) => poll_interval,
        (false, 0 | 1) => UNSETTLED,
        (false, more) => UNSETTLED.saturating_mul(1 << (more - 1).min(10)).min(UNREACHABLE),
    }
}

/// The delay before the next look at a cluster in which nothing has changed so many times.
fn next_calm_look(times: u32, poll_interval: Duration) -> Duration {
    poll_interval.saturating_mul((1 + times / 2).min(CALM_MAX))
}

fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    first.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(longest)
}

/// Up to a fifth more or less.
fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::rng().random_range(0.8..1.2))
}

/// The pipeline, for a resource that could be read.
async fn reconcile_valid(resource: &KvCluster, context: &Context) -> Result<Action, Error> {
    if resource.metadata.deletion_timestamp.is_some() {
        // The garbage collector deletes the objects of the cluster. Applying them again would work against it.
        return Ok(Action::requeue(IDLE));
    }
    context.stores.ready().await;
    if let Some(due) = context.memory.begin(resource)
        && let Some(action) = calm::look(resource, due, context).await
    {
        return Ok(action);
    }
    let previous = context.memory.newest_status(resource);
    let cluster = match validate::validate(resource, &context.defaults) {
        Ok(cluster) => cluster,
        Err(invalid) => {
            let generation = resource.metadata.generation;
            let status = status::invalid(generation, &invalid.to_string(), &previous, Timestamp::now());
            report::write(resource, &previous, &status, context).await?;
            return Ok(Action::requeue(IDLE));
        }
    };
    let before = context.memory.secrets(resource);
    let mut observed = observe::observe(resource, &cluster, context).await?;
    let job = cached(&context.stores.jobs, &cluster.namespace, &names::bootstrap(&cluster.name));
    let stage = hibernation::stage(&cluster, &observed.leader_pods, Timestamp::now());
    let mut desired = build::build(
        &cluster,
        &Inputs {
            follower_pods: scale::follower_pods(&cluster, &observed.leader, &previous, observed.follower_pods),
            asleep: stage == Stage::Asleep,
            spare_followers: disruption::spare_followers(&cluster, &observed.leader, &previous),
            leader_pods: scale::leader_pods(&cluster, &observed.leader_pods),
            opened: bootstrap::opened(&previous, &observed.leader),
            bootstraps: bootstrap::runs(&cluster, &previous, &observed.leader, job.is_some()),
            leader_by_label: context.lead_labels.keep(&cluster, &observed.leader_pods, context),
            tokens: observed.tokens.clone(),
            certificates: observed.certificates.clone(),
        },
    );
    let objects = observe::Objects::of(&cluster, context);
    let situation = plan::situation::situation(&cluster, &desired, &objects, &observed.leader, &previous);
    let (namespace, name) = (&cluster.namespace, &cluster.name);
    let mut plan = if cluster.paused {
        context.rollouts.forget(namespace, name);
        Plan::of_paused(&situation)
    } else if stage != Stage::Awake {
        context.rollouts.forget(namespace, name);
        hibernation::plan(&mut desired.leader, &objects)
    } else {
        let plan = context.rollouts.plan(namespace, name, &situation, context.rollouts_max);
        plan::situation::pause(&mut desired.leader, &objects, &situation, &plan);
        plan
    };
    let clients = client_tokens::check(cluster.auth.as_ref(), observed.secrets.clients.as_deref());
    let applied = match cluster.paused {
        true => Ok(None),
        // On the heap: its many steps would not fit onto the stack of a thread.
        false => Box::pin(apply::apply(desired, observed.secrets, &cluster, context)).await.map(Some),
    };
    let written = applied.as_ref().ok().and_then(|applied| Some(applied.as_ref()?.secrets.clone()));
    context.memory.secrets_seen(resource, written);
    if let (Ok(Some(applied)), Some(Move::Follower { name, within_budget })) = (&applied, &plan.next)
        && let Some(pod) = objects.judged_follower(name, &applied.followers)
        && let Some(refusal) = roll::replace(pod, *within_budget, context).await?
    {
        plan = Plan::refused(refusal);
    }
    if let Some(pod) = roll::left_behind(&observed.leader, &objects.leader_pods).filter(|_| !cluster.paused) {
        roll::replace(pod, false, context).await?;
    }
    if let Ok(Some(Applied { secrets, .. })) = &applied
        && (observed.tokens.rotates() || secrets::mounted_changed(before.as_ref(), secrets))
    {
        let pods: Vec<_> = objects.follower_pods.iter().chain(&objects.leader_pods).collect();
        secrets::hurry(&pods, secrets, context).await;
    }
    // A failure to apply an object does not hold up the configuration of a leader that runs.
    let configured = match cluster.paused {
        true => Configured::Unchanged,
        false => configure::configure(&mut observed.leader, &cluster, &observed.tokens.accepted, context).await,
    };
    let results = StepResults {
        leader: &observed.leader,
        configured: &configured,
        applied: applied.as_ref().map(Option::as_ref),
        plan: &plan,
        tokens: &observed.tokens,
        clients: &clients,
        certificates: &observed.certificates.state,
    };
    let status = report::status(&cluster, &results, &previous, context);
    report::write(resource, &previous, &status, context).await?;
    let refused = applied?.is_some_and(|applied| applied.refused.is_some());
    // A rollout that is blocked continues once a pod or the leader changes.
    let settled = cluster.paused
        || matches!(status.phase, Phase::Ready | Phase::Hibernated)
        || (status.phase == Phase::Updating && matches!(plan.rollout, Rollout::Blocked | Rollout::Queued));
    let settled = settled && (cluster.paused || (!observed.tokens.rotates() && job.is_none()));
    // Everything else happens by itself: a rollout that waits for its turn has no event.
    // Nor has a volume that may not grow: its StorageClass may allow it one day.
    let calm = settled && !cluster.paused && status.phase == Phase::Ready && plan.rollout == Rollout::Done && !refused;
    let answer = observed.leader.answered().filter(|_| calm);
    context.memory.calm_seen(resource, answer.map(|leader| Calm { leader: leader.essence(), times: 0 }));
    context.metrics.cluster(namespace, &cluster.name, &status);
    let unanswered = context.memory.unanswered(resource);
    let next = jittered(next_look(settled, unanswered, context.poll_interval));
    context.memory.due(resource, settled.then(|| Instant::now() + next));
    Ok(Action::requeue(next))
}

#[cfg(test)]
pub(crate) use tests::scenarios;

#[cfg(test)]
mod tests;
