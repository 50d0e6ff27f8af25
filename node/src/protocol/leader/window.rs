//! The writes that some follower still has to confirm, in the order in which they were accepted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::mask::Mask;
use crate::protocol::messages::Write;

/// One accepted write.
#[derive(Clone, Debug)]
pub(super) struct Pending<W> {
    pub(super) write: Arc<Write>,
    /// Position of the key in the leader's map, so that a commit needs no second look-up.
    pub(super) entry: usize,
    /// Followers that confirmed it.
    pub(super) confirmed: Mask,
    /// Followers whose random delay is over.
    pub(super) due: Mask,
    pub(super) committed: bool,
    /// When it was accepted, on the caller's clock, in microseconds.
    pub(super) accepted_us: u64,
    /// The client to answer at the commit.
    pub(super) waiter: Option<W>,
    pub(super) more_waiters: Vec<W>,
    /// The drawn delays in microseconds, kept only for a client that asked.
    pub(super) delays_us: Option<Vec<u32>>,
}

impl<W> Pending<W> {
    pub(super) fn bytes(&self) -> usize {
        super::super::follower::approximate_bytes(&self.write.key, &self.write.record)
    }

    /// Position and sequence number of a write whose own idempotency key is among the marks of its record.
    fn marked_place(&self) -> Option<(usize, u64)> {
        let seq = self.write.record.version.seq;
        let newest = self.write.record.marks.as_deref()?.last()?;
        (newest.seq == seq).then_some((self.entry, seq))
    }
}

/// A queue with stable indices: `base` is the index of its front.
#[derive(Clone, Debug)]
pub(super) struct Window<W> {
    base: u64,
    queue: VecDeque<Pending<W>>,
    bytes: usize,
    uncommitted: usize,
    uncommitted_bytes: usize,
    /// The uncommitted writes that carry an idempotency key, by the position of their key and their sequence number.
    marked: BTreeMap<(usize, u64), u64>,
}

impl<W> Window<W> {
    pub(super) fn new(base: u64) -> Self {
        Self { base, queue: VecDeque::new(), bytes: 0, uncommitted: 0, uncommitted_bytes: 0, marked: BTreeMap::new() }
    }

    /// Index of the oldest write that is kept.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Index that the next write gets.
    pub(super) fn next_index(&self) -> u64 {
        self.base + self.queue.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn uncommitted(&self) -> usize {
        self.uncommitted
    }

    /// Bytes of keys and values of the uncommitted writes.
    pub(super) fn uncommitted_bytes(&self) -> usize {
        self.uncommitted_bytes
    }

    /// Appends a write that is not committed yet.
    pub(super) fn push(&mut self, pending: Pending<W>) {
        debug_assert_eq!(pending.write.index, self.next_index(), "writes enter in the order of their indices");
        self.bytes += pending.bytes();
        self.uncommitted += 1;
        self.uncommitted_bytes += pending.bytes();
        if let Some(place) = pending.marked_place() {
            self.marked.insert(place, pending.write.index);
        }
        self.queue.push_back(pending);
    }

    pub(super) fn get(&self, index: u64) -> Option<&Pending<W>> {
        self.queue.get(usize::try_from(index.checked_sub(self.base)?).ok()?)
    }

    pub(super) fn get_mut(&mut self, index: u64) -> Option<&mut Pending<W>> {
        self.queue.get_mut(usize::try_from(index.checked_sub(self.base)?).ok()?)
    }

    pub(super) fn front(&self) -> Option<&Pending<W>> {
        self.queue.front()
    }

    pub(super) fn newest(&self) -> Option<&Pending<W>> {
        self.queue.back()
    }

    /// Drops the writes below an index.
    pub(super) fn drop_below(&mut self, end: u64) {
        let dropped = self.offset(end);
        self.bytes -= self.queue.drain(..dropped).map(|pending| pending.bytes()).sum::<usize>();
        self.base += dropped as u64;
    }

    /// Marks a write as committed; `None` when it is unknown or was committed before.
    pub(super) fn commit(&mut self, index: u64) -> Option<&mut Pending<W>> {
        let offset = usize::try_from(index.checked_sub(self.base)?).ok()?;
        let pending = self.queue.get_mut(offset).filter(|pending| !pending.committed)?;
        pending.committed = true;
        self.uncommitted -= 1;
        self.uncommitted_bytes -= pending.bytes();
        if let Some(place) = pending.marked_place() {
            self.marked.remove(&place);
        }
        Some(pending)
    }

    /// The uncommitted write of the key at this position that got this sequence number and carries an idempotency key.
    pub(super) fn find_marked(&self, position: usize, seq: u64) -> Option<u64> {
        self.marked.get(&(position, seq)).copied()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Pending<W>> {
        self.queue.iter_mut()
    }

    /// The writes from an index on, oldest first.
    pub(super) fn iter_from(&self, index: u64) -> impl Iterator<Item = &Pending<W>> {
        self.queue.range(self.offset(index)..)
    }

    /// The writes from an index on, up to and without another one.
    pub(super) fn range_mut(&mut self, from: u64, end: u64) -> impl Iterator<Item = &mut Pending<W>> {
        let (from, end) = (self.offset(from), self.offset(end));
        self.queue.range_mut(from..end.max(from))
    }

    /// How many of the writes that are kept have a lower index.
    fn offset(&self, index: u64) -> usize {
        usize::try_from(index.saturating_sub(self.base)).unwrap_or(usize::MAX).min(self.queue.len())
    }
}
