//! The latencies of committed writes in narrow buckets, for the live page.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use serde::Serialize;

/// Buckets per doubling of the latency: a bucket is at most 1/32 as wide as its values.
const PER_DOUBLING: u64 = 32;

/// Covers every number of microseconds below 2^32, which is more than an hour.
const BUCKETS: usize = 28 * PER_DOUBLING as usize;

/// Counts latencies while it is on. Off, a write costs one relaxed load.
#[derive(Debug)]
pub(crate) struct Latencies {
    on: AtomicBool,
    sum_us: AtomicU64,
    counts: [AtomicU64; BUCKETS],
}

/// The latencies counted so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct LatencyCounts {
    /// How many writes.
    pub(crate) count: u64,
    /// The sum of their latencies, in milliseconds.
    pub(crate) sum_ms: f64,
    /// `[from, to, count]` of each bucket that is not empty, in microseconds; `to` is excluded.
    pub(crate) buckets: Vec<[u64; 3]>,
}

impl Default for Latencies {
    fn default() -> Self {
        let counts = std::array::from_fn(|_| AtomicU64::new(0));
        Self { on: AtomicBool::new(false), sum_us: AtomicU64::new(0), counts }
    }
}

impl Latencies {
    /// Starts to count, from nothing, or stops.
    pub(crate) fn switch(&self, on: bool) {
        if on {
            self.sum_us.store(0, Relaxed);
            self.counts.iter().for_each(|count| count.store(0, Relaxed));
        }
        self.on.store(on, Relaxed);
    }

    /// Counts the latency of a committed write.
    pub(crate) fn observe(&self, seconds: f64) {
        if !self.on.load(Relaxed) {
            return;
        }
        let us = ((seconds * 1e6) as u64).min(u64::from(u32::MAX));
        self.sum_us.fetch_add(us, Relaxed);
        if let Some(count) = self.counts.get(bucket_of(us)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// The latencies counted so far.
    pub(crate) fn counts(&self) -> LatencyCounts {
        let filled = self.counts.iter().enumerate().map(|(index, count)| (index, count.load(Relaxed)));
        let buckets: Vec<_> = filled
            .filter(|(_, count)| *count > 0)
            .map(|(index, count)| [start_us(index), start_us(index + 1), count])
            .collect();
        LatencyCounts {
            count: buckets.iter().map(|[.., count]| count).sum(),
            sum_ms: self.sum_us.load(Relaxed) as f64 / 1e3,
            buckets,
        }
    }
}

/// Below 64 µs a bucket is 1 µs wide; from there on its width doubles with each doubling.
fn bucket_of(us: u64) -> usize {
    let shift = (u64::BITS - us.leading_zeros()).saturating_sub(6);
    (u64::from(shift) * PER_DOUBLING + (us >> shift)) as usize
}

/// The least latency of a bucket.
fn start_us(index: usize) -> u64 {
    let index = index as u64;
    let shift = (index / PER_DOUBLING).saturating_sub(1);
    (index - shift * PER_DOUBLING) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every latency is in the bucket whose bounds surround it, and no bucket is wide.
    #[test]
    fn buckets_surround_their_latencies() {
        for us in (0..20_000).chain((14..32).flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 1])) {
            let (from, to) = (start_us(bucket_of(us)), start_us(bucket_of(us) + 1));
            assert!((from..to).contains(&us), "{us} is not in [{from}, {to})");
            assert!((to - from) * PER_DOUBLING <= from.max(PER_DOUBLING), "[{from}, {to}) is wide");
        }
        assert!(bucket_of(u64::from(u32::MAX)) < BUCKETS);
    }

    #[test]
    fn nothing_is_counted_while_it_is_off() {
        let latencies = Latencies::default();
        latencies.observe(0.1);
        assert_eq!(latencies.counts(), LatencyCounts::default());
        latencies.switch(true);
        latencies.observe(0.1);
        latencies.observe(0.1);
        latencies.observe(1e9);
        let counts = latencies.counts();
        assert_eq!((counts.count, counts.buckets.len()), (3, 2));
        assert_eq!(counts.buckets[0][2], 2);
        latencies.switch(false);
        latencies.observe(0.1);
        assert_eq!(latencies.counts(), counts);
        latencies.switch(true);
        assert_eq!(latencies.counts(), LatencyCounts::default(), "it starts from nothing");
    }
}
