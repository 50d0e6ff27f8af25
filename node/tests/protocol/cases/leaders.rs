//! Leaders that die, pause, and meet.

use kv_node::protocol::messages::ToLeader;
use kv_node::protocol::types::Epoch;

use super::{LONG_US, cluster, value_of};
use crate::sim::network::Direction;

// Goal: what W followers confirmed survives its leader, answered or not. Method: the leader dies once the disks have it
// and before it hears of it; the client retries at the next one.
#[test]
fn leader_killed_between_the_last_confirmation_and_the_answer() {
    let mut world = cluster(2, 3);
    for place in 0..3 {
        world.leads[0].blocked.push((place, Direction::Up));
    }
    let op = world.write(0);
    world.until("storing", |world| world.places[..3].iter().all(|place| place.durable.get("k0").is_some()));
    assert!(!world.is_acked(op));
    world.kill_leader(0);
    let next = world.start_leader();
    world.settle();
    assert_eq!(world.seen(next), value_of(op));
    world.attempt(op, next);
    world.until("the retry's answer", |world| world.is_acked(op));
    assert_eq!(world.history.ops[op].seq, 1, "the retry was applied a second time");
    world.verify();
}

// Goal: a retry whose first attempt nobody took over is applied, once. Method: the first attempt reaches only a follower
// that the recovery does not meet.
#[test]
fn retry_after_a_timeout_is_not_applied_twice() {
    let mut world = cluster(2, 3);
    world.hold(0, [1, 2]);
    let op = world.write(0);
    world.rest();
    assert!(!world.is_acked(op));
    world.kill_leader(0);
    let next = world.leader_reaching(&[1, 2]);
    world.until("opening", |world| world.is_open(next));
    assert_eq!(world.seen(next), None);
    world.attempt(op, next);
    world.until("the retry's answer", |world| world.is_acked(op));
    let later = world.acknowledged(next);
    world.attempt(op, next);
    world.free(next);
    world.settle();
    assert_eq!(world.seen(next), value_of(later), "the retry came a second time");
}

// Goal: N − W promises open nothing. Method: one follower fewer than needed is reachable, for every W of five.
#[test]
fn recovery_with_one_follower_too_few_stays_closed() {
    for quorum in 1..=5_usize {
        let mut world = cluster(quorum as u16, 5);
        world.acknowledged(0);
        world.settle();
        world.kill_leader(0);
        let needed = 5 - quorum + 1;
        let reached: Vec<usize> = (0..needed - 1).collect();
        let next = world.leader_reaching(&reached);
        world.rest();
        assert!(!world.is_open(next), "W = {quorum}");
        let view = world.leads[next].leader.recovery().expect("it recovers");
        assert_eq!((view.answered, view.size), (needed - 1, 5));
        assert!(view.needed.is_none_or(|told| told == needed), "W = {quorum}: {view:?}");
        world.free(next);
        world.settle();
    }
}

// Goal: an unacknowledged write of a dead leader loses against a successor's acknowledged one of a lower number.
#[test]
fn a_dead_leaders_higher_seq_loses() {
    let mut world = cluster(2, 3);
    world.hold(0, [1, 2]);
    let lost: Vec<usize> = (0..3).map(|_| world.write(0)).collect();
    world.rest();
    assert_eq!(world.places[0].durable.get("k0").map(|record| record.version.seq), Some(3));
    world.kill_leader(0);
    let next = world.leader_reaching(&[1, 2]);
    world.until("opening", |world| world.is_open(next));
    let op = world.acknowledged(next);
    world.free(next);
    world.settle();
    world.kill_leader(next);
    let last = world.start_leader();
    world.settle();
    assert_eq!(world.seen(last), value_of(op));
    assert!(lost.iter().all(|op| !world.is_acked(*op)));
}

// Goal: with W = 4 of 5 two leaders collect two promises each for the same term; only one acknowledges.
#[test]
fn two_leaders_with_one_term() {
    let mut world = cluster(4, 5);
    world.acknowledged(0);
    world.settle();
    world.kill_leader(0);
    let first = world.leader_reaching(&[0, 1]);
    let second = world.leader_reaching(&[2, 3]);
    world.until("both opening", |world| [first, second].iter().all(|leader| world.leads[*leader].leader.is_opening()));
    let epochs = [first, second].map(|leader| world.leads[leader].leader.epoch());
    assert_eq!(epochs[0].term, epochs[1].term);
    assert_ne!(epochs[0], epochs[1]);
    world.free(first);
    world.free(second);
    world.until("one open leader", |world| world.is_open(first) || world.is_open(second));
    world.rest();
    let open: Vec<usize> = world.leading().into_iter().filter(|leader| world.is_open(*leader)).collect();
    assert_eq!(open.len(), 1);
    world.acknowledged(open[0]);
    world.verify();
}

// Goal: the sends of a leader that was paused for long change nothing at followers that promised its successor.
#[test]
fn old_leader_paused_then_continued() {
    let mut world = cluster(2, 3);
    let before = world.acknowledged(0);
    world.settle();
    world.hold(0, 0..3);
    let unknown = world.write(0);
    world.leads[0].paused = true;
    let next = world.start_leader();
    world.until("opening", |world| world.is_open(next));
    let after = world.acknowledged(next);
    world.run_for(30_000_000);
    world.free(0);
    world.continue_leader(0);
    world.until("the fence", |world| world.leads[0].leader.fenced_by().is_some());
    world.kill_leader(0);
    world.settle();
    assert!(world.is_acked(before) && !world.is_acked(unknown));
    assert_eq!(world.seen(next), value_of(after));
}

// Goal: a leader that was replaced and does not know it answers no read. Method: a read at the old leader after the new
// one acknowledged a write.
#[test]
fn a_read_at_a_replaced_leader_is_not_answered() {
    let mut world = cluster(2, 3);
    world.acknowledged(0);
    world.settle();
    world.hold(0, 0..3);
    let next = world.start_leader();
    world.until("opening", |world| world.is_open(next));
    world.acknowledged(next);
    assert!(world.is_open(0), "it has not heard of the other");
    let read = world.begin(None, 0, crate::sim::history::Act::Read, false);
    world.attempt(read, 0);
    world.rest();
    assert!(!world.is_acked(read));
    world.free(0);
    world.until("the fence", |world| world.leads[0].leader.fenced_by().is_some());
    assert!(!world.is_acked(read));
    world.verify();
}

// Goal: what a read showed stays. Method: the leader that showed it dies, and every pair of followers recovers in turn.
#[test]
fn a_value_seen_is_not_gone() {
    for missing in 0..3 {
        let mut world = cluster(2, 3);
        world.hold(0, [2]);
        let op = world.acknowledged(0);
        assert_eq!(world.seen(0), value_of(op));
        world.kill_leader(0);
        let reached: Vec<usize> = (0..3).filter(|place| *place != missing).collect();
        let next = world.leader_reaching(&reached);
        world.until("opening", |world| world.is_open(next));
        assert_eq!(world.seen(next), value_of(op));
    }
}

// Goal: two changes of leader in quick succession lose nothing. Method: the second leader dies at every moment of its
// start, in steps of a tenth of a millisecond.
#[test]
fn two_leader_changes_in_quick_succession() {
    for after_us in (0..8_000).step_by(200) {
        let mut world = cluster(2, 3);
        world.hold(0, [0]);
        let op = world.acknowledged(0);
        world.kill_leader(0);
        let second = world.leader_reaching(&[0, 1]);
        world.run_for(after_us);
        world.kill_leader(second);
        let third = world.leader_reaching(&[0, 2]);
        world.until("opening", |world| world.is_open(third));
        assert_eq!(world.seen(third), value_of(op), "killed after {after_us} us");
        world.free(third);
        world.settle();
    }
}

// Goal: a leader killed in its first opening leaves a cluster that opens. Method: the first leader ever dies at every
// moment of its start, when some followers are installed and others still blank.
#[test]
fn leader_killed_while_a_new_cluster_opens() {
    for quorum in 1..=3 {
        for after_us in (0..8_000).step_by(200) {
            let mut world = crate::sim::World::new(crate::sim::Plan::quiet(quorum, 3), true);
            let first = world.start_leader();
            world.run_for(after_us);
            world.kill_leader(first);
            let next = world.start_leader();
            world.settle();
            world.acknowledged(next);
        }
    }
}

// Goal: a confirmation counts in its own epoch only. Method: the new leader is handed one of the old epoch, for an index
// that it has given as well.
#[test]
fn a_confirmation_of_the_previous_epoch_does_not_count() {
    let mut world = cluster(2, 3);
    world.acknowledged(0);
    let old = world.leads[0].leader.epoch();
    world.kill_leader(0);
    let next = world.start_leader();
    world.settle();
    world.hold(next, [0, 1]);
    let op = world.write(next);
    let slots: Vec<_> = world.leads[next].current.iter().map(|(slot, connection)| (*slot, *connection)).collect();
    for (slot, connection) in slots {
        for epoch in [old, Epoch { term: old.term + 1, leader: 1 }] {
            let late = ToLeader::Confirmed { epoch, ranges: vec![(0, 100)] };
            world.drive(next, |lead| lead.receive(slot, connection, late));
        }
    }
    world.rest();
    assert!(!world.is_acked(op));
    world.free(next);
    world.until("the acknowledgement", |world| world.is_acked(op));
}

// Goal: a leader that waits for promises learns that what it was told is out of date. Method: while it lacks one, others
// open, change the rule so that it will never come, and die.
#[test]
fn a_waiting_leader_asks_again() {
    let mut world = cluster(1, 2);
    world.hold(0, [0, 1]);
    let waiting = world.leader_reaching(&[0]);
    world.rest();
    assert!(!world.is_open(waiting));
    world.leads[waiting].paused = true;
    let next = world.start_leader();
    world.until("opening", |world| world.is_open(next));
    world.wanted = (1, 1);
    world.want(next);
    assert!(world.run_until(LONG_US, |world| world.leads[next].leader.settled()));
    world.kill_leader(next);
    world.kill_leader(0);
    world.continue_leader(waiting);
    world.want(waiting);
    world.settle();
}

// Goal: one-way partitions acknowledge and show nothing wrong, and end. Method: each direction to two of three followers.
#[test]
fn one_way_partitions() {
    for way in [Direction::Down, Direction::Up] {
        let mut world = cluster(2, 3);
        world.leads[0].blocked.extend([(0, way), (1, way)]);
        let op = world.write(0);
        world.rest();
        assert!(!world.is_acked(op));
        let next = world.start_leader();
        world.until("opening", |world| world.is_open(next));
        world.acknowledged(next);
        world.free(0);
        world.until("the fence", |world| world.leads[0].leader.fenced_by().is_some());
        world.kill_leader(0);
        world.settle();
    }
}
