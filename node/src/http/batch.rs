//! `POST /batch`: lines of JSON, each a request of a single route, answered by as many lines in their order.
//!
//! The node begins lines as they arrive, so that they are replicated side by side, and sends each answer once all before it
//! are sent. A line is carried out by the code of its single route; no line knows of the others, except that a read sees
//! the writes before it.
//!
//! Memory per batch: the line that arrives, the answers of [`LINES_MAX`] lines or [`BYTES_MAX`] of their keys and values,
//! and [`OUTPUT_BYTES_MAX`] of answers. The node reads no more while one of them is used up.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Either};
use hyper::Request;
use hyper::body::Body as HttpBody;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep, timeout};
use xxhash_rust::xxh3::xxh3_64;

use super::LeaderSite;
use super::answer::Answer;
use super::body::{self, Bodies};
use super::client_stream::Arriving;
use super::error::ApiError;
use super::incr::{self, IncrBody};
use super::kv::{self, DeleteBody, KeyBody, PutBody};

/// Lines whose answers are not known.
const LINES_MAX: usize = 1_024;

/// Bytes of their keys and values. A single line may have more.
const BYTES_MAX: usize = 8 << 20;

/// Bytes of answers that wait to be sent.
const OUTPUT_BYTES_MAX: usize = 256 << 10;

/// Bytes of a line that are free. The rest is taken from the memory for request bodies.
const FREE_BYTES: usize = 64 << 10;

/// An answer above this is sent without another copy.
const COPIED_BYTES: usize = 16 << 10;

/// Earlier lines among which a read looks for its key. Behind more of them it counts as behind a write of its key, which
/// is always right and costs at most a wait.
const LOOKED_AT_MAX: usize = 128;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    put: Option<PutBody<'a>>,
    #[serde(borrow)]
    delete: Option<DeleteBody<'a>>,
    #[serde(borrow)]
    incr: Option<IncrBody<'a>>,
    #[serde(borrow)]
    get: Option<KeyBody<'a>>,
}

/// A line whose answer is not known.
struct Pending {
    /// Hash of its key.
    hash: u64,
    /// Bytes of its key and value.
    bytes: usize,
    answer: Pin<Box<dyn Future<Output = Answered> + Send>>,
}

/// What the single route would answer.
struct Answered {
    status: StatusCode,
    etag: Option<HeaderValue>,
    body: Bytes,
}

/// `POST /batch`.
pub(super) async fn batch(state: &LeaderSite, request: Request<Arriving>) -> Result<Answer, ApiError> {
    let (head, mut body) = request.into_parts();
    if state.site.is_draining() {
        return Err(ApiError::not_applied("the leader is shutting down"));
    }
    let refused = |refusal| kv::refused(&refusal, &head.uri, ApiError::refused_write);
    state.leader.local_refusal().map_err(refused)?;
    // The answer begins after the first bytes: a client that expects `100 Continue` sends none before it.
    let within = state.site.bodies.within();
    let first = timeout(within, body::next(&mut body)).await.map_err(|_| ApiError::late_body(within))??;
    let mut batch = Batch {
        state: state.clone(),
        uri: head.uri,
        input: first.is_some().then_some(body),
        lines: Lines::new(state.site.body_bytes_max()),
        queue: VecDeque::new(),
        queued_bytes: 0,
        out: Output::default(),
        within,
        timer: Box::pin(sleep(within)),
    };
    if let Some(first) = first {
        batch.receive(&first);
    }
    let body = stream::poll_fn(move |cx| batch.poll(cx)).map(Ok::<_, Infallible>);
    let mut answer = hyper::Response::new(Either::Right(Body::from_stream(body)));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(answer)
}

struct Batch {
    state: LeaderSite,
    uri: Uri,
    /// Absent once no more lines arrive.
    input: Option<Arriving>,
    lines: Lines,
    queue: VecDeque<Pending>,
    queued_bytes: usize,
    out: Output,
    /// How long the next whole line may take.
    within: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Batch {
    /// The next part of the answer.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let mut progress = self.take_in(cx);
            while self.out.bytes < OUTPUT_BYTES_MAX
                && let Some(front) = self.queue.front_mut()
                && let Poll::Ready(answered) = front.answer.as_mut().poll(cx)
            {
                self.queued_bytes -= self.queue.pop_front().map_or(0, |line| line.bytes);
                self.out.push(answered);
                progress = true;
            }
            if let Some(part) = self.out.take() {
                return Poll::Ready(Some(part));
            }
            if self.input.is_none() && self.queue.is_empty() {
                return Poll::Ready(None);
            }
            if !progress {
                if self.input.is_none() || self.timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.close(ApiError::late_line(self.within));
            }
        }
    }

    fn has_room(&self) -> bool {
        self.queue.len() < LINES_MAX && self.queued_bytes < BYTES_MAX && self.out.bytes < OUTPUT_BYTES_MAX
    }

    /// Reads and begins lines as far as there are any, and room for them.
    fn take_in(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        while self.has_room() {
            if let Some(line) = self.lines.next() {
                self.begin(line);
                self.wait_for_line();
                progress = true;
                continue;
            }
            let Some(input) = &mut self.input else { break };
            match Pin::new(input).poll_frame(cx) {
                Poll::Pending => return progress,
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers are ignored.
                    if let Ok(bytes) = frame.into_data() {
                        self.receive(&bytes);
                    }
                }
                // What arrived of the last line may be a whole request by accident: it is not carried out.
                Poll::Ready(Some(Err(error))) => self.close(ApiError::unreadable(&error)),
                Poll::Ready(None) => {
                    self.input = None;
                    self.lines.finish();
                }
            }
            progress = true;
        }
        // A line that the node does not read is not late.
        if !self.has_room() {
            self.wait_for_line();
        }
        progress
    }

    fn wait_for_line(&mut self) {
        self.timer.as_mut().reset(Instant::now() + self.within);
    }

    fn receive(&mut self, bytes: &[u8]) {
        if let Err(refused) = self.lines.push(bytes, &self.state.site.bodies) {
            self.push(0, 0, async move { Answer::from(refused) });
        }
    }

    /// Takes no more lines. The last answer says why.
    fn close(&mut self, why: ApiError) {
        self.input = None;
        self.lines.forget();
        self.push(0, 0, async move { Answer::from(why) });
    }

    fn begin(&mut self, line: Result<Bytes, ApiError>) {
        let begun = line.and_then(|line| self.begin_request(&line));
        if let Err(error) = begun {
            self.push(0, 0, async move { Answer::from(error) });
        }
    }

    /// Begins the request of a line.
    fn begin_request(&mut self, line: &[u8]) -> Result<(), ApiError> {
        let state = self.state.clone();
        let headers = HeaderMap::new();
        match body::parse(line)? {
            Line { put: Some(put), delete: None, incr: None, get: None } => {
                let write = kv::Write::put(&state.site, &headers, put.fields()?)?;
                self.write(state, write);
            }
            Line { put: None, delete: Some(delete), incr: None, get: None } => {
                let write = kv::Write::delete(&state.site, &headers, delete)?;
                self.write(state, write);
            }
            Line { put: None, delete: None, incr: Some(increment), get: None } => {
                let increment = incr::Request::of(&state.site, &headers, increment)?;
                let (hash, bytes) = (xxh3_64(increment.key.as_bytes()), increment.key.len());
                let begun = increment.begin(&state, &self.uri);
                self.push(hash, bytes, async move { begun.answer(&state).await.unwrap_or_else(Answer::from) });
            }
            Line { put: None, delete: None, incr: None, get: Some(get) } => {
                let key = kv::key_of(get.key)?;
                let hash = xxh3_64(key.as_bytes());
                let read = kv::Read::begin(&state, &key, self.touches(hash));
                let (bytes, uri) = (key.len() + read.bytes, self.uri.clone());
                self.push(hash, bytes, async move { read.answer(&state, &uri).await.unwrap_or_else(Answer::from) });
            }
            _ => return Err(ApiError::bad("a line is an object with one of put, delete, incr and get")),
        }
        Ok(())
    }

    fn write(&mut self, state: LeaderSite, write: kv::Write) {
        let (hash, bytes) = (xxh3_64(write.key.as_bytes()), write.bytes());
        let begun = write.begin(&state, &self.uri);
        self.push(hash, bytes, async move { begun.answer(&state).await.unwrap_or_else(Answer::from) });
    }

    /// Whether a line before, whose answer is not known, may be about a key with this hash.
    fn touches(&self, hash: u64) -> bool {
        self.queue.len() > LOOKED_AT_MAX || self.queue.iter().any(|line| line.hash == hash)
    }

    fn push(&mut self, hash: u64, bytes: usize, answer: impl Future<Output = Answer> + Send + 'static) {
        let answer = Box::pin(async move { Answered::of(answer.await).await });
        self.queued_bytes += bytes;
        self.queue.push_back(Pending { hash, bytes, answer });
    }
}

impl Answered {
    async fn of(answer: Answer) -> Self {
        let (head, body) = answer.into_parts();
        // The bodies of these answers are complete in memory.
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Self { status: head.status, etag: head.headers.get(header::ETAG).cloned(), body }
    }
}

/// Answers that wait to be sent.
#[derive(Default)]
struct Output {
    parts: VecDeque<Bytes>,
    last: BytesMut,
    bytes: usize,
}

impl Output {
    /// Appends `{"status":…,"etag":…,"body":…}` and a line break. JSON has no line breaks.
    fn push(&mut self, Answered { status, etag, body }: Answered) {
        let before = self.last.len();
        self.last.extend_from_slice(b"{\"status\":");
        self.last.extend_from_slice(status.as_str().as_bytes());
        if let Some(etag) = etag {
            self.last.extend_from_slice(b",\"etag\":\"");
            // An ETag in quotes: digits and a hyphen.
            self.last.extend_from_slice(etag.as_bytes().trim_ascii().strip_prefix(b"\"").unwrap_or_default());
        }
        self.last.extend_from_slice(b",\"body\":");
        self.bytes += self.last.len() - before + body.len() + 2;
        if body.len() > COPIED_BYTES {
            // It has its share of the memory for long answers until it is sent.
            self.parts.push_back(self.last.split().freeze());
            self.parts.push_back(body);
        } else {
            self.last.extend_from_slice(&body);
        }
        self.last.extend_from_slice(b"}\n");
    }

    fn take(&mut self) -> Option<Bytes> {
        let part = self.parts.pop_front().unwrap_or_else(|| self.last.split().freeze());
        self.bytes -= part.len();
        Some(part).filter(|part| !part.is_empty())
    }
}

/// Splits what arrives into lines.
struct Lines {
    bytes_max: usize,
    buffer: BytesMut,
    /// How much of the buffer has no line break.
    searched: usize,
    /// Whether the rest of the line is discarded.
    skipping: bool,
    at_end: bool,
    /// What the buffer takes of the memory for request bodies.
    share: Option<OwnedSemaphorePermit>,
}

impl Lines {
    fn new(bytes_max: usize) -> Self {
        Self { bytes_max, buffer: BytesMut::new(), searched: 0, skipping: false, at_end: false, share: None }
    }

    /// Adds bytes. To be called when [`Lines::next`] has returned nothing.
    ///
    /// # Errors
    /// The answer to the line, when there is no memory for it.
    fn push(&mut self, bytes: &[u8], bodies: &Bodies) -> Result<(), ApiError> {
        let (length, has) = (self.buffer.len() + bytes.len(), self.share.as_ref().map_or(0, |it| it.num_permits()));
        if !self.skipping && length > FREE_BYTES + has {
            // As much again as there is, so that long lines are copied few times.
            let Some(more) = bodies.share(length) else {
                let limit = bodies.bytes();
                self.skip();
                // The line may end within these bytes.
                self.buffer.extend_from_slice(bytes);
                return Err(ApiError::not_applied(format!(
                    "the bodies of other requests use the limit of {limit} bytes"
                )));
            };
            match &mut self.share {
                Some(share) => share.merge(more),
                None => self.share = Some(more),
            }
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn skip(&mut self) {
        self.forget();
        self.skipping = true;
    }

    fn forget(&mut self) {
        (self.buffer, self.searched, self.share) = (BytesMut::new(), 0, None);
    }

    /// No more bytes come: the rest is a line too.
    fn finish(&mut self) {
        self.at_end = true;
    }
}

impl Iterator for Lines {
    /// A line, or the answer to one that is too long.
    type Item = Result<Bytes, ApiError>;

    /// The next line that is not blank.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            let line = match end {
                Some(end) => self.buffer.split_to(self.searched + end + 1),
                None if self.at_end && !self.buffer.is_empty() => self.buffer.split(),
                None => {
                    self.searched = self.buffer.len();
                    if self.skipping {
                        self.forget();
                    } else if self.searched > self.bytes_max {
                        self.skip();
                        return Some(Err(ApiError::too_long()));
                    } else if self.buffer.is_empty() {
                        self.forget();
                    }
                    return None;
                }
            };
            self.searched = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            let line = line.freeze();
            if line.trim_ascii().is_empty() {
                continue;
            }
            return Some(if line.len() > self.bytes_max + 1 { Err(ApiError::too_long()) } else { Ok(line) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(bytes: usize) -> Bodies {
        Bodies::new(bytes, Duration::from_secs(30))
    }

    fn take(lines: &mut Lines, found: &mut Vec<Option<String>>) {
        found.extend(
            lines.map(|line| line.ok().map(|line| String::from_utf8(line.trim_ascii().to_vec()).expect("text"))),
        );
    }

    // Goal: the lines do not depend on how the bytes arrive, and a line that is too long is one error and harms no other.
    // Method: one text in pieces of every length.
    #[test]
    fn lines_are_found_however_they_arrive() {
        let text = "first\n\n  \r\nsecond\r\n123456789\n1234567890\nlast but one\n123456789012345\nlast";
        let expected = ["first", "second", "123456789", "1234567890", "", "", "last"];
        let expected: Vec<_> = expected.into_iter().map(|line| (!line.is_empty()).then(|| line.to_owned())).collect();
        for size in 1..=text.len() {
            let (mut lines, mut found) = (Lines::new(10), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                lines.push(piece, &bodies(1)).expect("it fits");
                take(&mut lines, &mut found);
                assert!(lines.buffer.len() <= 10, "{} bytes are kept", lines.buffer.len());
            }
            lines.finish();
            take(&mut lines, &mut found);
            assert_eq!(found, expected, "pieces of {size} bytes");
        }
    }

    // Goal: long lines share the memory for bodies, and give it back. Method: two lines of which one fits.
    #[test]
    fn long_lines_take_their_share_of_the_memory() {
        let bodies = bodies(600 << 10);
        let (mut first, mut second) = (Lines::new(1 << 20), Lines::new(1 << 20));
        let piece = [b'x'; 60 << 10];
        let push = |lines: &mut Lines| {
            let result = lines.push(&piece, &bodies);
            assert!(lines.next().is_none());
            result.is_ok()
        };
        assert!((0..5).all(|_| push(&mut first)));
        assert!(!(0..5).all(|_| push(&mut second)), "it does not fit beside the first one");
        second.push(b"the rest\nnext\n", &bodies).expect("it fits");
        assert_eq!(second.next().and_then(Result::ok).as_deref(), Some(&b"next\n"[..]));
        first.push(b"\n", &bodies).expect("it fits");
        assert_eq!(first.next().and_then(Result::ok).map(|line| line.len()), Some(5 * (60 << 10) + 1));
        assert!(first.next().is_none());
        assert!(bodies.share(600 << 10).is_some(), "everything is given back");
    }
}
