//! Goal: every rule of the protocol is needed, and the simulation would notice its absence. Method: one rule is switched
//! off from outside, by what the simulated network or disk does, and some world breaks the contract.

use crate::mutation::Mutation;
use crate::sim::{Plan, run};

/// Worlds to look at before a mutation counts as not found.
const SEEDS: u64 = 4_000;

fn is_found(mutation: Mutation, shape: impl Fn(&mut Plan)) {
    let found = (0..SEEDS).find_map(|seed| {
        let mut plan = Plan { mutation: Some(mutation), ..Plan::random(seed) };
        shape(&mut plan);
        let why = run(plan, false).0.err()?;
        // Only what a client could see counts; a leader that stays closed has lost nothing.
        (!why.starts_with("liveness")).then_some((seed, why))
    });
    let Some((seed, why)) = found else { panic!("{mutation:?} is not found in {SEEDS} worlds") };
    println!("{mutation:?}: found at seed {seed}: {why}");
}

macro_rules! mutations {
    ($($name:ident: $mutation:ident, $shape:expr;)*) => {
        $(#[test]
        fn $name() {
            is_found(Mutation::$mutation, $shape);
        })*
    };
}

mutations! {
    epochs_as_bare_terms_are_found: EpochsAreBareTerms, |_| {};
    versions_as_bare_seqs_are_found: VersionsAreBareSeqs, |_| {};
    a_wiped_follower_that_counts_is_found: WipedCountsAsFull, |plan| plan.memory = true;
    recovery_with_one_fewer_is_found: RecoversWithOneFewer, |_| {};
    promoting_one_follower_is_found: PromotesInsteadOfMerging, |_| {};
    a_late_install_that_overwrites_is_found: LateInstallOverwrites, |_| {};
    taking_writes_of_old_leaders_is_found: TakesWritesOfOldLeaders, |_| {};
    replies_before_the_sync_are_found: RepliesBeforeSync, |plan| plan.sync_us = 10_000;
    reads_without_asking_are_found: ReadsWithoutAsking, |_| {};
    conditions_of_committed_records_are_found: ConditionsOfCommittedRecords, |_| {};
    increments_of_committed_records_are_found: IncrementsOfCommittedRecords, |plan| plan.counters = true;
    refusals_at_once_are_found: RefusesAtOnce, |_| {};
    rules_that_are_not_stored_are_found: RulesAreNotStored, Plan::leave_candidates_out;
    forgetting_earlier_rules_is_found: ForgetsEarlierRules, Plan::leave_candidates_out;
    installs_that_are_not_stored_are_found: InstallsAreNotStored, |_| {};
    keeping_what_is_older_is_found: KeepsWhatIsOlder, |_| {};
    filters_that_outlive_their_fetch_are_found: FiltersOutliveTheirFetch, |_| {};
    digests_that_leave_out_keys_are_found: DigestsLeaveOutKeys, |_| {};
    deleted_keys_that_are_not_reported_are_found: DeletedKeysAreNotReported, |_| {};
    retry_marks_that_are_not_stored_are_found: RetryMarksAreNotStored, Plan::leave_candidates_out;
    restore_marks_that_are_not_stored_are_found: RestoreMarksAreNotStored, |plan| plan.restores = true;
}
