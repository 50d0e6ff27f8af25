//! Redis as a peer: a master and five replicas; a write counts once three replicas have it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    FOLLOWERS, Peer, WRITE_QUORUM,
    process::{Server, find, version},
    system::{System, local, until},
};
use crate::{
    cluster::free_ports,
    load::{Acknowledgement, Dialect},
};

/// Starts the master and its replicas; `None` where Redis is not installed.
pub(super) fn start(peer: Peer, directory: &Path, is_stopped: &dyn Fn() -> bool) -> Result<Option<System>> {
    let Some(program) = find("redis-server") else { return Ok(None) };
    let is_stored = peer == Peer::RedisAlways;
    let ports = free_ports(FOLLOWERS as usize + 1)?;
    let mut servers = Vec::new();
    for (number, port) in ports.iter().enumerate() {
        let name = format!("redis{}{number}", if is_stored { "-aof" } else { "" });
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
        if is_stored {
            add(&["--appendonly", "yes", "--appendfsync", "always"]);
        }
        servers.push(Server::start(&name, &program, &arguments, directory.join(format!("{name}.log")))?);
    }
    let master = ports[0];
    until("Redis to take its replicas in", &mut servers, is_stopped, || {
        replicas_online(master).is_some_and(|count| count == u32::from(FOLLOWERS))
    })?;
    let stored = if is_stored { "appendfsync always" } else { "no persistence" };
    let version = version(&program).unwrap_or_default();
    let name = format!("Redis {version}, SET + WAIT {WRITE_QUORUM}, {stored}");
    let addresses: Vec<_> = ports.iter().map(|port| local(*port)).collect();
    Ok(Some(System::of_servers(
        name,
        Dialect::Redis { acknowledgement: Acknowledgement::Wait { replicas: WRITE_QUORUM.into() } },
        addresses,
        servers,
    )))
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
