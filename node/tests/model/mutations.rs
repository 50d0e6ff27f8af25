//! Goal: the model finds the absence of each rule. Method: the rule is off, and some state within small bounds breaks what
//! must hold. The way to it is printed; it is not the shortest one.
//!
//! The second list is for mutations that need more steps than an exhaustive search reaches: the random walks of the checks
//! find them. One mutation of the simulation is not here: a follower that keeps what is older than a state that it took
//! over. The simulation, which has more followers and keys, finds it.

use crate::checks::{GOING, MUCH, PLAN, RESTORING, SEED, SMALL, STEPS_MAX, WALKS, first};
use crate::mutation::Mutation;
use crate::search::{explore, walk};
use crate::world::{Left, Plan};

/// States to look at before a mutation counts as not found.
const STATES_MAX: usize = 1_500_000;

fn is_found(mutation: Mutation, plan: Plan) {
    let plan = Plan { mutation: Some(mutation), ..plan };
    match explore(&plan, first(&plan), STATES_MAX) {
        Ok(explored) => panic!("{mutation:?} is not found: {explored:?}"),
        Err(found) if found.way.is_empty() => panic!("{mutation:?} is not found: {}", found.why),
        Err(found) => {
            println!("{mutation:?}: after {} states: {}, by {:?}", found.states, found.why, found.way);
        }
    }
}

/// The random walks of the checks find it.
fn walks_find(mutation: Mutation, plan: Plan) {
    let plan = Plan { mutation: Some(mutation), terms: 12, ..plan };
    match walk(&plan, &first(&plan), SEED, WALKS, STEPS_MAX) {
        Ok(explored) => panic!("{mutation:?} is not found: {explored:?}"),
        Err(found) => {
            println!("{mutation:?}: after {} states of walks: {}, by {:?}", found.states, found.why, found.way);
        }
    }
}

macro_rules! mutations {
    ($by:ident; $($name:ident: $mutation:ident, $plan:expr;)*) => {
        $(#[test]
        fn $name() {
            $by(Mutation::$mutation, $plan);
        })*
    };
}

/// Two more leaders.
const LEFT: Left = PLAN.left;

/// Three leaders among followers that have nothing yet: one may open without the key that another one wrote.
const FOUNDING: Plan = Plan { founded: false, left: Left { leaders: 3, ..LEFT }, ..PLAN };

mutations! {
    is_found;
    epochs_as_bare_terms_are_found: EpochsAreBareTerms, Plan { quorum: 3, left: Left { writes: 2, ..LEFT }, ..PLAN };
    versions_as_bare_seqs_are_found: VersionsAreBareSeqs, Plan { left: Left { writes: 2, ..LEFT }, ..PLAN };
    a_wiped_follower_that_counts_is_found: WipedCountsAsFull, Plan { left: Left { leaders: 1, wipes: 1, ..LEFT }, ..PLAN };
    recovery_with_one_fewer_is_found: RecoversWithOneFewer, PLAN;
    promoting_one_follower_is_found: PromotesInsteadOfMerging, PLAN;
    a_late_install_that_overwrites_is_found: LateInstallOverwrites,
        Plan { behind: true, left: Left { repeats: 1, ..LEFT }, ..PLAN };
    taking_writes_of_old_leaders_is_found: TakesWritesOfOldLeaders, PLAN;
    replies_before_the_sync_are_found: RepliesBeforeSync, Plan { left: Left { breaks: 1, ..LEFT }, ..PLAN };
    reads_without_asking_are_found: ReadsWithoutAsking, Plan { left: Left { reads: 1, ..LEFT }, ..PLAN };
    rules_that_are_not_stored_are_found: RulesAreNotStored,
        Plan { quorum: 3, change_to: 1, left: Left { leaders: 1, changes: 1, ..LEFT }, ..PLAN };
    installs_that_are_not_stored_are_found: InstallsAreNotStored, PLAN;
    digests_that_leave_out_keys_are_found: DigestsLeaveOutKeys, FOUNDING;
    filters_that_outlive_their_fetch_are_found: FiltersOutliveTheirFetch,
        Plan { keys: 2, small: true, behind: true, terms: 4, ..PLAN };
}

mutations! {
    walks_find;
    walks_find_deleted_keys_that_are_not_reported: DeletedKeysAreNotReported,
        Plan { quorum: 2, left: Left { retries: 5, wipes: 0, changes: 0, ..MUCH }, ..SMALL };
    walks_find_retry_marks_that_are_not_stored: RetryMarksAreNotStored,
        Plan { quorum: 2, left: Left { retries: 5, wipes: 0, changes: 0, ..MUCH }, ..SMALL };
    walks_find_that_nothing_newer_is_transferred: NothingNewerIsTransferred,
        Plan { backlog: 1, left: MUCH, ..SMALL };
    walks_find_restore_marks_that_are_not_stored: RestoreMarksAreNotStored,
        Plan { quorum: 2, left: RESTORING, ..SMALL };
    walks_find_forgotten_rules: ForgetsEarlierRules, Plan { quorum: 3, change_to: 1, left: GOING, ..SMALL };
}
