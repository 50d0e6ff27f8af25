//! Step 2 (client): what runs now.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, ResourceExt};
use kvcluster_api::resource::KvCluster;

use super::Error;
use super::hibernation;
use super::leader_client::LeaderSeen;
use super::validate::Validated;
use crate::build::{self, Component, TOKEN_KEY, names};
use crate::context::{Context, cached};

/// What runs now, as far as the desired objects depend on it.
pub struct Observation {
    /// The Secret with the token, where it exists.
    pub secret: Option<Arc<Secret>>,
    /// The token in use.
    pub token: String,
    /// The leader.
    pub leader: LeaderSeen,
    /// The leader pods.
    pub leader_pods: Vec<Arc<Pod>>,
    /// The replicas that the StatefulSet asks for, where it exists, or those before a hibernation.
    pub follower_pods: Option<i32>,
}

/// The objects with pods, as the watches have them.
pub struct Objects {
    /// The followers' StatefulSet.
    pub stateful_set: Option<Arc<StatefulSet>>,
    /// The leader's Deployment.
    pub deployment: Option<Arc<Deployment>>,
    /// The follower pods.
    pub follower_pods: Vec<Arc<Pod>>,
    /// The leader pods.
    pub leader_pods: Vec<Arc<Pod>>,
}

impl Objects {
    /// Those of a cluster.
    #[must_use]
    pub fn of(cluster: &Validated, context: &Context) -> Self {
        let (stores, namespace, name) = (&context.stores, &cluster.namespace, &cluster.name);
        Self {
            stateful_set: cached(&stores.stateful_sets, namespace, &names::followers(name)),
            deployment: cached(&stores.deployments, namespace, &names::leader(name)),
            follower_pods: stores.pods_of(namespace, name, Component::Follower),
            leader_pods: stores.pods_of(namespace, name, Component::Leader),
        }
    }

    /// The follower pod that a plan was made for, unless its StatefulSet has changed since.
    #[must_use]
    pub fn judged_follower(&self, name: &str, applied: &StatefulSet) -> Option<&Pod> {
        let judged = self.stateful_set.as_ref()?;
        let same =
            judged.metadata.uid == applied.metadata.uid && judged.metadata.generation == applied.metadata.generation;
        let pod = self.follower_pods.iter().find(|pod| pod.name_any() == name)?;
        same.then_some(pod.as_ref())
    }
}

/// Reads the token and asks the leader for its status.
///
/// # Errors
/// [`Error::Api`] when the Secret cannot be read. A leader that does not answer is no error.
pub async fn observe(resource: &KvCluster, cluster: &Validated, context: &Context) -> Result<Observation, Error> {
    let (secret, token) = token(resource, cluster, context).await?;
    let leader_pods = context.stores.pods_of(&cluster.namespace, &cluster.name, Component::Leader);
    let patient = context.memory.unanswered(resource) == 0;
    let leader = context.leaders.observe(&leader_pods, patient).await;
    context.memory.leader_asked(resource, !matches!(leader, LeaderSeen::Unreachable { .. }));
    let stateful_set = cached(&context.stores.stateful_sets, &cluster.namespace, &names::followers(&cluster.name));
    let follower_pods = stateful_set.and_then(|set| hibernation::followers_of(&set));
    Ok(Observation { secret, token, leader, leader_pods, follower_pods })
}

/// The token of the Secret; without one the token that the pods were started with; without one a new token.
async fn token(
    resource: &KvCluster,
    cluster: &Validated,
    context: &Context,
) -> Result<(Option<Arc<Secret>>, String), Error> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &cluster.namespace);
    let secret = api.get_opt(&names::secret(&cluster.name)).await.map_err(Error::api("read the token"))?;
    let stored = secret
        .as_ref()
        .and_then(|secret| secret.data.as_ref()?.get(TOKEN_KEY))
        .and_then(|token| String::from_utf8(token.0.clone()).ok())
        .filter(|token| !token.is_empty());
    let token = stored.or_else(|| context.memory.token(resource)).unwrap_or_else(build::new_token);
    context.memory.token_seen(resource, &token);
    Ok((secret.map(Arc::new), token))
}
