//! `kv-bench steady`: whether a standby leaves a leader alone that works.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::Result;
use clap::Args;

use super::{
    EXIT_VIOLATION,
    failover::{what_clients_saw, what_is_lost},
    load::above_zero,
    size::{PairArguments, SizeArguments},
};
use crate::{
    interrupt::{EXIT_INTERRUPTED, Interrupt},
    load::steady::{self, Kind, Steady, SteadyOptions},
    output::print,
    progress::Progress,
};

pub(super) const AFTER_HELP: &str = "\
Exit codes: 0 no standby took over, and no acknowledged write is lost; 1 failed; 2 wrong usage; 3 a standby took over, or a write is lost; \
130 interrupted.";

/// The settings of such a run.
#[derive(Clone, Debug, Args)]
pub struct SteadyArguments {
    /// For how long nodes are disturbed
    #[arg(long, value_name = "SECONDS", value_parser = above_zero, default_value_t = 60.0)]
    seconds: f64,

    /// Longest pause of a node
    #[arg(long, value_name = "MS", default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..))]
    longest_pause_ms: u64,

    /// Which nodes are disturbed, comma-separated
    #[arg(long, value_enum, value_name = "KIND,…", value_delimiter = ',', default_value = "leader,standby,followers")]
    nodes: Vec<Kind>,

    /// Threads that take processors [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(..=1024))]
    busy_threads: Option<u16>,

    /// Leaves the disk to the nodes: otherwise another file is written and synced twice a second
    #[arg(long)]
    quiet_disk: bool,

    #[command(flatten)]
    pair: PairArguments,

    /// Directory of the nodes' data and logs; what the last run left there goes
    #[arg(long, value_name = "DIRECTORY", default_value = "out/steady")]
    out: PathBuf,
}

/// Runs it.
///
/// # Errors
/// When a node fails.
pub(super) fn main(arguments: &SteadyArguments) -> Result<u8> {
    let SteadyArguments { seconds, longest_pause_ms, nodes, busy_threads, quiet_disk, pair, out } = arguments;
    let data = out.join("data");
    let cluster = pair.options(Some(data.clone()), out)?;
    super::remove_directory(&data)?;
    super::make_directory(&data)?;
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let options = SteadyOptions {
        duration: Duration::from_secs_f64(*seconds),
        clients: usize::from(pair.clients),
        longest_pause: Duration::from_millis(*longest_pause_ms),
        nodes: nodes.clone(),
        busy_threads: busy_threads.map_or(processors, usize::from),
        busy_disk: (!quiet_disk).then(|| data.clone()),
        patience: Duration::from_secs(120),
    };
    let busy_threads = options.busy_threads;
    let (measured, interrupted) = super::run(async {
        let interrupt = Interrupt::listen()?;
        let progress = Progress::on_stderr();
        let bar = progress.bar(options.duration.as_secs());
        let report = |what: &str, elapsed: Duration| {
            progress.note(what);
            bar.set_position(elapsed.as_secs());
        };
        let measured = steady::measure(cluster, options, &interrupt, report).await;
        bar.finish_and_clear();
        progress.finish();
        anyhow::Ok((measured?, interrupt.is_requested()))
    })?;
    print(&text(&measured, arguments, busy_threads));
    super::remove_directory(&data)?;
    Ok(match (measured.takeovers.is_empty() && measured.lost.is_empty(), interrupted) {
        (false, _) => EXIT_VIOLATION,
        (true, true) => EXIT_INTERRUPTED,
        (true, false) => 0,
    })
}

fn text(measured: &Steady, arguments: &SteadyArguments, busy_threads: usize) -> String {
    let Steady { lasted, takeovers, epochs, disturbances, .. } = measured;
    let PairArguments { clients, size: SizeArguments { follower_count, quorum }, takeover_after_ms } = arguments.pair;
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
    let mut text = format!(
        "disturbed for {:.0} s; N = {follower_count}, W = {quorum}, on disk, {clients} clients, {busy_threads} busy threads, \
         TAKEOVER_AFTER_MS={takeover_after_ms}\n",
        lasted.as_secs_f64()
    );
    let counts = disturbances.iter().map(|((node, disturbance), count)| format!("{node} {disturbance} {count} times"));
    text.push_str(&format!("disturbances       {}\n", counts.collect::<Vec<_>>().join(", ")));
    text.push_str(&format!("longest pause      {:.0} ms\n", milliseconds(measured.longest_pause)));
    if let Some(slowest) = measured.slowest_sync {
        text.push_str(&format!(
            "other work on disk its slowest write with sync took {:.0} ms\n",
            milliseconds(slowest)
        ));
    }
    text.push_str(&format!("writes stop for    at most {:.0} ms\n", milliseconds(measured.longest_gap)));
    text.push_str(&what_clients_saw(measured.answers));
    let [first, last] = epochs;
    text.push_str(&format!(
        "epoch              {}-{} at the start, {}-{} at the end\ntakeovers: {}\n",
        first.term,
        first.leader,
        last.term,
        last.leader,
        takeovers.len()
    ));
    takeovers.iter().for_each(|takeover| text.push_str(&format!("TAKEOVER {takeover}\n")));
    text.push_str(&what_is_lost(&measured.lost));
    text
}
