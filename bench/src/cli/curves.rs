//! `kv-bench curves`: for each setting, a cluster and a load at each of its values → tables and plots.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Args;

use super::{
    EXIT_FAILED,
    cluster::{DEFAULT_FOLLOWERS, Durability, without_delays},
    load::{LoadCluster, above_zero, start},
    sweep,
};
use crate::{
    interrupt::{EXIT_INTERRUPTED, Interrupt},
    load::{
        self, Distribution, LoadOptions, Pace, ReadFrom,
        curves::{Curve, CurvePoint, Dimension},
        progress::LoadProgress,
        raise_file_limit,
    },
    output::{WrongUsage, write_files},
};

/// Few enough that values of 1 MiB fit into the memory of six nodes.
const KEYS_OF_LARGE_VALUES: u64 = 100;
const CONNECTIONS_OF_LARGE_VALUES: usize = 16;
const KEYS: u64 = 10_000;

pub(super) const AFTER_HELP: &str = "\
Exit codes: 0 measured; 1 failed, or an operation failed; 2 wrong usage; 130 interrupted (whole curves are written).";

/// The settings of the curves.
#[derive(Clone, Debug, Args)]
pub struct CurvesArguments {
    /// What to vary, comma-separated
    #[arg(
        long,
        value_enum,
        value_name = "SETTING,…",
        value_delimiter = ',',
        default_value = "followers,connections,value-size,reads"
    )]
    by: Vec<Dimension>,

    /// Its values, comma-separated, where one setting is varied [default: about eight over its whole range]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..))]
    values: Option<Vec<u64>>,

    /// How long each value is measured
    #[arg(long, value_name = "SECONDS", value_parser = above_zero, default_value_t = 3.0)]
    seconds: f64,

    /// What comes before that is not measured
    #[arg(long, value_name = "SECONDS", value_parser = sweep::not_negative, default_value_t = 1.0)]
    warmup_seconds: f64,

    /// Clients, where their number is not varied [default: 64; 16 where values are large]
    #[arg(long, value_name = "C", value_parser = sweep::positive)]
    connections: Option<usize>,

    /// Where the followers keep their state
    #[arg(long, value_enum, default_value = "memory")]
    durability: Durability,

    /// Another build of kv-bench whose nodes to start [default: this one]
    #[arg(long, value_name = "FILE")]
    node_program: Option<PathBuf>,

    /// Directory of the results, and of the logs and data of the nodes
    #[arg(long, value_name = "DIRECTORY", default_value = "out")]
    out: PathBuf,
}

impl CurvesArguments {
    fn options(&self, by: Dimension, value: u64) -> LoadOptions {
        let is_large = by == Dimension::ValueSize;
        let connections = self.connections.unwrap_or(if is_large { CONNECTIONS_OF_LARGE_VALUES } else { 64 });
        LoadOptions {
            pace: Pace::Closed,
            connections: if by == Dimension::Connections { value as usize } else { connections },
            pipeline: 1,
            reads: if by == Dimension::Reads { 1.0 } else { 0.0 },
            read_from: match (by, value) {
                (Dimension::Reads, 2) => ReadFrom::Local,
                (Dimension::Reads, 3) => ReadFrom::Followers,
                _ => ReadFrom::Leader,
            },
            keys: if is_large { KEYS_OF_LARGE_VALUES } else { KEYS },
            distribution: Distribution::Uniform,
            value_size_bytes: if is_large { value as usize } else { 64 },
            fill: false,
            explain: false,
            warmup: Duration::from_secs_f64(self.warmup_seconds),
            duration: Duration::from_secs_f64(self.seconds),
            request_timeout: Duration::from_secs(15),
            threads: 1,
            seed: 1,
        }
    }

    async fn cluster(&self, followers: u16) -> Result<LoadCluster> {
        let options = without_delays(followers, followers / 2 + 1, self.node_program.as_deref(), &self.out)?;
        start(options, self.durability, &self.out).await
    }

    fn check(&self) -> Result<()> {
        let Some(values) = &self.values else { return Ok(()) };
        let [by] = self.by[..] else {
            return Err(WrongUsage::error(format!("--values is for one setting, but {} are varied", self.by.len())));
        };
        let most = match by {
            Dimension::Followers => 60,
            Dimension::Connections => 100_000,
            Dimension::ValueSize => 16 * 1024 * 1024,
            Dimension::Reads => 3,
        };
        match values.iter().find(|value| **value > most) {
            Some(value) => {
                Err(WrongUsage::error(format!("{value} is above {most}, the most that can be measured here")))
            }
            None => Ok(()),
        }
    }
}

/// Measures the curves; the value is the exit code.
pub(super) fn main(arguments: &CurvesArguments) -> Result<u8> {
    arguments.check()?;
    super::run(run(arguments))
}

async fn run(arguments: &CurvesArguments) -> Result<u8> {
    let interrupt = Interrupt::listen().context("failed to listen for signals")?;
    let out = &arguments.out;
    super::make_directory(out)?;
    let mut progress = LoadProgress::on_stderr(interrupt.clone());
    let mut failures = 0;
    for &by in &arguments.by {
        let values = arguments.values.clone().unwrap_or_else(|| by.default_values());
        let curve = tokio::select! {
            curve = curve(arguments, by, &values, &mut progress) => curve?,
            () = interrupt.requested() => None,
        };
        let Some(curve) = curve else {
            eprintln!("interrupted: this curve is not whole");
            return Ok(EXIT_INTERRUPTED);
        };
        failures += curve.failures();
        let paths = write_files(out, curve.files()?)?;
        let wrote: String = paths.iter().map(|path| format!("wrote {}\n", path.display())).collect();
        progress.print(&format!("{}{wrote}\n", curve.text()));
    }
    progress.finish();
    Ok(if failures > 0 { EXIT_FAILED } else { 0 })
}

/// `None` when interrupted.
async fn curve(
    arguments: &CurvesArguments,
    by: Dimension,
    values: &[u64],
    progress: &mut LoadProgress,
) -> Result<Option<Curve>> {
    let mut points = Vec::new();
    let mut cluster: Option<LoadCluster> = None;
    for &value in values {
        let options = arguments.options(by, value);
        raise_file_limit(options.connections as u64)?;
        let fresh = by == Dimension::Followers || cluster.is_none();
        if fresh {
            progress.note("starting the cluster");
            drop(cluster.take());
            let followers = if by == Dimension::Followers { u16::try_from(value)? } else { DEFAULT_FOLLOWERS };
            cluster = Some(arguments.cluster(followers).await?);
        }
        let Some(cluster) = &cluster else { return Ok(None) };
        progress.expect(options.warmup + options.duration);
        let report = tokio::task::block_in_place(|| load::run(&cluster.target, &options, progress))?;
        if report.interrupted {
            return Ok(None);
        }
        points.push(CurvePoint { value, report });
    }
    Ok(Some(Curve { by, points }))
}
