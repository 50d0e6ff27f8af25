//! Common to both ends of a replication connection: the keep-alive frames, and the timeout that
//! closes it, and the reasons for which one ends.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::wire::WireError;

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

/// Why a connection failed or ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection could not be opened.
    #[error("failed to connect: {0}")]
    Connect(String),
    /// There is no session: one of both refuses the certificate of the other, or the follower does not speak TLS.
    #[error("failed to open a session of TLS: {0}")]
    Tls(String),
    /// The follower's HTTP server refused the upgrade.
    #[error("refused with status {status}: {body}")]
    Status {
        /// Of the answer.
        status: u16,
        /// Of the answer.
        body: String,
    },
    /// No bytes arrived within this time.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// The follower closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// The first message was not a greeting.
    #[error("the first message was not a greeting")]
    NoHello,
    /// The connection cannot be upgraded.
    #[error("the connection is not over TCP")]
    NotTcp,
    /// The leader closed the connection.
    #[error("closed to start over")]
    Reset,
    /// The follower reads too slowly.
    #[error("{bytes} bytes wait to be sent (limit {limit}): the follower does not read")]
    Full {
        /// How many wait.
        bytes: usize,
        /// How many may.
        limit: usize,
    },
    /// Reading or writing failed.
    #[error("failed to read or write: {0}")]
    Io(#[from] std::io::Error),
    /// A received frame is invalid.
    #[error(transparent)]
    Wire(#[from] WireError),
}
