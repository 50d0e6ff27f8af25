//! Followers that are wiped, slow, away for long, or not who they were.

use kv_node::protocol::digest::Buckets;
use kv_node::protocol::follower::{Change, Effects, Follower};
use kv_node::protocol::messages::{Covered, ToFollower, ToLeader, Write};
use kv_node::protocol::types::{Config, Epoch, FollowerId, Member, Record, Synced, Version};
use kv_node::protocol::value::Value;

use super::{cluster, value_of, with};
use crate::sim::{Plan, World};

fn epoch(term: u64) -> Epoch {
    Epoch { term, leader: 7 }
}

fn record(term: u64, seq: u64, value: &str) -> Record {
    Record { version: Version { epoch: epoch(term), seq }, value: Some(value.into()), marks: None }
}

fn rule(generation: u64) -> Config {
    let member = Member { name: "f".into(), id: FollowerId(1) };
    Config { generation, quorum: 1, size: 1, members: vec![member], earlier: Vec::new() }
}

/// A follower that took over an empty state of epoch 2.
fn follower() -> Follower {
    let mut follower = Follower::blank(FollowerId(1), "f".into());
    follower.restore(Change::Promised(epoch(2)));
    follower.restore(Change::Synced {
        synced: Synced { epoch: epoch(2), config: rule(1) },
        drop_older: Some(Buckets::all()),
    });
    follower
}

fn step(follower: &mut Follower, message: ToFollower) -> Effects {
    let mut effects = Effects::default();
    follower.step(message, &mut effects);
    effects
}

fn writes(term: u64, index: u64, record: Record) -> ToFollower {
    ToFollower::Writes { epoch: epoch(term), writes: vec![Write::new(index, "k".into(), record)] }
}

fn value(follower: &Follower) -> Option<Value> {
    follower.get("k").and_then(|record| record.value.clone())
}

// Goal: an install that comes late or twice undoes nothing. Method: newer writes first, then the install, twice.
#[test]
fn a_late_or_duplicated_install_changes_nothing() {
    let mut follower = follower();
    step(&mut follower, writes(2, 4, record(2, 4, "newer")));
    for _ in 0..2 {
        let part = ToFollower::Install { epoch: epoch(2), records: vec![("k".into(), record(2, 3, "older"))] };
        assert!(step(&mut follower, part).changes.is_empty());
        let end = ToFollower::InstallEnd {
            epoch: epoch(2),
            config: rule(1),
            covered: Covered::Buckets(Buckets::all()),
            token: 1,
        };
        let answered = step(&mut follower, end).replies;
        assert_eq!(answered, [ToLeader::Installed { epoch: epoch(2), token: 1, generation: 1 }]);
        assert_eq!(value(&follower), Some("newer".into()));
    }
}

// Goal: a rule that comes late does not replace a newer one.
#[test]
fn a_late_rule_changes_nothing() {
    let mut follower = follower();
    step(&mut follower, ToFollower::Configure { epoch: epoch(2), config: rule(3) });
    let late = step(&mut follower, ToFollower::Configure { epoch: epoch(2), config: rule(2) });
    assert_eq!(late.replies, [ToLeader::Configured { epoch: epoch(2), generation: 3 }]);
    assert!(late.changes.is_empty());
}

// Goal: an install of a newer epoch wins over a higher number of an older one, and drops what it does not have.
#[test]
fn an_install_replaces_what_is_older() {
    let mut follower = follower();
    step(&mut follower, writes(2, 9, record(2, 9, "never acknowledged")));
    step(&mut follower, ToFollower::Prepare { epoch: epoch(3) });
    let part = ToFollower::Install { epoch: epoch(3), records: vec![("k".into(), record(3, 2, "acknowledged"))] };
    step(&mut follower, part);
    step(
        &mut follower,
        ToFollower::InstallEnd {
            epoch: epoch(3),
            config: rule(2),
            covered: Covered::Buckets(Buckets::all()),
            token: 1,
        },
    );
    assert_eq!(value(&follower), Some("acknowledged".into()));
    step(&mut follower, ToFollower::Prepare { epoch: epoch(4) });
    step(
        &mut follower,
        ToFollower::InstallEnd {
            epoch: epoch(4),
            config: rule(3),
            covered: Covered::Buckets(Buckets::all()),
            token: 1,
        },
    );
    assert_eq!(value(&follower), None);
}

// Goal: nothing is taken or confirmed for a leader that was replaced, nor before the whole state is there.
#[test]
fn nothing_is_taken_outside_the_promised_and_installed_epoch() {
    let mut follower = follower();
    step(&mut follower, ToFollower::Prepare { epoch: epoch(3) });
    let refused = [ToLeader::Refused { promised: epoch(3) }];
    let others = [
        writes(2, 1, record(2, 1, "old leader")),
        writes(3, 1, record(3, 1, "not installed yet")),
        writes(4, 1, record(4, 1, "never asked")),
        ToFollower::Probe { epoch: epoch(2), round: 1, lag_us: 0, heard: 0 },
        ToFollower::Configure { epoch: epoch(3), config: rule(9) },
        ToFollower::InstallEnd { epoch: epoch(3), config: rule(9), covered: Covered::Newer, token: 1 },
        ToFollower::Prepare { epoch: epoch(2) },
        ToFollower::Fetch { epoch: epoch(2), cursor: 0, of: None },
    ];
    for message in others {
        let told = format!("{message:?}");
        let effects = step(&mut follower, message);
        assert_eq!(effects.replies, refused, "{told}");
        assert!(effects.changes.is_empty(), "{told}");
    }
}

// Goal: a follower that lost its disk confirms nothing that it forgot. Method: of the two that confirmed, one is wiped;
// the leader that starts then must not do with the wiped one and the one that never had the write.
#[test]
fn a_wiped_follower_does_not_count() {
    let mut world = cluster(2, 3);
    world.hold(0, [2]);
    let op = world.acknowledged(0);
    world.kill_leader(0);
    world.crash(0);
    world.wipe(0);
    world.restart(0);
    let next = world.leader_reaching(&[0, 2]);
    world.rest();
    assert!(!world.is_open(next));
    world.free(next);
    world.settle();
    assert_eq!(world.seen(next), value_of(op));
}

// Goal: a wiped follower is installed and counts again, also where all are needed. Method: each W of three, wiped under
// the running leader, which goes on acknowledging afterwards.
#[test]
fn a_wiped_follower_is_installed_and_counts_again() {
    for quorum in 1..=3 {
        let mut world = cluster(quorum, 3);
        world.acknowledged(0);
        world.settle();
        world.crash(1);
        world.wipe(1);
        world.restart(1);
        world.settle();
        let op = world.acknowledged(0);
        world.settle();
        world.kill_leader(0);
        let next = world.start_leader();
        world.settle();
        assert_eq!(world.seen(next), value_of(op), "W = {quorum}");
    }
}

// Goal: beyond what W survives the leader stays closed, says what it has, and opens by an explicit act alone.
#[test]
fn three_of_five_wiped_at_w_3() {
    let mut world = cluster(3, 5);
    let op = world.acknowledged(0);
    world.settle();
    world.kill_leader(0);
    for place in 0..3 {
        world.crash(place);
        world.wipe(place);
        world.restart(place);
    }
    let next = world.start_leader();
    world.rest();
    assert!(!world.is_open(next));
    let view = world.leads[next].leader.recovery().expect("it recovers");
    assert_eq!((view.needed, view.counting, view.blank, view.answered), (Some(3), 2, 3, 5));
    let mut taken = false;
    world.drive(next, |lead| taken = lead.accept_loss());
    assert!(taken);
    world.settle();
    assert_eq!(world.seen(next), value_of(op), "the two that are left had it");
}

// Goal: two disks that answer under one name never count as two, nor for each other. Method: a second follower of the
// same name takes turns with the first.
#[test]
fn two_pods_with_one_name() {
    let mut world = cluster(2, 3);
    let op = world.acknowledged(0);
    world.settle();
    let first = world.places[0].durable.clone();
    world.crash(0);
    world.wipe(0);
    world.restart(0);
    world.until("the second disk's install", |world| world.places[0].durable.synced().is_some());
    world.settle();
    let later = world.acknowledged(0);
    let second = std::mem::replace(&mut world.places[0].durable, first);
    world.crash(0);
    let kept = world.places[0].durable.clone();
    world.restart(0);
    world.rest();
    assert_eq!(kept.id(), world.places[0].durable.id());
    assert_ne!(kept.id(), second.id());
    world.settle();
    assert!(world.is_acked(op));
    assert_eq!(world.seen(0), value_of(later));
}

// Goal: one disk under two names is one disk. Method: both slots lead to the same follower; W = 2 of 2 never opens.
#[test]
fn one_disk_under_two_names_counts_once() {
    let mut world = World::new(Plan::quiet(2, 2), true);
    world.crash(1);
    let leader = world.start_leader();
    for place in world.leads[leader].places.values_mut() {
        *place = 0;
    }
    world.rest();
    assert!(!world.is_open(leader));
    assert_eq!(world.leads[leader].leader.recovery().map(|view| view.answered), Some(1));
}

// Goal: memory is bounded while a follower is away, and what it missed comes as a difference. Method: far more writes
// than the window holds, then it is back, and its connection breaks at every moment of the transfer.
#[test]
fn a_follower_down_for_long_gets_the_difference_even_if_it_breaks() {
    for after_us in (0..3_000).step_by(100) {
        let mut world = with(Plan::quiet(2, 3).keeping(8));
        world.acknowledged(0);
        world.settle();
        world.crash(2);
        for _ in 0..30 {
            world.acknowledged(0);
            assert!(world.leads[0].leader.backlog() <= 9, "{} writes are kept", world.leads[0].leader.backlog());
        }
        world.restart(2);
        world.until("the connection", |world| world.leads[0].current.len() == 3);
        world.run_for(after_us);
        world.break_all(|connection| connection.place == 2);
        world.settle();
        assert_eq!(world.leads[0].leader.backlog(), 0);
    }
}

// Goal: N − W slow followers do not slow a commit. Method: two of five store nothing at all.
#[test]
fn slow_followers_do_not_hold_a_commit_up() {
    let mut world = cluster(3, 5);
    world.hold(0, [3, 4]);
    for _ in 0..20 {
        world.acknowledged(0);
    }
    assert_eq!(world.leads[0].leader.in_flight(), 0);
    assert_eq!(world.leads[0].leader.backlog(), 20);
    world.free(0);
    world.settle();
}
