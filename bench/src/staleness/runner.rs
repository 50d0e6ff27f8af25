//! The measurement: for each law and quorum set them live, see them in force, write and read; then restore.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Result, bail};
use kvcluster_api::{
    config::{ConfigPatch, ConfigView, LiveConfig},
    delay::DelayLaw,
};

use crate::{
    client::{ConfigChange, NodeClient},
    cluster::{RunningCluster, control::Control},
    interrupt::Interrupt,
    output::WrongUsage,
    progress::Progress,
    staleness::{
        analysis::QuorumReport,
        probe::{self, Nodes, Workload},
        report::{LawReport, LawSettings, StalenessReport, StalenessSettings, Versions},
    },
    theory::{self, StaleReads},
};

/// How many times are measured where none are given.
pub const TIMES: u32 = 20;

/// The latest time that is measured where none is given. Some laws have delays of an hour.
const LATEST_MS: f64 = 10_000.0;

/// What a request may take beyond the replication timeout, which the leader keeps itself.
const GRACE: Duration = Duration::from_secs(10);

/// Theory is looked up so far beyond the latest time, for reads that take long.
const BEYOND: f64 = 2.0;

/// What to measure.
#[derive(Clone, Debug)]
pub struct StalenessOptions {
    /// The laws of the delays, one after the other; what is in force, with the bounds below, when there is none.
    pub laws: Vec<Arc<DelayLaw>>,
    /// Shortest delay in ms; what is in force when absent.
    pub min_delay_ms: Option<u32>,
    /// Longest delay in ms; what is in force when absent.
    pub max_delay_ms: Option<u32>,
    /// Quorums in this order; all from 1 to N when absent.
    pub quorums: Option<Vec<u16>>,
    /// Times after the acknowledgement at which to read, in ms; chosen for each law when absent.
    pub times_ms: Option<Vec<f64>>,
    /// What the clients do at each quorum.
    pub workload: Workload,
}

/// Measures `cluster`, whose followers must be known.
///
/// The settings that were in force are restored, also after an interruption or an error. An error after the first
/// measurement is part of the report ([`StalenessReport::failure`]), so that what was measured is not lost.
///
/// # Errors
/// When nothing could be measured at all.
pub async fn measure(
    cluster: &RunningCluster,
    options: &StalenessOptions,
    interrupt: &Interrupt,
    progress: &Progress,
) -> Result<StalenessReport> {
    let started_at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let http = cluster.credentials.http(options.workload.concurrency * TIMES as usize)?;
    let leader = NodeClient::new(http.clone(), &cluster.leader_url, cluster.credentials.auth_token.as_deref());
    let (config, status) = (leader.config().await?, leader.status().await?);
    let (settings, plan) = settle(options, &config)?;
    let (given, followers) = (cluster.follower_urls.len(), settings.followers);
    if given != usize::from(followers) {
        return Err(WrongUsage::error(format!(
            "the leader has {followers} followers and {given} of their addresses are known: reads go to all of them, \
             so give --followers"
        )));
    }
    let original = cluster.control.original(&config).await?;
    let nodes = Nodes {
        followers: cluster.follower_urls.iter().map(|url| NodeClient::new(http.clone(), url, None)).collect(),
        timeout: Duration::from_millis(config.in_force.replication_timeout_ms.into()) + GRACE,
        leader: leader.clone(),
    };
    let mut laws = Vec::new();
    let measured = measure_all(&nodes, &cluster.control, &settings, plan, interrupt, progress, &mut laws).await;
    let restored = cluster.control.restore(&leader, original).await;
    let failure = match (measured, restored) {
        (Ok(()), Ok(())) => None,
        (Err(error), Ok(())) | (Ok(()), Err(error)) => Some(error),
        (Err(error), Err(not_restored)) => Some(error.context(format!("{not_restored:#}; and before that"))),
    };
    laws.retain(|law| !law.quorums.is_empty());
    if let (Some(error), true) = (&failure, laws.is_empty()) {
        bail!("{error:#}");
    }
    let mut report = StalenessReport {
        started_at,
        versions: Versions { bench: env!("CARGO_PKG_VERSION").to_owned(), node: status.version },
        target: cluster.description.clone(),
        settings,
        laws,
        findings: Vec::new(),
        interrupted: interrupt.is_requested(),
        failure: failure.map(|error| format!("{error:#}")),
    };
    report.conclude();
    Ok(report)
}

/// A law to measure with what theory says of it.
#[derive(Debug)]
struct Planned {
    settings: LawSettings,
    reads: StaleReads,
}

/// What the measurement does, from the options and the cluster's configuration.
fn settle(options: &StalenessOptions, config: &ConfigView) -> Result<(StalenessSettings, Vec<Planned>)> {
    let StalenessOptions { min_delay_ms, max_delay_ms, .. } = *options;
    let bounds = ConfigPatch { min_delay_ms, max_delay_ms, ..ConfigPatch::default() };
    let of_law = |law: &Arc<DelayLaw>| ConfigPatch { delay: Some(law.clone()), ..ConfigPatch::default() };
    let patches =
        if options.laws.is_empty() { vec![bounds] } else { options.laws.iter().map(of_law).collect::<Vec<_>>() };
    let followers = config.in_force.followers;
    let quorums = options.quorums.clone().unwrap_or_else(|| (1..=followers).collect());
    if let Some(impossible) = quorums.iter().find(|quorum| !(1..=followers).contains(quorum)) {
        return Err(WrongUsage::error(format!("write quorum {impossible} is not possible with {followers} followers")));
    }
    let mut plan = Vec::new();
    for patch in patches {
        let law = patch.applied_to(&config.in_force)?;
        law.check()?;
        let reads = StaleReads::new(&law.delays(), followers);
        let times_ms = options.times_ms.clone().unwrap_or_else(|| telling_times_ms(&reads));
        let LiveConfig { min_delay_ms, max_delay_ms, delay, .. } = law;
        plan.push(Planned { settings: LawSettings { min_delay_ms, max_delay_ms, delay, times_ms }, reads });
    }
    let settings = StalenessSettings { followers, delay_seed: config.delay_seed, quorums, workload: options.workload };
    Ok((settings, plan))
}

/// Times at which the chance at W = 1 has fallen to shares of its first value that get closer towards 0. Where no read is
/// stale in theory: every millisecond.
fn telling_times_ms(reads: &StaleReads) -> Vec<f64> {
    let table = reads.table(LATEST_MS);
    let first = table.probability(1, 0.0);
    let share = |number: u32| (1.0 - f64::from(number) / f64::from(TIMES)).powf(1.5);
    // Tenths of a millisecond are the most that a reader wants to see.
    let rounded = |ms: f64| (ms * 10.0).round() / 10.0;
    let mut times_ms: Vec<f64> = Vec::new();
    for number in 0..TIMES {
        let ms = if first > 0.0 { rounded(table.first_at_most(1, first * share(number))) } else { number.into() };
        times_ms.push(times_ms.last().map_or(ms, |last| ms.max(rounded(last + 0.1))));
    }
    times_ms
}

async fn measure_all(
    nodes: &Nodes,
    control: &Control,
    settings: &StalenessSettings,
    plan: Vec<Planned>,
    interrupt: &Interrupt,
    progress: &Progress,
    laws: &mut Vec<LawReport>,
) -> Result<()> {
    let cells = plan.iter().map(|law| law.settings.times_ms.len()).sum::<usize>() * settings.quorums.len();
    for Planned { settings: law, reads } in plan {
        let name = theory::delays_name(law.delay.as_deref(), law.min_delay_ms, law.max_delay_ms);
        let latest_ms = law.times_ms.iter().copied().fold(0.0, f64::max);
        let table = reads.table(latest_ms * BEYOND + 100.0);
        let theory = table.rows().iter().filter(|(ms, _)| *ms <= latest_ms).cloned().collect();
        let measured = LawReport { settings: law.clone(), theory, quorums: Vec::new() };
        laws.push(measured);
        for &write_quorum in &settings.quorums {
            progress.note(&format!("delays {name}: setting write quorum {write_quorum}"));
            let LawSettings { min_delay_ms, max_delay_ms, delay, .. } = law.clone();
            let change = ConfigChange { write_quorum, min_delay_ms, max_delay_ms, delay };
            tokio::select! {
                applied = control.apply(&nodes.leader, change) => applied?,
                () = interrupt.requested() => return Ok(()),
            }
            progress.note(&format!("delays {name}: measuring write quorum {write_quorum}"));
            let bar = progress.bar(settings.workload.writes as u64);
            let run =
                probe::run(nodes, &settings.workload, &law.times_ms, write_quorum, interrupt, || bar.inc(1)).await;
            bar.finish_and_clear();
            let given_up = run.failed_writes + run.failed_reads >= probe::FAILURES_MAX;
            let why = run.first_failure.clone().unwrap_or_default();
            if run.acknowledged > 0
                && let Some(law) = laws.last_mut()
            {
                law.quorums.push(QuorumReport::new(write_quorum, &law.settings.times_ms, &table, cells, run));
            }
            if given_up {
                bail!(
                    "failed to measure write quorum {write_quorum}: {} requests failed, the first with: {why}",
                    probe::FAILURES_MAX
                );
            }
            if interrupt.is_requested() {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ConfigView {
        serde_json::from_value(serde_json::json!({"generation": 7, "write_quorum": 2, "followers": 5,
            "min_delay_ms": 20, "max_delay_ms": 60, "replication_timeout_ms": 4000, "delay_seed": 11}))
        .expect("as the node writes it")
    }

    fn options() -> StalenessOptions {
        StalenessOptions {
            laws: Vec::new(),
            min_delay_ms: None,
            max_delay_ms: None,
            quorums: None,
            times_ms: None,
            workload: Workload { writes: 10, concurrency: 2, seed: 1 },
        }
    }

    #[test]
    fn what_is_not_asked_for_comes_from_the_cluster() {
        let (settings, plan) = settle(&options(), &config()).expect("possible");
        assert_eq!((settings.quorums, settings.delay_seed), (vec![1, 2, 3, 4, 5], Some(11)));
        assert_eq!(plan.len(), 1);
        assert_eq!((plan[0].settings.min_delay_ms, plan[0].settings.max_delay_ms), (20, 60));
        let two = vec![Arc::new(DelayLaw::preset("yammer")), Arc::new(DelayLaw::uniform(0, 9))];
        let (_, plan) = settle(&StalenessOptions { laws: two, ..options() }, &config()).expect("possible");
        assert_eq!(plan[0].settings.delay, Some(Arc::new(DelayLaw::preset("yammer"))));
        assert_eq!((plan[1].settings.delay.clone(), plan[1].settings.max_delay_ms), (None, 9));
    }

    #[test]
    fn contradictions_name_both_values() {
        let refused = |options| settle(&options, &config()).expect_err("contradicts").to_string();
        let error = refused(StalenessOptions { quorums: Some(vec![1, 7]), ..options() });
        assert_eq!(error, "write quorum 7 is not possible with 5 followers");
        let error = refused(StalenessOptions { min_delay_ms: Some(90), ..options() });
        assert_eq!(error, "the minimum delay (90 ms) is above the maximum delay (60 ms)");
    }

    #[test]
    fn times_are_where_the_chance_falls() {
        for law in [DelayLaw::uniform(0, 200), DelayLaw::preset("yammer"), DelayLaw::preset("wan-3-zones")] {
            let reads = StaleReads::new(&law.resolve().expect("a law"), 5);
            let times_ms = telling_times_ms(&reads);
            assert_eq!((times_ms.len(), times_ms[0]), (TIMES as usize, 0.0), "{law:?}");
            assert!(times_ms.windows(2).all(|pair| pair[0] < pair[1]), "{law:?}: {times_ms:?}");
            let last = reads.probability(1, *times_ms.last().expect("twenty"));
            assert!(last < 0.02 && last > 0.0, "{law:?}: {times_ms:?}, {last}");
        }
        let reads = StaleReads::new(&DelayLaw::uniform(5, 5).resolve().expect("a law"), 5);
        assert_eq!(telling_times_ms(&reads)[..3], [0.0, 1.0, 2.0]);
    }
}
