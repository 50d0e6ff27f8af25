//! When a leader process may ask for promises, and when it waits.

use kv_node::protocol::follower;

use super::{value_of, with};
use crate::mutation::Mutation;
use crate::sim::network::Direction;
use crate::sim::{Plan, World};

/// Ticks of 20 ms without a sign of the leader.
const ROUNDS: u32 = 3;

/// The longest time from the loss of a leader to the election of another one: the silence and the random wait, in ticks,
/// and two for the questions.
const TAKEOVER_US: u64 = 20_000 * (ROUNDS as u64 + ROUNDS as u64 / 2 + 2);

fn plan(quorum: u16, size: u16) -> Plan {
    let mut plan = Plan::quiet(quorum, size);
    plan.sizes.leader.takeover_rounds = ROUNDS;
    plan
}

impl World {
    fn waits(&self, leader: usize) -> bool {
        self.leads[leader].leader.candidate().is_some()
    }
}

// Goal: a leader that works is never replaced. Method: a standby that reaches all followers, and one that reaches too few
// of them to know anything, for a minute each.
#[test]
fn a_standby_waits_while_a_leader_works() {
    for reached in [vec![0, 1, 2, 3, 4], vec![3, 4]] {
        let mut world = with(plan(3, 5));
        let op = world.acknowledged(0);
        let standby = world.leader_reaching(&reached);
        world.run_for(60_000_000);
        assert!(world.is_open(0) && world.waits(standby), "{reached:?}");
        assert_eq!((world.promises(0), world.promises(standby)), (5, 0));
        assert_eq!(world.seen(0), value_of(op));
        world.acknowledged(0);
    }
}

// Goal: a lost leader is replaced soon, whatever the quorum. Method: it is killed beside one standby and beside three.
#[test]
fn a_standby_replaces_a_leader_that_is_gone() {
    for (quorum, standbys) in [(1, 1), (3, 1), (5, 1), (3, 3)] {
        let mut world = with(plan(quorum, 5));
        let op = world.acknowledged(0);
        (0..standbys).for_each(|_| _ = world.start_leader());
        world.rest();
        world.kill_leader(0);
        let taken = world.run_until(TAKEOVER_US, |world| world.contending().len() == 1);
        assert!(taken, "W = {quorum}, {standbys} standbys\n{}", world.told());
        world.settle();
        let next = world.contending()[0];
        assert_eq!(world.seen(next), value_of(op));
        world.run_for(10_000_000);
        assert_eq!(world.contending(), [next], "the other standbys wait");
    }
}

// Goal: a short silence replaces no leader, a long one does. Method: nothing of the leader arrives for two ticks, and then
// for long.
#[test]
fn a_short_silence_is_no_loss() {
    let mut world = with(plan(2, 3));
    let standby = world.start_leader();
    world.rest();
    for _ in 0..20 {
        world.hold(0, 0..3);
        world.run_for(40_000);
        world.free(0);
        world.rest();
    }
    assert!(world.is_open(0) && world.waits(standby), "{}", world.told());
    world.hold(0, 0..3);
    world.until("opening", |world| world.is_open(standby));
}

// Goal: a leader that still has its quorum is not replaced by a standby that N − W followers alone report silence to.
// Method: W = 3 of five; two followers do not hear the leader for long; then a third.
#[test]
fn a_leader_that_still_has_its_quorum_stays() {
    let mut world = with(plan(3, 5));
    world.acknowledged(0);
    let standby = world.start_leader();
    world.hold(0, [0, 1]);
    world.run_for(5_000_000);
    assert!(world.waits(standby));
    world.acknowledged(0);
    world.hold(0, [2]);
    world.until("opening", |world| world.is_open(standby));
}

// Goal: the case above would notice a candidate that asks after fewer silent followers. Method: the same, with that rule.
#[test]
fn asking_after_fewer_silent_followers_is_found() {
    let mut world = with(Plan { mutation: Some(Mutation::AsksAfterFewerSilent), ..plan(3, 5) });
    world.acknowledged(0);
    let standby = world.start_leader();
    world.hold(0, [0, 1]);
    assert!(world.run_until(5_000_000, |world| !world.waits(standby)), "{}", world.told());
}

// Goal: the first leader of a new cluster does not wait, and neither does one whose predecessor resigned.
#[test]
fn where_no_process_leads_the_first_one_asks_at_once() {
    let mut world = World::new(plan(3, 5), true);
    let first = world.start_leader();
    assert!(world.run_until(20_000, |world| world.is_open(first)), "{}", world.told());
    let op = world.acknowledged(first);
    let standby = world.start_leader();
    world.rest();
    assert!(world.waits(standby));
    world.drive(first, |lead| assert!(lead.resign()));
    assert!(world.run_until(25_000, |world| world.is_open(standby)), "{}", world.told());
    assert_eq!(world.seen(standby), value_of(op));
}

// Goal: a leader resigns only when it owes no client an answer, and then accepts nothing any more.
#[test]
fn a_leader_answers_before_it_resigns() {
    let mut world = with(plan(3, 5));
    world.hold(0, 0..5);
    let op = world.write(0);
    world.drive(0, |lead| assert!(!lead.resign(), "a write is under way"));
    world.free(0);
    world.until("the acknowledgement", |world| world.is_acked(op));
    world.drive(0, |lead| assert!(lead.resign()));
    assert!(!world.is_open(0));
}

// Goal: a recovery that gets no further does not keep others from trying. Method: one that reaches too few followers has
// the promises of some; the leader dies, and a standby that reaches all comes.
#[test]
fn a_recovery_that_stalls_lets_others_try() {
    let mut world = with(plan(2, 3));
    let op = world.acknowledged(0);
    world.kill_leader(0);
    let stuck = world.leader_reaching(&[0, 1]);
    world.until("its promises", |world| world.promises(stuck) > 0);
    // It never hears of them, and its repeated questions arrive.
    world.leads[stuck].blocked = (0..3).map(|place| (place, Direction::Up)).collect();
    let other = world.start_leader();
    world.until("opening", |world| world.is_open(other));
    assert_eq!(world.seen(other), value_of(op));
}

// Goal: a recovery that gets no further learns that another leader works, and waits beside it. Method: of three promises
// it lacks one; a standby that reaches all three takes over.
#[test]
fn a_recovery_that_stalls_becomes_a_standby() {
    let mut world = with(plan(1, 3));
    let op = world.acknowledged(0);
    world.kill_leader(0);
    let stuck = world.start_leader();
    world.until("its promises", |world| world.promises(stuck) > 0);
    world.leads[stuck].blocked = [(2, Direction::Up), (2, Direction::Down)].into();
    let other = world.start_leader();
    world.until("opening", |world| world.is_open(other));
    world.until("its standby", |world| world.waits(stuck));
    assert_eq!(world.seen(other), value_of(op));
}

// Goal: a candidate that met followers with state does not take their new, empty disks for a new cluster. Method: the only
// follower loses its disk while a standby looks on.
#[test]
fn a_standby_takes_no_lost_disk_for_a_new_cluster() {
    let mut world = with(plan(1, 1));
    world.acknowledged(0);
    let standby = world.start_leader();
    world.rest();
    world.kill_leader(0);
    world.crash(0);
    world.wipe(0);
    world.restart(0);
    world.run_for(60_000_000);
    assert!(!world.is_open(standby), "{}", world.told());
}

// Goal: two that start together do not interrupt each other for long. Method: many starts, all of which open soon.
#[test]
fn candidates_that_start_together_agree_soon() {
    for seed in 0..50 {
        let mut world = World::new(Plan { seed, ..plan(2, 3) }, true);
        (0..3).for_each(|_| _ = world.start_leader());
        let opened = world.run_until(10 * TAKEOVER_US, |world| world.contending().iter().any(|it| world.is_open(*it)));
        assert!(opened, "seed {seed}\n{}", world.told());
    }
}

// Goal: candidates that interrupt each other end that. Method: eight of them, at W = N, so that the silence of one follower
// is enough; a recovery takes many messages, each of them about as long as that silence. The leader is killed, and in each
// world another one opens.
#[test]
fn many_candidates_do_not_interrupt_each_other_for_ever() {
    for seed in 1..=20 {
        let mut plan = Plan { seed, latency_us: 15_000, keys: 8, ..Plan::quiet(5, 5) };
        plan.sizes.leader.takeover_rounds = 1;
        plan.sizes.follower = follower::Limits { message_bytes: 1, scan_keys: 1, scan_bytes: 1, changed_keys: 1 };
        let mut world = with(plan);
        let written: Vec<usize> = (0..8).map(|key| world.write_at(0, key)).collect();
        world.until("the writes", |world| written.iter().all(|op| world.is_acked(*op)));
        (0..8).for_each(|_| _ = world.start_leader());
        world.rest();
        world.kill_leader(0);
        let opened = world.run_until(20_000_000, |world| (1..=8).any(|leader| world.is_open(leader)));
        assert!(opened, "seed {seed}\n{}", world.told());
    }
}
