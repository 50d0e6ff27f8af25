//! A connection in memory: latency, back-pressure, stalls, and an end at any byte.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// One direction.
struct Way {
    created: Instant,
    rng: SmallRng,
    latency_ms: u64,
    capacity: usize,
    /// What is under way, and when each piece arrives.
    chunks: VecDeque<(Instant, Vec<u8>)>,
    queued: usize,
    /// The connection breaks once so many more bytes were sent.
    breaks_after: Option<usize>,
    broken: bool,
    /// Nothing arrives before, an end neither.
    stalled_until: Instant,
    sender_gone: bool,
    receiver_gone: bool,
    /// Of everything that arrived, with its time.
    fingerprint: u64,
    arrived_bytes: u64,
    read_waker: Option<Waker>,
    write_waker: Option<Waker>,
}

type Shared = Arc<Mutex<Way>>;

/// Both directions of a connection, to be disturbed.
#[derive(Clone)]
pub(crate) struct Wire {
    ways: [Shared; 2],
}

/// The end that reads.
pub(crate) struct Receiver {
    way: Shared,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// The end that writes.
pub(crate) struct Sender {
    way: Shared,
    /// Breaks together with it.
    other: Shared,
}

/// One side of a connection.
pub(crate) type Side = (Receiver, Sender);

/// Connects two sides.
pub(crate) fn connect(seed: u64, latency_ms: u64, capacity: usize) -> (Wire, Side, Side) {
    let way = |salt| {
        Arc::new(Mutex::new(Way {
            created: Instant::now(),
            rng: SmallRng::seed_from_u64(seed ^ salt),
            latency_ms,
            capacity,
            chunks: VecDeque::new(),
            queued: 0,
            breaks_after: None,
            broken: false,
            stalled_until: Instant::now(),
            sender_gone: false,
            receiver_gone: false,
            fingerprint: 0,
            arrived_bytes: 0,
            read_waker: None,
            write_waker: None,
        }))
    };
    let (down, up) = (way(1), way(2));
    let wire = Wire { ways: [down.clone(), up.clone()] };
    let leader = (Receiver { way: up.clone(), sleep: None }, Sender { way: down.clone(), other: up.clone() });
    let follower = (Receiver { way: down.clone(), sleep: None }, Sender { way: up, other: down });
    (wire, leader, follower)
}

impl Wire {
    /// Breaks now. Each direction loses what was under way from some byte on.
    pub(crate) fn cut(&self) {
        self.ways.iter().for_each(|way| way.lock().cut());
    }

    /// Breaks after so many more bytes in one direction.
    pub(crate) fn cut_after(&self, way: usize, bytes: usize) {
        self.ways[way].lock().breaks_after = Some(bytes);
    }

    /// Nothing arrives in this direction for a while. Then everything does, also when the sender is gone.
    pub(crate) fn stall(&self, way: usize, lasts: Duration) {
        let mut way = self.ways[way].lock();
        way.stalled_until = way.stalled_until.max(Instant::now() + lasts);
        way.wake();
    }

    /// Everything that is stalled goes on.
    pub(crate) fn heal(&self) {
        for way in &self.ways {
            let mut way = way.lock();
            way.stalled_until = Instant::now();
            way.breaks_after = None;
            way.wake();
        }
    }

    /// Whether neither end uses it any more.
    pub(crate) fn is_over(&self) -> bool {
        self.ways.iter().all(|way| {
            let way = way.lock();
            way.sender_gone && way.receiver_gone
        })
    }

    /// Of everything that arrived: the same for the same bytes at the same times.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.ways.iter().fold(0, |sum, way| xxh3_64_with_seed(&way.lock().fingerprint.to_le_bytes(), sum))
    }

    /// How many bytes arrived.
    pub(crate) fn arrived_bytes(&self) -> u64 {
        self.ways.iter().map(|way| way.lock().arrived_bytes).sum()
    }
}

impl Way {
    fn cut(&mut self) {
        let kept = self.rng.random_range(0..=self.queued);
        let mut rest = kept;
        for (_, chunk) in &mut self.chunks {
            chunk.truncate(rest);
            rest -= chunk.len();
        }
        self.chunks.retain(|(_, chunk)| !chunk.is_empty());
        self.queued = kept;
        self.broken = true;
        self.wake();
    }

    fn wake(&mut self) {
        self.read_waker.take().into_iter().chain(self.write_waker.take()).for_each(Waker::wake);
    }

    fn push(&mut self, bytes: &[u8]) {
        let latency = Duration::from_millis(self.rng.random_range(1..=self.latency_ms));
        let arrives = self.chunks.back().map_or(Instant::now(), |(last, _)| *last).max(Instant::now() + latency);
        self.chunks.push_back((arrives, bytes.to_vec()));
        self.queued += bytes.len();
        if let Some(waker) = self.read_waker.take() {
            waker.wake();
        }
    }
}

impl AsyncRead for Receiver {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let now = Instant::now();
        let shared = self.way.clone();
        let way = &mut *shared.lock();
        let wait = match way.chunks.front() {
            _ if way.stalled_until > now => Some(way.stalled_until),
            Some((arrives, _)) if *arrives > now => Some(*arrives),
            Some(_) => {
                let Some((arrives, mut chunk)) = way.chunks.pop_front() else { return Poll::Pending };
                let length = chunk.len().min(buffer.remaining());
                let rest = chunk.split_off(length);
                buffer.put_slice(&chunk);
                way.queued -= length;
                way.arrived_bytes += length as u64;
                let time = (now.duration_since(way.created).as_micros() as u64).to_le_bytes();
                way.fingerprint = xxh3_64_with_seed(&chunk, xxh3_64_with_seed(&time, way.fingerprint));
                if !rest.is_empty() {
                    way.chunks.push_front((arrives, rest));
                }
                if let Some(waker) = way.write_waker.take() {
                    waker.wake();
                }
                return Poll::Ready(Ok(()));
            }
            None if way.broken => {
                return Poll::Ready(if way.rng.random_bool(0.5) {
                    Ok(())
                } else {
                    Err(ErrorKind::ConnectionReset.into())
                });
            }
            None if way.sender_gone => return Poll::Ready(Ok(())),
            None => None,
        };
        way.read_waker = Some(context.waker().clone());
        if let Some(until) = wait {
            let mut sleep = Box::pin(sleep_until(until));
            if sleep.as_mut().poll(context).is_ready() {
                context.waker().wake_by_ref();
            }
            self.sleep = Some(sleep);
        }
        Poll::Pending
    }
}

impl AsyncWrite for Sender {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut way = self.way.lock();
        if way.broken || way.receiver_gone {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if way.queued >= way.capacity {
            way.write_waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let room = way.capacity - way.queued;
        let most = bytes.len().min(room);
        // Frames arrive in pieces.
        let length = if way.rng.random_bool(0.7) { most } else { way.rng.random_range(1..=most.max(1)).min(most) };
        match way.breaks_after {
            Some(left) if left <= length => {
                way.push(&bytes[..left]);
                way.broken = true;
                way.wake();
                drop(way);
                self.other.lock().cut();
            }
            Some(left) => {
                way.breaks_after = Some(left - length);
                way.push(&bytes[..length]);
            }
            None => way.push(&bytes[..length]),
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut way = self.way.lock();
        way.sender_gone = true;
        way.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut way = self.way.lock();
        way.sender_gone = true;
        way.wake();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut way = self.way.lock();
        way.receiver_gone = true;
        way.wake();
    }
}
