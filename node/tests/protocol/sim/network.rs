//! Connections: in order while they live, cut somewhere when they break, late afterwards.

use std::collections::VecDeque;

use kv_node::protocol::follower::Effects;
use kv_node::protocol::leader::{InstallJob, SlotId};
use kv_node::protocol::messages::{ToFollower, ToLeader};
use rand::RngExt;

use super::{Event, World, note};

pub(crate) struct Connection {
    pub(crate) leader: usize,
    pub(crate) slot: SlotId,
    pub(crate) place: usize,
    process: u64,
    down: VecDeque<ToFollower>,
    up: VecDeque<ToLeader>,
    /// Nothing that is sent from now on arrives.
    pub(crate) broken: bool,
    /// The leader noticed.
    closed: bool,
    /// What was under way when it broke arrives from this time on.
    late_us: u64,
    pub(crate) jobs: VecDeque<InstallJob>,
}

/// Messages of one direction between one leader and one follower wait while it is blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Down,
    Up,
}

impl World {
    pub(crate) fn connect(&mut self, leader: usize, slot: SlotId) {
        let Some(&place) = self.leads[leader].places.get(&slot) else {
            return;
        };
        if self.leads[leader].current.contains_key(&slot) {
            return;
        }
        let reachable = [Direction::Down, Direction::Up].iter().all(|way| !self.is_blocked(leader, place, *way));
        let Some(live) = self.places[place].live.as_ref().filter(|_| reachable) else {
            let wait = self.wait(30_000);
            self.after(wait, Event::Connect { leader, slot });
            return;
        };
        let hello = live.hello();
        self.connected += 1;
        let id = self.connected;
        let process = self.places[place].process;
        self.connections.insert(
            id,
            Connection {
                leader,
                slot,
                place,
                process,
                down: VecDeque::new(),
                up: VecDeque::new(),
                broken: false,
                closed: false,
                late_us: 0,
                jobs: VecDeque::new(),
            },
        );
        self.leads[leader].current.insert(slot, id);
        note!(self, "connect L{leader} {} #{id}", self.places[place].name);
        self.store(place, id, Effects { changes: Vec::new(), replies: vec![ToLeader::Hello(hello)] });
    }

    pub(crate) fn send_to_follower(&mut self, leader: usize, slot: SlotId, mut message: ToFollower) {
        self.mutated_question(leader, slot, &mut message);
        let Some(&id) = self.leads[leader].current.get(&slot) else {
            return;
        };
        let wait = self.wait(self.plan.latency_us);
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| !connection.broken) else {
            return;
        };
        connection.down.push_back(message);
        self.after(wait, Event::ToFollower(id));
    }

    pub(crate) fn send_to_leader(&mut self, id: u64, message: ToLeader) {
        let wait = self.wait(self.plan.latency_us);
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| !connection.broken) else {
            return;
        };
        connection.up.push_back(message);
        self.after(wait, Event::ToLeader(id));
    }

    pub(crate) fn deliver_to_follower(&mut self, id: u64) {
        let now = self.now_us;
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (place, leader) = (connection.place, connection.leader);
        if connection.late_us > now {
            let wait = connection.late_us - now;
            self.after(wait, Event::ToFollower(id));
            return;
        }
        if self.is_blocked(leader, place, Direction::Down) {
            self.after(5_000, Event::ToFollower(id));
            return;
        }
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.process != self.places[place].process {
            return;
        }
        let Some(message) = connection.down.pop_front() else {
            return;
        };
        if self.places[place].live.is_none() {
            return;
        }
        note!(self, "L{leader} -> {} #{id} {message:?}", self.places[place].name);
        let installs = matches!(message, ToFollower::Install { .. } | ToFollower::InstallEnd { .. });
        if installs && self.faults_on && self.chance(0.1) {
            let (wait, process) = (self.wait(300_000), self.places[place].process);
            self.after(wait, Event::Again { place, process, message: message.clone() });
        }
        let mut effects = Effects::default();
        self.step_follower(place, message, &mut effects);
        self.store(place, id, effects);
    }

    /// A copy arrives over a connection that is long gone: nobody hears the answer.
    pub(crate) fn deliver_again(&mut self, place: usize, process: u64, message: ToFollower) {
        if self.places[place].process != process || self.places[place].live.is_none() {
            return;
        }
        note!(self, "again -> {} {message:?}", self.places[place].name);
        let mut effects = Effects::default();
        self.step_follower(place, message, &mut effects);
        self.store(place, 0, effects);
    }

    pub(crate) fn deliver_to_leader(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (place, leader, slot) = (connection.place, connection.leader, connection.slot);
        if connection.closed {
            return;
        }
        if self.is_blocked(leader, place, Direction::Up) {
            self.after(5_000, Event::ToLeader(id));
            return;
        }
        let Some(message) = self.connections.get_mut(&id).and_then(|connection| connection.up.pop_front()) else {
            return;
        };
        note!(self, "{} -> L{leader} #{id} {message:?}", self.places[place].name);
        if let ToLeader::Hello(hello) = self.mutated_answer(leader, place, message.clone()) {
            self.drive(leader, |lead| lead.hello(slot, id, hello));
            return;
        }
        let twice = self.plan.faults && matches!(message, ToLeader::Confirmed { .. }) && self.chance(0.02);
        let message = self.mutated_answer(leader, place, message);
        if twice {
            let again = message.clone();
            self.drive(leader, |lead| lead.receive(slot, id, again));
        }
        self.drive(leader, |lead| lead.receive(slot, id, message));
    }

    /// The connections are cut: each loses a suffix of what was under way in either direction.
    pub(crate) fn break_all(&mut self, which: impl Fn(&Connection) -> bool) {
        let ids: Vec<u64> =
            self.connections.iter().filter(|(_, one)| !one.broken && which(one)).map(|(id, _)| *id).collect();
        for id in ids {
            let wait = self.wait(50_000);
            let late = if self.rng.random_bool(0.3) { self.rng.random_range(0..1_500_000) } else { 0 };
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            let (down, up) = (connection.down.len(), connection.up.len());
            connection.down.truncate(self.rng.random_range(0..=down));
            connection.up.truncate(self.rng.random_range(0..=up));
            connection.broken = true;
            connection.late_us = self.now_us + late;
            note!(self, "break #{id}");
            self.after(wait, Event::Closed(id));
        }
    }

    pub(crate) fn notice_closed(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut connection.closed, true) {
            return;
        }
        connection.broken = true;
        connection.jobs.clear();
        let (leader, slot) = (connection.leader, connection.slot);
        note!(self, "L{leader} notices that #{id} is gone");
        if self.leads[leader].current.get(&slot) == Some(&id) {
            self.leads[leader].current.remove(&slot);
        }
        self.drive(leader, |lead| lead.closed(slot, id));
        let wait = self.wait(20_000);
        self.after(wait, Event::Connect { leader, slot });
    }

    /// The next part of the oldest state transfer of this connection.
    pub(crate) fn install_part(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| !connection.closed) else {
            return;
        };
        let (leader, slot) = (connection.leader, connection.slot);
        let Some(job) = connection.jobs.front_mut() else {
            return;
        };
        let part = self.leads[leader].leader.install_part(job);
        let Some(part) = part else {
            connection.jobs.pop_front();
            if !connection.jobs.is_empty() {
                self.after(1, Event::InstallPart(id));
            }
            return;
        };
        if self.plan.faults && self.chance(0.05) {
            self.send_to_follower(leader, slot, part.clone());
        }
        self.send_to_follower(leader, slot, part);
        let wait = self.wait(3_000);
        self.after(wait, Event::InstallPart(id));
    }

    pub(crate) fn is_blocked(&self, leader: usize, place: usize, way: Direction) -> bool {
        self.leads[leader].blocked.contains(&(place, way))
    }
}
