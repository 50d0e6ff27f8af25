//! Goal: within the bounds of each check, nothing that must hold is ever broken. Method: every state is visited.

use crate::actions::Action;
use crate::clients::KEYS;
use crate::search::{Explored, explore, walk};
use crate::world::{FOLLOWERS, Left, Plan, World};

/// Two more leaders and one more write.
pub(crate) const PLAN: Plan = Plan {
    quorum: 2,
    change_to: 3,
    keys: 1,
    small: false,
    backlog: 64,
    founded: true,
    behind: false,
    late_installs: false,
    takeover_rounds: 0,
    terms: 3,
    left: Left {
        leaders: 2,
        writes: 1,
        deletes: 0,
        retries: 0,
        reads: 0,
        breaks: 0,
        repeats: 0,
        stops: 0,
        wipes: 0,
        changes: 0,
        sizes: 0,
        ticks: 0,
        resigns: 0,
        restores: 0,
    },
    mutation: None,
};

const LEFT: Left = PLAN.left;

/// Where a search begins.
pub(crate) fn first(plan: &Plan) -> World {
    let mut world = World::blank(&Plan { left: Left { leaders: 1, writes: plan.keys as u8, ..plan.left }, ..*plan });
    if !plan.founded {
        return World { left: plan.left, ..world };
    }
    let calm = Plan { mutation: None, ..*plan };
    world.act(Action::Start, &calm);
    (0..FOLLOWERS as u8).for_each(|place| world.act(Action::Exchange(0, place), &calm));
    exchange_all(&mut world, &calm);
    assert!(world.leads[0].process.leader.is_open(), "the first leader opens");
    for (key, name) in KEYS.iter().enumerate().take(plan.keys) {
        world.act(Action::Write(0, key as u8), &calm);
        let last = key + 1 == plan.keys;
        let reached = FOLLOWERS - usize::from(plan.behind && last);
        (0..reached as u8).for_each(|place| world.act(Action::Exchange(0, place), &calm));
        assert!(world.leads[0].process.leader.latest(name).is_some_and(|(_, committed)| committed));
    }
    World { left: plan.left, ..world }
}

fn exchange_all(world: &mut World, plan: &Plan) {
    while let Some(place) = world.leads[0].links.iter().position(|link| !link.down.is_empty()) {
        world.act(Action::Exchange(0, place as u8), plan);
    }
}

fn goes_further() -> bool {
    std::env::var_os("MODEL_MORE").is_some_and(|more| more == "1")
}

fn check(plan: Plan) {
    let Left {
        leaders,
        writes,
        deletes,
        retries,
        reads,
        breaks,
        repeats,
        stops,
        wipes,
        changes,
        sizes,
        ticks,
        restores,
        resigns,
    } = plan.left;
    let plan = if goes_further() {
        let more = |some: u8| if some > 0 { some + 1 } else { 0 };
        let left = Left {
            leaders: more(leaders),
            writes: more(writes),
            deletes: more(deletes),
            retries: more(retries),
            reads: more(reads),
            breaks: more(breaks),
            repeats: more(repeats),
            stops: more(stops),
            wipes: more(wipes),
            changes: more(changes),
            sizes: more(sizes),
            ticks: more(ticks),
            resigns: more(resigns),
            restores: more(restores),
        };
        Plan { terms: plan.terms + 1, left, ..plan }
    } else {
        plan
    };
    let begun = std::time::Instant::now();
    match explore(&plan, first(&plan), usize::MAX) {
        Ok(explored) => {
            println!("{plan:?}: {explored:?} in {:.1} s", begun.elapsed().as_secs_f64());
            let Explored { states, opened, acknowledged, .. } = explored;
            assert!(opened * 100 > states && acknowledged * 100 > states, "too little happens: {explored:?}");
        }
        Err(found) => panic!("{plan:?}: {} after {:?}", found.why, found.way),
    }
}

/// Takes random walks instead.
fn check_walks(plan: Plan) {
    let begun = std::time::Instant::now();
    let walks = if goes_further() { WALKS * 20 } else { WALKS };
    match walk(&plan, &first(&plan), SEED, walks, STEPS_MAX) {
        Ok(explored) => {
            println!("{plan:?}: {explored:?} by {walks} walks in {:.1} s", begun.elapsed().as_secs_f64());
            let Explored { states, opened, acknowledged, .. } = explored;
            assert!(opened * 40 > states && acknowledged * 20 > states, "too little happens: {explored:?}");
        }
        Err(found) => panic!("{plan:?}, seed {SEED}: {} after {:?}", found.why, found.way),
    }
}

/// From which the walks are drawn.
pub(crate) const SEED: u64 = 1;

/// How many walks a check takes, and how many steps each of them has at most.
pub(crate) const WALKS: usize = 3_000;
pub(crate) const STEPS_MAX: usize = 60;

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

/// Two keys of which each message carries one.
pub(crate) const SMALL: Plan = Plan { keys: 2, small: true, ..PLAN };

#[test]
fn a_state_takes_many_messages() {
    check_each([2], Plan { left: SECOND, ..SMALL });
    check_each([2], Plan { behind: true, late_installs: true, left: SECOND, ..SMALL });
}

/// More of everything than an exhaustive search allows.
pub(crate) const MUCH: Left = Left {
    leaders: 5,
    writes: 6,
    deletes: 2,
    retries: 0,
    reads: 3,
    breaks: 3,
    repeats: 2,
    stops: 6,
    wipes: 1,
    changes: 1,
    sizes: 0,
    ticks: 0,
    resigns: 0,
    restores: 0,
};

#[test]
fn walks_over_two_keys() {
    for (quorum, change_to) in [(1, 2), (2, 3), (3, 2)] {
        check_walks(Plan { quorum, change_to, terms: 12, left: MUCH, ..SMALL });
    }
}

#[test]
fn walks_with_retries_and_deletes() {
    for quorum in 1..=3 {
        check_walks(Plan { quorum, terms: 12, left: Left { retries: 5, wipes: 0, changes: 0, ..MUCH }, ..SMALL });
    }
}

#[test]
fn walks_with_followers_that_fall_behind_the_backlog() {
    for backlog in 1..=2 {
        check_walks(Plan { backlog, late_installs: true, terms: 12, left: MUCH, ..SMALL });
    }
}

#[test]
fn walks_with_followers_that_come_and_go() {
    for quorum in 1..=3 {
        check_walks(Plan { quorum, change_to: 1, terms: 12, left: GOING, ..SMALL });
    }
}

#[test]
fn walks_with_candidates() {
    for quorum in 1..=3 {
        check_walks(Plan { quorum, takeover_rounds: 1, terms: 12, left: WAITING, ..SMALL });
    }
}

#[test]
fn walks_with_restores() {
    for quorum in 1..=2 {
        check_walks(Plan { quorum, terms: 12, left: RESTORING, ..SMALL });
    }
}

/// Followers leave the cluster and come back with another disk.
pub(crate) const GOING: Left = Left { sizes: 4, ticks: 12, changes: 2, repeats: 1, deletes: 0, reads: 2, ..MUCH };

/// Leader processes ask for promises only after some heartbeats in which followers heard no leader.
const WAITING: Left = Left {
    leaders: 1,
    ticks: 40,
    resigns: 1,
    writes: 3,
    deletes: 0,
    reads: 1,
    repeats: 0,
    stops: 2,
    changes: 0,
    ..MUCH
};

/// A client restores backups.
pub(crate) const RESTORING: Left = Left { restores: 4, retries: 2, wipes: 0, changes: 0, ..MUCH };
