//! `kv-bench compare`: start what is installed → rounds of the same load → table and files → everything ends.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;

use super::{
    EXIT_FAILED,
    cluster::{Durability, without_delays},
    load::{PIPELINE_MAX, above_zero, start},
    sweep,
};
use crate::{
    cluster::LocalClusterOptions,
    interrupt::{EXIT_INTERRUPTED, Interrupt},
    load::{
        WAIT_MS,
        compare::{
            self, CompareOptions, CompareReport, Contender, FOLLOWERS, Peer, Place, System, SystemReport, WRITE_QUORUM,
        },
        progress::LoadProgress,
        raise_file_limit,
    },
    output::{print, write_files},
};

pub(super) const AFTER_HELP: &str = "\
Needs redis-server, valkey-server and etcd in PATH (Debian: redis-server, etcd-server); what is missing is named and left out.
Exit codes: 0 compared; 1 failed, or a write failed or was not found again; 2 wrong usage; 130 interrupted (partial results are still written).";

/// The settings of a comparison.
#[derive(Clone, Debug, Args)]
pub struct CompareArguments {
    /// Numbers of connections, comma-separated
    #[arg(long, value_name = "C,…", value_delimiter = ',', value_parser = sweep::positive, default_value = "1,10,64,256")]
    connections: Vec<usize>,

    /// Lengths of pipelines, comma-separated, that systems which take pipelines are measured at too; latency is that of a
    /// whole pipeline
    #[arg(long, value_name = "P,…", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(2..=PIPELINE_MAX),
        default_value = "16,64", num_args = 0..=16)]
    pipelines: Vec<u64>,

    /// Connections at which pipelines are measured
    #[arg(long, value_name = "C", value_parser = sweep::positive, default_value_t = 16)]
    pipeline_connections: usize,

    /// How long each point is measured in each round
    #[arg(long, value_name = "SECONDS", value_parser = above_zero, default_value_t = 1.5)]
    seconds: f64,

    /// What comes before that is not measured
    #[arg(long, value_name = "SECONDS", value_parser = sweep::not_negative, default_value_t = 0.5)]
    warmup_seconds: f64,

    /// How often each point is measured; the report has the median
    #[arg(long, value_name = "N", value_parser = sweep::positive, default_value_t = 3)]
    rounds: usize,

    /// Number of keys
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000), default_value_t = 10_000)]
    keys: u64,

    /// Size of each value
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(..=8_192), default_value_t = 64)]
    value_size_bytes: u64,

    /// Another build of kv-bench whose nodes to start [default: this one]
    #[arg(long, value_name = "FILE")]
    node_program: Option<PathBuf>,

    /// Directory of the results, of logs, and, while it runs, of the servers' data
    #[arg(long, value_name = "DIRECTORY", default_value = "out")]
    out: PathBuf,
}

/// Runs the comparison; the value is the exit code.
pub(super) fn main(arguments: &CompareArguments) -> Result<u8> {
    super::run(run(arguments))
}

async fn run(arguments: &CompareArguments) -> Result<u8> {
    let interrupt = Interrupt::listen().context("failed to listen for signals")?;
    let out = &arguments.out;
    super::make_directory(out)?;
    let alone = arguments.connections.iter().map(|connections| Place { connections: *connections, pipeline: 1 });
    let connections = arguments.pipeline_connections;
    let together = arguments.pipelines.iter().map(|pipeline| Place { connections, pipeline: *pipeline as usize });
    let places: Vec<Place> = alone.chain(together).collect();
    let most = places.iter().map(|place| place.connections).max().unwrap_or_default();
    raise_file_limit(most as u64)?;
    let data = tempfile::Builder::new()
        .prefix("compare-")
        .tempdir_in(out)
        .with_context(|| format!("failed to create a data directory in {}", out.display()))?;
    let options = CompareOptions {
        places,
        duration: Duration::from_secs_f64(arguments.seconds),
        warmup: Duration::from_secs_f64(arguments.warmup_seconds),
        rounds: arguments.rounds,
        keys: arguments.keys,
        value_size_bytes: arguments.value_size_bytes as usize,
        disk: data.path().to_owned(),
    };
    let mut progress = LoadProgress::on_stderr(interrupt.clone());
    let started = tokio::select! {
        started = contenders(arguments.node_program.as_deref(), out, data.path(), &progress, &interrupt) => started,
        () = interrupt.requested() => return Ok(EXIT_INTERRUPTED),
    };
    let (contenders, missing) = match started {
        Err(_) if interrupt.is_requested() => return Ok(EXIT_INTERRUPTED),
        started => started?,
    };
    progress.expect(options.warmup + options.duration);
    let report = tokio::task::block_in_place(|| compare::run(&contenders, missing, &options, &mut progress))?;
    progress.finish();
    drop(contenders);
    print(&compare::text(&report));
    let mut json = serde_json::to_vec_pretty(&report).context("failed to render compare.json")?;
    json.push(b'\n');
    let files = [("compare.md", compare::markdown(&report).into_bytes()), ("compare.json", json)];
    for path in write_files(out, files)? {
        print(&format!("wrote {}\n", path.display()));
    }
    Ok(code(&report))
}

/// Starts kvcluster in memory and on disk, once for each protocol, and every peer that is installed; in words, what is not.
async fn contenders(
    program: Option<&Path>,
    out: &Path,
    data: &Path,
    progress: &LoadProgress,
    interrupt: &Interrupt,
) -> Result<(Vec<Contender>, Vec<String>)> {
    let mut contenders = Vec::new();
    for (durability, words, is_stored) in
        [(Durability::Memory, "in memory", false), (Durability::Disk, "on disk", true)]
    {
        for (language, is_redis, short) in [("HTTP", false, "http"), ("Redis' protocol", true, "redis")] {
            progress.note(&format!("starting kvcluster {words} for {language}"));
            let directory = out.join(format!("{}-{short}", words.replace(' ', "-")));
            fs::create_dir_all(&directory).with_context(|| format!("failed to create {}", directory.display()))?;
            let replication_timeout_ms = WAIT_MS;
            let options = without_delays(FOLLOWERS, WRITE_QUORUM, program, &directory)?;
            let options = LocalClusterOptions { replication_timeout_ms, ..options };
            let mut cluster = start(options, durability, &directory).await?;
            if is_redis {
                cluster.over_redis(None, None).await?;
            }
            let name = format!("kvcluster, W = {WRITE_QUORUM} of {FOLLOWERS}, {words}, {language}");
            contenders.push(Contender {
                peer: None,
                is_stored,
                system: System::new(name, cluster.target.clone(), cluster),
            });
        }
    }
    let mut missing = Vec::new();
    for peer in Peer::ALL {
        progress.note(&format!("starting {}", peer.requirement()));
        match tokio::task::block_in_place(|| peer.start(data, &|| interrupt.is_requested()))? {
            Some(system) => contenders.push(Contender { peer: Some(peer), is_stored: peer.is_stored(), system }),
            None => missing.push(format!("{} is not installed: there is no such program in PATH", peer.requirement())),
        }
    }
    missing.sort();
    missing.dedup();
    Ok((contenders, missing))
}

fn code(report: &CompareReport) -> u8 {
    let is_lost = |system: &SystemReport| system.read_back.as_ref().is_some_and(|found| !found.is_complete());
    if report.systems.iter().flat_map(|system| &system.points).any(|point| point.failures > 0)
        || report.systems.iter().any(is_lost)
    {
        EXIT_FAILED
    } else if report.interrupted {
        EXIT_INTERRUPTED
    } else {
        0
    }
}
