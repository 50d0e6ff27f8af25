//! What bounds a leader's memory and time, and what a leader or a follower refuses to believe.

use std::sync::Arc;

use kv_node::protocol::follower::Effects;
use kv_node::protocol::leader::{
    Accepted, CutOff, Limits, NewWrite, Output, Part, Refusal, ResetReason, Saved, Unfinished,
};
use kv_node::protocol::messages::{Hello, ToFollower, ToLeader};
use kv_node::protocol::types::{Epoch, SEQ_MAX};

use crate::direct::{Core, Followers, connect, deliver, followers, leader_with};

fn write(key: &str, value: &str, token: Option<&str>) -> NewWrite {
    let (value, retry_token) = (Some(value.into()), token.map(Arc::from));
    NewWrite { key: key.into(), value, retry_token, explain: false, now_us: 0 }
}

/// An open leader with five followers.
fn cluster(limits: Limits) -> (Core, Followers) {
    let (mut leader, mut followers) = (leader_with(1, 5, limits), followers());
    (0..5).for_each(|place| connect(&mut leader, &mut followers, place));
    assert!(leader.is_open());
    (leader, followers)
}

fn hold_writes(followers: &mut Followers) {
    followers.hold = |_, message| matches!(message, ToFollower::Writes { .. });
}

fn let_all_go(leader: &mut Core, followers: &mut Followers) {
    followers.hold = |_, _| false;
    while followers.let_go(leader) {}
}

fn committed(outputs: &[Output<u32, u32>]) -> Vec<u32> {
    let waiter =
        |output: &Output<u32, u32>| if let Output::Committed { waiter, .. } = output { Some(*waiter) } else { None };
    outputs.iter().filter_map(waiter).collect()
}

// Goal: a restore ends for clients when its end is committed, since a leader to come would refuse them again. Method: no
// follower confirms the removal of the mark, and a client writes meanwhile.
#[test]
fn clients_wait_until_the_end_of_a_restore_is_committed() {
    let (mut leader, mut followers) = cluster(Limits::default());
    let restore = Unfinished { backup: "digest".into(), overwrite: false };
    leader.begin_restore(&restore, 0, 1).expect("the restore begins");
    deliver(&mut leader, &mut followers);
    let saved = Saved { key: "k".into(), seq: 7, value: Some("restored".into()), marks: None };
    leader.restore(saved, Part::Of("digest"), 0, 2).expect("a key of the backup");
    deliver(&mut leader, &mut followers);
    hold_writes(&mut followers);
    leader.end_restore(Some("digest"), 0, 3).expect("the restore ends");
    deliver(&mut leader, &mut followers);
    assert_eq!(leader.put(write("k", "client", None), 4), Err(Refusal::RestoreEnds));
    assert_eq!(leader.read(5), Err(Refusal::RestoreEnds));
    assert!(!leader.is_serving());
    let_all_go(&mut leader, &mut followers);
    assert_eq!(leader.put(write("k", "client", None), 6), Ok(Accepted::Pending { seq: 8 }));
}

// Goal: a leader that was replaced without its knowledge does not report the end of a restore that it never saw. Method: the
// end of a restore at a leader without one, before and after its followers promised another epoch.
#[test]
fn the_end_of_a_restore_takes_a_quorum_even_where_there_is_none() {
    let (mut leader, mut followers) = cluster(Limits::default());
    leader.end_restore(Some("digest"), 0, 1).expect("there may have been one");
    deliver(&mut leader, &mut followers);
    assert_eq!((leader.counters(), leader.keys()), ((1, 1), 0));
    let successor = Epoch { term: leader.epoch().term + 1, leader: 9 };
    for place in &mut followers.places {
        place.step(ToFollower::Prepare { epoch: successor }, &mut Effects::default());
    }
    assert_eq!(leader.end_restore(Some("digest"), 0, 2), Ok(Accepted::Pending { seq: 2 }));
    deliver(&mut leader, &mut followers);
    assert_eq!((leader.counters(), leader.fenced_by()), ((2, 1), Some(successor)));
}

// Goal: no number that a stranger sends can end a cluster. Method: the highest terms and sequence numbers there are.
#[test]
fn impossible_terms_and_sequence_numbers_are_not_believed() {
    let (mut leader, mut followers) = cluster(Limits::default());
    let highest = Epoch { term: u64::MAX, leader: 9 };
    let mut effects = Effects::default();
    followers.places[0].step(ToFollower::Prepare { epoch: highest }, &mut effects);
    assert_eq!(effects.replies, [ToLeader::Refused { promised: leader.epoch() }]);
    assert!(effects.changes.is_empty());

    let slot = leader.declare("demo-follower-0").expect("a slot");
    let hello = Hello { promised: highest, ..followers.places[0].hello() };
    leader.hello(slot, 77, hello);
    let outputs = leader.take_outputs();
    assert!(matches!(&outputs[..], [Output::Reset(_, ResetReason::ImpossibleEpoch(epoch))] if *epoch == highest));
    leader.receive(slot, 1, ToLeader::Refused { promised: highest });
    assert!(leader.is_open() && leader.epoch().term < 100);

    let saved = |seq| Saved { key: "k".into(), seq, value: Some("v".into()), marks: None };
    let part = Part::Alone { overwrite: false };
    leader.take_outputs();
    assert_eq!(
        leader.restore(saved(u64::MAX), part, 0, 1),
        Err(Refusal::SequenceTooHigh { key: "k".into(), seq: u64::MAX })
    );
    leader.restore(saved(SEQ_MAX), part, 0, 2).expect("the highest number");
    assert_eq!(leader.put(write("k", "next", None), 3), Ok(Accepted::Pending { seq: SEQ_MAX + 1 }));
    deliver(&mut leader, &mut followers);
    assert_eq!(leader.committed("k").map(|record| record.version.seq), Some(SEQ_MAX + 1));
}

// Goal: writes without a quorum take a bounded number of bytes, and one write of any size is always taken.
#[test]
fn writes_in_flight_are_bounded_in_bytes() {
    let (mut leader, mut followers) = cluster(Limits { bytes_in_flight: 1_000, ..Limits::default() });
    hold_writes(&mut followers);
    let long = "x".repeat(2_000);
    leader.put(write("long", &long, None), 1).expect("one write is always taken");
    let refused = leader.put(write("short", "v", None), 2);
    assert!(matches!(refused, Err(Refusal::OverloadedBytes { limit: 1_000, .. })), "{refused:?}");
    deliver(&mut leader, &mut followers);
    let_all_go(&mut leader, &mut followers);
    leader.put(write("short", "v", None), 3).expect("the quorum was reached");
}

// Goal: a retry finds the write that it repeats, also where later writes of its key are under way, and learns of the
// commit. Method: the first of three writes has a token, and is retried before and after the commit.
#[test]
fn a_retry_waits_for_its_own_write() {
    let (mut leader, mut followers) = cluster(Limits::default());
    hold_writes(&mut followers);
    leader.put(write("k", "one", Some("t")), 1).expect("taken");
    leader.put(write("k", "two", None), 2).expect("taken");
    leader.put(write("other", "one", Some("t")), 3).expect("a token counts for one key");
    assert_eq!(leader.put(write("k", "one", Some("t")), 4), Ok(Accepted::Pending { seq: 1 }));
    assert_eq!(leader.put(write("k", "else", Some("t")), 5), Err(Refusal::TokenReused { seq: 1 }));
    deliver(&mut leader, &mut followers);
    followers.hold = |_, _| false;
    let mut answered = Vec::new();
    while followers.let_go_one(&mut leader) {
        let outputs = leader.take_outputs();
        answered.extend(committed(&outputs));
    }
    answered.sort_unstable();
    assert_eq!(answered, [1, 2, 3, 4]);
    assert_eq!(leader.put(write("k", "one", Some("t")), 6), Ok(Accepted::AlreadyCommitted { seq: 1 }));
}

// Goal: clients that give up and retry do not fill the memory. Method: far more retries than may wait; those that are gone
// are dropped, and of those that wait the oldest is answered.
#[test]
fn waiters_and_readers_are_bounded() {
    let (mut leader, mut followers) = cluster(Limits { reads_waiting: 3, ..Limits::default() });
    hold_writes(&mut followers);
    leader.put(write("k", "v", Some("t")), 0).expect("taken");
    for waiter in 1..=1_000 {
        leader.put(write("k", "v", Some("t")), waiter).expect("a retry");
    }
    let outputs = leader.take_outputs();
    let unknown = outputs.iter().filter(|output| matches!(output, Output::Indeterminate { seq: 1, .. })).count();
    assert_eq!(unknown, 1_000 - 64);
    leader.forget_gone(|waiter| *waiter > 0, |_| false);
    for waiter in 1..=64 {
        leader.put(write("k", "v", Some("t")), waiter).expect("a retry");
    }
    assert!(!leader.take_outputs().iter().any(|output| matches!(output, Output::Indeterminate { .. })));

    for reader in 0..3 {
        leader.read(reader).expect("a read");
    }
    assert_eq!(leader.read(3), Err(Refusal::OverloadedReads { reads: 3, limit: 3 }));
    leader.forget_gone(|_| false, |reader| *reader < 2);
    leader.read(4).expect("there is room again");
}

// Goal: a leader that can acknowledge nothing says so at once, after a moment's grace. Method: three of five followers
// go; time passes; one comes back. Then all are connected, and too few answer.
#[test]
fn a_leader_that_is_cut_off_refuses_at_once() {
    let (mut leader, mut followers) = cluster(Limits::default());
    let mut now_us = 0;
    let mut pass = |leader: &mut Core, followers: &mut Followers, us: u64| {
        for _ in 0..us / 100_000 {
            now_us += 100_000;
            leader.tick(now_us);
            deliver(leader, followers);
        }
    };
    pass(&mut leader, &mut followers, 3_000_000);
    assert_eq!(leader.cut_off(), None);
    for place in 0..3 {
        let slot = leader.declare(&format!("demo-follower-{place}")).expect("a slot");
        leader.closed(slot, place + 1);
    }
    pass(&mut leader, &mut followers, 900_000);
    leader.put(write("k", "v", None), 1).expect("within the grace");
    pass(&mut leader, &mut followers, 400_000);
    let few = CutOff::TooFewConnected { connected: 2, quorum: 3 };
    assert_eq!(leader.put(write("k", "v", None), 2), Err(Refusal::CutOff(few.clone())));
    assert_eq!(leader.read(3), Err(Refusal::CutOff(few)));
    connect(&mut leader, &mut followers, 0);
    pass(&mut leader, &mut followers, 200_000);
    leader.put(write("k", "w", None), 4).expect("three followers are connected");
    assert_eq!(leader.committed("k").and_then(|record| record.value.clone()).as_deref(), Some(&b"v"[..]));

    (1..3).for_each(|place| connect(&mut leader, &mut followers, place));
    pass(&mut leader, &mut followers, 200_000);
    followers.hold = |place, message| place < 3 && matches!(message, ToFollower::Probe { .. });
    pass(&mut leader, &mut followers, 4_500_000);
    assert_eq!(leader.cut_off(), None);
    pass(&mut leader, &mut followers, 1_500_000);
    assert_eq!(leader.cut_off(), Some(&CutOff::TooFewAnswer { quorum: 3, for_ms: 5_000 }));
    let_all_go(&mut leader, &mut followers);
    pass(&mut leader, &mut followers, 300_000);
    assert_eq!(leader.cut_off(), None);
}
