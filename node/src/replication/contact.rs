//! Contact with one follower: when to try again, and what to log.
//!
//! Each change is logged once: connected, disconnected. Repeated failures are summed up in one line
//! after [`FIRST_REPORT`], and then at intervals that double. A connection that ends within
//! [`STABLE_AFTER`] counts as a failure too; otherwise a follower that accepts and drops every
//! connection would fill the log.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::session::Backoff;

/// How long attempts fail before this is logged.
const FIRST_REPORT: Duration = Duration::from_secs(2);

/// Longest interval between two reports.
const REPORT_EVERY_MAX: Duration = Duration::from_secs(300);

/// A connection that lasts this long ends a series of failures.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// Contact with the follower at one URL.
pub(super) struct Contact {
    url: String,
    backoff: Backoff,
    failing: Option<Failing>,
    /// Whether the last connection was a short one.
    short: bool,
}

/// A series of failures.
struct Failing {
    since: Instant,
    attempts: u32,
    /// When to report next, counted from `since`.
    report_after: Duration,
}

impl Failing {
    fn new(now: Instant) -> Self {
        Self { since: now, attempts: 0, report_after: FIRST_REPORT }
    }

    /// Counts an attempt. Returns whether to log the failures now.
    fn count(&mut self, now: Instant) -> bool {
        self.attempts += 1;
        let lasted = now.duration_since(self.since);
        let due = lasted >= self.report_after;
        if due {
            self.report_after = (lasted * 2).min(lasted + REPORT_EVERY_MAX);
        }
        due
    }
}

impl Contact {
    pub(super) fn new(url: String) -> Self {
        Self { url, backoff: Backoff::new(), failing: None, short: false }
    }

    /// Records a failed attempt.
    pub(super) fn failed(&mut self, error: &str) {
        let now = Instant::now();
        let failing = self.failing.get_or_insert_with(|| Failing::new(now));
        if failing.count(now) {
            let (attempts, for_s) = (failing.attempts, now.duration_since(failing.since).as_secs());
            warn!(follower = self.url, for_s, attempts, error, "follower is not connected");
        } else {
            debug!(follower = self.url, error, "failed to connect to a follower");
        }
    }

    /// Runs a connection to its end. In a series of short connections, only the first one is
    /// logged.
    pub(super) async fn keep<E: std::fmt::Display>(&mut self, who: &str, connection: impl Future<Output = E>) {
        let mut connection = pin!(connection);
        if !self.short {
            info!(follower = self.url, who, "follower connected");
        }
        let error = match timeout(STABLE_AFTER, connection.as_mut()).await {
            Ok(error) if self.short => return self.failed(&error.to_string()),
            Ok(error) => {
                self.short = true;
                error
            }
            Err(_) => {
                if std::mem::take(&mut self.short) {
                    info!(follower = self.url, who, "follower connected");
                }
                self.failing = None;
                self.backoff.connected();
                connection.await
            }
        };
        warn!(follower = self.url, who, %error, "follower disconnected");
    }

    /// Waits before the next attempt, longer after each failure.
    pub(super) async fn pause(&mut self) {
        self.backoff.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_reported_soon_and_then_at_growing_intervals() {
        let begun = Instant::now();
        let mut failing = Failing::new(begun);
        let reported: Vec<u64> =
            (0..3_600).filter(|second| failing.count(begun + Duration::from_secs(*second))).collect();
        assert_eq!(reported[..8], [2, 4, 8, 16, 32, 64, 128, 256]);
        assert!(reported[8..].windows(2).all(|pair| pair[1] - pair[0] == 300), "{reported:?}");
        assert_eq!(failing.attempts, 3_600);
    }
}
