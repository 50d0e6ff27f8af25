//! For unit tests: synthetic measurements of systems whose behaviour is known because it is written down here.

use std::sync::Arc;

use kvcluster_api::delay::DelayLaw;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    sweep::{
        analysis::{QuorumReport, Theory, predicted},
        consistency::{ConsistencyReport, FollowerCheck},
        report::{SweepReport, SweepSettings, Versions},
        workload::{Run, Workload, WriteOutcome, WriteSample},
    },
    theory::QuorumDelay,
};

/// How a synthetic system answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// At the quorum's delay, 1-2 ms later.
    Sound,
    /// 30 ms after the quorum's delay, always.
    Slow,
    /// After every write before it that came at about the same time.
    Queues,
    /// Later and later, but never beyond the longest delay on average.
    PilesUp,
    /// When the slowest follower has confirmed.
    WaitsForAll,
    /// At once.
    WaitsForNone,
}

/// The reports of all quorums of a synthetic system; the same for the same arguments.
pub(crate) fn synthetic_quorums(
    behaviour: Behaviour,
    followers: u16,
    min_delay_ms: f64,
    max_delay_ms: f64,
    writes: usize,
) -> Vec<QuorumReport> {
    let mut random = StdRng::seed_from_u64(1);
    (1..=followers)
        .map(|write_quorum| {
            let samples = (0..writes)
                .map(|index| {
                    let mut delays: Vec<f64> =
                        (0..followers).map(|_| random.random_range(min_delay_ms..=max_delay_ms)).collect();
                    delays.sort_by(f64::total_cmp);
                    let quorum_delay_ms = delays[write_quorum as usize - 1];
                    let overhead_ms = random.random_range(1.0..2.0);
                    let progress = index as f64 / writes as f64;
                    let latency_ms = overhead_ms
                        + match behaviour {
                            Behaviour::Sound => quorum_delay_ms,
                            Behaviour::Slow => quorum_delay_ms + 30.0,
                            Behaviour::Queues => 3.0 * quorum_delay_ms + max_delay_ms,
                            Behaviour::PilesUp => quorum_delay_ms + 30.0 * progress,
                            Behaviour::WaitsForAll => delays[followers as usize - 1],
                            Behaviour::WaitsForNone => 0.0,
                        };
                    WriteSample {
                        sent_at_ms: index as f64,
                        latency_ms,
                        outcome: WriteOutcome::Committed,
                        // The programs that wait for all are those that do not explain themselves.
                        quorum_delay_ms: (behaviour != Behaviour::WaitsForAll).then_some(quorum_delay_ms),
                        write_quorum: Some(write_quorum),
                    }
                })
                .collect();
            let law = QuorumDelay::new(followers, write_quorum, min_delay_ms, max_delay_ms).expect("valid quorum");
            QuorumReport::new(
                write_quorum,
                &law,
                followers.into(),
                Run { samples, duration_ms: 1_000.0, ..Run::default() },
            )
        })
        .collect()
}

/// The same measurements beside the law of this preset.
pub(crate) fn with_law(mut report: SweepReport, preset: &str) -> SweepReport {
    report.settings.delay = Some(Arc::new(DelayLaw::preset(preset)));
    for quorum in &mut report.quorums {
        let law = report.settings.law(quorum.write_quorum).expect("valid quorum");
        quorum.theory = Theory::of(&law);
        let distribution = quorum.distribution.as_mut().expect("measured");
        distribution.predicted = predicted(&law, quorum.writes);
    }
    report
}

/// The settings of a sweep with uniform delays.
pub(crate) fn synthetic_settings(followers: u16, min_delay_ms: u32, max_delay_ms: u32, writes: usize) -> SweepSettings {
    SweepSettings {
        followers,
        min_delay_ms,
        max_delay_ms,
        delay: None,
        replication_timeout_ms: 5000,
        delay_seed: Some(42),
        quorums: (1..=followers).collect(),
        warmup_writes: 50,
        max_deviation_ms: None,
        workload: Workload { writes, concurrency: 32, keys: 10, value_size_bytes: None },
        protocol: crate::commands::Protocol::Http,
    }
}

/// A whole report of a synthetic system; the same for the same arguments.
pub(crate) fn synthetic_report(
    behaviour: Behaviour,
    followers: u16,
    min_delay_ms: u32,
    max_delay_ms: u32,
    writes: usize,
) -> SweepReport {
    let quorums = synthetic_quorums(behaviour, followers, min_delay_ms as f64, max_delay_ms as f64, writes);
    let check = |number| FollowerCheck {
        url: format!("http://127.0.0.1:{}", 8000 + number),
        keys: 10,
        leader_keys: 10,
        missing: 0,
        mismatches: 0,
        error: None,
    };
    let mut report = SweepReport {
        started_at: "2026-11-22T10:45:00Z".into(),
        versions: Versions { bench: "0.1.0".into(), node: "0.1.0".into() },
        target: "local processes".into(),
        settings: synthetic_settings(followers, min_delay_ms, max_delay_ms, writes),
        quorums,
        consistency: Some(ConsistencyReport {
            drained_after_ms: Some(180.0),
            not_drained: None,
            followers: (1..=followers).map(check).collect(),
        }),
        findings: Vec::new(),
        interrupted: false,
        failure: None,
        deviation_check: None,
    };
    report.conclude(Vec::new());
    report
}
