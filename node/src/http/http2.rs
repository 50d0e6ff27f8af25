//! Serves one connection of HTTP/2 to its end.
//!
//! Its requests are answered side by side. What bounds a connection of HTTP/1.1 bounds this one too: [`Progress`] records
//! since when no request is under way, since when the client does not read the connection, and since when it leaves no
//! room for an answer of which the rest waits.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONNECTION;
use bytes::{Buf, Bytes};
use http_body_util::{Either, Full};
use hyper::Request;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::activity::TimeLimits;
use super::client_stream::Arriving;
use super::connections::{Client, READ_AHEAD_BYTES, Service};
use super::first;
use crate::tls::Stream;

/// Requests of one connection that are under way at once. The client waits with others.
const STREAMS_MAX: u32 = 100;

/// Bytes of bodies that a client may send before the node has read them, for each request and for all of a connection.
const WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// Longest part of an answer that is handed over at once. More waits until the client has room for it, and only what
/// waits counts as an answer that the client does not read.
const PART_BYTES: usize = 16 << 10;

/// What happens on a connection.
#[derive(Debug)]
struct Progress {
    state: Mutex<State>,
    /// A request has been answered for which the connection was the last one.
    last_answered: Notify,
}

#[derive(Debug)]
struct State {
    /// Requests that have arrived.
    requests: u64,
    /// How many of them are not answered.
    under_way: usize,
    /// Since when none is.
    idle_since: Instant,
    /// Since when the connection takes no bytes.
    stalled_since: Option<Instant>,
    /// The requests whose answers wait for room, and since when.
    waiting: BTreeMap<u64, Instant>,
    /// When the node announced that it takes no more requests.
    finishing_since: Option<Instant>,
}

/// The action for a connection.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep(Instant),
    /// Announce that no more requests are taken.
    Finish,
    Close,
}

impl Progress {
    fn since(opened: Instant) -> Self {
        let state = State {
            requests: 0,
            under_way: 0,
            idle_since: opened,
            stalled_since: None,
            waiting: BTreeMap::new(),
            finishing_since: None,
        };
        Self { state: Mutex::new(state), last_answered: Notify::new() }
    }

    /// The action for the connection now, by these limits.
    fn next(&self, limits: &TimeLimits) -> Verdict {
        let (state, now) = (self.state.lock(), Instant::now());
        let stalled = state.waiting.values().copied().chain(state.stalled_since).min();
        let stall_end = stalled.map(|since| since + limits.stall);
        let idle = match (state.under_way, state.requests, state.finishing_since) {
            (0, _, Some(since)) => Some((since.max(state.idle_since) + limits.last, Verdict::Close)),
            (0, 0, None) => Some((state.idle_since + limits.head, Verdict::Close)),
            (0, _, None) => Some((state.idle_since + limits.idle, Verdict::Finish)),
            // The handlers bound how long an answer takes.
            _ => None,
        };
        if stall_end.is_some_and(|end| end <= now) {
            return Verdict::Close;
        }
        match idle {
            Some((end, verdict)) if end <= now => verdict,
            idle => {
                // What begins later may end earlier, but no sooner than after the shortest limit.
                let shortest = match state.finishing_since {
                    Some(_) => limits.last,
                    None => limits.head.min(limits.idle).min(limits.stall),
                };
                let ends = [stall_end, idle.map(|(end, _)| end)];
                Verdict::Keep(ends.into_iter().flatten().fold(now + shortest, Instant::min))
            }
        }
    }
}

/// One request, until its answer is handed over or given up.
#[derive(Debug)]
struct UnderWay {
    number: u64,
    progress: Arc<Progress>,
    is_last: bool,
}

impl UnderWay {
    fn begin(progress: &Arc<Progress>, is_last: bool) -> Self {
        let mut state = progress.state.lock();
        state.requests += 1;
        state.under_way += 1;
        Self { number: state.requests, progress: progress.clone(), is_last }
    }

    /// The answer has a part that waits for the client.
    fn waits(&self) {
        self.progress.state.lock().waiting.insert(self.number, Instant::now());
    }

    /// The client waits for the next part of the answer.
    fn is_awaited(&self) {
        self.progress.state.lock().waiting.remove(&self.number);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.progress.state.lock();
        state.waiting.remove(&self.number);
        state.under_way -= 1;
        state.idle_since = Instant::now();
        drop(state);
        if self.is_last {
            self.progress.last_answered.notify_one();
        }
    }
}

/// Serves a connection of which `begun` was read before.
pub(super) async fn serve(
    stream: Stream,
    begun: Bytes,
    client: Client<impl Service>,
    mut last_request: watch::Receiver<()>,
) {
    let progress = Arc::new(Progress::since(client.opened));
    let (limits, is_spare) = (client.times, client.is_spare);
    let client = Arc::new(client);
    let answer = service_fn(|request: Request<Incoming>| {
        let (client, under_way) = (client.clone(), UnderWay::begin(&progress, is_spare));
        async move {
            let mut answer = client.answer(request.map(Arriving::of_stream)).await;
            // It belongs to HTTP/1.1.
            answer.headers_mut().remove(CONNECTION);
            Ok::<_, Infallible>(answer.map(|body| InParts::new(body, under_way)))
        }
    });
    let stream = TokioIo::new(Watched { stream, begun, progress: progress.clone() });
    let mut connection = pin!(builder(is_spare).serve_connection(stream, answer));
    let mut check = pin!(tokio::time::sleep(Duration::ZERO));
    let mut ends = false;
    loop {
        let finishes = tokio::select! {
            biased;
            // An error only reports how the client ended its connection.
            _ = connection.as_mut() => return,
            () = check.as_mut() => match progress.next(&limits) {
                Verdict::Keep(until) => {
                    check.as_mut().reset(until);
                    false
                }
                Verdict::Finish => true,
                Verdict::Close => return,
            },
            () = progress.last_answered.notified() => true,
            _ = last_request.changed(), if !ends => {
                ends = true;
                true
            }
        };
        if finishes {
            progress.state.lock().finishing_since.get_or_insert_with(Instant::now);
            connection.as_mut().graceful_shutdown();
            check.as_mut().reset(Instant::now());
        }
    }
}

fn builder(is_spare: bool) -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.max_concurrent_streams(if is_spare { 1 } else { STREAMS_MAX })
        .max_header_list_size(READ_AHEAD_BYTES as u32)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(PART_BYTES);
    http
}

/// The stream of a connection, which records whether the client reads it.
#[derive(Debug)]
struct Watched {
    stream: Stream,
    /// What was read of it before.
    begun: Bytes,
    progress: Arc<Progress>,
}

impl Watched {
    fn note<T>(&self, written: Poll<T>) -> Poll<T> {
        let stalled = &mut self.progress.state.lock().stalled_since;
        match written {
            Poll::Pending => _ = stalled.get_or_insert_with(Instant::now),
            Poll::Ready(_) => *stalled = None,
        }
        written
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.begun.is_empty() {
            first::hand_over(&mut self.begun, buffer);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The body of an answer in parts of bounded length. Hyper asks for the next part once the client has room.
struct InParts {
    body: Either<Full<Bytes>, Body>,
    /// What remains of the newest piece of the body.
    rest: Bytes,
    under_way: UnderWay,
}

impl InParts {
    fn new(body: Either<Full<Bytes>, Body>, under_way: UnderWay) -> Self {
        under_way.waits();
        Self { body, rest: Bytes::new(), under_way }
    }

    /// The next part of the rest. A copy, since a part would keep the memory of the whole.
    fn part(&mut self) -> Frame<Bytes> {
        let part = Bytes::copy_from_slice(&self.rest[..self.rest.len().min(PART_BYTES)]);
        self.rest.advance(part.len());
        if self.rest.is_empty() {
            self.rest = Bytes::new();
        }
        Frame::data(part)
    }
}

impl HttpBody for InParts {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let polled = match &mut self.body {
                Either::Left(whole) => Pin::new(whole).poll_frame(cx).map_err(|never| match never {}),
                Either::Right(parts) => Pin::new(parts).poll_frame(cx),
            };
            if polled.is_pending() {
                self.under_way.is_awaited();
            }
            match ready!(polled).transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => self.rest = data,
                Some(Err(other)) => return Poll::Ready(Some(Ok(other))),
                None => return Poll::Ready(None),
            }
        }
        self.under_way.waits();
        Poll::Ready(Some(Ok(self.part())))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (before, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(before.lower() + rest);
        if let Some(upper) = before.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
