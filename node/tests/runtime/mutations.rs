//! Goal: the simulation of the whole node notices the absence of a rule, also of one that is none of the protocol's alone.
//! Method: a rule is switched off, by the simulated disk or machine, or inside the node where it is built with
//! `deliberate-faults`, and some world breaks the contract.

use crate::plan::{Mutation, Plan};
use crate::world::run;

/// Worlds to look at before a mutation counts as not found.
const SEEDS: u64 = 2_000;

/// The first world whose history shows that a rule is missing, and how.
fn found(mutation: Option<Mutation>, shape: impl Fn(&mut Plan)) -> Option<(u64, String)> {
    (0..SEEDS).find_map(|seed| {
        let mut plan = Plan { mutation, ..Plan::random(seed) };
        shape(&mut plan);
        let why = run(plan, false).0.err()?;
        // A leader that stays closed has lost nothing.
        (!why.starts_with("liveness")).then_some((seed, why))
    })
}

fn is_found(mutation: Mutation, shape: impl Fn(&mut Plan)) {
    let Some((seed, why)) = found(Some(mutation), shape) else {
        panic!("{mutation:?} is not found in {SEEDS} worlds");
    };
    println!("{mutation:?}: found at seed {seed}: {why}");
}

#[test]
fn a_disk_that_syncs_in_vain_is_found() {
    is_found(Mutation::SyncsInVain, |plan| plan.memory = false);
}

#[test]
fn leaders_that_share_an_id_are_found() {
    is_found(Mutation::LeadersShareAnId, |_| {});
}

#[cfg(feature = "deliberate-faults")]
mod deliberate {
    use std::process::Command;

    use clap::ValueEnum;
    use kv_node::deliberate::{DeliberateFault, switch_on};

    use super::{SEEDS, found};
    use crate::plan::Plan;

    /// Names the rule that a child process leaves out: the switch is one for the whole process.
    const LEFT_OUT: &str = "RUNTIME_LEFT_OUT";

    fn shape(fault: DeliberateFault, plan: &mut Plan) {
        if fault == DeliberateFault::ConfirmsBeforeStored {
            plan.memory = false;
        }
    }

    #[test]
    #[ignore = "a process of its own, which the tests below start"]
    fn worlds_without_a_rule() {
        let name = std::env::var(LEFT_OUT).expect("RUNTIME_LEFT_OUT names a rule");
        let fault = DeliberateFault::from_str(&name, true).expect("a rule");
        switch_on(fault);
        let Some((seed, why)) = found(None, |plan| shape(fault, plan)) else {
            panic!("{name} is not found in {SEEDS} worlds");
        };
        println!("{name}: found at seed {seed}: {why}");
    }

    fn is_found(fault: DeliberateFault) {
        let name = fault.to_possible_value().expect("has a name").get_name().to_owned();
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "mutations::deliberate::worlds_without_a_rule", "--nocapture"])
            .env(LEFT_OUT, &name)
            .output()
            .expect("starts");
        let said = String::from_utf8_lossy(&output.stdout);
        println!("{said}");
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains(&format!("{name}: found at seed")), "the child ran no world: {said}");
    }

    #[test]
    fn a_follower_that_confirms_before_it_stores_is_found() {
        is_found(DeliberateFault::ConfirmsBeforeStored);
    }

    #[test]
    fn a_recovery_with_one_promise_fewer_is_found() {
        is_found(DeliberateFault::RecoversWithOneFewer);
    }

    #[test]
    fn a_follower_that_obeys_a_replaced_leader_is_found() {
        is_found(DeliberateFault::ObeysReplacedLeader);
    }

    #[test]
    fn reads_without_asking_are_found() {
        is_found(DeliberateFault::ReadsWithoutAsking);
    }

    #[test]
    fn a_refusal_before_the_commit_is_found() {
        is_found(DeliberateFault::RefusesBeforeCommit);
    }
}
