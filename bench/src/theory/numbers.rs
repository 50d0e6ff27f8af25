//! The quorum's delay under any law, by numbers.
//!
//! **The distribution.** Followers have independent delays with the distribution functions `F₁ … F_N`. At time `t`
//! follower `i` has confirmed with probability `Fᵢ(t)`, so the number of confirmations is Poisson binomial, and the
//! quorum is complete with the probability that it is at least `W`. A recurrence over the followers computes that
//! probability without a sum over subsets.
//!
//! **Moments.** The mean is the integral of `1 − F`, and the second moment that of `2t(1 − F)`. `F` has kinks and steps
//! where a law begins, ends or is capped, and tails that reach over many powers of ten. Between two such places the
//! integral is a sum over panels that grow geometrically, with Gauss-Legendre nodes in each.
//!
//! **A shared part** `S` is added to the delays of all followers of one write. Given `S = s` the followers are
//! independent again, so `F(t) = E[F_own(t − S)]`. The expectation is a sum over strata of equal probability, with finer
//! strata in the upper tail. `S` is independent of the rest, so means and variances add up. As each value of `F` is a
//! long sum, `F` is tabulated once and interpolated.

use kvcluster_api::config::MILLISECONDS_MAX;
use kvcluster_api::delay::{Delays, Part, Shape};

/// Each panel of an integral is this much longer than the one before.
const GROWTH: f64 = 1.3;

/// The first panel after a kink, in ms.
const FIRST_PANEL_MS: f64 = 1e-4;

/// Strata of a shared part below its 99 % quantile. A step of the followers' own law is off by half a stratum at most.
const STRATA: u32 = 1_000;

/// Nodes and weights of Gauss-Legendre on [-1, 1], one half; the other is its mirror image.
const GAUSS: [(f64, f64); 4] = [
    (0.183_434_642_495_649_8, 0.362_683_783_378_362),
    (0.525_532_409_916_329, 0.313_706_645_877_887_3),
    (0.796_666_477_413_626_7, 0.222_381_034_453_374_5),
    (0.960_289_856_497_536_3, 0.101_228_536_290_376_3),
];

/// The delay of one quorum.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Numbers {
    /// Each law with the number of followers that have it.
    laws: Vec<(Part, u16)>,
    write_quorum: u16,
    /// With a shared part: times in ms with the distribution function there, close enough to interpolate.
    table: Vec<(f64, f64)>,
    bounds_ms: (f64, f64),
    mean_ms: f64,
    sd_ms: f64,
}

impl Numbers {
    pub(super) fn new(delays: &Delays, followers: u16, write_quorum: u16) -> Self {
        let mut laws: Vec<(Part, u16)> = Vec::new();
        for number in 0..followers {
            let part = delays.of_follower(number);
            match laws.iter_mut().find(|(law, _)| law == part) {
                Some((_, count)) => *count += 1,
                None => laws.push((part.clone(), 1)),
            }
        }
        let mut numbers =
            Self { laws, write_quorum, table: Vec::new(), bounds_ms: (0.0, 0.0), mean_ms: 0.0, sd_ms: 0.0 };
        let own = numbers.laws.iter().map(|(law, _)| law.bounds_ms());
        let own = own.reduce(|(a, b), (c, d)| (a.min(c), b.max(d))).unwrap_or_default();
        let (mean_ms, variance) = moments(own, &kinks(numbers.laws.iter().map(|(law, _)| law)), |ms| numbers.own(ms));
        (numbers.bounds_ms, numbers.mean_ms, numbers.sd_ms) = (own, mean_ms, variance.sqrt());
        if let Some(part) = delays.shared() {
            let bounds = part.bounds_ms();
            let (shared_mean_ms, shared_variance) =
                moments(bounds, &kinks([part].into_iter()), |ms| part_cdf(part, ms));
            let longest_ms = (own.1 + bounds.1).min(MILLISECONDS_MAX.into());
            numbers.bounds_ms = ((own.0 + bounds.0).min(longest_ms), longest_ms);
            numbers.mean_ms += shared_mean_ms;
            numbers.sd_ms = (variance + shared_variance).sqrt();
            let shared = strata(part);
            let sum = |ms: f64| shared.iter().map(|(shared_ms, weight)| weight * numbers.own(ms - shared_ms)).sum();
            numbers.table = tabulate(numbers.bounds_ms, sum);
        }
        numbers
    }

    pub(super) fn mean_ms(&self) -> f64 {
        self.mean_ms
    }

    pub(super) fn sd_ms(&self) -> f64 {
        self.sd_ms
    }

    pub(super) fn cdf(&self, ms: f64) -> f64 {
        if ms >= self.bounds_ms.1 {
            1.0
        } else if self.table.is_empty() {
            self.own(ms)
        } else {
            interpolate(&self.table, ms)
        }
    }

    /// By bisection, as the distribution function never falls.
    pub(super) fn quantile_ms(&self, p: f64) -> f64 {
        bisect(self.bounds_ms, |ms| self.cdf(ms) < p)
    }

    /// The probability that at least W followers have confirmed, without the shared part.
    fn own(&self, ms: f64) -> f64 {
        if let [(law, followers)] = self.laws.as_slice() {
            return super::binomial_tail(*followers, self.write_quorum, part_cdf(law, ms));
        }
        let quorum = usize::from(self.write_quorum);
        // The chance of each number of confirmations below W, one follower after the other.
        let mut counts = vec![0.0; quorum];
        counts[0] = 1.0;
        for (law, followers) in &self.laws {
            let chance = part_cdf(law, ms);
            for _ in 0..*followers {
                for count in (1..quorum).rev() {
                    counts[count] = counts[count] * (1.0 - chance) + counts[count - 1] * chance;
                }
                counts[0] *= 1.0 - chance;
            }
        }
        (1.0 - counts.iter().sum::<f64>()).clamp(0.0, 1.0)
    }
}

/// The probability that a delay of this part is at most `ms`.
pub(super) fn part_cdf(part: &Part, ms: f64) -> f64 {
    if ms >= part.cap_ms {
        return 1.0;
    }
    let ms = ms - part.offset_ms;
    match &part.shape {
        Shape::Uniform { min_ms, max_ms } if ms >= *max_ms => (ms >= *min_ms).into(),
        Shape::Uniform { min_ms, max_ms } => ((ms - min_ms) / (max_ms - min_ms)).max(0.0),
        Shape::Exponential { mean_ms } => -(-ms.max(0.0) / mean_ms).exp_m1(),
        Shape::Lognormal { median_ms, sigma } if ms > 0.0 => {
            0.5 * libm::erfc(-(ms / median_ms).ln() / (sigma * std::f64::consts::SQRT_2))
        }
        Shape::Lognormal { .. } => 0.0,
        Shape::Pareto { scale_ms, shape } if ms > *scale_ms => 1.0 - (scale_ms / ms).powf(*shape),
        Shape::Pareto { .. } => 0.0,
        Shape::Mixture(parts) => parts.iter().map(|(weight, part)| weight * part_cdf(part, ms)).sum(),
    }
}

/// Where the distribution functions of these parts have kinks or steps.
fn kinks<'a>(parts: impl Iterator<Item = &'a Part>) -> Vec<f64> {
    fn add(part: &Part, offset_ms: f64, kinks: &mut Vec<f64>) {
        let from_ms = offset_ms + part.offset_ms;
        kinks.push(offset_ms + part.cap_ms);
        match &part.shape {
            Shape::Uniform { min_ms, max_ms } => kinks.extend([from_ms + min_ms, from_ms + max_ms]),
            Shape::Exponential { .. } | Shape::Lognormal { .. } => kinks.push(from_ms),
            Shape::Pareto { scale_ms, .. } => kinks.push(from_ms + scale_ms),
            Shape::Mixture(parts) => parts.iter().for_each(|(_, part)| add(part, from_ms, kinks)),
        }
    }
    let mut kinks = Vec::new();
    parts.for_each(|part| add(part, 0.0, &mut kinks));
    kinks.sort_by(f64::total_cmp);
    kinks.dedup();
    kinks
}

/// Mean and variance of a distribution on these bounds.
fn moments((low_ms, high_ms): (f64, f64), kinks: &[f64], cdf: impl Fn(f64) -> f64) -> (f64, f64) {
    let mut edges: Vec<f64> = vec![low_ms, high_ms];
    for kink in kinks.iter().chain([&low_ms]).filter(|kink| (low_ms..high_ms).contains(*kink)) {
        edges.push(*kink);
        let mut length = FIRST_PANEL_MS;
        let mut edge = kink + length;
        while edge < high_ms {
            edges.push(edge);
            length *= GROWTH;
            edge += length;
        }
    }
    edges.sort_by(f64::total_cmp);
    // Measured from the shortest delay, so that a long offset costs the variance no digits.
    let (mut first, mut second) = (0.0, 0.0);
    for pair in edges.windows(2) {
        let (middle, half) = (f64::midpoint(pair[0], pair[1]), (pair[1] - pair[0]) / 2.0);
        if half <= 0.0 {
            continue;
        }
        for (node, weight) in GAUSS {
            for ms in [middle - half * node, middle + half * node] {
                let tail = half * weight * (1.0 - cdf(ms));
                first += tail;
                second += 2.0 * (ms - low_ms) * tail;
            }
        }
    }
    (low_ms + first, (second - first * first).max(0.0))
}

/// A part as values with their probabilities: the middles of strata, whose upper tail is divided ever more finely.
pub(super) fn strata(part: &Part) -> Vec<(f64, f64)> {
    let body = 0.99 / f64::from(STRATA);
    let mut values: Vec<(f64, f64)> = Vec::new();
    let mut add = |above: f64, probability: f64| {
        // `above`: the probability beyond the middle of the stratum.
        let ms = bisect(part.bounds_ms(), |ms| 1.0 - part_cdf(part, ms) > above);
        match values.last_mut() {
            Some((last_ms, weight)) if *last_ms == ms => *weight += probability,
            _ => values.push((ms, probability)),
        }
    };
    for stratum in 0..STRATA {
        add(1.0 - body * (f64::from(stratum) + 0.5), body);
    }
    let mut rest: f64 = 0.01;
    while rest > 1e-9 {
        // A fifth of what is left: ten strata for each power of ten.
        let probability = rest / 5.0;
        add(rest - probability / 2.0, probability);
        rest -= probability;
    }
    add(rest / 2.0, rest);
    values
}

/// The values of a distribution function on these bounds, so that two neighbours differ by little, and in the upper tail
/// by little of what is above. Where the function has a step, its two sides are neighbours.
fn tabulate((low_ms, high_ms): (f64, f64), cdf: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    let mut table = vec![(low_ms, cdf(low_ms))];
    // The upper ends of the intervals that are left, the next one last.
    let mut ends = vec![(high_ms, 1.0)];
    while let (Some(&(from_ms, from)), Some(&(to_ms, to))) = (table.last(), ends.last()) {
        let is_near = to - from <= f64::min(0.002, 0.2 * (1.0 - from)) || 1.0 - from < 1e-8;
        if is_near || to_ms - from_ms < 1e-7 * to_ms.max(1.0) {
            table.extend(ends.pop());
        } else {
            let middle_ms = f64::midpoint(from_ms, to_ms);
            ends.push((middle_ms, cdf(middle_ms)));
        }
    }
    table
}

fn interpolate(table: &[(f64, f64)], ms: f64) -> f64 {
    let above = table.partition_point(|(at_ms, _)| *at_ms <= ms);
    let (Some((from_ms, from)), Some((to_ms, to))) = (above.checked_sub(1).map(|below| table[below]), table.get(above))
    else {
        return if above == 0 { 0.0 } else { 1.0 };
    };
    from + (to - from) * (ms - from_ms) / (to_ms - from_ms)
}

/// Where `is_below` turns from true to false.
fn bisect((mut low, mut high): (f64, f64), is_below: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..70 {
        let middle = f64::midpoint(low, high);
        if is_below(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    //! Goal: the numbers are those of the closed forms where there are any, those that were published, and those of a
    //! simulation that shares no formula with the code.
    use kvcluster_api::delay::DelayLaw;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::theory::QuorumDelay;

    fn delays(text: &str) -> Delays {
        serde_json::from_str::<DelayLaw>(text).expect("well-formed").resolve().expect("a law")
    }

    fn law(text: &str, followers: u16, write_quorum: u16) -> Numbers {
        Numbers::new(&delays(text), followers, write_quorum)
    }

    fn close(left: f64, right: f64, tolerance: f64, what: &str) {
        assert!((left - right).abs() <= tolerance, "{what}: {left} is not {right} ± {tolerance}");
    }

    #[test]
    fn uniform_delays_have_their_closed_form() {
        for (n, w) in [(1, 1), (5, 1), (5, 3), (9, 9)] {
            let (numbers, closed) =
                (law(r#"{"minMs":20,"maxMs":60}"#, n, w), QuorumDelay::new(n, w, 20.0, 60.0).expect("a quorum"));
            let what = format!("W = {w} of {n}");
            close(numbers.mean_ms(), closed.mean_ms(), 1e-9, &what);
            close(numbers.sd_ms(), closed.sd_ms(), 1e-9, &what);
            for p in [0.01, 0.5, 0.99] {
                close(numbers.quantile_ms(p), closed.quantile_ms(p), 1e-6, &what);
            }
            close(numbers.cdf(33.0), closed.cdf(33.0), 1e-12, &what);
        }
    }

    /// Between two confirmations of i followers that are left, an exponential wait of mean m/i.
    #[test]
    fn exponential_delays_have_their_closed_form() {
        for (n, w) in [(1_u16, 1_u16), (5, 1), (5, 4), (5, 5), (60, 31)] {
            let left = (n - w + 1)..=n;
            let mean: f64 = left.clone().map(|i| 40.0 / f64::from(i)).sum();
            let variance: f64 = left.map(|i| (40.0 / f64::from(i)).powi(2)).sum();
            let numbers = law(r#"{"exponential":{"meanMs":40}}"#, n, w);
            close(numbers.mean_ms(), mean, 1e-6, &format!("mean of W = {w} of {n}"));
            close(numbers.sd_ms(), variance.sqrt(), 1e-6, &format!("sd of W = {w} of {n}"));
        }
    }

    /// One follower: mean and sd of textbooks; of Pareto the smallest of N is Pareto with N times the index.
    #[test]
    fn single_laws_have_their_moments() {
        let lognormal = law(r#"{"lognormal":{"medianMs":20,"sigma":0.5}}"#, 1, 1);
        close(lognormal.mean_ms(), 20.0 * (0.125_f64).exp(), 1e-6, "lognormal");
        close(lognormal.sd_ms(), 20.0 * (0.25_f64.exp() * 0.25_f64.exp_m1()).sqrt(), 1e-6, "lognormal");
        close(lognormal.quantile_ms(0.841_344_746), 20.0 * 0.5_f64.exp(), 1e-6, "one sigma above");
        let pareto = law(r#"{"pareto":{"scaleMs":3,"shape":2}}"#, 5, 1);
        close(pareto.mean_ms(), 3.0 * 10.0 / 9.0, 1e-6, "smallest of five");
        let capped = law(r#"{"pareto":{"scaleMs":1,"shape":1},"capMs":100}"#, 1, 1);
        close(capped.mean_ms(), 1.0 + 100_f64.ln(), 1e-6, "capped");
        let constant = law(r#"{"constant":{"ms":7.5}}"#, 5, 4);
        assert_eq!((constant.mean_ms(), constant.sd_ms(), constant.quantile_ms(0.5)), (7.5, 0.0, 7.5));
        assert_eq!((constant.cdf(7.499), constant.cdf(7.5)), (0.0, 1.0));
        let two = law(r#"{"mixture":[{"weight":1,"constant":{"ms":2}},{"weight":3,"constant":{"ms":10}}]}"#, 2, 2);
        close(two.mean_ms(), 2.0 / 16.0 + 150.0 / 16.0, 1e-9, "two steps");
    }

    /// Means, medians and 99 % quantiles of 200,000 simulated writes to five followers.
    #[test]
    fn presets_have_the_published_figures() {
        for (text, rows) in [
            (
                r#"{"preset":"linkedin-disk"}"#,
                [(1.0, 1.1, 3.4), (1.9, 1.5, 6.2), (3.1, 2.5, 10.0), (5.4, 4.5, 17.0), (11.4, 9.2, 40.0)],
            ),
            (
                r#"{"preset":"yammer"}"#,
                [(3.2, 3.1, 4.1), (3.5, 3.4, 5.1), (4.2, 3.8, 7.3), (10.8, 4.4, 223.0), (106.0, 6.5, 1226.0)],
            ),
            (
                r#"{"exponential":{"meanMs":40}}"#,
                [(8.0, 5.5, 37.0), (18.0, 15.0, 60.0), (31.3, 28.0, 90.0), (51.4, 46.0, 137.0), (91.3, 82.0, 248.0)],
            ),
            (
                r#"{"preset":"wan-3-zones"}"#,
                [(0.5, 0.4, 2.3), (1.5, 1.2, 5.3), (76.5, 76.0, 82.0), (79.5, 79.0, 91.0), (150.0, 147.0, 186.0)],
            ),
        ] {
            for ((mean, p50, p99), write_quorum) in rows.into_iter().zip(1..) {
                let numbers = law(text, 5, write_quorum);
                let what = format!("{text} at W = {write_quorum}");
                // Quantiles from 10 ms on were published in whole milliseconds.
                let rounding = |ms: f64| if ms < 10.0 { 0.05 } else { 0.5 };
                close(numbers.mean_ms(), mean, 0.05 + 0.015 * mean, &what);
                close(numbers.quantile_ms(0.5), p50, rounding(p50) + 0.01 * p50, &what);
                close(numbers.quantile_ms(0.99), p99, rounding(p99) + 0.02 * p99, &what);
            }
        }
    }

    #[test]
    fn a_shared_part_that_is_constant_is_an_offset() {
        let with = law(r#"{"exponential":{"meanMs":4},"shared":{"constant":{"ms":7}}}"#, 5, 3);
        let offset = law(r#"{"exponential":{"meanMs":4},"offsetMs":7}"#, 5, 3);
        close(with.mean_ms(), offset.mean_ms(), 1e-6, "mean");
        close(with.sd_ms(), offset.sd_ms(), 1e-6, "sd");
        close(with.quantile_ms(0.9), offset.quantile_ms(0.9), 0.005, "quantile");
        let turned = law(r#"{"constant":{"ms":7},"shared":{"exponential":{"meanMs":4}}}"#, 5, 3);
        close(turned.mean_ms(), 11.0, 1e-6, "mean");
        for (ms, expected) in [(6.9, 0.0), (7.4, 0.095_163), (11.0, 0.632_121), (30.0, 0.996_817)] {
            close(turned.cdf(ms), expected, 0.001, "the law of the shared part alone");
        }
    }

    /// Draws like a leader: by the inverse of each distribution function.
    fn simulate(random: &mut StdRng, write_quorum: usize) -> f64 {
        let exponential = |random: &mut StdRng, mean: f64| -mean * (1.0 - random.random::<f64>()).ln();
        let shared = random.random_range(0.0..30.0);
        let mut delays: Vec<f64> = (0..4)
            .map(|_| {
                if random.random::<f64>() < 0.25 {
                    (5.0 * (1.0 - random.random::<f64>()).powf(-1.0 / 1.5)).min(400.0)
                } else {
                    2.0 + exponential(random, 10.0)
                }
            })
            .collect();
        delays.push(25.0 + exponential(random, 5.0));
        delays.sort_by(f64::total_cmp);
        shared + delays[write_quorum - 1]
    }

    #[test]
    fn a_simulation_of_a_mixture_with_a_slow_follower_and_a_shared_part_agrees() {
        let text = r#"{"mixture":[{"weight":1,"pareto":{"scaleMs":5,"shape":1.5},"capMs":400},
                {"weight":3,"exponential":{"meanMs":10},"offsetMs":2}],
            "perFollower":[{"follower":3,"exponential":{"meanMs":5},"offsetMs":25}], "shared":{"maxMs":30}}"#;
        let mut random = StdRng::seed_from_u64(9);
        for write_quorum in [1_u16, 3, 5] {
            let law = QuorumDelay::of(&delays(text), 5, write_quorum).expect("a quorum");
            let mut drawn: Vec<f64> = (0..20_000).map(|_| simulate(&mut random, write_quorum.into())).collect();
            drawn.sort_by(f64::total_cmp);
            let what = format!("W = {write_quorum}");
            let summary = crate::stats::Summary::of(&drawn).expect("not empty");
            close(law.mean_ms(), summary.mean_ms, 4.0 * summary.standard_error_ms, &what);
            close(law.sd_ms(), summary.sd_ms, 0.05 * law.sd_ms(), &what);
            // Beyond 0.0163 one sample of 20,000 in 20,000 would be.
            let distance = law.distance(&drawn, 0.0);
            assert!(distance < 0.0163, "{what}: {distance}");
            let shifted: Vec<f64> = drawn.iter().map(|ms| ms + 1.0).collect();
            assert!(law.distance(&shifted, 0.0) > 0.0163, "a millisecond more is seen");
        }
    }

    /// A law with steps is not taken for one without.
    #[test]
    fn the_distance_counts_a_step_of_the_law_once() {
        let law = QuorumDelay::of(&delays(r#"{"constant":{"ms":2}}"#), 3, 2).expect("a quorum");
        assert_eq!(law.distance(&[2.0, 2.0, 2.0], 0.0), 0.0);
        assert_eq!(law.distance(&[1.5, 2.0, 2.0, 2.0], 0.0), 0.25);
        assert_eq!(law.distance(&[2.0, 2.0, 2.001, 2.001], 0.0), 0.5);
        assert_eq!(law.distance(&[2.0, 2.0, 2.001, 2.001], 0.002), 0.0, "within the rounding");
    }
}
