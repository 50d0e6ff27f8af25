//! Opens the sockets on which a node accepts connections.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// How many connections may wait to be accepted. The kernel drops what arrives beyond that, and the
/// client tries again after a second. The library's own number, 128, is less than the connections of
/// a busy client. The kernel lowers it to `net.core.somaxconn`.
pub(super) const BACKLOG: u32 = 4096;

/// Listens on an address.
///
/// # Errors
/// Those of the system, such as an address in use.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restarted node takes its port although connections of the one before are still closing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::future;
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::*;

    // Goal: clients that connect at once do not wait for each other. Method: none is accepted, so that
    // those beyond the backlog could never connect.
    #[tokio::test]
    async fn hundreds_of_clients_connect_at_once() {
        let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let connected = future::try_join_all((0..400).map(|_| TcpStream::connect(address)));
        let connected = timeout(Duration::from_secs(30), connected).await.expect("none is left out");
        assert_eq!(connected.expect("all connect").len(), 400);
    }
}
