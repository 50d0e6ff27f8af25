//! Redis and Valkey as peers: a master and five replicas; a write counts once three replicas have it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    FOLLOWERS, WRITE_QUORUM,
    process::{Server, find, version},
    system::{System, local, until},
};
use crate::{
    cluster::free_ports,
    load::{Acknowledgement, Dialect},
};

/// Whose program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
}

impl Family {
    /// What is searched for in `PATH`.
    pub fn program(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Valkey => "valkey-server",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::Valkey => "Valkey",
        }
    }
}

/// When a write counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// By `WAIT`: enough replicas have it in memory. Nothing is stored.
    Received,
    /// By `WAIT` too. Each replica syncs its file before it answers its master (`appendfsync always`), the master once a
    /// second: like kvcluster's, a promise of the replicas alone.
    Synced,
    /// The same servers, by `WAIT` and then `WAITAOF`, which is documented to wait for the files.
    SyncedByWaitAof,
}

/// Starts the master and its replicas; `None` where the program is not installed.
pub(super) fn start(
    family: Family,
    promise: Promise,
    directory: &Path,
    is_stopped: &dyn Fn() -> bool,
) -> Result<Option<System>> {
    let Some(program) = find(family.program()) else { return Ok(None) };
    let replicas = WRITE_QUORUM.into();
    let (suffix, words, acknowledgement) = match promise {
        Promise::Received => ("", "no persistence", Acknowledgement::Wait { replicas }),
        Promise::Synced => ("-synced", "replicas appendfsync always", Acknowledgement::Wait { replicas }),
        Promise::SyncedByWaitAof => ("-aof", "replicas appendfsync always", Acknowledgement::WaitAof { replicas }),
    };
    let ports = free_ports(FOLLOWERS as usize + 1)?;
    let mut servers = Vec::new();
    for (number, port) in ports.iter().enumerate() {
        let name = format!("{}{suffix}{number}", family.name().to_lowercase());
        let data = directory.join(&name);
        std::fs::create_dir_all(&data).with_context(|| format!("failed to create {}", data.display()))?;
        let mut arguments: Vec<String> =
            ["--bind", "127.0.0.1", "--daemonize", "no", "--save", "", "--repl-diskless-sync-delay", "0"]
                .map(str::to_owned)
                .to_vec();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        add(&["--port", &port.to_string(), "--dir", &data.display().to_string()]);
        if number > 0 {
            add(&["--replicaof", &format!("127.0.0.1 {}", ports[0])]);
        }
        if promise != Promise::Received {
            add(&["--appendonly", "yes", "--appendfsync", if number > 0 { "always" } else { "everysec" }]);
        }
        servers.push(Server::start(&name, &program, &arguments, directory.join(format!("{name}.log")))?);
    }
    let master = ports[0];
    until(&format!("{} to take its replicas in", family.name()), &mut servers, is_stopped, || {
        replicas_online(master).is_some_and(|count| count == u32::from(FOLLOWERS))
    })?;
    let how = match acknowledgement {
        Acknowledgement::WaitAof { .. } => format!("SET + WAIT {WRITE_QUORUM} + WAITAOF 0 {WRITE_QUORUM}"),
        _ => format!("SET + WAIT {WRITE_QUORUM}"),
    };
    let name = format!("{} {}, {how}, {words}", family.name(), version(&program).unwrap_or_default());
    let addresses: Vec<_> = ports.iter().map(|port| local(*port)).collect();
    Ok(Some(System::of_servers(name, Dialect::Redis { acknowledgement }, addresses, servers)))
}

/// How many replicas the master says it has; `None` while it does not answer.
fn replicas_online(port: u16) -> Option<u32> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&local(port), PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"INFO replication\r\nQUIT\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    u32::try_from(answer.matches("state=online").count()).ok()
}
