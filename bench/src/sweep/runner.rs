//! The sweep: for each quorum set it live, see it in force, warm up, measure; then restore and compare the replicas.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use kvcluster_api::{
    config::{ConfigPatch, ConfigView, LiveConfig},
    delay::DelayLaw,
    status::{FollowerState, LeaderStatus},
};

use crate::{
    client::{ConfigChange, NodeClient},
    cluster::{RunningCluster, control::Control},
    commands::Protocol,
    interrupt::Interrupt,
    progress::Progress,
    sweep::{
        analysis::QuorumReport,
        consistency,
        findings::{Finding, FindingKind},
        progress::QuorumBar,
        report::{SweepReport, SweepSettings, Versions},
        workload::{self, FAILURES_MAX, Leader, Run, Workload},
    },
};

/// What a write or the draining may take beyond the replication timeout, which the leader keeps itself.
const GRACE: Duration = Duration::from_secs(10);

/// How long the slowest send of the last write may take after its commit. Laws without a cap have delays of an hour.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Clone, Debug)]
pub struct SweepOptions {
    /// Quorums in this order; all from 1 to N when absent.
    pub quorums: Option<Vec<u16>>,
    /// Shortest delay in ms; what is in force when absent.
    pub min_delay_ms: Option<u32>,
    /// Longest delay in ms; what is in force when absent.
    pub max_delay_ms: Option<u32>,
    /// The law of the delays, in place of the shortest and the longest; what is in force when all are absent.
    pub delay: Option<Arc<DelayLaw>>,
    /// What the clients do at each quorum.
    pub workload: Workload,
    /// How they write.
    pub protocol: Protocol,
    /// Writes before each measurement that are not part of it.
    pub warmup_writes: usize,
    /// Means farther than this from theory, beyond their interval, are a failure.
    pub max_deviation_ms: Option<f64>,
}

/// Sweeps over the quorums of `cluster`.
///
/// The settings that were in force are restored, also after an interruption or an error. An error after the first
/// measurement is part of the report ([`SweepReport::failure`]), so that what was measured is not lost.
///
/// # Errors
/// When nothing could be measured at all.
pub async fn sweep(
    cluster: &RunningCluster,
    options: &SweepOptions,
    interrupt: &Interrupt,
    progress: &Progress,
) -> Result<SweepReport> {
    let started_at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let http = cluster.credentials.http(options.workload.concurrency)?;
    let leader = NodeClient::new(http.clone(), &cluster.leader_url, cluster.credentials.auth_token.as_deref());
    let config = leader.config().await?;
    let status = leader.status().await?;
    let settings = settle(options, &config)?;
    check_followers(cluster, &config)?;
    let original = cluster.control.original(&config).await?;

    let mut quorums = Vec::new();
    let writer = match options.protocol {
        Protocol::Http => Leader::Http(&leader),
        Protocol::Redis => Leader::Redis(&cluster.leader_redis),
    };
    let measured = measure_all(&leader, writer, &cluster.control, &settings, interrupt, progress, &mut quorums).await;
    let restored = cluster.control.restore(&leader, original).await;
    let failure = match (measured, restored) {
        (Ok(()), Ok(())) => None,
        (Err(error), Ok(())) | (Ok(()), Err(error)) => Some(error),
        (Err(error), Err(not_restored)) => Some(error.context(format!("{not_restored:#}; and before that"))),
    };
    if let (Some(error), true) = (&failure, quorums.is_empty()) {
        bail!("{error:#}");
    }

    let consistency = if quorums.is_empty() || cluster.follower_urls.is_empty() {
        None
    } else {
        let followers: Vec<NodeClient> =
            cluster.follower_urls.iter().map(|url| NodeClient::new(http.clone(), url, None)).collect();
        let limit = write_timeout(&settings) + Duration::from_millis(settings.max_delay_ms.into()).min(DRAIN_MAX);
        progress.note("comparing the followers' data with the leader's");
        Some(consistency::check(&leader, &followers, limit).await)
    };
    let mut report = SweepReport {
        started_at,
        versions: Versions { bench: env!("CARGO_PKG_VERSION").to_owned(), node: status.version.clone() },
        target: match options.protocol {
            Protocol::Http => cluster.description.clone(),
            protocol => format!("{}, {}", cluster.description, protocol.words()),
        },
        settings,
        quorums,
        consistency,
        findings: Vec::new(),
        interrupted: interrupt.is_requested(),
        failure: failure.map(|error| format!("{error:#}")),
        deviation_check: None,
    };
    report.conclude(followers_missing(&status));
    Ok(report)
}

/// What the sweep does, from the options and the cluster's configuration.
fn settle(options: &SweepOptions, config: &ConfigView) -> Result<SweepSettings> {
    let SweepOptions { min_delay_ms, max_delay_ms, delay, .. } = options.clone();
    let wanted = ConfigPatch { min_delay_ms, max_delay_ms, delay, ..ConfigPatch::default() };
    let LiveConfig { followers, min_delay_ms, max_delay_ms, delay, replication_timeout_ms, .. } =
        wanted.applied_to(&config.in_force)?;
    if min_delay_ms > max_delay_ms {
        bail!("minimum delay of {min_delay_ms} ms is above the maximum delay of {max_delay_ms} ms");
    }
    let quorums = options.quorums.clone().unwrap_or_else(|| (1..=followers).collect());
    if let Some(impossible) = quorums.iter().find(|quorum| !(1..=followers).contains(quorum)) {
        bail!("write quorum {impossible} is not possible with {followers} followers");
    }
    Ok(SweepSettings {
        followers,
        min_delay_ms,
        max_delay_ms,
        delay,
        replication_timeout_ms,
        delay_seed: config.delay_seed,
        quorums,
        warmup_writes: options.warmup_writes,
        max_deviation_ms: options.max_deviation_ms,
        workload: options.workload,
        protocol: options.protocol,
    })
}

fn check_followers(cluster: &RunningCluster, config: &ConfigView) -> Result<()> {
    let given = cluster.follower_urls.len();
    if given != 0 && given != usize::from(config.in_force.followers) {
        bail!("{given} follower URLs were given, but the leader has {} followers", config.in_force.followers);
    }
    Ok(())
}

async fn measure_all(
    leader: &NodeClient,
    writer: Leader<'_>,
    control: &Control,
    settings: &SweepSettings,
    interrupt: &Interrupt,
    progress: &Progress,
    quorums: &mut Vec<QuorumReport>,
) -> Result<()> {
    for &write_quorum in &settings.quorums {
        let SweepSettings { min_delay_ms, max_delay_ms, delay, .. } = settings.clone();
        progress.note(&format!("setting write quorum {write_quorum}"));
        let change = ConfigChange { write_quorum, min_delay_ms, max_delay_ms, delay };
        tokio::select! {
            applied = control.apply(leader, change) => applied?,
            () = interrupt.requested() => return Ok(()),
        }
        warm_up(writer, settings, write_quorum, interrupt).await?;
        if interrupt.is_requested() {
            return Ok(());
        }
        let bar = QuorumBar::new(progress, write_quorum, settings.workload.writes);
        let label = format!("w{write_quorum}");
        let timeout = write_timeout(settings);
        let run =
            workload::run(writer, &settings.workload, &label, timeout, interrupt, |sample| bar.write(sample)).await;
        let law = settings.law(write_quorum).context("failed to compute the theory of this quorum")?;
        if !run.samples.is_empty() {
            let report = QuorumReport::new(write_quorum, &law, settings.quorums.len(), run);
            bar.finish(&report);
            quorums.push(report);
        }
        if interrupt.is_requested() {
            return Ok(());
        }
    }
    Ok(())
}

/// Opens the clients' connections and lets the nodes reach their pace.
async fn warm_up(writer: Leader<'_>, settings: &SweepSettings, write_quorum: u16, interrupt: &Interrupt) -> Result<()> {
    let workload = Workload { writes: settings.warmup_writes, ..settings.workload };
    let label = format!("warm{write_quorum}");
    let run: Run = workload::run(writer, &workload, &label, write_timeout(settings), interrupt, |_| {}).await;
    let failed = run.samples.iter().filter(|sample| sample.outcome != workload::WriteOutcome::Committed).count();
    if failed >= FAILURES_MAX.min(run.samples.len().max(1)) {
        let first = run.first_failure.unwrap_or_default();
        bail!("failed to warm up at write quorum {write_quorum}: {failed} writes failed, the first with: {first}");
    }
    Ok(())
}

fn write_timeout(settings: &SweepSettings) -> Duration {
    Duration::from_millis(settings.replication_timeout_ms.into()) + GRACE
}

/// With followers down the theory for N of them does not apply, and the reader should know.
fn followers_missing(status: &LeaderStatus) -> Vec<Finding> {
    let members: Vec<_> = status.followers.iter().filter(|follower| follower.member).collect();
    let missing: Vec<&str> = members
        .iter()
        .filter(|follower| follower.state != FollowerState::Streaming)
        .map(|follower| follower.name.as_str())
        .collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let text = format!(
        "{} of {} followers did not take part when the sweep began ({}): a quorum is reached later than theory for {} says",
        missing.len(),
        members.len(),
        missing.join(", "),
        members.len()
    );
    vec![Finding { kind: FindingKind::FollowersMissing, text }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Credentials;

    fn config() -> ConfigView {
        serde_json::from_value(serde_json::json!({"generation": 7, "write_quorum": 2, "followers": 5,
            "min_delay_ms": 20, "max_delay_ms": 60, "replication_timeout_ms": 4000, "delay_seed": 11}))
        .expect("as the node writes it")
    }

    fn options() -> SweepOptions {
        let workload = Workload { writes: 10, concurrency: 2, keys: 3, value_size_bytes: None };
        SweepOptions {
            quorums: None,
            min_delay_ms: None,
            max_delay_ms: None,
            delay: None,
            workload,
            protocol: Protocol::Http,
            warmup_writes: 4,
            max_deviation_ms: None,
        }
    }

    #[test]
    fn what_is_not_asked_for_comes_from_the_cluster() {
        let settings = settle(&options(), &config()).expect("possible");
        assert_eq!(settings.quorums, [1, 2, 3, 4, 5]);
        assert_eq!((settings.min_delay_ms, settings.max_delay_ms, settings.delay_seed), (20, 60, Some(11)));
        assert_eq!(write_timeout(&settings), Duration::from_secs(14));
    }

    #[test]
    fn a_law_is_taken_from_the_options_or_from_the_cluster() {
        let yammer = Some(Arc::new(DelayLaw::preset("yammer")));
        let settings = settle(&SweepOptions { delay: yammer.clone(), ..options() }, &config()).expect("possible");
        assert_eq!((settings.delay.clone(), settings.min_delay_ms), (yammer.clone(), 0));
        assert!((settings.law(5).expect("a quorum").quantile_ms(0.5) - 6.5).abs() < 0.1);
        let mut running = config();
        running.in_force.set_delay(&DelayLaw::preset("yammer")).expect("a law");
        assert_eq!(settle(&options(), &running).expect("possible").delay, yammer);
        let bounds = SweepOptions { min_delay_ms: Some(3), max_delay_ms: Some(9), ..options() };
        let settings = settle(&bounds, &running).expect("possible");
        assert_eq!((settings.delay, settings.min_delay_ms, settings.max_delay_ms), (None, 3, 9));
    }

    #[test]
    fn contradictions_name_both_values() {
        let error = settle(&SweepOptions { quorums: Some(vec![1, 7]), ..options() }, &config()).expect_err("7 of 5");
        assert_eq!(error.to_string(), "write quorum 7 is not possible with 5 followers");
        let error = settle(&SweepOptions { min_delay_ms: Some(90), ..options() }, &config()).expect_err("90 above 60");
        assert_eq!(error.to_string(), "minimum delay of 90 ms is above the maximum delay of 60 ms");
        let cluster =
            RunningCluster::new("test", "http://leader".into(), vec!["http://follower".into()], Credentials::default());
        let error = check_followers(&cluster, &config()).expect_err("1 of 5");
        assert_eq!(error.to_string(), "1 follower URLs were given, but the leader has 5 followers");
    }
}
