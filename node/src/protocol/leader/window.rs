//! The writes that some follower still has to confirm, in the order in which they were accepted.

use std::collections::VecDeque;
use std::sync::Arc;

use super::mask::Mask;
use crate::protocol::types::Write;

/// One accepted write.
#[derive(Clone, Debug)]
pub(super) struct Pending<W> {
    pub(super) write: Arc<Write>,
    /// Position of the key in the leader's map, so that a commit needs no second look-up.
    pub(super) entry: usize,
    /// Who confirmed it.
    pub(super) confirmed: Mask,
    /// For whom the random wait is over.
    pub(super) due: Mask,
    pub(super) committed: bool,
    /// On the caller's clock, in microseconds.
    pub(super) accepted_us: u64,
    /// Whom to tell of the commit: nearly always one, more when a client retried.
    pub(super) waiter: Option<W>,
    pub(super) more_waiters: Vec<W>,
    /// The drawn delays in microseconds, kept only for a client that asked.
    pub(super) delays_us: Option<Vec<u32>>,
}

impl<W> Pending<W> {
    pub(super) fn bytes(&self) -> usize {
        super::super::follower::approximate_bytes(&self.write.key, &self.write.record)
    }
}

/// A queue with stable indices: `base` is the index of its front.
#[derive(Clone, Debug)]
pub(super) struct Window<W> {
    base: u64,
    queue: VecDeque<Pending<W>>,
    bytes: usize,
    uncommitted: usize,
}

impl<W> Window<W> {
    pub(super) fn new(base: u64) -> Self {
        Self { base, queue: VecDeque::new(), bytes: 0, uncommitted: 0 }
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

    pub(super) fn push(&mut self, pending: Pending<W>) {
        debug_assert_eq!(pending.write.index, self.next_index(), "writes enter in the order of their indices");
        self.bytes += pending.bytes();
        self.uncommitted += usize::from(!pending.committed);
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

    pub(super) fn pop_front(&mut self) {
        if let Some(pending) = self.queue.pop_front() {
            self.base += 1;
            self.bytes -= pending.bytes();
            self.uncommitted -= usize::from(!pending.committed);
        }
    }

    /// Marks a write as committed; `None` when it is unknown or was committed before.
    pub(super) fn commit(&mut self, index: u64) -> Option<&mut Pending<W>> {
        let offset = usize::try_from(index.checked_sub(self.base)?).ok()?;
        let pending = self.queue.get_mut(offset).filter(|pending| !pending.committed)?;
        pending.committed = true;
        self.uncommitted -= 1;
        Some(pending)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Pending<W>> {
        self.queue.iter_mut()
    }

    /// From an index on, oldest first.
    pub(super) fn iter_from(&self, index: u64) -> impl Iterator<Item = &Pending<W>> {
        let offset = usize::try_from(index.saturating_sub(self.base)).unwrap_or(usize::MAX).min(self.queue.len());
        self.queue.range(offset..)
    }
}
