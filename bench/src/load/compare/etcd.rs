//! etcd as a peer: five members that elect their leader; the load talks to that one.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    process::{Server, find, version},
    system::{System, local, until},
};
use crate::{cluster::free_ports, load::Dialect};

const MEMBERS: usize = 5;

/// Starts the members; `None` where etcd is not installed.
pub(super) fn start(directory: &Path, is_stopped: &dyn Fn() -> bool) -> Result<Option<System>> {
    let Some(program) = find("etcd") else { return Ok(None) };
    let ports = free_ports(2 * MEMBERS)?;
    let (client_ports, peer_ports) = ports.split_at(MEMBERS);
    let member = |(number, port): (usize, &u16)| format!("m{number}=http://127.0.0.1:{port}");
    let all: Vec<String> = peer_ports.iter().enumerate().map(member).collect();
    let mut servers = Vec::new();
    for number in 0..MEMBERS {
        let name = format!("etcd{number}");
        let data = directory.join(&name);
        let client_url = format!("http://127.0.0.1:{}", client_ports[number]);
        let peer_url = format!("http://127.0.0.1:{}", peer_ports[number]);
        let arguments = [
            "--name",
            &format!("m{number}"),
            "--data-dir",
            &data.display().to_string(),
            "--listen-client-urls",
            &client_url,
            "--advertise-client-urls",
            &client_url,
            "--listen-peer-urls",
            &peer_url,
            "--initial-advertise-peer-urls",
            &peer_url,
            "--initial-cluster",
            &all.join(","),
            "--log-level",
            "error",
        ]
        .map(str::to_owned);
        servers.push(Server::start(&name, &program, &arguments, directory.join(format!("{name}.log")))?);
    }
    let mut addresses: Vec<SocketAddr> = client_ports.iter().map(|port| local(*port)).collect();
    let mut leader = None;
    until("etcd to elect a leader", &mut servers, is_stopped, || {
        leader = addresses.iter().position(|address| is_leader(*address));
        leader.is_some()
    })?;
    // A write at another member would be passed on, which costs etcd more.
    let leader = leader.context("failed to find etcd's leader")?;
    addresses.swap(0, leader);
    servers.swap(0, leader);
    let name = format!("etcd {}, five members", version(&program).unwrap_or_default());
    Ok(Some(System::of_servers(name, Dialect::Etcd, addresses, servers)))
}

/// Whether the member says so in its metrics; not while it does not answer.
fn is_leader(address: SocketAddr) -> bool {
    metrics(address).is_some_and(|text| text.lines().any(|line| line == "etcd_server_is_leader 1"))
}

fn metrics(address: SocketAddr) -> Option<String> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}
