//! One quorum's measurements beside what theory says of it.

use serde::Serialize;

use crate::{
    stats::{Summary, mean},
    sweep::workload::{Run, WriteOutcome, WriteSample},
    theory::QuorumDelay,
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
    /// The whole distributions beside the law; absent when no write was committed.
    pub distribution: Option<Distribution>,
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

/// How far measured distributions are from the law, as the largest difference of two distribution functions.
///
/// By the inequality of Dvoretzky, Kiefer and Wolfowitz all distances of a sweep are within their bands with a
/// probability of 99 % if the law holds, whatever the law.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Distribution {
    /// Half the width of the band.
    pub band: f64,
    /// The distance of the delays that the leader drew; absent when it does not explain them.
    pub law: Option<f64>,
    /// The distance of the latencies minus the median of the overhead; absent when the leader does not explain its delays.
    pub without_overhead: Option<f64>,
    /// The distance of the latencies as they were measured.
    pub latency: f64,
    /// Points of the measured distribution for the plot, without the median of the overhead: a latency in ms, and the
    /// share of the writes up to it.
    #[serde(skip)]
    pub points: Vec<(f64, f64)>,
    /// Points of the law for the plot, as far into the tail as one write of the sample is.
    #[serde(skip)]
    pub predicted: Vec<(f64, f64)>,
}

impl QuorumReport {
    /// Sets the run at `write_quorum`, one of `quorums` of the sweep, beside `law`.
    pub fn new(write_quorum: u16, law: &QuorumDelay, quorums: usize, run: Run) -> Self {
        let Run { samples, duration_ms, first_failure, given_up } = run;
        let committed: Vec<WriteSample> =
            samples.iter().filter(|sample| sample.outcome == WriteOutcome::Committed).copied().collect();
        let latencies: Vec<f64> = committed.iter().map(|sample| sample.latency_ms).collect();
        let drawn: Vec<f64> = committed.iter().filter_map(|sample| sample.quorum_delay_ms).collect();
        let theory = Theory::of(law);
        let latency = Summary::of(&latencies);
        let explained = drawn.len() == committed.len();
        let overhead = explained.then(|| Overhead::of(&committed)).flatten();
        let distribution = Distribution::of(law, quorums, &latencies, &drawn, overhead);
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
            overhead,
            distribution,
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
    /// Mean, spread and quantiles of this law.
    pub fn of(law: &QuorumDelay) -> Self {
        Self {
            mean_ms: law.mean_ms(),
            sd_ms: law.sd_ms(),
            p50_ms: law.quantile_ms(0.50),
            p90_ms: law.quantile_ms(0.90),
            p99_ms: law.quantile_ms(0.99),
        }
    }
}

/// The leader draws and reports delays in whole microseconds.
const ROUNDING_MS: f64 = 0.001;

impl Distribution {
    fn of(
        law: &QuorumDelay,
        quorums: usize,
        latencies_ms: &[f64],
        drawn_ms: &[f64],
        overhead: Option<Overhead>,
    ) -> Option<Self> {
        let sorted = |values: &[f64], less_ms: f64| {
            let mut values: Vec<f64> = values.iter().map(|ms| ms - less_ms).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let latencies = sorted(latencies_ms, 0.0);
        let without = overhead.map(|overhead| sorted(latencies_ms, overhead.p50_ms));
        let shown = without.as_ref().unwrap_or(&latencies);
        (!latencies.is_empty()).then(|| Self {
            band: dkw_band(latencies.len(), 0.01 / quorums.max(1) as f64),
            law: overhead.map(|_| law.distance(&sorted(drawn_ms, 0.0), ROUNDING_MS)),
            without_overhead: without.as_ref().map(|latencies| law.distance(latencies, 0.0)),
            latency: law.distance(&latencies, 0.0),
            points: points(shown),
            predicted: predicted(law, latencies.len()),
        })
    }
}

/// About 200 points of a sorted sample, and in its upper tail as many for each halving.
fn points(sorted: &[f64]) -> Vec<(f64, f64)> {
    let count = sorted.len();
    let mut index = 0;
    let mut points = Vec::new();
    while index < count {
        points.push((sorted[index], (index + 1) as f64 / count as f64));
        index += ((count - index) / 100).clamp(1, count.div_ceil(200));
    }
    points
}

/// Points of a law at equal steps of the share up to them, and in the tail at equal factors of the share above them.
pub(crate) fn predicted(law: &QuorumDelay, writes: usize) -> Vec<(f64, f64)> {
    const POINTS: u32 = 120;
    let steps = (1..POINTS).map(|point| f64::from(point) / f64::from(POINTS));
    let tail = steps.clone().map(|step| 1.0 - (0.5 / writes as f64).powf(step));
    let mut shares: Vec<f64> = steps.chain(tail).collect();
    shares.sort_by(f64::total_cmp);
    shares.into_iter().map(|share| (law.quantile_ms(share), share)).collect()
}

/// Half the width of the band that contains the whole distribution function of a sample with a probability of 1 − α.
fn dkw_band(writes: usize, alpha: f64) -> f64 {
    ((2.0 / alpha).ln() / (2.0 * writes as f64)).sqrt()
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
        let report = QuorumReport::new(3, &law(), 5, run);
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
        let report = QuorumReport::new(3, &law(), 5, Run { samples, ..Run::default() });
        assert_eq!(report.overhead, None);
        assert_eq!(report.deviation.expect("measured").by_draw_ms, None);
    }

    #[test]
    fn a_run_without_a_committed_write_has_no_latency() {
        let samples = vec![sample(0, 5000.0, WriteOutcome::Indeterminate)];
        let report = QuorumReport::new(3, &law(), 5, Run { samples, ..Run::default() });
        assert!(report.latency.is_none() && report.deviation.is_none() && report.overhead.is_none());
    }

    #[test]
    fn the_band_has_its_published_width() {
        for (writes, alpha, band) in [(20_000, 0.05, 0.0096), (20_000, 0.01, 0.0115), (4_000, 0.002, 0.0294)] {
            assert!((dkw_band(writes, alpha) - band).abs() < 0.000_05, "{writes} writes: {}", dkw_band(writes, alpha));
        }
    }

    /// Delays at even quantiles of the law, and a system that adds 30 ms: the law is near, the latency far.
    #[test]
    fn the_distance_of_the_law_is_not_that_of_the_system() {
        let law = law();
        let sample = |index: u32| {
            let delay_ms = law.quantile_ms((f64::from(index) + 0.5) / 1_000.0);
            let quorum_delay_ms = Some((delay_ms * 1e3).round() / 1e3);
            let (sent_at_ms, latency_ms) = (index.into(), delay_ms + 30.0);
            let outcome = WriteOutcome::Committed;
            WriteSample { sent_at_ms, latency_ms, outcome, quorum_delay_ms, write_quorum: Some(3) }
        };
        let run = Run { samples: (0..1_000).map(sample).collect(), ..Run::default() };
        let longer = QuorumDelay::new(5, 3, 0.0, 240.0).expect("valid quorum");
        let other_law = QuorumReport::new(3, &longer, 5, run.clone()).distribution.expect("measured");
        assert!(other_law.law > Some(other_law.band), "{other_law:?}");
        let report = QuorumReport::new(3, &law, 5, run);
        let distribution = report.distribution.expect("measured");
        assert!(distribution.law.expect("explained") < 0.001, "{distribution:?}");
        assert!(distribution.without_overhead.expect("explained") < 0.001, "{distribution:?}");
        assert!(distribution.latency > 0.2, "{distribution:?}");
        assert!((distribution.band - 0.0588).abs() < 0.0001, "{distribution:?}");
        assert_eq!(distribution.points.last().map(|point| point.1), Some(1.0));
        assert!(distribution.points.len() > 200);
    }

    #[test]
    fn answers_under_another_quorum_are_counted() {
        let report = QuorumReport::new(
            2,
            &law(),
            5,
            Run { samples: vec![sample(0, 92.0, WriteOutcome::Committed)], ..Run::default() },
        );
        assert_eq!(report.under_other_quorum, 1);
    }
}
