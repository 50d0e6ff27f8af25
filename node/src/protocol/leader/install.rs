//! Brings a follower that promised up to date: by resending writes, or by sending what differs.
//!
//! A follower that already has the state of this leader gets the writes accepted since then. Any
//! other follower reports a digest ([`digest`](crate::protocol::digest)), a number for each bucket
//! of keys. The leader sends every bucket that differs in full, with its own epoch in the versions;
//! at the end the follower drops the older records of these buckets. In the other buckets the
//! follower keeps its records with their older epoch. These have the same values and sequence
//! numbers as the leader's records, and lower versions than any write that this leader accepts.
//! Every comparison of versions therefore gives the same result as if the leader had sent them.

use super::recovery::RECOVERY;
use super::slot::Progress;
use super::{Leader, Link, Output, Phase, SlotId};
use crate::protocol::digest::{Buckets, Digest, seed_of};
use crate::protocol::follower::approximate_bytes;
use crate::protocol::messages::{Covered, ToFollower};
use crate::protocol::types::{Epoch, Synced};

/// A state transfer under way; the caller passes it to [`Leader::install_part`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InstallJob {
    epoch: Epoch,
    token: u64,
    step: Step,
    /// Position of the next key to examine.
    cursor: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Collects the buckets of the keys written since this leader opened. For all other keys the
    /// leader has a digest.
    Compare {
        theirs: Digest,
        accepted: Buckets,
    },
    /// Sends everything in the buckets that differ.
    Send {
        differing: Buckets,
    },
    /// Sends the records accepted from this write on, to a follower that has everything before it.
    SendNewer {
        from: u64,
    },
    Ended,
}

impl InstallJob {
    /// Sends these buckets in full to a follower that keeps receiving single writes meanwhile.
    pub(super) fn again(epoch: Epoch, differing: Buckets) -> Self {
        Self { epoch, token: AGAIN, step: Step::Send { differing }, cursor: 0 }
    }
}

/// Token of a transfer whose end changes nothing at the leader. Other transfers use the index of a
/// write, from 1.
const AGAIN: u64 = 0;

impl<W, R> Leader<W, R> {
    /// Brings a follower that promised up to date: by resending writes, or by sending what differs.
    pub(super) fn admit(&mut self, id: SlotId) {
        let epoch = self.epoch;
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        let Some(hello) = slot.hello.clone() else {
            return;
        };
        if slot.bound != Some(hello.id) {
            // Another disk answers here. It has none of the writes that the earlier disk confirmed.
            slot.bound = Some(hello.id);
            (slot.progress, slot.probed) = (Progress::default(), 0);
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
            // It fell behind the window, or an earlier transfer did not arrive in full.
            self.install(id, false);
        } else {
            slot.progress.generation = hello.synced.map_or(0, |synced| synced.config.generation);
            self.stream(id);
        }
    }

    /// Starts a state transfer. Writes accepted from now on follow as single writes. If `full`, the
    /// leader first asks the follower for its digest; otherwise it sends only newer records, to a
    /// follower that had the full state before.
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

    /// Handles a part of a follower's digest. Once the digest is complete, the leader fetches or
    /// sends the buckets that differ.
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

    /// The next message of a state transfer; `None` once it is complete or the epoch has changed.
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
                    // An equal value and sequence number do not prove the same write: an earlier
                    // leader may have accepted one and this leader the other. Only a recovered
                    // record is certainly the one that existed before.
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
                // More follows. Even an empty part shows the follower that the leader is at work.
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
            // More was written meanwhile than the window keeps, so a further transfer sends the
            // rest.
            self.install(id, false);
        } else {
            self.stream(id);
        }
    }

    /// Switches the follower to single writes, starting with those whose delay is already over.
    fn stream(&mut self, id: SlotId) {
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        slot.link = Link::Streaming;
        let from = slot.progress.tracked_from.unwrap_or(u64::MAX);
        let due =
            self.window.iter_from(from).filter(|pending| pending.due.contains(id) && !pending.confirmed.contains(id));
        self.out.extend(due.map(|pending| Output::Transmit(id.into(), pending.write.clone())));
        self.configure(id);
        self.plan();
        self.advance();
    }
}
