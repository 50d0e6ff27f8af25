//! What the commands need of a leader or a follower.

use std::time::Duration;

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::errors::Error;
use super::output::Output;
use super::part::{Part, Settled};
use crate::http::{FollowerSite, LeaderSite, Site};
use crate::metrics::WriteResult;
use crate::protocol::leader::{Accepted, Change, ReadOf, Refusal};
use crate::protocol::types::{Key, RESTORE_MARK, Record};
use crate::protocol::value::Value;
use crate::replication::coordinator::{Answers, Entered, Together};
use crate::replication::replica::{FOREIGN_POSITION, Replica};

/// The node behind a connection.
#[derive(Clone)]
pub(crate) enum Backend {
    Leader(LeaderSite),
    Follower(FollowerSite),
}

impl Backend {
    /// What all handlers of the node share.
    pub(super) fn site(&self) -> &Site {
        match self {
            Self::Leader(leader) => &leader.site,
            Self::Follower(follower) => &follower.site,
        }
    }

    /// A key as text, with the hash by which a connection recognises its keys.
    ///
    /// # Errors
    /// The reply, if the bytes are no key.
    pub(super) fn key<'a>(&self, bytes: &'a [u8]) -> Result<(u64, &'a str), Error> {
        let limit = self.site().key_bytes_max;
        match std::str::from_utf8(bytes) {
            _ if bytes.len() > limit => {
                Err(Error::limit(format_args!("the key has {} bytes (limit {limit})", bytes.len())))
            }
            // The node keeps a mark of its own under the empty key.
            Ok("") => Err(Error::wrong("a key has at least one byte")),
            Ok(key) => Ok((xxh3_64(bytes), key)),
            Err(_) => Err(Error::wrong("a key must be UTF-8 text")),
        }
    }

    /// Refuses a value above the limit.
    ///
    /// # Errors
    /// The reply.
    pub(super) fn check_value(&self, bytes: usize) -> Result<(), Error> {
        let limit = self.site().value_bytes_max;
        if bytes > limit {
            return Err(Error::limit(format_args!("the value has {bytes} bytes (limit {limit})")));
        }
        Ok(())
    }

    /// Begins commands that arrived together.
    pub(super) fn turn(&self) -> Turn<'_> {
        match self {
            Self::Leader(leader) => Turn::Leader(Together::new(&leader.leader), &leader.site),
            Self::Follower(follower) => Turn::Follower(&follower.replica),
        }
    }

    /// How many followers have confirmed every write below this index.
    pub(super) fn confirmed_by(&self, end: u64) -> usize {
        match self {
            Self::Leader(leader) => leader.leader.confirmed_by(end),
            Self::Follower(_) => 0,
        }
    }

    /// Calls `each` for the keys with values among `count` positions from `position` on. Returns the
    /// next position, or nothing at the end.
    ///
    /// # Errors
    /// The reply, if the node does not serve.
    pub(super) fn keys(
        &self,
        position: usize,
        count: usize,
        mut each: impl FnMut(&Key),
    ) -> Result<Option<usize>, Error> {
        match self {
            Self::Leader(leader) => Ok(leader.leader.for_each_entry(position, count, |key, record, _| {
                if record.value.is_some() && **key != *RESTORE_MARK {
                    each(key);
                }
                true
            })?),
            Self::Follower(follower) => {
                let replica = &follower.replica;
                let (part, next) = replica.dump_part(from_cursor(position), count, usize::MAX);
                if replica.is_restoring() {
                    return Err(Error::loading("a restore is unfinished"));
                }
                part.iter().for_each(|(key, _)| each(key));
                Ok(next.map(to_cursor))
            }
        }
    }

    /// How many positions [`Backend::keys`] has.
    pub(super) fn positions(&self) -> usize {
        match self {
            Self::Leader(leader) => leader.leader.keys(),
            Self::Follower(follower) => follower.replica.view().keys,
        }
    }

    /// Distinguishes the positions of this node from those of others.
    pub(super) fn tag(&self) -> u16 {
        let (term, id) = match self {
            Self::Leader(leader) => {
                let epoch = leader.leader.epoch();
                (epoch.term, epoch.leader)
            }
            Self::Follower(follower) => (0, follower.replica.view().hello.id.0),
        };
        xxh3_64_with_seed(&term.to_le_bytes(), id) as u16
    }

    /// Why this leader does not serve.
    pub(super) fn refusal(&self) -> Error {
        match self {
            Self::Leader(leader) => leader.leader.local_refusal().err().unwrap_or(Refusal::Recovering).into(),
            Self::Follower(_) => Error::loading("the follower does not serve"),
        }
    }

    /// Counts the answer to a write.
    pub(super) fn count(&self, result: WriteResult, took: Duration) {
        if let Self::Leader(leader) = self {
            leader.metrics.write(result, took.as_secs_f64());
        }
    }

    /// Writes a value, or null. A long value takes its bytes from the budget of answers until it is
    /// sent.
    pub(super) fn send_value(&self, value: Option<Value>, out: &mut Output) {
        let Some(value) = value else { return out.value(None) };
        let length = value.len();
        match self.site().answers.count(value) {
            Ok(value) if value.is_long() => out.shared(length, Bytes::from_owner(value)),
            Ok(value) => out.value(Some(value.into_inner())),
            Err(error) => out.error(Error::limit(error).text()),
        }
    }
}

/// Commands that arrived together. Before anything else uses the node, [`Turn::end`] has to be called.
pub(super) enum Turn<'a> {
    Leader(Together<'a>, &'a Site),
    Follower(&'a Replica),
}

impl Turn<'_> {
    /// Begins to read a key.
    pub(super) fn read(&mut self, key: &str, of: ReadOf, answers: &Answers) -> Part {
        match self {
            Self::Leader(leader, _) => {
                let ticket = answers.ticket();
                let number = ticket.number();
                match leader.read_in_order(key, of, ticket) {
                    Ok(Entered { timeout, .. }) => Part::Waiting { number, seq: None, timeout },
                    Err(refusal) => {
                        answers.forget(number);
                        Part::Settled(Settled::Failed(refusal.into()))
                    }
                }
            }
            Self::Follower(replica) => {
                let found = replica.get(key);
                Part::Settled(match found.shown {
                    _ if found.restoring => Settled::Failed(Error::loading("a restore is unfinished")),
                    shown => Settled::Found(shown.map(|shown| shown.value)),
                })
            }
        }
    }

    /// Begins a write. Also returns what `decide` finds, and the index behind it for
    /// [`Backend::confirmed_by`].
    ///
    /// # Errors
    /// The reply, when nothing was accepted.
    pub(super) fn write<T>(
        &mut self,
        key: &str,
        decide: impl FnOnce(Option<&Record>) -> (Change, T),
        answers: &Answers,
    ) -> Result<(Part, T, u64), Error> {
        let leader = match self {
            Self::Follower(replica) => {
                return Err(Error::read_only(match replica.leader() {
                    Some(leader) => format!("this node is a follower; writes go to the leader at {leader}"),
                    None => "this node is a follower; writes go to the leader".to_owned(),
                }));
            }
            Self::Leader(leader, site) if site.is_draining() => {
                return Err(match leader.leads_elsewhere() {
                    Some(next) => Error::read_only(format_args!("this node handed over; the leader is at {next}")),
                    None => Error::loading("the leader is shutting down"),
                });
            }
            Self::Leader(leader, _) => leader,
        };
        let ticket = answers.ticket();
        let number = ticket.number();
        let (Entered { accepted, timeout, end }, found) =
            leader.update(key, decide, ticket).inspect_err(|_| answers.forget(number))?;
        let seq = match accepted {
            Accepted::Pending { seq } | Accepted::AlreadyCommitted { seq } => Some(seq),
            Accepted::Unmet => None,
        };
        Ok((Part::Waiting { number, seq, timeout }, found, end))
    }

    /// Carries out what was begun.
    pub(super) fn end(&mut self) {
        if let Self::Leader(leader, _) = self {
            leader.end();
        }
    }
}

/// Positions from here on are of values that only `POST /replicate` brought. Those of a follower are
/// too large for a cursor.
const FOREIGN_CURSOR: usize = 1 << 46;

fn to_cursor(position: usize) -> usize {
    position.checked_sub(FOREIGN_POSITION).map_or(position, |foreign| FOREIGN_CURSOR + foreign)
}

fn from_cursor(cursor: usize) -> usize {
    cursor.checked_sub(FOREIGN_CURSOR).map_or(cursor, |foreign| FOREIGN_POSITION + foreign)
}
