//! Goal: within the bounds of each check, nothing that must hold is ever broken. Method: every state is visited.

use crate::actions::{Action, KEY};
use crate::search::{Explored, Order, explore};
use crate::world::{FOLLOWERS, Left, Plan, World};

/// Two more leaders and one more write.
pub(crate) const PLAN: Plan = Plan {
    quorum: 2,
    change_to: 3,
    founded: true,
    behind: false,
    late_installs: false,
    terms: 3,
    left: Left { leaders: 2, writes: 1, reads: 0, breaks: 0, repeats: 0, stops: 0, wipes: 0, changes: 0 },
    mutation: None,
};

const LEFT: Left = PLAN.left;

/// Where a search begins.
pub(crate) fn first(plan: &Plan) -> World {
    let mut world = World::blank(&Plan { left: Left { leaders: 1, writes: 1, ..plan.left }, ..*plan });
    if !plan.founded {
        return World { left: plan.left, ..world };
    }
    let calm = Plan { mutation: None, ..*plan };
    world.act(Action::Start, &calm);
    (0..FOLLOWERS as u8).for_each(|place| world.act(Action::Exchange(0, place), &calm));
    exchange_all(&mut world, &calm);
    assert!(world.leads[0].process.leader.is_open(), "the first leader opens");
    world.act(Action::Write(0), &calm);
    let reached = FOLLOWERS - usize::from(plan.behind);
    (0..reached as u8).for_each(|place| world.act(Action::Exchange(0, place), &calm));
    assert!(world.leads[0].process.leader.latest(KEY).is_some_and(|(_, committed)| committed));
    World { left: plan.left, ..world }
}

fn exchange_all(world: &mut World, plan: &Plan) {
    while let Some(place) = world.leads[0].links.iter().position(|link| !link.down.is_empty()) {
        world.act(Action::Exchange(0, place as u8), plan);
    }
}

fn check(plan: Plan) {
    let Left { leaders, writes, reads, breaks, repeats, stops, wipes, changes } = plan.left;
    let plan = if std::env::var_os("MODEL_MORE").is_some_and(|more| more == "1") {
        let more = |some: u8| if some > 0 { some + 1 } else { 0 };
        let left = Left {
            leaders: more(leaders),
            writes: more(writes),
            reads: more(reads),
            breaks: more(breaks),
            repeats: more(repeats),
            stops: more(stops),
            wipes: more(wipes),
            changes: more(changes),
        };
        Plan { terms: plan.terms + 1, left, ..plan }
    } else {
        plan
    };
    let begun = std::time::Instant::now();
    match explore(&plan, first(&plan), Order::Depth, usize::MAX) {
        Ok(explored) => {
            println!("{plan:?}: {explored:?} in {:.1} s", begun.elapsed().as_secs_f64());
            let Explored { states, opened, acknowledged, .. } = explored;
            assert!(opened * 100 > states && acknowledged * 100 > states, "too little happens: {explored:?}");
        }
        Err(found) => panic!("{plan:?}: {} after {:#?}", found.why, found.way),
    }
}

fn check_each(quorums: impl IntoIterator<Item = u16>, plan: Plan) {
    quorums.into_iter().for_each(|quorum| check(Plan { quorum, ..plan }));
}

/// One more leader.
const SECOND: Left = Left { leaders: 1, ..LEFT };

#[test]
fn three_leaders() {
    check_each(1..=3, PLAN);
}

#[test]
fn three_leaders_and_two_writes() {
    check_each([1, 3], Plan { left: Left { writes: 2, ..LEFT }, ..PLAN });
}

#[test]
fn three_leaders_and_a_read() {
    check_each([3], Plan { left: Left { reads: 1, ..LEFT }, ..PLAN });
}

#[test]
fn two_leaders_and_two_reads() {
    check_each(1..=3, Plan { left: Left { reads: 2, ..SECOND }, ..PLAN });
}

#[test]
fn three_leaders_and_a_broken_connection() {
    check_each([3], Plan { left: Left { breaks: 1, ..LEFT }, ..PLAN });
}

#[test]
fn two_leaders_and_broken_connections() {
    check_each(1..=2, Plan { left: Left { breaks: 1, writes: 2, ..SECOND }, ..PLAN });
}

#[test]
fn exchanges_stop_anywhere() {
    check_each(1..=3, Plan { left: Left { stops: 2, ..SECOND }, ..PLAN });
}

#[test]
fn messages_arrive_twice_and_late() {
    check_each(1..=3, Plan { left: Left { repeats: 1, writes: 2, ..SECOND }, ..PLAN });
}

#[test]
fn disks_are_emptied() {
    check_each(2..=3, Plan { left: Left { wipes: 1, ..SECOND }, ..PLAN });
}

#[test]
fn the_quorum_is_raised() {
    check(Plan { quorum: 1, change_to: 3, left: Left { changes: 1, ..SECOND }, ..PLAN });
    check(Plan { quorum: 2, change_to: 3, left: Left { changes: 1, ..SECOND }, ..PLAN });
}

#[test]
fn the_quorum_is_lowered() {
    check(Plan { quorum: 3, change_to: 1, left: Left { changes: 1, ..SECOND }, ..PLAN });
    check(Plan { quorum: 2, change_to: 1, left: Left { changes: 1, ..SECOND }, ..PLAN });
}

#[test]
fn the_quorum_changes_while_states_are_transferred() {
    check(Plan { quorum: 3, change_to: 2, late_installs: true, left: Left { changes: 1, ..SECOND }, ..PLAN });
}

#[test]
fn a_follower_is_behind() {
    check_each(1..=2, Plan { behind: true, ..PLAN });
    check_each(1..=2, Plan { behind: true, left: Left { repeats: 1, ..SECOND }, ..PLAN });
}

#[test]
fn a_cluster_is_founded() {
    check_each(1..=3, Plan { founded: false, terms: 2, ..PLAN });
}
