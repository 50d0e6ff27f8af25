//! `kv-bench standby`: what a standby costs.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Args;

use super::{
    EXIT_FAILED,
    cluster::{Durability, data_directory},
    load::above_zero,
    size::SizeArguments,
};
use crate::{
    cluster::LocalClusterOptions,
    interrupt::{EXIT_INTERRUPTED, Interrupt},
    load::{
        progress::LoadProgress,
        raise_file_limit,
        standby::{self, StandbyOptions},
    },
    output::print,
};

/// The settings of such a measurement.
#[derive(Clone, Debug, Args)]
pub struct StandbyArguments {
    /// How often it is measured with and without
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,

    /// How long each measurement takes
    #[arg(long, value_name = "SECONDS", value_parser = above_zero, default_value_t = 3.0)]
    seconds: f64,

    /// Clients that write, each one write at a time
    #[arg(long, value_name = "C", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,

    /// Number of keys
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,

    #[command(flatten)]
    size: SizeArguments,

    /// Whether followers keep their state in memory or on disk
    #[arg(long, value_enum, default_value = "memory")]
    durability: Durability,

    /// Directory of logs and, while it runs, of the nodes' data
    #[arg(long, value_name = "DIRECTORY", default_value = "out/standby")]
    out: PathBuf,
}

/// Runs it.
///
/// # Errors
/// When a node fails.
pub(super) fn main(arguments: &StandbyArguments) -> Result<u8> {
    super::run(run(arguments))
}

async fn run(arguments: &StandbyArguments) -> Result<u8> {
    let StandbyArguments { rounds, seconds, connections, keys, size, durability, out } = arguments;
    let cluster = size.options(None, out)?;
    super::make_directory(out)?;
    raise_file_limit((*connections).into())?;
    let interrupt = Interrupt::listen().context("failed to listen for signals")?;
    let mut progress = LoadProgress::on_stderr(interrupt.clone());
    let data = data_directory(*durability, out)?;
    let cluster = LocalClusterOptions {
        environment: vec![("TAKEOVER_AFTER_MS".to_owned(), "500".to_owned())],
        data_directory: data.as_ref().map(|data| data.path().to_owned()),
        ..cluster
    };
    let options = StandbyOptions {
        rounds: *rounds,
        connections: (*connections).into(),
        duration: Duration::from_secs_f64(*seconds),
        warmup: Duration::from_millis(500),
        keys: *keys,
        patience: Duration::from_secs(120),
    };
    progress.expect(options.warmup + options.duration);
    let measured = standby::measure(cluster, options, &mut progress).await;
    progress.finish();
    let cost = measured?;
    let SizeArguments { follower_count, quorum } = size;
    print(&format!("N = {follower_count}, W = {quorum}, {connections} connections, {keys} keys, {durability:?}\n"));
    print(&cost.text());
    Ok(match (cost.failures, interrupt.is_requested()) {
        (1.., _) => EXIT_FAILED,
        (0, true) => EXIT_INTERRUPTED,
        (0, false) => 0,
    })
}
