//! What both ends of a replication connection share: the signs of life, the silence that ends it, and the bare stream
//! under an upgraded HTTP connection.

use std::time::Duration;

use bytes::BytesMut;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Header in which a leader says where clients reach it.
pub(crate) const LEADER_HEADER: &str = "x-kvcluster-leader";

/// An idle end sends a sign of life this often.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_millis(500);

/// An end that received nothing for this long closes the connection.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(3);

/// More ticks of a [`Watch`] than this without anything noted are a silence.
pub(crate) const QUIET_TICKS_MAX: u32 = (SILENCE_MAX.as_millis() / ALIVE_EVERY.as_millis()) as u32;

/// The upgraded connection does not run over TCP.
#[derive(Debug, thiserror::Error)]
#[error("the connection is not over TCP")]
pub(crate) struct NotTcp;

/// Returns the connection under an upgraded one, and the bytes that HTTP already read from it.
///
/// Every layer around the connection would cost on every message (docs/performance.md).
///
/// # Errors
/// [`NotTcp`].
pub(crate) fn bare(upgraded: Upgraded) -> Result<(TcpStream, BytesMut), NotTcp> {
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().map_err(|_| NotTcp)?;
    let mut buffer = BytesMut::with_capacity(64 << 10);
    buffer.extend_from_slice(&parts.read_buf);
    Ok((parts.io.into_inner(), buffer))
}

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
