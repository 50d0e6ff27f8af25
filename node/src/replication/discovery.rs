//! Where followers are, and which of them is which.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::coordinator::Coordinator;
use super::session::{Backoff, Dialer};
use crate::protocol::leader::SlotId;

/// How often a name is looked up. Resolvers cache; a connection that fails is looked up again as soon as this allows.
const LOOK_UP_EVERY: Duration = Duration::from_millis(500);

/// Keeps a connection to a follower whose URL is its identity.
pub(crate) async fn follow_url(coordinator: Arc<Coordinator>, dialer: Dialer, slot: SlotId, url: String) {
    let mut backoff = Backoff::new();
    loop {
        match dialer.dial(&url).await {
            Ok(session) => {
                backoff.connected();
                info!(follower = url, id = %session.hello.id, "follower connected");
                let error = session.run(&coordinator, slot, &url).await;
                warn!(follower = url, %error, "follower disconnected");
            }
            Err(error) => {
                debug!(follower = url, %error, "follower cannot be reached");
                coordinator.unreachable(slot, &url, error.to_string());
            }
        }
        backoff.wait().await;
    }
}

/// Keeps a connection to every address behind a name. An address is only a way: who answers there says so itself.
pub(crate) async fn follow_dns(coordinator: Arc<Coordinator>, dialer: Dialer, host: String, port: u16) {
    let mut ways: HashMap<SocketAddr, JoinHandle<()>> = HashMap::new();
    let mut resolved = true;
    loop {
        match tokio::net::lookup_host((host.as_str(), port)).await {
            Ok(addresses) => {
                if !resolved {
                    info!(service = host, "service resolves again");
                }
                resolved = true;
                ways.retain(|_, task| !task.is_finished());
                for address in addresses {
                    let follow = || tokio::spawn(follow_address(coordinator.clone(), dialer.clone(), address));
                    ways.entry(address).or_insert_with(follow);
                }
            }
            // A service without pods has no addresses yet: normal at the start.
            Err(error) if resolved => {
                warn!(service = host, %error, "service does not resolve yet");
                resolved = false;
            }
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_UP_EVERY).await;
    }
}

/// One connection to one address, for as long as it lasts. The next look-up starts another.
async fn follow_address(coordinator: Arc<Coordinator>, dialer: Dialer, address: SocketAddr) {
    let url = format!("http://{address}");
    let session = match dialer.dial(&url).await {
        Ok(session) => session,
        Err(error) => return debug!(follower = url, %error, "follower cannot be reached"),
    };
    let name = session.hello.name.clone();
    match coordinator.slot_for(&session.hello) {
        Ok(slot) => {
            info!(follower = %name, id = %session.hello.id, url, "follower connected");
            let error = session.run(&coordinator, slot, &url).await;
            warn!(follower = %name, %error, "follower disconnected");
        }
        Err(reason) => {
            debug!(follower = %name, url, reason, "follower not taken");
            // Not at once again: nothing will have changed.
            Backoff::new().wait().await;
        }
    }
}
