//! What a load runs against: a cluster that runs already, or processes that end with the load.

use std::{
    fs,
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    cli::cluster::{ClusterArguments, Durability, LocalDefaults, TIMEOUT_MARGIN_MS, data_directory},
    client::Passage,
    cluster::{LocalCluster, LocalClusterOptions, RunningCluster},
    load::{Acknowledgement, Dialect, LoadTarget, Processes},
};

const DEFAULTS: LocalDefaults = LocalDefaults {
    write_quorum: 3,
    max_delay_ms: None,
    replication_timeout_ms: None,
    start_timeout: Duration::from_secs(30),
};
/// A request without an answer is given up so much later than a node would answer that it has timed out.
const GRACE: Duration = Duration::from_secs(10);

/// A cluster to put under load, and what keeps it running.
pub(in crate::cli) struct LoadCluster {
    pub target: LoadTarget,
    /// Where the leader listens for Redis' protocol, `host:port`.
    leader_redis: String,
    pub request_timeout: Duration,
    /// Whether it was started to wait before each send.
    pub has_delays: bool,
    /// Dropped in this order: the processes first, then their data.
    _running: Option<RunningCluster>,
    /// To the port for Redis' protocol, where it speaks TLS.
    _redis: Option<Passage>,
    _local: Option<LocalCluster>,
    _data: Option<TempDir>,
}

impl LoadCluster {
    /// Speaks Redis' protocol from here on, at `address` in place of where it should be.
    ///
    /// # Errors
    /// When there is no such host, or no session with it.
    pub(in crate::cli) async fn over_redis(&mut self, address: Option<&str>, tls: Option<Passage>) -> Result<()> {
        let LoadTarget { description, dialect, leader, .. } = &mut self.target;
        let address = address.unwrap_or(&self.leader_redis);
        *leader = match tls {
            Some(mut passage) => {
                let near = passage.address(address).await?;
                self._redis = Some(passage);
                near
            }
            None => resolve(address)?,
        };
        *dialect = Dialect::Redis { acknowledgement: Acknowledgement::Reply };
        description.push_str(", Redis' protocol");
        Ok(())
    }
}

/// The cluster that the command line names, or one that is started for it.
pub(super) async fn cluster(arguments: &ClusterArguments, out: &Path) -> Result<LoadCluster> {
    arguments.refuse_delays_of_running()?;
    if let Some(running) = arguments.running.reach().await? {
        let target = LoadTarget {
            description: running.description.clone(),
            dialect: Dialect::Http,
            leader: address(&running.leader_url)?,
            followers: running.follower_urls.iter().map(|url| address(url)).collect::<Result<_>>()?,
            processes: Processes::default(),
            token: running.credentials.client_token.clone(),
        };
        let request_timeout = Duration::from_millis(TIMEOUT_MARGIN_MS.into()) + GRACE;
        let (leader_redis, _running) = (running.leader_redis.clone(), Some(running));
        let (has_delays, _local, _data) = (false, None, None);
        return Ok(LoadCluster {
            target,
            leader_redis,
            request_timeout,
            has_delays,
            _running,
            _redis: None,
            _local,
            _data,
        });
    }
    let durability = arguments.durability.unwrap_or(Durability::Memory);
    start(arguments.local(out, DEFAULTS)?, durability, out).await
}

/// Starts a cluster on this machine.
///
/// # Errors
/// When a node does not start.
pub(in crate::cli) async fn start(
    options: LocalClusterOptions,
    durability: Durability,
    out: &Path,
) -> Result<LoadCluster> {
    let LocalClusterOptions { followers, write_quorum, min_delay_ms, max_delay_ms, replication_timeout_ms, .. } =
        options;
    let data = data_directory(durability, out)?;
    let data_path = data.as_ref().map(|directory| directory.path().to_owned());
    let cluster = LocalCluster::start(LocalClusterOptions { data_directory: data_path, ..options }).await?;
    let delay = if max_delay_ms == 0 { "no delay".to_owned() } else { format!("{min_delay_ms}-{max_delay_ms} ms") };
    let stored = if durability == Durability::Memory { "in memory" } else { "on disk" };
    let processes = cluster.process_ids();
    let target = LoadTarget {
        description: format!(
            "local processes: leader and {followers} followers, W = {write_quorum}, {delay}, {stored}"
        ),
        dialect: Dialect::Http,
        leader: address(&cluster.leader_url())?,
        followers: cluster.follower_urls().iter().map(|url| address(url)).collect::<Result<_>>()?,
        processes: Processes {
            leader: processes.first().copied(),
            followers: processes[1..].to_vec(),
            data_directories: data.as_ref().map(directories).unwrap_or_default(),
        },
        token: cluster.credentials().client_token.clone(),
    };
    let request_timeout = Duration::from_millis(replication_timeout_ms.into()) + GRACE;
    let (leader_redis, has_delays) = (cluster.leader_redis(), max_delay_ms > 0);
    let (_running, _local) = (None, Some(cluster));
    Ok(LoadCluster { target, leader_redis, request_timeout, has_delays, _running, _redis: None, _local, _data: data })
}

/// Where the followers keep their state, each in a directory of its own.
fn directories(data: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.path()).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// The address of `http://HOST:PORT`, the first at which somebody listens.
fn address(url: &str) -> Result<SocketAddr> {
    let parsed = reqwest::Url::parse(url).with_context(|| format!("failed to understand {url}"))?;
    let host = parsed.host_str().with_context(|| format!("failed to find a host in {url}"))?;
    let port = parsed.port_or_known_default().with_context(|| format!("failed to find a port in {url}"))?;
    resolve(&format!("{host}:{port}"))
}

/// The address of `HOST:PORT`, the first at which somebody listens.
fn resolve(host: &str) -> Result<SocketAddr> {
    let addresses = host.to_socket_addrs().with_context(|| format!("failed to resolve {host}"))?;
    let addresses: Vec<SocketAddr> = addresses.collect();
    let answers = |address: &&SocketAddr| std::net::TcpStream::connect_timeout(address, Duration::from_secs(2)).is_ok();
    let first = addresses.iter().find(answers).or(addresses.first());
    first.copied().with_context(|| format!("failed to find an address of {host}"))
}
