//! Bars on standard error, one per quorum.

use std::cell::Cell;

use indicatif::{ProgressBar, ProgressStyle};

use super::{analysis::QuorumReport, workload::WriteSample};
use crate::progress::Progress;

const TEMPLATE: &str = "{prefix:>7} {bar:32.cyan/dim} {pos:>6}/{len} writes  {msg}";

/// The bar of one quorum, with the mean so far.
#[derive(Debug)]
pub struct QuorumBar {
    bar: ProgressBar,
    sum_ms: Cell<f64>,
    count: Cell<u64>,
}

impl QuorumBar {
    /// A bar below those of earlier quorums.
    pub fn new(progress: &Progress, write_quorum: u16, writes: usize) -> Self {
        let bar = progress.bar(writes as u64);
        // Templates are fixed texts, checked by a test; the default style would do in their place.
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_prefix(format!("W = {write_quorum}"));
        progress.note(&format!("measuring write quorum {write_quorum}"));
        Self { bar, sum_ms: Cell::new(0.0), count: Cell::new(0) }
    }

    /// Counts a write.
    pub fn write(&self, sample: &WriteSample) {
        self.sum_ms.set(self.sum_ms.get() + sample.latency_ms);
        self.count.set(self.count.get() + 1);
        self.bar.inc(1);
        // The text is shown a few times a second; to build it for every write would be measured.
        if self.count.get().is_multiple_of(64) {
            self.bar.set_message(format!("mean {:.1} ms", self.sum_ms.get() / self.count.get() as f64));
        }
    }

    /// Leaves the result on the screen.
    pub fn finish(&self, report: &QuorumReport) {
        let result = report.latency.map_or_else(
            || "no write was committed".to_owned(),
            |latency| {
                let theory = report.theory.mean_ms;
                format!("mean {:.1} ± {:.1} ms, theory {theory:.1} ms", latency.mean_ms, latency.mean_interval_ms)
            },
        );
        self.bar.abandon_with_message(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_bar_can_be_used_as_a_shown_one() {
        let progress = Progress::hidden();
        progress.note("something");
        let _bar = QuorumBar::new(&progress, 1, 10);
        progress.finish();
    }

    #[test]
    fn the_template_is_valid() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
