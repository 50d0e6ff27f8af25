//! Goal: no history that clients can see breaks the contract, whatever fails. Method: many worlds, each from one seed.
//!
//! `SIMULATION_SEEDS=100000 cargo test -p kv-node --test protocol` runs more of them, `SIMULATION_SEED=17` one, with its
//! trace.

use crate::seeds::Seeds;
use crate::sim::{Plan, Summary, run};

const SIMULATION: Seeds = Seeds { prefix: "SIMULATION", worlds: 2_000, lines: 200 };

#[test]
fn no_world_breaks_the_contract() {
    let mut total = Summary::default();
    let ran = SIMULATION.run(|seed, traced| run(Plan::random(seed), traced), |summary| total.add(summary));
    let Some(worlds) = ran else { return };
    println!("{worlds} worlds: {total:?}");
    let enough = total.acknowledged as u64 > worlds * 10 && total.opened as u64 > worlds * 2;
    let enough = enough && total.increments as u64 > worlds;
    assert!(enough && (total.closed as u64) * 10 < worlds, "too little happened: {total:?}");
}
