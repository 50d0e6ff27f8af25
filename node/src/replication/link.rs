//! What both ends of a replication connection share: the signs of life, and the silence that ends it.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Header in which a leader says where clients reach it.
pub(crate) const LEADER_HEADER: &str = "x-kvcluster-leader";

/// An idle end sends a sign of life this often.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_millis(500);

/// An end that received nothing for this long closes the connection.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(3);

/// More ticks of a [`Watch`] than this without anything noted are a silence.
pub(crate) const QUIET_TICKS_MAX: u32 = (SILENCE_MAX.as_millis() / ALIVE_EVERY.as_millis()) as u32;

/// Counts ticks of [`ALIVE_EVERY`] since something happened. It is one timer for the life of a connection: a timeout
/// around every read would be set and cancelled a hundred thousand times for each time that it fires.
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

    /// Something happened.
    pub(crate) fn note(&mut self) {
        self.quiet_ticks = 0;
    }

    /// Waits for the next tick. Returns how many passed since something happened, this one included.
    pub(crate) async fn tick(&mut self) -> u32 {
        self.ticks.tick().await;
        self.quiet_ticks += 1;
        self.quiet_ticks
    }
}
