//! Restores a backup.
//!
//! A restore takes many requests, and its client may stop in the middle. Half of a backup looks
//! like a whole one, so a restore first writes a mark. The mark is a record like any other: the
//! leader commits it before the first key of the backup and deletes it after the last key, and
//! later leaders recover it. While the mark exists, the leader refuses reads, writes and backups.
//!
//! A cluster that starts from a backup does so from its first moment: as long as it never had a mark,
//! no restore has ended in it. The deleted mark is the proof, which later leaders recover, too.

use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::Leader;
use super::writes::{Accepted, Refusal, Unfinished};
use crate::protocol::types::{Key, RESTORE_MARK, Record, RetryMark, SEQ_MAX, Version};
use crate::protocol::value::{Base64, InJson, NoBase64, Value, from_base64};

/// A key in a backup. It has no epoch, since an epoch is meaningless in another cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Line")]
pub struct Saved {
    /// The key.
    pub key: Key,
    /// Its sequence number. Later writes of the key continue from it.
    pub seq: u64,
    /// The value; `None` if the key is deleted.
    pub value: Option<Value>,
    /// The last marked writes of the key.
    pub marks: Option<Arc<[RetryMark]>>,
}

/// A [`Saved`] as JSON that was read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: Key,
    seq: u64,
    value: Option<String>,
    value_base64: Option<String>,
    #[serde(default)]
    marks: Option<Arc<[RetryMark]>>,
}

/// A line of a backup has two values, or one that is not Base64.
#[derive(Debug, thiserror::Error)]
enum InvalidLine {
    #[error("a key has value or value_base64, not both")]
    TwoValues,
    #[error(transparent)]
    NoBase64(#[from] NoBase64),
}

impl TryFrom<Line> for Saved {
    type Error = InvalidLine;

    fn try_from(line: Line) -> Result<Self, InvalidLine> {
        let Line { key, seq, value, value_base64, marks } = line;
        let value = match (value, value_base64) {
            (Some(_), Some(_)) => return Err(InvalidLine::TwoValues),
            (None, Some(base64)) => Some(from_base64(&base64)?.into()),
            (value, None) => value.map(Value::from),
        };
        Ok(Self { key, seq, value, marks })
    }
}

impl Serialize for Saved {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            key: &'a str,
            seq: u64,
            /// Null for a deleted key.
            #[serde(skip_serializing_if = "Option::is_none")]
            value: Option<Option<&'a str>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            value_base64: Option<Base64<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            marks: Option<&'a [RetryMark]>,
        }
        let Self { key, seq, value, marks } = self;
        let value = value.as_deref().map(InJson::from);
        let value_base64 = value.and_then(|value| value.base64);
        let value = value_base64.is_none().then(|| value.and_then(|value| value.text));
        Written { key, seq: *seq, value, value_base64, marks: marks.as_deref() }.serialize(serializer)
    }
}

/// The restore to which keys belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// None: the keys of one request are the whole restore.
    Alone {
        /// Whether they replace existing keys.
        overwrite: bool,
    },
    /// The restore of the backup with this digest, which has begun.
    Of(&'a str),
}

impl<W, R> Leader<W, R> {
    /// The unfinished restore, if there is one.
    pub fn unfinished_restore(&self) -> Option<Unfinished> {
        let value = self.entries.get(RESTORE_MARK)?.latest.value.as_deref()?;
        serde_json::from_slice(value).ok()
    }

    /// Begins a restore, or continues the same one after an interruption. If there are keys or
    /// another unfinished restore, it must be a restore that overwrites.
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

    /// Ends a restore whose keys are all committed. Without a digest, gives up any unfinished
    /// restore.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was accepted.
    pub fn end_restore(&mut self, backup: Option<&str>, now_us: u64, waiter: W) -> Result<Accepted, Refusal> {
        self.refusal()?;
        match self.unfinished_restore() {
            Some(known) if backup.is_some_and(|backup| *backup != *known.backup) => Err(Refusal::Restoring(known)),
            None if backup.is_some() && self.awaits_restore() => {
                Err(Refusal::NotRestoring { backup: backup.unwrap_or_default().into() })
            }
            None if self.half_restored() && !self.awaits_restore() => self.again(waiter),
            // Without a restore too: only the followers know whether another leader began one.
            _ => self.mark(None, now_us, waiter),
        }
    }

    /// Writes the mark, or deletes it.
    fn mark(&mut self, value: Option<String>, now_us: u64, waiter: W) -> Result<Accepted, Refusal> {
        let known = self.entries.find(RESTORE_MARK).map(|(position, entry)| (position, entry.latest.version.seq));
        let seq = known.map_or(0, |(_, seq)| seq) + 1;
        // The leader serves clients again only once the deletion of the mark is committed.
        self.restoring |= value.is_some();
        let version = Version { epoch: self.epoch, seq };
        let record = Record { version, value: value.map(Into::into), marks: None };
        self.enter(known.map(|(position, _)| position), RESTORE_MARK.into(), record, false, now_us, waiter);
        Ok(Accepted::Pending { seq })
    }

    /// The mark already has the requested state, committed or pending.
    fn again(&mut self, waiter: W) -> Result<Accepted, Refusal> {
        let mark = self.entries.get(RESTORE_MARK);
        let (seq, pending) = mark.map_or((0, None), |entry| (entry.latest.version.seq, entry.pending()));
        Ok(self.retry(pending, seq, waiter))
    }

    /// Whether clients could see half of a backup, or nothing of one that has to come: its mark exists, the deletion of
    /// the mark is not committed, or there was none yet in a cluster that starts from a backup.
    pub(super) fn half_restored(&self) -> bool {
        self.awaits_restore()
            || self.entries.get(RESTORE_MARK).is_some_and(|mark| mark.latest.value.is_some() || !mark.latest_committed)
    }

    /// Why this leader refuses clients, once it is open, while a restore is unfinished or awaited.
    pub fn restore_refusal(&self) -> Option<Refusal> {
        let unfinished = self.unfinished_restore().map(Refusal::Restoring);
        unfinished.or_else(|| self.awaits_restore().then_some(Refusal::AwaitsRestore))
    }

    /// Whether this cluster starts from a backup and no restore has begun.
    fn awaits_restore(&self) -> bool {
        self.starts_from_backup && !self.entries.contains(RESTORE_MARK)
    }

    /// Of a cluster that starts from a backup: whether the restore has not ended yet. It means something once the leader is
    /// open.
    pub fn start_pending(&self) -> Option<bool> {
        self.starts_from_backup.then_some(self.restoring)
    }

    /// Whether this leader may answer from its own state without asking its followers: not while it
    /// is closed, nor during a restore.
    ///
    /// # Errors
    /// [`Refusal`], the reason for the client.
    pub fn local_refusal(&self) -> Result<(), Refusal> {
        self.refusal()?;
        if self.restoring { self.refuse_clients() } else { Ok(()) }
    }

    /// Whether the leader accepts requests of clients: not while it is closed, during a restore, or
    /// while it is cut off from its followers.
    #[inline]
    pub(crate) fn client_refusal(&self) -> Result<(), Refusal> {
        self.refusal()?;
        if self.restoring || self.cut_off.is_some() { self.refuse_clients() } else { Ok(()) }
    }

    #[cold]
    fn refuse_clients(&self) -> Result<(), Refusal> {
        if self.restoring {
            return Err(self.restore_refusal().unwrap_or(Refusal::RestoreEnds));
        }
        self.cut_off.clone().map_or(Ok(()), |cut_off| Err(Refusal::CutOff(cut_off)))
    }

    /// Accepts a write that brings its own sequence number. An identical key is left unchanged.
    /// Another value of the key is replaced only if the restore overwrites; its sequence number is
    /// then above both.
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
            // A repeated request finds its keys as the first one stored them. That may be under a
            // higher number, if the restore overwrites.
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
