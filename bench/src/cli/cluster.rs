//! Which cluster: the same options for every subcommand that takes one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use kvcluster_api::delay::DelayLaw;
use tempfile::TempDir;

#[cfg(feature = "kubernetes")]
use crate::cluster::control::{Access, KvClusterResource};
use crate::{
    client::{AdministratorArguments, ClientArguments, Credentials, Passage, TlsArguments},
    cluster::{self, LocalClusterOptions, RunningCluster},
    output::WrongUsage,
};

/// The answer to `--kube` of a build that cannot reach a KvCluster.
#[cfg(not(feature = "kubernetes"))]
pub(super) const NO_KUBERNETES: &str =
    "this build has no Kubernetes client for --kube: build it with --features kubernetes, or use the image";

pub(super) const DEFAULT_FOLLOWERS: u16 = 5;
/// A local cluster's writes may wait this much longer than the longest delay before they count as failed.
pub(super) const TIMEOUT_MARGIN_MS: u32 = 5_000;

/// The longest delay that a replication timeout allows for, in ms.
const UNCAPPED_MS: f64 = 60_000.0;

/// Whether followers keep their state in memory or on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Durability {
    /// In memory: a follower that is killed has lost its disk
    Memory,
    /// In files, under the directory of the results
    Disk,
}

/// Which cluster that runs already.
#[derive(Clone, Debug, Args)]
pub(super) struct RunningArguments {
    /// Leader of a cluster that runs already, http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "URL", value_parser = url, conflicts_with = "compose", help_heading = "Cluster")]
    pub leader: Option<String>,

    /// Followers of that cluster, comma-separated: to compare their data with the leader's, or to read from them
    #[arg(long, value_name = "URL,…", value_parser = url, value_delimiter = ',', requires = "leader",
        help_heading = "Cluster")]
    pub followers: Vec<String>,

    /// The cluster of deploy/docker-compose.yml: leader on localhost:8000, followers on 8001-8005
    #[arg(long, help_heading = "Cluster")]
    pub compose: bool,

    /// The KvCluster of this name: from outside through port-forward, in a pod directly. What sweep and check change in its
    /// spec they restore; check deletes its pods
    #[arg(long, value_name = "NAME", conflicts_with_all = ["leader", "compose"], help_heading = "Cluster")]
    pub kube: Option<String>,

    /// Namespace of the KvCluster [default: that of the kubeconfig's context, or of the pod]
    #[arg(long, short, value_name = "NAMESPACE", requires = "kube", help_heading = "Cluster")]
    pub namespace: Option<String>,

    #[command(flatten)]
    pub administrator: AdministratorArguments,

    #[command(flatten)]
    pub client: ClientArguments,

    #[command(flatten)]
    pub tls: TlsArguments,
}

/// Which cluster: one that runs already, or one to start.
#[derive(Clone, Debug, Args)]
pub(super) struct ClusterArguments {
    #[command(flatten)]
    pub running: RunningArguments,

    /// Followers to start, where no cluster is named that runs already [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=60),
        conflicts_with_all = ["leader", "compose", "kube"], help_heading = "Cluster")]
    pub follower_count: Option<u16>,

    /// Followers that must confirm a write, in the cluster to start [default: 3, or all where there are fewer; sweep starts
    /// with 1]
    #[arg(long, value_name = "W", value_parser = clap::value_parser!(u16).range(1..=60),
        conflicts_with_all = ["leader", "compose", "kube"], help_heading = "Cluster")]
    pub write_quorum: Option<u16>,

    /// Shortest delay before a write is sent to a follower, in ms [default: 0; of a running cluster: as it is]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(..=600_000), help_heading = "Cluster")]
    pub min_delay_ms: Option<u32>,

    /// Longest delay before a write is sent to a follower, in ms [default: sweep and staleness 200, check 20, load 0 or the
    /// shortest; of a running cluster: as it is]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(..=600_000), help_heading = "Cluster")]
    pub max_delay_ms: Option<u32>,

    /// Seed of the random delays of the cluster to start [default: drawn, and reported]
    #[arg(long, value_name = "SEED", conflicts_with_all = ["leader", "compose", "kube"], help_heading = "Cluster")]
    pub delay_seed: Option<u64>,

    /// After this long without a quorum a write's outcome is unknown, in ms [default: 5000 above the longest delay; check 1000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=3_600_000),
        conflicts_with_all = ["leader", "compose", "kube"], help_heading = "Cluster")]
    pub replication_timeout_ms: Option<u32>,

    /// Where the followers to start keep their state [default: memory; check disk]
    #[arg(long, value_enum, conflicts_with_all = ["leader", "compose", "kube"], help_heading = "Cluster")]
    pub durability: Option<Durability>,

    /// A further setting of every node to start; may be given more than once
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting,
        conflicts_with_all = ["leader", "compose", "kube"], help_heading = "Cluster")]
    pub node_setting: Vec<(String, String)>,

    /// Another build whose nodes to start: of kv-bench, or of kv-node, which outlives a bench that is killed by kill -9
    /// [default: this one]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["leader", "compose", "kube"], help_heading = "Cluster")]
    pub node_program: Option<PathBuf>,
}

/// What a subcommand starts where the command line does not say.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalDefaults {
    /// W, or all followers where they are fewer.
    pub write_quorum: u16,
    /// The longest delay; as long as the shortest when absent.
    pub max_delay_ms: Option<u32>,
    /// The replication timeout; [`TIMEOUT_MARGIN_MS`] above the longest delay when absent.
    pub replication_timeout_ms: Option<u32>,
    pub start_timeout: Duration,
}

impl RunningArguments {
    /// Whether one is named.
    pub(super) fn is_named(&self) -> bool {
        self.leader.is_some() || self.compose || self.kube.is_some()
    }

    /// The cluster that is named; nothing where none is.
    ///
    /// # Errors
    /// When a KvCluster cannot be reached.
    pub(super) async fn reach(&self) -> Result<Option<RunningCluster>> {
        Ok(if let Some(leader) = &self.leader {
            Some(match self.passage()? {
                Some(passage) => {
                    cluster::remote_over_tls(passage, leader, &self.followers, self.credentials()?).await?
                }
                None => cluster::remote(leader.clone(), self.followers.clone(), self.credentials()?),
            })
        } else if self.kube.is_some() {
            Some(self.kvcluster().await?)
        } else {
            self.compose.then(|| self.credentials().map(cluster::compose)).transpose()?
        })
    }

    /// The way to a cluster that speaks TLS.
    ///
    /// # Errors
    /// When its authority is missing.
    pub(super) fn passage(&self) -> Result<Option<Passage>> {
        self.tls.passage(self.leader.iter().chain(&self.followers).map(String::as_str))
    }

    /// What a cluster that runs already asks for. One that is started here has its tokens in `--node-setting`.
    ///
    /// # Errors
    /// When a file of tokens has none.
    pub(super) fn credentials(&self) -> Result<Credentials> {
        Ok(Credentials { client_token: self.client.token()?, auth_token: self.administrator.token()? })
    }

    #[cfg(feature = "kubernetes")]
    async fn kvcluster(&self) -> Result<RunningCluster> {
        let (access, resource) = self.resource().await?;
        cluster::kube(&access, resource, self.credentials()?).await
    }

    #[cfg(not(feature = "kubernetes"))]
    #[expect(clippy::unused_async, reason = "the other build waits for the cluster")]
    async fn kvcluster(&self) -> Result<RunningCluster> {
        Err(WrongUsage::error(NO_KUBERNETES))
    }

    /// The KvCluster that is named, and the way to its API server.
    ///
    /// # Errors
    /// When there is no such way.
    #[cfg(feature = "kubernetes")]
    pub(super) async fn resource(&self) -> Result<(Access, KvClusterResource)> {
        let (access, name) = (Access::infer().await?, self.kube.as_deref().unwrap_or_default());
        let resource = KvClusterResource::new(access.client.clone(), name, self.namespace.as_deref());
        Ok((access, resource))
    }
}

impl ClusterArguments {
    /// Whether the cluster runs already.
    pub(super) fn is_running(&self) -> bool {
        self.running.is_named()
    }

    /// The delays of a running cluster are changed by a sweep alone.
    ///
    /// # Errors
    /// [`WrongUsage`] when other subcommands are asked for that.
    pub(super) fn refuse_delays_of_running(&self) -> Result<()> {
        if self.is_running() && (self.min_delay_ms.is_some() || self.max_delay_ms.is_some()) {
            return Err(WrongUsage::error("delays can be set where the cluster is started here, and by a sweep"));
        }
        Ok(())
    }

    /// The processes to start, with state in memory.
    ///
    /// # Errors
    /// [`WrongUsage`] when the values contradict each other.
    pub(super) fn local(&self, out: &Path, defaults: LocalDefaults) -> Result<LocalClusterOptions> {
        let followers = self.follower_count.unwrap_or(DEFAULT_FOLLOWERS);
        let write_quorum = self.write_quorum.unwrap_or(defaults.write_quorum.min(followers));
        let min_delay_ms = self.min_delay_ms.unwrap_or(0);
        let max_delay_ms = self.max_delay_ms.or(defaults.max_delay_ms).unwrap_or(min_delay_ms);
        if min_delay_ms > max_delay_ms {
            return Err(WrongUsage::error(format!(
                "minimum delay of {min_delay_ms} ms is above the maximum delay of {max_delay_ms} ms"
            )));
        }
        super::require_possible(write_quorum, followers)?;
        let timeout_ms = self.replication_timeout_ms.or(defaults.replication_timeout_ms);
        Ok(LocalClusterOptions {
            followers,
            write_quorum,
            min_delay_ms,
            max_delay_ms,
            replication_timeout_ms: timeout_ms.unwrap_or(max_delay_ms + TIMEOUT_MARGIN_MS),
            delay_seed: self.delay_seed,
            environment: self.node_setting.clone(),
            start_timeout: defaults.start_timeout,
            ..LocalClusterOptions::new(node_program(self.node_program.as_deref())?, out.join("logs"))
        })
    }
}

/// Processes to start, without delays and with state in memory; their nodes' logs go below `out`.
///
/// # Errors
/// When this program's own file cannot be found.
pub(super) fn without_delays(
    followers: u16,
    write_quorum: u16,
    node_program: Option<&Path>,
    out: &Path,
) -> Result<LocalClusterOptions> {
    Ok(LocalClusterOptions {
        followers,
        write_quorum,
        max_delay_ms: 0,
        replication_timeout_ms: TIMEOUT_MARGIN_MS,
        start_timeout: Duration::from_secs(30),
        ..LocalClusterOptions::new(self::node_program(node_program)?, out.join("logs"))
    })
}

/// The executable whose nodes to start: this program unless another one is given.
pub(super) fn node_program(given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(program) => Ok(program.to_owned()),
        None => std::env::current_exe().context("failed to find this program's own file"),
    }
}

/// A directory for the followers' data, which goes when the value is dropped; none for followers in memory.
pub(super) fn data_directory(durability: Durability, out: &Path) -> Result<Option<TempDir>> {
    let directory = || tempfile::Builder::new().prefix("data-").tempdir_in(out);
    let directory = (durability == Durability::Disk).then(directory).transpose();
    directory.with_context(|| format!("failed to create a data directory in {}", out.display()))
}

/// The replication timeout of a cluster to start whose delays have this law. Without a cap a law's longest delay is an
/// hour, which no write is likely to take.
///
/// # Errors
/// When the law contradicts itself.
pub(super) fn timeout_under_ms(law: &DelayLaw) -> Result<u32> {
    let (_, longest_ms) = law.resolve()?.bounds_ms();
    Ok(TIMEOUT_MARGIN_MS + longest_ms.min(UNCAPPED_MS).ceil() as u32)
}

/// The value of `--delay`.
pub(super) fn law(text: &str) -> Result<Arc<DelayLaw>, String> {
    kv_node::config::parse_delay(text).map(Arc::new).map_err(|error| error.to_string())
}

fn url(text: &str) -> Result<String, String> {
    let parsed = reqwest::Url::parse(text).map_err(|error| format!("{error}; expected http://HOST:PORT"))?;
    match parsed.scheme() {
        "http" | "https" if parsed.host().is_some() => Ok(text.trim_end_matches('/').to_owned()),
        scheme => Err(format!("{scheme}:// is not spoken here; expected http://HOST:PORT or https://HOST:PORT")),
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
