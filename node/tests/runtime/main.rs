//! The whole node in simulated worlds: coordinator, outboxes, sessions, bytes on the wire, followers and their disks.
//!
//! Goal: whatever breaks, what clients saw can be explained by one register per key, and once the faults are over
//! everything converges. Method: one process on one thread, with a clock that jumps to the next timer when nothing is
//! left to do, connections in memory, and disks in memory. One seed decides everything, so that a failure replays.
//!
//! - `RUNTIME_SEED=17 cargo test -p kv-node --test runtime` runs one world and prints its trace.
//! - `RUNTIME_SEEDS=10000` runs more worlds; `RUNTIME_FIRST` is the first seed.

mod clients;
#[allow(dead_code, reason = "the tests of the store use the rest")]
#[path = "../shared/files.rs"]
mod files;
mod followers;
#[allow(dead_code, reason = "the simulation of the protocol uses the rest")]
#[path = "../protocol/sim/history.rs"]
mod history;
mod leaders;
#[path = "../protocol/sim/linearizability.rs"]
mod linearizability;
mod mutations;
mod nemesis;
mod pipe;
mod plan;
#[path = "../shared/seeds.rs"]
mod seeds;
mod world;

use std::time::Instant;

use self::plan::Plan;
use self::seeds::Seeds;
use self::world::run;

const WORLDS: Seeds = Seeds { prefix: "RUNTIME", worlds: 600, lines: 300 };

/// What a world that ran to its end amounts to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) acknowledged: usize,
    /// Of those, with a condition.
    pub(crate) conditional: usize,
    /// Of those, increments.
    pub(crate) increments: usize,
    /// Writes that were refused by what is there.
    pub(crate) unmet: usize,
    pub(crate) unknown: usize,
    pub(crate) reads: usize,
    /// Leaders that opened.
    pub(crate) opened: usize,
    /// Connections that came up.
    pub(crate) connections: u64,
    /// Messages' bytes that arrived.
    pub(crate) bytes: u64,
    pub(crate) simulated_s: f64,
}

impl Summary {
    fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.conditional += other.conditional;
        self.increments += other.increments;
        self.unmet += other.unmet;
        self.unknown += other.unknown;
        self.reads += other.reads;
        self.opened += other.opened;
        self.connections += other.connections;
        self.bytes += other.bytes;
        self.simulated_s += other.simulated_s;
    }
}

#[test]
fn no_world_breaks_the_contract() {
    let begun = Instant::now();
    let mut total = Summary::default();
    let ran = WORLDS.run(|seed, traced| run(Plan::random(seed), traced), |summary| total.add(summary));
    let Some(worlds) = ran else { return };
    let pace = total.simulated_s / begun.elapsed().as_secs_f64();
    println!("{worlds} worlds, {pace:.0} simulated seconds per second: {total:?}");
    let enough = total.acknowledged as u64 > worlds * 10 && total.opened as u64 > worlds * 2;
    let enough = enough && total.increments as u64 > worlds;
    assert!(enough, "too little happened: {total:?}");
}

/// Goal: a failure can be replayed. Method: the same seeds twice, to the last byte on every connection.
#[test]
fn a_seed_replays_exactly() {
    for seed in 0..10 {
        let (first, second) = (run(Plan::random(seed), true), run(Plan::random(seed), true));
        let difference = first.1.iter().zip(&second.1).position(|(one, other)| one != other);
        if let Some(at) = difference {
            panic!("seed {seed} differs in line {at}:\n{}\n{}", first.1[at], second.1[at]);
        }
        assert_eq!(first.1.len(), second.1.len(), "seed {seed}");
        assert!(first.1.len() > 50, "seed {seed}: too little happened");
    }
}
