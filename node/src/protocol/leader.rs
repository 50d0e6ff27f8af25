//! What a leader decides. It is soft state: everything here can be rebuilt from the followers.
//!
//! Pure: no clock, no socket, no disk; time and randomness are passed in. A caller feeds events in ([`Leader::hello`],
//! [`Leader::receive`], [`Leader::put`], [`Leader::due`], …) and carries out what [`Leader::take_outputs`] returns, in order.
//!
//! `W` and `R` are the caller's handles for a waiting write and a waiting read; they come back in the outputs.

mod audit;
mod install;
mod mask;
mod membership;
mod output;
mod reads;
mod recovery;
mod restore;
mod saving;
mod slot;
mod view;
mod window;
mod writes;

use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use self::audit::Audit;
use self::mask::Mask;
use self::membership::Rules;
use self::reads::Reads;
use self::recovery::Recovery;
use self::saving::Saving;
use self::slot::{Gathered, Link, Slot};
use self::window::Window;
use super::digest::{BucketLimits, Digest};
use super::follower::MESSAGE_BYTES;
use super::keymap::KeyMap;
use super::types::{Epoch, FollowerId, Hello, Record, ToFollower, ToLeader};

pub use self::audit::AuditCounts;
pub use self::install::InstallJob;
pub use self::mask::{FOLLOWERS_MAX, SlotId};
pub use self::output::{Output, Receipt, ResetReason};
pub use self::recovery::RecoveryView;
pub use self::restore::{Part, Saved, Unfinished};
pub use self::view::{CutOff, FollowerView};
pub use self::writes::{Accepted, NewWrite, Refusal};

/// The random wait before each send of a write, in microseconds, uniform over both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayRange {
    /// Shortest wait.
    pub min_us: u32,
    /// Longest wait.
    pub max_us: u32,
}

/// What is bounded, so that memory is.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Writes without their quorum; more are refused.
    pub writes_in_flight: usize,
    /// The same in bytes of keys and values. One write is always taken.
    pub bytes_in_flight: usize,
    /// Reads that wait until the followers confirm that this leader still leads; more are refused.
    pub reads_waiting: usize,
    /// Writes kept for followers that have not confirmed them; a follower further behind is installed anew.
    pub backlog_writes: usize,
    /// The same in bytes of keys and values.
    pub backlog_bytes: usize,
    /// About how many bytes of keys and values one message of a state carries. At least one record.
    pub message_bytes: usize,
    /// How many keys one call of [`Leader::install_part`] looks at, so that no call takes long. At least 1.
    pub scan_keys: usize,
    /// Into how many buckets the keys fall when two states are compared.
    pub buckets: BucketLimits,
    /// From so many keys on, recovery keeps the digest of what it merges up to date with each record. The digest of fewer
    /// keys takes milliseconds.
    pub digested_keys: usize,
    /// With too few followers connected for longer than this, in microseconds, the leader refuses clients at once.
    pub connect_grace_us: u64,
    /// The same where enough are connected, and too few answer heartbeats.
    pub answer_grace_us: u64,
    /// How many keys the comparison in the background looks at with each heartbeat, and at most as many bytes as one
    /// message carries. 0 switches it off.
    pub audit_keys: usize,
    /// The pause between two comparisons of all followers, in microseconds.
    pub audit_pause_us: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            writes_in_flight: 65_536,
            bytes_in_flight: 64 << 20,
            reads_waiting: 65_536,
            backlog_writes: 131_072,
            backlog_bytes: 256 << 20,
            message_bytes: MESSAGE_BYTES,
            scan_keys: 16_384,
            buckets: BucketLimits::default(),
            digested_keys: 65_536,
            connect_grace_us: 1_000_000,
            answer_grace_us: 5_000_000,
            audit_keys: 2_048,
            audit_pause_us: 60_000_000,
        }
    }
}

/// What the leader is asked to keep to.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// W.
    pub quorum: u16,
    /// N, declared.
    pub size: u16,
    /// The random wait.
    pub delay: DelayRange,
    /// The bounds.
    pub limits: Limits,
    /// Seed of the random waits.
    pub seed: u64,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Waits before it asks for promises again.
    Waiting,
    /// Collects promises and merges.
    Recovering(Recovery),
    /// Installs the merged state; opens once enough followers have it.
    Opening,
    Open,
    Fenced(Epoch),
}

/// The newest state of one key, as accepted, and as far as it is committed.
#[derive(Clone, Debug)]
struct Entry {
    latest: Record,
    /// Index of the write that made it; 0 for what recovery found.
    index: u64,
    latest_committed: bool,
    /// The newest committed record while a newer one is under way.
    committed: Option<Box<Record>>,
}

impl Entry {
    /// A record that recovery found. It counts as committed: no earlier leader can still withdraw it.
    fn recovered(latest: Record) -> Self {
        Self { latest, index: 0, latest_committed: true, committed: None }
    }

    /// Index of the newest write, unless that is committed.
    fn pending(&self) -> Option<u64> {
        (!self.latest_committed).then_some(self.index)
    }

    /// The newest committed record.
    fn committed(&self) -> Option<&Record> {
        if self.latest_committed { Some(&self.latest) } else { self.committed.as_deref() }
    }
}

/// The leader of one epoch. A clone decides as the original would; its debug form shows everything that it decides by.
#[derive(Clone, Debug)]
pub struct Leader<W, R> {
    epoch: Epoch,
    phase: Phase,
    settings: Settings,
    rng: SmallRng,
    slots: Vec<Option<Slot>>,
    rules: Rules,
    entries: KeyMap<Entry>,
    /// Of what recovery found: of every entry that no write has touched since.
    recovered: Digest,
    /// How many keys have a committed record.
    committed_keys: usize,
    saving: Option<Saving>,
    audit: Audit,
    window: Window<W>,
    reads: Reads<R>,
    accepted: u64,
    committed: u64,
    /// The highest epoch and generation that the promises named with which this leader opens.
    basis: (Epoch, u64),
    /// Generation of the last rule that was told to stand alone.
    told_alone: u64,
    /// Whether there is half of a backup.
    restoring: bool,
    /// Somebody remembers that this cluster was open: then blank followers alone do not prove a new one.
    opened_before: bool,
    /// Since when too few followers have been connected, on the caller's clock, in microseconds.
    short_since_us: Option<u64>,
    /// Why no write can be acknowledged now.
    cut_off: Option<CutOff>,
    out: Vec<Output<W, R>>,
}

impl<W, R> Leader<W, R> {
    /// A leader that knows nothing yet. `id` is random and new at every start.
    pub fn new(id: u64, settings: Settings) -> Self {
        let epoch = Epoch { term: 1, leader: id };
        Self {
            epoch,
            phase: Phase::Recovering(Recovery::new(epoch, &settings.limits)),
            settings,
            rng: SmallRng::seed_from_u64(settings.seed),
            slots: Vec::new(),
            rules: Rules::default(),
            entries: KeyMap::default(),
            recovered: Digest::new(0, 0),
            committed_keys: 0,
            saving: None,
            audit: Audit::default(),
            window: Window::new(1),
            reads: Reads::default(),
            accepted: 0,
            committed: 0,
            basis: (Epoch::default(), 0),
            told_alone: 0,
            restoring: false,
            opened_before: false,
            short_since_us: None,
            cut_off: None,
            out: Vec::new(),
        }
    }

    /// Says that this cluster was open before, as whoever runs it remembers: if every follower is blank now, then
    /// everything was lost, and this leader waits instead of opening empty.
    pub fn expect_state(&mut self) {
        self.opened_before = true;
    }

    /// What has to be done since the last call, in this order.
    pub fn take_outputs(&mut self) -> Vec<Output<W, R>> {
        std::mem::take(&mut self.out)
    }

    /// The same, into an empty vector in exchange for its memory.
    pub fn swap_outputs(&mut self, empty: &mut Vec<Output<W, R>>) {
        debug_assert!(empty.is_empty(), "what is swapped in would be done twice");
        std::mem::swap(&mut self.out, empty);
    }

    /// Declares a follower by its name and returns its slot; the same name gives the same slot. `None` when all
    /// [`FOLLOWERS_MAX`] slots are taken.
    pub fn declare(&mut self, name: &str) -> Option<SlotId> {
        let known = self.each_slot().find(|(_, slot)| &*slot.name == name).map(|(id, _)| id);
        if let Some(id) = known {
            if !std::mem::replace(&mut self.slot_mut(id)?.wanted, true) {
                self.plan();
            }
            return Some(id);
        }
        self.add(Slot::new(name.into()))
    }

    /// Takes in a follower that is not declared any more, for as long as it is needed: what it holds may have to be
    /// recovered, and a rule that names it binds until one without it is in force. From then on, `None`.
    pub fn declare_leaving(&mut self, hello: &Hello) -> Option<SlotId> {
        if let Some((id, _)) = self.each_slot().find(|(_, slot)| slot.name == hello.name) {
            return Some(id);
        }
        let needed = match self.phase {
            Phase::Waiting | Phase::Recovering(_) => hello.synced.is_some(),
            Phase::Opening | Phase::Open => self.rules.name(&hello.name),
            Phase::Fenced(_) => false,
        };
        if needed { self.add(Slot { wanted: false, ..Slot::new(hello.name.clone()) }) } else { None }
    }

    fn add(&mut self, slot: Slot) -> Option<SlotId> {
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if free >= FOLLOWERS_MAX {
            return None;
        }
        if free == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[free] = Some(slot);
        Some(SlotId(free as u8))
    }

    /// Takes back a declaration. The follower counts until a rule without it is in force, then [`Output::Released`].
    pub fn retire(&mut self, slot: SlotId) {
        if let Some(slot) = self.slot_mut(slot) {
            slot.wanted = false;
        }
        self.plan();
    }

    /// Sets what is wanted. The delay holds for the next write; quorum and size once enough followers stored them,
    /// which [`Output::InForce`] and [`Leader::settled`] tell.
    pub fn set(&mut self, quorum: u16, size: u16, delay: DelayRange) {
        self.settings.quorum = quorum;
        self.settings.size = size;
        self.settings.delay = delay;
        match self.phase {
            Phase::Recovering(_) => self.recover(),
            _ => self.plan(),
        }
    }

    /// A follower connected and said who it is. `session` tells this connection from earlier ones of the slot.
    pub fn hello(&mut self, id: SlotId, session: u64, hello: Hello) {
        let epoch = self.epoch;
        if !hello.promised.may_follow(epoch) {
            return self.out.push(Output::Reset(id, ResetReason::ImpossibleEpoch(hello.promised)));
        }
        if let Err(other) = self.be_only_name_of(id, hello.id) {
            return self.out.push(Output::Reset(id, ResetReason::SameDisk(other)));
        }
        let Some(slot) = self.slot_mut(id) else {
            // The slot was released between the follower's greeting and now.
            return self.out.push(Output::Reset(id, ResetReason::NotDeclared));
        };
        let same_disk = slot.hello.as_ref().is_some_and(|known| known.id == hello.id);
        // One that comes back with a higher promise gave it while this leader was asking: to somebody else who asks.
        let contended = slot.hello.is_some();
        let promised = hello.promised;
        slot.session = session;
        slot.link = Link::Greeted;
        slot.promised = promised == epoch;
        if !(slot.promised && same_disk && slot.gathered.is_everything()) {
            slot.gathered = Gathered::Nothing;
        }
        slot.hello = Some(hello);
        // Of two leaders in one term the ids decide, but a leader that is only starting takes a term of its own.
        let same_term = promised.term == epoch.term && promised.leader != epoch.leader;
        if promised > epoch || (same_term && matches!(self.phase, Phase::Recovering(_))) {
            self.meet(promised, contended);
        } else if promised == epoch {
            self.on_promised(id);
        } else if !matches!(self.phase, Phase::Waiting | Phase::Fenced(_)) {
            self.out.push(Output::Send(id, ToFollower::Prepare { epoch }));
        }
    }

    /// One disk under two names would be counted twice. The name under which it answers now keeps it, and an earlier name
    /// that is not connected loses it.
    ///
    /// # Errors
    /// The other name, where that one is connected.
    fn be_only_name_of(&mut self, id: SlotId, disk: FollowerId) -> Result<(), Arc<str>> {
        let known = |slot: &Slot| slot.hello.as_ref().is_some_and(|hello| hello.id == disk) || slot.bound == Some(disk);
        let Some((other, slot)) = self.each_slot().find(|(other, slot)| *other != id && known(slot)) else {
            return Ok(());
        };
        if slot.link != Link::Down {
            return Err(slot.name.clone());
        }
        let (name, wanted) = (slot.name.clone(), slot.wanted);
        self.slots[other.index()] = Some(Slot { wanted, ..Slot::new(name) });
        self.window.iter_mut().for_each(|pending| pending.confirmed.remove(other));
        self.refresh_rules();
        Ok(())
    }

    /// The connection of this session is gone.
    pub fn closed(&mut self, id: SlotId, session: u64) {
        let Some(slot) = self.slot_mut(id).filter(|slot| slot.session == session) else {
            return;
        };
        slot.link = Link::Down;
        let (under_way, untracked) = (slot.gathered.is_under_way(), !slot.wanted);
        if under_way {
            slot.gathered = Gathered::Nothing;
            // Recovery may have waited for this follower before it asked the next one.
            self.recover();
        }
        if untracked {
            self.plan();
        }
    }

    /// Takes one message of a follower. Messages of an earlier connection are ignored.
    pub fn receive(&mut self, id: SlotId, session: u64, message: ToLeader) {
        let ours = self.epoch;
        let Some(slot) = self.slot_mut(id).filter(|slot| slot.session == session) else {
            return;
        };
        match message {
            ToLeader::Hello(hello) => self.hello(id, session, hello),
            // Asked twice, it says so twice; it has been given more to do since.
            ToLeader::Promised { .. }
                if matches!(slot.link, Link::Comparing { .. } | Link::Installing { .. } | Link::Streaming) => {}
            ToLeader::Promised { epoch, synced } if epoch == ours => {
                if let Some(hello) = slot.hello.as_mut() {
                    hello.promised = epoch;
                    hello.synced = synced;
                }
                slot.promised = true;
                self.on_promised(id);
            }
            ToLeader::Digested { epoch, token, digest, next } if epoch == ours => {
                self.on_digested(id, token, &digest, next);
            }
            ToLeader::Records { epoch, records, next } if epoch == ours => self.on_records(id, records, next),
            ToLeader::Confirmed { epoch, ranges } if epoch == ours => self.on_confirmed(id, &ranges),
            ToLeader::Installed { epoch, token, generation } if epoch == ours => {
                self.on_installed(id, token, generation);
            }
            ToLeader::Configured { epoch, generation } if epoch == ours => {
                slot.progress.generation = slot.progress.generation.max(generation);
                self.advance();
                self.release();
            }
            ToLeader::Probed { epoch, round } if epoch == ours => self.on_probed(id, round),
            ToLeader::Refused { promised } if !promised.may_follow(ours) => {
                self.out.push(Output::Reset(id, ResetReason::ImpossibleEpoch(promised)));
            }
            ToLeader::Refused { promised } if promised > ours => self.meet(promised, true),
            ToLeader::Refused { .. } => self.out.push(Output::Reset(id, ResetReason::Refused)),
            // An answer to an earlier epoch of this process says nothing about this one.
            _ => {}
        }
    }

    /// Asks for promises under a higher term than any seen. Called after [`Output::Backoff`].
    pub fn elect(&mut self) {
        if !matches!(self.phase, Phase::Waiting) {
            return;
        }
        self.phase = Phase::Recovering(Recovery::new(self.epoch, &self.settings.limits));
        let epoch = self.epoch;
        for (index, place) in self.slots.iter_mut().enumerate() {
            let Some(slot) = place.take().map(Slot::in_new_epoch) else {
                continue;
            };
            if slot.link == Link::Greeted {
                self.out.push(Output::Send(SlotId(index as u8), ToFollower::Prepare { epoch }));
            }
            *place = Some(slot);
        }
    }

    /// A follower promised another, higher epoch. Before opening that only means to ask again with a higher term; an
    /// open leader is over, since the other one may already acknowledge writes.
    fn meet(&mut self, promised: Epoch, contended: bool) {
        match self.phase {
            Phase::Fenced(_) => {}
            Phase::Open => self.fence(promised),
            _ => {
                self.epoch.term = self.epoch.term.max(promised.term + 1);
                // Whoever waits goes on waiting: leaders that start together must not interrupt each other for ever.
                if matches!(self.phase, Phase::Waiting) {
                    return;
                }
                self.phase = Phase::Waiting;
                if contended {
                    self.out.push(Output::Backoff);
                } else {
                    self.elect();
                }
            }
        }
    }

    fn fence(&mut self, by: Epoch) {
        self.phase = Phase::Fenced(by);
        for pending in self.window.iter_mut().filter(|pending| !pending.committed) {
            let seq = pending.write.record.version.seq;
            let waiters = pending.waiter.take().into_iter().chain(std::mem::take(&mut pending.more_waiters));
            self.out.extend(waiters.map(|waiter| Output::Indeterminate { waiter, seq }));
        }
        self.refuse_reads();
        self.out.push(Output::Fenced(by));
    }

    fn on_promised(&mut self, id: SlotId) {
        if let Some(slot) = self.slot_mut(id) {
            slot.link = Link::Promised;
        }
        match self.phase {
            Phase::Recovering(_) => self.recover(),
            Phase::Opening if self.is_outdated_by(id) => {
                self.epoch.term += 1;
                self.phase = Phase::Waiting;
                self.elect();
            }
            Phase::Opening | Phase::Open => self.admit(id),
            Phase::Waiting | Phase::Fenced(_) => {}
        }
    }

    fn slot(&self, id: SlotId) -> Option<&Slot> {
        self.slots.get(id.index())?.as_ref()
    }

    fn slot_mut(&mut self, id: SlotId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index())?.as_mut()
    }

    fn each_slot(&self) -> impl Iterator<Item = (SlotId, &Slot)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| Some((SlotId(index as u8), slot.as_ref()?)))
    }

    fn mask_of(&self, condition: impl Fn(&Slot) -> bool) -> Mask {
        self.each_slot().filter(|(_, slot)| condition(slot)).map(|(id, _)| id).collect()
    }
}
