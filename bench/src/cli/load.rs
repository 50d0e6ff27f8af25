//! `kv-bench load`: settings → cluster → load → tables and files → exit code.

use std::{
    fs,
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use tempfile::TempDir;

use super::{
    EXIT_FAILED,
    cluster::{ClusterArguments, Durability, LocalDefaults, TIMEOUT_MARGIN_MS, data_directory},
    sweep,
};
use crate::{
    cluster::{LocalCluster, LocalClusterOptions, RunningCluster},
    interrupt::{EXIT_INTERRUPTED, Interrupt},
    load::{
        self, Arrivals, Dialect, Distribution, LoadOptions, LoadReport, LoadTarget, Pace, Processes, ReadFrom,
        progress::LoadProgress, raise_file_limit,
    },
    output::print,
};

pub(super) const AFTER_HELP: &str = "\
Exit codes: 0 measured; 1 failed, or an operation failed; 2 wrong usage; 130 interrupted (partial results are still written).";

const DEFAULTS: LocalDefaults = LocalDefaults {
    write_quorum: 3,
    max_delay_ms: None,
    replication_timeout_ms: None,
    start_timeout: Duration::from_secs(30),
};
const DEFAULT_CONNECTIONS: usize = 64;
/// Connections of an open loop: enough for all requests that become due while a system stalls.
const DEFAULT_CONNECTIONS_OPEN: usize = 1_024;
/// A request without an answer is given up so much later than a node would answer that it has timed out.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DistributionKind {
    Uniform,
    Zipf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ArrivalsKind {
    Poisson,
    Even,
}

/// The settings of a load.
#[derive(Clone, Debug, Args)]
pub struct LoadArguments {
    #[command(flatten)]
    cluster: ClusterArguments,

    #[command(flatten)]
    workload: WorkloadArguments,

    /// Directory of the results, and of the logs and data of nodes that were started
    #[arg(long, value_name = "DIRECTORY", default_value = "out", help_heading = "Results")]
    out: PathBuf,
}

/// What is done to it.
#[derive(Clone, Debug, Args)]
struct WorkloadArguments {
    /// Clients, each with one request under way [default: 64; with --rate 1024, the most requests under way]
    #[arg(long, value_name = "C", value_parser = sweep::positive, help_heading = "Workload")]
    connections: Option<usize>,

    /// Operations per second that are due whatever the system does; latency counts from when each was due (default: closed
    /// loop, each client sends when it was answered)
    #[arg(long, value_name = "PER_SECOND", value_parser = above_zero, help_heading = "Workload")]
    rate: Option<f64>,

    /// How the operations of --rate follow each other
    #[arg(long, value_enum, default_value = "poisson", requires = "rate", help_heading = "Workload")]
    arrivals: ArrivalsKind,

    /// Part of the operations that are reads, 0 to 1; every key is written once before
    #[arg(long, value_name = "PART", value_parser = part, default_value_t = 0.0, help_heading = "Workload")]
    reads: f64,

    /// Who answers reads: the leader (linearizable), the leader without asking its followers, or the followers
    #[arg(long, value_enum, default_value = "leader", help_heading = "Workload")]
    read_from: ReadFrom,

    /// Number of keys
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000),
        default_value_t = 10_000, help_heading = "Workload")]
    keys: u64,

    /// How often each key is taken
    #[arg(long, value_enum, default_value = "uniform", help_heading = "Workload")]
    distribution: DistributionKind,

    /// Of a zipf distribution: the k-th most popular key is taken in proportion to 1/k^EXPONENT
    #[arg(long, value_name = "EXPONENT", value_parser = above_zero, default_value_t = 0.99, help_heading = "Workload")]
    zipf_exponent: f64,

    /// Size of each value
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(..=16 * 1024 * 1024),
        default_value_t = 64, help_heading = "Workload")]
    value_size_bytes: u64,

    /// Write every key once before, so that memory has grown to what it takes; always so where there are reads
    #[arg(long, help_heading = "Workload")]
    fill: bool,

    /// Have the leader report which delays it drew, and print what writes took beyond those; always so on a cluster that was
    /// started here with delays
    #[arg(long, help_heading = "Workload")]
    explain: bool,

    /// How long to measure
    #[arg(long, value_name = "SECONDS", value_parser = above_zero, default_value_t = 10.0, help_heading = "Workload")]
    seconds: f64,

    /// What comes before that is not measured
    #[arg(long, value_name = "SECONDS", value_parser = sweep::not_negative, default_value_t = 2.0,
        help_heading = "Workload")]
    warmup_seconds: f64,

    /// Threads of the load: one is enough up to about a hundred thousand operations a second
    #[arg(long, value_name = "N", value_parser = sweep::positive, default_value_t = 1, help_heading = "Workload")]
    threads: usize,

    /// Makes keys, mix and arrivals repeatable
    #[arg(long, value_name = "SEED", default_value_t = 1, help_heading = "Workload")]
    seed: u64,
}

impl WorkloadArguments {
    fn options(&self, request_timeout: Duration) -> LoadOptions {
        let arrivals = match self.arrivals {
            ArrivalsKind::Poisson => Arrivals::Poisson,
            ArrivalsKind::Even => Arrivals::Even,
        };
        let distribution = match self.distribution {
            DistributionKind::Uniform => Distribution::Uniform,
            DistributionKind::Zipf => Distribution::Zipf { exponent: self.zipf_exponent },
        };
        let default = if self.rate.is_some() { DEFAULT_CONNECTIONS_OPEN } else { DEFAULT_CONNECTIONS };
        LoadOptions {
            pace: self.rate.map_or(Pace::Closed, |rate| Pace::Open { rate, arrivals }),
            connections: self.connections.unwrap_or(default),
            reads: self.reads,
            read_from: self.read_from,
            keys: self.keys,
            distribution,
            value_size_bytes: self.value_size_bytes as usize,
            fill: self.fill,
            explain: self.explain,
            warmup: Duration::from_secs_f64(self.warmup_seconds),
            duration: Duration::from_secs_f64(self.seconds),
            request_timeout,
            threads: self.threads,
            seed: self.seed,
        }
    }
}

/// A cluster to put under load, and what keeps it running.
pub(super) struct LoadCluster {
    pub target: LoadTarget,
    /// Where the leader speaks Redis' protocol; `None` if it was not started here.
    pub redis: Option<SocketAddr>,
    pub request_timeout: Duration,
    /// Whether it was started to wait before each send.
    pub has_delays: bool,
    /// Dropped in this order: the processes first, then their data.
    _running: Option<RunningCluster>,
    _local: Option<LocalCluster>,
    _data: Option<TempDir>,
}

/// The cluster that the command line names, or one that is started for it.
async fn cluster(arguments: &ClusterArguments, out: &Path) -> Result<LoadCluster> {
    arguments.refuse_delays_of_running()?;
    if let Some(running) = arguments.running().await? {
        let target = LoadTarget {
            description: running.description.clone(),
            dialect: Dialect::Http,
            leader: address(&running.leader_url)?,
            followers: running.follower_urls.iter().map(|url| address(url)).collect::<Result<_>>()?,
            processes: Processes::default(),
        };
        let request_timeout = Duration::from_millis(TIMEOUT_MARGIN_MS.into()) + GRACE;
        let _running = Some(running);
        let (redis, _local, _data) = (None, None, None);
        return Ok(LoadCluster { target, redis, request_timeout, has_delays: false, _running, _local, _data });
    }
    let durability = arguments.durability.unwrap_or(Durability::Memory);
    start(arguments.local(out, DEFAULTS)?, durability, out).await
}

/// Starts a cluster on this machine.
///
/// # Errors
/// When a node does not start.
pub(super) async fn start(options: LocalClusterOptions, durability: Durability, out: &Path) -> Result<LoadCluster> {
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
    };
    let request_timeout = Duration::from_millis(replication_timeout_ms.into()) + GRACE;
    let redis = Some(cluster.leader_redis().parse().context("failed to read the address of the leader")?);
    let (has_delays, _local) = (max_delay_ms > 0, Some(cluster));
    Ok(LoadCluster { target, redis, request_timeout, has_delays, _running: None, _local, _data: data })
}

/// Where the followers keep their state, each in a directory of its own.
fn directories(data: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.path()).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// The address of `http://HOST:PORT`, the first at which somebody listens.
fn address(url: &str) -> Result<SocketAddr> {
    let parsed = reqwest::Url::parse(url).with_context(|| format!("failed to understand {url}"))?;
    let host = parsed.host_str().with_context(|| format!("failed to find a host in {url}"))?.trim_matches(['[', ']']);
    let port = parsed.port_or_known_default().with_context(|| format!("failed to find a port in {url}"))?;
    let addresses: Vec<SocketAddr> =
        (host, port).to_socket_addrs().with_context(|| format!("failed to resolve {host}"))?.collect();
    let answers = |address: &&SocketAddr| std::net::TcpStream::connect_timeout(address, Duration::from_secs(2)).is_ok();
    let first = addresses.iter().find(answers).or(addresses.first());
    first.copied().with_context(|| format!("failed to find an address of {host}"))
}

/// Runs the load; the value is the exit code.
pub(super) fn main(arguments: &LoadArguments) -> Result<u8> {
    super::run(run(arguments))
}

async fn run(arguments: &LoadArguments) -> Result<u8> {
    let interrupt = Interrupt::listen().context("failed to listen for signals")?;
    let out = &arguments.out;
    super::make_directory(out)?;
    let mut progress = LoadProgress::on_stderr(interrupt.clone());
    progress.note("starting the cluster");
    // The nodes, too, need a file for each connection.
    raise_file_limit(arguments.workload.connections.unwrap_or_default() as u64)?;
    let cluster = tokio::select! {
        cluster = cluster(&arguments.cluster, out) => cluster?,
        () = interrupt.requested() => return Ok(EXIT_INTERRUPTED),
    };
    let mut options = arguments.workload.options(cluster.request_timeout);
    options.explain |= cluster.has_delays;
    progress.expect(options.warmup + options.duration);
    let report = tokio::task::block_in_place(|| load::run(&cluster.target, &options, &mut progress));
    progress.finish();
    let report = match report {
        Err(error) if interrupt.is_requested() => {
            eprintln!("{error:#}");
            return Ok(EXIT_INTERRUPTED);
        }
        report => report?,
    };
    drop(cluster);
    print(&load::text(&report));
    for path in load::export_all(&report, out)? {
        print(&format!("wrote {}\n", path.display()));
    }
    Ok(code(&report))
}

fn code(report: &LoadReport) -> u8 {
    if report.failures() > 0 || report.unsent > 0 {
        EXIT_FAILED
    } else if report.interrupted {
        EXIT_INTERRUPTED
    } else {
        0
    }
}

pub(super) fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        Ok(_) => Err("must be above 0".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn part(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(number),
        Ok(_) => Err("must lie between 0 and 1".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
