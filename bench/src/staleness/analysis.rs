//! The stale reads at each time beside theory.

use serde::Serialize;

use crate::{
    staleness::probe::{Observation, Run},
    stats::{binomial_interval, mean, quantile},
    theory::StaleTable,
};

/// The chance that any interval of a measurement misses its truth: all of them together hold in 99 of 100 measurements.
pub const ERROR: f64 = 0.01;

/// What was measured at one write quorum, and what should have been.
#[derive(Clone, Debug, Serialize)]
pub struct QuorumReport {
    /// Followers that had to confirm each write, W.
    pub write_quorum: u16,
    /// Writes that were acknowledged, and read at each of the times.
    pub acknowledged: usize,
    /// Writes that were not.
    pub failed_writes: usize,
    /// Reads without an answer.
    pub failed_reads: usize,
    /// What the first failure met.
    pub first_failure: Option<String>,
    /// How exactly the time from commit to read is known, in ms: the median of the widths of its bounds.
    pub width_p50_ms: f64,
    /// The 99 % quantile of the same.
    pub width_p99_ms: f64,
    /// One for each time.
    pub cells: Vec<Cell>,
}

/// The reads at one time after the acknowledgement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// The time from the acknowledgement on at which a read was to begin, in ms.
    pub time_ms: f64,
    /// The medians of the shortest and the longest times that can have passed from the commit to the read, in ms.
    pub elapsed_ms: (f64, f64),
    /// Reads.
    pub reads: u64,
    /// Those that missed the write.
    pub stale: u64,
    /// Their share.
    pub share: f64,
    /// The interval of the share: all intervals of a measurement together hold in 99 of 100.
    pub interval: (f64, f64),
    /// The chance in theory after exactly the time asked for.
    pub theory_at_time: f64,
    /// The chances in theory after the longest and the shortest times that can have passed, on average over the reads.
    pub theory: (f64, f64),
    /// The same from the delays that the leader drew for the very writes that were read: without the luck of the draw.
    /// Absent when the leader does not explain its delays.
    pub drawn: Option<(f64, f64)>,
}

/// Where a measured share is beside theory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The interval reaches what theory allows.
    Within,
    /// More reads are stale than theory allows.
    Above,
    /// Fewer are.
    Below,
}

impl Cell {
    fn new(time_ms: f64, write_quorum: u16, theory: &StaleTable, cells: usize, observations: &[Observation]) -> Self {
        let average = |value: &dyn Fn(&Observation) -> f64| {
            mean(&observations.iter().map(value).collect::<Vec<_>>()).unwrap_or_default()
        };
        let median = |value: &dyn Fn(&Observation) -> f64| {
            let mut values: Vec<f64> = observations.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            if values.is_empty() { 0.0 } else { quantile(&values, 0.5) }
        };
        let (reads, stale) = (observations.len(), observations.iter().filter(|read| read.is_stale).count());
        let (reads, stale) = (reads as u64, stale as u64);
        let chance = |elapsed_ms: f64| theory.probability(write_quorum, elapsed_ms);
        let explained = reads > 0 && observations.iter().all(|read| read.drawn.is_some());
        let drawn = |read: &Observation| read.drawn.unwrap_or_default();
        Self {
            time_ms,
            // Of a machine that stands still for a second, means would say little.
            elapsed_ms: (median(&|read| read.elapsed_ms.0), median(&|read| read.elapsed_ms.1)),
            reads,
            stale,
            share: if reads > 0 { stale as f64 / reads as f64 } else { 0.0 },
            interval: binomial_interval(stale, reads, ERROR / cells as f64),
            theory_at_time: chance(time_ms),
            theory: (average(&|read| chance(read.elapsed_ms.1)), average(&|read| chance(read.elapsed_ms.0))),
            drawn: explained.then(|| (average(&|read| drawn(read).0), average(&|read| drawn(read).1))),
        }
    }

    /// Where the share is beside theory.
    #[must_use]
    pub fn place(&self) -> Place {
        let ((low, high), (least, most)) = (self.interval, self.theory);
        if self.reads == 0 || (low <= most && least <= high) {
            Place::Within
        } else if low > most {
            Place::Above
        } else {
            Place::Below
        }
    }

    /// How far the interval is from what theory allows; 0 where it reaches it.
    #[must_use]
    pub fn distance(&self) -> f64 {
        match self.place() {
            Place::Within => 0.0,
            Place::Above => self.interval.0 - self.theory.1,
            Place::Below => self.theory.0 - self.interval.1,
        }
    }
}

impl QuorumReport {
    /// Sets the reads at these times beside `theory`, as some of the `cells` of the whole measurement.
    #[must_use]
    pub fn new(write_quorum: u16, times_ms: &[f64], theory: &StaleTable, cells: usize, run: Run) -> Self {
        let all = || run.observations.iter().flatten();
        let mut widths: Vec<f64> = all().map(|read| read.elapsed_ms.1 - read.elapsed_ms.0).collect();
        widths.sort_by(f64::total_cmp);
        let width = |p: f64| if widths.is_empty() { 0.0 } else { quantile(&widths, p) };
        let cell =
            |(time_ms, reads): (&f64, &Vec<Observation>)| Cell::new(*time_ms, write_quorum, theory, cells, reads);
        Self {
            write_quorum,
            acknowledged: run.acknowledged,
            failed_writes: run.failed_writes,
            failed_reads: run.failed_reads,
            width_p50_ms: width(0.5),
            width_p99_ms: width(0.99),
            cells: times_ms.iter().zip(&run.observations).map(cell).collect(),
            first_failure: run.first_failure,
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a system that follows theory is within, and one that does not is seen. Method: synthetic reads.
    use super::*;
    use crate::staleness::testing::{Behaviour, synthetic_quorums};

    fn outside(behaviour: Behaviour) -> Vec<(u16, f64, Place)> {
        let quorums = synthetic_quorums(behaviour, 5, &[0.0, 5.0, 20.0, 60.0], 4_000);
        let cells = quorums.iter().flat_map(|quorum| quorum.cells.iter().map(|cell| (quorum.write_quorum, cell)));
        let places = cells.map(|(quorum, cell)| (quorum, cell.time_ms, cell.place()));
        places.filter(|(_, _, place)| *place != Place::Within).collect()
    }

    #[test]
    fn reads_that_follow_theory_are_within() {
        assert_eq!(outside(Behaviour::Sound), []);
    }

    #[test]
    fn followers_that_apply_late_are_above() {
        let outside = outside(Behaviour::AppliesLate);
        assert!(outside.iter().all(|(_, _, place)| *place == Place::Above), "{outside:?}");
        assert!(outside.contains(&(1, 5.0, Place::Above)), "{outside:?}");
        assert!(outside.contains(&(5, 0.0, Place::Above)), "theory allows none at W = N: {outside:?}");
    }

    #[test]
    fn a_commit_that_waits_for_all_is_below() {
        let outside = outside(Behaviour::WaitsForAll);
        assert!(outside.iter().all(|(_, _, place)| *place == Place::Below), "{outside:?}");
        assert!(outside.contains(&(1, 0.0, Place::Below)), "{outside:?}");
    }

    #[test]
    fn the_delays_that_were_drawn_explain_the_luck() {
        for quorum in synthetic_quorums(Behaviour::Sound, 5, &[10.0], 300) {
            let cell = &quorum.cells[0];
            let (least, most) = cell.drawn.expect("explained");
            assert!(least <= most && least > cell.theory.0 - 0.1 && most < cell.theory.1 + 0.1, "{cell:?}");
        }
    }

    #[test]
    fn nothing_read_proves_nothing() {
        let run = Run { observations: vec![Vec::new()], ..Run::default() };
        let table = crate::theory::StaleReads::new(&kvcluster_api::delay::Delays::uniform(0.0, 9.0), 5).table(9.0);
        let report = QuorumReport::new(2, &[1.0], &table, 1, run);
        assert_eq!((report.cells[0].interval, report.cells[0].place()), ((0.0, 1.0), Place::Within));
    }
}
