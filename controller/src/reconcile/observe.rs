//! Step 2 (client): what runs now.

use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kvcluster_api::resource::KvCluster;

use super::Error;
use super::certificates::{self, Certificates};
use super::hibernation;
use super::leader_client::{LeaderClient, LeaderSeen};
use super::secrets::{self, Secrets};
use super::tokens::{self, Said, Stored, Tokens};
use super::validate::Validated;
use crate::build::{self, Component, names};
use crate::context::{Context, cached};
use crate::pods;

/// What runs now, as far as the desired objects depend on it.
pub struct Observation {
    /// The Secrets of the tokens.
    pub secrets: Secrets,
    /// The tokens that there have to be.
    pub tokens: Tokens,
    /// The certificates that there have to be.
    pub certificates: Certificates,
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

/// Reads the tokens, and asks the leader for its status and the nodes for the tokens that they accept.
///
/// # Errors
/// [`Error::Api`] when a Secret cannot be read, [`Error::Tls`] when a CA cannot be used. A node that does not answer is no error.
pub async fn observe(resource: &KvCluster, cluster: &Validated, context: &Context) -> Result<Observation, Error> {
    let mut secrets = secrets::read(cluster, context).await?;
    let certificates = certificates::decide(cluster, &secrets, Timestamp::now());
    secrets.due = certificates.due;
    match &cluster.tls {
        Some(_) => {
            context.leaders.trust(&cluster.namespace, &cluster.name, certificates.trusted.as_deref())?;
        }
        None => context.leaders.forget(&cluster.namespace, &cluster.name),
    }
    let leaders = context.leaders.of(&cluster.namespace, &cluster.name);
    let objects = Objects::of(cluster, context);
    let patient = context.memory.unanswered(resource) == 0;
    let (leader, tokens) = tokio::join!(
        leaders.observe(&objects.leader_pods, patient),
        rotate(resource, &secrets, &objects, &leaders, context),
    );
    context.memory.leader_asked(resource, !matches!(leader, LeaderSeen::Unreachable { .. }));
    context.memory.tokens_seen(resource, &tokens);
    let follower_pods = objects.stateful_set.as_ref().and_then(|set| hibernation::followers_of(set));
    Ok(Observation { secrets, tokens, certificates, leader, leader_pods: objects.leader_pods, follower_pods })
}

/// The next step of a rotation of the token. Asks the nodes only while there is one.
async fn rotate(
    resource: &KvCluster,
    secrets: &Secrets,
    objects: &Objects,
    leaders: &LeaderClient,
    context: &Context,
) -> Tokens {
    let mut stored = Stored::of(secrets.wanted.as_deref(), secrets.accepted.as_deref());
    // Deleted by hand: the nodes still have its tokens, and it comes back with them.
    if stored.accepted.is_empty()
        && let Some(before) = context.memory.tokens(resource)
    {
        (stored.accepted, stored.dropped) = (before.accepted, before.dropped);
    }
    let tokens = tokens::add(&stored, build::new_token);
    let Some(question) = tokens::question(&tokens, &stored) else { return tokens };
    // Every pod that may have read an earlier file, also one that is on its way out.
    let pods = objects.follower_pods.iter().chain(&objects.leader_pods);
    let nodes: Vec<&Arc<Pod>> = pods.filter(|pod| pods::may_have_files(pod)).collect();
    let said = join_all(nodes.iter().map(|node| leaders.says(node, &question))).await;
    let said: Vec<(String, Said)> = nodes.iter().map(|node| node.name_any()).zip(said).collect();
    tokens::drop_old(tokens, &question, &said)
}
