//! The state of a backup, in again.
//!
//! A restore takes many requests, and whoever sends them may end in the middle. A cluster with half of a backup looks just like
//! one with all of it, so a restore first leaves a mark: a record like any other, committed before the first key of the
//! backup and removed after the last one. It outlives every leader. While it is there nothing is read, written or saved.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Leader;
use super::writes::{Accepted, Refusal};
use crate::protocol::types::{Key, RESTORE_MARK, Record, RetryMark, SEQ_MAX, Version};

/// A key as a backup has it: without the epoch, which says nothing in another cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// The key.
    pub key: Key,
    /// Its sequence number, which goes on from here.
    pub seq: u64,
    /// The value; none where the key was deleted.
    pub value: Option<Arc<str>>,
    /// The last marked writes of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<Arc<[RetryMark]>>,
}

/// A restore that began and has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// Of which backup: its digest.
    pub backup: Arc<str>,
    /// Whether the keys of the backup replace those that are there.
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

/// Which restore some keys belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// To none: they are whole by themselves.
    Alone {
        /// Whether they replace what is there.
        overwrite: bool,
    },
    /// To that of the backup with this digest, which has begun.
    Of(&'a str),
}

impl<W, R> Leader<W, R> {
    /// The restore that began and has not ended, if there is one.
    pub fn unfinished_restore(&self) -> Option<Unfinished> {
        let value = self.entries.get(RESTORE_MARK)?.latest.value.as_deref()?;
        serde_json::from_str(value).ok()
    }

    /// Begins a restore, or goes on with the same one after it was interrupted. Where there are keys, or half of another
    /// backup, it has to be one that overwrites.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was accepted.
    pub fn begin_restore(&mut self, restore: &Unfinished, now_us: u64, waiter: W) -> Result<Accepted, Refusal> {
        self.refusal()?;
        match self.unfinished_restore() {
            Some(known) if known.backup != restore.backup && !restore.overwrite => Err(Refusal::Restoring(known)),
            Some(known) if known.overwrite == restore.overwrite && known.backup == restore.backup => self.again(waiter),
            None if self.keys() > 0 && !restore.overwrite => Err(Refusal::NotEmpty { keys: self.keys() }),
            // Plain data always serialises.
            _ => self.mark(Some(serde_json::to_string(restore).unwrap_or_default()), now_us, waiter),
        }
    }

    /// Ends a restore, of which every key is committed; without a digest, gives up whichever there is.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was accepted.
    pub fn end_restore(&mut self, backup: Option<&str>, now_us: u64, waiter: W) -> Result<Accepted, Refusal> {
        self.refusal()?;
        match self.unfinished_restore() {
            Some(known) if backup.is_some_and(|backup| *backup != *known.backup) => Err(Refusal::Restoring(known)),
            Some(_) => self.mark(None, now_us, waiter),
            None => self.again(waiter),
        }
    }

    /// Puts the mark there, or takes it away.
    fn mark(&mut self, value: Option<String>, now_us: u64, waiter: W) -> Result<Accepted, Refusal> {
        let known = self.entries.find(RESTORE_MARK).map(|(position, entry)| (position, entry.latest.version.seq));
        let seq = known.map_or(0, |(_, seq)| seq) + 1;
        // Clients are served again once the removal of the mark is committed, not before.
        self.restoring |= value.is_some();
        let version = Version { epoch: self.epoch, seq };
        let record = Record { version, value: value.map(Into::into), marks: None };
        self.enter(known.map(|(position, _)| position), RESTORE_MARK.into(), record, false, now_us, waiter);
        Ok(Accepted::Pending { seq })
    }

    /// The mark is as it should be already, or about to be.
    fn again(&mut self, waiter: W) -> Result<Accepted, Refusal> {
        let mark = self.entries.get(RESTORE_MARK);
        let (seq, pending) = mark.map_or((0, None), |entry| (entry.latest.version.seq, entry.pending()));
        Ok(self.retry(pending, seq, waiter))
    }

    /// Whether clients may yet see half of a backup: its mark is there, or its removal is not committed.
    pub(super) fn half_restored(&self) -> bool {
        self.entries.get(RESTORE_MARK).is_some_and(|mark| mark.latest.value.is_some() || !mark.latest_committed)
    }

    /// Whether this leader may show what it has without asking its followers: not while it is closed, nor with half of a
    /// backup.
    ///
    /// # Errors
    /// [`Refusal`] for the client.
    pub fn local_refusal(&self) -> Result<(), Refusal> {
        self.refusal()?;
        if self.restoring { self.refuse_clients() } else { Ok(()) }
    }

    /// Whether clients' requests are taken: not while this leader is closed, has half of a backup, or is cut off from its
    /// followers.
    #[inline]
    pub(super) fn client_refusal(&self) -> Result<(), Refusal> {
        self.refusal()?;
        if self.restoring || self.cut_off.is_some() { self.refuse_clients() } else { Ok(()) }
    }

    #[cold]
    fn refuse_clients(&self) -> Result<(), Refusal> {
        if self.restoring {
            return Err(self.unfinished_restore().map_or(Refusal::RestoreEnds, Refusal::Restoring));
        }
        self.cut_off.clone().map_or(Ok(()), |cut_off| Err(Refusal::CutOff(cut_off)))
    }

    /// Accepts a write that brings its sequence number with it. A key that is there just like that stays; another value
    /// of it gives way only where that is asked for, and then the number goes on from the higher of the two.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was accepted.
    pub fn restore(&mut self, saved: Saved, part: Part<'_>, now_us: u64, waiter: W) -> Result<Accepted, Refusal> {
        let overwrite = match part {
            Part::Alone { overwrite } => {
                self.client_refusal()?;
                overwrite
            }
            Part::Of(backup) => {
                self.refusal()?;
                match self.unfinished_restore() {
                    Some(unfinished) if *unfinished.backup == *backup => unfinished.overwrite,
                    Some(other) => return Err(Refusal::Restoring(other)),
                    None => return Err(Refusal::NotRestoring { backup: backup.into() }),
                }
            }
        };
        let Saved { key, mut seq, value, marks } = saved;
        if seq > SEQ_MAX {
            return Err(Refusal::SequenceTooHigh { key, seq });
        }
        self.refuse_overload(key.len() + value.as_ref().map_or(0, |value| value.len()))?;
        let known = self.entries.find(&key);
        let pending = known.and_then(|(_, entry)| entry.pending());
        let known = known.map(|(position, entry)| (position, &entry.latest));
        if let Some((_, latest)) = known {
            // A request that is sent again finds its keys as it left them: where they had moved on, under a higher number.
            let there = latest.version.seq;
            let in_place = there == seq || (overwrite && there > seq);
            if in_place && latest.value == value && latest.marks == marks {
                return Ok(self.retry(pending, there, waiter));
            }
            if !overwrite {
                return Err(Refusal::Exists { key, seq: latest.version.seq });
            }
            seq = seq.max(latest.version.seq + 1);
        }
        let position = known.map(|(position, _)| position);
        let record = Record { version: Version { epoch: self.epoch, seq }, value, marks };
        self.enter(position, key, record, false, now_us, waiter);
        Ok(Accepted::Pending { seq })
    }
}
