//! How late this machine wakes a thread that slept: what no system under load can be quicker than.
//!
//! A write passes several processes that sleep until a message arrives. Where others have the processors, or a hypervisor
//! has them, each such hop waits, and the tail of the latencies says as much of the machine as of the system on it.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use hdrhistogram::Histogram;

use super::recorder::{Window, histogram};

/// Rare enough that the processors fall asleep in between as they would without it.
const SLEEP: Duration = Duration::from_millis(5);
const DIGITS: u8 = 3;

/// Sleeps again and again until `is_over`. Returns by how much longer than asked for each sleep took that began within
/// `window`, in µs.
///
/// # Errors
/// Never with the digits above; the histogram's functions are such that can fail.
pub(super) fn wake_ups(begin: Instant, window: Window, is_over: impl Fn() -> bool) -> Result<Histogram<u64>> {
    let mut late_us = histogram(DIGITS)?;
    while !is_over() {
        let asleep = Instant::now();
        thread::sleep(SLEEP);
        let late = asleep.elapsed().saturating_sub(SLEEP);
        if window.contains(u64::try_from((asleep - begin).as_nanos()).unwrap_or(u64::MAX)) {
            late_us.record(u64::try_from(late.as_micros())?)?;
        }
    }
    Ok(late_us)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn sleeps_within(window: Window, sleeps: u32) -> u64 {
        let left = Cell::new(sleeps);
        let is_over = || left.replace(left.get().saturating_sub(1)) == 0;
        wake_ups(Instant::now(), window, is_over).expect("a histogram").len()
    }

    #[test]
    fn only_what_began_within_the_window_counts() {
        assert_eq!(sleeps_within(Window { from_ns: 0, until_ns: u64::MAX }, 3), 3);
        assert_eq!(sleeps_within(Window { from_ns: u64::MAX - 1, until_ns: u64::MAX }, 3), 0);
    }
}
