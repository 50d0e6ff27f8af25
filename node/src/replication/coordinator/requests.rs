//! Requests of clients: writes, reads, backups and restores.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::answers::Waiter;
use super::{Coordinator, Core, State};
use crate::deliberate::{self, DeliberateFault};
use crate::protocol::leader::{
    Accepted, Condition, Increment, Incremented, NewWrite, Part, ReadOf, Receipt, Refusal, Saved, Unfinished,
};
use crate::protocol::types::{Epoch, Key, RESTORE_MARK, Record};
use crate::protocol::value::Value;

/// How long a leader that resigns waits for its followers.
const RESIGN_MAX: Duration = Duration::from_secs(1);

/// How long a leader that has ended waits until followers name the next one. A standby takes over within some milliseconds.
const SUCCESSOR_MAX: Duration = Duration::from_millis(500);

/// How long it waits until that one opens.
const OPENS_MAX: Duration = Duration::from_secs(5);

/// For how long it sends clients there afterwards. Longer than the `Retry-After` of those that it refused
/// before, and than Kubernetes needs to send new connections elsewhere.
const SEND_ON_FOR: Duration = Duration::from_millis(1_500);

/// Looks every few milliseconds until a condition holds, which needs answers of followers.
async fn until(mut holds: impl FnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    while !holds() {
        looks.tick().await;
    }
}

/// The outcome of a write.
#[derive(Debug)]
pub enum WriteOutcome {
    /// W followers confirmed it.
    Committed(Receipt),
    /// The leader refused it because of this committed record and still led then. `None`: the key
    /// had no record.
    Unmet(Option<Box<Record>>),
    /// Another leader may commit it, or it may be lost.
    Indeterminate {
        /// Its sequence number.
        seq: u64,
    },
}

/// A write that the leader accepted.
#[derive(Debug)]
pub struct Placed {
    /// Whether it is pending.
    pub accepted: Accepted,
    /// The channel for the outcome. Unused for the retry of a write that is committed already. It
    /// closes without an outcome if the leader no longer knows whether it may refuse the write.
    pub outcome: oneshot::Receiver<WriteOutcome>,
    /// The epoch of the leader.
    pub epoch: Epoch,
    /// How long the client waits before the outcome is unknown.
    pub timeout: Duration,
}

/// An accepted write of a restore, and its outcome once it has one.
pub(crate) type Taken = (Accepted, oneshot::Receiver<WriteOutcome>);

/// A read that waits until followers confirm that this leader still leads, and the channel for its
/// answer. `None` in the channel means that the key has no record.
#[derive(Debug)]
pub(super) struct ReadWaiter {
    pub(super) key: Box<str>,
    pub(super) answer: oneshot::Sender<Option<Record>>,
}

impl State {
    fn placed(&self, accepted: Accepted, outcome: oneshot::Receiver<WriteOutcome>) -> Placed {
        Placed { accepted, outcome, epoch: self.core.epoch(), timeout: self.in_force.replication_timeout() }
    }
}

impl Coordinator {
    /// Accepts a write.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was accepted.
    pub fn put(self: &Arc<Self>, write: NewWrite) -> Result<Placed, Refusal> {
        self.put_if(write, Condition::Always)
    }

    /// Accepts a write if the condition holds.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was accepted.
    pub fn put_if(self: &Arc<Self>, write: NewWrite, condition: Condition) -> Result<Placed, Refusal> {
        let (sender, outcome) = oneshot::channel();
        self.step(|state| {
            let key = deliberate::is_on(DeliberateFault::RefusesBeforeCommit).then(|| write.key.clone());
            let accepted = state.core.put_if(write, condition, Waiter::Channel(sender))?;
            if let Some(key) = key.filter(|_| accepted == Accepted::Unmet) {
                let (sender, outcome) = oneshot::channel();
                let found = state.core.latest(&key).map(|(record, _)| Box::new(record.clone()));
                let _ = sender.send(WriteOutcome::Unmet(found));
                return Ok(state.placed(accepted, outcome));
            }
            assert!(!deliberate::is_on(DeliberateFault::PanicsInWrite), "a deliberate panic");
            Ok(state.placed(accepted, outcome))
        })
    }

    /// Accepts a read that shows a key as it is now. The channel brings [`WriteOutcome::Unmet`], or closes if this leader
    /// no longer leads.
    ///
    /// # Errors
    /// [`Refusal`] when it does not lead.
    pub fn read_in_order(self: &Arc<Self>, key: &str, of: ReadOf) -> Result<Placed, Refusal> {
        let (sender, outcome) = oneshot::channel();
        self.step(|state| {
            state.core.read_in_order(key, of, Waiter::Channel(sender))?;
            Ok(state.placed(Accepted::Unmet, outcome))
        })
    }

    /// How many followers have confirmed every write with an index below `end`.
    pub(crate) fn confirmed_by(&self, end: u64) -> usize {
        self.look(|state| state.core.confirmed_by(end))
    }

    /// Accepts an increment. Also returns the sum, if the leader knows it.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was accepted.
    pub fn increment(self: &Arc<Self>, increment: Increment) -> Result<(Placed, Option<i64>), Refusal> {
        let (sender, outcome) = oneshot::channel();
        self.step(|state| {
            let Incremented { accepted, sum } = state.core.increment(increment, Waiter::Channel(sender))?;
            Ok((state.placed(accepted, outcome), sum))
        })
    }

    /// Returns the newest committed record, once followers confirmed that this leader still leads.
    ///
    /// # Errors
    /// [`Refusal`] when it does not lead.
    pub async fn read(self: &Arc<Self>, key: &str) -> Result<Option<Record>, Refusal> {
        if deliberate::is_on(DeliberateFault::ReadsWithoutAsking) && self.look(|state| state.core.is_open()) {
            return Ok(self.look(|state| state.core.committed(key).cloned()));
        }
        let (answer, receiver) = oneshot::channel();
        self.step(|state| state.core.read(ReadWaiter { key: key.into(), answer }))?;
        receiver.await.map_err(|_| self.local_refusal().err().unwrap_or(Refusal::Recovering))
    }

    /// Whether the leader may show what it has without asking its followers.
    ///
    /// # Errors
    /// [`Refusal`] while it is closed or has half of a backup.
    pub(crate) fn local_refusal(&self) -> Result<(), Refusal> {
        self.look(|state| state.core.local_refusal())
    }

    /// Returns the newest accepted record of a key, and whether it is committed, without asking the followers.
    ///
    /// # Errors
    /// [`Refusal`] while the leader is closed or has half of a backup.
    pub fn latest(&self, key: &str) -> Result<Option<(Record, bool)>, Refusal> {
        self.look(|state| {
            state.core.local_refusal()?;
            Ok(state.core.latest(key).map(|(record, committed)| (record.clone(), committed)))
        })
    }

    /// Calls `each` with the key, the newest accepted record and whether it is committed, for at most `count` positions of
    /// the map and until it returns false. Returns the next position, or nothing at the end of the map. Writes wait
    /// meanwhile.
    ///
    /// # Errors
    /// [`Refusal`] while the leader is closed or has half of a backup.
    pub fn for_each_entry(
        &self,
        position: usize,
        count: usize,
        mut each: impl FnMut(&Key, &Record, bool) -> bool,
    ) -> Result<Option<usize>, Refusal> {
        self.walk(position, count, |core, position| {
            core.entry_at(position).map(|(key, record, committed)| each(key, record, committed))
        })
    }

    /// Calls `each` with every key that has a committed value, and its record, for at most `count` positions of the map and
    /// until it returns false. Returns the next position, or nothing at the end of the map. Writes wait meanwhile.
    ///
    /// # Errors
    /// [`Refusal`] while the leader is closed or has half of a backup.
    pub(crate) fn for_each_committed(
        &self,
        position: usize,
        count: usize,
        mut each: impl FnMut(&Key, &Record, &Value) -> bool,
    ) -> Result<Option<usize>, Refusal> {
        self.walk(position, count, |core, position| {
            let (key, committed) = core.committed_at(position)?;
            let found = committed.and_then(|record| Some((record, record.value.as_ref()?)));
            Some(found.filter(|_| **key != *RESTORE_MARK).is_none_or(|(record, value)| each(key, record, value)))
        })
    }

    /// Calls `at` for at most `count` positions, until it finds none and until it returns false.
    fn walk(
        &self,
        position: usize,
        count: usize,
        mut at: impl FnMut(&Core, usize) -> Option<bool>,
    ) -> Result<Option<usize>, Refusal> {
        self.look(|state| {
            state.core.local_refusal()?;
            for position in position..position + count {
                match at(&state.core, position) {
                    None => return Ok(None),
                    Some(true) => {}
                    Some(false) => return Ok(Some(position + 1)),
                }
            }
            Ok(Some(position + count))
        })
    }

    /// Waits until followers have confirmed that this leader still leads: what was committed here before the call was the
    /// newest of the whole cluster then.
    ///
    /// # Errors
    /// [`Refusal`] when it does not lead.
    pub(crate) async fn still_leads(self: &Arc<Self>) -> Result<(), Refusal> {
        // The question is the same for every key.
        self.read(RESTORE_MARK).await.map(drop)
    }

    /// Begins a backup of what is committed now. Returns the epoch and the number of keys. Must be followed by
    /// [`Coordinator::end_backup`]: until then the leader keeps what writes replace.
    pub(crate) fn begin_backup(self: &Arc<Self>) -> (Epoch, usize) {
        self.step(|state| (state.core.epoch(), state.core.begin_saving()))
    }

    /// Returns the next part of the backup: at most `keys_max` keys, up to the one that exceeds `bytes_max`. Nothing once it
    /// is complete.
    pub(crate) fn backup_part(self: &Arc<Self>, keys_max: usize, bytes_max: usize) -> Option<Vec<Saved>> {
        self.step(|state| state.core.saved_part(keys_max, bytes_max))
    }

    /// Ends the backup, complete or not.
    pub(crate) fn end_backup(self: &Arc<Self>) {
        self.step(|state| state.core.end_saving());
    }

    /// Begins the restore of a whole backup: clients are refused until it ends.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was accepted.
    pub(crate) fn begin_restore(self: &Arc<Self>, restore: &Unfinished) -> Result<Taken, Refusal> {
        self.mark_restore(|state, now_us, sender| state.core.begin_restore(restore, now_us, sender))
    }

    /// Ends the restore of this backup. Without a backup, gives up any restore.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was accepted.
    pub(crate) fn end_restore(self: &Arc<Self>, backup: Option<&str>) -> Result<Taken, Refusal> {
        self.mark_restore(|state, now_us, sender| state.core.end_restore(backup, now_us, sender))
    }

    /// Stops leading once no write is under way, and waits until the connected followers know it, at
    /// most for a second. The caller refuses new writes meanwhile.
    pub async fn resign(self: &Arc<Self>) {
        until(|| self.step(|state| state.core.resign())).await;
        self.changed.send_modify(|changes| *changes += 1);
        let known = until(|| !self.look(|state| state.core.is_resigning()));
        let _ = tokio::time::timeout(RESIGN_MAX, known).await;
    }

    /// Waits for the leader that follows this one, which has ended, to open, and then until clients have had
    /// time to be sent there. Returns soon where none follows.
    pub async fn send_clients_on(&self) {
        let follows = until(|| self.leads_elsewhere().is_some());
        if tokio::time::timeout(SUCCESSOR_MAX, follows).await.is_err() {
            return;
        }
        let opens = until(|| self.look(|state| state.core.successor_opens()));
        let _ = tokio::time::timeout(OPENS_MAX, opens).await;
        tokio::time::sleep(SEND_ON_FOR).await;
    }

    fn mark_restore(
        self: &Arc<Self>,
        mark: impl FnOnce(&mut State, u64, Waiter) -> Result<Accepted, Refusal>,
    ) -> Result<Taken, Refusal> {
        let now_us = self.now_us();
        let (sender, outcome) = oneshot::channel();
        self.step(|state| mark(state, now_us, Waiter::Channel(sender))).map(|accepted| (accepted, outcome))
    }

    /// Accepts keys of a backup in one step. If one is refused, the keys before it remain accepted.
    ///
    /// # Errors
    /// [`Refusal`] of the first key that was refused.
    pub(crate) fn restore(self: &Arc<Self>, keys: Vec<Saved>, part: Part<'_>) -> Result<Vec<Taken>, Refusal> {
        let now_us = self.now_us();
        self.step(|state| {
            let take = |saved| {
                let (sender, receiver) = oneshot::channel();
                state.core.restore(saved, part, now_us, Waiter::Channel(sender)).map(|accepted| (accepted, receiver))
            };
            keys.into_iter().map(take).collect()
        })
    }
}
