//! `kv-bench sweep`: settings → target → sweep → table and files → exit code.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use kvcluster_api::delay::DelayLaw;

use super::{
    EXIT_DEVIATES, EXIT_FAILED,
    cluster::{ClusterArguments, Durability, LocalDefaults, data_directory, law, timeout_under_ms},
};
use crate::{
    cluster::{self, LocalClusterOptions, RunningCluster},
    commands::Protocol,
    interrupt::{EXIT_INTERRUPTED, Interrupt},
    output::{WrongUsage, print},
    progress::Progress,
    sweep::{
        report::{self, SweepReport},
        runner::{self, SweepOptions},
        workload::{VALUE_SIZE_BYTES_MIN, Workload},
    },
};

pub(super) const AFTER_HELP: &str = "\
Exit codes: 0 measured; 1 failed (the reason is the last line), or replicas differ; 2 wrong usage;
3 beyond --max-deviation-ms; 130 interrupted (partial results are still written).";

/// The seed's experiment: so many writes, clients and keys.
const SEED_EXPERIMENT: Workload = Workload { writes: 100, concurrency: 10, keys: 10, value_size_bytes: None };
/// The default: a standard error of 0.6 ms at 0-200 ms delays, in about 70 s for five quorums.
const DEFAULT: Workload = Workload { writes: 4000, concurrency: 32, keys: 10, value_size_bytes: None };
const DEFAULT_MAX_DELAY_MS: u32 = 200;

/// The settings of a sweep.
#[derive(Clone, Debug, Args)]
pub struct SweepArguments {
    #[command(flatten)]
    cluster: ClusterArguments,

    /// The law of the delays, in place of the shortest and the longest: JSON such as {"exponential":{"meanMs":40}}, or
    /// linkedin-disk, yammer or wan-3-zones [default: uniform; of a running cluster: as it is]
    #[arg(long, value_name = "LAW", value_parser = law, conflicts_with_all = ["min_delay_ms", "max_delay_ms"],
        help_heading = "Cluster")]
    delay: Option<Arc<DelayLaw>>,

    /// Write quorums to measure, comma-separated, in this order [default: 1 to the number of followers]
    #[arg(long, value_name = "W,…", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..),
        help_heading = "Workload")]
    quorums: Option<Vec<u16>>,

    /// The seed's experiment: 100 writes, 10 at a time, on 10 keys
    #[arg(long, help_heading = "Workload")]
    seed_experiment: bool,

    /// How the clients write; Redis' protocol does not show which delays were drawn
    #[arg(long, value_name = "PROTOCOL", value_enum, default_value_t = Protocol::Http, help_heading = "Workload")]
    protocol: Protocol,

    /// Where the leader listens for Redis' protocol [default: as the cluster was started; of --compose port $REDIS_PORT, of
    /// --kube and --leader port 6379]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Workload")]
    redis_address: Option<String>,

    /// Writes per quorum [default: 4000]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Workload")]
    writes: Option<usize>,

    /// Clients, each with one write under way [default: 32]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Workload")]
    concurrency: Option<usize>,

    /// Keys, written in turn [default: 10]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Workload")]
    keys: Option<usize>,

    /// Size of each value in bytes, at least 24 [default: as short as distinct values can be]
    #[arg(long, value_name = "BYTES", value_parser = value_size, help_heading = "Workload")]
    value_size_bytes: Option<usize>,

    /// Writes before each measurement that are not part of it [default: twice the concurrency]
    #[arg(long, value_name = "N", help_heading = "Workload")]
    warmup_writes: Option<usize>,

    /// Fail (exit code 3) when a mean is farther than this from theory, beyond its 95 % interval
    #[arg(long, value_name = "MS", value_parser = not_negative, help_heading = "Results")]
    max_deviation_ms: Option<f64>,

    /// Directory of the results, and of the logs of nodes that were started
    #[arg(long, value_name = "DIRECTORY", default_value = "out", help_heading = "Results")]
    out: PathBuf,

    /// Files to print as well, after the table: where a log is all that stays
    #[arg(long, value_enum, value_name = "FILE,…", value_delimiter = ',', help_heading = "Results")]
    print: Vec<report::TextFile>,
}

impl SweepArguments {
    fn workload(&self) -> Workload {
        let base = if self.seed_experiment { SEED_EXPERIMENT } else { DEFAULT };
        Workload {
            writes: self.writes.unwrap_or(base.writes),
            concurrency: self.concurrency.unwrap_or(base.concurrency),
            keys: self.keys.unwrap_or(base.keys),
            value_size_bytes: self.value_size_bytes,
        }
    }

    fn options(&self) -> SweepOptions {
        let workload = self.workload();
        SweepOptions {
            quorums: self.quorums.clone(),
            min_delay_ms: self.cluster.min_delay_ms,
            max_delay_ms: self.cluster.max_delay_ms,
            delay: self.delay.clone(),
            workload,
            protocol: self.protocol,
            warmup_writes: self.warmup_writes.unwrap_or(2 * workload.concurrency),
            max_deviation_ms: self.max_deviation_ms,
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
        if let Some(law) = &self.delay {
            options.delay = Some(law.clone());
            if self.cluster.replication_timeout_ms.is_none() {
                options.replication_timeout_ms = timeout_under_ms(law)?;
            }
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

/// Runs the sweep; the value is the exit code.
pub(super) fn main(arguments: &SweepArguments) -> Result<u8> {
    // One thread, as in a node: an answer that wakes another thread is late by that wake-up.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("failed to start the runtime")?.block_on(run(arguments))
}

async fn run(arguments: &SweepArguments) -> Result<u8> {
    let interrupt = Interrupt::listen().context("failed to listen for signals")?;
    if arguments.redis_address.is_some() && arguments.protocol != Protocol::Redis {
        return Err(WrongUsage::error("--redis-address needs --protocol redis"));
    }
    let out = &arguments.out;
    super::make_directory(out)?;
    let progress = Progress::on_stderr();
    progress.note("starting the cluster");
    let cluster = tokio::select! {
        cluster = arguments.cluster() => cluster?,
        () = interrupt.requested() => return Ok(EXIT_INTERRUPTED),
    };
    let cluster = match &arguments.redis_address {
        Some(address) => cluster.with_redis(address.clone()),
        None => cluster,
    };
    let report = runner::sweep(&cluster, &arguments.options(), &interrupt, &progress).await?;
    progress.finish();
    drop(cluster);
    if report.quorums.is_empty() {
        eprintln!("interrupted before anything was measured");
        return Ok(EXIT_INTERRUPTED);
    }
    print(&report::text(&report));
    for path in report::export_all(&report, out)? {
        print(&format!("wrote {}\n", path.display()));
    }
    for file in &arguments.print {
        print(&format!("\n{}", file.render(&report)?));
    }
    Ok(code(&report))
}

/// The gravest of what happened decides.
fn code(report: &SweepReport) -> u8 {
    let consistent = report.consistency.as_ref().is_none_or(|check| check.is_consistent());
    if report.failure.is_some() || !consistent {
        EXIT_FAILED
    } else if report.interrupted {
        EXIT_INTERRUPTED
    } else if report.deviation_check.as_ref().is_some_and(|check| !check.passed) {
        EXIT_DEVIATES
    } else {
        0
    }
}

pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}

fn value_size(text: &str) -> Result<usize, String> {
    match positive(text)? {
        size if size < VALUE_SIZE_BYTES_MIN => {
            Err(format!("values differ from each other, which takes {VALUE_SIZE_BYTES_MIN} bytes"))
        }
        size => Ok(size),
    }
}

pub(super) fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        Ok(_) => Err("must be a number of milliseconds, 0 or more".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::testing::{Behaviour, synthetic_report};

    fn parse(line: &str) -> Result<SweepArguments, String> {
        crate::cli::parse(line)
    }

    #[test]
    fn the_seed_s_experiment_can_be_varied() {
        assert_eq!(parse("").expect("valid").workload(), DEFAULT);
        assert_eq!(parse("--seed-experiment").expect("valid").workload(), SEED_EXPERIMENT);
        let varied = parse("--seed-experiment --writes 30 --value-size-bytes 64").expect("valid").workload();
        assert_eq!(varied, Workload { writes: 30, value_size_bytes: Some(64), ..SEED_EXPERIMENT });
        assert_eq!(parse("--concurrency 7").expect("valid").options().warmup_writes, 14);
    }

    #[test]
    fn the_local_cluster_gets_what_was_asked_for() {
        let line = "--follower-count 3 --min-delay-ms 20 --max-delay-ms 60 --delay-seed 9 --out results --quorums 3,1";
        let arguments = parse(line).expect("valid");
        let cluster = arguments.local_cluster().expect("possible");
        assert_eq!((cluster.followers, cluster.min_delay_ms, cluster.max_delay_ms), (3, 20, 60));
        assert_eq!((cluster.delay_seed, cluster.replication_timeout_ms), (Some(9), 5_060));
        assert_eq!(cluster.logs_directory, PathBuf::from("results/logs"));
        assert_eq!(arguments.options().quorums, Some(vec![3, 1]));
    }

    #[test]
    fn a_law_reaches_the_cluster_and_the_sweep() {
        let arguments = parse("--delay yammer").expect("valid");
        let cluster = arguments.local_cluster().expect("possible");
        assert_eq!(cluster.delay, Some(Arc::new(DelayLaw::preset("yammer"))));
        assert_eq!(cluster.replication_timeout_ms, 65_000, "no timeout of an hour");
        assert_eq!(arguments.options().delay, cluster.delay);
        let capped = parse("--delay {\"exponential\":{\"meanMs\":4},\"capMs\":99.5}").expect("valid");
        assert_eq!(capped.local_cluster().expect("possible").replication_timeout_ms, 5_100);
    }

    #[test]
    fn contradictions_are_refused_in_words_that_name_both_values() {
        let error =
            |line: &str| parse(line).expect("parses").local_cluster().expect_err("contradicts itself").to_string();
        assert_eq!(error("--min-delay-ms 300"), "minimum delay of 300 ms is above the maximum delay of 200 ms");
        assert_eq!(error("--quorums 1,6"), "write quorum 6 is not possible with 5 followers");
    }

    #[test]
    fn wrong_values_are_refused() {
        for (line, expected) in [
            ("--writes 0", "must be at least 1"),
            ("--quorums 0", "0 is not in 1.."),
            ("--value-size-bytes 5", "takes 24 bytes"),
            ("--leader ftp://example.org", "ftp:// is not spoken here"),
            ("--leader localhost:8000", "expected http://HOST:PORT"),
            ("--followers http://localhost:8001", "--leader"),
            ("--compose --leader http://localhost:8000", "cannot be used with"),
            ("--compose --follower-count 3", "cannot be used with"),
            ("--kube demo --compose", "cannot be used with"),
            ("--kube demo --leader http://localhost:8000", "cannot be used with"),
            ("--kube demo --delay-seed 3", "cannot be used with"),
            ("--namespace blue", "--kube"),
            ("--delay jammer", "nor one of linkedin-disk, yammer, wan-3-zones"),
            ("--delay {\"exponential\":{\"meanMs\":-4}}", "delay.exponential.meanMs is -4: it must be above 0"),
            ("--delay yammer --max-delay-ms 5", "cannot be used with"),
            ("--protocol etcd", "possible values: http, redis"),
            ("--print png", "possible values: svg, csv, json, md"),
            ("--leader http://localhost:8000 --delay-seed 3", "cannot be used with"),
            ("--max-deviation-ms -1", "0 or more"),
            ("--max-deviation-ms NaN", "0 or more"),
        ] {
            let error = parse(&line.replace("-ms -1", "-ms=-1")).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn the_gravest_outcome_decides_the_exit_code() {
        let mut report = synthetic_report(Behaviour::Slow, 5, 0, 200, 200);
        assert_eq!(code(&report), 0, "a finding is no failure unless a limit was set");
        report.settings.max_deviation_ms = Some(1.0);
        report.conclude(Vec::new());
        assert_eq!(code(&report), EXIT_DEVIATES);
        report.interrupted = true;
        assert_eq!(code(&report), EXIT_INTERRUPTED);
        report.consistency.as_mut().expect("checked").followers[2].mismatches = 1;
        assert_eq!(code(&report), EXIT_FAILED);
    }
}
