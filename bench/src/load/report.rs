//! What a run of the load found, for people and programs.

mod files;
mod text;

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::{Counter, Histogram};
use serde::Serialize;

pub(crate) use self::text::align;
pub use self::{files::export_all, text::text};
use super::{
    LoadOptions, LoadTarget, Pace,
    cpu::ProcessorTime,
    protocol::RequestOutcome,
    recorder::{KindRecord, Recorder, Second},
};
use crate::load::footprint::Footprint;

/// One step of a histogram of ns, and of one of µs, in ms.
const NS_MS: f64 = 1e-6;
pub(super) const US_MS: f64 = 1e-3;

/// Everything about a run; `load.json` is this, field by field.
#[derive(Clone, Debug, Serialize)]
pub struct LoadReport {
    /// When it began, RFC 3339, UTC.
    pub started_at: String,
    /// Version of kv-bench.
    pub bench_version: String,
    /// What was under load.
    pub target: String,
    /// What was asked for.
    pub settings: LoadOptions,
    /// How long was measured, in ms: less than asked for when interrupted.
    pub measured_ms: f64,
    /// The writes of every key before that, where there were any.
    pub fill: Option<FillReport>,
    /// The writes, where there were any.
    pub puts: Option<KindReport>,
    /// The reads, where there were any.
    pub gets: Option<KindReport>,
    /// Processor time for each operation, where the processes run on this machine.
    pub cpu: Option<CpuReport>,
    /// What the nodes occupied, where they run on this machine.
    pub footprint: Option<FootprintReport>,
    /// How late this machine woke a thread of the load that slept, again and again, while the measurement went on: every
    /// hop of a write from one process to the next waits at least as long.
    pub machine: Option<Latencies>,
    /// Second by second.
    pub seconds: Vec<SecondReport>,
    /// What the first operation without success met.
    pub first_failure: Option<String>,
    /// Operations of an open loop that were due and that no client became free for.
    pub unsent: u64,
    /// The longest time by which an operation of an open loop was sent late, in ms.
    pub late_ms_max: f64,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
    /// Numbers of keys of which a write was acknowledged, warm-up included: of the first ten thousand.
    #[serde(skip)]
    pub acknowledged: Vec<u64>,
}

/// All operations of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct KindReport {
    /// Done in the measured time, for each of its seconds.
    pub per_second: f64,
    /// How those ended that were due in the measured time; none is left out.
    pub outcomes: BTreeMap<RequestOutcome, u64>,
    /// How many errors began with which word; empty in protocols whose errors have no such words.
    pub errors: BTreeMap<String, u64>,
    /// From sending to the last answer of a pipeline, of those that were done entirely.
    pub service: Option<Latencies>,
    /// From when it was due to the last answer: what a user of a system at this rate sees. Open loop alone.
    pub response: Option<Latencies>,
    /// Service time beyond the delay that the quorum had to wait for, of writes whose leader said what it drew: what the
    /// system takes itself.
    pub service_overhead: Option<Latencies>,
    /// Response time beyond that delay. Open loop alone.
    pub response_overhead: Option<Latencies>,
}

/// Every key was written once.
#[derive(Clone, Debug, Serialize)]
pub struct FillReport {
    /// Writes for each second that it took.
    pub per_second: f64,
    /// From sending to the whole answer.
    pub latency: Option<Latencies>,
    /// Second by second.
    pub seconds: Vec<SecondReport>,
}

/// A distribution of latencies, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latencies {
    /// How many.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 90 % are at or below.
    pub p90_ms: f64,
    /// 99 % are at or below.
    pub p99_ms: f64,
    /// 99.9 % are at or below.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Latencies {
    /// `None` of nothing; `unit_ms` is what one step of the histogram means.
    pub(super) fn of<C: Counter>(histogram: &Histogram<C>, unit_ms: f64) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 * unit_ms;
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            mean_ms: histogram.mean() * unit_ms,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 * unit_ms,
        })
    }
}

/// Processor time for each operation that was done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CpuReport {
    /// Of the leader.
    pub leader: Option<ProcessorTime>,
    /// Of all followers together.
    pub followers: Option<ProcessorTime>,
    /// Of the load itself.
    pub load: ProcessorTime,
}

/// What the nodes occupied.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FootprintReport {
    /// Before the first write.
    pub at_first: Footprint,
    /// When the measurement began, with every key written once where that was asked for.
    pub at_begin: Footprint,
    /// When it ended.
    pub at_end: Footprint,
    /// The most that was seen of each, once a second.
    pub largest: Footprint,
}

impl FootprintReport {
    /// `None` where nothing could be looked at.
    pub(super) fn of(at_first: Footprint, since: &[Footprint]) -> Option<Self> {
        at_first.leader_bytes?;
        let (at_begin, at_end) = (*since.first()?, *since.last()?);
        let largest = since.iter().copied().reduce(Footprint::max)?;
        Some(Self { at_first, at_begin, at_end, largest })
    }
}

/// What was answered in one second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SecondReport {
    /// When it began, in s since the measurement did.
    pub at_s: usize,
    /// Writes done.
    pub puts: u64,
    /// Reads done.
    pub gets: u64,
    /// Operations that failed.
    pub failures: u64,
    /// Latencies of what was done, counted from when it was due.
    pub latency: Option<Latencies>,
    /// The same beyond the delays of the writes' quorums, where those are known.
    pub overhead: Option<Latencies>,
    /// What the nodes occupied at its end.
    pub footprint: Option<Footprint>,
}

impl LoadReport {
    pub(super) fn new(
        started_at: String,
        target: &LoadTarget,
        options: &LoadOptions,
        measured: Duration,
        recorder: Recorder,
        interrupted: bool,
    ) -> Self {
        let Recorder { puts, gets, seconds, first_failure, acknowledged, unsent, late_ns_max, .. } = recorder;
        let is_open_loop = matches!(options.pace, Pace::Open { .. });
        Self {
            started_at,
            bench_version: env!("CARGO_PKG_VERSION").to_owned(),
            target: target.description.clone(),
            settings: options.clone(),
            measured_ms: measured.as_secs_f64() * 1e3,
            fill: None,
            puts: KindReport::of(&puts, measured, is_open_loop),
            gets: KindReport::of(&gets, measured, is_open_loop),
            cpu: None,
            footprint: None,
            machine: None,
            seconds: SecondReport::all(&seconds, measured),
            first_failure,
            unsent,
            late_ms_max: late_ns_max as f64 / 1e6,
            interrupted,
            acknowledged: (0..).zip(acknowledged).filter_map(|(key, is_there)| is_there.then_some(key)).collect(),
        }
    }

    /// Puts and gets done in each second of the measured time.
    pub fn per_second(&self) -> f64 {
        [&self.puts, &self.gets].into_iter().flatten().map(|kind| kind.per_second).sum()
    }

    /// One line on what was asked for.
    pub fn settings_line(&self) -> String {
        text::settings_line(&self.settings)
    }

    /// How many failed, puts and gets together.
    pub fn failures(&self) -> u64 {
        [&self.puts, &self.gets].into_iter().flatten().map(KindReport::failures).sum()
    }

    /// How many operations ended so, puts and gets together.
    pub fn count(&self, outcome: RequestOutcome) -> u64 {
        [&self.puts, &self.gets].into_iter().flatten().filter_map(|kind| kind.outcomes.get(&outcome)).sum()
    }
}

impl KindReport {
    fn of(record: &KindRecord, measured: Duration, is_open_loop: bool) -> Option<Self> {
        let outcomes: BTreeMap<RequestOutcome, u64> =
            RequestOutcome::ALL.into_iter().map(|outcome| (outcome, record.outcomes[outcome as usize])).collect();
        let any = record.done_within > 0 || outcomes.values().any(|count| *count > 0);
        any.then(|| Self {
            per_second: record.done_within as f64 / measured.as_secs_f64(),
            outcomes,
            errors: record.errors.clone(),
            service: Latencies::of(&record.service_ns, NS_MS),
            response: is_open_loop.then(|| Latencies::of(&record.response_ns, NS_MS)).flatten(),
            service_overhead: Latencies::of(&record.service_overhead_ns, NS_MS),
            response_overhead: Latencies::of(&record.response_overhead_ns, NS_MS),
        })
    }

    /// How many failed.
    pub fn failures(&self) -> u64 {
        let is_failure = |outcome: RequestOutcome| !matches!(outcome, RequestOutcome::Ok | RequestOutcome::NotFound);
        self.outcomes.iter().filter(|(outcome, _)| is_failure(**outcome)).map(|(_, count)| count).sum()
    }
}

impl FillReport {
    /// `footprints` are of the end of each second.
    pub(super) fn new(took: Duration, recorder: &Recorder, footprints: &[Footprint]) -> Self {
        let mut seconds = SecondReport::all(&recorder.seconds, took);
        SecondReport::note_footprints(&mut seconds, footprints);
        Self {
            per_second: recorder.puts.done_within as f64 / took.as_secs_f64(),
            latency: Latencies::of(&recorder.puts.service_ns, NS_MS),
            seconds,
        }
    }
}

impl SecondReport {
    /// Those that were measured; the last one of an interrupted run is no whole one.
    fn all(seconds: &[Second], measured: Duration) -> Vec<Self> {
        seconds.iter().take(measured.as_secs_f64().ceil() as usize).enumerate().map(Self::of).collect()
    }

    /// `footprints` are of the end of each second.
    pub(super) fn note_footprints(seconds: &mut [Self], footprints: &[Footprint]) {
        seconds.iter_mut().zip(footprints).for_each(|(second, footprint)| second.footprint = Some(*footprint));
    }

    fn of((at_s, second): (usize, &Second)) -> Self {
        let Second { puts, gets, failures, response_us, overhead_us } = second;
        let (latency, overhead) = (Latencies::of(response_us, US_MS), Latencies::of(overhead_us, US_MS));
        Self { at_s, puts: *puts, gets: *gets, failures: *failures, latency, overhead, footprint: None }
    }
}
