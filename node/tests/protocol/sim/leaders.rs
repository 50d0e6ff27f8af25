//! Leader processes, and what becomes of their decisions.

use std::collections::BTreeMap;

use kv_node::protocol::digest::Buckets;
use kv_node::protocol::leader::{DelayRange, Leader, LeaderSettings, Mask, Output, SlotId};
use kv_node::protocol::messages::ToFollower;
use kv_node::protocol::types::{Epoch, RESTORE_MARK, Version};
use rand::RngExt;

use super::network::Direction;
use super::restores::MARKS;
use super::{Event, World, note};

/// One leader process. It is never forgotten: what it sent may arrive late.
pub(crate) struct Lead {
    pub(crate) leader: Leader<usize, usize>,
    pub(crate) dead: bool,
    pub(crate) paused: bool,
    /// What happened to it while it was paused.
    pub(crate) held: Vec<Event>,
    pub(crate) places: BTreeMap<SlotId, usize>,
    pub(crate) current: BTreeMap<SlotId, u64>,
    pub(crate) blocked: Vec<(usize, Direction)>,
    /// Rules that came into force.
    pub(crate) rules: u64,
    /// The first follower that sent records: the only one that a leader which promotes would listen to.
    pub(crate) promoted: Option<usize>,
    /// The buckets that it last asked each follower for; only a mutation looks at them.
    pub(crate) filters: BTreeMap<SlotId, Option<Buckets>>,
    /// The sum of each increment that it accepted, if it knew it.
    pub(crate) sums: BTreeMap<usize, Option<i64>>,
    /// How often it met another leader that was starting.
    backoffs: u32,
}

impl World {
    fn delay(&self) -> DelayRange {
        DelayRange { min_us: 0, max_us: self.plan.delay_us }
    }

    /// Starts a leader process that knows nothing but the wanted rule.
    pub(crate) fn start_leader(&mut self) -> usize {
        let number = self.leads.len();
        let settings = LeaderSettings {
            quorum: self.wanted.0,
            size: self.wanted.1,
            delay: self.delay().into(),
            limits: self.plan.sizes.leader,
            seed: self.rng.random(),
        };
        let id = self.mutated_leader_id(100 + number as u64);
        self.leads.push(Lead {
            leader: Leader::new(id, settings),
            dead: false,
            paused: false,
            held: Vec::new(),
            places: BTreeMap::new(),
            current: BTreeMap::new(),
            blocked: Vec::new(),
            rules: 0,
            promoted: None,
            filters: BTreeMap::new(),
            sums: BTreeMap::new(),
            backoffs: 0,
        });
        note!(self, "start L{number} wanting {:?}", self.wanted);
        self.want(number);
        self.after(20_000, Event::Tick(number));
        number
    }

    /// Tells a leader what is wanted: the rule, and which followers there are.
    pub(crate) fn want(&mut self, number: usize) {
        let (quorum, size) = self.wanted;
        let delay = self.delay();
        let sorted = self.chance(0.5);
        note!(self, "L{number} is told to want {:?}", self.wanted);
        if sorted {
            self.drive(number, |lead| lead.set(quorum, size, delay));
        }
        for place in 0..self.places.len() {
            let name = self.places[place].name.clone();
            let declared = self.leads[number].places.iter().find(|(_, at)| **at == place).map(|(slot, _)| *slot);
            let exists = self.places[place].present;
            if place < usize::from(size) || (declared.is_none() && exists) {
                let mut slot = None;
                self.drive(number, |lead| slot = lead.declare(&name));
                let slot = slot.expect("there are fewer followers than slots");
                if declared.is_none() {
                    self.leads[number].places.insert(slot, place);
                    let wait = self.wait(5_000);
                    self.after(wait, Event::Connect { leader: number, slot });
                }
                if place >= usize::from(size) {
                    self.drive(number, |lead| lead.retire(slot));
                }
            } else if let Some(slot) = declared {
                self.drive(number, |lead| lead.retire(slot));
            }
        }
        if !sorted {
            self.drive(number, |lead| lead.set(quorum, size, delay));
        }
    }

    pub(crate) fn tick(&mut self, number: usize) {
        let now = self.now_us;
        self.drive(number, |lead| lead.tick(now));
        self.after(20_000, Event::Tick(number));
    }

    /// Feeds one event into a leader and carries out what it decides.
    pub(crate) fn drive(&mut self, number: usize, event: impl FnOnce(&mut Leader<usize, usize>)) {
        if self.leads[number].dead {
            return;
        }
        event(&mut self.leads[number].leader);
        let epoch = self.leads[number].leader.epoch();
        let outputs = self.leads[number].leader.take_outputs();
        let mut writes: Option<(Mask, Vec<_>)> = None;
        for output in outputs {
            if let Output::Transmit(to, write) = &output {
                // Writes for the same followers that come together leave together, as the runtime does it.
                match &mut writes {
                    Some((known, batch)) if known == to => batch.push((**write).clone()),
                    _ => {
                        self.send_writes(number, epoch, writes.take());
                        writes = Some((*to, vec![(**write).clone()]));
                    }
                }
                continue;
            }
            self.send_writes(number, epoch, writes.take());
            self.carry_out(number, output);
        }
        self.send_writes(number, epoch, writes);
    }

    fn send_writes(
        &mut self,
        number: usize,
        epoch: Epoch,
        writes: Option<(Mask, Vec<kv_node::protocol::messages::Write>)>,
    ) {
        if let Some((to, writes)) = writes {
            for slot in to {
                self.send_to_follower(number, slot, ToFollower::Writes { epoch, writes: writes.clone() });
            }
        }
    }

    fn carry_out(&mut self, number: usize, output: Output<usize, usize>) {
        match output {
            Output::Send(slot, message) => self.send_to_follower(number, slot, message),
            Output::Schedule { slot, index, delay_us } => {
                self.after(u64::from(delay_us), Event::Due { leader: number, slot, index });
            }
            Output::Transmit(..) => unreachable!("writes leave in batches"),
            Output::Install(slot, job) => {
                let Some(&id) = self.leads[number].current.get(&slot) else {
                    return;
                };
                let Some(connection) = self.connections.get_mut(&id) else {
                    return;
                };
                connection.jobs.push_back(job);
                if connection.jobs.len() == 1 {
                    self.after(1, Event::InstallPart(id));
                }
            }
            Output::Committed { waiter, receipt } if waiter >= MARKS => {
                let version = Version { epoch: receipt.epoch, seq: receipt.seq };
                self.history.committed(receipt.epoch, RESTORE_MARK.to_owned(), receipt.seq);
                self.mark_committed(waiter, version);
            }
            Output::Committed { waiter, receipt } => {
                self.history.acknowledged(receipt.epoch, waiter, receipt.seq);
                if let Some(sum) = self.leads[number].sums.get(&waiter) {
                    self.history.ops[waiter].add_up(*sum);
                }
                self.client_acknowledged(waiter, receipt.seq);
            }
            Output::Indeterminate { waiter, .. } => {
                // The client of a restore asks again by itself.
                if self.history.ops.get(waiter).is_some_and(|op| op.client.is_some()) {
                    self.client_uncertain(waiter);
                }
            }
            Output::Unmet { waiter, found } => self.client_read(number, waiter, found),
            Output::NotApplied(reader) => self.client_uncertain(reader),
            Output::ReadConfirmed(reader) => self.client_reads(number, reader),
            Output::ReadRefused(reader) => self.client_uncertain(reader),
            Output::Reset(slot, _) => {
                if let Some(&id) = self.leads[number].current.get(&slot) {
                    self.break_all(|connection| connection.leader == number && connection.slot == slot);
                    note!(self, "L{number} resets #{id}");
                }
            }
            Output::Released(slot) => {
                if let Some(id) = self.leads[number].current.remove(&slot) {
                    self.break_all(|connection| connection.leader == number && connection.slot == slot);
                    self.connections.get_mut(&id).expect("a current connection exists").jobs.clear();
                }
                let place = self.leads[number].places.remove(&slot);
                note!(self, "L{number} releases {place:?}");
                if let Some(place) = place.filter(|place| *place >= usize::from(self.wanted.1)) {
                    self.remove(place);
                }
            }
            Output::Backoff => {
                // Twice as long each time: two that start at once must not interrupt each other for ever.
                let doubled = self.leads[number].backoffs.min(5);
                self.leads[number].backoffs += 1;
                let wait = self.wait(50_000 << doubled);
                self.after(wait, Event::Elect(number));
            }
            Output::Opened => self.opened(number),
            Output::Fenced(by) => note!(self, "L{number} is fenced by {by}"),
            Output::Differs { slot, .. } => {
                let place = self.leads[number].places.get(&slot);
                note!(self, "L{number} finds that {place:?} differs");
                if self.plan.mutation.is_none() {
                    self.history.fail(format!("L{number} finds that {place:?} has other records"));
                }
            }
            Output::InForce => {
                self.leads[number].rules += 1;
                note!(self, "L{number} has in force {:?}", self.leads[number].leader.config());
            }
        }
    }

    fn opened(&mut self, number: usize) {
        let leader = &self.leads[number].leader;
        note!(self, "L{number} opens {}", leader.epoch());
        let state = (0..).map_while(|position| leader.entry_at(position));
        let state = state.map(|(key, record, _)| (key.to_string(), record.clone())).collect();
        let (epoch, serves) = (leader.epoch(), leader.unfinished_restore().is_none());
        let mark = leader.latest(RESTORE_MARK).map(|(mark, _)| mark.version);
        self.history.opened(epoch, state);
        if let Some(version) = mark.filter(|_| serves) {
            self.restore_ended(version);
        }
    }

    /// The follower was let go, as when its pod and volume are deleted.
    fn remove(&mut self, place: usize) {
        if self.places[place].live.is_some() {
            self.crash(place);
        }
        self.wipe(place);
        self.places[place].present = false;
    }

    pub(crate) fn kill_leader(&mut self, number: usize) {
        note!(self, "kill L{number}");
        self.break_all(|connection| connection.leader == number);
        self.leads[number].dead = true;
    }

    pub(crate) fn continue_leader(&mut self, number: usize) {
        if std::mem::replace(&mut self.leads[number].paused, false) {
            note!(self, "continue L{number}");
            let held = std::mem::take(&mut self.leads[number].held);
            held.into_iter().for_each(|event| self.after(0, event));
        }
    }

    pub(crate) fn is_leading(&self, number: usize) -> bool {
        !self.leads[number].dead && !self.leads[number].leader.has_ended()
    }

    pub(crate) fn leading(&self) -> Vec<usize> {
        (0..self.leads.len()).filter(|number| self.is_leading(*number)).collect()
    }

    /// The leader processes that lead or try to: standbys are not among them.
    pub(crate) fn contending(&self) -> Vec<usize> {
        self.leading().into_iter().filter(|number| self.leads[*number].leader.candidate().is_none()).collect()
    }

    /// Ends fenced leaders, as their liveness probe would, and starts one when there are too few.
    pub(crate) fn supervise(&mut self) {
        for number in 0..self.leads.len() {
            let lead = &self.leads[number];
            if !lead.dead && !lead.paused && lead.leader.has_ended() && self.chance(0.3) {
                self.kill_leader(number);
            }
        }
        let running = self.leading().iter().filter(|number| !self.leads[**number].paused).count();
        if running <= self.plan.standbys && (!self.faults_on || self.chance(0.5)) {
            self.start_leader();
        }
        self.after(50_000, Event::Supervise);
    }
}
