//! The leader's end of a connection to one follower.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::coordinator::Coordinator;
pub use super::link::SessionError;
use super::link::{QUIET_TICKS_MAX, SILENCE_MAX, Watch};
use super::outbox::{Item, Outbox};
use super::wire;
use crate::protocol::leader::SlotId;
use crate::protocol::messages::{Hello, ToLeader, Write};

/// How long connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Encoded bytes after which the sender writes to the socket. Bounds the memory for encoded
/// messages to this plus one frame.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// Items for which memory is kept between two sends.
const ITEMS_KEPT: usize = 4096;

/// The two directions of an open connection.
#[derive(Debug)]
pub struct Connection<R, W> {
    /// Reads from the other end.
    pub reader: R,
    /// Writes to the other end.
    pub writer: W,
    /// Bytes already read.
    pub read: BytesMut,
}

/// How a leader opens connections to followers. A simulation replaces it.
pub trait Connect: Sync {
    /// Reads from the follower.
    type Reader: AsyncRead + Send + Unpin;
    /// Writes to the follower.
    type Writer: AsyncWrite + Send + Unpin;

    /// Opens a connection on which the follower speaks the replication protocol.
    ///
    /// # Errors
    /// [`SessionError`].
    fn connect(
        &self,
        url: &str,
    ) -> impl Future<Output = Result<Connection<Self::Reader, Self::Writer>, SessionError>> + Send;
}

/// A connection whose greeting has arrived.
#[derive(Debug)]
pub struct Session<R, W> {
    /// The greeting.
    pub hello: Hello,
    connection: Connection<R, W>,
}

/// Opens a connection and reads the greeting, within [`CONNECT_MAX`].
///
/// # Errors
/// [`SessionError`].
pub async fn dial<C: Connect>(connector: &C, url: &str) -> Result<Session<C::Reader, C::Writer>, SessionError> {
    let greeted = async {
        let mut connection = connector.connect(url).await?;
        loop {
            match wire::decode::<ToLeader>(&mut connection.read)? {
                Some(ToLeader::Hello(hello)) => return Ok(Session { hello, connection }),
                Some(_) => return Err(SessionError::NoHello),
                None if connection.reader.read_buf(&mut connection.read).await? == 0 => {
                    return Err(SessionError::Closed);
                }
                None => {}
            }
        }
    };
    timeout(CONNECT_MAX, greeted).await.map_err(|_| SessionError::Silent(CONNECT_MAX))?
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Session<R, W> {
    /// Serves the connection until it ends.
    pub async fn run(self, coordinator: &Arc<Coordinator>, slot: SlotId, url: &str) -> SessionError {
        let Self { hello, connection: Connection { reader, writer, read } } = self;
        let (session, outbox) = coordinator.connected(slot, url, hello);
        let error = tokio::select! {
            biased;
            error = receive(coordinator, slot, session, reader, read) => error,
            error = send(coordinator, &outbox, writer) => error,
            // Also ends a send that waits for a follower that does not read.
            error = outbox.closed() => error,
        };
        coordinator.disconnected(slot, session, &error.to_string());
        error
    }
}

async fn receive(
    coordinator: &Arc<Coordinator>,
    slot: SlotId,
    session: u64,
    reader: impl AsyncRead + Unpin,
    buffer: BytesMut,
) -> SessionError {
    match try_receive(coordinator, slot, session, reader, buffer).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn try_receive(
    coordinator: &Arc<Coordinator>,
    slot: SlotId,
    session: u64,
    mut reader: impl AsyncRead + Unpin,
    mut buffer: BytesMut,
) -> Result<std::convert::Infallible, SessionError> {
    let (mut messages, mut watch) = (Vec::new(), Watch::new());
    loop {
        while let Some(message) = wire::decode::<ToLeader>(&mut buffer)? {
            messages.push(message);
        }
        if !messages.is_empty() {
            coordinator.received(slot, session, &mut messages);
        }
        tokio::select! {
            biased;
            read = reader.read_buf(&mut buffer) => match read? {
                0 => return Err(SessionError::Closed),
                _ => watch.note(),
            },
            quiet_ticks = watch.tick() => if quiet_ticks > QUIET_TICKS_MAX {
                return Err(SessionError::Silent(SILENCE_MAX));
            },
        }
    }
}

async fn send(coordinator: &Coordinator, outbox: &Outbox, writer: impl AsyncWrite + Unpin) -> SessionError {
    let mut sender = Sender { writer, buffer: BytesMut::new() };
    match sender.run(coordinator, outbox).await {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

struct Sender<W> {
    writer: W,
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> Sender<W> {
    /// Sends items that are due. Items queued during the last send are sent together.
    async fn run(&mut self, coordinator: &Coordinator, outbox: &Outbox) -> std::io::Result<std::convert::Infallible> {
        let (mut items, mut writes) = (Vec::new(), Vec::new());
        let mut watch = Watch::new();
        loop {
            tokio::select! {
                biased;
                () = outbox.take(&mut items, || coordinator.send_staged()) => watch.note(),
                quiet_ticks = watch.tick() => if quiet_ticks > 1 {
                    wire::encode_alive(&mut self.buffer);
                },
            }
            for item in items.drain(..) {
                match item {
                    Item::Write(write) => {
                        writes.push(write);
                        continue;
                    }
                    _ => self.encode_writes(&mut writes).await?,
                }
                match item {
                    Item::Message(message) => wire::encode(&message, &mut self.buffer),
                    Item::Writes(frame) => self.buffer.extend_from_slice(&frame),
                    Item::Install(mut job) => {
                        while let Some(part) = coordinator.install_part(&mut job) {
                            wire::encode(&part, &mut self.buffer);
                            self.flush().await?;
                            // Yields: short parts never fill the connection, and all other tasks
                            // would wait.
                            tokio::task::yield_now().await;
                        }
                    }
                    Item::Write(_) => {}
                }
                self.flush_if_long().await?;
            }
            self.encode_writes(&mut writes).await?;
            self.flush().await?;
            items.shrink_to(ITEMS_KEPT);
            writes.shrink_to(ITEMS_KEPT);
        }
    }

    /// Encodes writes into frames of bounded length, so that the follower can store and confirm the
    /// first frame while the next is on its way.
    async fn encode_writes(&mut self, writes: &mut Vec<Arc<Write>>) -> std::io::Result<()> {
        let mut rest = writes.as_slice();
        while let Some(first) = rest.first() {
            let mut bytes = 0;
            let fits = |write: &&Arc<Write>| {
                bytes += write.key.len() + write.record.value.as_ref().map_or(0, |value| value.len());
                bytes <= wire::FRAME_BYTES_TARGET
            };
            let count = rest.iter().take_while(fits).count().max(1);
            wire::encode_writes(first.record.version.epoch, &rest[..count], &mut self.buffer);
            rest = &rest[count..];
            self.flush_if_long().await?;
        }
        writes.clear();
        Ok(())
    }

    async fn flush_if_long(&mut self) -> std::io::Result<()> {
        if self.buffer.len() >= WRITE_BYTES_MAX { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        self.writer.write_all_buf(&mut self.buffer).await?;
        // A session of TLS may keep the end.
        self.writer.flush().await?;
        wire::give_back(&mut self.buffer);
        Ok(())
    }
}

/// The delay before the next attempt: longer after each failure, with a random part so that leaders
/// do not retry in step. At most 320 ms: a follower that starts again hears its leader before a
/// candidate takes that leader for lost.
#[derive(Debug)]
pub struct Backoff {
    failures: u32,
    rng: SmallRng,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self::seeded(rand::rng().random())
    }

    /// A backoff whose random part depends on the seed.
    pub fn seeded(seed: u64) -> Self {
        Self { failures: 0, rng: SmallRng::seed_from_u64(seed) }
    }

    /// Records a successful attempt.
    pub fn connected(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next attempt.
    pub async fn wait(&mut self) {
        self.failures = (self.failures + 1).min(4);
        let most = 20 << self.failures;
        tokio::time::sleep(Duration::from_millis(self.rng.random_range(most / 2..most))).await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::*;
    use crate::protocol::types::{Epoch, Record, Version};

    /// Accepts all bytes or none, and records the longest write.
    #[derive(Default)]
    struct Socket {
        stalls: bool,
        bytes: usize,
        longest: usize,
    }

    impl AsyncWrite for Socket {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
            if self.stalls {
                return Poll::Pending;
            }
            self.bytes += bytes.len();
            self.longest = self.longest.max(bytes.len());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn push_writes(outbox: &Outbox, writes: std::ops::Range<u64>) {
        for index in writes {
            let version = Version { epoch: Epoch { term: 1, leader: 1 }, seq: index };
            let record = Record { version, value: Some("x".repeat(1_000).into()), marks: None };
            outbox.push(Item::Write(Arc::new(Write::new(index, format!("k{index}").into(), record))));
        }
        outbox.wake();
    }

    // Goal: encoded messages use bounded memory. Method: 10 MB are due at once; no write to the
    // socket is longer than the limit plus one frame.
    #[tokio::test(start_paused = true)]
    async fn what_is_due_leaves_in_bounded_writes() {
        let (coordinator, outbox) = (Coordinator::for_tests(), Outbox::new(64 << 20));
        push_writes(&outbox, 0..10_000);
        let mut sender = Sender { writer: Socket::default(), buffer: BytesMut::new() };
        let sent = timeout(Duration::from_millis(100), sender.run(&coordinator, &outbox)).await;
        assert!(sent.is_err(), "the sender waits for more");
        let Socket { bytes, longest, .. } = sender.writer;
        assert!(bytes > 10_000_000, "{bytes} bytes");
        assert!(longest <= WRITE_BYTES_MAX + 2 * wire::FRAME_BYTES_TARGET, "{longest} bytes in one write");
    }

    // Goal: a follower that does not read cannot fill the leader's memory. Method: the connection
    // accepts no byte while writes are queued.
    #[tokio::test(start_paused = true)]
    async fn a_follower_that_does_not_read_is_hung_up_on() {
        let coordinator = Coordinator::for_tests();
        let outbox = Outbox::new(100_000);
        push_writes(&outbox, 0..1);
        let sends = send(&coordinator, &outbox, Socket { stalls: true, ..Socket::default() });
        let fills = async {
            for index in 1..10_000 {
                // The sender first takes the items that are due.
                tokio::task::yield_now().await;
                push_writes(&outbox, index..index + 1);
            }
        };
        let error = tokio::select! {
            biased;
            error = sends => error,
            error = outbox.closed() => error,
            () = fills => panic!("the outbox grows without limit"),
        };
        assert!(matches!(error, SessionError::Full { limit: 100_000, .. }), "{error}");
    }
}
