//! From a follower that promised to one that has everything: by resending, or by what differs.
//!
//! A follower that took over the state of this leader before is sent what was accepted since, or single writes. Any other one
//! says what it has in a digest ([`digest`](crate::protocol::digest)), a number for each bucket of keys. The buckets that differ are sent
//! whole, stamped with this leader's epoch, and what is older in them goes at the end; in the others it keeps what it has,
//! under the stamp that it has. That is the same value under the same sequence number, and lower than anything that
//! this leader ever accepts for the key, so that to every comparison it is as if it had been sent.

use super::recovery::RECOVERY;
use super::slot::Progress;
use super::{Leader, Link, Output, Phase, SlotId};
use crate::protocol::digest::{Buckets, Digest, seed_of};
use crate::protocol::follower::approximate_bytes;
use crate::protocol::types::{Covered, Epoch, Synced, ToFollower};

/// A state transfer under way; hand it to [`Leader::install_part`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InstallJob {
    epoch: Epoch,
    token: u64,
    step: Step,
    /// The next key to look at, by its position.
    cursor: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Looks for what was accepted since this leader opened. Of all else it has had the digest since then.
    Compare {
        theirs: Digest,
        accepted: Buckets,
    },
    /// Sends everything in the buckets that differ.
    Send {
        differing: Buckets,
    },
    /// Sends what was accepted from this write on, to a follower that had everything before.
    SendNewer {
        from: u64,
    },
    Ended,
}

impl InstallJob {
    /// Sends these buckets whole to a follower that goes on taking single writes meanwhile.
    pub(super) fn again(epoch: Epoch, differing: Buckets) -> Self {
        Self { epoch, token: AGAIN, step: Step::Send { differing }, cursor: 0 }
    }
}

/// Token of a transfer that no follower waits for. Those of others are indices of writes, from 1.
const AGAIN: u64 = 0;

impl<W, R> Leader<W, R> {
    /// Brings a follower that promised up to date: by resending, or by what differs.
    pub(super) fn admit(&mut self, id: SlotId) {
        let epoch = self.epoch;
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        let Some(hello) = slot.hello.clone() else {
            return;
        };
        if slot.bound != Some(hello.id) {
            // Another disk answers here: what the earlier one confirmed is not on it.
            slot.bound = Some(hello.id);
            slot.progress = Progress::default();
            self.window.iter_mut().for_each(|pending| pending.confirmed.remove(id));
            self.refresh_rules();
        }
        if !self.may_enter(hello.id) {
            return self.advance();
        }
        let Some(slot) = self.slot_mut(id) else { return };
        let has_state = slot.progress.complete && hello.synced.as_ref().is_some_and(|synced| synced.epoch == epoch);
        if !has_state {
            self.install(id, true);
        } else if slot.progress.tracked_from.is_none_or(|from| from > slot.progress.watermark) {
            // It fell behind the window, or the difference that it was being given did not arrive in full.
            self.install(id, false);
        } else {
            slot.progress.generation = hello.synced.map_or(0, |synced| synced.config.generation);
            self.stream(id);
        }
    }

    /// Starts a state transfer; what is accepted from now on follows as single writes. A follower that had everything
    /// once is sent what is newer; any other is asked what it has.
    pub(super) fn install(&mut self, id: SlotId, full: bool) {
        let (epoch, token) = (self.epoch, self.window.next_index());
        let (buckets, theirs) = (self.recovered.buckets(), self.recovered.emptied());
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        slot.progress.tracked_from = Some(token);
        let output = if full {
            slot.link = Link::Comparing { upto: token, theirs };
            Output::Send(id, ToFollower::compare(epoch, buckets, 0, token))
        } else {
            slot.link = Link::Installing { upto: token };
            let step = Step::SendNewer { from: slot.progress.watermark };
            Output::Install(id, InstallJob { epoch, token, step, cursor: 0 })
        };
        self.out.push(output);
    }

    /// A part of the digest of what a follower has. Once it is all there, what differs can be asked for, or sent.
    pub(super) fn on_digested(&mut self, id: SlotId, token: u64, part: &Digest, next: Option<u64>) {
        if token == RECOVERY {
            return self.gather_digest(id, part, next);
        }
        self.gather_audit(id, token, part, next);
        let epoch = self.epoch;
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        let Link::Comparing { upto, theirs } = &mut slot.link else {
            return;
        };
        if *upto != token {
            return;
        }
        let buckets = theirs.buckets();
        theirs.join(part);
        if let Some(cursor) = next {
            return self.out.push(Output::Send(id, ToFollower::compare(epoch, buckets, cursor, token)));
        }
        let step = Step::Compare { theirs: theirs.clone(), accepted: Buckets::none(buckets, seed_of(epoch)) };
        slot.link = Link::Installing { upto: token };
        self.out.push(Output::Install(id, InstallJob { epoch, token, step, cursor: 0 }));
    }

    /// The next message of a state transfer; nothing once it is complete or void.
    pub fn install_part(&self, job: &mut InstallJob) -> Option<ToFollower> {
        if job.epoch != self.epoch || !matches!(self.phase, Phase::Opening | Phase::Open) {
            return None;
        }
        let (mut records, mut bytes) = (Vec::new(), 0);
        let (mut left, message_bytes) = (self.settings.limits.scan_keys, self.settings.limits.message_bytes);
        let covered = loop {
            let entry = self.entries.at(job.cursor).filter(|_| left > 0 && bytes < message_bytes);
            match (&mut job.step, entry) {
                (Step::Ended, _) => return None,
                (Step::Compare { accepted, .. }, Some((key, entry))) => {
                    // The same value under the same number may still be another write: of a leader that is gone, and this
                    // one accepted it again. Only what was recovered is the same as what was there before.
                    if entry.index > 0 {
                        accepted.insert_key(key);
                    }
                }
                (Step::Send { differing }, Some((key, _))) if !differing.contains(key) => {}
                (Step::SendNewer { from }, Some((_, entry))) if entry.index < *from => {}
                (Step::Send { .. } | Step::SendNewer { .. }, Some((key, entry))) => {
                    bytes += approximate_bytes(key, &entry.latest);
                    records.push((key.clone(), entry.latest.clone()));
                }
                // To be continued: an empty part shows the follower that somebody is at work.
                (_, None) if job.cursor < self.entries.len() || !records.is_empty() => {
                    return Some(ToFollower::Install { epoch: job.epoch, records });
                }
                (Step::Compare { theirs, accepted }, None) => {
                    let mut differing = self.recovered.differing(theirs);
                    differing.join(accepted);
                    (job.step, job.cursor) = (Step::Send { differing }, 0);
                    continue;
                }
                (Step::Send { differing }, None) => break Covered::Buckets(differing.clone()),
                (Step::SendNewer { .. }, None) => break Covered::Newer,
            }
            job.cursor += 1;
            left -= 1;
        };
        job.step = Step::Ended;
        let config = self.rules.stored_config()?.clone();
        Some(ToFollower::InstallEnd { epoch: job.epoch, config, covered, token: job.token })
    }

    pub(super) fn on_installed(&mut self, id: SlotId, token: u64, generation: u64) {
        let synced = self.rules.stored_config().map(|config| Synced { epoch: self.epoch, config: config.clone() });
        let Some(slot) = self.slot_mut(id).filter(|slot| slot.link == Link::Installing { upto: token }) else {
            return;
        };
        slot.progress.complete = true;
        slot.progress.generation = generation;
        slot.progress.watermark = token;
        let behind = slot.progress.tracked_from.is_none();
        if let Some(hello) = slot.hello.as_mut() {
            hello.synced = synced;
        }
        self.confirm_below(id, token);
        if behind {
            // More was written meanwhile than the window holds: the rest again by difference.
            self.install(id, false);
        } else {
            self.stream(id);
        }
    }

    /// From here on the follower takes single writes, beginning with those whose wait ended before.
    fn stream(&mut self, id: SlotId) {
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        slot.link = Link::Streaming;
        let from = slot.progress.tracked_from.unwrap_or(u64::MAX);
        let due =
            self.window.iter_from(from).filter(|pending| pending.due.contains(id) && !pending.confirmed.contains(id));
        self.out.extend(due.map(|pending| Output::Transmit(id, pending.write.clone())));
        self.configure(id);
        self.plan();
        self.advance();
    }
}
