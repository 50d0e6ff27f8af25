//! A KvCluster: reached by the names of its Services and pods from inside the Kubernetes cluster, by port-forward from
//! outside.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::Api;
use tokio::{task::JoinSet, time::sleep};

use super::{
    RunningCluster,
    control::{Access, Control, KvClusterResource},
    running::REDIS_PORT,
    tunnel::{self, Destination, PORT},
};
use crate::client::{Credentials, NodeClient};

/// How long it may take until the network lets a pod that has just started reach the leader.
const REACH_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A KvCluster, once it is ready.
///
/// # Errors
/// When there is no such KvCluster, it does not get ready, or its leader cannot be reached.
pub async fn kube(access: &Access, resource: KvClusterResource, credentials: Credentials) -> Result<RunningCluster> {
    let followers = resource.ready().await?;
    let failed = |error| eprintln!("a forwarded connection ended: {error:#}");
    let Way { description, leader, followers, redis, tunnels } =
        Way::open(access, &resource, followers, failed).await?;
    let running = RunningCluster::new(&description, leader, followers, credentials);
    Ok(running.with_redis(redis).keeping(tunnels).controlled_by(Control::Resource(resource)))
}

/// URLs of the nodes of a KvCluster. They stay the same when pods are replaced.
#[derive(Debug)]
pub(crate) struct Way {
    /// Of what and from where, for the reports.
    pub description: String,
    /// URL of the leader.
    pub leader: String,
    /// URL of each follower, by number.
    pub followers: Vec<String>,
    /// Where the leader listens for Redis' protocol, `host:port`.
    pub redis: String,
    /// Ends with this.
    pub tunnels: JoinSet<()>,
}

impl Way {
    /// Opens it, once the leader answers. Calls `failed` for each forwarded connection that reached no pod.
    pub(crate) async fn open(
        access: &Access,
        resource: &KvClusterResource,
        followers: u16,
        failed: fn(anyhow::Error),
    ) -> Result<Self> {
        let way = if access.inside {
            Self::inside(resource, followers)
        } else {
            Self::outside(access, resource, followers, failed).await?
        };
        reach(&NodeClient::with(&Credentials::default(), &way.leader, 1)?).await?;
        Ok(way)
    }

    /// By the names that every pod can resolve.
    fn inside(resource: &KvClusterResource, followers: u16) -> Self {
        let KvClusterResource { name, namespace, .. } = resource;
        let follower = |number| format!("http://{name}-follower-{number}.{name}-followers.{namespace}.svc:{PORT}");
        Self {
            description: format!("{resource}, from inside"),
            leader: format!("http://{name}.{namespace}.svc:{PORT}"),
            followers: (0..followers).map(follower).collect(),
            redis: format!("{name}.{namespace}.svc:{REDIS_PORT}"),
            tunnels: JoinSet::new(),
        }
    }

    /// Through the API server, which adds its own time to every write.
    async fn outside(
        access: &Access,
        resource: &KvClusterResource,
        count: u16,
        failed: fn(anyhow::Error),
    ) -> Result<Self> {
        let pods = Api::namespaced(access.client.clone(), &resource.namespace);
        let mut tunnels = JoinSet::new();
        let to_leader = || Destination::Leader(resource.clone());
        let leader = tunnel::listen(&mut tunnels, &pods, to_leader(), PORT, failed).await?;
        let redis = tunnel::listen(&mut tunnels, &pods, to_leader(), REDIS_PORT, failed).await?;
        let mut followers = Vec::new();
        for number in 0..count {
            let pod = Destination::Pod(format!("{}-follower-{number}", resource.name));
            followers.push(format!("http://{}", tunnel::listen(&mut tunnels, &pods, pod, PORT, failed).await?));
        }
        let description = format!("{resource}, through port-forward");
        Ok(Self { description, leader: format!("http://{leader}"), followers, redis: redis.to_string(), tunnels })
    }
}

/// Rules that admit a pod follow its start, some moments later.
async fn reach(leader: &NodeClient) -> Result<()> {
    let began = Instant::now();
    while let Err(error) = leader.config().await {
        if began.elapsed() > REACH_TIMEOUT {
            return Err(error).context("if networkPolicy.clients is set, it has to admit this pod");
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}
