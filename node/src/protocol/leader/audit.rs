//! The comparison in the background: checks that each follower has the records that the leader
//! expects.
//!
//! The leader compares one follower at a time, a few keys at each heartbeat. The follower reports
//! the digest of its state in parts; then the leader computes the digest of its own state, in parts
//! too. Writes continue meanwhile. The leader therefore skips every bucket with a write that the
//! follower had not confirmed when the comparison began, or that came later. It never compares a
//! bucket that is written to constantly; the records of such a bucket are always recent.
//!
//! If a bucket differs, the leader sends all of it again. The follower keeps the higher version of
//! each record and drops the records of an older epoch that the leader did not send. If the
//! follower differs again in the next comparison, sending did not help: its value differs under an
//! equal version, or its version is higher. Memory or the program is then at fault, and an operator
//! has to investigate.

use super::{InstallJob, Leader, Link, Output, Phase, SlotId};
use crate::protocol::digest::{Buckets, Digest, seed_of};
use crate::protocol::follower::approximate_bytes;
use crate::protocol::messages::ToFollower;

/// Bit in the token of every question of a comparison. Tokens of state transfers are indices of
/// writes, which are far smaller.
const TOKEN: u64 = 1 << 63;

/// Results of the comparisons so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditCounts {
    /// Comparisons of one follower that were completed.
    pub completed: u64,
    /// Buckets that differed and were sent again.
    pub mended: u64,
    /// Buckets that differed in a comparison after they were sent again.
    pub unmended: u64,
}

/// The comparison under way, and the results of earlier ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Audit {
    counts: AuditCounts,
    run: Option<Run>,
    /// Number of the next comparison.
    number: u64,
    /// Slot index from which the leader looks for the next follower.
    next: usize,
    /// Start of the next round over all followers, on the caller's clock, in microseconds.
    next_round_us: u64,
    /// By slot: the buckets that the leader sent again after the last comparison.
    sent_again: Vec<Option<Buckets>>,
}

/// One comparison with one follower.
#[derive(Clone, Debug)]
struct Run {
    slot: SlotId,
    session: u64,
    token: u64,
    /// The follower has confirmed every write with a lower index.
    since: u64,
    theirs: Digest,
    step: Step,
}

#[derive(Clone, Debug)]
enum Step {
    /// The leader asks next for the part from this position on.
    Ask(u64),
    /// The answer is on its way.
    Asked,
    /// The leader computes its own digest, from this position on.
    Scan { cursor: usize, ours: Digest, unstable: Buckets },
}

impl<W, R> Leader<W, R> {
    /// The results of the comparisons in the background.
    pub fn audit_counts(&self) -> AuditCounts {
        self.audit.counts
    }

    /// One small step of the comparison in the background.
    pub(super) fn audit(&mut self, now_us: u64) {
        let limits = self.settings.limits;
        if limits.audit_keys == 0 || !matches!(self.phase, Phase::Open) {
            self.audit.run = None;
            return;
        }
        let Some(mut run) = self.audit.run.take().filter(|run| self.is_comparable(run)) else {
            return self.begin_audit(now_us);
        };
        match &mut run.step {
            Step::Asked => {}
            Step::Ask(cursor) => {
                let (epoch, buckets, cursor, token) = (self.epoch, run.theirs.buckets(), *cursor, run.token);
                let (keys, bytes) = (clamped(limits.audit_keys), clamped(limits.message_bytes));
                let question = ToFollower::Compare { epoch, buckets, cursor, keys, bytes, token };
                self.out.push(Output::Send(run.slot, question));
                run.step = Step::Asked;
            }
            Step::Scan { cursor, ours, unstable } => {
                let mut bytes = 0;
                for (key, entry) in self.entries.range(*cursor..*cursor + limits.audit_keys) {
                    if entry.index >= run.since {
                        unstable.insert_key(key);
                    } else {
                        ours.add(key, &entry.latest);
                    }
                    *cursor += 1;
                    bytes += approximate_bytes(key, &entry.latest);
                    if bytes >= limits.message_bytes {
                        break;
                    }
                }
                if *cursor >= self.entries.len() {
                    let differing = ours.differing(&run.theirs).without(unstable);
                    return self.end_audit(run.slot, differing);
                }
            }
        }
        self.audit.run = Some(run);
    }

    /// Whether the follower still receives single writes on the same connection.
    fn is_comparable(&self, run: &Run) -> bool {
        self.slot(run.slot).is_some_and(|slot| slot.link == Link::Streaming && slot.session == run.session)
    }

    /// Picks the next follower that can be compared. Waits `audit_pause_us` after each round over
    /// all of them.
    fn begin_audit(&mut self, now_us: u64) {
        if now_us < self.audit.next_round_us {
            return;
        }
        let from = self.audit.next;
        let found = self.each_slot().find(|(id, slot)| id.index() >= from && slot.link == Link::Streaming);
        let Some((slot, known)) = found else {
            self.audit.next = 0;
            self.audit.next_round_us = now_us + self.settings.limits.audit_pause_us;
            return;
        };
        let buckets = self.settings.limits.buckets.buckets_for(self.entries.len());
        let (session, since, token) = (known.session, known.progress.watermark, TOKEN | self.audit.number);
        let theirs = Digest::new(buckets, seed_of(self.epoch));
        self.audit.number += 1;
        self.audit.next = slot.index() + 1;
        self.audit.run = Some(Run { slot, session, token, since, theirs, step: Step::Ask(0) });
    }

    /// Handles a part of the digest of the follower that is being compared.
    pub(super) fn gather_audit(&mut self, id: SlotId, token: u64, part: &Digest, next: Option<u64>) {
        let Some(run) = self.audit.run.as_mut().filter(|run| run.slot == id && run.token == token) else {
            return;
        };
        run.theirs.join(part);
        run.step = match next {
            Some(cursor) => Step::Ask(cursor),
            None => {
                let (ours, unstable) = (run.theirs.emptied(), Buckets::none(run.theirs.buckets(), run.theirs.seed()));
                Step::Scan { cursor: 0, ours, unstable }
            }
        };
    }

    fn end_audit(&mut self, id: SlotId, differing: Buckets) {
        self.audit.counts.completed += 1;
        if self.audit.sent_again.len() <= id.index() {
            self.audit.sent_again.resize(id.index() + 1, None);
        }
        let before = self.audit.sent_again[id.index()].take();
        if differing.is_empty() {
            return;
        }
        let buckets = differing.len();
        let again = before.is_some_and(|before| before.meets(&differing));
        if again {
            self.audit.counts.unmended += buckets as u64;
        } else {
            self.audit.counts.mended += buckets as u64;
        }
        self.out.push(Output::Differs { slot: id, buckets, again });
        self.audit.sent_again[id.index()] = Some(differing.clone());
        self.out.push(Output::Install(id, InstallJob::again(self.epoch, differing)));
    }
}

/// Limits a number to the 32 bits that messages have for it.
fn clamped(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
