//! Serves one connection: reads commands, begins them, and sends their replies in order.
//!
//! All commands that are in the buffer begin before the first of them is answered, in one step of the
//! leader, so that they are replicated side by side. All replies that are known are sent with one write.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use smallvec::SmallVec;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};

use super::backend::{Backend, Turn};
use super::client::{Client, Under};
use super::errors::Error;
use super::frames::{FrameLimits, Parsed, Parser};
use super::output::Output;
use super::slot::{Form, Slot};
use crate::tls::Stream;

/// Commands of one connection whose replies are not sent. While there are so many, the node reads no
/// more of them.
const COMMANDS_MAX: usize = 1_024;

/// Bytes of replies that wait to be sent. While there are more, the node reads no more commands.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Memory for reading. Longer commands take theirs from the memory for request bodies.
const READ_BYTES: usize = 16 << 10;

/// Parts of the output that one write sends.
const SLICES: usize = 32;

/// Times and lengths of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionLimits {
    pub(super) frames: FrameLimits,
    /// Without reading any of its replies.
    pub(super) stall: Duration,
    /// From the first byte of a command to the last.
    pub(super) command: Duration,
}

/// One connection.
pub(super) struct Session {
    stream: Stream,
    client: Client,
    limits: SessionLimits,
    input: BytesMut,
    /// What `input` takes of the memory for request bodies.
    share: Option<OwnedSemaphorePermit>,
    parser: Parser,
    queue: VecDeque<Slot>,
    out: Output,
    /// Whether all that was written is on its way.
    flushed: bool,
    /// Since when a part of a command is there.
    part_since: Option<Instant>,
    /// Since when the client has read nothing of its replies.
    stalled_since: Option<Instant>,
    /// Whether no more commands are taken.
    closing: bool,
    /// Whether the client sends no more.
    at_end: bool,
    timer: Pin<Box<Sleep>>,
    /// When the timer fires, if it runs.
    armed: Option<Instant>,
}

impl Session {
    pub(super) fn new(stream: Stream, id: u64, backend: Arc<Backend>, limits: SessionLimits) -> Self {
        Self {
            stream,
            client: Client::new(id, backend),
            limits,
            input: BytesMut::new(),
            share: None,
            parser: Parser::default(),
            queue: VecDeque::new(),
            out: Output::default(),
            flushed: true,
            part_since: None,
            stalled_since: None,
            closing: false,
            at_end: false,
            timer: Box::pin(sleep(Duration::ZERO)),
            armed: None,
        }
    }

    /// Takes no more commands: the session ends once those under way are answered.
    pub(super) fn finish(&mut self) {
        self.closing = true;
    }

    /// The stream, if the client may still send.
    pub(super) fn into_stream(self) -> Option<Stream> {
        (!self.at_end).then_some(self.stream)
    }

    /// Serves the connection. Ready once it has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        self.client.now = now;
        loop {
            let mut progress = self.take_in(cx);
            progress |= self.settle(cx);
            match self.send(cx, now) {
                Ok(sent) => progress |= sent,
                Err(_) => {
                    self.at_end = true;
                    return Poll::Ready(());
                }
            }
            if (self.closing || self.at_end) && self.queue.is_empty() && self.out.is_empty() && self.flushed {
                return Poll::Ready(());
            }
            if !progress {
                return self.wait(cx, now);
            }
        }
    }

    /// Whether there is room for another command.
    fn has_room(&self) -> bool {
        !self.closing && self.queue.len() < COMMANDS_MAX && self.out.len() < OUTPUT_BYTES_MAX
    }

    /// Reads and begins commands as far as there are any, and room for them.
    fn take_in(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        loop {
            progress |= self.begin();
            if !self.has_room() || self.at_end {
                break;
            }
            match self.read(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) if count > 0 => {}
                // An error only says how the client ended its connection.
                Poll::Ready(_) => self.at_end = true,
            }
            progress = true;
        }
        // A command that the node does not read is not late.
        let is_part = self.has_room() && !self.at_end && self.parser.is_within(&self.input);
        self.part_since = if is_part { self.part_since.or(Some(self.client.now)) } else { None };
        progress
    }

    /// Begins the commands in the buffer.
    fn begin(&mut self) -> bool {
        let mut progress = false;
        let backend = self.client.backend.clone();
        let mut turn = backend.turn();
        while self.has_room() {
            match self.parser.parse(&mut self.input, self.limits.frames, self.client.authenticated) {
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Command) => self.begin_one(&mut turn),
                Ok(Parsed::TooLong(bytes)) => {
                    self.refuse(&Error::limit(format_args!("the command or one of its arguments has {bytes} bytes")));
                }
                Err(malformed) => {
                    self.refuse(&Error::wrong(malformed));
                    self.closing = true;
                }
            }
            (progress, self.part_since) = (true, None);
        }
        if self.input.is_empty() && self.share.is_some() {
            (self.input, self.share) = (BytesMut::new(), None);
        }
        progress
    }

    /// Begins the command at the front of the buffer.
    fn begin_one(&mut self, turn: &mut Turn<'_>) {
        let Self { client, parser, input, queue, out, .. } = self;
        let under = Under(queue);
        let mut args: SmallVec<[&[u8]; 8]> = SmallVec::with_capacity(parser.len());
        args.extend(parser.arguments(input));
        if queue.is_empty() {
            out.resp3 = client.resp3;
            let slot = client.handle(&args, &under, turn, out);
            queue.extend(slot.map(|slot| slot.in_version(client.resp3)));
        } else {
            let mut reply = Output::in_version(client.resp3);
            let slot = client.handle(&args, &under, turn, &mut reply);
            let slot = slot.unwrap_or_else(|| Slot::of(Form::Fixed(reply.into_bytes()), client.now));
            queue.push_back(slot.in_version(client.resp3));
        }
        drop(args);
        parser.consume(input);
        self.closing |= self.client.quits;
    }

    /// Answers with an error, after the replies to the commands before.
    fn refuse(&mut self, error: &Error) {
        if self.queue.is_empty() {
            return self.out.error(error.text());
        }
        let mut reply = Output::default();
        reply.error(error.text());
        self.queue.push_back(Slot::of(Form::Fixed(reply.into_bytes()), self.client.now));
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // No memory before something has arrived. A session of TLS keeps what it has decrypted.
        if let Stream::Plain(stream) = &self.stream {
            ready!(stream.poll_read_ready(cx))?;
        }
        if !self.make_room() {
            let limit = self.client.backend.site().bodies.bytes();
            self.refuse(&Error::limit(format_args!("commands of other connections use the limit of {limit} bytes")));
            self.closing = true;
            return Poll::Ready(Ok(1));
        }
        // Unlike `try_read_buf`, it saves the call that finds nothing after one that did not fill the buffer.
        pin!(self.stream.read_buf(&mut self.input)).poll(cx)
    }

    /// Makes room for reading: at most as much again as has arrived. Returns false if the memory for
    /// long commands is used up.
    fn make_room(&mut self) -> bool {
        let length = self.input.len();
        if length < READ_BYTES {
            self.input.reserve(READ_BYTES - length);
        } else if self.input.capacity() == length {
            let Some(more) = self.client.backend.site().bodies.share(length) else { return false };
            match &mut self.share {
                Some(share) => share.merge(more),
                None => self.share = Some(more),
            }
            self.input.reserve(length);
        }
        true
    }

    /// Writes the replies that are known, in the order of the commands.
    fn settle(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        while self.out.len() < OUTPUT_BYTES_MAX
            && let Some(front) = self.queue.front_mut()
            && front.poll(cx, &self.client).is_ready()
            && let Some(slot) = self.queue.pop_front()
        {
            slot.reply(&mut self.out, &self.client.backend);
            progress = true;
        }
        progress
    }

    /// Sends replies. Returns whether any were sent.
    fn send(&mut self, cx: &mut Context<'_>, now: Instant) -> io::Result<bool> {
        let mut sent = false;
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.out.chunks_vectored(&mut slices);
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count])? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(bytes) => {
                    self.out.advance(bytes);
                    (sent, self.stalled_since, self.flushed) = (true, None, false);
                }
                Poll::Pending => {
                    self.stalled_since.get_or_insert(now);
                    return Ok(sent);
                }
            }
        }
        // A session of TLS may have taken what the client's window has no room for.
        if !self.flushed {
            match Pin::new(&mut self.stream).poll_flush(cx)? {
                Poll::Ready(()) => (self.flushed, self.stalled_since) = (true, None),
                Poll::Pending => {
                    self.stalled_since.get_or_insert(now);
                    return Ok(sent);
                }
            }
        }
        self.out.give_back();
        Ok(sent)
    }

    /// Waits for the client, for the leader, or for the next moment at which something ends.
    fn wait(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        if self.queue.is_empty() && self.input.is_empty() {
            self.input = BytesMut::new();
        }
        let SessionLimits { stall, command, .. } = self.limits;
        let stall_end = self.stalled_since.map(|since| since + stall);
        if stall_end.is_some_and(|end| end <= now) {
            return Poll::Ready(());
        }
        let part_end = self.part_since.map(|since| since + command);
        if part_end.is_some_and(|end| end <= now) {
            let command_ms = command.as_millis();
            self.refuse(&Error::wrong(format_args!("Protocol error: no whole command within {command_ms} ms")));
            self.closing = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let look = self.queue.front().and_then(|front| front.next_look(now));
        if let Some(next) = [stall_end, part_end, look].into_iter().flatten().min()
            && self.armed.is_none_or(|armed| armed > next)
        {
            self.timer.as_mut().reset(next);
            self.armed = Some(next);
        }
        if self.armed.is_some() && self.timer.as_mut().poll(cx).is_ready() {
            self.armed = None;
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
