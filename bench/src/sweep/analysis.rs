//! One quorum's measurements beside what theory says of it.

use serde::Serialize;

use crate::{
    stats::{Summary, mean},
    sweep::{
        theory::QuorumDelay,
        workload::{Run, WriteOutcome, WriteSample},
    },
};

/// What was measured at one write quorum, and what should have been.
#[derive(Clone, Debug, Serialize)]
pub struct QuorumReport {
    /// Followers that had to confirm each write, W.
    pub write_quorum: u16,
    /// Writes sent.
    pub writes: usize,
    /// Those that were not committed, by outcome.
    pub failures: Failures,
    /// What the first failure met.
    pub first_failure: Option<String>,
    /// Whether the rest of the run was given up after too many failures.
    pub given_up: bool,
    /// Writes that the leader answered under another quorum than asked for.
    pub under_other_quorum: usize,
    /// From the first send to the last answer, in ms.
    pub duration_ms: f64,
    /// Committed writes per second of that time.
    pub writes_per_second: f64,
    /// Latencies of the committed writes; absent when there is none.
    pub latency: Option<Summary>,
    /// What the delays alone make of this quorum.
    pub theory: Theory,
    /// Measured mean minus theoretical mean.
    pub deviation: Option<Deviation>,
    /// What the system added to each write; absent when the leader does not explain its delays.
    pub overhead: Option<Overhead>,
}

/// Writes without success, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Failures {
    /// The quorum was not reached in time.
    pub indeterminate: usize,
    /// The leader did not take them.
    pub not_applied: usize,
    /// The leader called the request wrong.
    pub refused: usize,
    /// There was no answer.
    pub no_answer: usize,
}

/// The delays' own law at this quorum, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Theory {
    /// Expected delay until the quorum has confirmed.
    pub mean_ms: f64,
    /// Its standard deviation.
    pub sd_ms: f64,
    /// Its median.
    pub p50_ms: f64,
    /// Its 90 % quantile.
    pub p90_ms: f64,
    /// Its 99 % quantile.
    pub p99_ms: f64,
}

/// How far the measured mean lies from the theoretical one, and why.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Deviation {
    /// Measured minus theoretical mean, in ms.
    pub ms: f64,
    /// The same in standard errors of the mean; absent when the sample has no spread.
    pub standard_errors: Option<f64>,
    /// The part that the luck of the drawn delays made: mean of the drawn quorum delays minus theory, in ms.
    /// The rest is overhead. Absent when the leader does not explain its delays.
    pub by_draw_ms: Option<f64>,
}

/// Latency minus the delay that the quorum had to wait for, write by write, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Overhead {
    /// Mean.
    pub mean_ms: f64,
    /// Standard error of that mean.
    pub standard_error_ms: f64,
    /// Smallest; below zero an answer came before its quorum could have.
    pub min_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 99 % quantile.
    pub p99_ms: f64,
    /// Largest.
    pub max_ms: f64,
    /// Mean over the third of the writes that were sent first.
    pub first_third_mean_ms: f64,
    /// Mean over the third that was sent last: above the first, writes pile up.
    pub last_third_mean_ms: f64,
}

impl QuorumReport {
    /// Sets the run at `write_quorum` beside `law`.
    pub fn new(write_quorum: u16, law: &QuorumDelay, run: Run) -> Self {
        let Run { samples, duration_ms, first_failure, given_up } = run;
        let committed: Vec<WriteSample> =
            samples.iter().filter(|sample| sample.outcome == WriteOutcome::Committed).copied().collect();
        let latencies: Vec<f64> = committed.iter().map(|sample| sample.latency_ms).collect();
        let drawn: Vec<f64> = committed.iter().filter_map(|sample| sample.quorum_delay_ms).collect();
        let theory = Theory::of(law);
        let latency = Summary::of(&latencies);
        let explained = drawn.len() == committed.len();
        let deviation = latency.map(|latency| {
            let ms = latency.mean_ms - theory.mean_ms;
            Deviation {
                ms,
                standard_errors: (latency.standard_error_ms > 0.0).then(|| ms / latency.standard_error_ms),
                by_draw_ms: mean(&drawn).filter(|_| explained).map(|drawn_ms| drawn_ms - theory.mean_ms),
            }
        });
        Self {
            write_quorum,
            writes: samples.len(),
            failures: Failures::of(&samples),
            first_failure,
            given_up,
            under_other_quorum: committed
                .iter()
                .filter(|sample| sample.write_quorum.is_some_and(|answered_under| answered_under != write_quorum))
                .count(),
            duration_ms,
            writes_per_second: if duration_ms > 0.0 { committed.len() as f64 / duration_ms * 1e3 } else { 0.0 },
            latency,
            theory,
            deviation,
            overhead: explained.then(|| Overhead::of(&committed)).flatten(),
        }
    }

    /// Writes that were committed.
    pub fn committed(&self) -> usize {
        self.writes - self.failures.total()
    }
}

impl Failures {
    fn of(samples: &[WriteSample]) -> Self {
        let count = |outcome| samples.iter().filter(|sample| sample.outcome == outcome).count();
        Self {
            indeterminate: count(WriteOutcome::Indeterminate),
            not_applied: count(WriteOutcome::NotApplied),
            refused: count(WriteOutcome::Refused),
            no_answer: count(WriteOutcome::NoAnswer),
        }
    }

    /// All of them.
    pub fn total(&self) -> usize {
        let Self { indeterminate, not_applied, refused, no_answer } = *self;
        indeterminate + not_applied + refused + no_answer
    }

    /// "3 indeterminate, 1 no answer", or "0".
    pub fn words(&self) -> String {
        let Self { indeterminate, not_applied, refused, no_answer } = *self;
        let named = [
            (indeterminate, "indeterminate"),
            (not_applied, "not applied"),
            (refused, "refused"),
            (no_answer, "no answer"),
        ];
        let parts: Vec<String> =
            named.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
        if parts.is_empty() { "0".to_owned() } else { parts.join(", ") }
    }
}

impl Theory {
    fn of(law: &QuorumDelay) -> Self {
        Self {
            mean_ms: law.mean_ms(),
            sd_ms: law.sd_ms(),
            p50_ms: law.quantile_ms(0.50),
            p90_ms: law.quantile_ms(0.90),
            p99_ms: law.quantile_ms(0.99),
        }
    }
}

impl Overhead {
    /// Of committed writes in the order of their sending.
    fn of(committed: &[WriteSample]) -> Option<Self> {
        let overheads: Vec<f64> =
            committed.iter().filter_map(|sample| Some(sample.latency_ms - sample.quorum_delay_ms?)).collect();
        let third = overheads.len().div_ceil(3);
        let summary = Summary::of(&overheads)?;
        Some(Self {
            mean_ms: summary.mean_ms,
            standard_error_ms: summary.standard_error_ms,
            min_ms: summary.min_ms,
            p50_ms: summary.p50_ms,
            p99_ms: summary.p99_ms,
            max_ms: summary.max_ms,
            first_third_mean_ms: mean(&overheads[..third])?,
            last_third_mean_ms: mean(&overheads[overheads.len() - third..])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(index: usize, latency_ms: f64, outcome: WriteOutcome) -> WriteSample {
        let quorum_delay_ms = (outcome == WriteOutcome::Committed).then_some(90.0 + index as f64);
        WriteSample { sent_at_ms: index as f64, latency_ms, outcome, quorum_delay_ms, write_quorum: Some(3) }
    }

    fn law() -> QuorumDelay {
        QuorumDelay::new(5, 3, 0.0, 200.0).expect("valid quorum")
    }

    #[test]
    fn committed_writes_are_measured_and_the_others_counted() {
        let samples = vec![
            sample(0, 92.0, WriteOutcome::Committed),
            sample(1, 5000.0, WriteOutcome::Indeterminate),
            sample(2, 95.0, WriteOutcome::Committed),
            sample(3, 98.0, WriteOutcome::Committed),
            sample(4, 1.0, WriteOutcome::NoAnswer),
        ];
        let run = Run { samples, duration_ms: 500.0, first_failure: Some("HTTP 500".into()), given_up: false };
        let report = QuorumReport::new(3, &law(), run);
        assert_eq!((report.writes, report.committed(), report.failures.total()), (5, 3, 2));
        assert_eq!(report.failures.words(), "1 indeterminate, 1 no answer");
        assert!((report.writes_per_second - 6.0).abs() < 1e-9);
        let latency = report.latency.expect("three committed");
        assert!((latency.mean_ms - 95.0).abs() < 1e-9);
        let deviation = report.deviation.expect("measured");
        assert!((deviation.ms + 5.0).abs() < 1e-9, "{deviation:?}");
        let by_draw_ms = deviation.by_draw_ms.expect("explained");
        let overhead = report.overhead.expect("explained");
        assert!((by_draw_ms + overhead.mean_ms - deviation.ms).abs() < 1e-9, "the parts make the whole");
        assert_eq!((overhead.first_third_mean_ms, overhead.last_third_mean_ms), (2.0, 5.0));
        assert_eq!((overhead.min_ms, overhead.max_ms), (2.0, 5.0));
    }

    #[test]
    fn a_leader_that_explains_nothing_has_no_overhead() {
        let mut unexplained = sample(0, 92.0, WriteOutcome::Committed);
        unexplained.quorum_delay_ms = None;
        let samples = vec![unexplained, sample(1, 99.0, WriteOutcome::Committed)];
        let report = QuorumReport::new(3, &law(), Run { samples, ..Run::default() });
        assert_eq!(report.overhead, None);
        assert_eq!(report.deviation.expect("measured").by_draw_ms, None);
    }

    #[test]
    fn a_run_without_a_committed_write_has_no_latency() {
        let samples = vec![sample(0, 5000.0, WriteOutcome::Indeterminate)];
        let report = QuorumReport::new(3, &law(), Run { samples, ..Run::default() });
        assert!(report.latency.is_none() && report.deviation.is_none() && report.overhead.is_none());
    }

    #[test]
    fn answers_under_another_quorum_are_counted() {
        let report = QuorumReport::new(
            2,
            &law(),
            Run { samples: vec![sample(0, 92.0, WriteOutcome::Committed)], ..Run::default() },
        );
        assert_eq!(report.under_other_quorum, 1);
    }
}
