//! How a leader accepts, sends and commits writes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::conditions::Condition;
use super::mask::Mask;
use super::reads::Reader;
use super::view::CutOff;
use super::window::Pending;
use super::{Entry, Leader, Limits, Link, Output, Phase, Receipt, SlotId};
use crate::protocol::messages::Write;
use crate::protocol::types::{Epoch, Key, RESTORE_MARK, RETRY_MARKS_PER_KEY, Record, RetryMark, SEQ_MAX, Version};
use crate::protocol::value::Value;

/// How many retries of one write may wait for it, in addition to the first request.
const WAITERS_MAX: usize = 64;

/// A write of a client.
#[derive(Clone, Debug)]
pub struct NewWrite {
    /// The key.
    pub key: Key,
    /// The value; `None` deletes the key.
    pub value: Option<Value>,
    /// The client's `Idempotency-Key`.
    pub retry_token: Option<Arc<str>>,
    /// Whether the receipt should contain the drawn delays.
    pub explain: bool,
    /// When it arrived, on any monotonic clock, in microseconds.
    pub now_us: u64,
}

/// The state of an accepted write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// [`Output::Committed`] or [`Output::Indeterminate`] will answer.
    Pending {
        /// Its sequence number.
        seq: u64,
    },
    /// The write is a retry, and the original is committed.
    AlreadyCommitted {
        /// The sequence number of that write.
        seq: u64,
    },
    /// The write is refused because of the newest record of its key. [`Output::Unmet`] or
    /// [`Output::NotApplied`] will answer.
    Unmet,
}

/// A restore that has begun and has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// The digest of the backup.
    pub backup: Arc<str>,
    /// Whether the keys of the backup replace existing ones.
    pub overwrite: bool,
}

impl std::fmt::Display for Unfinished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the restore of the backup with digest {} is not finished: it has to be repeated, or given up",
            self.backup
        )
    }
}

/// Why the leader refused a request. The leader changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The leader is still recovering.
    #[error("the leader is recovering")]
    Recovering,
    /// This process waits, since another leader is at work.
    #[error("{leader} leads")]
    Standby {
        /// The URL of that leader.
        leader: Arc<str>,
    },
    /// This leader resigned.
    #[error("this leader handed over")]
    Resigned,
    /// Another leader took over.
    #[error("this leader was replaced by the leader of epoch {0}")]
    Fenced(Epoch),
    /// Too many writes wait for their quorum.
    #[error("{writes} writes wait for their quorum already (limit {limit})")]
    Overloaded {
        /// How many writes wait.
        writes: usize,
        /// How many may wait.
        limit: usize,
    },
    /// The writes that wait for their quorum have too many bytes.
    #[error("{bytes} bytes of writes wait for their quorum already (limit {limit})")]
    OverloadedBytes {
        /// Bytes of keys and values that wait.
        bytes: usize,
        /// How many may wait.
        limit: usize,
    },
    /// Too many reads wait for the followers to confirm that this leader still leads.
    #[error("{reads} reads wait for the followers already (limit {limit})")]
    OverloadedReads {
        /// How many reads wait.
        reads: usize,
        /// How many may wait.
        limit: usize,
    },
    /// No write can be acknowledged now: too few followers are connected, or too few answer.
    #[error("{0}")]
    CutOff(CutOff),
    /// The idempotency key was used before, with another value.
    #[error("the idempotency key was used for another value of this key (seq {seq})")]
    TokenReused {
        /// The sequence number of the write that used it.
        seq: u64,
    },
    /// A backup has a sequence number that no key can have reached.
    #[error("the key {key:?} has the sequence number {seq}, which is above the limit of {SEQ_MAX}")]
    SequenceTooHigh {
        /// The key.
        key: Key,
        /// Its sequence number.
        seq: u64,
    },
    /// The backup has another value of an existing key.
    #[error("the key {key:?} already exists with another value (seq {seq})")]
    Exists {
        /// The key.
        key: Key,
        /// Of what is there.
        seq: u64,
    },
    /// A restore is unfinished, so the leader serves no client.
    #[error("{0}")]
    Restoring(Unfinished),
    /// This cluster starts from a backup, whose restore has not begun.
    #[error("this new cluster starts from a backup, and its restore has not begun")]
    AwaitsRestore,
    /// Every key of a restore is stored, but its end is not committed yet.
    #[error("the end of a restore is not committed yet")]
    RestoreEnds,
    /// The restore may not overwrite, and the cluster has keys.
    #[error("the cluster has {keys} keys already: restore into an empty cluster, or allow overwriting")]
    NotEmpty {
        /// How many keys there are.
        keys: usize,
    },
    /// The keys belong to a restore that has not begun or has ended.
    #[error("no restore of the backup with digest {backup} is under way")]
    NotRestoring {
        /// The digest of the backup.
        backup: Arc<str>,
    },
}

/// A client's request to write, apart from the value.
pub(super) struct Asked {
    pub(super) key: Key,
    /// The client's idempotency key and the fingerprint of the request.
    pub(super) token: Option<(Arc<str>, u64)>,
    pub(super) explain: bool,
    pub(super) now_us: u64,
}

impl<W, R> Leader<W, R> {
    /// Refuses everything unless this leader is open.
    pub(super) fn refusal(&self) -> Result<(), Refusal> {
        match self.phase {
            Phase::Open => Ok(()),
            Phase::Resigned => Err(Refusal::Resigned),
            Phase::Fenced(by) => Err(Refusal::Fenced(by)),
            _ => Err(self.heard_leader().map_or(Refusal::Recovering, |leader| Refusal::Standby { leader })),
        }
    }

    /// Accepts a write: assigns the next sequence number of its key and draws a random delay for
    /// each follower.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was accepted.
    pub fn put(&mut self, new: NewWrite, waiter: W) -> Result<Accepted, Refusal> {
        self.put_if(new, Condition::Always, waiter)
    }

    /// The newest accepted record of a key, and the key's position.
    pub(super) fn known(&self, key: &str) -> Option<(usize, Record)> {
        self.entries.find(key).map(|(position, entry)| (position, entry.latest.clone()))
    }

    /// Makes a value the newest of its key and returns its sequence number. `known` is the record
    /// before it.
    pub(super) fn append(
        &mut self,
        known: Option<(usize, Record)>,
        asked: Asked,
        value: Option<Value>,
        waiter: W,
    ) -> Result<u64, Refusal> {
        let Asked { key, token, explain, now_us } = asked;
        self.refuse_overload(key.len() + value.as_ref().map_or(0, |value| value.len()))?;
        let (position, earlier) = known.map_or((None, None), |(position, latest)| (Some(position), Some(latest)));
        let seq = earlier.as_ref().map_or(0, |latest| latest.version.seq) + 1;
        let earlier = earlier.and_then(|latest| latest.marks);
        let marks = match token {
            Some((token, fingerprint)) => Some(with_mark(earlier, RetryMark { token, seq, fingerprint })),
            None => earlier,
        };
        let record = Record { version: Version { epoch: self.epoch, seq }, value, marks };
        self.enter(position, key, record, explain, now_us, waiter);
        Ok(seq)
    }

    /// Refuses another write of `bytes_more` bytes if too many writes or bytes wait. Always accepts
    /// a single write, however long.
    pub(super) fn refuse_overload(&self, bytes_more: usize) -> Result<(), Refusal> {
        let Limits { writes_in_flight, bytes_in_flight, .. } = self.settings.limits;
        let (writes, bytes) = (self.window.uncommitted(), self.window.uncommitted_bytes());
        if writes >= writes_in_flight {
            return Err(Refusal::Overloaded { writes, limit: writes_in_flight });
        }
        if writes > 0 && bytes + bytes_more > bytes_in_flight {
            return Err(Refusal::OverloadedBytes { bytes, limit: bytes_in_flight });
        }
        Ok(())
    }

    /// Makes an accepted record the latest of its key and draws a random delay for each follower.
    pub(super) fn enter(
        &mut self,
        position: Option<usize>,
        key: Key,
        record: Record,
        explain: bool,
        now_us: u64,
        waiter: W,
    ) {
        let index = self.window.next_index();
        let entry = self.replace(position, key.clone(), record.clone(), index);

        let write = Arc::new(Write::new(index, key, record));
        let (due, delays_us) = self.draw(&write, explain);
        self.window.push(Pending {
            write,
            entry,
            confirmed: Mask::default(),
            due,
            committed: false,
            accepted_us: now_us,
            waiter: Some(waiter),
            more_waiters: Vec::new(),
            delays_us,
        });
        self.accepted += 1;
        self.bound_backlog();
    }

    /// Handles the retry of an accepted write: it waits for the same commit, or the write is
    /// committed already. `pending` is the index of the write, if it is not committed.
    pub(super) fn retry(&mut self, pending: Option<u64>, seq: u64, waiter: W) -> Accepted {
        let pending = pending.and_then(|index| self.window.get_mut(index)).filter(|pending| !pending.committed);
        let Some(pending) = pending else {
            return Accepted::AlreadyCommitted { seq };
        };
        if pending.more_waiters.len() >= WAITERS_MAX {
            // The client of the oldest waiter has most likely given up.
            let waiter = pending.more_waiters.remove(0);
            self.out.push(Output::Indeterminate { waiter, seq });
        }
        pending.more_waiters.push(waiter);
        Accepted::Pending { seq }
    }

    /// Drops the waiters whose clients disconnected; their writes stay. Otherwise clients that give
    /// up and retry while there is no quorum would fill the memory.
    pub fn forget_gone(&mut self, write_is_gone: impl Fn(&W) -> bool, read_is_gone: impl Fn(&R) -> bool) {
        if self.window.uncommitted() > 0 {
            for pending in self.window.iter_mut().filter(|pending| !pending.committed) {
                pending.more_waiters.retain(|waiter| !write_is_gone(waiter));
            }
        }
        self.reads.retain(|reader| match reader {
            Reader::Read(reader) => !read_is_gone(reader),
            Reader::Unmet(unmet) => !write_is_gone(&unmet.0),
        });
    }

    /// Makes a record the latest of its key and returns the position of the key.
    fn replace(&mut self, position: Option<usize>, key: Key, record: Record, index: u64) -> usize {
        let Some(position) = position else {
            let entry = Entry { latest: record, index, latest_committed: false, committed: None };
            return self.entries.insert(key, entry).0;
        };
        if let Some(entry) = self.entries.at_mut(position) {
            let before = std::mem::replace(&mut entry.latest, record);
            if std::mem::replace(&mut entry.latest_committed, false) {
                entry.committed = Some(Box::new(before));
            }
            entry.index = index;
        }
        position
    }

    /// Draws an independent delay for each follower. Returns the followers without a delay, and the
    /// delays if `explain`.
    fn draw(&mut self, write: &Arc<Write>, explain: bool) -> (Mask, Option<Vec<u32>>) {
        let delay = &self.settings.delay;
        let shared_ms = delay.draw_shared_ms(&mut self.rng);
        let (mut due, mut to) = (Mask::default(), Mask::default());
        let mut drawn = explain.then(Vec::new);
        for (index, slot) in self.slots.iter().enumerate() {
            let (id, Some(slot)) = (SlotId(index as u8), slot.as_ref()) else {
                continue;
            };
            let delay_us = delay.draw_us(slot.number, shared_ms, &mut self.rng);
            if slot.wanted
                && let Some(drawn) = &mut drawn
            {
                drawn.push(delay_us);
            }
            if delay_us > 0 {
                self.out.push(Output::Schedule { slot: id, index: write.index, delay_us });
                continue;
            }
            due.insert(id);
            if slot.link == Link::Streaming {
                to.insert(id);
            }
        }
        if !to.is_empty() {
            self.out.push(Output::Transmit(to, write.clone()));
        }
        (due, drawn)
    }

    /// The random delay of a write for a follower is over.
    pub fn due(&mut self, id: SlotId, index: u64) {
        let Some(slot) = self.slots.get(id.index()).and_then(Option::as_ref) else {
            return;
        };
        let Some(pending) = self.window.get_mut(index) else {
            return;
        };
        pending.due.insert(id);
        let tracked = slot.progress.tracked_from.is_some_and(|from| from <= index);
        if slot.link == Link::Streaming && tracked && !pending.confirmed.contains(id) {
            self.out.push(Output::Transmit(id.into(), pending.write.clone()));
        }
    }

    pub(super) fn on_confirmed(&mut self, id: SlotId, ranges: &[(u64, u64)]) {
        for &(first, last) in ranges {
            self.confirm(id, first, last.saturating_add(1));
        }
        self.raise_watermark(id);
        self.trim();
        if self.rules.changing() {
            self.advance();
        }
    }

    /// A state transfer brought every write below this index.
    pub(super) fn confirm_below(&mut self, id: SlotId, end: u64) {
        self.confirm(id, 0, end);
        self.raise_watermark(id);
        self.trim();
    }

    /// A follower has the writes from an index on, up to and without another one. Commits those that
    /// have a quorum now.
    fn confirm(&mut self, id: SlotId, from: u64, end: u64) {
        let mut satisfied = Vec::new();
        for pending in self.window.range_mut(from, end) {
            pending.confirmed.insert(id);
            if !pending.committed && self.rules.satisfied(pending.confirmed) {
                satisfied.push(pending.write.index);
            }
        }
        satisfied.into_iter().for_each(|index| self.commit(index));
    }

    fn commit(&mut self, index: u64) {
        let (epoch, quorum) = (self.epoch, self.rules.quorum());
        let Some(pending) = self.window.commit(index) else {
            return;
        };
        let seq = pending.write.record.version.seq;
        let restore_mark = *pending.write.key == *RESTORE_MARK;
        if let Some(entry) = self.entries.at_mut(pending.entry) {
            if let Some(saving) = &mut self.saving {
                saving.keep(pending.entry, entry.committed());
            }
            self.committed_keys += usize::from(entry.committed().is_none());
            if entry.latest.version == pending.write.record.version {
                entry.latest_committed = true;
                entry.committed = None;
            } else if !entry.latest_committed
                && entry.committed.as_ref().is_none_or(|known| known.version < pending.write.record.version)
            {
                entry.committed = Some(Box::new(pending.write.record.clone()));
            }
        }
        if let Some(commits) = &mut self.commits {
            commits.push((pending.entry, pending.write.key.clone()));
        }
        let receipt = Receipt { seq, epoch, quorum, delays_us: pending.delays_us.take() };
        let others = std::mem::take(&mut pending.more_waiters);
        if let Some(waiter) = pending.waiter.take() {
            self.out.push(Output::Committed { waiter, receipt: receipt.clone() });
        }
        self.out.extend(others.into_iter().map(|waiter| Output::Committed { waiter, receipt: receipt.clone() }));
        self.committed += 1;
        self.release_readers(index);
        if self.restoring && restore_mark {
            // The deletion of the mark must be committed before this leader serves clients.
            // Otherwise a later leader could find the mark again and refuse them.
            self.restoring = self.half_restored();
        }
    }

    /// After a change of the rules: commits the writes that have a quorum now.
    pub(super) fn commit_satisfied(&mut self) {
        let satisfied: Vec<u64> = self
            .window
            .iter_from(0)
            .filter(|pending| !pending.committed && self.rules.satisfied(pending.confirmed))
            .map(|pending| pending.write.index)
            .collect();
        satisfied.into_iter().for_each(|index| self.commit(index));
    }

    fn raise_watermark(&mut self, id: SlotId) {
        let Some(slot) = self.slots.get_mut(id.index()).and_then(Option::as_mut) else {
            return;
        };
        // A follower that fell behind the window keeps its watermark until a transfer of the newer
        // records is complete.
        let watermark = slot.progress.watermark;
        if watermark >= self.window.base() && slot.progress.tracked_from.is_some_and(|from| from <= watermark) {
            let next = self.window.iter_from(watermark);
            let confirmed = next.take_while(|pending| pending.confirmed.contains(id)).count();
            slot.progress.watermark += confirmed as u64;
        }
    }

    /// Drops the oldest writes once they are committed and every tracked follower confirmed them.
    pub(super) fn trim(&mut self) {
        let mut end = self.window.base();
        loop {
            // The writes below `until` are kept for the same followers.
            let (from, mut until) = (end, self.window.next_index());
            let mut waits_for = Mask::default();
            for (id, slot) in self.each_slot() {
                match slot.progress.tracked_from {
                    Some(tracked) if tracked <= from => waits_for.insert(id),
                    Some(tracked) => until = until.min(tracked),
                    None => {}
                }
            }
            let over = |pending: &&Pending<W>| pending.committed && pending.confirmed & waits_for == waits_for;
            end += self.window.iter_from(from).take((until - from) as usize).take_while(over).count() as u64;
            if end < until || end == self.window.next_index() {
                break;
            }
        }
        self.window.drop_below(end);
    }

    /// Stops tracking the follower that is furthest behind if the window exceeds its limits.
    fn bound_backlog(&mut self) {
        let limits = self.settings.limits;
        while self.window.len() > limits.backlog_writes || self.window.bytes() > limits.backlog_bytes {
            let front = self.window.base();
            let Some(pending) = self.window.front().filter(|pending| pending.committed) else {
                return;
            };
            let behind = self.each_slot().find(|(id, slot)| {
                slot.progress.tracked_from.is_some_and(|from| from <= front) && !pending.confirmed.contains(*id)
            });
            let Some((id, _)) = behind else { return };
            self.fall_behind(id);
            self.trim();
        }
    }

    fn fall_behind(&mut self, id: SlotId) {
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        slot.progress.tracked_from = None;
        // A connected follower gets the newer records at once; any other one when it reconnects.
        if slot.link == Link::Streaming {
            self.install(id, false);
        }
    }
}

/// Position and sequence number of the accepted write that a request with this idempotency key
/// repeats.
///
/// # Errors
/// [`Refusal::TokenReused`] if the key belongs to another request.
pub(super) fn mark_of(
    known: Option<&(usize, Record)>,
    token: Option<&(Arc<str>, u64)>,
) -> Result<Option<(usize, u64)>, Refusal> {
    let (Some((position, latest)), Some((token, fingerprint))) = (known, token) else {
        return Ok(None);
    };
    let marks = latest.marks.as_deref().unwrap_or_default();
    match marks.iter().find(|mark| mark.token == *token) {
        None => Ok(None),
        Some(mark) if mark.fingerprint == *fingerprint => Ok(Some((*position, mark.seq))),
        Some(mark) => Err(Refusal::TokenReused { seq: mark.seq }),
    }
}

fn with_mark(earlier: Option<Arc<[RetryMark]>>, mark: RetryMark) -> Arc<[RetryMark]> {
    let earlier = earlier.as_deref().unwrap_or_default();
    let kept = earlier.len().saturating_sub(RETRY_MARKS_PER_KEY - 1);
    earlier[kept..].iter().cloned().chain([mark]).collect()
}
