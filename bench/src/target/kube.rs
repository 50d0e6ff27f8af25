//! A KvCluster: reached by the names of its Services and pods from inside the Kubernetes cluster, by port-forward from
//! outside.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use super::Target;
use crate::{
    client::NodeClient,
    control::{Access, Control, KvClusterResource},
};

/// The port of every node.
const PORT: u16 = 8000;
/// How long it may take until the network lets a pod that has just started reach the leader.
const REACH_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A KvCluster, once it is ready.
///
/// # Errors
/// When there is no such KvCluster, it does not get ready, or its leader cannot be reached.
pub async fn kube(access: &Access, resource: KvClusterResource) -> Result<Target> {
    let followers = resource.ready().await?;
    let target =
        if access.inside { inside(&resource, followers) } else { outside(access, &resource, followers).await? };
    reach(&NodeClient::new(NodeClient::http(1)?, &target.leader_url, None)).await?;
    Ok(target.controlled(Control::Resource(resource)))
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

/// By the names that every pod can resolve.
fn inside(resource: &KvClusterResource, followers: u32) -> Target {
    let KvClusterResource { name, namespace, .. } = resource;
    let follower = |number| format!("http://{name}-follower-{number}.{name}-followers.{namespace}.svc:{PORT}");
    let leader = format!("http://{name}.{namespace}.svc:{PORT}");
    Target::standing(&format!("{resource}, from inside"), leader, (0..followers).map(follower).collect(), None)
}

/// Through the API server, which adds its own time to every write.
async fn outside(access: &Access, resource: &KvClusterResource, followers: u32) -> Result<Target> {
    let pods = Api::namespaced(access.client.clone(), &resource.namespace);
    let mut tunnels = JoinSet::new();
    let leader = listen(&mut tunnels, &pods, Destination::Leader(resource.clone())).await?;
    let mut follower_urls = Vec::new();
    for number in 0..followers {
        let pod = Destination::Pod(format!("{}-follower-{number}", resource.name));
        follower_urls.push(listen(&mut tunnels, &pods, pod).await?);
    }
    let target = Target::standing(&format!("{resource}, through port-forward"), leader, follower_urls, None);
    Ok(target.holding(tunnels))
}

/// Where a tunnel ends.
#[derive(Clone)]
enum Destination {
    /// At the pod that leads when a connection begins.
    Leader(KvClusterResource),
    Pod(String),
}

/// Listens on this machine for as long as `tunnels` lives, and returns the URL.
async fn listen(tunnels: &mut JoinSet<()>, pods: &Api<Pod>, to: Destination) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to listen on this machine")?;
    let url = format!("http://{}", listener.local_addr().context("failed to listen on this machine")?);
    let pods = pods.clone();
    tunnels.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Ok((connection, _)) = listener.accept() => {
                    let (pods, to) = (pods.clone(), to.clone());
                    connections.spawn(async move {
                        // The client sees a closed connection, and tries another.
                        if let Err(error) = carry(&pods, &to, connection).await {
                            eprintln!("a forwarded connection ended: {error:#}");
                        }
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    });
    Ok(url)
}

async fn carry(pods: &Api<Pod>, to: &Destination, mut connection: TcpStream) -> Result<()> {
    let pod = match to {
        Destination::Leader(resource) => resource.leader().await?,
        Destination::Pod(name) => name.clone(),
    };
    let forwarded = pods.portforward(&pod, &[PORT]).await;
    let mut forwarder = forwarded.with_context(|| format!("failed to forward a port to pod {pod}"))?;
    let mut stream = forwarder.take_stream(PORT).context("failed to forward a port: no stream")?;
    // Answers are small and must not wait for more to be sent.
    connection.set_nodelay(true).context("failed to set up a forwarded connection")?;
    // How it ends is between the client and the node.
    let _ = tokio::io::copy_bidirectional(&mut connection, &mut stream).await;
    Ok(())
}
