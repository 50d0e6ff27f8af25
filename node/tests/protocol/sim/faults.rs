//! What goes wrong, when it ends, and whether everything is well again afterwards.

use kv_node::protocol::types::{Record, Version};
use kvcluster_api::status::FollowerState;
use rand::RngExt;

use super::clients::key_name;
use super::history::Act;
use super::network::Direction;
use super::{Event, PLACES_MAX, World, note};

/// Something that ends by itself after a while.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    LeaderPaused(usize),
    FollowerDown(usize),
    FollowerSlow(usize),
    Blocked { leader: usize, place: usize, way: Direction },
}

impl World {
    pub(crate) fn nemesis(&mut self) {
        if !self.faults_on {
            return;
        }
        let wait = self.rng.random_range(5_000..120_000);
        self.after(wait, Event::Nemesis);
        let lasts = self.rng.random_range(10_000..600_000);
        let place = self.rng.random_range(0..usize::from(self.wanted.1));
        let leading = self.leading();
        let Some(leader) = self.pick(&leading) else {
            return;
        };
        match self.rng.random_range(0..20) {
            0 | 1 => self.kill_leader(leader),
            2 => {
                if leading.len() < 3 {
                    self.start_leader();
                }
            }
            3 | 4 => {
                note!(self, "pause L{leader}");
                self.leads[leader].paused = true;
                self.after(lasts, Event::Heal(Fault::LeaderPaused(leader)));
                if self.chance(0.7) {
                    self.start_leader();
                }
            }
            5..=7 => {
                if self.places[place].live.is_some() && (!self.plan.memory || self.may_lose(place)) {
                    self.crash(place);
                    self.after(lasts, Event::Heal(Fault::FollowerDown(place)));
                }
            }
            8 | 9 => {
                if self.may_lose(place) {
                    if self.places[place].live.is_some() {
                        self.crash(place);
                    }
                    self.wipe(place);
                    self.after(lasts / 4, Event::Heal(Fault::FollowerDown(place)));
                }
            }
            10..=12 => {
                let ways = [
                    [Direction::Down, Direction::Down],
                    [Direction::Up, Direction::Up],
                    [Direction::Down, Direction::Up],
                ];
                let ways = ways[self.rng.random_range(0..3)];
                note!(self, "block L{leader} {} {ways:?}", self.places[place].name);
                for way in ways {
                    self.leads[leader].blocked.push((place, way));
                    self.after(lasts, Event::Heal(Fault::Blocked { leader, place, way }));
                }
            }
            13 | 14 => {
                self.break_all(|connection| connection.leader == leader && connection.place == place);
            }
            15 => {
                self.places[place].slow = true;
                self.after(lasts, Event::Heal(Fault::FollowerSlow(place)));
            }
            16 => {
                // Everything at once.
                for number in leading {
                    self.kill_leader(number);
                }
                for place in 0..PLACES_MAX {
                    if self.places[place].live.is_some() && (!self.plan.memory || self.may_lose(place)) {
                        self.crash(place);
                        let down = self.rng.random_range(1_000..50_000);
                        self.after(down, Event::Heal(Fault::FollowerDown(place)));
                    }
                }
            }
            _ => self.change_rule(),
        }
    }

    fn change_rule(&mut self) {
        let (mut quorum, mut size) = self.wanted;
        if self.chance(0.4) {
            size = self.rng.random_range(1..=PLACES_MAX as u16);
        }
        if self.chance(0.7) {
            quorum = self.rng.random_range(1..=size);
        }
        self.wanted = (quorum.min(size), size);
        self.make_present();
        note!(self, "wanted is {:?}", self.wanted);
        for leader in self.leading() {
            if self.chance(0.9) {
                let wait = self.wait(5_000);
                self.after(wait, Event::Want(leader));
            }
        }
    }

    /// The wanted followers are there, started anew where they had been removed.
    pub(crate) fn make_present(&mut self) {
        for place in 0..usize::from(self.wanted.1) {
            if !std::mem::replace(&mut self.places[place].present, true) {
                self.restart(place);
            }
        }
    }

    pub(crate) fn heal(&mut self, fault: Fault) {
        match fault {
            Fault::LeaderPaused(leader) => self.continue_leader(leader),
            Fault::FollowerDown(place) if !self.places[place].present => {}
            Fault::FollowerDown(place) => self.restart(place),
            Fault::FollowerSlow(place) => self.places[place].slow = false,
            Fault::Blocked { leader, place, way } => {
                let blocked = &mut self.leads[leader].blocked;
                if let Some(position) = blocked.iter().position(|one| *one == (place, way)) {
                    blocked.swap_remove(position);
                }
                // A connection that was silent for so long often does not live on.
                if self.chance(0.5) {
                    self.break_all(|connection| connection.leader == leader && connection.place == place);
                }
            }
        }
    }

    /// No faults and no clients from now on.
    pub(crate) fn calm(&mut self) {
        note!(self, "calm");
        self.faults_on = false;
        self.clients_on = false;
        for leader in 0..self.leads.len() {
            self.leads[leader].blocked.clear();
            self.continue_leader(leader);
            if self.is_leading(leader) {
                self.after(1_000, Event::Want(leader));
            }
        }
        for place in 0..self.places.len() {
            self.places[place].slow = false;
            if self.places[place].present {
                self.restart(place);
            }
        }
    }

    pub(crate) fn is_converged(&mut self) -> bool {
        self.why_not_converged().is_empty()
    }

    /// What is not yet as it should be once all faults are over.
    pub(crate) fn why_not_converged(&mut self) -> String {
        let contending = self.contending();
        let [number] = contending[..] else {
            return format!("{} leaders", contending.len());
        };
        let lead = &self.leads[number].leader;
        if !lead.is_open() {
            return format!("L{number} is not open: {:?}, opening: {}", lead.recovery(), lead.is_opening());
        }
        if !lead.is_serving() {
            return format!("L{number} is open and does not serve: {:?}", lead.unfinished_restore());
        }
        let (quorum, size) = self.wanted;
        let in_force = lead.config().is_some_and(|config| (config.quorum, config.size) == (quorum, size));
        if !lead.settled() || !in_force {
            return format!("L{number} has not settled: {:?} for {:?}", lead.config(), self.wanted);
        }
        if let Some(view) =
            lead.followers(self.now_us).iter().find(|view| view.state != FollowerState::Streaming || !view.member)
        {
            return format!("{} is {}, member: {}", view.name, view.state, view.member);
        }
        if lead.backlog() > 0 {
            return format!("L{number} has a backlog of {}", lead.backlog());
        }
        for place in &self.places[..usize::from(size)] {
            let Some(synced) = place.durable.synced() else {
                return format!("{} is blank", place.name);
            };
            if synced.epoch != lead.epoch() {
                return format!("{} is of {}", place.name, synced.epoch);
            }
            if Some(&synced.config) != lead.config() {
                return format!("{} stores {:?}", place.name, synced.config);
            }
            let entries = (0..).map_while(|position| lead.entry_at(position)).count();
            if place.durable.records().len() != entries {
                return format!("{} has {} of {entries} records", place.name, place.durable.records().len());
            }
            for (key, record) in place.durable.records().iter() {
                // What was there before a leader may stay under an earlier leader's stamp.
                let same = |there: &Record| {
                    let version = Version { seq: record.version.seq, ..there.version };
                    record.version <= there.version && *there == Record { version, ..record.clone() }
                };
                if !lead.latest(key).is_some_and(|(there, committed)| committed && same(there)) {
                    return format!("{} differs in {key}", place.name);
                }
            }
        }
        String::new()
    }

    /// The last reads of the history: one of every key.
    pub(crate) fn read_everything(&mut self) {
        if self.history.failed() {
            return;
        }
        for key in 0..self.plan.keys {
            // What a dead leader sent last may still arrive and end the one that leads: then the next one is asked.
            let answered = (0..20).any(|_| {
                let op = self.begin(None, key, Act::Read, false);
                if let Some(leader) = self.pick_leader() {
                    self.attempt(op, leader);
                }
                self.run_until(1_000_000, |world| world.history.ops[op].is_acknowledged())
            });
            if !answered {
                self.history.fail(format!("liveness: the last read of {} is not answered", key_name(key)));
            }
        }
    }
}
