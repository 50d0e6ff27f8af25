//! A system that runs on this machine to be compared: where it is, and what keeps it running.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::process::Server;
use crate::load::{Dialect, LoadTarget, Processes};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A running system. Dropped, it ends.
pub struct System {
    /// What it is, with its version.
    pub name: String,
    /// Where the load goes.
    pub target: LoadTarget,
    _held: Box<dyn Send>,
}

impl System {
    /// A system that runs for as long as `held` lives.
    pub fn new(name: String, target: LoadTarget, held: impl Send + 'static) -> Self {
        Self { name, target, _held: Box::new(held) }
    }

    /// The first of the servers takes the writes.
    pub(super) fn of_servers(name: String, dialect: Dialect, addresses: Vec<SocketAddr>, servers: Vec<Server>) -> Self {
        let processes = Processes {
            leader: servers.first().map(Server::id),
            followers: servers.iter().skip(1).map(Server::id).collect(),
            data_directories: Vec::new(),
        };
        let leader = addresses[0];
        let followers = addresses[1..].to_vec();
        let target = LoadTarget { description: name.clone(), dialect, leader, followers, processes, token: None };
        Self::new(name, target, servers)
    }
}

impl std::fmt::Debug for System {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("System").field("target", &self.target).finish_non_exhaustive()
    }
}

/// A port of this machine.
pub(super) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Waits for a condition while the servers run.
///
/// # Errors
/// When a server ends, the time is up, or it should be given up.
pub(super) fn until(
    what: &str,
    servers: &mut [Server],
    is_stopped: &dyn Fn() -> bool,
    mut is_so: impl FnMut() -> bool,
) -> Result<()> {
    let began = Instant::now();
    while !is_so() {
        if is_stopped() {
            bail!("interrupted while waiting for {what}");
        }
        servers.iter_mut().try_for_each(Server::check)?;
        if began.elapsed() > START_TIMEOUT {
            bail!("waited {} s in vain for {what}", START_TIMEOUT.as_secs());
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}
