//! What a write quorum must cost and what a read at a follower may miss, computed exactly.
//!
//! This is about uniform delays; [`numbers`] and [`stale`] have any other law. A leader sends a write to `N` followers, each
//! after a delay drawn uniformly from `[a, b]`, and answers at the `W`-th confirmation. Measured in units of `b − a`, the
//! delays are `N` independent uniforms `U₁ … U_N`, and the answer comes at their `W`-th smallest, the *order statistic* `U₍W₎`.
//!
//! **Its law.** `U₍W₎ ≤ x` exactly when at least `W` of the `N` uniforms are at most `x`; each is with probability
//! `x`, so `P(U₍W₎ ≤ x) = Σ_{k=W}^{N} C(N,k) xᵏ (1−x)^{N−k}`, a binomial tail. Differentiated, the sum telescopes to
//! the density `N!/((W−1)!(N−W)!) · x^{W−1}(1−x)^{N−W}`: the law is Beta(W, N−W+1).
//!
//! **Its moments.** `∫ x^{p−1}(1−x)^{q−1} = (p−1)!(q−1)!/(p+q−1)!` gives the mean `W/(N+1)` and
//! `E[U₍W₎²] = W(W+1)/((N+1)(N+2))`, hence the variance `W(N−W+1)/((N+1)²(N+2))`.
//!
//! **Stale reads.** The gaps between neighbouring order statistics (with 0 and 1 as ends) are exchangeable, so
//! `U₍W+k₎ − U₍W₎` has the law of `U₍k₎`. Hence the number of followers that receive the write within `u` after
//! its commit is at least `k` (for `k ≤ N−W`) with the probability that `U₍k₎ ≤ u`, which is `P(X ≥ k)` for
//! `X ~ Binomial(N, u)`: that number is distributed as `min(X, N−W)`. So `max(N−W−X, 0)` followers still miss it, and a
//! reader who picks one of `N` at random misses it with probability `E[max(N−W−X, 0)]/N`.

mod numbers;
mod stale;

use kvcluster_api::delay::{DelayLaw, Delays};

use self::numbers::Numbers;
pub use self::stale::{StaleReads, StaleTable};

/// The time until the `W`-th of `N` followers has confirmed.
#[derive(Clone, Debug, PartialEq)]
pub struct QuorumDelay(Law);

#[derive(Clone, Debug, PartialEq)]
enum Law {
    Uniform(Uniform),
    Numbers(Box<Numbers>),
}

impl QuorumDelay {
    /// The law for `write_quorum` of `followers` with delays uniform in `[min, max]` ms; `None` unless `1 ≤ W ≤ N` and
    /// `0 ≤ min ≤ max`.
    pub fn new(followers: u16, write_quorum: u16, min_delay_ms: f64, max_delay_ms: f64) -> Option<Self> {
        let valid = (1..=followers).contains(&write_quorum) && 0.0 <= min_delay_ms && min_delay_ms <= max_delay_ms;
        valid.then_some(Self(Law::Uniform(Uniform { followers, write_quorum, min_delay_ms, max_delay_ms })))
    }

    /// The law for `write_quorum` of `followers` with these delays; `None` unless `1 ≤ W ≤ N`.
    pub fn of(delays: &Delays, followers: u16, write_quorum: u16) -> Option<Self> {
        let numbers = || Self(Law::Numbers(Box::new(Numbers::new(delays, followers, write_quorum))));
        (1..=followers).contains(&write_quorum).then(numbers)
    }

    /// Expected delay.
    pub fn mean_ms(&self) -> f64 {
        match &self.0 {
            Law::Uniform(law) => law.mean_ms(),
            Law::Numbers(law) => law.mean_ms(),
        }
    }

    /// Standard deviation of the delay.
    pub fn sd_ms(&self) -> f64 {
        match &self.0 {
            Law::Uniform(law) => law.sd_ms(),
            Law::Numbers(law) => law.sd_ms(),
        }
    }

    /// Probability that the delay is at most `delay_ms`.
    pub fn cdf(&self, delay_ms: f64) -> f64 {
        match &self.0 {
            Law::Uniform(law) => law.cdf(delay_ms),
            Law::Numbers(law) => law.cdf(delay_ms),
        }
    }

    /// The delay in ms that a fraction `p` of the writes stays at or below.
    pub fn quantile_ms(&self, p: f64) -> f64 {
        match &self.0 {
            Law::Uniform(law) => law.quantile_ms(p),
            Law::Numbers(law) => law.quantile_ms(p),
        }
    }

    /// The largest distance between this law and the distribution of a **sorted** sample whose values are rounded to
    /// `rounding_ms`: what a Dvoretzky-Kiefer-Wolfowitz band bounds.
    pub fn distance(&self, sorted_ms: &[f64], rounding_ms: f64) -> f64 {
        let count = sorted_ms.len() as f64;
        // Rounded by half a unit at most; the rest is for values that floats do not represent exactly.
        let rounding_ms = rounding_ms / 2.0 + 1e-9;
        let distance_at = |index: usize| {
            let ms = sorted_ms[index];
            let (below, up_to) = (
                sorted_ms.partition_point(|value| *value < ms) as f64 / count,
                sorted_ms.partition_point(|value| *value <= ms) as f64 / count,
            );
            // With steps in the law, its value just below `ms` differs from the value at `ms`.
            (up_to - self.cdf(ms + rounding_ms)).max(self.cdf(ms - rounding_ms) - below)
        };
        (0..sorted_ms.len()).map(distance_at).fold(0.0, f64::max)
    }
}

/// The order statistic of uniform delays, in closed form.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Uniform {
    followers: u16,
    write_quorum: u16,
    min_delay_ms: f64,
    max_delay_ms: f64,
}

impl Uniform {
    /// Expected delay: `a + (b − a)·W/(N + 1)` ms.
    fn mean_ms(&self) -> f64 {
        self.at(f64::from(self.write_quorum) / f64::from(self.followers + 1))
    }

    /// Standard deviation of the delay: `(b − a)·√(W(N−W+1)/((N+1)²(N+2)))` ms.
    fn sd_ms(&self) -> f64 {
        let (n, w) = (f64::from(self.followers), f64::from(self.write_quorum));
        self.span_ms() * (w * (n - w + 1.0) / ((n + 1.0).powi(2) * (n + 2.0))).sqrt()
    }

    /// Probability that the delay is at most `delay_ms`.
    fn cdf(&self, delay_ms: f64) -> f64 {
        if delay_ms >= self.max_delay_ms {
            return 1.0;
        }
        if delay_ms <= self.min_delay_ms {
            return 0.0;
        }
        binomial_tail(self.followers, self.write_quorum, (delay_ms - self.min_delay_ms) / self.span_ms())
    }

    /// The delay in ms that a fraction `p` of the writes stays at or below.
    ///
    /// The binomial tail grows strictly with `x`, so bisection finds the one `x` where it is `p`; 60 halvings of
    /// [0, 1] leave less than the rounding of the sum itself.
    fn quantile_ms(&self, p: f64) -> f64 {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let middle = f64::midpoint(low, high);
            if binomial_tail(self.followers, self.write_quorum, middle) < p {
                low = middle;
            } else {
                high = middle;
            }
        }
        self.at(f64::midpoint(low, high))
    }

    fn span_ms(&self) -> f64 {
        self.max_delay_ms - self.min_delay_ms
    }

    fn at(&self, fraction: f64) -> f64 {
        self.min_delay_ms + self.span_ms() * fraction
    }
}

/// "0-200 ms", "yammer", or the law as JSON.
pub fn delays_name(delay: Option<&DelayLaw>, min_delay_ms: u32, max_delay_ms: u32) -> String {
    match delay {
        None => format!("{min_delay_ms}-{max_delay_ms} ms"),
        Some(law) => match &law.preset {
            Some(name) if *law == DelayLaw::preset(name) => name.clone(),
            _ => serde_json::to_string(law).unwrap_or_else(|_| "of a law".to_owned()),
        },
    }
}

/// Probability that a read at one random of `followers` misses a write whose commit at `write_quorum` lies
/// `elapsed_fraction·(b − a)` in the past (clamped to [0, 1]).
pub fn stale_read_probability(followers: u16, write_quorum: u16, elapsed_fraction: f64) -> f64 {
    let missing_at_commit = followers.saturating_sub(write_quorum);
    let u = elapsed_fraction.clamp(0.0, 1.0);
    // Not `sum`, whose value for nothing is −0.
    let still_missing = (0..missing_at_commit).fold(0.0, |sum, arrived| {
        sum + f64::from(missing_at_commit - arrived) * binomial_probability(followers, arrived, u)
    });
    still_missing / f64::from(followers.max(1))
}

/// `P(X ≥ at_least)` for `X ~ Binomial(n, x)`: the regularised incomplete beta function `I_x(at_least, n−at_least+1)`.
fn binomial_tail(n: u16, at_least: u16, x: f64) -> f64 {
    (at_least..=n).map(|k| binomial_probability(n, k, x)).sum()
}

/// `C(n,k) xᵏ (1−x)^{n−k}`. Each ratio of the coefficient is multiplied by one `x(1−x)` right away, so that with `n` in
/// the hundreds neither does the coefficient overflow nor do the powers vanish first.
fn binomial_probability(n: u16, k: u16, x: f64) -> f64 {
    if k > n {
        return 0.0;
    }
    let k_small = k.min(n - k);
    let (often, rare) = if k_small == k { (1.0 - x, x) } else { (x, 1.0 - x) };
    let paired: f64 = (1..=k_small).map(|i| f64::from(n - k_small + i) / f64::from(i) * rare * often).product();
    paired * often.powi(i32::from(n - 2 * k_small))
}

#[cfg(test)]
mod tests {
    //! Goal: the closed forms are right. Method: published values for five followers, integrals and symmetries
    //! that must hold for any N, and a simulation that shares no formula with the code.
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn law(followers: u16, write_quorum: u16) -> QuorumDelay {
        QuorumDelay::new(followers, write_quorum, 0.0, 200.0).expect("valid quorum")
    }

    fn close(left: f64, right: f64, tolerance: f64, what: &str) {
        assert!((left - right).abs() <= tolerance, "{what}: {left} is not {right} ± {tolerance}");
    }

    #[test]
    fn five_followers_have_the_published_figures() {
        let means = [33.3, 66.7, 100.0, 133.3, 166.7];
        let sds = [28.2, 35.6, 37.8, 35.6, 28.2];
        let medians = [0.129, 0.314, 0.500, 0.686, 0.871];
        let p99s = [0.602, 0.778, 0.894, 0.967, 0.998];
        for (index, write_quorum) in (1..=5).enumerate() {
            let law = law(5, write_quorum);
            close(law.mean_ms(), means[index], 0.05, "mean");
            close(law.sd_ms(), sds[index], 0.05, "sd");
            close(law.quantile_ms(0.50) / 200.0, medians[index], 0.0005, "median");
            close(law.quantile_ms(0.99) / 200.0, p99s[index], 0.0005, "p99");
        }
    }

    #[test]
    fn stale_reads_have_the_published_figures() {
        let published = [
            [0.800, 0.700, 0.550, 0.306, 0.0975],
            [0.600, 0.500, 0.353, 0.144, 0.024],
            [0.400, 0.302, 0.174, 0.044, 0.003],
            [0.200, 0.118, 0.0475, 0.006, 0.000],
            [0.0; 5],
        ];
        for (row, write_quorum) in published.iter().zip(1..) {
            for (expected, elapsed) in row.iter().zip([0.0, 0.1, 0.25, 0.5, 0.75]) {
                let what = format!("W={write_quorum}, t={elapsed}");
                close(stale_read_probability(5, write_quorum, elapsed), *expected, 0.0006, &what);
            }
        }
        assert_eq!(stale_read_probability(5, 1, 7.0), 0.0, "everything has arrived after the longest delay");
        assert!(stale_read_probability(5, 5, 0.0).is_sign_positive(), "not printed as -0");
    }

    #[test]
    fn a_quantile_is_where_the_cdf_reaches_p() {
        for (n, w) in [(1, 1), (3, 2), (9, 1), (9, 9), (200, 101)] {
            let law = QuorumDelay::new(n, w, 20.0, 60.0).expect("valid quorum");
            for p in [0.01, 0.5, 0.9, 0.99] {
                close(law.cdf(law.quantile_ms(p)), p, 1e-9, &format!("N={n}, W={w}"));
            }
            assert_eq!((law.cdf(20.0), law.cdf(60.0)), (0.0, 1.0));
        }
    }

    /// mean = a + ∫(1 − F): ties the closed form of the mean to the distribution function.
    #[test]
    fn the_mean_is_the_integral_of_the_tail() {
        for (n, w) in [(5, 3), (9, 2), (3, 3)] {
            let law = QuorumDelay::new(n, w, 20.0, 60.0).expect("valid quorum");
            let step = 0.001;
            let tail: f64 = (0..40_000).map(|i| 1.0 - law.cdf(20.0 + (f64::from(i) + 0.5) * step)).sum();
            close(law.mean_ms(), 20.0 + tail * step, 1e-5, &format!("N={n}, W={w}"));
        }
    }

    #[test]
    fn the_first_of_n_mirrors_the_last_of_n() {
        for n in [2, 5, 9] {
            for w in 1..=n {
                let (early, late) = (law(n, w), law(n, n + 1 - w));
                close(early.mean_ms() + late.mean_ms(), 200.0, 1e-9, "means");
                close(early.sd_ms(), late.sd_ms(), 1e-9, "sds");
                close(early.quantile_ms(0.1) + late.quantile_ms(0.9), 200.0, 1e-6, "quantiles");
            }
        }
    }

    #[test]
    fn impossible_laws_are_refused() {
        for (n, w, a, b) in
            [(5, 0, 0.0, 1.0), (5, 6, 0.0, 1.0), (5, 3, 2.0, 1.0), (5, 3, -1.0, 1.0), (5, 3, 0.0, f64::NAN)]
        {
            assert_eq!(QuorumDelay::new(n, w, a, b), None, "N={n}, W={w}, {a}-{b} ms");
        }
        let fixed = QuorumDelay::new(5, 3, 40.0, 40.0).expect("no spread is a law too");
        assert_eq!((fixed.mean_ms(), fixed.sd_ms(), fixed.quantile_ms(0.99)), (40.0, 0.0, 40.0));
    }

    #[test]
    fn a_simulation_agrees_with_mean_spread_and_quantiles() {
        let mut random = StdRng::seed_from_u64(5);
        for (n, w) in [(5_u16, 1_u16), (5, 3), (5, 5), (9, 4)] {
            let law = QuorumDelay::new(n, w, 20.0, 120.0).expect("valid quorum");
            let mut drawn: Vec<f64> = (0..40_000)
                .map(|_| {
                    let mut delays: Vec<f64> = (0..n).map(|_| random.random_range(20.0..120.0)).collect();
                    delays.sort_by(f64::total_cmp);
                    delays[w as usize - 1]
                })
                .collect();
            drawn.sort_by(f64::total_cmp);
            let summary = crate::stats::Summary::of(&drawn).expect("not empty");
            let what = format!("N={n}, W={w}");
            close(law.mean_ms(), summary.mean_ms, 4.0 * summary.standard_error_ms, &what);
            close(law.sd_ms(), summary.sd_ms, 0.03 * law.sd_ms(), &what);
            close(law.quantile_ms(0.5), summary.p50_ms, 0.8, &what);
            close(law.quantile_ms(0.9), summary.p90_ms, 0.8, &what);
            close(law.quantile_ms(0.99), summary.p99_ms, 1.6, &what);
        }
    }

    #[test]
    fn a_simulation_agrees_with_the_stale_reads() {
        let mut random = StdRng::seed_from_u64(8);
        let draws = 40_000;
        for (n, w, elapsed) in [(5_u16, 1_u16, 0.25), (5, 3, 0.1), (5, 4, 0.5), (9, 2, 0.3)] {
            let stale = (0..draws)
                .filter(|_| {
                    let delays: Vec<f64> = (0..n).map(|_| random.random::<f64>()).collect();
                    let mut sorted = delays.clone();
                    sorted.sort_by(f64::total_cmp);
                    let read_at = sorted[w as usize - 1] + elapsed;
                    delays[random.random_range(0..n as usize)] > read_at
                })
                .count();
            close(
                stale_read_probability(n, w, elapsed),
                stale as f64 / f64::from(draws),
                0.011,
                &format!("N={n}, W={w}"),
            );
        }
    }
}
