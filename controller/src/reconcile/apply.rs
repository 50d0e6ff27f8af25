//! Step 6 (client): the objects that differ from those that exist.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::reflector::Store;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::applier::{ApplyError, Owned};
use super::growth::{self, Fit};
use super::hibernation;
use super::secrets::Secrets;
use super::validate::Validated;
use super::volumes;
use crate::build::{MANAGER, ON_DELETE, Resources, TEMPLATE, names};
use crate::context::{Context, cached};

/// The objects with pods, as the API server has them after the step.
pub struct Applied {
    /// The followers' StatefulSet.
    pub followers: Arc<StatefulSet>,
    /// The leader's Deployment.
    pub leader: Arc<Deployment>,
    /// The Secrets.
    pub secrets: Secrets,
    /// Why a volume cannot grow, where the API server refused that.
    pub refused: Option<String>,
}

/// Applies the objects that differ, those that pods need before the pods. `secrets` are those as they were read.
///
/// # Errors
/// [`ApplyError`] of the first object that failed. The next reconciliation applies the rest.
pub async fn apply(
    desired: Resources,
    mut secrets: Secrets,
    cluster: &Validated,
    context: &Context,
) -> Result<Applied, ApplyError> {
    let Resources {
        account,
        secret,
        accepted,
        authority,
        certificate,
        trusted,
        config,
        peers,
        write,
        read,
        followers,
        leader,
        budget,
        policy,
        backup,
        backup_policy,
        bootstrap,
        bootstrap_policy,
    } = desired;
    let stores = &context.stores;
    apply_one(config, &stores.configs, context).await?;
    apply_one(account, &stores.accounts, context).await?;
    // The one that users see first: until it is there, each attempt makes another token.
    secrets.wanted = Some(context.applier.apply(secret, secrets.wanted.take()).await?);
    secrets.accepted = Some(context.applier.apply(accepted, secrets.accepted.take()).await?);
    // The CA first: a certificate of a CA that is lost would be issued anew.
    if let Some(authority) = authority {
        secrets.authority = Some(context.applier.apply(authority, secrets.authority.take()).await?);
    }
    if let Some(certificate) = certificate {
        secrets.certificate = Some(context.applier.apply(certificate, secrets.certificate.take()).await?);
    }
    if let Some(trusted) = trusted {
        apply_one(trusted, &stores.configs, context).await?;
    }
    match policy {
        Some(policy) => drop(apply_one(policy, &stores.policies, context).await?),
        None => remove(&cluster.name, &stores.policies, cluster, context).await?,
    }
    apply_one(peers, &stores.services, context).await?;
    apply_one(write, &stores.services, context).await?;
    apply_one(read, &stores.services, context).await?;
    let follower_pods = hibernation::followers_of(&followers).unwrap_or_default();
    volumes::own(cluster, follower_pods, context).await?;
    let refused = growth::grow(cluster, follower_pods, context).await?;
    stop_rolling_updates(cluster, context).await?;
    let followers = match growth::fit(followers, refused.is_none(), cluster, context).await? {
        Fit::Applies(followers) => apply_one(*followers, &stores.stateful_sets, context).await?,
        Fit::Goes(live) => live,
    };
    let leader = apply_one(leader, &stores.deployments, context).await?;
    match budget {
        Some(budget) => drop(apply_one(budget, &stores.budgets, context).await?),
        None => remove(&names::followers(&cluster.name), &stores.budgets, cluster, context).await?,
    }
    match backup_policy {
        Some(policy) => drop(apply_one(policy, &stores.policies, context).await?),
        None => remove(&names::backup(&cluster.name), &stores.policies, cluster, context).await?,
    }
    match backup {
        Some(backup) => drop(apply_one(backup, &stores.cron_jobs, context).await?),
        None => remove(&names::backup(&cluster.name), &stores.cron_jobs, cluster, context).await?,
    }
    let name = names::bootstrap(&cluster.name);
    match bootstrap_policy {
        Some(policy) => drop(apply_one(policy, &stores.policies, context).await?),
        None => remove(&name, &stores.policies, cluster, context).await?,
    }
    // The template of a Job cannot change: another one takes its place once it is gone. A restore that it began goes on.
    let same_template = |job: &Job| {
        let known = cached(&stores.jobs, &cluster.namespace, &name);
        known.is_none_or(|known| known.annotations().get(TEMPLATE) == job.annotations().get(TEMPLATE))
    };
    match bootstrap.filter(same_template) {
        Some(job) => drop(apply_one(job, &stores.jobs, context).await?),
        None => remove(&name, &stores.jobs, cluster, context).await?,
    }
    Ok(Applied { followers, leader, secrets, refused })
}

/// Gives a StatefulSet of an earlier operator, or one edited by hand, the update strategy that leaves rollouts to the
/// operator. By a merge patch: the API server refuses to apply the strategy beside the settings of the earlier one, which
/// belong to its defaults and which no apply removes.
async fn stop_rolling_updates(cluster: &Validated, context: &Context) -> Result<(), ApplyError> {
    let name = names::followers(&cluster.name);
    let Some(set) = cached(&context.stores.stateful_sets, &cluster.namespace, &name) else { return Ok(()) };
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let ours = set.owner_references().iter().any(|owner| owner.uid == cluster.owner.uid);
    if !ours || strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some(ON_DELETE)) {
        return Ok(());
    }
    let api: Api<StatefulSet> = Api::namespaced(context.client.clone(), &cluster.namespace);
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let patch = json!({"metadata": {"uid": set.uid()},
        "spec": {"updateStrategy": {"type": ON_DELETE, "rollingUpdate": null}}});
    match api.patch(&name, &parameters, &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        // It is gone. The watch delivers a new one.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(source) => {
            Err(ApplyError::Api { action: "patch", kind: "StatefulSet".to_owned(), name, source: Box::new(source) })
        }
    }
}

async fn apply_one<K: Owned + 'static>(object: K, store: &Store<K>, context: &Context) -> Result<Arc<K>, ApplyError> {
    let known = cached(store, &object.namespace().unwrap_or_default(), &object.name_any());
    context.applier.apply(object, known).await
}

/// Deletes an object of a cluster that switched it off. An object of the same name with another owner stays.
async fn remove<K: Owned + 'static>(
    name: &str,
    store: &Store<K>,
    cluster: &Validated,
    context: &Context,
) -> Result<(), ApplyError> {
    let Some(object) = cached(store, &cluster.namespace, name) else { return Ok(()) };
    let ours = object.owner_references().iter().any(|owner| owner.uid == cluster.owner.uid);
    if !ours || object.meta().deletion_timestamp.is_some() {
        return Ok(());
    }
    let api: Api<K> = Api::namespaced(context.client.clone(), &cluster.namespace);
    let preconditions = Preconditions { uid: object.uid(), resource_version: None };
    // Without the policy the pods of a Job would stay.
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match api.delete(name, &parameters).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(source) => {
            let kind = K::kind(&()).into_owned();
            Err(ApplyError::Api { action: "delete", kind, name: name.to_owned(), source: Box::new(source) })
        }
    }
}
