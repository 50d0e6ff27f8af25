//! `kv-bench load`: settings → cluster → load → tables and files → exit code.

mod cluster;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

pub(super) use self::cluster::{LoadCluster, start};
use super::{EXIT_FAILED, cluster::ClusterArguments, sweep};
use crate::{
    interrupt::{EXIT_INTERRUPTED, Interrupt},
    load::{
        self, Arrivals, Distribution, LoadOptions, LoadReport, Pace, ReadFrom, progress::LoadProgress, raise_file_limit,
    },
    output::{WrongUsage, print},
};

pub(super) const AFTER_HELP: &str = "\
Exit codes: 0 measured; 1 failed, or an operation failed; 2 wrong usage; 130 interrupted (partial results are still written).";

/// More than any client sends at once.
pub(super) const PIPELINE_MAX: u64 = 10_000;
const DEFAULT_CONNECTIONS: usize = 64;
/// Connections of an open loop: enough for all requests that become due while a system stalls.
const DEFAULT_CONNECTIONS_OPEN: usize = 1_024;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProtocolKind {
    /// POST /put and GET /get
    Http,
    /// SET and GET, whose replies are the acknowledgements
    Redis,
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
    /// What is spoken with the leader
    #[arg(long, value_enum, default_value = "http", help_heading = "Workload")]
    protocol: ProtocolKind,

    /// Where the leader listens for Redis' protocol [default: as the cluster was started; of --compose port $REDIS_PORT, of
    /// --kube and --leader port 6379]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Workload")]
    redis_address: Option<String>,

    /// Operations that a client sends together, and waits for together; latency is that of all of them. Redis' protocol alone
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u64).range(1..=PIPELINE_MAX), default_value_t = 1,
        help_heading = "Workload")]
    pipeline: u64,

    /// Clients, each with one pipeline under way [default: 64; with --rate 1024, the most pipelines under way]
    #[arg(long, value_name = "C", value_parser = sweep::positive, help_heading = "Workload")]
    connections: Option<usize>,

    /// Operations per second that are due whatever the system does; latency counts from when each was due (default: closed
    /// loop, each client sends when it was answered). With --pipeline P, so many that P at a time are due together
    #[arg(long, value_name = "PER_SECOND", value_parser = above_zero, help_heading = "Workload")]
    rate: Option<f64>,

    /// How the operations of --rate follow each other
    #[arg(long, value_enum, default_value = "poisson", requires = "rate", help_heading = "Workload")]
    arrivals: ArrivalsKind,

    /// Part of the operations that are reads, 0 to 1; every key is written once before. A pipeline has reads or writes
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
    /// # Errors
    /// [`WrongUsage`] when something is asked for that the protocol does not have.
    fn check(&self) -> Result<()> {
        let wrong = match self.protocol {
            ProtocolKind::Http if self.pipeline > 1 => {
                format!(
                    "--pipeline {} needs --protocol redis: over HTTP a client has one request under way",
                    self.pipeline
                )
            }
            ProtocolKind::Http if self.redis_address.is_some() => "--redis-address needs --protocol redis".to_owned(),
            ProtocolKind::Redis if self.explain => {
                "--explain needs --protocol http: Redis' protocol has no word for delays".to_owned()
            }
            ProtocolKind::Redis if self.read_from != ReadFrom::Leader => {
                "--read-from needs --protocol http: over Redis' protocol the leader is read".to_owned()
            }
            _ => return Ok(()),
        };
        Err(WrongUsage::error(wrong))
    }

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
            pipeline: self.pipeline as usize,
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

/// Runs the load; the value is the exit code.
pub(super) fn main(arguments: &LoadArguments) -> Result<u8> {
    super::run(run(arguments))
}

async fn run(arguments: &LoadArguments) -> Result<u8> {
    arguments.workload.check()?;
    let interrupt = Interrupt::listen().context("failed to listen for signals")?;
    let out = &arguments.out;
    super::make_directory(out)?;
    let mut progress = LoadProgress::on_stderr(interrupt.clone());
    progress.note("starting the cluster");
    // The nodes, too, need a file for each connection.
    raise_file_limit(arguments.workload.connections.unwrap_or_default() as u64)?;
    let mut cluster = tokio::select! {
        cluster = cluster::cluster(&arguments.cluster, out) => cluster?,
        () = interrupt.requested() => return Ok(EXIT_INTERRUPTED),
    };
    let mut options = arguments.workload.options(cluster.request_timeout);
    if arguments.workload.protocol == ProtocolKind::Redis {
        let passage = arguments.cluster.running.passage()?;
        cluster.over_redis(arguments.workload.redis_address.as_deref(), passage).await?;
    } else {
        options.explain |= cluster.has_delays;
    }
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
