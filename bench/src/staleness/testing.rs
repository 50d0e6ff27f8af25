//! For unit tests: synthetic reads of systems whose behaviour is known because it is written down here.

use std::sync::Arc;

use kvcluster_api::delay::{DelayLaw, Delays};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    staleness::{
        analysis::QuorumReport,
        probe::{Observation, Run, Workload},
        report::{LawReport, LawSettings, StalenessReport, StalenessSettings, Versions},
    },
    theory::{StaleReads, StaleTable},
};

/// How a synthetic system answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// A follower has a write when its delay is over.
    Sound,
    /// It has it 10 ms later.
    AppliesLate,
    /// A write is acknowledged when the slowest follower has it.
    WaitsForAll,
}

const MAX_DELAY_MS: f64 = 100.0;

/// The reports of all quorums of a synthetic system with delays of 0-100 ms; the same for the same arguments.
pub(crate) fn synthetic_quorums(
    behaviour: Behaviour,
    followers: u16,
    times_ms: &[f64],
    writes: usize,
) -> Vec<QuorumReport> {
    let mut random = StdRng::seed_from_u64(3);
    let table = table(followers);
    (1..=followers)
        .map(|write_quorum| {
            let mut observations = vec![Vec::new(); times_ms.len()];
            for _ in 0..writes {
                let delays: Vec<f64> = (0..followers).map(|_| random.random_range(0.0..MAX_DELAY_MS)).collect();
                let mut sorted = delays.clone();
                sorted.sort_by(f64::total_cmp);
                let quorum_delay_ms = sorted[usize::from(write_quorum) - 1];
                for (observations, time_ms) in observations.iter_mut().zip(times_ms) {
                    let delay_ms = delays[random.random_range(0..delays.len())];
                    let elapsed_ms = time_ms + random.random_range(0.0..0.5);
                    let is_stale = match behaviour {
                        Behaviour::Sound => delay_ms > quorum_delay_ms + elapsed_ms,
                        Behaviour::AppliesLate => delay_ms + 10.0 > quorum_delay_ms + elapsed_ms,
                        Behaviour::WaitsForAll => false,
                    };
                    let (shortest_ms, longest_ms) = (*time_ms, time_ms + 0.5);
                    let late = |ms: f64| {
                        let late = delays.iter().filter(|delay_ms| **delay_ms > quorum_delay_ms + ms);
                        late.count() as f64 / delays.len() as f64
                    };
                    let drawn = Some((late(longest_ms), late(shortest_ms)));
                    observations.push(Observation { elapsed_ms: (shortest_ms, longest_ms), is_stale, drawn });
                }
            }
            let run = Run { observations, acknowledged: writes, ..Run::default() };
            QuorumReport::new(write_quorum, times_ms, &table, usize::from(followers) * times_ms.len(), run)
        })
        .collect()
}

fn table(followers: u16) -> StaleTable {
    StaleReads::new(&Delays::uniform(0.0, MAX_DELAY_MS), followers).table(MAX_DELAY_MS)
}

/// A whole report of a synthetic system with two laws; the same for the same arguments.
pub(crate) fn synthetic_report(behaviour: Behaviour, followers: u16, writes: usize) -> StalenessReport {
    let times_ms: Vec<f64> = (0..20).map(|number| f64::from(number) * 5.0).collect();
    let law = |delay: Option<Arc<DelayLaw>>| LawReport {
        settings: LawSettings { min_delay_ms: 0, max_delay_ms: 100, delay, times_ms: times_ms.clone() },
        theory: table(followers).rows().to_vec(),
        quorums: synthetic_quorums(behaviour, followers, &times_ms, writes),
    };
    let mut report = StalenessReport {
        started_at: "2026-11-22T10:45:00Z".into(),
        versions: Versions { bench: "0.1.0".into(), node: "0.1.0".into() },
        target: "local processes".into(),
        settings: StalenessSettings {
            followers,
            delay_seed: Some(42),
            quorums: (1..=followers).collect(),
            workload: Workload { writes, concurrency: 32, seed: 1 },
        },
        laws: vec![law(None), law(Some(Arc::new(DelayLaw::preset("yammer"))))],
        findings: Vec::new(),
        interrupted: false,
        failure: None,
    };
    report.conclude();
    report
}
