//! What a check comes to: counts, recovery times, verdict. `check.json` is this, field by field.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{
    CheckOptions,
    clients::Load,
    fill::FillReport,
    history::{Action, History, OperationOutcome},
    verdict::Verdict,
};
use crate::{commands::Protocol, stats::quantile};

/// Everything about a check but its history.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// When it began, RFC 3339, UTC.
    pub started_at: String,
    /// Version of kv-bench, and so of the nodes that it started.
    pub version: String,
    /// What was checked.
    pub target: String,
    /// What was asked for.
    pub settings: CheckSettings,
    /// Writes, over all their attempts.
    pub puts: PutCounts,
    /// Increments, over all their attempts.
    pub increments: IncrementCounts,
    /// Deletions, over all their attempts.
    pub deletes: DeleteCounts,
    /// Of all these, and of the reads below, those over Redis' protocol.
    pub over_redis: RedisCounts,
    /// Linearizable reads.
    pub gets: GetCounts,
    /// Reads of one follower.
    pub local_gets: GetCounts,
    /// What became of the keys written before the faults; absent without such keys, or when they could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fill: Option<FillReport>,
    /// By kind.
    pub faults: Vec<FaultSummary>,
    /// What the history says.
    pub verdict: Verdict,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
    /// What ended it before its time.
    pub failure: Option<String>,
}

/// The settings of a check, and how long it took.
#[derive(Clone, Debug, Serialize)]
pub struct CheckSettings {
    /// Number of followers, N.
    pub followers: u16,
    /// W.
    pub write_quorum: u16,
    /// Longest random wait before a send to a follower, in ms.
    pub max_delay_ms: u32,
    /// Kinds of faults that were allowed.
    pub faults: Vec<&'static str>,
    /// What clients did.
    pub load: Load,
    /// From the first operation to the last dump, in seconds.
    pub elapsed_s: f64,
    /// Rounds of faults that began.
    pub rounds: u32,
}

impl CheckSettings {
    /// As asked for, and as it came.
    pub fn new(options: &CheckOptions, elapsed: Duration, rounds: u32) -> Self {
        let CheckOptions { shape, load, max_delay_ms, .. } = options;
        Self {
            followers: shape.followers,
            write_quorum: shape.write_quorum,
            max_delay_ms: *max_delay_ms,
            faults: shape.kinds.iter().map(|kind| kind.name()).collect(),
            load: load.clone(),
            elapsed_s: elapsed.as_secs_f64(),
            rounds,
        }
    }
}

/// Writes by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PutCounts {
    /// Answered as committed.
    pub acknowledged: usize,
    /// Of those, after more than one attempt under one idempotency key.
    pub acknowledged_by_retry: usize,
    /// Of those, with a condition.
    pub acknowledged_with_condition: usize,
    /// Refused because their condition did not hold; also deletions of nothing, over Redis' protocol.
    pub unmet: usize,
    /// Refused before anything was assigned.
    pub not_applied: usize,
    /// They may have taken effect, may do so later, or never do.
    pub unknown: usize,
}

/// Increments by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IncrementCounts {
    /// Answered as committed.
    pub acknowledged: usize,
    /// Of those, after more than one attempt under one idempotency key.
    pub acknowledged_by_retry: usize,
    /// Refused before anything was assigned.
    pub not_applied: usize,
    /// They may have taken effect, may do so later, or never do.
    pub unknown: usize,
}

/// Deletions by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeleteCounts {
    /// Answered as committed.
    pub acknowledged: usize,
    /// Refused before anything was assigned.
    pub not_applied: usize,
    /// They may have taken effect, may do so later, or never do.
    pub unknown: usize,
}

/// What clients of Redis' protocol were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RedisCounts {
    /// Puts, increments and deletions.
    pub writes_acknowledged: usize,
    /// Linearizable reads.
    pub reads_answered: usize,
}

/// Reads by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GetCounts {
    /// They show something.
    pub answered: usize,
    /// They were refused or lost.
    pub failed: usize,
}

/// The faults of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultSummary {
    /// As on the command line.
    pub kind: String,
    /// How many there were.
    pub count: usize,
    /// From the last undoing in their round until the cluster was whole again, in ms: median and longest. Absent when it
    /// never was.
    pub recovery_median_ms: Option<f64>,
    /// The longest.
    pub recovery_max_ms: Option<f64>,
}

impl CheckReport {
    /// Counts what is in the history.
    pub fn new(
        started_at: String,
        target: String,
        settings: CheckSettings,
        history: &History,
        verdict: Verdict,
    ) -> Self {
        let count = |action: Action, outcome: OperationOutcome| {
            let operations = history.operations.iter();
            operations.filter(|operation| operation.action == action && operation.outcome == outcome).count()
        };
        let gets = |action: Action| GetCounts {
            answered: count(action, OperationOutcome::Answered),
            failed: count(action, OperationOutcome::Failed),
        };
        let acknowledged = |action: Action| {
            let operations = history.operations.iter();
            operations.filter(move |operation| operation.action == action && operation.is_answered())
        };
        let retried = |action: Action| acknowledged(action).filter(|operation| operation.attempts > 1).count();
        let with_condition = acknowledged(Action::Put).filter(|operation| operation.condition.is_some());
        let puts = PutCounts {
            acknowledged: count(Action::Put, OperationOutcome::Answered),
            acknowledged_by_retry: retried(Action::Put),
            acknowledged_with_condition: with_condition.count(),
            unmet: count(Action::Unmet, OperationOutcome::Answered),
            not_applied: count(Action::Put, OperationOutcome::NotApplied),
            unknown: count(Action::Put, OperationOutcome::Unknown),
        };
        let increments = IncrementCounts {
            acknowledged: count(Action::Increment, OperationOutcome::Answered),
            acknowledged_by_retry: retried(Action::Increment),
            not_applied: count(Action::Increment, OperationOutcome::NotApplied),
            unknown: count(Action::Increment, OperationOutcome::Unknown),
        };
        let deletes = DeleteCounts {
            acknowledged: count(Action::Delete, OperationOutcome::Answered),
            not_applied: count(Action::Delete, OperationOutcome::NotApplied),
            unknown: count(Action::Delete, OperationOutcome::Unknown),
        };
        let over_redis =
            |action: Action| acknowledged(action).filter(|operation| operation.protocol == Protocol::Redis).count();
        let over_redis = RedisCounts {
            writes_acknowledged: [Action::Put, Action::Increment, Action::Delete].map(over_redis).iter().sum(),
            reads_answered: over_redis(Action::Get),
        };
        Self {
            started_at,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            target,
            settings,
            puts,
            increments,
            deletes,
            over_redis,
            gets: gets(Action::Get),
            local_gets: gets(Action::LocalGet),
            fill: None,
            faults: fault_summaries(history),
            verdict,
            interrupted: false,
            failure: None,
        }
    }
}

fn fault_summaries(history: &History) -> Vec<FaultSummary> {
    let mut kinds: BTreeMap<&str, (usize, Vec<f64>)> = BTreeMap::new();
    for fault in &history.faults {
        let (count, recoveries_ms) = kinds.entry(fault.kind).or_default();
        *count += 1;
        recoveries_ms.extend(fault.recovered_us.map(|us| us as f64 / 1e3));
    }
    let summary = |(kind, (count, mut recoveries_ms)): (&str, (usize, Vec<f64>))| {
        recoveries_ms.sort_by(f64::total_cmp);
        FaultSummary {
            kind: kind.to_owned(),
            count,
            recovery_median_ms: (!recoveries_ms.is_empty()).then(|| quantile(&recoveries_ms, 0.5)),
            recovery_max_ms: recoveries_ms.last().copied(),
        }
    };
    kinds.into_iter().map(summary).collect()
}
