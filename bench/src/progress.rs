//! What happens, on standard error; nothing at all when standard error is no terminal.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar};

/// A line that says what happens, and bars above it.
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

    /// Removes what is not worth keeping on the screen.
    pub fn finish(&self) {
        self.spinner.finish_and_clear();
    }

    /// A bar of so many steps above the line of [`Progress::note`].
    pub(crate) fn bar(&self, steps: u64) -> ProgressBar {
        self.bars.insert_before(&self.spinner, ProgressBar::new(steps))
    }
}
