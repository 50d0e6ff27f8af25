//! Ports for servers that this process starts.

use std::{
    net::{TcpListener, UdpSocket},
    ops::Deref,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail};

/// Ports of 127.0.0.1 that no other bench takes while this value exists.
#[derive(Debug)]
pub(crate) struct Ports {
    numbers: Vec<u16>,
    /// A server binds its port only some time after it was chosen, and frees it while it is down. The UDP socket of the same
    /// number, which no server here uses, marks the port as taken meanwhile; it goes with this process, however that ends.
    _reservations: Vec<UdpSocket>,
}

impl Deref for Ports {
    type Target = [u16];

    fn deref(&self) -> &[u16] {
        &self.numbers
    }
}

/// `count` different ports of 127.0.0.1 on which nothing listens now.
///
/// They are below the range from which systems take ports of outgoing connections, so that a node that is down for a
/// while finds its port free again; each process begins elsewhere, which saves benches side by side most attempts.
///
/// # Errors
/// When so many are not free.
pub(crate) fn free_ports(count: usize) -> Result<Ports> {
    const FIRST: u32 = 10_240;
    const COUNT: u32 = 20_480;
    const PER_PROCESS: u32 = 64;
    static OFFSET: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(PER_PROCESS);
    let (mut numbers, mut reservations) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..COUNT {
        let offset = OFFSET.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + start.wrapping_add(offset) % COUNT).context("failed to choose a port")?;
        if let Ok(reservation) = UdpSocket::bind(("127.0.0.1", port))
            && TcpListener::bind(("127.0.0.1", port)).is_ok()
        {
            numbers.push(port);
            reservations.push(reservation);
        }
        if numbers.len() == count {
            return Ok(Ports { numbers, _reservations: reservations });
        }
    }
    bail!("failed to find {count} free ports between {FIRST} and {}", FIRST + COUNT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_different_and_those_in_use_are_passed_over() {
        let first = free_ports(20).expect("ports");
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 20);
        let held = TcpListener::bind(("127.0.0.1", first[19])).expect("the port was free");
        let second = free_ports(20).expect("ports");
        assert!(second.iter().all(|port| !first.contains(port)), "{second:?} repeats {first:?}");
        drop(held);
    }

    #[test]
    fn a_port_is_taken_until_its_owner_gives_it_up() {
        let ports = free_ports(1).expect("a port");
        let again = || UdpSocket::bind(("127.0.0.1", ports[0])).map(drop);
        assert_eq!(again().expect_err("reserved").kind(), std::io::ErrorKind::AddrInUse);
        let port = ports[0];
        drop(ports);
        UdpSocket::bind(("127.0.0.1", port)).expect("given up");
    }
}
