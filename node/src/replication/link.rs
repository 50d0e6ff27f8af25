//! Common to both ends of a replication connection: the keep-alive frames, and the timeout that
//! closes it.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Header with the leader's URL for clients.
pub(crate) const LEADER_HEADER: &str = "x-kvcluster-leader";

/// An idle end sends a keep-alive frame this often.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_millis(500);

/// An end that received nothing for this long closes the connection.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Number of ticks of a [`Watch`] without activity after which [`SILENCE_MAX`] has passed.
pub(crate) const QUIET_TICKS_MAX: u32 = (SILENCE_MAX.as_millis() / ALIVE_EVERY.as_millis()) as u32;

/// Counts ticks of [`ALIVE_EVERY`] since the last activity. One timer serves the whole life of a
/// connection. A timeout around every read would be set and cancelled a hundred thousand times for
/// each time that it fires.
pub(crate) struct Watch {
    ticks: Interval,
    quiet_ticks: u32,
}

impl Watch {
    pub(crate) fn new() -> Self {
        let mut ticks = interval(ALIVE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, quiet_ticks: 0 }
    }

    /// Records activity.
    pub(crate) fn note(&mut self) {
        self.quiet_ticks = 0;
    }

    /// Waits for the next tick. Returns the number of ticks since the last activity, this one
    /// included.
    pub(crate) async fn tick(&mut self) -> u32 {
        self.ticks.tick().await;
        self.quiet_ticks += 1;
        self.quiet_ticks
    }
}
