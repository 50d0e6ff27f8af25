//! The leader's end of a connection to one follower.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, UPGRADE};
use hyper::http::uri::InvalidUri;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::coordinator::Coordinator;
use super::link::{LEADER_HEADER, NotTcp, QUIET_TICKS_MAX, SILENCE_MAX, Watch, bare};
use super::outbox::{Item, Outbox};
use super::wire::{self, WireError};
use crate::protocol::leader::SlotId;
use crate::protocol::types::{Hello, ToLeader};

/// How long a connection may take to come up.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Why a connection did not come up, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("failed to connect: {0}")]
    Connect(String),
    #[error("refused with status {status}: {body}")]
    Status { status: u16, body: String },
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the connection was closed")]
    Closed,
    #[error("the first message was not a greeting")]
    NoHello,
    #[error(transparent)]
    NotTcp(#[from] NotTcp),
    #[error("closed to start over")]
    Reset,
    #[error("failed to read or write: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// How to reach followers.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    advertised: String,
    token: Option<String>,
}

/// A connection on which the follower said who it is.
pub(crate) struct Session {
    pub(crate) hello: Hello,
    stream: TcpStream,
    buffer: BytesMut,
}

impl Dialer {
    pub(crate) fn new(advertised: String, token: Option<String>) -> Self {
        Self { advertised, token }
    }

    pub(crate) async fn dial(&self, url: &str) -> Result<Session, SessionError> {
        timeout(CONNECT_MAX, self.open(url)).await.map_err(|_| SessionError::Silent(CONNECT_MAX))?
    }

    /// Hyper's client rather than reqwest's: only from hyper the bare connection comes back after the upgrade, and every
    /// layer around it costs on every message (docs/performance.md).
    async fn open(&self, url: &str) -> Result<Session, SessionError> {
        let connect = |error: &dyn std::error::Error| SessionError::Connect(root_cause(error));
        let uri: Uri = url.parse().map_err(|error: InvalidUri| connect(&error))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await.map_err(|error| connect(&error))?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| connect(&error))?;
        let connection = tokio::spawn(connection.with_upgrades());
        // The connection's task must not outlive an attempt that is given up.
        let _ended = AbortOnDrop(connection.abort_handle());

        let mut request = Request::get("/replication")
            .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, wire::PROTOCOL)
            .header(LEADER_HEADER, &self.advertised);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| connect(&error))?;
        let response = sender.send_request(request).await.map_err(|error| connect(&error))?;
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            return Err(SessionError::Status {
                status: status.as_u16(),
                body: String::from_utf8_lossy(&body).into_owned(),
            });
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| connect(&error))?;
        let (mut stream, mut buffer) = bare(upgraded)?;
        loop {
            match wire::decode::<ToLeader>(&mut buffer)? {
                Some(ToLeader::Hello(hello)) => return Ok(Session { hello, stream, buffer }),
                Some(_) => return Err(SessionError::NoHello),
                None if stream.read_buf(&mut buffer).await? == 0 => return Err(SessionError::Closed),
                None => {}
            }
        }
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    /// Serves the connection until it ends.
    pub(crate) async fn run(self, coordinator: &Arc<Coordinator>, slot: SlotId, url: &str) -> SessionError {
        let Self { hello, stream, buffer } = self;
        let (reader, writer) = stream.into_split();
        let (session, outbox) = coordinator.connected(slot, url, hello);
        let ended = tokio::select! {
            ended = read(coordinator, slot, session, reader, buffer) => ended,
            ended = write(coordinator, &outbox, writer) => ended,
        };
        let error = ended.err().unwrap_or(SessionError::Reset);
        coordinator.disconnected(slot, session, &error.to_string());
        error
    }
}

async fn read(
    coordinator: &Arc<Coordinator>,
    slot: SlotId,
    session: u64,
    mut reader: OwnedReadHalf,
    mut buffer: BytesMut,
) -> Result<(), SessionError> {
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

/// Sends what is due, everything that gathered while the last send was under way in one go.
async fn write(coordinator: &Coordinator, outbox: &Outbox, mut writer: OwnedWriteHalf) -> Result<(), SessionError> {
    let (mut items, mut writes, mut buffer) = (Vec::new(), Vec::new(), BytesMut::new());
    let mut watch = Watch::new();
    loop {
        tokio::select! {
            biased;
            open = outbox.take(&mut items) => {
                if !open {
                    return Ok(());
                }
                watch.note();
            }
            quiet_ticks = watch.tick() => if quiet_ticks > 1 {
                wire::encode_alive(&mut buffer);
            },
        }
        for item in items.drain(..) {
            match item {
                Item::Write(write) => {
                    writes.push(write);
                    continue;
                }
                _ => flush_writes(&mut writes, &mut buffer),
            }
            match item {
                Item::Message(message) => wire::encode(&message, &mut buffer),
                Item::Install(mut job) => {
                    while let Some(part) = coordinator.install_part(&mut job) {
                        wire::encode(&part, &mut buffer);
                        writer.write_all_buf(&mut buffer).await?;
                        // Parts that are short never fill the connection, and everybody else would wait.
                        tokio::task::yield_now().await;
                    }
                }
                Item::Write(_) => {}
            }
        }
        flush_writes(&mut writes, &mut buffer);
        writer.write_all_buf(&mut buffer).await?;
    }
}

/// Frames of bounded length, so that the other side can store and confirm the first while the next is under way.
fn flush_writes(writes: &mut Vec<Arc<crate::protocol::types::Write>>, buffer: &mut BytesMut) {
    let mut rest = writes.as_slice();
    while let Some(first) = rest.first() {
        let mut bytes = 0;
        let fits = |write: &&Arc<crate::protocol::types::Write>| {
            bytes += write.key.len() + write.record.value.as_ref().map_or(0, |value| value.len());
            bytes <= wire::FRAME_BYTES_TARGET
        };
        let count = rest.iter().take_while(fits).count().max(1);
        wire::encode_writes(first.record.version.epoch, &rest[..count], buffer);
        rest = &rest[count..];
    }
    writes.clear();
}

/// The innermost cause says what happened; the outer ones only that a request failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// How long to wait before the next attempt: longer after each failure, up to a second, and never in step with others.
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { failures: 0 }
    }

    pub(crate) fn connected(&mut self) {
        self.failures = 0;
    }

    pub(crate) async fn wait(&mut self) {
        self.failures = (self.failures + 1).min(6);
        let most = 20 << self.failures;
        let wait = rand::RngExt::random_range(&mut rand::rng(), most / 2..most);
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
}
