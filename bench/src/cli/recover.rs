//! `kv-bench recover`: how long a cluster with many keys needs to be itself again.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Args;

use super::size::SizeArguments;
use crate::{
    cluster::LocalClusterOptions,
    load::recovery::{self, Recovery, RecoveryOptions},
    output::print,
};

/// The settings of a recovery.
#[derive(Clone, Debug, Args)]
pub struct RecoverArguments {
    /// Keys to write before anything is restarted
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,

    /// Size of each value in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    value_size_bytes: usize,

    /// Connections that write, each one write at a time
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,

    /// Writes to random keys at the end, while the disk is watched
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    overwrites: u64,

    #[command(flatten)]
    size: SizeArguments,

    /// Directory of the nodes' data and logs; what the last run left there goes
    #[arg(long, value_name = "DIRECTORY", default_value = "out/recover")]
    out: PathBuf,
}

/// Runs it.
///
/// # Errors
/// When a node fails or does not come back.
pub(super) fn main(arguments: &RecoverArguments) -> Result<u8> {
    let RecoverArguments { keys, value_size_bytes, connections, overwrites, size, out } = arguments;
    let data = out.join("data");
    let cluster = LocalClusterOptions { replication_timeout_ms: 60_000, ..size.options(Some(data.clone()), out)? };
    super::remove_directory(&data)?;
    let options = RecoveryOptions {
        keys: *keys,
        value_size_bytes: *value_size_bytes,
        connections: usize::from(*connections),
        overwrites: *overwrites,
        patience: Duration::from_secs(600),
    };
    let measured = super::run(recovery::measure(cluster, options, |what| eprintln!("{what} …")))?;
    print(&told(&measured, &options));
    // A second look at the result does not need it, and it is large.
    super::remove_directory(&data)?;
    Ok(0)
}

fn told(measured: &Recovery, options: &RecoveryOptions) -> String {
    let Recovery {
        fill,
        leader_bytes,
        follower_bytes,
        disk_bytes,
        leader_restart,
        leader_settles,
        follower_refill,
        cluster_restart,
        disk_bytes_overwriting_max,
        overwrite,
    } = measured;
    let RecoveryOptions { keys, value_size_bytes, overwrites, .. } = options;
    let rate = |count: u64, time: &Duration| count as f64 / time.as_secs_f64();
    let a_key = |bytes: &u64| *bytes as f64 / *keys as f64;
    let megabytes = |bytes: &u64| *bytes as f64 / 1e6;
    let payload_bytes = keys * (*value_size_bytes as u64 + recovery::KEY_SIZE_BYTES);
    let mut text = String::new();
    let mut line = |what: &str, figure: String| text.push_str(&format!("{what:<44} {figure}\n"));
    line("keys, bytes of a value", format!("{keys}, {value_size_bytes}"));
    line("written", format!("{:.0} /s", rate(*keys, fill)));
    line("memory of the leader", format!("{:.0} MB, {:.0} bytes a key", megabytes(leader_bytes), a_key(leader_bytes)));
    line(
        "memory of a follower",
        format!("{:.0} MB, {:.0} bytes a key", megabytes(follower_bytes), a_key(follower_bytes)),
    );
    line("disk of a follower", format!("{:.0} MB, {:.0} bytes a key", megabytes(disk_bytes), a_key(disk_bytes)));
    line("leader restarted: takes writes after", format!("{:.1} s", leader_restart.as_secs_f64()));
    line("… and has every follower back", format!("{:.1} s later", leader_settles.as_secs_f64()));
    line(
        "follower emptied: takes part after",
        format!(
            "{:.1} s: {:.0} keys/s, {:.1} MB/s",
            follower_refill.as_secs_f64(),
            rate(*keys, follower_refill),
            rate(payload_bytes, follower_refill) / 1e6
        ),
    );
    line("everything killed: takes writes after", format!("{:.1} s", cluster_restart.as_secs_f64()));
    line("overwritten", format!("{overwrites} times, {:.0} /s", rate(*overwrites, overwrite)));
    line("disk of a follower meanwhile, at most", format!("{:.0} MB", megabytes(disk_bytes_overwriting_max)));
    text
}
