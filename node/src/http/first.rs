//! The first bytes of a connection, which decide between the versions of HTTP.
//!
//! With TLS the session has decided (ALPN). Without it, a client that knows that the node speaks HTTP/2 begins with a
//! fixed preface, and all other clients speak HTTP/1.1.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::connections::Client;
use crate::tls::Stream;

/// What every client of HTTP/2 sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Memory for the first bytes: as much as hyper reads first, so that it goes on as if it had read them itself.
const FIRST_BYTES: usize = 8 << 10;

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// Reads the first bytes of a connection. Returns the stream, what was read of it, and its version. `None` if nothing
/// arrives within the time for a head, or soon after `last_request` says that the node ends.
pub(super) async fn read<S>(
    mut stream: Stream,
    client: &Client<S>,
    last_request: &mut watch::Receiver<()>,
) -> Option<(Stream, Bytes, Version)> {
    if let Stream::Tls(session) = &stream {
        let is_http2 = session.get_ref().1.alpn_protocol() == Some(HTTP2);
        return Some((stream, Bytes::new(), if is_http2 { Version::Http2 } else { Version::Http1 }));
    }
    let head_end = client.opened + client.times.head;
    let mut begun = BytesMut::new();
    let version = tokio::select! {
        biased;
        version = timeout_at(head_end, decide(&mut stream, &mut begun)) => version.ok()??,
        _ = last_request.changed() => {
            // The server of the version has to see it too.
            last_request.mark_changed();
            let end = head_end.min(Instant::now() + client.times.last);
            timeout_at(end, decide(&mut stream, &mut begun)).await.ok()??
        }
    };
    Some((stream, begun.freeze(), version))
}

/// The name of HTTP/2 in TLS.
pub(crate) const HTTP2: &[u8] = b"h2";

/// The name of HTTP/1.1 in TLS.
pub(crate) const HTTP1: &[u8] = b"http/1.1";

async fn decide(stream: &mut Stream, begun: &mut BytesMut) -> Option<Version> {
    loop {
        // No memory before something has arrived.
        if let Stream::Plain(stream) = &*stream {
            stream.readable().await.ok()?;
        }
        begun.reserve(FIRST_BYTES - begun.len());
        if stream.read_buf(begun).await.ok()? == 0 {
            return None;
        }
        if !PREFACE.starts_with(&begun[..begun.len().min(PREFACE.len())]) {
            return Some(Version::Http1);
        }
        if begun.len() >= PREFACE.len() {
            return Some(Version::Http2);
        }
    }
}

/// Hands over bytes that were read before, as a read of the stream would.
pub(super) fn hand_over(begun: &mut Bytes, buffer: &mut ReadBuf<'_>) {
    let count = begun.len().min(buffer.remaining());
    buffer.put_slice(&begun[..count]);
    begun.advance(count);
}
