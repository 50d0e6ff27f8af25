//! Opens connections from a leader to followers: TCP, then an HTTP upgrade.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONNECTION, ETAG, HOST, HeaderValue, UPGRADE};
use hyper::http::request::Builder;
use hyper::http::uri::InvalidUri;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::link::{LEADER_HEADER, SessionError};
use super::session::{Connect, Connection, Session, dial};
use super::wire::PROTOCOL;
use crate::tls::{self, ReadHalf, Stream, Tls, WriteHalf};
use crate::tokens::Tokens;

/// Read buffer for messages of a follower, in bytes.
const READ_BYTES: usize = 64 << 10;

/// The answer to a read at a follower.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) status: StatusCode,
    pub(crate) etag: Option<String>,
    /// The begin of the body.
    pub(crate) body: Bytes,
}

/// A connection that has sent no request yet. It ends with this.
struct Opened {
    sender: SendRequest<Empty<Bytes>>,
    /// The host and port, as the URL has them.
    host: String,
    ended: AbortOnDrop,
}

/// Connects to followers by their URLs.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    advertised: String,
    tokens: Option<Arc<Tokens>>,
    /// What this leader shows to followers, and whom it trusts.
    tls: Option<Arc<Tls>>,
    /// The name in the certificates of all followers, where their URLs have addresses.
    service: Option<Arc<str>>,
}

impl Dialer {
    /// `advertised` is the URL of this leader for clients; `tokens` are those of the cluster.
    pub(crate) fn new(advertised: String, tokens: Option<Arc<Tokens>>, tls: Option<Arc<Tls>>) -> Self {
        Self { advertised, tokens, tls, service: None }
    }

    /// The same for followers that are found by the name of their service: an address is in no certificate.
    pub(crate) fn of_service(self, name: &str) -> Self {
        Self { service: Some(name.trim_end_matches('.').into()), ..self }
    }

    /// The URL of the follower at an address.
    pub(crate) fn url(&self, address: SocketAddr) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }

    /// Reads at a follower as a client does, with what the client showed. Of the body it takes as much as arrives until there
    /// are `bytes`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub(crate) async fn read(
        &self,
        url: &str,
        path: &str,
        authorization: Option<&HeaderValue>,
        bytes: usize,
    ) -> Result<Read, SessionError> {
        let Opened { mut sender, host, ended: _ended } = self.open(url).await?;
        let mut request = Request::get(path).header(HOST, host);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let mut response = sender.send_request(bodiless(request)?).await.map_err(|error| connect(&error))?;
        let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        let (status, mut body) = (response.status(), BytesMut::new());
        while body.len() < bytes
            && let Some(frame) = response.body_mut().frame().await
        {
            let frame = frame.map_err(|error| connect(&error))?;
            frame.data_ref().into_iter().for_each(|data| body.extend_from_slice(data));
        }
        Ok(Read { status, etag, body: body.freeze() })
    }

    /// Connects and reads the greeting.
    ///
    /// # Errors
    /// [`SessionError`].
    pub(crate) async fn dial(&self, url: &str) -> Result<Session<ReadHalf, WriteHalf>, SessionError> {
        dial(self, url).await
    }
}

impl Connect for Dialer {
    type Reader = ReadHalf;
    type Writer = WriteHalf;

    /// Shows the first token, and the next one where the follower does not know it.
    async fn connect(&self, url: &str) -> Result<Connection<ReadHalf, WriteHalf>, SessionError> {
        let Some(tokens) = &self.tokens else { return self.connect_with(url, None).await };
        let tokens = tokens.to_show();
        let mut answer = self.connect_with(url, tokens.first().map(|token| &**token)).await;
        for token in tokens.iter().skip(1) {
            match answer {
                Err(SessionError::Status { status, .. }) if status == StatusCode::UNAUTHORIZED => {
                    answer = self.connect_with(url, Some(token)).await;
                }
                _ => break,
            }
        }
        answer
    }
}

impl Dialer {
    /// Uses hyper's client rather than reqwest's: only hyper returns the bare connection after the upgrade, and every
    /// layer around it costs on every message (docs/performance.md).
    async fn open(&self, url: &str) -> Result<Opened, SessionError> {
        let uri: Uri = url.parse().map_err(|error: InvalidUri| connect(&error))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await.map_err(|error| connect(&error))?;
        stream.set_nodelay(true)?;
        let stream = match &self.tls {
            Some(tls) if is_tls => {
                let name = self.service.as_deref().unwrap_or(host);
                let session = tls::connect(stream, tls.client(), name).await;
                session.map_err(|error| SessionError::Tls(root_cause(&error)))?
            }
            _ => Stream::Plain(stream),
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| connect(&error))?;
        let connection = tokio::spawn(connection.with_upgrades());
        // The connection's task must not outlive a cancelled attempt.
        let ended = AbortOnDrop(connection.abort_handle());
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        Ok(Opened { sender, host, ended })
    }

    async fn connect_with(
        &self,
        url: &str,
        token: Option<&str>,
    ) -> Result<Connection<ReadHalf, WriteHalf>, SessionError> {
        let Opened { mut sender, host, ended: _ended } = self.open(url).await?;
        let mut request = Request::get("/replication")
            .header(HOST, host)
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, PROTOCOL)
            .header(LEADER_HEADER, &self.advertised);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = sender.send_request(bodiless(request)?).await.map_err(|error| connect(&error))?;
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            return Err(SessionError::Status {
                status: status.as_u16(),
                body: String::from_utf8_lossy(&body).into_owned(),
            });
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| connect(&error))?;
        // Every layer around the connection would cost on every message.
        let parts = upgraded.downcast::<TokioIo<Stream>>().map_err(|_| SessionError::NotTcp)?;
        let mut read = BytesMut::with_capacity(READ_BYTES);
        read.extend_from_slice(&parts.read_buf);
        let (reader, writer) = parts.io.into_inner().into_split();
        Ok(Connection { reader, writer, read })
    }
}

fn bodiless(request: Builder) -> Result<Request<Empty<Bytes>>, SessionError> {
    request.body(Empty::new()).map_err(|error| connect(&error))
}

fn connect(error: &dyn std::error::Error) -> SessionError {
    SessionError::Connect(root_cause(error))
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Returns the innermost cause. The outer ones only say that a request failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A follower that accepts this token alone. Returns its URL.
    async fn follower(token: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("a head"));
                }
                let head = String::from_utf8_lossy(&head).to_lowercase();
                let answer = if head.contains(&format!("authorization: bearer {token}\r\n")) {
                    format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n\r\n")
                } else {
                    "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n".to_owned()
                };
                stream.write_all(answer.as_bytes()).await.expect("sent");
            }
        });
        url
    }

    /// The files of nodes change at different times: the follower has not read the new token yet.
    #[tokio::test]
    async fn the_next_token_is_shown_where_the_first_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "new\nolder\nold\n").expect("written");
        let tokens = Tokens::of_file("AUTH_TOKEN_FILE", file.path().into()).expect("tokens");
        let dialer = Dialer::new("http://leader:8000".to_owned(), Some(tokens), None);
        for token in ["new", "older", "old"] {
            let connection = dialer.connect(&follower(token).await).await;
            assert!(connection.is_ok(), "{token}: {:?}", connection.err());
        }
        let refused = dialer.connect(&follower("another").await).await.err();
        assert!(matches!(refused, Some(SessionError::Status { status: 401, .. })), "{refused:?}");
        let without = Dialer::new("http://leader:8000".to_owned(), None, None);
        let refused = without.connect(&follower("another").await).await.err();
        assert!(matches!(refused, Some(SessionError::Status { status: 401, .. })), "{refused:?}");
    }
}
