//! The comparison in the background: it finds what no message brought about, mends it, and raises no false alarm.

use kv_node::protocol::follower::{Follower, Kept};
use kv_node::protocol::keymap::KeyMap;
use kv_node::protocol::leader::{AuditCounts, Limits};
use kv_node::protocol::types::{Epoch, Record, Version};

use crate::direct::{Core, Followers, connect, deliver, followers, key, leader_with, put};

const KEYS: usize = 300;

fn cluster() -> (Core, Followers) {
    let limits = Limits { audit_keys: 7, audit_pause_us: 1_000_000, ..Limits::default() };
    let (mut leader, mut followers) = (leader_with(1, 5, limits), followers());
    (0..5).for_each(|place| connect(&mut leader, &mut followers, place));
    (0..KEYS).for_each(|number| _ = put(&mut leader, &mut followers, number, "first"));
    (leader, followers)
}

/// Heartbeats until every follower was compared so many times more; `between` happens between two of them.
fn compare(
    leader: &mut Core,
    followers: &mut Followers,
    now_us: &mut u64,
    rounds: u64,
    mut between: impl FnMut(&mut Core, &mut Followers),
) -> AuditCounts {
    let until = leader.audit_counts().completed + 5 * rounds;
    for _ in 0..10_000 {
        *now_us += 100_000;
        leader.tick(*now_us);
        deliver(leader, followers);
        between(leader, followers);
        if leader.audit_counts().completed >= until {
            return leader.audit_counts();
        }
    }
    panic!("the comparisons do not come to an end: {:?}", leader.audit_counts());
}

/// Replaces what a follower remembers, as a fault of its memory would.
fn corrupt(followers: &mut Followers, place: usize, change: impl Fn(&str, &Record) -> Option<Record>) {
    let it = &followers.places[place];
    let mut records = KeyMap::default();
    for (key, record) in it.records().iter() {
        if let Some(record) = change(key, record) {
            records.insert(key.clone(), record);
        }
    }
    let kept = Kept { promised: it.promised(), synced: it.synced().cloned(), records };
    followers.places[place] = Follower::with(it.id(), it.hello().name, kept);
}

fn same(leader: &Core, follower: &Follower) -> bool {
    let known = |number: usize| follower.get(&key(number)).map(|record| record.value.clone());
    follower.keys() == leader.keys()
        && (0..KEYS).all(|number| known(number) == leader.latest(&key(number)).map(|(record, _)| record.value.clone()))
}

// Goal: no false alarm. Method: comparisons over many heartbeats while keys are written all the time.
#[test]
fn writes_that_go_on_are_no_difference() {
    let (mut leader, mut followers) = cluster();
    let (mut now_us, mut written) = (0, 0);
    let counts = compare(&mut leader, &mut followers, &mut now_us, 3, |leader, followers| {
        written += 1;
        put(leader, followers, written * 31 % (2 * KEYS), "second");
        // Some of them reach a follower late.
        followers.hold = if written % 3 == 0 { |place, _| place == 2 } else { |_, _| false };
        if written % 3 == 1 {
            while followers.let_go(leader) {}
        }
    });
    assert!(written > 300, "{written} writes between the heartbeats");
    assert_eq!((counts.mended, counts.unmended), (0, 0));
}

// Goal: what a follower lost, kept or never had is found and mended. Method: one follower loses a key, goes back to an
// older value of another, and remembers a key that the leader does not have.
#[test]
fn a_difference_is_found_and_mended() {
    let (mut leader, mut followers) = cluster();
    let mut now_us = 0;
    put(&mut leader, &mut followers, 5, "second");
    corrupt(&mut followers, 3, |name, record| match name {
        "key4" => None,
        "key5" => {
            Some(Record { version: Version { seq: 1, ..record.version }, value: Some("first".into()), marks: None })
        }
        _ => Some(record.clone()),
    });
    let older = Record { version: Version { epoch: Epoch::default(), seq: 9 }, value: Some("x".into()), marks: None };
    followers.places[3].restore(kv_node::protocol::follower::Change::Put("key4 of old".into(), older));
    assert!(!same(&leader, &followers.places[3]));
    let counts = compare(&mut leader, &mut followers, &mut now_us, 2, |_, _| {});
    assert!((1..=3).contains(&counts.mended) && counts.unmended == 0, "{counts:?}");
    assert!(same(&leader, &followers.places[3]), "the follower has what the leader has");
    assert!(followers.places[3].get("key4 of old").is_none());
    put(&mut leader, &mut followers, 4, "third");
    assert!(same(&leader, &followers.places[3]), "single writes go on");
}

// Goal: where versions are equal and values are not, no side is known to be right: it is reported again and again.
#[test]
fn a_difference_under_one_version_is_reported() {
    let (mut leader, mut followers) = cluster();
    let mut now_us = 0;
    corrupt(&mut followers, 1, |name, record| {
        Some(if name == "key7" { Record { value: Some("rotten".into()), ..record.clone() } } else { record.clone() })
    });
    let first = compare(&mut leader, &mut followers, &mut now_us, 1, |_, _| {});
    assert_eq!((first.mended, first.unmended), (1, 0));
    let second = compare(&mut leader, &mut followers, &mut now_us, 2, |_, _| {});
    assert_eq!((second.mended, second.unmended), (1, 2));
}
