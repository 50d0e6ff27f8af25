//! `kv-bench check`: settings → cluster → faults and clients → verdict and files → exit code.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use rand::RngExt;

#[cfg(not(feature = "kubernetes"))]
use super::cluster::NO_KUBERNETES;
use super::{
    EXIT_FAILED, EXIT_VIOLATION,
    cluster::{ClusterArguments, Durability, LocalDefaults},
    load::above_zero,
};
#[cfg(feature = "kubernetes")]
use crate::check::kube::KubeTarget;
use crate::{
    check::{
        self, CheckOptions, Limit,
        clients::Load,
        faults::{FaultKind, Place},
        fill::Fill,
        local::LocalTarget,
        plan::Shape,
        summary::CheckReport,
        target::Breakable,
    },
    cluster::LocalClusterOptions,
    commands::Protocol,
    interrupt::{EXIT_INTERRUPTED, Interrupt},
    output::{WrongUsage, print},
    progress::Progress,
};

pub(super) const AFTER_HELP: &str = "\
Exit codes: 0 no violation; 1 failed, with the reason; 2 wrong usage; 3 a violation; 130 interrupted, with no
violation in what was seen. The history is kept in memory: about 1 GB in 5 hours at 200 operations a second.";

const DEFAULTS: LocalDefaults = LocalDefaults {
    write_quorum: 3,
    max_delay_ms: Some(20),
    replication_timeout_ms: Some(1_000),
    start_timeout: Duration::from_secs(60),
};
const DEFAULT_SECONDS: u64 = 60;
/// How long the cluster may take to be whole again after a round, in seconds; and of a KvCluster, whose pods have 30 s to
/// end, may wait for a volume, and come back more slowly with each restart.
const HEAL_TIMEOUT_S: u64 = 60;
const KUBE_HEAL_TIMEOUT_S: u64 = 300;
/// Clients wait this much longer than the leader waits for a quorum.
const CLIENT_MARGIN_MS: u32 = 500;

/// The settings of a check.
#[derive(Clone, Debug, Args)]
pub struct CheckArguments {
    #[command(flatten)]
    cluster: ClusterArguments,

    /// How long to break it, in seconds [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Faults")]
    seconds: Option<u64>,

    /// How many rounds of faults instead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "seconds",
        help_heading = "Faults")]
    rounds: Option<u32>,

    /// Kinds of faults, comma-separated [default: all that are possible with this cluster]
    #[arg(long, value_name = "KIND,…", value_enum, value_delimiter = ',', help_heading = "Faults")]
    faults: Vec<FaultKind>,

    /// How long the cluster may take to be whole again after a round, in seconds [default: 60, with --kube 300]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Faults")]
    heal_timeout_s: Option<u64>,

    /// Seed of the faults and of what clients do [default: drawn, and reported]
    #[arg(long, value_name = "SEED", help_heading = "Faults")]
    seed: Option<u64>,

    /// Clients, each with one operation under way
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000),
        help_heading = "Load")]
    clients: u32,

    /// Keys that they share
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000),
        help_heading = "Load")]
    keys: u32,

    /// Operations a second that they aim at, all together
    #[arg(long, value_name = "N", default_value_t = 200.0, value_parser = above_zero, help_heading = "Load")]
    rate: f64,

    /// How clients ask leaders, comma-separated: each takes its turn among the clients
    #[arg(
        long,
        value_name = "PROTOCOL,…",
        value_enum,
        value_delimiter = ',',
        default_value = "http,redis",
        help_heading = "Load"
    )]
    protocol: Vec<Protocol>,

    /// Further keys to write before the faults begin, each once, so that the state is large; all are read in the end
    #[arg(long, value_name = "KEYS", value_parser = clap::value_parser!(u32).range(1..=10_000_000), help_heading = "Load")]
    fill: Option<u32>,

    /// Size of the value of each of those keys, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(..=1 << 20),
        requires = "fill", help_heading = "Load")]
    fill_bytes: u32,

    /// Directory of the results, of the nodes' logs and of the followers' data
    #[arg(long, value_name = "DIRECTORY", default_value = "out", help_heading = "Results")]
    out: PathBuf,

    /// Files to print as well, after the report: where a log is all that stays
    #[arg(long, value_enum, value_name = "FILE,…", value_delimiter = ',', help_heading = "Results")]
    print: Vec<check::report::TextFile>,
}

impl CheckArguments {
    fn durability(&self) -> Durability {
        self.cluster.durability.unwrap_or(Durability::Disk)
    }

    fn local_options(&self) -> Result<CheckOptions> {
        let LocalClusterOptions { followers, write_quorum, max_delay_ms, replication_timeout_ms, .. } =
            self.cluster.local(&self.out, DEFAULTS)?;
        let shape = Shape::new(Place::Process, followers, write_quorum, self.durability() == Durability::Disk);
        self.options(shape, max_delay_ms, replication_timeout_ms, String::new())
    }

    #[cfg(feature = "kubernetes")]
    fn kube_options(&self, target: &KubeTarget) -> Result<CheckOptions> {
        let asked = target.asked();
        let run = format!("check-{:08x}-", rand::rng().random::<u32>());
        self.options(target.shape(), asked.max_delay_ms, asked.replication_timeout_ms, run)
    }

    fn options(&self, shape: Shape, max_delay_ms: u32, timeout_ms: u32, run: String) -> Result<CheckOptions> {
        let limit = match self.rounds {
            Some(rounds) => Limit::Rounds(rounds),
            None => Limit::Time(Duration::from_secs(self.seconds.unwrap_or(DEFAULT_SECONDS))),
        };
        let shape = shape.only(&self.faults).map_err(WrongUsage::error)?;
        let seed = self.seed.unwrap_or_else(|| rand::rng().random());
        let timeout_ms = timeout_ms + CLIENT_MARGIN_MS;
        let protocols = self.protocol.clone();
        let load = Load { clients: self.clients, keys: self.keys, rate: self.rate, protocols, timeout_ms, seed };
        let fill = self.fill.map(|keys| Fill { keys, value_bytes: self.fill_bytes as usize });
        Ok(CheckOptions { limit, shape, load, fill, run, max_delay_ms })
    }

    fn heal_timeout(&self) -> Duration {
        let default_s = if self.cluster.running.kube.is_some() { KUBE_HEAL_TIMEOUT_S } else { HEAL_TIMEOUT_S };
        Duration::from_secs(self.heal_timeout_s.unwrap_or(default_s))
    }

    #[cfg(feature = "kubernetes")]
    async fn kube_cluster(&self) -> Result<KubeTarget> {
        let (access, resource) = self.cluster.running.resource().await?;
        KubeTarget::reach(&access, resource, self.cluster.running.credentials()?, self.heal_timeout()).await
    }

    /// The cluster to start. Data of an earlier check goes: this one begins with followers that have nothing.
    fn local_cluster(&self) -> Result<LocalClusterOptions> {
        let data = self.out.join("data");
        super::remove_directory(&data)?;
        Ok(LocalClusterOptions {
            data_directory: (self.durability() == Durability::Disk).then_some(data),
            wired: true,
            ..self.cluster.local(&self.out, DEFAULTS)?
        })
    }

    /// # Errors
    /// [`WrongUsage`] when the cluster is one that this program can neither break nor repair.
    fn refuse_what_cannot_be_broken(&self) -> Result<()> {
        if self.cluster.running.leader.is_some() || self.cluster.running.compose {
            let why = "a check breaks a cluster that it starts, or the pods of a KvCluster (--kube)";
            return Err(WrongUsage::error(why));
        }
        self.cluster.refuse_delays_of_running()
    }
}

/// Runs the check; the value is the exit code.
pub(super) fn main(arguments: &CheckArguments) -> Result<u8> {
    super::run(run(arguments))
}

async fn run(arguments: &CheckArguments) -> Result<u8> {
    let interrupt = Interrupt::listen().context("failed to listen for signals")?;
    arguments.refuse_what_cannot_be_broken()?;
    let local = arguments.cluster.running.kube.is_none().then(|| arguments.local_options()).transpose()?;
    let out = &arguments.out;
    super::make_directory(out)?;
    let progress = Progress::on_stderr();
    progress.note("starting the cluster");
    if let Some(options) = local {
        let target = tokio::select! {
            target = LocalTarget::start(arguments.local_cluster()?, arguments.heal_timeout()) => target?,
            () = interrupt.requested() => return Ok(EXIT_INTERRUPTED),
        };
        return conclude(target, arguments, &options, &interrupt, &progress).await;
    }
    #[cfg(feature = "kubernetes")]
    {
        let target = tokio::select! {
            target = arguments.kube_cluster() => target?,
            () = interrupt.requested() => return Ok(EXIT_INTERRUPTED),
        };
        let options = arguments.kube_options(&target)?;
        conclude(target, arguments, &options, &interrupt, &progress).await
    }
    #[cfg(not(feature = "kubernetes"))]
    Err(WrongUsage::error(NO_KUBERNETES))
}

/// Breaks the cluster, judges what clients saw, and reports it.
async fn conclude(
    mut target: impl Breakable,
    arguments: &CheckArguments,
    options: &CheckOptions,
    interrupt: &Interrupt,
    progress: &Progress,
) -> Result<u8> {
    let (report, history) = check::run(&mut target, options, interrupt, progress).await?;
    drop(target);
    progress.finish();
    print(&check::report::text(&report));
    for path in check::report::export(&report, &history, &arguments.out)? {
        print(&format!("wrote {}\n", path.display()));
    }
    for file in &arguments.print {
        print(&file.render(&report, &history)?);
    }
    Ok(code(&report))
}

/// The gravest of what happened decides.
fn code(report: &CheckReport) -> u8 {
    if !report.verdict.violations.is_empty() {
        EXIT_VIOLATION
    } else if report.failure.is_some() {
        EXIT_FAILED
    } else if report.interrupted {
        EXIT_INTERRUPTED
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<CheckArguments, String> {
        crate::cli::parse(line)
    }

    #[test]
    fn what_is_not_asked_for_is_everything_that_can_be_done() {
        let options = |line: &str| parse(line).expect("valid").local_options().expect("possible");
        assert_eq!(options("").shape.kinds, Place::Process.kinds());
        assert_eq!(options("").limit, Limit::Time(Duration::from_secs(60)));
        assert!(!options("--write-quorum 1").shape.kinds.contains(&FaultKind::Wipe));
        assert!(!options("--durability memory").shape.kinds.contains(&FaultKind::All));
        let kill_loop = options("--faults all --rounds 50 --seed 7");
        assert_eq!((kill_loop.shape.kinds, kill_loop.limit), (vec![FaultKind::All], Limit::Rounds(50)));
        assert_eq!((kill_loop.load.seed, kill_loop.load.timeout_ms), (7, 1_500));
        assert_eq!(kill_loop.load.protocols, [Protocol::Http, Protocol::Redis]);
        assert_eq!(options("--protocol redis").load.protocols, [Protocol::Redis]);
    }

    #[test]
    fn contradictions_are_refused_in_words() {
        let error =
            |line: &str| parse(line).expect("parses").local_options().expect_err("contradicts itself").to_string();
        assert_eq!(error("--write-quorum 6"), "write quorum 6 is not possible with 5 followers");
        assert_eq!(
            error("--write-quorum 1 --faults kill,wipe"),
            "--faults wipe is not possible here: at a write quorum of 1 no disk may be lost"
        );
        for (line, expected) in [
            ("--seconds 5 --rounds 3", "cannot be used with"),
            ("--rounds 0", "0 is not in 1.."),
            ("--rate 0", "must be above 0"),
            ("--faults arson", "two-leaders"),
            ("--node-setting nothing", "expected NAME=VALUE"),
            ("--kube demo --write-quorum 3", "cannot be used with"),
            ("--kube demo --durability memory", "cannot be used with"),
            ("--namespace blue", "--kube"),
            ("--protocol etcd", "possible values: http, redis"),
            ("--print png", "possible values: json, svg, history"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
