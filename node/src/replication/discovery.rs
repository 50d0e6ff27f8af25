//! Finds followers by URL or by DNS, and keeps connections to them.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tracing::{info, warn};

use super::contact::Contact;
use super::coordinator::Coordinator;
use super::dialer::Dialer;
use crate::protocol::leader::SlotId;

/// How often a name is looked up. Resolvers cache the answer.
const LOOK_UP_EVERY: Duration = Duration::from_millis(500);

/// Keeps a connection to a follower that its URL identifies.
pub(crate) async fn follow_url(coordinator: Arc<Coordinator>, dialer: Dialer, slot: SlotId, url: String) {
    let mut contact = Contact::new(url.clone());
    loop {
        match dialer.dial(&url).await {
            Ok(session) => {
                let who = format!("{} ({})", session.hello.name, session.hello.id);
                contact.keep(&who, session.run(&coordinator, slot, &url)).await;
            }
            Err(error) => {
                let error = error.to_string();
                contact.failed(&error);
                coordinator.unreachable(slot, &url, error);
            }
        }
        contact.pause().await;
    }
}

/// Keeps a connection to every address of a name. An address does not identify a follower: the
/// follower that answers reports its name.
pub(crate) async fn follow_dns(coordinator: Arc<Coordinator>, dialer: Dialer, host: String, port: u16) {
    // Each address has a flag whether DNS still lists it. The task of the address ends when DNS
    // does not.
    let mut followed: HashMap<SocketAddr, Arc<AtomicBool>> = HashMap::new();
    let mut resolved = true;
    let mut service = Contact::new(format!("dns://{host}:{port}"));
    loop {
        match tokio::net::lookup_host((host.as_str(), port)).await {
            Ok(addresses) => {
                if !resolved {
                    info!(service = host, "service resolves again");
                    service = Contact::new(format!("dns://{host}:{port}"));
                }
                resolved = true;
                let listed: HashSet<SocketAddr> = addresses.collect();
                // A task that ended has dropped its receiver.
                followed.retain(|_, is_listed| Arc::strong_count(is_listed) > 1);
                followed.iter().for_each(|(address, is_listed)| is_listed.store(listed.contains(address), Relaxed));
                for address in listed {
                    followed.entry(address).or_insert_with(|| {
                        let is_listed = Arc::new(AtomicBool::new(true));
                        tokio::spawn(follow_address(coordinator.clone(), dialer.clone(), address, is_listed.clone()));
                        is_listed
                    });
                }
            }
            // A service without pods has no addresses yet: normal at the start.
            Err(error) => {
                if resolved {
                    warn!(service = host, %error, "service does not resolve yet");
                }
                resolved = false;
                service.failed(&error.to_string());
            }
        }
        tokio::time::sleep(LOOK_UP_EVERY).await;
    }
}

/// Keeps a connection to one address while DNS lists it. An open connection is not closed when DNS
/// no longer lists it.
async fn follow_address(
    coordinator: Arc<Coordinator>,
    dialer: Dialer,
    address: SocketAddr,
    is_listed: Arc<AtomicBool>,
) {
    let url = dialer.url(address);
    let mut contact = Contact::new(url.clone());
    while is_listed.load(Relaxed) {
        match dialer.dial(&url).await {
            Ok(session) => match coordinator.slot_for(&session.hello) {
                Ok(slot) => {
                    let who = format!("{} ({})", session.hello.name, session.hello.id);
                    contact.keep(&who, session.run(&coordinator, slot, &url)).await;
                }
                Err(reason) => contact.failed(&format!("{}: {reason}", session.hello.name)),
            },
            Err(error) => contact.failed(&error.to_string()),
        }
        contact.pause().await;
    }
}
