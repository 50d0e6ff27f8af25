//! The ways from a leader to its followers, as relays in this process that can be cut, as a network can.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
};

/// How much is on its way through a relay at most: so much is delivered late after a cut, and the rest waits at its sender.
const BUFFER_BYTES: usize = 64 << 10;

/// One way to each follower. Dropped, all connections through them end.
#[derive(Debug)]
pub(super) struct Wires {
    urls: Vec<String>,
    is_cut: watch::Sender<bool>,
    _relays: JoinSet<()>,
}

impl Wires {
    /// Lays a wire to each of these ports of this machine. Must be called inside a runtime.
    pub(super) fn lay(ports: &[u16]) -> Result<Self> {
        let (is_cut, mut relays, mut urls) = (watch::Sender::new(false), JoinSet::new(), Vec::new());
        for port in ports {
            let context = "failed to lay a wire to a follower";
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context(context)?;
            urls.push(format!("http://{}", listener.local_addr().context(context)?));
            listener.set_nonblocking(true).context(context)?;
            let listener = tokio::net::TcpListener::from_std(listener).context(context)?;
            relays.spawn(relay(listener, SocketAddr::from((Ipv4Addr::LOCALHOST, *port)), is_cut.subscribe()));
        }
        Ok(Self { urls, is_cut, _relays: relays })
    }

    /// Where the wires begin, in the order of the ports.
    pub(super) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// From now on nothing arrives, in either direction. What was sent is delivered once it is mended.
    pub(super) fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    pub(super) fn mend(&self) {
        self.is_cut.send_replace(false);
    }
}

async fn relay(listener: tokio::net::TcpListener, to: SocketAddr, is_cut: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((near, _)) = accepted {
                    connections.spawn(connection(near, to, is_cut.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Ends both sides once one of them ends, or when nothing listens at the far end.
async fn connection(near: TcpStream, to: SocketAddr, mut is_cut: watch::Receiver<bool>) {
    if is_cut.wait_for(|is_cut| !is_cut).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(to).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = pass(near_read, far_write, is_cut.clone()) => {}
        () = pass(far_read, near_write, is_cut) => {}
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut is_cut: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if is_cut.wait_for(|is_cut| !is_cut).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    // That a side has ended is no news that travels over a cut wire.
    let _ = is_cut.wait_for(|is_cut| !is_cut).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn read(stream: &mut TcpStream, count: usize) -> String {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).await.expect("so many bytes");
        String::from_utf8(bytes).expect("text")
    }

    #[tokio::test]
    async fn what_is_sent_over_a_cut_wire_arrives_once_it_is_mended() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let wires = Wires::lay(&[listener.local_addr().expect("an address").port()]).expect("laid");
        let near = wires.urls()[0].strip_prefix("http://").expect("a URL");
        let mut near = TcpStream::connect(near).await.expect("connects");
        near.write_all(b"one").await.expect("sent");
        let (mut far, _) = listener.accept().await.expect("it goes on to the follower");
        assert_eq!(read(&mut far, 3).await, "one");

        wires.cut();
        near.write_all(b"two").await.expect("sent");
        far.write_all(b"three").await.expect("sent");
        let (mut byte, mut other) = ([0], [0]);
        let silence = timeout(Duration::from_millis(100), async {
            tokio::select! { read = near.read(&mut byte) => read, read = far.peek(&mut other) => read }
        });
        assert!(silence.await.is_err(), "nothing arrives in either direction");
        wires.mend();
        assert_eq!(read(&mut far, 3).await, "two");
        assert_eq!(read(&mut near, 5).await, "three");
        drop(far);
        assert_eq!(near.read(&mut byte).await.expect("an end"), 0, "an end is passed on");
    }
}
