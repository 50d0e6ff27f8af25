//! The bar of a load on standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Observer;
use crate::{interrupt::Interrupt, output::print};

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
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
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
        self.bar.suspend(|| print(text));
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

const TEMPLATE: &str = "{bar:32.cyan/dim} {percent:>3} %  {msg}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
