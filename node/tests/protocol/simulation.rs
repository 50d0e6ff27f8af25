//! Goal: no history that clients can see breaks the contract, whatever fails. Method: many worlds, each from one seed.
//!
//! `SIMULATION_SEEDS=100000 cargo test -p kv-node --test protocol` runs more of them, `SIMULATION_SEED=17` one, with its
//! trace.

use crate::mutation::Mutation;
use crate::sim::{Plan, Summary, run};

/// How many worlds a plain test run looks at.
const SEEDS: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// The world of a seed, told in full.
fn tell(seed: u64, mutation: Option<Mutation>) -> String {
    let (verdict, trace) = run(Plan { mutation, ..Plan::random(seed) }, true);
    let shown = number("SIMULATION_LINES").and_then(|lines| usize::try_from(lines).ok()).unwrap_or(200);
    let from = trace.len().saturating_sub(shown);
    format!("{}\n…{from} lines before…\n{}\n{verdict:?}", trace[0], trace[from..].join("\n"))
}

#[test]
fn no_world_breaks_the_contract() {
    if let Some(seed) = number("SIMULATION_SEED") {
        let told = tell(seed, None);
        println!("{told}");
        assert!(told.contains("\nOk("), "seed {seed} fails");
        return;
    }
    let first = number("SIMULATION_FIRST").unwrap_or(0);
    let seeds = number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let mut total = Summary::default();
    let mut failures = Vec::new();
    for seed in first..first + seeds {
        match run(Plan::random(seed), false).0 {
            Ok(summary) => total.add(&summary),
            Err(why) => failures.push((seed, why)),
        }
    }
    println!("{seeds} worlds: {total:?}");
    for (seed, why) in failures.iter().take(40) {
        println!("seed {seed}: {why}");
    }
    if let Some((seed, _)) = failures.first() {
        panic!("{} of {seeds} worlds fail; the first, seed {seed}:\n{}", failures.len(), tell(*seed, None));
    }
    let enough = total.acknowledged as u64 > seeds * 10 && total.opened as u64 > seeds * 2;
    assert!(enough && (total.closed as u64) * 10 < seeds, "too little happened: {total:?}");
}
