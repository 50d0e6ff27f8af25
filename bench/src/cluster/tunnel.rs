//! The way to a KvCluster's nodes from outside: addresses of this machine, each connection to them a port-forward.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::control::KvClusterResource;

/// The port of every node for HTTP.
pub(super) const PORT: u16 = 8000;

/// The port of a node for administration, in a KvCluster with separate ports.
pub(super) const ADMIN_PORT: u16 = 8002;

/// Where a tunnel ends.
#[derive(Clone)]
pub(super) enum Destination {
    /// At the pod that leads when a connection begins.
    Leader(KvClusterResource),
    /// At the pod that has this name when a connection begins.
    Pod(String),
}

/// Listens on this machine for as long as `tunnels` lives, and returns where. Connections end at `port` of the pod. Calls `failed` with the
/// reason where a connection reached no pod; its client sees it closed, and opens another one.
pub(super) async fn listen(
    tunnels: &mut JoinSet<()>,
    pods: &Api<Pod>,
    to: Destination,
    port: u16,
    failed: fn(anyhow::Error),
) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to listen on this machine")?;
    let address = listener.local_addr().context("failed to listen on this machine")?;
    let pods = pods.clone();
    tunnels.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Ok((connection, _)) = listener.accept() => {
                    let (pods, to) = (pods.clone(), to.clone());
                    connections.spawn(async move {
                        if let Err(error) = carry(&pods, &to, port, connection).await {
                            failed(error);
                        }
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    });
    Ok(address)
}

async fn carry(pods: &Api<Pod>, to: &Destination, port: u16, mut connection: TcpStream) -> Result<()> {
    let pod = match to {
        Destination::Leader(resource) => resource.leader().await?,
        Destination::Pod(name) => name.clone(),
    };
    let forwarded = pods.portforward(&pod, &[port]).await;
    let mut forwarder = forwarded.with_context(|| format!("failed to forward a port to pod {pod}"))?;
    let mut stream = forwarder.take_stream(port).context("failed to forward a port: no stream")?;
    // Answers are small and must not wait for more to be sent.
    connection.set_nodelay(true).context("failed to set up a forwarded connection")?;
    // How it ends is between the client and the node.
    let _ = tokio::io::copy_bidirectional(&mut connection, &mut stream).await;
    Ok(())
}
