//! A KvCluster: reached by the names of its Services and pods from inside the Kubernetes cluster, by port-forward from
//! outside.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kvcluster_api::resource::KvClusterSpec;
use tokio::{task::JoinSet, time::sleep};

use super::{
    RunningCluster,
    control::{Access, Control, KvClusterResource},
    running::REDIS_PORT,
    tunnel::{self, ADMIN_PORT, Destination, PORT},
};
use crate::client::{Credentials, NodeClient, Passage};

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
    let Way { description, leader, administration: _, followers, redis, tunnels } =
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
    /// URL at which the leader is administered.
    pub administration: String,
    /// URL of each follower, by number.
    pub followers: Vec<String>,
    /// Where the leader listens for Redis' protocol, `host:port`.
    pub redis: String,
    /// Ends with these.
    pub tunnels: Vec<JoinSet<()>>,
}

impl Way {
    /// Opens it, once the leader answers. Calls `failed` for each forwarded connection that reached no pod.
    pub(crate) async fn open(
        access: &Access,
        resource: &KvClusterResource,
        followers: u16,
        failed: fn(anyhow::Error),
    ) -> Result<Self> {
        let spec = resource.get().await?.spec;
        let admin_port = if spec.separate_ports { ADMIN_PORT } else { PORT };
        let way = if access.inside {
            Self::inside(resource, followers, admin_port)
        } else {
            Self::outside(access, resource, followers, admin_port, failed).await?
        };
        let way = match trusted(access, resource, &spec).await? {
            Some(ca) => way.over_tls(&ca, resource).await?,
            None => way,
        };
        reach(&NodeClient::with(&Credentials::default(), &way.leader, 1)?).await?;
        Ok(way)
    }

    /// By the names that every pod can resolve.
    fn inside(resource: &KvClusterResource, followers: u16, admin_port: u16) -> Self {
        let KvClusterResource { name, namespace, .. } = resource;
        let follower = |number| format!("http://{name}-follower-{number}.{name}-followers.{namespace}.svc:{PORT}");
        Self {
            description: format!("{resource}, from inside"),
            leader: format!("http://{name}.{namespace}.svc:{PORT}"),
            administration: format!("http://{name}.{namespace}.svc:{admin_port}"),
            followers: (0..followers).map(follower).collect(),
            redis: format!("{name}.{namespace}.svc:{REDIS_PORT}"),
            tunnels: Vec::new(),
        }
    }

    /// Through the API server, which adds its own time to every write.
    async fn outside(
        access: &Access,
        resource: &KvClusterResource,
        count: u16,
        admin_port: u16,
        failed: fn(anyhow::Error),
    ) -> Result<Self> {
        let pods = Api::namespaced(access.client.clone(), &resource.namespace);
        let mut tunnels = JoinSet::new();
        let to_leader = || Destination::Leader(resource.clone());
        let leader = tunnel::listen(&mut tunnels, &pods, to_leader(), PORT, failed).await?;
        let administration = tunnel::listen(&mut tunnels, &pods, to_leader(), admin_port, failed).await?;
        let redis = tunnel::listen(&mut tunnels, &pods, to_leader(), REDIS_PORT, failed).await?;
        let mut followers = Vec::new();
        for number in 0..count {
            let pod = Destination::Pod(format!("{}-follower-{number}", resource.name));
            followers.push(format!("http://{}", tunnel::listen(&mut tunnels, &pods, pod, PORT, failed).await?));
        }
        let description = format!("{resource}, through port-forward");
        Ok(Self {
            description,
            leader: format!("http://{leader}"),
            administration: format!("http://{administration}"),
            followers,
            redis: redis.to_string(),
            tunnels: vec![tunnels],
        })
    }

    /// The same, with sessions of TLS. All nodes of a KvCluster have the name of the leader's Service in their certificate.
    async fn over_tls(mut self, ca: &str, resource: &KvClusterResource) -> Result<Self> {
        let name = format!("{}.{}.svc", resource.name, resource.namespace);
        let mut passage = Passage::of_pem(ca.as_bytes(), &format!("ConfigMap {}-ca", resource.name))?;
        for url in [&mut self.leader, &mut self.administration].into_iter().chain(&mut self.followers) {
            *url = format!("http://{}", passage.named(url.trim_start_matches("http://"), &name).await?);
        }
        self.redis = passage.named(&self.redis, &name).await?.to_string();
        self.description.push_str(", over TLS");
        self.tunnels.push(passage.into_ways());
        Ok(self)
    }
}

/// The CAs of the nodes, where they speak TLS.
async fn trusted(access: &Access, resource: &KvClusterResource, spec: &KvClusterSpec) -> Result<Option<String>> {
    if spec.tls.is_none() {
        return Ok(None);
    }
    let name = format!("{}-ca", resource.name);
    let configs: Api<ConfigMap> = Api::namespaced(access.client.clone(), &resource.namespace);
    let found = configs.get(&name).await;
    let config = found.with_context(|| format!("failed to read the CA of {resource} in ConfigMap {name}"))?;
    let ca = config.data.unwrap_or_default().remove("ca.crt");
    ca.map(Some).with_context(|| format!("ConfigMap {name} has no key ca.crt"))
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
