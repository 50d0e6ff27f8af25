//! Summaries of measured latencies: mean with its interval, spread, quantiles; and intervals of shares.
//!
//! Everything here is in milliseconds and works on plain slices, so that the tests can compare it with
//! samples whose summaries are known.

use serde::Serialize;

/// What a sample of latencies looks like; all fields in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Arithmetic mean.
    pub mean_ms: f64,
    /// Half the width of the 95 % interval of the mean: `mean_ms ± mean_interval_ms`.
    pub mean_interval_ms: f64,
    /// Standard deviation of the sample (divisor `n − 1`).
    pub sd_ms: f64,
    /// Standard error of the mean, `sd / √n`.
    pub standard_error_ms: f64,
    /// The smallest value.
    pub min_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 90 % of the sample is at or below.
    pub p90_ms: f64,
    /// 99 % of the sample is at or below.
    pub p99_ms: f64,
    /// The largest value.
    pub max_ms: f64,
}

impl Summary {
    /// Summarises a sample; `None` when it is empty. With one value the spread is 0: nothing is known of it.
    pub fn of(values_ms: &[f64]) -> Option<Self> {
        let mut sorted = values_ms.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min_ms, max_ms) = (*sorted.first()?, *sorted.last()?);
        let mean_ms = mean(&sorted)?;
        let sd_ms = standard_deviation(&sorted, mean_ms);
        let standard_error_ms = sd_ms / (sorted.len() as f64).sqrt();
        Some(Self {
            mean_ms,
            mean_interval_ms: student_t_975(sorted.len().saturating_sub(1)) * standard_error_ms,
            sd_ms,
            standard_error_ms,
            min_ms,
            p50_ms: quantile(&sorted, 0.50),
            p90_ms: quantile(&sorted, 0.90),
            p99_ms: quantile(&sorted, 0.99),
            max_ms,
        })
    }
}

/// Arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Standard deviation with divisor `n − 1`, in two passes: the one-pass formula cancels when the mean is far
/// above the spread, as latencies under a long minimum delay are.
fn standard_deviation(values: &[f64], mean: f64) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// The `p`-quantile of a **sorted**, non-empty sample, interpolated linearly between the two nearest values
/// (the definition of R's default and of NumPy).
pub fn quantile(sorted: &[f64], p: f64) -> f64 {
    let position = p.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = position.ceil() as usize;
    let (low, high) = (sorted[below], sorted[above]);
    low + (high - low) * (position - below as f64)
}

/// The Clopper-Pearson interval of a share: which probabilities make `successes` of `trials` or a more extreme number
/// not rarer than `error`, both sides together. It covers the true probability at least as often as it promises, whatever
/// that is. Without trials everything is possible.
pub fn binomial_interval(successes: u64, trials: u64, error: f64) -> (f64, f64) {
    // Where the chance rises through half of the error; halved until below any rounding.
    let root = |chance: &dyn Fn(f64) -> f64| {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..50 {
            let middle = f64::midpoint(low, high);
            if chance(middle) < error / 2.0 {
                low = middle;
            } else {
                high = middle;
            }
        }
        f64::midpoint(low, high)
    };
    let low = if successes == 0 { 0.0 } else { root(&|p| at_least(successes, trials, p)) };
    let high = if successes >= trials { 1.0 } else { 1.0 - root(&|q| at_least(trials - successes, trials, q)) };
    (low, high)
}

/// The chance of at least `successes` of `trials` with probability `p` each. The sum goes away from the mean, where the
/// terms only fall, so that none before it can vanish in rounding.
fn at_least(successes: u64, trials: u64, p: f64) -> f64 {
    let n = trials as f64;
    let term = |k: f64| {
        let choices = libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0);
        (choices + k * p.ln() + (n - k) * (-p).ln_1p()).exp()
    };
    let from = successes as f64;
    if from > n * p {
        let ratio = |k: f64| (n - k) / (k + 1.0) * p / (1.0 - p);
        falling_sum(term(from), (successes..trials).map(|k| ratio(k as f64)))
    } else {
        let ratio = |k: f64| k / (n - k + 1.0) * (1.0 - p) / p;
        1.0 - falling_sum(term(from - 1.0), (1..successes).rev().map(|k| ratio(k as f64)))
    }
}

/// The sum of terms, each the one before times a ratio, until they add nothing.
fn falling_sum(first: f64, ratios: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut term) = (first, first);
    for ratio in ratios {
        term *= ratio;
        if term < sum * 1e-17 {
            break;
        }
        sum += term;
    }
    sum
}

/// The 97.5 % point of Student's t, by which a standard error becomes half a 95 % interval.
///
/// The Cornish-Fisher expansion around the normal quantile: right to 0.001 from 10 degrees of freedom up.
/// Below that a table has the exact values. A single value (0 degrees of freedom) has no interval: the result is 0, and
/// its spread is 0 as well.
fn student_t_975(degrees_of_freedom: usize) -> f64 {
    const EXACT: [f64; 10] = [0.0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];
    if let Some(exact) = EXACT.get(degrees_of_freedom) {
        return *exact;
    }
    let z: f64 = 1.959_963_984_540_054;
    let nu = degrees_of_freedom as f64;
    let first = (z.powi(3) + z) / 4.0;
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let third = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    z + first / nu + second / nu.powi(2) + third / nu.powi(3)
}

#[cfg(test)]
mod tests {
    //! Goal: every field of a summary is what textbooks say. Method: small samples with known results, and
    //! published values of Student's t.
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn close(left: f64, right: f64, tolerance: f64) {
        assert!((left - right).abs() <= tolerance, "{left} is not {right} ± {tolerance}");
    }

    #[test]
    fn a_known_sample_has_its_known_summary() {
        let summary = Summary::of(&[7.0, 2.0, 4.0, 4.0, 5.0, 4.0, 9.0, 5.0]).expect("not empty");
        close(summary.mean_ms, 5.0, 1e-12);
        close(summary.sd_ms, (32.0_f64 / 7.0).sqrt(), 1e-12);
        close(summary.standard_error_ms, (32.0_f64 / 7.0 / 8.0).sqrt(), 1e-12);
        close(summary.mean_interval_ms, 2.365 * summary.standard_error_ms, 1e-12);
        assert_eq!((summary.min_ms, summary.p50_ms, summary.max_ms), (2.0, 4.5, 9.0));
        close(summary.p90_ms, 7.6, 1e-12);
    }

    #[test]
    fn quantiles_interpolate_between_neighbours() {
        let sorted = [10.0, 20.0, 30.0, 40.0, 50.0];
        for (p, expected) in [(0.0, 10.0), (0.25, 20.0), (0.5, 30.0), (0.9, 46.0), (1.0, 50.0)] {
            close(quantile(&sorted, p), expected, 1e-12);
        }
    }

    #[test]
    fn nothing_has_no_summary_and_one_value_has_no_spread() {
        assert_eq!(Summary::of(&[]), None);
        let single = Summary::of(&[12.5]).expect("not empty");
        assert_eq!((single.mean_ms, single.sd_ms, single.mean_interval_ms), (12.5, 0.0, 0.0));
        assert_eq!((single.p50_ms, single.p99_ms), (12.5, 12.5));
    }

    #[test]
    fn student_t_agrees_with_published_tables() {
        for (nu, expected) in
            [(1, 12.706), (5, 2.571), (10, 2.228), (20, 2.086), (30, 2.042), (99, 1.984), (9999, 1.960)]
        {
            close(student_t_975(nu), expected, 0.001);
        }
    }

    /// Figures of published tables and of R's `binom.test`.
    #[test]
    fn intervals_of_shares_are_those_of_clopper_and_pearson() {
        for (successes, trials, error, low, high) in [
            (0, 10, 0.05, 0.0, 0.308_497),
            (10, 10, 0.05, 0.691_503, 1.0),
            (5, 10, 0.05, 0.187_086, 0.812_914),
            (10, 100, 0.05, 0.049_005, 0.176_223),
            (1, 1, 0.05, 0.025, 1.0),
            (0, 0, 0.05, 0.0, 1.0),
        ] {
            let interval = binomial_interval(successes, trials, error);
            close(interval.0, low, 1e-6);
            close(interval.1, high, 1e-6);
        }
        let (low, high) = binomial_interval(40_000, 100_000, 3e-5);
        close(low, 0.4 - 4.17 * (0.24_f64 / 1e5).sqrt(), 1e-4);
        close(high, 0.4 + 4.17 * (0.24_f64 / 1e5).sqrt(), 1e-4);
    }

    #[test]
    fn an_interval_of_a_share_misses_the_truth_no_more_often_than_it_says() {
        let mut random = StdRng::seed_from_u64(31);
        for (p, trials) in [(0.02, 60), (0.3, 40), (0.8, 200)] {
            let missed = (0..4_000)
                .filter(|_| {
                    let successes = (0..trials).filter(|_| random.random::<f64>() < p).count() as u64;
                    let (low, high) = binomial_interval(successes, trials, 0.05);
                    p < low || p > high
                })
                .count();
            assert!(missed < 240, "{missed} of 4000 for {p}");
            assert!(missed > 8, "{missed} of 4000 for {p}: far too wide");
        }
    }

    /// The interval is worth its name only if it covers the true mean about 95 times of 100, for small samples too.
    #[test]
    fn the_interval_covers_the_true_mean_95_times_of_100() {
        let mut random = StdRng::seed_from_u64(20_261_122);
        for n in [8, 100] {
            let covered = (0..2_000)
                .filter(|_| {
                    let sample: Vec<f64> = (0..n).map(|_| random.random_range(0.0..200.0)).collect();
                    let summary = Summary::of(&sample).expect("not empty");
                    (summary.mean_ms - 100.0).abs() <= summary.mean_interval_ms
                })
                .count();
            close(covered as f64 / 2_000.0, 0.95, 0.015);
        }
    }
}
