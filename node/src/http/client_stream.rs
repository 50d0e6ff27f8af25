//! The byte stream of a client's connection, and the bodies on it, with their progress recorded in an [`Activity`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use bytes::Buf;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use super::{first, refusal};
use crate::tls::Stream;

/// Bytes that one read discards.
const DISCARD_BYTES: usize = 16 << 10;

/// A client's connection.
///
/// Closing it with unread bytes in the receive buffer would make the system reset it, and the client could lose the
/// answer. When an answer was sent before the request had arrived in full, the shutdown therefore discards what still
/// arrives until the client closes its side. The task of the connection bounds how long.
pub(super) struct ClientStream {
    stream: Stream,
    /// What was read of it before.
    begun: Bytes,
    activity: Arc<Activity>,
    /// Whether the client closed its side.
    at_end: bool,
    shut_down: bool,
    /// What remains to be sent in place of an answer of hyper's own.
    refusal: Option<Bytes>,
}

impl ClientStream {
    /// `begun` was read of the stream before.
    pub(super) fn new(stream: Stream, begun: Bytes, activity: Arc<Activity>) -> Self {
        Self { stream, begun, activity, at_end: false, shut_down: false, refusal: None }
    }

    /// The connection itself, after the upgrade from HTTP.
    pub(super) fn into_inner(self) -> Stream {
        self.stream
    }

    /// Sends a body with an answer that hyper gave by itself. `None` for all other bytes.
    fn poll_refuse(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<usize>>> {
        if self.refusal.is_none() {
            if self.activity.may_send_anything() {
                return None;
            }
            self.refusal = Some(refusal::replace(bytes)?.into());
            // The head did not end where the client meant it to.
            self.activity.left_unread();
        }
        let rest = self.refusal.as_mut()?;
        while !rest.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(written)) if written > 0 => rest.advance(written),
                Poll::Ready(Ok(_)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                other => return Some(other),
            }
        }
        self.refusal = None;
        Some(Poll::Ready(Ok(bytes.len())))
    }

    fn note_write(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => self.activity.stalled(),
            Poll::Ready(_) => self.activity.wrote(),
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.begun.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        } else {
            first::hand_over(&mut self.begun, buffer);
        }
        if buffer.filled().len() > before {
            self.activity.received();
        } else {
            self.at_end = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let refused = self.poll_refuse(cx, bytes);
        let written = refused.unwrap_or_else(|| Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.note_write(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // Hyper writes an answer of its own in one piece.
        let refused = match bytes {
            [whole] => self.poll_refuse(cx, whole),
            _ => None,
        };
        let written = refused.unwrap_or_else(|| Pin::new(&mut self.stream).poll_write_vectored(cx, bytes));
        self.note_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        // Hyper flushes the stream only when it has passed on all bytes.
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut_down {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.shut_down = true;
            self.activity.lingering();
        }
        if !self.activity.is_unread() {
            return Poll::Ready(Ok(()));
        }
        let mut space = [0; DISCARD_BYTES];
        while !self.at_end {
            let mut discarded = ReadBuf::new(&mut space);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut discarded));
            self.at_end = read.is_err() || discarded.filled().is_empty();
        }
        Poll::Ready(Ok(()))
    }
}

/// The body of a request as it arrives. If it is dropped before its end, it records that for the
/// shutdown of the connection.
pub(crate) struct Arriving {
    body: Incoming,
    /// Absent once the whole body has arrived.
    activity: Option<Arc<Activity>>,
}

impl Arriving {
    pub(super) fn new(body: Incoming, activity: &Arc<Activity>) -> Self {
        let activity = (!body.is_end_stream()).then(|| activity.clone());
        Self { body, activity }
    }

    /// A body of HTTP/2, whose end is not that of the connection.
    pub(super) fn of_stream(body: Incoming) -> Self {
        Self { body, activity: None }
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.activity = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if let Some(activity) = &self.activity {
            activity.left_unread();
        }
    }
}

/// The body of an answer that is sent in parts. The answer is complete once this is dropped.
pub(super) struct Leaving {
    body: Body,
    activity: Arc<Activity>,
}

impl Leaving {
    pub(super) fn new(body: Body, activity: Arc<Activity>) -> Self {
        Self { body, activity }
    }
}

impl HttpBody for Leaving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.activity.answered();
    }
}
