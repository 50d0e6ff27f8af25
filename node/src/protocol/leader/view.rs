//! Read-only views of a leader, for status and metrics.

use kvcluster_api::status::FollowerState;

use super::slot::Slot;
use super::{Entry, Leader, Link, Phase, SlotId};
use crate::protocol::messages::Write;
use crate::protocol::types::{Config, Epoch, FollowerId, Key, RESTORE_MARK, Record};

/// One follower, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowerView {
    /// Its slot.
    pub slot: SlotId,
    /// The name it was declared by.
    pub name: String,
    /// Its disk, once it reported it.
    pub id: Option<FollowerId>,
    /// The state of its connection.
    pub state: FollowerState,
    /// Whether its confirmations count under the rule in force.
    pub member: bool,
    /// Whether it is no longer declared.
    pub retired: bool,
    /// Writes that it has not confirmed.
    pub lag_writes: u64,
    /// Age of the oldest of them, in microseconds.
    pub lag_us: u64,
    /// Generation of the newest rule that it stores.
    pub generation: Option<u64>,
}

/// Why an open leader cannot acknowledge a write now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutOff {
    /// Too few followers are connected.
    #[error("{connected} followers are connected, and a write needs {quorum}")]
    TooFewConnected {
        /// How many are connected.
        connected: usize,
        /// The write quorum.
        quorum: u16,
    },
    /// Enough followers are connected, and too few of them answer.
    #[error("fewer than {quorum} followers answered within the last {for_ms} ms, and a write needs {quorum}")]
    TooFewAnswer {
        /// The write quorum.
        quorum: u16,
        /// For at least how long, in milliseconds.
        for_ms: u64,
    },
}

impl<W, R> Leader<W, R> {
    /// Why this open leader cannot acknowledge a write now; `None` if it can.
    pub fn cut_off(&self) -> Option<&CutOff> {
        self.cut_off.as_ref().filter(|_| matches!(self.phase, Phase::Open))
    }

    /// The epoch that this leader leads, or for which it asks promises.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The number of writes that the leaders of this state accepted, as positions of [`Write`]s count:
    /// every write so far has a lower index.
    ///
    /// [`Write`]: crate::protocol::messages::Write
    pub fn end(&self) -> u64 {
        self.window.next_index()
    }

    /// How many followers have confirmed every write with an index below `end`.
    pub fn confirmed_by(&self, end: u64) -> usize {
        let has = |slot: &Slot| slot.link == Link::Streaming && slot.progress.watermark >= end;
        self.each_slot().filter(|(_, slot)| has(slot)).count()
    }

    /// Whether the leader is open.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether the leader serves clients: it is open, not cut off, and no restore is unfinished.
    pub fn is_serving(&self) -> bool {
        self.client_refusal().is_ok()
    }

    /// The epoch of the leader that replaced this one, if any.
    pub fn fenced_by(&self) -> Option<Epoch> {
        if let Phase::Fenced(by) = self.phase { Some(by) } else { None }
    }

    /// Whether this leader resigned.
    pub fn is_resigned(&self) -> bool {
        matches!(self.phase, Phase::Resigned)
    }

    /// Whether this leader serves nothing any more: another one replaced it, or it resigned.
    pub fn has_ended(&self) -> bool {
        self.is_resigned() || self.fenced_by().is_some()
    }

    /// Whether the leader is installing the merged state.
    pub fn is_opening(&self) -> bool {
        matches!(self.phase, Phase::Opening)
    }

    /// The rule in force; `None` if there is none yet.
    pub fn config(&self) -> Option<&Config> {
        self.rules.in_force()
    }

    /// Whether the rule in force is the one that the settings ask for, and no change is under way.
    pub fn settled(&self) -> bool {
        let settings = &self.settings;
        self.only_rule_binds()
            && self.config().is_some_and(|config| config.quorum == settings.quorum && config.size == settings.size)
            && self.each_slot().all(|(_, slot)| slot.wanted)
    }

    /// How many followers store the newest rule and how many have to: (stored, needed). `None` if
    /// no change is under way.
    pub fn change_progress(&self) -> Option<(usize, usize)> {
        let newest = self.rules.newest().filter(|_| self.rules.changing())?;
        let stored = self.mask_of(|slot| slot.progress.complete && slot.progress.generation >= newest.generation);
        Some((stored.count(), usize::from(self.rules.quorum())))
    }

    /// How many keys there are, deleted ones included.
    pub fn keys(&self) -> usize {
        self.entries.len() - usize::from(self.entries.contains(RESTORE_MARK))
    }

    /// Writes accepted and committed by this leader.
    pub fn counters(&self) -> (u64, u64) {
        (self.accepted, self.committed)
    }

    /// Writes without their quorum.
    pub fn in_flight(&self) -> usize {
        self.window.uncommitted()
    }

    /// Writes in the window: without a quorum, or not confirmed by a follower that the leader waits
    /// for.
    pub fn backlog(&self) -> usize {
        self.window.len()
    }

    /// The newest accepted write; `None` if every follower that the leader waits for confirmed it.
    pub fn newest_write(&self) -> Option<&Write> {
        self.window.newest().map(|pending| &*pending.write)
    }

    /// Whether a write that this leader accepted in its epoch is committed.
    pub fn is_committed(&self, index: u64) -> bool {
        // The window drops only committed writes.
        index < self.window.base() || self.window.get(index).is_some_and(|pending| pending.committed)
    }

    /// The newest accepted record of a key, and whether it is committed.
    pub fn latest(&self, key: &str) -> Option<(&Record, bool)> {
        self.entries.get(key).map(|entry| (&entry.latest, entry.latest_committed))
    }

    /// The newest accepted record at a position of the map, and whether it is committed. Positions are stable.
    pub fn entry_at(&self, position: usize) -> Option<(&Key, &Record, bool)> {
        let (key, Entry { latest, latest_committed, .. }) = self.entries.at(position)?;
        Some((key, latest, *latest_committed))
    }

    /// The key at a position of the map, and its newest committed record.
    pub fn committed_at(&self, position: usize) -> Option<(&Key, Option<&Record>)> {
        let (key, entry) = self.entries.at(position)?;
        Some((key, entry.committed()))
    }

    /// The position of a key in the map.
    pub fn position_of(&self, key: &str) -> Option<usize> {
        self.entries.find(key).map(|(position, _)| position)
    }

    /// Begins or ends to note commits for [`Leader::take_commits`].
    pub fn note_commits(&mut self, on: bool) {
        if !on {
            self.commits = None;
        } else if self.commits.is_none() {
            self.commits = Some(Vec::new());
        }
    }

    /// The positions and keys of the writes that were committed since the last call.
    pub fn take_commits(&mut self) -> Vec<(usize, Key)> {
        self.commits.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Every follower. `now_us` is on the clock of [`super::NewWrite::now_us`].
    pub fn followers(&self, now_us: u64) -> Vec<FollowerView> {
        self.each_slot()
            .map(|(id, slot)| FollowerView {
                slot: id,
                name: slot.name.to_string(),
                id: slot.hello.as_ref().map(|hello| hello.id),
                state: match slot.link {
                    Link::Down if slot.progress.complete && slot.progress.tracked_from.is_none() => {
                        FollowerState::Lagging
                    }
                    Link::Down => FollowerState::Unreachable,
                    Link::Greeted | Link::Promised => FollowerState::Connecting,
                    Link::Comparing { .. } | Link::Installing { .. } => FollowerState::Installing,
                    Link::Streaming => FollowerState::Streaming,
                },
                member: slot.bound.is_some_and(|bound| self.config().is_some_and(|config| config.contains(bound))),
                retired: !slot.wanted,
                lag_writes: if slot.progress.complete {
                    self.window.next_index().saturating_sub(slot.progress.watermark)
                } else {
                    0
                },
                lag_us: self.lag_us(id, now_us),
                generation: (slot.progress.generation > 0).then_some(slot.progress.generation),
            })
            .collect()
    }
}
