//! Bars on standard error, one per quorum; nothing at all when standard error is no terminal.

use std::{cell::Cell, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::{analysis::QuorumReport, interrupt::Interrupt, load::Observer, workload::WriteSample};

/// The bars of a sweep.
#[derive(Debug)]
pub struct Progress {
    bars: MultiProgress,
    spinner: ProgressBar,
}

impl Progress {
    /// Bars on standard error; indicatif hides them by itself when that is no terminal.
    pub fn on_stderr() -> Self {
        let bars = MultiProgress::new();
        let spinner = bars.add(ProgressBar::new_spinner());
        spinner.enable_steady_tick(Duration::from_millis(120));
        Self { bars, spinner }
    }

    /// No bars.
    pub fn hidden() -> Self {
        let bars = MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden());
        let spinner = bars.add(ProgressBar::hidden());
        Self { bars, spinner }
    }

    /// Shows what happens between the measurements.
    pub fn note(&self, what: &str) {
        self.spinner.set_message(what.to_owned());
    }

    /// The bar of one quorum's writes.
    pub fn quorum(&self, write_quorum: u16, writes: usize) -> QuorumBar {
        let bar = self.bars.insert_before(&self.spinner, ProgressBar::new(writes as u64));
        // Templates are fixed texts, checked by a test; the default style would do in their place.
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_prefix(format!("W = {write_quorum}"));
        self.note(&format!("measuring write quorum {write_quorum}"));
        QuorumBar { bar, sum_ms: Cell::new(0.0), count: Cell::new(0) }
    }

    /// Removes what is not worth keeping on the screen.
    pub fn finish(&self) {
        self.spinner.finish_and_clear();
    }
}

const TEMPLATE: &str = "{prefix:>7} {bar:32.cyan/dim} {pos:>6}/{len} writes  {msg}";

/// The bar of one quorum, with the mean so far.
#[derive(Debug)]
pub struct QuorumBar {
    bar: ProgressBar,
    sum_ms: Cell<f64>,
    count: Cell<u64>,
}

impl QuorumBar {
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

/// The bar of a load: how long it has been going on, and how fast.
#[derive(Debug)]
pub struct LoadProgress {
    bar: ProgressBar,
    interrupt: Interrupt,
    /// When it was last looked at, and how much was done then.
    last: (Duration, u64),
}

impl LoadProgress {
    /// On standard error, where that is a terminal; the load ends when `interrupt` is requested.
    pub fn on_stderr(interrupt: Interrupt) -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template(LOAD_TEMPLATE) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        Self { bar, interrupt, last: (Duration::ZERO, 0) }
    }

    /// Says what happens.
    pub fn note(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.tick();
    }

    /// How long it will take.
    pub fn expect(&mut self, whole: Duration) {
        self.bar.set_length(u64::try_from(whole.as_millis()).unwrap_or(u64::MAX));
        self.last = (Duration::ZERO, 0);
    }

    /// Prints while the bar is out of the way.
    pub fn print(&self, text: &str) {
        self.bar.suspend(|| print!("{text}"));
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for LoadProgress {
    fn progress(&mut self, stage: &str, elapsed: Duration, done: u64, failed: u64) {
        let (before, done_before) = self.last;
        if elapsed < before {
            self.last = (Duration::ZERO, 0);
        } else if elapsed - before >= Duration::from_millis(500) {
            let per_second = done.saturating_sub(done_before) as f64 / (elapsed - before).as_secs_f64();
            let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
            self.bar.set_message(format!("{stage}, {per_second:.0} operations/s{failed}"));
            self.bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
            self.last = (elapsed, done);
        }
    }

    fn is_stopped(&self) -> bool {
        self.interrupt.is_requested()
    }
}

const LOAD_TEMPLATE: &str = "{bar:32.cyan/dim} {percent:>3} %  {msg}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_bar_can_be_used_as_a_shown_one() {
        let progress = Progress::hidden();
        progress.note("something");
        let _bar = progress.quorum(1, 10);
        progress.finish();
    }

    #[test]
    fn the_template_is_valid() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
        assert!(ProgressStyle::with_template(LOAD_TEMPLATE).is_ok());
    }
}
