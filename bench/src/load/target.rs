//! What the load talks to: addresses, the language spoken there, and the processes whose time it costs.

use std::{
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use super::{
    ReadFrom,
    link::Link,
    pipeline::Client,
    protocol::{Etcd, Http, Protocol, Resp},
};
use crate::load::footprint::Footprint;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Files that this program has open besides connections, amply.
const FILES_BESIDES: u64 = 64;

/// How long a system may try to have a write on enough replicas, in ms: `WAIT`, and kvcluster beside it.
pub const WAIT_MS: u32 = 10_000;

/// The language spoken at a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// A node's JSON over HTTP.
    Http,
    /// Redis' protocol.
    Redis {
        /// When a write counts.
        acknowledgement: Acknowledgement,
    },
    /// etcd's gRPC interface.
    Etcd,
}

/// What acknowledges the writes of a pipeline in Redis' protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// The reply to each SET.
    Reply,
    /// `WAIT` after the last one: so many replicas have them.
    Wait {
        /// How many.
        replicas: u32,
    },
    /// `WAIT` and then `WAITAOF`: so many replicas have them, and have synced them.
    WaitAof {
        /// How many.
        replicas: u32,
    },
}

impl Dialect {
    /// Whether a client may have several requests under way on a connection.
    pub fn can_pipeline(self) -> bool {
        self != Self::Http
    }
}

/// Processes on this machine whose processor time is measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Processes {
    /// The one that takes the writes.
    pub leader: Option<u32>,
    /// Those that it sends them to.
    pub followers: Vec<u32>,
    /// Where each of those keeps its state; none where they do not.
    pub data_directories: Vec<PathBuf>,
}

impl Processes {
    /// What they occupy.
    pub(super) fn footprint(&self) -> Footprint {
        Footprint::now(self.leader, &self.followers, &self.data_directories)
    }
}

/// Where the load goes.
#[derive(Clone, Debug)]
pub struct LoadTarget {
    /// What it is, for reports.
    pub description: String,
    /// What is spoken there.
    pub dialect: Dialect,
    /// Where writes go.
    pub leader: SocketAddr,
    /// Where reads may go.
    pub followers: Vec<SocketAddr>,
    /// Empty when it is not on this machine.
    pub processes: Processes,
    /// Token of a client, where the nodes ask for one.
    pub token: Option<String>,
}

impl LoadTarget {
    /// Opens the connections of `count` clients.
    ///
    /// # Errors
    /// When one cannot be opened; it is named.
    pub(super) fn connect(&self, count: usize, reads: f64, read_from: ReadFrom, explain: bool) -> Result<Vec<Client>> {
        let reads_elsewhere = reads > 0.0 && read_from == ReadFrom::Followers;
        if reads_elsewhere && self.followers.is_empty() {
            bail!("failed to read from followers: none is known (--followers)");
        }
        let writes_at_all = reads < 1.0;
        let files = count as u64 * if reads_elsewhere && writes_at_all { 2 } else { 1 };
        raise_file_limit(files + FILES_BESIDES)?;
        let client = |number: usize| {
            let follower = reads_elsewhere.then(|| self.followers[number % self.followers.len()]);
            let mut links = Vec::with_capacity(2);
            if writes_at_all || follower.is_none() {
                links.push(self.link(self.leader, read_from, explain).with_context(|| opened(number, count))?);
            }
            if let Some(follower) = follower {
                links.push(self.link(follower, read_from, false).with_context(|| opened(number, count))?);
            }
            Ok(Client::new(links))
        };
        (0..count).map(client).collect()
    }

    fn link(&self, address: SocketAddr, read_from: ReadFrom, explain: bool) -> Result<Link> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
            .with_context(|| format!("failed to connect to {address}"))?;
        Link::new(stream, address, self.protocol(address, read_from, explain))
    }

    fn protocol(&self, address: SocketAddr, read_from: ReadFrom, explain: bool) -> Box<dyn Protocol> {
        let token = self.token.as_deref();
        match self.dialect {
            Dialect::Http => {
                let suffix = if read_from == ReadFrom::Local { "&consistency=local" } else { "" };
                Box::new(Http::new(&address.to_string(), suffix, explain, token))
            }
            Dialect::Etcd => Box::new(Etcd::new(&address.to_string())),
            Dialect::Redis { acknowledgement } => Box::new(Resp::new(acknowledgement, WAIT_MS.into(), token)),
        }
    }
}

fn opened(number: usize, count: usize) -> String {
    format!("failed to open connection {} of {count}", number + 1)
}

/// Lets this process, and those that it starts from now on, have so many files open.
///
/// # Errors
/// When the system does not allow it; both numbers are named.
pub fn raise_file_limit(files: u64) -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= files) {
        return Ok(());
    }
    if let Some(maximum) = limit.maximum.filter(|maximum| *maximum < files) {
        bail!("{files} open files are needed, but this process may have {maximum} (ulimit -n)");
    }
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).with_context(|| format!("failed to allow {files} open files (ulimit -n)"))
}
