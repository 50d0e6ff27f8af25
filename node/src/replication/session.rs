//! The leader's end of a connection to one follower.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use reqwest::header::{AUTHORIZATION, CONNECTION, UPGRADE};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::coordinator::Coordinator;
use super::outbox::{Item, Outbox};
use super::wire::{self, WireError};
use crate::protocol::leader::SlotId;
use crate::protocol::types::{Hello, ToLeader};

/// Header in which a leader says where clients reach it.
pub(crate) const LEADER_HEADER: &str = "x-kvcluster-leader";

/// How long a connection may take to come up.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// An idle end shows that it is alive this often.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_millis(500);

/// A connection on which nothing arrived for this long is given up.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(3);

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
    client: reqwest::Client,
    advertised: String,
    token: Option<String>,
}

/// A connection on which the follower said who it is.
pub(crate) struct Session {
    pub(crate) hello: Hello,
    io: reqwest::Upgraded,
    buffer: BytesMut,
}

impl Dialer {
    pub(crate) fn new(advertised: String, token: Option<String>) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .http1_only()
            .connect_timeout(CONNECT_MAX)
            .pool_max_idle_per_host(0)
            .tcp_nodelay(true)
            .no_proxy()
            .build()?;
        Ok(Self { client, advertised, token })
    }

    pub(crate) async fn dial(&self, url: &str) -> Result<Session, SessionError> {
        timeout(CONNECT_MAX, self.open(url)).await.map_err(|_| SessionError::Silent(CONNECT_MAX))?
    }

    async fn open(&self, url: &str) -> Result<Session, SessionError> {
        let mut request = self
            .client
            .get(format!("{url}/replication"))
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, wire::PROTOCOL)
            .header(LEADER_HEADER, &self.advertised);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = request.send().await.map_err(|error| SessionError::Connect(root_cause(&error)))?;
        let status = response.status();
        if status != reqwest::StatusCode::SWITCHING_PROTOCOLS {
            let body = response.text().await.unwrap_or_default();
            return Err(SessionError::Status { status: status.as_u16(), body });
        }
        let mut io = response.upgrade().await.map_err(|error| SessionError::Connect(root_cause(&error)))?;
        let mut buffer = BytesMut::with_capacity(64 << 10);
        loop {
            match wire::decode::<ToLeader>(&mut buffer)? {
                Some(ToLeader::Hello(hello)) => return Ok(Session { hello, io, buffer }),
                Some(_) => return Err(SessionError::NoHello),
                None if io.read_buf(&mut buffer).await? == 0 => return Err(SessionError::Closed),
                None => {}
            }
        }
    }
}

impl Session {
    /// Serves the connection until it ends.
    pub(crate) async fn run(self, coordinator: &Arc<Coordinator>, slot: SlotId, url: &str) -> SessionError {
        let Self { hello, io, buffer } = self;
        let (reader, writer) = tokio::io::split(io);
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
    mut reader: impl AsyncRead + Unpin,
    mut buffer: BytesMut,
) -> Result<(), SessionError> {
    let mut messages = Vec::new();
    loop {
        while let Some(message) = wire::decode::<ToLeader>(&mut buffer)? {
            messages.push(message);
        }
        if !messages.is_empty() {
            coordinator.received(slot, session, &mut messages);
        }
        let read = timeout(SILENCE_MAX, reader.read_buf(&mut buffer)).await;
        if read.map_err(|_| SessionError::Silent(SILENCE_MAX))?? == 0 {
            return Err(SessionError::Closed);
        }
    }
}

/// Sends what is due, everything that gathered while the last send was under way in one go.
async fn write(
    coordinator: &Coordinator,
    outbox: &Outbox,
    mut writer: impl AsyncWrite + Unpin,
) -> Result<(), SessionError> {
    let (mut items, mut writes, mut buffer) = (Vec::new(), Vec::new(), BytesMut::new());
    loop {
        match timeout(ALIVE_EVERY, outbox.take(&mut items)).await {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(_) => wire::encode_alive(&mut buffer),
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
                    }
                }
                Item::Write(_) => {}
            }
        }
        flush_writes(&mut writes, &mut buffer);
        writer.write_all_buf(&mut buffer).await?;
        writer.flush().await?;
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
