//! Which key an operation takes: every one as often as any other, or few of them most of the time.

use rand::{RngExt, rngs::StdRng};
use serde::Serialize;

/// How often each key is taken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// The k-th most popular in proportion to 1/k^exponent.
    Zipf {
        /// Above 0; 0.99 is what is often taken for caches.
        exponent: f64,
    },
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uniform => formatter.write_str("uniform"),
            Self::Zipf { exponent } => write!(formatter, "zipf {exponent}"),
        }
    }
}

/// Draws the numbers of keys, from 0.
#[derive(Clone, Debug)]
pub(super) enum KeyChooser {
    Uniform { keys: u64 },
    Zipf(Zipf),
}

impl KeyChooser {
    pub(super) fn new(distribution: Distribution, keys: u64) -> Self {
        match distribution {
            Distribution::Uniform => Self::Uniform { keys },
            Distribution::Zipf { exponent } => Self::Zipf(Zipf::new(keys, exponent)),
        }
    }

    pub(super) fn choose(&self, random: &mut StdRng) -> u64 {
        match self {
            Self::Uniform { keys } => random.random_range(0..*keys),
            Self::Zipf(zipf) => zipf.sample(random) - 1,
        }
    }
}

/// Zipf's law over 1..=n without a table: rejection-inversion (Hörmann and Derflinger, 1996).
///
/// The continuous density x^-s is inverted; a draw is rounded to the nearest whole number and kept when it falls into that
/// number's own share of the area. Fewer than one draw in ten is thrown away, whatever n is.
#[derive(Clone, Debug)]
pub(super) struct Zipf {
    exponent: f64,
    n: f64,
    /// The areas from the left edge to 1.5, less the mass of 1, and to n + 0.5.
    area_low: f64,
    area_high: f64,
    /// Draws closer than this to their whole number need no test.
    sure: f64,
}

impl Zipf {
    pub(super) fn new(n: u64, exponent: f64) -> Self {
        let mut zipf = Self { exponent, n: n.max(1) as f64, area_low: 0.0, area_high: 0.0, sure: 0.0 };
        zipf.area_low = zipf.area(1.5) - 1.0;
        zipf.area_high = zipf.area(zipf.n + 0.5);
        zipf.sure = 2.0 - zipf.area_inverse(zipf.area(2.5) - zipf.density(2.0));
        zipf
    }

    pub(super) fn sample(&self, random: &mut StdRng) -> u64 {
        loop {
            let area = self.area_high + random.random::<f64>() * (self.area_low - self.area_high);
            let x = self.area_inverse(area);
            let k = x.round().clamp(1.0, self.n);
            if k - x <= self.sure || area >= self.area(k + 0.5) - self.density(k) {
                return k as u64;
            }
        }
    }

    fn density(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The integral of the density from 1 to x; at an exponent of 1 it is the logarithm.
    fn area(&self, x: f64) -> f64 {
        let log = x.ln();
        relative_expm1((1.0 - self.exponent) * log) * log
    }

    fn area_inverse(&self, area: f64) -> f64 {
        let t = (area * (1.0 - self.exponent)).max(-1.0);
        (relative_ln_1p(t) * area).exp()
    }
}

/// (e^x − 1)/x, also near 0.
fn relative_expm1(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.exp_m1() / x } else { 1.0 + x / 2.0 }
}

/// ln(1 + x)/x, also near 0.
fn relative_ln_1p(x: f64) -> f64 {
    if x.abs() > 1e-8 { x.ln_1p() / x } else { 1.0 - x / 2.0 }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const DRAWS: usize = 200_000;

    fn counts(chooser: &KeyChooser, keys: usize) -> Vec<f64> {
        let mut random = StdRng::seed_from_u64(20_261_122);
        let mut counts = vec![0.0; keys];
        for _ in 0..DRAWS {
            counts[usize::try_from(chooser.choose(&mut random)).expect("small")] += 1.0;
        }
        counts
    }

    /// Sum of (observed − expected)²/expected: about as large as there are keys when the law is right.
    fn chi_squared(counts: &[f64], weights: &[f64]) -> f64 {
        let total: f64 = weights.iter().sum();
        let expected = weights.iter().map(|weight| DRAWS as f64 * weight / total);
        counts.iter().zip(expected).map(|(count, expected)| (count - expected).powi(2) / expected).sum()
    }

    #[test]
    fn zipf_draws_each_key_as_often_as_the_law_says() {
        for exponent in [0.5, 0.99, 1.0, 1.3, 2.0] {
            for keys in [1_usize, 2, 7, 100] {
                let law = |exponent: f64| -> Vec<f64> { (1..=keys).map(|k| (k as f64).powf(-exponent)).collect() };
                let counts = counts(&KeyChooser::new(Distribution::Zipf { exponent }, keys as u64), keys);
                // Six standard deviations of chi squared with keys − 1 degrees of freedom.
                let limit = keys as f64 + 6.0 * (2.0 * keys as f64).sqrt();
                let distance = chi_squared(&counts, &law(exponent));
                assert!(distance < limit, "exponent {exponent}, {keys} keys: chi squared {distance}");
                if keys == 100 {
                    let other = chi_squared(&counts, &law(exponent + 0.05));
                    assert!(other > 2.0 * limit, "the test tells exponent {exponent} from its neighbour: {other}");
                }
            }
        }
    }

    #[test]
    fn uniform_draws_all_keys_alike() {
        let counts = counts(&KeyChooser::new(Distribution::Uniform, 100), 100);
        assert!(chi_squared(&counts, &[1.0; 100]) < 100.0 + 6.0 * 200_f64.sqrt());
    }

    #[test]
    fn ten_million_keys_take_no_table_and_stay_in_range() {
        let zipf = Zipf::new(10_000_000, 0.99);
        let mut random = StdRng::seed_from_u64(1);
        let drawn: Vec<u64> = (0..10_000).map(|_| zipf.sample(&mut random)).collect();
        assert!(drawn.iter().all(|k| (1..=10_000_000).contains(k)));
        assert!(drawn.iter().any(|k| *k > 1_000_000), "the tail is reached");
    }
}
