//! The queue of one connection. The connection sends everything that is due together.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::link::SessionError;
use crate::protocol::follower::approximate_bytes;
use crate::protocol::leader::InstallJob;
use crate::protocol::messages::{ToFollower, Write};

/// How many bytes a message counts. A leader's messages are short; state transfers are made in
/// parts.
const MESSAGE_BYTES: usize = 256;

/// An item to send.
#[derive(Debug)]
pub(crate) enum Item {
    Message(ToFollower),
    Write(Arc<Write>),
    /// A whole frame of writes.
    Writes(Bytes),
    Install(InstallJob),
}

impl Item {
    /// About how much memory it uses, in bytes.
    fn bytes(&self) -> usize {
        match self {
            Self::Write(write) => approximate_bytes(&write.key, &write.record),
            Self::Writes(frame) => frame.len(),
            Self::Message(_) | Self::Install(_) => MESSAGE_BYTES,
        }
    }
}

/// The queue of one connection. The bytes queued during one send are bounded: beyond the limit the
/// connection closes, and the follower catches up when it reconnects. Items queued while no send is
/// under way are not limited here: a follower that reconnects gets its whole backlog at once, which
/// the leader's own limits bound.
#[derive(Debug)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    bytes_max: usize,
    filled: Notify,
    closed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    items: Vec<Item>,
    /// Bytes of the items.
    bytes: usize,
    /// Whether items were taken and are not all sent.
    sending: bool,
    /// Position of the queued heartbeat, which a newer one replaces.
    probe: Option<usize>,
    closed: Option<Closed>,
}

/// Why the connection has to close.
#[derive(Clone, Copy, Debug)]
enum Closed {
    HungUp,
    Full { bytes: usize },
}

impl Outbox {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { queue: Mutex::default(), bytes_max, filled: Notify::new(), closed: Notify::new() }
    }

    /// Adds an item without waking the sender: see [`Outbox::wake`]. A heartbeat replaces a queued
    /// one.
    pub(crate) fn push(&self, item: Item) {
        let queue = &mut *self.queue.lock();
        if queue.closed.is_some() {
            return;
        }
        if let Item::Message(ToFollower::Probe { .. }) = item {
            if let Some(earlier) = queue.probe.and_then(|at| queue.items.get_mut(at)) {
                *earlier = item;
                return;
            }
            queue.probe = Some(queue.items.len());
        }
        queue.bytes += item.bytes();
        queue.items.push(item);
        if queue.sending && queue.bytes > self.bytes_max {
            let bytes = queue.bytes;
            self.close_as(queue, Closed::Full { bytes });
        }
    }

    pub(crate) fn wake(&self) {
        self.filled.notify_one();
    }

    /// Closes the connection and drops the queue.
    pub(crate) fn close(&self) {
        self.close_as(&mut self.queue.lock(), Closed::HungUp);
    }

    fn close_as(&self, queue: &mut Queue, why: Closed) {
        queue.items = Vec::new();
        queue.probe = None;
        queue.closed.get_or_insert(why);
        self.closed.notify_one();
    }

    /// Waits until the connection has to close. Returns the reason.
    pub(crate) async fn closed(&self) -> SessionError {
        loop {
            match self.queue.lock().closed {
                Some(Closed::HungUp) => return SessionError::Reset,
                Some(Closed::Full { bytes }) => return SessionError::Full { bytes, limit: self.bytes_max },
                None => {}
            }
            self.closed.notified().await;
        }
    }

    /// Waits for items and takes all of them, in exchange for an empty vector. Declares that the
    /// items taken before are sent. `fill` adds what waits elsewhere. Cancel safe.
    pub(crate) async fn take(&self, taken: &mut Vec<Item>, fill: impl Fn()) {
        loop {
            fill();
            {
                let queue = &mut *self.queue.lock();
                queue.sending = !queue.items.is_empty();
                if queue.sending {
                    std::mem::swap(&mut queue.items, taken);
                    (queue.bytes, queue.probe) = (0, None);
                    return;
                }
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::types::{Epoch, Record, Version};

    const EPOCH: Epoch = Epoch { term: 1, leader: 7 };

    fn probe(round: u64) -> Item {
        Item::Message(ToFollower::Probe { epoch: EPOCH, round, lag_us: 0, heard: 0 })
    }

    fn write(index: u64, bytes: usize) -> Item {
        let record = Record {
            version: Version { epoch: EPOCH, seq: index },
            value: Some("x".repeat(bytes).into()),
            marks: None,
        };
        Item::Write(Arc::new(Write::new(index, "key".into(), record)))
    }

    fn rounds(items: &[Item]) -> Vec<u64> {
        let round = |item: &Item| match item {
            Item::Message(ToFollower::Probe { round, .. }) => Some(*round),
            _ => None,
        };
        items.iter().filter_map(round).collect()
    }

    // Goal: for a follower that does not read, the queue has one heartbeat, not ten a second.
    // Method: many heartbeats, with other items in between.
    #[tokio::test]
    async fn heartbeats_that_wait_become_the_newest_one() {
        let outbox = Outbox::new(100_000);
        for round in 1..=1_000 {
            outbox.push(probe(round));
            if round == 500 {
                outbox.push(write(1, 10));
            }
        }
        let mut items = Vec::new();
        outbox.take(&mut items, || {}).await;
        assert_eq!((items.len(), rounds(&items)), (2, vec![1_000]));
        // A heartbeat that was taken cannot be replaced.
        items.clear();
        outbox.push(probe(1_001));
        outbox.push(probe(1_002));
        outbox.take(&mut items, || {}).await;
        assert_eq!(rounds(&items), [1_002]);
    }

    // Goal: the queue of a follower that does not read is bounded in bytes. Method: the connection
    // closes with the first byte above the limit during one send, and the queue is dropped. A
    // backlog queued at once does not close it.
    #[tokio::test]
    async fn a_full_outbox_ends_the_connection() {
        let outbox = Outbox::new(1_000);
        let mut items = Vec::new();
        (0..3).for_each(|index| outbox.push(write(index, 565)));
        assert!(outbox.queue.lock().closed.is_none(), "no send is under way");
        outbox.take(&mut items, || {}).await;
        assert_eq!(items.len(), 3);
        items.clear();
        outbox.push(write(3, 565));
        assert!(outbox.queue.lock().closed.is_none(), "600 bytes are below 1,000");
        outbox.push(write(4, 435));
        assert!(outbox.queue.lock().closed.is_some(), "1,070 bytes are above 1,000");
        let error = outbox.closed().await;
        assert!(matches!(error, SessionError::Full { bytes: 1_070, limit: 1_000 }), "{error}");
        outbox.push(write(5, 1));
        assert!(outbox.queue.lock().items.is_empty(), "nothing is kept for a connection that ends");
    }

    #[tokio::test]
    async fn a_closed_outbox_ends_the_connection() {
        let outbox = Outbox::new(1_000);
        outbox.push(write(1, 1));
        outbox.close();
        assert!(matches!(outbox.closed().await, SessionError::Reset));
        assert!(outbox.queue.lock().items.is_empty());
    }
}
