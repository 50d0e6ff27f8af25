//! When requests of an open loop should be sent: at a rate, whatever the system does meanwhile.

use rand::{RngExt, rngs::StdRng};
use serde::Serialize;

/// How arrivals follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// As independent clients send: exponential times between them.
    Poisson,
    /// One every 1/rate.
    Even,
}

/// The arrivals of one thread, in ns since the run began.
#[derive(Debug)]
pub(super) struct Schedule {
    arrivals: Arrivals,
    interval_ns: f64,
    /// As a fraction, so that no rate drifts.
    next_ns: f64,
}

impl Schedule {
    /// `share` of `shares` equal parts of `rate` arrivals a second; even arrivals of the parts interleave.
    pub(super) fn new(arrivals: Arrivals, rate: f64, share: usize, shares: usize, random: &mut StdRng) -> Self {
        let interval_ns = 1e9 * shares as f64 / rate;
        let mut schedule = Self { arrivals, interval_ns, next_ns: 0.0 };
        schedule.next_ns = match arrivals {
            Arrivals::Poisson => schedule.gap_ns(random),
            Arrivals::Even => interval_ns * share as f64 / shares as f64,
        };
        schedule
    }

    /// The next arrival.
    pub(super) fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// Takes the next arrival.
    pub(super) fn take(&mut self, random: &mut StdRng) -> u64 {
        let taken = self.next_ns();
        self.next_ns += self.gap_ns(random);
        taken
    }

    fn gap_ns(&self, random: &mut StdRng) -> f64 {
        match self.arrivals {
            Arrivals::Poisson => -self.interval_ns * (1.0 - random.random::<f64>()).ln(),
            Arrivals::Even => self.interval_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn gaps(arrivals: Arrivals, count: usize) -> Vec<f64> {
        let mut random = StdRng::seed_from_u64(3);
        let mut schedule = Schedule::new(arrivals, 2_000.0, 0, 1, &mut random);
        let times: Vec<u64> = (0..=count).map(|_| schedule.take(&mut random)).collect();
        times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e9).collect()
    }

    #[test]
    fn poisson_gaps_are_exponential() {
        let gaps = gaps(Arrivals::Poisson, 100_000);
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 2_000.0 - 1.0).abs() < 0.02, "mean gap {mean} s");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "standard deviation over mean {}", variance.sqrt() / mean);
        let longer = gaps.iter().filter(|gap| **gap > 1.0 / 2_000.0).count() as f64 / gaps.len() as f64;
        assert!((longer - (-1.0_f64).exp()).abs() < 0.01, "{longer} of the gaps exceed the mean");
    }

    #[test]
    fn even_arrivals_come_at_their_rate_without_drift_and_shares_interleave() {
        let all = gaps(Arrivals::Even, 1_000);
        assert!(all.iter().all(|gap| (gap - 0.000_5).abs() < 2e-9), "{:?}", all.first());
        let mut random = StdRng::seed_from_u64(3);
        let mut times = Vec::new();
        for share in 0..3 {
            let mut schedule = Schedule::new(Arrivals::Even, 3_000_000.0 / 7.0, share, 3, &mut random);
            times.extend((0..1_000).map(|_| schedule.take(&mut random)));
        }
        times.sort_unstable();
        let last = times.last().copied().expect("not empty");
        assert!(last.abs_diff(2_999 * 7_000 / 3) <= 1, "{last}");
        assert!(times.windows(2).all(|pair| (2_333..=2_334).contains(&(pair[1] - pair[0]))));
    }
}
