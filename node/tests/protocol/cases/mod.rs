//! Cases that found real bugs in such systems, told step by step in a world in which nothing else happens.

mod backup;
mod candidates;
mod fetches;
mod followers;
mod leaders;
mod rules;

use kv_node::protocol::value::Value;

use crate::sim::history::Act;
use crate::sim::network::Direction;
use crate::sim::{Plan, World};

/// Longer than anything takes in a quiet world.
const LONG_US: u64 = 5_000_000;

/// A cluster that leader 0 opened and that is at rest.
fn cluster(quorum: u16, size: u16) -> World {
    with(Plan::quiet(quorum, size))
}

fn with(plan: Plan) -> World {
    let mut world = World::new(plan, true);
    world.start_leader();
    world.settle();
    world
}

impl World {
    /// Runs until everything is as it should be with the one leader there is.
    fn settle(&mut self) {
        let settled = self.run_until(LONG_US, World::is_converged);
        let why = self.why_not_converged();
        assert!(settled, "not settled: {why}\n{}", self.told());
        self.verify();
    }

    fn told(&self) -> String {
        let lines = self.trace.as_deref().unwrap_or_default();
        lines[lines.len().saturating_sub(80)..].join("\n")
    }

    /// The history so far breaks nothing.
    fn verify(&self) {
        if let Err(why) = self.history.verdict() {
            panic!("{why}\n{}", self.told());
        }
    }

    fn until(&mut self, what: &str, condition: impl FnMut(&mut Self) -> bool) {
        assert!(self.run_until(LONG_US, condition), "{what} does not happen\n{}", self.told());
    }

    /// Sends a write of a new value to a leader; returns the operation.
    fn write(&mut self, leader: usize) -> usize {
        self.write_at(leader, 0)
    }

    fn write_at(&mut self, leader: usize, key: usize) -> usize {
        let op = self.history.ops.len();
        let value = self.value(op);
        let op = self.begin(None, key, Act::Write(Some(value)), true);
        self.attempt(op, leader);
        op
    }

    fn is_acked(&self, op: usize) -> bool {
        self.history.ops[op].is_acknowledged()
    }

    fn acknowledged(&mut self, leader: usize) -> usize {
        let op = self.write(leader);
        self.until("the acknowledgement", |world| world.is_acked(op));
        op
    }

    /// A linearizable read at a leader.
    fn seen(&mut self, leader: usize) -> Option<Value> {
        let op = self.begin(None, 0, Act::Read, false);
        self.attempt(op, leader);
        self.until("the read", |world| world.is_acked(op));
        self.history.ops[op].found.clone()
    }

    /// Nothing arrives between this leader and these followers until [`World::free`].
    fn hold(&mut self, leader: usize, places: impl IntoIterator<Item = usize>) {
        for place in places {
            self.leads[leader].blocked.extend([(place, Direction::Down), (place, Direction::Up)]);
        }
    }

    fn free(&mut self, leader: usize) {
        self.leads[leader].blocked.clear();
    }

    fn is_open(&self, leader: usize) -> bool {
        self.leads[leader].leader.is_open()
    }

    /// How many followers promised a leader its epoch.
    fn promises(&self, leader: usize) -> usize {
        let epoch = self.leads[leader].leader.epoch();
        self.places.iter().filter(|place| place.durable.promised() == epoch).count()
    }

    /// Whether a follower stores the whole state of a leader.
    fn has_state_of(&self, place: usize, leader: usize) -> bool {
        let epoch = self.leads[leader].leader.epoch();
        self.places[place].durable.synced().is_some_and(|synced| synced.epoch == epoch)
    }

    /// A little time, in which whatever can happen does.
    fn rest(&mut self) {
        self.run_for(200_000);
    }

    /// Starts a leader that reaches only these followers for now.
    fn leader_reaching(&mut self, reached: &[usize]) -> usize {
        let leader = self.start_leader();
        self.hold(leader, (0..self.places.len()).filter(|place| !reached.contains(place)).collect::<Vec<_>>());
        leader
    }
}

/// The value that an operation wrote.
fn value_of(op: usize) -> Option<Value> {
    Some(format!("v{op}").into())
}
