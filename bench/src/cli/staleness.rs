//! `kv-bench staleness`: settings → target → measurement → tables and files → exit code.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use kvcluster_api::delay::DelayLaw;

use super::{
    EXIT_DEVIATES, EXIT_FAILED,
    cluster::{ClusterArguments, Durability, LocalDefaults, data_directory, law, timeout_under_ms},
    sweep::positive,
};
use crate::{
    cluster::{self, LocalClusterOptions, RunningCluster},
    interrupt::{EXIT_INTERRUPTED, Interrupt},
    output::{WrongUsage, print},
    progress::Progress,
    staleness::{
        probe::Workload,
        report::{self, FindingKind, StalenessReport},
        runner::{self, StalenessOptions},
    },
};

pub(super) const AFTER_HELP: &str = "\
Exit codes: 0 measured; 1 failed (the reason is the last line); 2 wrong usage; 3 outside of theory, with
--require-theory; 130 interrupted (partial results are still written).";

const DEFAULT_MAX_DELAY_MS: u32 = 200;
/// Later reads would make a measurement endless.
const TIME_MAX_MS: f64 = 60_000.0;

/// The settings of a measurement.
#[derive(Clone, Debug, Args)]
pub struct StalenessArguments {
    #[command(flatten)]
    cluster: ClusterArguments,

    /// A law of the delays, in place of the shortest and the longest: JSON such as {"exponential":{"meanMs":40}}, or
    /// linkedin-disk, yammer or wan-3-zones; given more than once, the laws are measured one after the other [default:
    /// uniform; of a running cluster: as it is]
    #[arg(long, value_name = "LAW", value_parser = law, conflicts_with_all = ["min_delay_ms", "max_delay_ms"],
        help_heading = "Cluster")]
    delay: Vec<Arc<DelayLaw>>,

    /// Write quorums to measure, comma-separated, in this order [default: 1 to the number of followers]
    #[arg(long, value_name = "W,…", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..),
        help_heading = "Workload")]
    quorums: Option<Vec<u16>>,

    /// Times after the acknowledgement at which to read, comma-separated, in ms [default: twenty, where theory at W = 1
    /// falls from its first value to a hundredth of it]
    #[arg(long, value_name = "MS,…", value_delimiter = ',', value_parser = time, help_heading = "Workload")]
    times_ms: Option<Vec<f64>>,

    /// Writes per quorum, each followed by a read at every time
    #[arg(long, value_name = "N", value_parser = positive, default_value_t = 2000, help_heading = "Workload")]
    writes: usize,

    /// Clients, each with a key of its own and one write with its reads under way
    #[arg(long, value_name = "N", value_parser = positive, default_value_t = 32, help_heading = "Workload")]
    concurrency: usize,

    /// Seed of the choice of the followers to read from
    #[arg(long, value_name = "SEED", default_value_t = 1, help_heading = "Workload")]
    seed: u64,

    /// Fail (exit code 3) when a share of stale reads is not where theory allows it
    #[arg(long, help_heading = "Results")]
    require_theory: bool,

    /// Directory of the results, and of the logs of nodes that were started
    #[arg(long, value_name = "DIRECTORY", default_value = "out", help_heading = "Results")]
    out: PathBuf,
}

impl StalenessArguments {
    fn options(&self) -> StalenessOptions {
        StalenessOptions {
            laws: self.delay.clone(),
            min_delay_ms: self.cluster.min_delay_ms,
            max_delay_ms: self.cluster.max_delay_ms,
            quorums: self.quorums.clone(),
            times_ms: self.times_ms.clone().map(sorted),
            workload: Workload { writes: self.writes, concurrency: self.concurrency, seed: self.seed },
        }
    }

    fn local_cluster(&self) -> Result<LocalClusterOptions> {
        let defaults = LocalDefaults {
            write_quorum: 1,
            max_delay_ms: Some(DEFAULT_MAX_DELAY_MS),
            replication_timeout_ms: None,
            start_timeout: Duration::from_secs(30),
        };
        let mut options = self.cluster.local(&self.out, defaults)?;
        let LocalClusterOptions { followers, .. } = options;
        self.quorums.iter().flatten().try_for_each(|quorum| super::require_possible(*quorum, followers))?;
        if self.cluster.replication_timeout_ms.is_none() {
            let timeouts = self.delay.iter().map(|law| timeout_under_ms(law)).collect::<Result<Vec<u32>>>()?;
            options.replication_timeout_ms = timeouts.into_iter().max().unwrap_or(options.replication_timeout_ms);
        }
        Ok(options)
    }

    async fn cluster(&self) -> Result<RunningCluster> {
        if let Some(running) = self.cluster.running.reach().await? {
            return Ok(running);
        }
        let data = data_directory(self.cluster.durability.unwrap_or(Durability::Memory), &self.out)?;
        let data_directory = data.as_ref().map(|directory| directory.path().to_owned());
        let running = cluster::local(LocalClusterOptions { data_directory, ..self.local_cluster()? }).await?;
        Ok(running.keeping(data))
    }
}

/// Runs the measurement; the value is the exit code.
pub(super) fn main(arguments: &StalenessArguments) -> Result<u8> {
    if arguments.cluster.running.leader.is_some() && arguments.cluster.running.followers.is_empty() {
        return Err(WrongUsage::error("reads go to the followers: give their addresses by --followers"));
    }
    // One thread, as in a sweep: an answer that wakes another thread is late by that wake-up.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("failed to start the runtime")?.block_on(run(arguments))
}

async fn run(arguments: &StalenessArguments) -> Result<u8> {
    let interrupt = Interrupt::listen().context("failed to listen for signals")?;
    let out = &arguments.out;
    super::make_directory(out)?;
    let progress = Progress::on_stderr();
    progress.note("starting the cluster");
    let cluster = tokio::select! {
        cluster = arguments.cluster() => cluster?,
        () = interrupt.requested() => return Ok(EXIT_INTERRUPTED),
    };
    let report = runner::measure(&cluster, &arguments.options(), &interrupt, &progress).await?;
    progress.finish();
    drop(cluster);
    if report.laws.is_empty() {
        eprintln!("interrupted before anything was measured");
        return Ok(EXIT_INTERRUPTED);
    }
    print(&report::text(&report));
    for path in report::export_all(&report, out)? {
        print(&format!("wrote {}\n", path.display()));
    }
    Ok(code(&report, arguments.require_theory))
}

/// The gravest of what happened decides.
fn code(report: &StalenessReport, require_theory: bool) -> u8 {
    let is_outside =
        report.findings.iter().any(|finding| matches!(finding.kind, FindingKind::MoreStale | FindingKind::FewerStale));
    if report.failure.is_some() {
        EXIT_FAILED
    } else if report.interrupted {
        EXIT_INTERRUPTED
    } else if require_theory && is_outside {
        EXIT_DEVIATES
    } else {
        0
    }
}

/// In order and each once: a time that is given twice is no second measurement.
fn sorted(mut times_ms: Vec<f64>) -> Vec<f64> {
    times_ms.sort_by(f64::total_cmp);
    times_ms.dedup();
    times_ms
}

fn time(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ms) if (0.0..=TIME_MAX_MS).contains(&ms) => Ok(ms),
        Ok(_) => Err(format!("must be a number of milliseconds from 0 to {TIME_MAX_MS}")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::staleness::testing::{Behaviour, synthetic_report};

    fn parse(line: &str) -> Result<StalenessArguments, String> {
        crate::cli::parse(line)
    }

    #[test]
    fn laws_times_and_quorums_reach_cluster_and_measurement() {
        let line =
            "--delay yammer --delay {\"maxMs\":9} --times-ms 20,0,1.5,20 --quorums 3,1 --delay-seed 9 --out results";
        let arguments = parse(line).expect("valid");
        let options = arguments.options();
        assert_eq!(
            options.laws,
            [DelayLaw::preset("yammer"), DelayLaw { min_ms: None, ..DelayLaw::uniform(0, 9) }].map(Arc::new)
        );
        assert_eq!((options.times_ms, options.quorums), (Some(vec![0.0, 1.5, 20.0]), Some(vec![3, 1])));
        let cluster = arguments.local_cluster().expect("possible");
        assert_eq!((cluster.delay_seed, cluster.replication_timeout_ms), (Some(9), 65_000));
        assert_eq!(cluster.logs_directory, PathBuf::from("results/logs"));
        let plain = parse("").expect("valid").local_cluster().expect("possible");
        assert_eq!((plain.max_delay_ms, plain.replication_timeout_ms), (200, 5_200));
    }

    #[test]
    fn wrong_values_are_refused() {
        for (line, expected) in [
            ("--writes 0", "must be at least 1"),
            ("--quorums 0", "0 is not in 1.."),
            ("--times-ms=-1", "from 0 to 60000"),
            ("--times-ms 5,NaN", "from 0 to 60000"),
            ("--times-ms 5,soon", "invalid float"),
            ("--delay jammer", "nor one of linkedin-disk, yammer, wan-3-zones"),
            ("--delay yammer --max-delay-ms 5", "cannot be used with"),
            ("--seed -3", "unexpected argument"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
        let error = parse("--quorums 1,6").expect("parses").local_cluster().expect_err("6 of 5").to_string();
        assert_eq!(error, "write quorum 6 is not possible with 5 followers");
        let error = main(&parse("--leader http://localhost:8000").expect("parses")).expect_err("no followers");
        assert_eq!(error.to_string(), "reads go to the followers: give their addresses by --followers");
    }

    #[test]
    fn the_gravest_outcome_decides_the_exit_code() {
        let mut report = synthetic_report(Behaviour::AppliesLate, 5, 1_000);
        assert_eq!((code(&report, false), code(&report, true)), (0, EXIT_DEVIATES));
        assert_eq!(code(&synthetic_report(Behaviour::Sound, 5, 1_000), true), 0);
        report.interrupted = true;
        assert_eq!(code(&report, true), EXIT_INTERRUPTED);
        report.failure = Some("no answer".into());
        assert_eq!(code(&report, true), EXIT_FAILED);
    }
}
