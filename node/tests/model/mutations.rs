//! Goal: the model finds the absence of each rule. Method: the rule is off, and some state within small bounds breaks what
//! must hold. What is found first is found on a shortest way, which is printed.
//!
//! Two mutations of the simulation are not here. A million and a half states of three followers do not show the harm of a
//! follower that forgets the rules before the newest one. A follower that keeps what is older than a state that it took
//! over needs nearly as many states. The simulation, which has more followers and keys, finds both.

use crate::checks::{PLAN, first};
use crate::mutation::Mutation;
use crate::search::{Order, explore};
use crate::world::{Left, Plan};

/// States to look at before a mutation counts as not found.
const STATES_MAX: usize = 1_500_000;

fn is_found(mutation: Mutation, plan: Plan) {
    let plan = Plan { mutation: Some(mutation), ..plan };
    match explore(&plan, first(&plan), Order::Breadth, STATES_MAX) {
        Ok(explored) => panic!("{mutation:?} is not found: {explored:?}"),
        Err(found) if found.way.is_empty() => panic!("{mutation:?} is not found: {}", found.why),
        Err(found) => {
            println!("{mutation:?}: after {} states: {}, by {:?}", found.states, found.why, found.way);
        }
    }
}

macro_rules! mutations {
    ($($name:ident: $mutation:ident, $plan:expr;)*) => {
        $(#[test]
        fn $name() {
            is_found(Mutation::$mutation, $plan);
        })*
    };
}

/// Two more leaders.
const LEFT: Left = PLAN.left;

/// Three leaders among followers that have nothing yet: one may open without the key that another one wrote.
const FOUNDING: Plan = Plan { founded: false, left: Left { leaders: 3, ..LEFT }, ..PLAN };

mutations! {
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
