//! The decisions of a leader. Its state is soft: a new leader can rebuild all of it from the
//! followers.
//!
//! This module uses no clock, socket or disk; the caller passes in time and randomness. The caller
//! feeds events in ([`Leader::hello`], [`Leader::receive`], [`Leader::put`], [`Leader::due`], …)
//! and carries out what [`Leader::take_outputs`] returns, in order.
//!
//! `W` and `R` are the caller's handles for a waiting write and a waiting read. The outputs return
//! them.

mod audit;
mod candidate;
mod conditions;
mod delay;
mod install;
mod mask;
mod membership;
mod output;
mod reads;
mod recovery;
mod restore;
mod saving;
mod slot;
mod successor;
mod view;
mod warm;
mod window;
mod writes;

use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use self::audit::Audit;
use self::candidate::{Candidacy, Rivalry, Silence};
use self::membership::Rules;
use self::reads::Reads;
use self::recovery::Recovery;
use self::saving::Saving;
use self::slot::{Gathered, Link, Slot};
use self::warm::WarmCopy;
use self::window::Window;
use super::digest::{BucketLimits, Digest};
use super::follower::MESSAGE_BYTES;
use super::keymap::KeyMap;
use super::messages::{Hello, ToFollower, ToLeader};
use super::types::{Epoch, FollowerId, Key, Record};

pub use self::audit::AuditCounts;
pub use self::candidate::CandidateView;
pub use self::conditions::{Change, Condition, Increment, Incremented, NoSum, ReadOf, sum};
pub use self::delay::{Delay, DelayRange};
pub use self::install::InstallJob;
pub use self::mask::{FOLLOWERS_MAX, Mask, SlotId, Slots};
pub use self::output::{Output, Receipt, ResetReason};
pub use self::recovery::RecoveryView;
pub use self::restore::{Part, Saved};
pub use self::view::{CutOff, FollowerView};
pub use self::writes::{Accepted, NewWrite, Refusal, Unfinished};

/// Limits that bound the memory and the work of a leader.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Writes without their quorum; the leader refuses more.
    pub writes_in_flight: usize,
    /// The same in bytes of keys and values. The leader always accepts a single write, however
    /// long.
    pub bytes_in_flight: usize,
    /// Reads that wait until the followers confirm that this leader still leads; the leader refuses
    /// more.
    pub reads_waiting: usize,
    /// Writes kept for followers that have not confirmed them. A follower that is further behind
    /// gets a state transfer.
    pub backlog_writes: usize,
    /// The same in bytes of keys and values.
    pub backlog_bytes: usize,
    /// About how many bytes of keys and values one message of a state carries. At least one record.
    pub message_bytes: usize,
    /// How many keys one call of [`Leader::install_part`] examines, which bounds its duration. At
    /// least 1.
    pub scan_keys: usize,
    /// Into how many buckets a comparison of two states divides the keys.
    pub buckets: BucketLimits,
    /// From this many keys on, recovery updates the digest of the merged state with each record.
    /// Below it, recovery computes the digest in one go, which takes milliseconds.
    pub digested_keys: usize,
    /// The leader refuses clients at once after too few followers have been connected for longer
    /// than this, in microseconds.
    pub connect_grace_us: u64,
    /// The same where enough followers are connected, but too few of them answer heartbeats.
    pub answer_grace_us: u64,
    /// How many keys the comparison in the background examines with each heartbeat. It stops
    /// earlier after the bytes of one message. 0 disables the comparison.
    pub audit_keys: usize,
    /// Time between two comparisons of all followers, in microseconds.
    pub audit_pause_us: u64,
    /// For how many questions in a row, one with each tick, a follower has to report no message of
    /// its leader before the leader counts as lost. 0: this leader asks for promises at once, also
    /// beside another leader.
    pub takeover_rounds: u32,
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
            takeover_rounds: 0,
        }
    }
}

/// Settings of a leader.
#[derive(Clone, Debug)]
pub struct LeaderSettings {
    /// W, the write quorum.
    pub quorum: u16,
    /// N, the declared number of followers.
    pub size: u16,
    /// What the random delays are drawn from.
    pub delay: Delay,
    /// The limits.
    pub limits: Limits,
    /// Seed of the random delays.
    pub seed: u64,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Asks for no promises until no other leader can commit or, without
    /// [`Limits::takeover_rounds`], until the caller calls [`Leader::elect`].
    Waiting(Candidacy),
    /// Collects promises and merges records.
    Recovering(Recovery),
    /// Installs the merged state and opens once enough followers have it.
    Opening,
    Open,
    /// Another leader took over, with this epoch.
    Fenced(Epoch),
    /// It stopped by itself.
    Resigned,
}

/// The newest accepted record of one key, and its newest committed record.
#[derive(Clone, Debug)]
struct Entry {
    latest: Record,
    /// Index of the write that brought it; 0 for a record that recovery found.
    index: u64,
    latest_committed: bool,
    /// The newest committed record while `latest` is not committed.
    committed: Option<Box<Record>>,
}

impl Entry {
    /// A record that recovery found. It counts as committed: no earlier leader can still withdraw it.
    fn recovered(latest: Record) -> Self {
        Self { latest, index: 0, latest_committed: true, committed: None }
    }

    /// Index of the newest write, if it is not committed.
    fn pending(&self) -> Option<u64> {
        (!self.latest_committed).then_some(self.index)
    }

    /// The newest committed record.
    fn committed(&self) -> Option<&Record> {
        if self.latest_committed { Some(&self.latest) } else { self.committed.as_deref() }
    }
}

/// The leader of one epoch. A clone makes the same decisions as the original. The debug output
/// contains every input of those decisions.
#[derive(Clone, Debug)]
pub struct Leader<W, R> {
    epoch: Epoch,
    phase: Phase,
    settings: LeaderSettings,
    rng: SmallRng,
    /// Randomness of the waits of a candidate. It leaves the seeded delays alone.
    candidate_rng: SmallRng,
    rivalry: Rivalry,
    /// What this process copied as a standby.
    copy: WarmCopy,
    slots: Vec<Option<Slot>>,
    rules: Rules,
    entries: KeyMap<Entry>,
    /// Digest of the state that recovery found. It is still exact for every entry with index 0.
    recovered: Digest,
    /// How many keys have a committed record.
    committed_keys: usize,
    saving: Option<Saving>,
    audit: Audit,
    window: Window<W>,
    reads: Reads<W, R>,
    accepted: u64,
    committed: u64,
    /// The highest epoch and generation among the promises with which this leader opens.
    basis: (Epoch, u64),
    /// Generation of the last rule for which the leader reported that only this rule binds.
    reported_sole_rule: u64,
    /// Whether a restore is unfinished, or awaited.
    restoring: bool,
    /// The caller knows that this cluster starts from a backup. Until a restore has ended, the leader serves no client.
    starts_from_backup: bool,
    /// The caller knows that this cluster was open before, or a disk is gone that had state when its
    /// follower answered. Blank followers alone then do not prove a new cluster.
    opened_before: bool,
    /// Since when too few followers have been connected, on the caller's clock, in microseconds.
    short_since_us: Option<u64>,
    /// Why no write can be acknowledged now.
    cut_off: Option<CutOff>,
    /// Ticks since a follower last gave recovery something new.
    stalled_ticks: u32,
    /// Positions and keys of writes committed since the caller last asked; `None` while no client watches.
    commits: Option<Vec<(usize, Key)>>,
    out: Vec<Output<W, R>>,
}

impl<W, R> Leader<W, R> {
    /// A leader without any state. `id` is random and new at every start.
    pub fn new(id: u64, settings: LeaderSettings) -> Self {
        let epoch = Epoch { term: 1, leader: id };
        let phase = if settings.limits.takeover_rounds == 0 {
            Phase::Recovering(Recovery::new(epoch, &settings.limits, KeyMap::default()))
        } else {
            Phase::Waiting(Candidacy::default())
        };
        Self {
            epoch,
            phase,
            rng: SmallRng::seed_from_u64(settings.seed),
            settings,
            candidate_rng: SmallRng::seed_from_u64(id),
            rivalry: Rivalry::default(),
            copy: WarmCopy::default(),
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
            reported_sole_rule: 0,
            restoring: false,
            starts_from_backup: false,
            opened_before: false,
            short_since_us: None,
            cut_off: None,
            stalled_ticks: 0,
            commits: None,
            out: Vec::new(),
        }
    }

    /// Declares that this cluster was open before. If every follower is blank, all data was lost;
    /// this leader then waits instead of opening empty.
    pub fn expect_state(&mut self) {
        self.opened_before = true;
    }

    /// Declares that this cluster starts from a backup: until a restore has ended in it, this leader serves no client.
    pub fn await_restore(&mut self) {
        self.starts_from_backup = true;
    }

    /// Returns what the caller has to do since the last call, in this order.
    pub fn take_outputs(&mut self) -> Vec<Output<W, R>> {
        std::mem::take(&mut self.out)
    }

    /// Like [`Leader::take_outputs`], but swaps with an empty vector, so that its memory is reused.
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

    /// Adds a follower that is no longer declared, for as long as the leader needs it: recovery may
    /// need its records, and a rule that names it binds until a rule without it is in force.
    /// Returns `None` if the leader does not need it.
    pub fn declare_leaving(&mut self, hello: &Hello) -> Option<SlotId> {
        if let Some((id, _)) = self.each_slot().find(|(_, slot)| slot.name == hello.name) {
            return Some(id);
        }
        let needed = match self.phase {
            Phase::Waiting(_) | Phase::Recovering(_) => hello.synced.is_some(),
            Phase::Opening | Phase::Open => self.rules.name(&hello.name),
            Phase::Fenced(_) | Phase::Resigned => false,
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
        let number = delay::follower_number(&slot.name, free);
        self.slots[free] = Some(Slot { number, ..slot });
        Some(SlotId(free as u8))
    }

    /// Withdraws a declaration. The follower counts until a rule without it is in force; then the
    /// leader emits [`Output::Released`].
    pub fn retire(&mut self, slot: SlotId) {
        if let Some(slot) = self.slot_mut(slot) {
            slot.wanted = false;
        }
        self.plan();
    }

    /// Changes the settings. The delay applies from the next write on. Quorum and size apply once
    /// enough followers stored them; [`Output::InForce`] and [`Leader::settled`] report that.
    pub fn set(&mut self, quorum: u16, size: u16, delay: impl Into<Delay>) {
        self.settings.quorum = quorum;
        self.settings.size = size;
        self.settings.delay = delay.into();
        match self.phase {
            Phase::Recovering(_) => self.recover(),
            _ => self.plan(),
        }
    }

    /// A follower connected and sent its greeting. `session` distinguishes this connection from
    /// earlier ones of the slot.
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
        // A follower that reconnects with a higher promise gave it after this leader first met it:
        // another leader is asking for promises now.
        let contended = slot.hello.is_some();
        let promised = hello.promised;
        slot.session = session;
        slot.link = Link::Greeted;
        slot.promised = promised == epoch;
        if !(slot.promised && same_disk && slot.gathered.is_everything()) {
            slot.gathered = Gathered::Nothing;
        }
        let lost = slot.hello.as_ref().is_some_and(|known| known.id != hello.id && known.synced.is_some());
        slot.hello = Some(hello);
        slot.silence = Silence::default();
        self.opened_before |= lost;
        self.copy.on_disconnect(id);
        // Ids decide between two leaders of one term, but a leader that is still recovering moves
        // to a term of its own.
        let same_term = promised.term == epoch.term && promised.leader != epoch.leader;
        if promised > epoch || (same_term && matches!(self.phase, Phase::Recovering(_))) {
            self.on_other_epoch(promised, contended);
        } else if promised == epoch {
            self.on_promised(id);
        } else if !matches!(self.phase, Phase::Waiting(_) | Phase::Fenced(_) | Phase::Resigned) {
            self.out.push(Output::Send(id, ToFollower::Prepare { epoch }));
        }
        self.outdo(promised);
        self.elect_if_none_leads();
    }

    /// Makes this slot the only one with this disk; the leader would otherwise count the disk
    /// twice. The slot of another name loses the disk if it is not connected.
    ///
    /// # Errors
    /// The other name, if its follower is connected.
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

    /// The connection of this session closed.
    pub fn closed(&mut self, id: SlotId, session: u64) {
        let Some(slot) = self.slot_mut(id).filter(|slot| slot.session == session) else {
            return;
        };
        slot.link = Link::Down;
        let (under_way, untracked) = (slot.gathered.is_under_way(), !slot.wanted);
        if under_way {
            slot.gathered = Gathered::Nothing;
        }
        self.copy.on_disconnect(id);
        if under_way {
            // Recovery may have waited for this follower before it asked the next one.
            self.recover();
        }
        if untracked {
            self.plan();
        }
    }

    /// Handles one message of a follower. Messages of an earlier connection are ignored.
    pub fn receive(&mut self, id: SlotId, session: u64, message: ToLeader) {
        let ours = self.epoch;
        let Some(slot) = self.slot_mut(id).filter(|slot| slot.session == session) else {
            return;
        };
        match message {
            ToLeader::Hello(hello) => self.hello(id, session, hello),
            ToLeader::Greeted(hello) => self.on_greeted(id, hello),
            ToLeader::Copied { records, next, anew, more } => self.on_copied(id, records, next, (anew, more)),
            ToLeader::Resigned { epoch } if epoch == ours => slot.promised = false,
            // The leader asked twice and has already acted on the first promise.
            ToLeader::Promised { .. }
                if matches!(slot.link, Link::Comparing { .. } | Link::Installing { .. } | Link::Streaming) => {}
            ToLeader::Promised { epoch, synced } if epoch == ours => {
                if let Some(hello) = slot.hello.as_mut() {
                    hello.promised = epoch;
                    hello.synced = synced;
                }
                if !std::mem::replace(&mut slot.promised, true) {
                    self.stalled_ticks = 0;
                }
                self.on_promised(id);
            }
            ToLeader::Digested { epoch, token, digest, next } if epoch == ours => {
                self.stalled_ticks = 0;
                self.on_digested(id, token, &digest, next);
            }
            ToLeader::Records { epoch, records, next } if epoch == ours => {
                self.stalled_ticks = 0;
                self.on_records(id, records, next);
            }
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
            ToLeader::Refused { promised } if promised > ours => self.on_other_epoch(promised, true),
            ToLeader::Refused { .. } => self.out.push(Output::Reset(id, ResetReason::Refused)),
            // Ignores answers to an earlier epoch of this process.
            _ => {}
        }
    }

    /// Asks every connected follower for a promise under the present term, which is higher than any
    /// seen. Called after [`Output::Backoff`].
    pub fn elect(&mut self) {
        if !matches!(self.phase, Phase::Waiting(_)) {
            return;
        }
        self.stalled_ticks = 0;
        self.copy.stop();
        let copied = std::mem::take(&mut self.copy.records);
        self.phase = Phase::Recovering(Recovery::new(self.epoch, &self.settings.limits, copied));
        self.start_over();
        self.ask_for_promises();
    }

    /// Forgets what followers answered in the epoch before.
    fn start_over(&mut self) {
        for place in &mut self.slots {
            *place = place.take().map(Slot::in_new_epoch);
        }
    }

    /// A candidate asks for a higher term than any that it has seen.
    fn outdo(&mut self, promised: Epoch) {
        if matches!(self.phase, Phase::Waiting(_))
            && promised.leader != self.epoch.leader
            && promised.may_follow(self.epoch)
        {
            self.epoch.term = self.epoch.term.max(promised.term + 1);
        }
    }

    /// A follower promised another, higher epoch. A leader that is not open asks again with a
    /// higher term. An open leader is fenced, since the other leader may already acknowledge
    /// writes.
    fn on_other_epoch(&mut self, promised: Epoch, contended: bool) {
        match self.phase {
            Phase::Fenced(_) | Phase::Resigned => {}
            Phase::Open => self.fence(promised),
            _ => {
                self.epoch.term = self.epoch.term.max(promised.term + 1);
                // A leader that waits keeps waiting: leaders that start together must not keep
                // interrupting each other.
                if matches!(self.phase, Phase::Waiting(_)) {
                    return;
                }
                let waiting = Phase::Waiting(Candidacy::default());
                if let Phase::Recovering(recovery) = std::mem::replace(&mut self.phase, waiting) {
                    self.copy.records = recovery.into_copy();
                }
                if self.settings.limits.takeover_rounds > 0 {
                    // The other one counts as a leader for as long as followers hear it.
                    self.on_interruption();
                    self.start_over();
                } else if contended {
                    self.out.push(Output::Backoff);
                } else {
                    self.elect();
                }
            }
        }
    }

    /// Stops leading and reports that to the followers, so that a candidate need not wait until this
    /// leader counts as lost. Returns false, and changes nothing, while writes are under way.
    pub fn resign(&mut self) -> bool {
        if matches!(self.phase, Phase::Open) && self.in_flight() > 0 {
            return false;
        }
        if self.has_ended() {
            return true;
        }
        let epoch = self.epoch;
        self.send_each(|slot| slot.promised && slot.link != Link::Down, || ToFollower::Resign { epoch });
        self.phase = Phase::Resigned;
        self.refuse_reads();
        true
    }

    /// Whether this leader resigned and a connected follower may not know it yet.
    pub fn is_resigning(&self) -> bool {
        self.is_resigned() && self.each_slot().any(|(_, slot)| slot.promised && slot.link != Link::Down)
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
                self.phase = Phase::Waiting(Candidacy::default());
                self.elect();
            }
            Phase::Opening | Phase::Open => self.admit(id),
            Phase::Waiting(_) | Phase::Fenced(_) | Phase::Resigned => {}
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

    /// Sends a message to every follower of which the condition holds.
    fn send_each(&mut self, condition: impl Fn(&Slot) -> bool, message: impl Fn() -> ToFollower) {
        let slots = self.slots.iter().enumerate();
        let chosen = slots.filter(|(_, slot)| slot.as_ref().is_some_and(&condition));
        self.out.extend(chosen.map(|(index, _)| Output::Send(SlotId(index as u8), message())));
    }

    fn mask_of(&self, condition: impl Fn(&Slot) -> bool) -> Mask {
        self.each_slot().filter(|(_, slot)| condition(slot)).map(|(id, _)| id).collect()
    }
}
