//! From a follower that promised to one that has everything: by resending, by difference, or by everything.

use super::{Leader, Link, Output, Phase, SlotId};
use crate::protocol::follower::{FETCH_BYTES, approximate_bytes};
use crate::protocol::types::{Epoch, Synced, ToFollower};

/// How many keys one call of [`Leader::install_part`] looks at, so that no call takes long.
const INSTALL_SCAN_KEYS: usize = 16_384;

/// A state transfer under way; hand it to [`Leader::install_part`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InstallJob {
    epoch: Epoch,
    full: bool,
    from: u64,
    token: u64,
    cursor: usize,
    ended: bool,
}

impl<W, R> Leader<W, R> {
    /// Brings a follower that promised up to date: by resending, by difference, or by everything.
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
            slot.complete = false;
            slot.tracked_from = None;
            slot.watermark = 0;
            slot.generation = 0;
            self.window.iter_mut().for_each(|pending| pending.confirmed.remove(id));
            self.refresh_rules();
        }
        if !self.may_enter(hello.id) {
            return self.advance();
        }
        let Some(slot) = self.slot_mut(id) else { return };
        let has_state = slot.complete && hello.synced.as_ref().is_some_and(|synced| synced.epoch == epoch);
        if !has_state {
            self.install(id, true);
        } else if slot.tracked_from.is_none_or(|from| from > slot.watermark) {
            // It fell behind the window, or the difference that it was being given did not arrive in full.
            self.install(id, false);
        } else {
            slot.generation = hello.synced.map_or(0, |synced| synced.config.generation);
            self.stream(id);
        }
    }

    /// Starts a state transfer; what is accepted from now on follows as single writes.
    pub(super) fn install(&mut self, id: SlotId, full: bool) {
        let (epoch, token) = (self.epoch, self.window.next_index());
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        slot.link = Link::Installing { upto: token };
        slot.tracked_from = Some(token);
        let from = if full { 0 } else { slot.watermark };
        self.out.push(Output::Install(id, InstallJob { epoch, full, from, token, cursor: 0, ended: false }));
    }

    /// The next message of a state transfer; nothing once it is complete or void.
    pub fn install_part(&self, job: &mut InstallJob) -> Option<ToFollower> {
        if job.ended || job.epoch != self.epoch || !matches!(self.phase, Phase::Opening | Phase::Open) {
            return None;
        }
        let (mut records, mut bytes) = (Vec::new(), 0);
        let end = self.entries.len().min(job.cursor + INSTALL_SCAN_KEYS);
        while bytes < FETCH_BYTES && job.cursor < end {
            if let Some((key, entry)) = self.entries.get_index(job.cursor)
                && entry.index >= job.from
            {
                bytes += approximate_bytes(key, &entry.latest);
                records.push((key.clone(), entry.latest.clone()));
            }
            job.cursor += 1;
        }
        if !records.is_empty() || job.cursor < self.entries.len() {
            return Some(ToFollower::Install { epoch: job.epoch, records });
        }
        job.ended = true;
        let config = self.rules.stored_config()?.clone();
        Some(ToFollower::InstallEnd { epoch: job.epoch, config, full: job.full, token: job.token })
    }

    pub(super) fn on_installed(&mut self, id: SlotId, token: u64, generation: u64) {
        let synced = self.rules.stored_config().map(|config| Synced { epoch: self.epoch, config: config.clone() });
        let Some(slot) = self.slot_mut(id).filter(|slot| slot.link == Link::Installing { upto: token }) else {
            return;
        };
        slot.complete = true;
        slot.generation = generation;
        slot.watermark = token;
        let behind = slot.tracked_from.is_none();
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
        let from = slot.tracked_from.unwrap_or(u64::MAX);
        let due =
            self.window.iter_from(from).filter(|pending| pending.due.contains(id) && !pending.confirmed.contains(id));
        self.out.extend(due.map(|pending| Output::Transmit(id, pending.write.clone())));
        self.configure(id);
        self.plan();
        self.advance();
    }
}
