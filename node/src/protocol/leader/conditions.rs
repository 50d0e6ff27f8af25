//! Writes that depend on the newest record of their key: conditions and increments.
//!
//! The leader decides against the newest record that it accepted, committed or not. If it accepts
//! the write, the commit of the write also settles the record before it. If it refuses the write, the
//! refusal shows that record, so it is a read: the leader answers it once the record is committed and
//! a round of reads that began after that confirmed that this leader still leads.

use std::sync::Arc;

use super::reads::Reader;
use super::writes::{Asked, mark_of};
use super::{Accepted, Leader, NewWrite, Refusal};
use crate::protocol::etag::Etag;
use crate::protocol::types::{Key, Record, fingerprint, fingerprint_of_increment};
use crate::protocol::value::Value;

/// What must hold of the newest record of a key before a write changes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// The key has no value: it was never written, or it is deleted.
    Absent,
    /// The key has a value.
    Present,
    /// The key has this version.
    Version(Etag),
}

impl Condition {
    fn holds(self, newest: Option<&Record>) -> bool {
        match self {
            Self::Always => true,
            Self::Absent => newest.is_none_or(|record| record.value.is_none()),
            Self::Present => newest.is_some_and(|record| record.value.is_some()),
            // Hashes the value only if the sequence number is the right one.
            Self::Version(etag) => {
                newest.is_some_and(|record| record.version.seq == etag.seq && Etag::of(record) == etag)
            }
        }
    }
}

/// A client's request to add to a value.
#[derive(Clone, Debug)]
pub struct Increment {
    /// The key.
    pub key: Key,
    /// What to add.
    pub by: i64,
    /// The client's `Idempotency-Key`.
    pub retry_token: Option<Arc<str>>,
    /// When it arrived, on the clock of [`NewWrite::now_us`].
    pub now_us: u64,
}

/// The state of an increment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incremented {
    /// Of the write that stores the sum.
    pub accepted: Accepted,
    /// The sum. `None` if the increment is refused, or if it is a retry and later writes replaced
    /// the sum.
    pub sum: Option<i64>,
}

/// What a write does to the value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Stores this value; `None` deletes the key.
    To(Option<Value>),
    /// Nothing: the newest record refuses the write.
    Refused,
}

/// Which record a read in the order of requests shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOf {
    /// The one that is committed when the read arrives.
    Committed,
    /// The newest one that the leader accepted before the read arrived. The answer waits until that is
    /// committed.
    Accepted,
}

/// Why a value cannot be added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSum {
    /// The value is not a decimal 64-bit integer.
    NoInteger,
    /// The sum is outside of the 64-bit integers.
    Overflow,
}

/// Adds to a value. A key without one counts as 0.
///
/// # Errors
/// [`NoSum`] if there is no sum.
pub fn sum(value: Option<&[u8]>, by: i64) -> Result<i64, NoSum> {
    let before = value.map_or(Some(0), integer).ok_or(NoSum::NoInteger)?;
    before.checked_add(by).ok_or(NoSum::Overflow)
}

fn integer(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

impl<W, R> Leader<W, R> {
    /// Accepts a write as [`Leader::put`] does, if the condition holds. A retry of an accepted write
    /// finds that write, whatever holds now.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was accepted.
    pub fn put_if(&mut self, new: NewWrite, condition: Condition, waiter: W) -> Result<Accepted, Refusal> {
        self.client_refusal()?;
        let NewWrite { key, value, retry_token, explain, now_us } = new;
        let known = self.known(&key);
        let token = retry_token.map(|token| (token, fingerprint(value.as_deref())));
        if let Some((position, seq)) = mark_of(known.as_ref(), token.as_ref())? {
            return Ok(self.retry(self.window.find_marked(position, seq), seq, waiter));
        }
        let holds = condition.holds(known.as_ref().map(|(_, latest)| latest));
        let change = if holds { Change::To(value) } else { Change::Refused };
        self.carry_out(change, known, Asked { key, token, explain, now_us }, waiter)
    }

    /// Accepts a write that `decide` makes of the newest record of its key. Also returns what `decide`
    /// finds, which holds once the write is committed or refused.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was accepted.
    pub fn update<T>(
        &mut self,
        key: &str,
        now_us: u64,
        decide: impl FnOnce(Option<&Record>) -> (Change, T),
        waiter: W,
    ) -> Result<(Accepted, T), Refusal> {
        self.client_refusal()?;
        let known = self.known(key);
        let (change, found) = decide(known.as_ref().map(|(_, latest)| latest));
        let key = match known.as_ref().and_then(|(position, _)| self.entries.at(*position)) {
            Some((key, _)) => key.clone(),
            None => key.into(),
        };
        let asked = Asked { key, token: None, explain: false, now_us };
        Ok((self.carry_out(change, known, asked, waiter)?, found))
    }

    /// Accepts a read that shows a key as it is now, whatever is written before the answer. The answer
    /// is [`Output::Unmet`] or [`Output::NotApplied`].
    ///
    /// Both kinds are linearizable: the record was committed, or its commit settles the ones before it,
    /// and the round that confirms the leader begins afterwards. A client that sends requests without
    /// waiting for answers reads what is accepted, so that it sees its own writes before the read, and
    /// none of those behind it.
    ///
    /// # Errors
    /// [`Refusal`] as for [`Leader::read`].
    pub fn read_in_order(&mut self, key: &str, of: ReadOf, waiter: W) -> Result<(), Refusal> {
        self.client_refusal()?;
        match of {
            ReadOf::Accepted => self.refuse_by(self.known(key), waiter).map(drop),
            ReadOf::Committed => {
                let found = self.committed(key).cloned();
                self.enter_reader(Reader::Unmet(Box::new((waiter, found))), None)
            }
        }
    }

    /// Accepts the write of a sum: adds to the newest value of a key.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was accepted.
    pub fn increment(&mut self, new: Increment, waiter: W) -> Result<Incremented, Refusal> {
        self.client_refusal()?;
        let Increment { key, by, retry_token, now_us } = new;
        let known = self.known(&key);
        let token = retry_token.map(|token| (token, fingerprint_of_increment(by)));
        if let Some((position, seq)) = mark_of(known.as_ref(), token.as_ref())? {
            let pending = self.window.find_marked(position, seq);
            let sum = self.sum_of(position, pending, seq);
            return Ok(Incremented { accepted: self.retry(pending, seq, waiter), sum });
        }
        let sum = sum(known.as_ref().and_then(|(_, latest)| latest.value.as_deref()), by).ok();
        let change = sum.map_or(Change::Refused, |sum| Change::To(Some(sum.to_string().into())));
        let asked = Asked { key, token, explain: false, now_us };
        Ok(Incremented { accepted: self.carry_out(change, known, asked, waiter)?, sum })
    }

    /// Accepts a write, or refuses it because of the newest record of its key, which is `known`.
    fn carry_out(
        &mut self,
        change: Change,
        known: Option<(usize, Record)>,
        asked: Asked,
        waiter: W,
    ) -> Result<Accepted, Refusal> {
        match change {
            Change::To(value) => Ok(Accepted::Pending { seq: self.append(known, asked, value, waiter)? }),
            Change::Refused => self.refuse_by(known, waiter),
        }
    }

    /// The sum that an earlier increment stored, if its record is still there.
    fn sum_of(&self, position: usize, pending: Option<u64>, seq: u64) -> Option<i64> {
        let pending = pending.and_then(|index| self.window.get(index)).map(|pending| &pending.write.record);
        let committed = || self.entries.at(position).and_then(|(_, entry)| entry.committed());
        pending.or_else(committed).filter(|record| record.version.seq == seq)?.value.as_deref().and_then(integer)
    }

    /// Refuses a write because of the newest record of its key.
    fn refuse_by(&mut self, known: Option<(usize, Record)>, waiter: W) -> Result<Accepted, Refusal> {
        let pending = known.as_ref().and_then(|(position, _)| self.entries.at(*position)?.1.pending());
        let found = known.map(|(_, latest)| latest);
        self.enter_reader(Reader::Unmet(Box::new((waiter, found))), pending)?;
        Ok(Accepted::Unmet)
    }
}
