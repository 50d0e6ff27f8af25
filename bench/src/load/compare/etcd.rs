//! etcd as a peer: five members that elect their leader; the load talks to that one.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    process::{Server, find, version},
    system::{System, local, until},
};
use crate::{
    cluster::{Ports, free_ports},
    load::Dialect,
};

const MEMBERS: usize = 5;

/// Five members on this machine. Dropped, they are killed.
#[derive(Debug)]
pub(in crate::load) struct Members {
    program: PathBuf,
    directory: PathBuf,
    addresses: Vec<SocketAddr>,
    arguments: Vec<Vec<String>>,
    /// A member that was killed is none.
    servers: Vec<Option<Server>>,
    /// No other bench takes them while a member is down.
    _ports: Ports,
}

impl Members {
    /// Starts the members and waits until they elected a leader; `None` where etcd is not installed.
    ///
    /// # Errors
    /// When a member ends, or none leads in time.
    pub(in crate::load) fn start(directory: &Path, is_stopped: &dyn Fn() -> bool) -> Result<Option<Self>> {
        let Some(program) = find("etcd") else { return Ok(None) };
        let ports = free_ports(2 * MEMBERS)?;
        let (client_ports, peer_ports) = ports.split_at(MEMBERS);
        let mut members = Self {
            program,
            directory: directory.to_owned(),
            addresses: client_ports.iter().map(|port| local(*port)).collect(),
            arguments: (0..MEMBERS).map(|number| arguments(number, directory, client_ports, peer_ports)).collect(),
            servers: (0..MEMBERS).map(|_| None).collect(),
            _ports: ports,
        };
        (0..MEMBERS).try_for_each(|number| members.start_member(number))?;
        let mut servers: Vec<Server> = members.servers.drain(..).flatten().collect();
        let addresses = members.addresses.clone();
        until("etcd to elect a leader", &mut servers, is_stopped, || addresses.iter().any(|it| is_leader(*it)))?;
        members.servers = servers.into_iter().map(Some).collect();
        Ok(Some(members))
    }

    /// What it is, with its version.
    pub(in crate::load) fn name(&self) -> String {
        format!("etcd {}, five members", version(&self.program).unwrap_or_default())
    }

    /// Where the members listen for clients.
    pub(in crate::load) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The member that says that it leads.
    pub(in crate::load) fn leader(&self) -> Option<usize> {
        let runs = |number: &usize| self.servers[*number].is_some();
        (0..MEMBERS).filter(runs).find(|number| is_leader(self.addresses[*number]))
    }

    /// Whether every member runs and knows a leader.
    pub(in crate::load) fn are_whole(&self) -> bool {
        self.servers.iter().all(Option::is_some) && self.addresses.iter().all(|address| has_leader(*address))
    }

    /// kill -9 of a member; returns when the process is gone.
    pub(in crate::load) fn kill(&mut self, number: usize) {
        self.servers[number] = None;
    }

    /// Starts a member, with the data that it had.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(in crate::load) fn start_member(&mut self, number: usize) -> Result<()> {
        let name = format!("etcd{number}");
        let log = self.directory.join(format!("{name}.log"));
        self.servers[number] = Some(Server::start(&name, &self.program, &self.arguments[number], log)?);
        Ok(())
    }
}

fn arguments(number: usize, directory: &Path, client_ports: &[u16], peer_ports: &[u16]) -> Vec<String> {
    let member = |(number, port): (usize, &u16)| format!("m{number}=http://127.0.0.1:{port}");
    let all: Vec<String> = peer_ports.iter().enumerate().map(member).collect();
    let data = directory.join(format!("etcd{number}"));
    let client_url = format!("http://127.0.0.1:{}", client_ports[number]);
    let peer_url = format!("http://127.0.0.1:{}", peer_ports[number]);
    [
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
    .map(str::to_owned)
    .to_vec()
}

/// Starts the members; `None` where etcd is not installed.
pub(super) fn start(directory: &Path, is_stopped: &dyn Fn() -> bool) -> Result<Option<System>> {
    let Some(mut members) = Members::start(directory, is_stopped)? else { return Ok(None) };
    let name = members.name();
    // A write at another member would be passed on, which costs etcd more.
    let leader = members.leader().context("failed to find etcd's leader")?;
    let mut addresses = members.addresses.clone();
    let mut servers: Vec<Server> = members.servers.drain(..).flatten().collect();
    addresses.swap(0, leader);
    servers.swap(0, leader);
    Ok(Some(System::of_servers(name, Dialect::Etcd, addresses, servers)))
}

/// Whether the member says so in its metrics; not while it does not answer.
fn is_leader(address: SocketAddr) -> bool {
    says(address, "etcd_server_is_leader 1")
}

fn has_leader(address: SocketAddr) -> bool {
    says(address, "etcd_server_has_leader 1")
}

fn says(address: SocketAddr, wanted: &str) -> bool {
    metrics(address).is_some_and(|text| text.lines().any(|line| line == wanted))
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
