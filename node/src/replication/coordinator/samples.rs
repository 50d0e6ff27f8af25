//! A sample of the writes under way, for the live page: the delay and the confirmation of each
//! follower, and the moment of the commit.
//!
//! Nothing is recorded while no page is open. Otherwise the sample is bounded: after each update of
//! the pages the next [`SAMPLES_PER_UPDATE`] writes are followed, and at most [`OPEN_MAX`] at once.
//! Without a write to follow, a step costs one branch. Everything is behind the lock of the
//! coordinator.

use serde::Serialize;

use super::{Coordinator, Core, CoreOutput, State};
use crate::protocol::leader::{Mask, Output, SlotId};
use crate::protocol::messages::{ToLeader, Write};
use crate::protocol::types::{Epoch, Key};

/// Writes that are followed after each update of the pages.
const SAMPLES_PER_UPDATE: usize = 5;

/// Writes that are followed at once.
const OPEN_MAX: usize = 64;

/// A follower that has not confirmed this long after its delay, in microseconds, is not waited for.
const OVERDUE_US: u64 = 400_000;

/// Maximum characters of a key in a sample.
const KEY_CHARS: usize = 60;

/// A write that was followed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SampledWrite {
    /// The beginning of its key.
    pub key: String,
    /// Its sequence number.
    pub seq: u64,
    /// The write quorum in force when it was accepted.
    pub write_quorum: u16,
    /// When W followers had confirmed it, in milliseconds after the leader accepted it. Absent if
    /// that did not happen in time.
    pub committed_ms: Option<f64>,
    /// Every follower that the leader drew a delay for.
    pub followers: Vec<SampledFollower>,
}

/// A follower's part in a write that was followed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SampledFollower {
    /// Its name in `GET /status`.
    pub name: String,
    /// The delay that the leader drew for it, in milliseconds.
    pub delay_ms: f64,
    /// When its confirmation arrived, in milliseconds after the leader accepted the write.
    pub confirmed_ms: Option<f64>,
}

/// The writes that are followed now.
#[derive(Debug, Default)]
pub(super) struct Samples {
    on: bool,
    /// How many more writes to follow until the next update.
    allowed: usize,
    /// Epoch and index of the newest write that was looked at.
    newest: Option<(Epoch, u64)>,
    /// Whether a commit or a confirmation of a followed write is expected.
    waits: bool,
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    epoch: Epoch,
    index: u64,
    key: Key,
    seq: u64,
    write_quorum: u16,
    accepted_us: u64,
    committed_us: Option<u64>,
    legs: Vec<Leg>,
}

#[derive(Debug)]
struct Leg {
    slot: SlotId,
    delay_us: u32,
    confirmed_us: Option<u64>,
}

impl Open {
    /// Whether nothing more is expected: each follower confirmed or is overdue, and the write is
    /// committed or its client has given up.
    fn is_over(&self, now_us: u64, timeout_us: u64) -> bool {
        let age_us = now_us.saturating_sub(self.accepted_us);
        let settled = |leg: &Leg| leg.confirmed_us.is_some() || age_us >= u64::from(leg.delay_us) + OVERDUE_US;
        age_us >= timeout_us || (self.committed_us.is_some() && self.legs.iter().all(settled))
    }
}

impl Samples {
    /// Whether the next write is to be followed.
    pub(super) fn begins(&self) -> bool {
        self.allowed > 0
    }

    /// Whether a commit or a confirmation of a followed write is expected.
    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    /// Follows the newest write if it is new. `outputs` are those of the step that accepted it.
    pub(super) fn begin(&mut self, core: &Core, write_quorum: u16, outputs: &[CoreOutput], now: impl FnOnce() -> u64) {
        let Some(write) = core.newest_write() else { return };
        let (epoch, index) = identity(write);
        if self.newest.replace((epoch, index)) == Some((epoch, index)) {
            return;
        }
        // The mark of a restore has no key that a client could use.
        if write.key.is_empty() {
            return;
        }
        let legs = |output: &CoreOutput| match output {
            Output::Schedule { slot, index: of, delay_us } if *of == index => (Mask::from(*slot), *delay_us),
            Output::Transmit(to, sent) if sent.index == index => (*to, 0),
            _ => (Mask::default(), 0),
        };
        let legs = outputs.iter().map(legs).flat_map(|(to, delay_us)| to.into_iter().map(move |slot| (slot, delay_us)));
        let legs = legs.map(|(slot, delay_us)| Leg { slot, delay_us, confirmed_us: None }).collect();
        let (key, seq) = (write.key.clone(), write.record.version.seq);
        let (accepted_us, committed_us) = (now(), None);
        self.open.push(Open { epoch, index, key, seq, write_quorum, accepted_us, committed_us, legs });
        self.allowed -= 1;
        self.waits = true;
    }

    /// Follows further writes than those accepted so far.
    fn go_on(&mut self, core: &Core) {
        // The delays of a write that was accepted before are not known.
        self.newest = core.newest_write().map(identity);
        self.allowed = SAMPLES_PER_UPDATE.min(OPEN_MAX - self.open.len());
    }

    /// Records the confirmations in a message that the leader is about to process.
    pub(super) fn note_confirmed(&mut self, slot: SlotId, message: &ToLeader, now_us: u64) {
        let ToLeader::Confirmed { epoch, ranges } = message else { return };
        for write in self.open.iter_mut().filter(|write| write.epoch == *epoch) {
            if ranges.iter().any(|&(first, last)| (first..=last).contains(&write.index))
                && let Some(leg) = write.legs.iter_mut().find(|leg| leg.slot == slot)
            {
                leg.confirmed_us.get_or_insert(now_us);
            }
        }
    }

    /// Records which writes the leader has committed by now.
    pub(super) fn note_commits(&mut self, core: &Core, now_us: u64) {
        let epoch = core.epoch();
        for write in self.open.iter_mut().filter(|write| write.committed_us.is_none() && write.epoch == epoch) {
            if core.is_committed(write.index) {
                write.committed_us = Some(now_us);
            }
        }
        self.waits = self
            .open
            .iter()
            .any(|write| write.committed_us.is_none() || write.legs.iter().any(|leg| leg.confirmed_us.is_none()));
    }
}

/// Epoch and index of a write.
fn identity(write: &Write) -> (Epoch, u64) {
    (write.record.version.epoch, write.index)
}

impl State {
    /// Passes messages of a follower to the leader and records what they confirm.
    pub(super) fn receive_sampled(
        &mut self,
        slot: SlotId,
        session: u64,
        messages: impl Iterator<Item = ToLeader>,
        now_us: u64,
    ) {
        for message in messages {
            self.samples.note_confirmed(slot, &message, now_us);
            self.core.receive(slot, session, message);
        }
        self.samples.note_commits(&self.core, now_us);
    }
}

impl Coordinator {
    /// Begins or ends the sample of writes.
    pub(crate) fn sample(&self, on: bool) {
        let mut state = self.state.lock();
        let State { core, samples, .. } = &mut *state;
        *samples = Samples { on, ..Samples::default() };
        if on {
            samples.go_on(core);
        }
    }

    /// Whether a sample is under way.
    #[cfg(test)]
    pub(crate) fn is_sampling(&self) -> bool {
        self.look(|state| state.samples.on)
    }

    /// Takes the followed writes of which nothing more is expected, oldest first.
    pub(crate) fn take_samples(&self) -> Vec<SampledWrite> {
        let now_us = self.now_us();
        let mut state = self.state.lock();
        let State { core, samples, in_force, .. } = &mut *state;
        samples.note_commits(core, now_us);
        let timeout_us = u64::from(in_force.replication_timeout_ms) * 1000;
        let over: Vec<Open> = samples.open.extract_if(.., |write| write.is_over(now_us, timeout_us)).collect();
        if samples.on {
            samples.go_on(core);
        }
        if over.is_empty() {
            return Vec::new();
        }
        let followers = core.followers(now_us);
        drop(state);
        let name = |slot| followers.iter().find(|follower| follower.slot == slot).map(|it| it.name.clone());
        over.into_iter().map(|write| shown(&write, name)).collect()
    }
}

fn shown(write: &Open, name: impl Fn(SlotId) -> Option<String>) -> SampledWrite {
    let after_ms = |at_us: u64| at_us.saturating_sub(write.accepted_us) as f64 / 1e3;
    let follower = |leg: &Leg| {
        Some(SampledFollower {
            name: name(leg.slot)?,
            delay_ms: f64::from(leg.delay_us) / 1e3,
            confirmed_ms: leg.confirmed_us.map(after_ms),
        })
    };
    SampledWrite {
        key: write.key.chars().take(KEY_CHARS).collect(),
        seq: write.seq,
        write_quorum: write.write_quorum,
        committed_ms: write.committed_us.map(after_ms),
        followers: write.legs.iter().filter_map(follower).collect(),
    }
}
