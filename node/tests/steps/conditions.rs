//! Conditions and increments: what a leader decides them against, and when it answers a refusal.

use std::sync::Arc;

use kv_node::protocol::etag::Etag;
use kv_node::protocol::follower::Effects;
use kv_node::protocol::leader::{
    Accepted, Change, Condition, Increment, Incremented, Limits, NewWrite, NoSum, Output, ReadOf, Refusal, sum,
};
use kv_node::protocol::messages::ToFollower;
use kv_node::protocol::types::Epoch;
use kv_node::protocol::value::Value;

use crate::direct::{Core, Followers, connect, deliver, followers, leader_with};

const PENDING_1: Result<Accepted, Refusal> = Ok(Accepted::Pending { seq: 1 });
const UNMET: Result<Accepted, Refusal> = Ok(Accepted::Unmet);

/// An answer to the client with this number. A refusal shows the sequence number and the value.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Committed(u32),
    Unmet(u32, Option<(u64, Option<Value>)>),
    NotApplied(u32),
    Indeterminate(u32),
}

fn found(seq: u64, value: &str) -> Option<(u64, Option<Value>)> {
    Some((seq, Some(value.into())))
}

fn cluster(limits: Limits) -> (Core, Followers) {
    let (mut leader, mut followers) = (leader_with(1, 5, limits), followers());
    (0..5).for_each(|place| connect(&mut leader, &mut followers, place));
    assert!(leader.is_open());
    (leader, followers)
}

/// Delivers what is not held, and returns the answers to clients since the last call.
fn answers(leader: &mut Core, followers: &mut Followers) -> Vec<Answer> {
    deliver(leader, followers);
    followers.let_go_all(leader);
    let answer = |report| match report {
        Output::Committed { waiter, .. } => Some(Answer::Committed(waiter)),
        Output::Indeterminate { waiter, .. } => Some(Answer::Indeterminate(waiter)),
        Output::NotApplied(waiter) => Some(Answer::NotApplied(waiter)),
        Output::Unmet { waiter, found } => {
            Some(Answer::Unmet(waiter, found.map(|record| (record.version.seq, record.value))))
        }
        _ => None,
    };
    followers.reports.drain(..).filter_map(answer).collect()
}

fn write(value: Option<&str>, token: Option<&str>) -> NewWrite {
    let (value, retry_token) = (value.map(Value::from), token.map(Arc::from));
    NewWrite { key: "k".into(), value, retry_token, explain: false, now_us: 0 }
}

fn put_if(leader: &mut Core, value: &str, condition: Condition, waiter: u32) -> Result<Accepted, Refusal> {
    leader.put_if(write(Some(value), None), condition, waiter)
}

fn version(seq: u64, value: Option<&str>) -> Condition {
    Condition::Version(Etag::new(seq, value.map(str::as_bytes)))
}

fn increment(leader: &mut Core, by: i64, token: Option<&str>, waiter: u32) -> Result<Incremented, Refusal> {
    leader.increment(Increment { key: "k".into(), by, retry_token: token.map(Arc::from), now_us: 0 }, waiter)
}

/// Every follower promises another leader's epoch.
fn replace(leader: &Core, followers: &mut Followers) {
    let epoch = Epoch { term: leader.epoch().term + 1, leader: 9 };
    for place in &mut followers.places[..5] {
        place.step(ToFollower::Prepare { epoch }, &mut Effects::default());
    }
}

fn writes(_: usize, message: &ToFollower) -> bool {
    matches!(message, ToFollower::Writes { .. })
}

fn probes(_: usize, message: &ToFollower) -> bool {
    matches!(message, ToFollower::Probe { .. })
}

// Goal: of two clients that change one version, one wins, also before the first change is committed. Method: no write
// reaches a follower, and each condition meets the record of the write before it.
#[test]
fn a_condition_is_decided_against_the_newest_accepted_record() {
    let (mut leader, mut followers) = cluster(Limits::default());
    followers.hold = writes;
    assert_eq!(put_if(&mut leader, "one", Condition::Present, 1), UNMET);
    assert_eq!(put_if(&mut leader, "one", version(0, None), 2), UNMET);
    assert_eq!(put_if(&mut leader, "one", Condition::Absent, 3), PENDING_1);
    assert_eq!(put_if(&mut leader, "other", Condition::Absent, 4), UNMET);
    assert_eq!(put_if(&mut leader, "two", version(1, Some("other")), 5), UNMET);
    assert_eq!(put_if(&mut leader, "two", version(1, Some("one")), 6), Ok(Accepted::Pending { seq: 2 }));
    assert_eq!(put_if(&mut leader, "other", version(1, Some("one")), 7), UNMET);
    let deleted = leader.put_if(write(None, None), Condition::Present, 8);
    assert_eq!(deleted, Ok(Accepted::Pending { seq: 3 }));
    assert_eq!(put_if(&mut leader, "other", Condition::Present, 9), UNMET);
    assert_eq!(put_if(&mut leader, "other", version(3, Some("")), 10), UNMET);
    assert_eq!(put_if(&mut leader, "back", version(3, None), 11), Ok(Accepted::Pending { seq: 4 }));
    assert_eq!(leader.counters().0, 4);
}

// Goal: a refusal never shows a value that can still be lost, nor an older one than another leader has acknowledged. Method:
// the writes are held, then the probes, and the answers are counted after each step.
#[test]
fn a_refusal_waits_for_the_commit_of_the_record_and_for_the_round() {
    let (mut leader, mut followers) = cluster(Limits::default());
    followers.hold = writes;
    leader.put(write(Some("one"), None), 1).expect("accepted");
    assert_eq!(put_if(&mut leader, "two", Condition::Absent, 2), UNMET);
    assert_eq!(answers(&mut leader, &mut followers), [], "the record is not committed");
    leader.read(7).expect("a read");
    assert_eq!(answers(&mut leader, &mut followers), [], "a round alone does not commit the record");
    followers.hold = probes;
    assert_eq!(answers(&mut leader, &mut followers), [Answer::Committed(1)], "no follower was asked who leads");
    leader.put(write(Some("three"), None), 3).expect("accepted");
    assert_eq!(answers(&mut leader, &mut followers), [Answer::Committed(3)]);
    followers.hold = |_, _| false;
    assert_eq!(answers(&mut leader, &mut followers), [Answer::Unmet(2, found(1, "one"))]);

    // The record is committed already, or there is none.
    followers.hold = probes;
    assert_eq!(put_if(&mut leader, "four", Condition::Absent, 4), UNMET);
    let other = NewWrite { key: "other".into(), ..write(Some("v"), None) };
    assert_eq!(leader.put_if(other, Condition::Present, 5), UNMET);
    assert_eq!(answers(&mut leader, &mut followers), []);
    followers.hold = |_, _| false;
    let expected = [Answer::Unmet(4, found(2, "three")), Answer::Unmet(5, None)];
    assert_eq!(answers(&mut leader, &mut followers), expected);
}

// Goal: a leader that was replaced refuses nothing, since its successor may have a newer value. Method: the followers promise
// another epoch while the record is committed, while it is not, and between their confirmations and their arrival.
#[test]
fn a_leader_that_was_replaced_answers_no_refusal() {
    let (mut leader, mut followers) = cluster(Limits::default());
    leader.put(write(Some("one"), None), 1).expect("accepted");
    assert_eq!(answers(&mut leader, &mut followers), [Answer::Committed(1)]);
    replace(&leader, &mut followers);
    assert_eq!(put_if(&mut leader, "two", Condition::Absent, 2), UNMET);
    assert_eq!(answers(&mut leader, &mut followers), [Answer::NotApplied(2)]);

    let (mut leader, mut followers) = cluster(Limits::default());
    followers.hold = writes;
    leader.put(write(Some("one"), None), 1).expect("accepted");
    assert_eq!(put_if(&mut leader, "two", Condition::Absent, 2), UNMET);
    deliver(&mut leader, &mut followers);
    replace(&leader, &mut followers);
    followers.hold = |_, _| false;
    assert_eq!(answers(&mut leader, &mut followers), [Answer::Indeterminate(1), Answer::NotApplied(2)]);

    let (mut leader, mut followers) = cluster(Limits::default());
    leader.put(write(Some("one"), None), 1).expect("accepted");
    assert_eq!(put_if(&mut leader, "two", Condition::Absent, 2), UNMET);
    let mut confirmations = Vec::new();
    let slots = leader.followers(0);
    for output in leader.take_outputs() {
        let Output::Transmit(to, write) = output else { panic!("a write is sent, and not {output:?}") };
        for slot in to {
            let place = slots.iter().position(|view| view.slot == slot).expect("a follower");
            let (epoch, mut effects) = (leader.epoch(), Effects::default());
            followers.places[place].step(ToFollower::Writes { epoch, writes: vec![(*write).clone()] }, &mut effects);
            confirmations.extend(effects.replies.into_iter().map(|reply| (slot, place as u64 + 1, reply)));
        }
    }
    replace(&leader, &mut followers);
    confirmations.into_iter().for_each(|(slot, session, reply)| leader.receive(slot, session, reply));
    let expected = [Answer::Committed(1), Answer::NotApplied(2)];
    assert_eq!(answers(&mut leader, &mut followers), expected);
}

// Goal: the retry of a conditional write finds the write, and is not refused by it. Method: retries before and after the
// commit, and of a write that was refused.
#[test]
fn a_retry_finds_its_own_conditional_write() {
    let (mut leader, mut followers) = cluster(Limits::default());
    followers.hold = writes;
    let once =
        |leader: &mut Core, value, condition, waiter| leader.put_if(write(Some(value), Some("t")), condition, waiter);
    assert_eq!(once(&mut leader, "one", Condition::Absent, 1), PENDING_1);
    assert_eq!(once(&mut leader, "one", Condition::Absent, 2), PENDING_1);
    assert_eq!(once(&mut leader, "two", Condition::Absent, 3), Err(Refusal::TokenReused { seq: 1 }));
    followers.hold = |_, _| false;
    assert_eq!(answers(&mut leader, &mut followers), [Answer::Committed(1), Answer::Committed(2)]);
    assert_eq!(once(&mut leader, "one", Condition::Absent, 4), Ok(Accepted::AlreadyCommitted { seq: 1 }));

    let refused = |leader: &mut Core, waiter| leader.put_if(write(Some("new"), Some("u")), Condition::Absent, waiter);
    assert_eq!(refused(&mut leader, 5), UNMET);
    leader.put(write(None, None), 6).expect("a deletion");
    assert_eq!(refused(&mut leader, 7), Ok(Accepted::Pending { seq: 3 }), "a refusal uses up no idempotency key");
}

// Goal: no increment is lost, and a retried one adds once. Method: increments and retries while no write is committed, and
// retries after the commit.
#[test]
fn increments_add_to_values_that_are_not_committed() {
    let (mut leader, mut followers) = cluster(Limits::default());
    followers.hold = writes;
    let pending = |seq, sum| Ok(Incremented { accepted: Accepted::Pending { seq }, sum: Some(sum) });
    let known = |seq, sum| Ok(Incremented { accepted: Accepted::AlreadyCommitted { seq }, sum });
    assert_eq!(increment(&mut leader, 5, Some("a"), 1), pending(1, 5));
    assert_eq!(increment(&mut leader, -7, Some("b"), 2), pending(2, -2));
    assert_eq!(increment(&mut leader, 5, Some("a"), 3), pending(1, 5));
    assert_eq!(increment(&mut leader, 6, Some("a"), 4), Err(Refusal::TokenReused { seq: 1 }));
    assert_eq!(leader.put(write(Some("5"), Some("a")), 4), Err(Refusal::TokenReused { seq: 1 }));
    followers.hold = |_, _| false;
    assert_eq!(answers(&mut leader, &mut followers).len(), 3);
    assert_eq!(increment(&mut leader, 5, Some("a"), 5), known(1, None), "a later write replaced the sum");
    assert_eq!(increment(&mut leader, -7, Some("b"), 6), known(2, Some(-2)));
    assert_eq!(leader.committed("k").and_then(|record| record.value.clone()).as_deref(), Some(&b"-2"[..]));
    leader.put(write(None, None), 7).expect("a deletion");
    assert_eq!(increment(&mut leader, 1, None, 8), pending(4, 1));
}

// Goal: a value that cannot be added to refuses the increment, as a read of it does. Method: no integer, and the highest one,
// while the write is held.
#[test]
fn an_increment_without_a_sum_is_refused_once_the_value_is_committed() {
    for (value, why) in [("one", NoSum::NoInteger), ("", NoSum::NoInteger), ("9223372036854775807", NoSum::Overflow)] {
        let (mut leader, mut followers) = cluster(Limits::default());
        followers.hold = writes;
        leader.put(write(Some(value), None), 1).expect("accepted");
        let refused = Incremented { accepted: Accepted::Unmet, sum: None };
        assert_eq!(increment(&mut leader, 1, None, 2), Ok(refused));
        assert_eq!(sum(Some(value.as_bytes()), 1), Err(why));
        assert_eq!(answers(&mut leader, &mut followers), []);
        followers.hold = |_, _| false;
        let expected = [Answer::Committed(1), Answer::Unmet(2, found(1, value))];
        assert_eq!(answers(&mut leader, &mut followers), expected);
    }
}

// Goal: refusals that wait take a bounded amount of memory, and none after their clients have gone. Method: a limit of two
// reads, and refusals that wait for a commit.
#[test]
fn refusals_that_wait_are_bounded_and_forgotten() {
    let (mut leader, mut followers) = cluster(Limits { reads_waiting: 2, ..Limits::default() });
    followers.hold = writes;
    leader.put(write(Some("one"), None), 1).expect("accepted");
    assert_eq!(put_if(&mut leader, "two", Condition::Absent, 2), UNMET);
    assert_eq!(put_if(&mut leader, "two", Condition::Absent, 3), UNMET);
    let overloaded = Err(Refusal::OverloadedReads { reads: 2, limit: 2 });
    assert_eq!(put_if(&mut leader, "two", Condition::Absent, 4), overloaded);
    leader.forget_gone(|waiter| *waiter == 2, |_| false);
    assert_eq!(put_if(&mut leader, "two", Condition::Absent, 5), UNMET);
    followers.hold = |_, _| false;
    let expected = [Answer::Committed(1), Answer::Unmet(3, found(1, "one")), Answer::Unmet(5, found(1, "one"))];
    assert_eq!(answers(&mut leader, &mut followers), expected);
}

// Goal: a client that sends a write, a read and another write without waiting reads the first one, and nothing that can
// still be lost. Method: the writes are held, then the probes; the second write is committed with the first one.
#[test]
fn a_read_in_order_shows_what_was_accepted_before_it() {
    let (mut leader, mut followers) = cluster(Limits::default());
    followers.hold = writes;
    leader.put(write(Some("one"), None), 1).expect("accepted");
    leader.read_in_order("k", ReadOf::Committed, 2).expect("a read");
    assert_eq!(answers(&mut leader, &mut followers), [Answer::Unmet(2, None)], "nothing is committed");
    leader.read_in_order("k", ReadOf::Accepted, 3).expect("a read");
    leader.put(write(Some("two"), None), 4).expect("accepted");
    leader.read_in_order("k", ReadOf::Committed, 5).expect("a read");
    leader.read_in_order("none", ReadOf::Accepted, 6).expect("a read");
    let now = [Answer::Unmet(5, None), Answer::Unmet(6, None)];
    assert_eq!(answers(&mut leader, &mut followers), now, "the value of the other read is not committed");
    followers.hold = probes;
    assert_eq!(answers(&mut leader, &mut followers), [Answer::Committed(1), Answer::Committed(4)]);
    leader.read_in_order("k", ReadOf::Committed, 7).expect("a read");
    leader.put(write(Some("three"), None), 8).expect("accepted");
    assert_eq!(answers(&mut leader, &mut followers), [Answer::Committed(8)], "no follower was asked who leads");
    followers.hold = |_, _| false;
    let expected = [Answer::Unmet(3, found(1, "one")), Answer::Unmet(7, found(2, "two"))];
    assert_eq!(answers(&mut leader, &mut followers), expected);

    followers.hold = writes;
    leader.put(write(Some("four"), None), 9).expect("accepted");
    for (of, waiter) in [(ReadOf::Accepted, 10), (ReadOf::Committed, 11)] {
        leader.read_in_order("k", of, waiter).expect("a read");
    }
    replace(&leader, &mut followers);
    let mut ends = answers(&mut leader, &mut followers);
    ends.sort_by_key(|end| format!("{end:?}"));
    let expected = [Answer::Indeterminate(9), Answer::NotApplied(10), Answer::NotApplied(11)];
    assert_eq!(ends, expected, "another leader may have written");
}

// Goal: an update changes the newest accepted value, and what it found holds once it is answered.
#[test]
fn an_update_decides_by_the_newest_accepted_record() {
    let (mut leader, mut followers) = cluster(Limits::default());
    followers.hold = writes;
    let update = |leader: &mut Core, change: Change, waiter: u32| {
        leader.update("k", 0, |known| (change, known.and_then(|record| record.value.clone())), waiter)
    };
    let to = |value: &str| Change::To(Some(value.into()));
    assert_eq!(update(&mut leader, Change::Refused, 1), Ok((Accepted::Unmet, None)));
    assert_eq!(update(&mut leader, to("one"), 2), Ok((Accepted::Pending { seq: 1 }, None)));
    assert_eq!(update(&mut leader, to("two"), 3), Ok((Accepted::Pending { seq: 2 }, Some("one".into()))));
    assert_eq!(update(&mut leader, Change::Refused, 4), Ok((Accepted::Unmet, Some("two".into()))));
    assert_eq!(update(&mut leader, Change::To(None), 5), Ok((Accepted::Pending { seq: 3 }, Some("two".into()))));
    assert_eq!(update(&mut leader, to("three"), 6), Ok((Accepted::Pending { seq: 4 }, None)));
    assert_eq!(answers(&mut leader, &mut followers), [Answer::Unmet(1, None)]);
    assert_eq!(leader.confirmed_by(leader.end()), 0, "no follower has a write");
    followers.hold = |_, _| false;
    let refused = Answer::Unmet(4, found(2, "two"));
    let [one, two, three, four] = [2, 3, 5, 6].map(Answer::Committed);
    assert_eq!(answers(&mut leader, &mut followers), [one, two, refused, three, four]);
    assert_eq!((leader.confirmed_by(leader.end()), leader.confirmed_by(leader.end() + 1)), (5, 0));
}
