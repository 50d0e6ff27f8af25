//! What a standby copies while another leader works, and what its recovery makes of the copy.

use kv_node::protocol::follower::{self, Effects, Follower};
use kv_node::protocol::leader::Limits;
use kv_node::protocol::messages::{ToFollower, ToLeader};
use kv_node::protocol::types::FollowerId;

use crate::direct::{Core, Followers, Traffic, connect, deliver, disconnect, followers, key, leader, leader_with, put};

const KEYS: usize = 1_000;

/// More keys than any bucket has.
const BUCKET: usize = 200;

const ROUNDS: u32 = 3;

fn tick(leader: &mut Core, followers: &mut Followers) {
    leader.tick(0);
    deliver(leader, followers);
}

/// An open leader and its five followers, which have `KEYS` keys.
fn full() -> (Core, Followers) {
    let (mut first, mut followers) = (leader(1), followers());
    (0..5).for_each(|place| connect(&mut first, &mut followers, place));
    (0..KEYS).for_each(|number| _ = put(&mut first, &mut followers, number, "first"));
    followers.traffic = Traffic::default();
    (first, followers)
}

/// A standby that is connected to these followers and has copied the state of the first one.
fn standby(followers: &mut Followers, places: &[usize]) -> Core {
    let mut standby = leader_with(7, 5, Limits { takeover_rounds: ROUNDS, ..Limits::default() });
    places.iter().for_each(|place| connect(&mut standby, followers, *place));
    tick(&mut standby, followers);
    assert!(standby.candidate().is_some_and(|view| view.copied), "{:?}", standby.candidate());
    standby
}

/// The other leader is gone: the standby takes over.
fn take_over(standby: &mut Core, followers: &mut Followers) {
    for _ in 0..4 * ROUNDS {
        tick(standby, followers);
    }
    assert!(standby.is_open(), "{:?}", standby.candidate());
}

fn value_at(leader: &Core, number: usize) -> Option<String> {
    leader.latest(&key(number))?.0.value.as_ref().map(ToString::to_string)
}

// Goal: a standby that takes over fetches nothing that it has, and what changed since. Method: keys are written before the
// last question of the standby, and after it.
#[test]
fn a_standby_fetches_what_it_lacks() {
    for missed in [0, 3] {
        let (mut first, mut followers) = full();
        let mut next = standby(&mut followers, &[0, 1, 2, 3, 4]);
        put(&mut first, &mut followers, 3, "second");
        put(&mut first, &mut followers, KEYS, "new");
        tick(&mut next, &mut followers);
        assert_eq!(next.candidate().map(|view| view.copied_keys), Some(KEYS + 1));
        followers.hold = |_, message| matches!(message, ToFollower::Copy { .. });
        (0..missed).for_each(|number| _ = put(&mut first, &mut followers, 10 + number, "third"));
        take_over(&mut next, &mut followers);
        let Traffic { fetched, installed, .. } = followers.traffic;
        assert_eq!(installed, 0);
        assert!((missed..=missed * BUCKET).contains(&fetched), "{fetched} records for {missed} keys");
        for number in 0..=KEYS {
            assert_eq!(value_at(&next, number), value_at(&first, number));
        }
    }
}

// Goal: a copy proves nothing. Method: the copied follower has a key and a value without a quorum, and other followers
// open the next two leaders.
#[test]
fn what_only_the_copy_has_does_not_come_back() {
    let (mut first, mut followers) = full();
    (0..4).for_each(|place| disconnect(&mut first, &mut followers, place));
    put(&mut first, &mut followers, KEYS, "lost");
    put(&mut first, &mut followers, 5, "lost");
    let mut next = standby(&mut followers, &[4]);
    assert_eq!(next.candidate().map(|view| view.copied_keys), Some(KEYS + 1));
    let mut second = leader(2);
    (0..3).for_each(|place| connect(&mut second, &mut followers, place));
    assert!(second.is_open());
    followers.hold = |_, message| matches!(message, ToFollower::Copy { .. });
    disconnect(&mut next, &mut followers, 4);
    (0..3).for_each(|place| connect(&mut next, &mut followers, place));
    take_over(&mut next, &mut followers);
    assert_eq!((value_at(&next, KEYS), value_at(&next, 5).as_deref()), (None, Some("first")));
    assert!(followers.traffic.fetched <= KEYS + 2 * BUCKET, "{:?}", followers.traffic);
}

// Goal: a record of the copy that a follower has too counts as that follower's. Method: a value without a quorum gets the
// same number under the next leader, with a quorum; a follower that was filled in between has the value before it.
#[test]
fn a_record_that_the_copy_shares_has_the_epoch_of_the_follower() {
    let (mut first, mut followers) = full();
    (1..5).for_each(|place| disconnect(&mut first, &mut followers, place));
    put(&mut first, &mut followers, 5, "again");
    let mut next = standby(&mut followers, &[0]);
    disconnect(&mut next, &mut followers, 0);

    let mut second = leader(2);
    (1..4).for_each(|place| connect(&mut second, &mut followers, place));
    let id = followers.places[4].id();
    followers.places[4] = Follower::blank(FollowerId(90), "demo-follower-4".into());
    assert_ne!(followers.places[4].id(), id);
    [4, 0].into_iter().for_each(|place| connect(&mut second, &mut followers, place));
    assert_eq!(value_at(&second, 5).as_deref(), Some("first"));
    [3, 4].into_iter().for_each(|place| disconnect(&mut second, &mut followers, place));
    put(&mut second, &mut followers, 5, "again");
    let record = |place: usize| followers.places[place].get(&key(5)).expect("a record").clone();
    assert!(record(0).version.seq > record(4).version.seq && record(0).version.epoch == record(4).version.epoch);

    followers.hold = |_, message| matches!(message, ToFollower::Copy { .. });
    [0, 3, 4].into_iter().for_each(|place| connect(&mut next, &mut followers, place));
    take_over(&mut next, &mut followers);
    assert_eq!(value_at(&next, 5).as_deref(), Some("again"));
}

// Goal: a follower remembers a bounded number of changes; a standby that asks too late copies everything again. Method: as
// many changes as it remembers, and one more.
#[test]
fn a_follower_that_forgot_what_changed_sends_everything() {
    for (changes, everything) in [(50, false), (51, true)] {
        let (mut first, mut followers) = full();
        let limits = follower::Limits { changed_keys: 50, ..follower::Limits::default() };
        followers.places[0] = followers.places[0].clone().limited(limits);
        let mut next = standby(&mut followers, &[0]);
        (0..changes).for_each(|number| _ = put(&mut first, &mut followers, number, "second"));
        followers.traffic = Traffic::default();
        tick(&mut next, &mut followers);
        assert_eq!(followers.traffic.copied, if everything { KEYS } else { changes });
        assert_eq!(next.candidate().map(|view| view.copied_keys), Some(KEYS));
    }
}

// Goal: an answer that belongs to an earlier copy completes no later one. Method: the follower answers a standby that
// copied everything; the answer reaches one that has just begun.
#[test]
fn an_outdated_answer_completes_no_copy() {
    let (_first, mut followers) = full();
    let mut begins = leader_with(7, 5, Limits { takeover_rounds: ROUNDS, ..Limits::default() });
    followers.hold = |_, message| matches!(message, ToFollower::Copy { .. });
    connect(&mut begins, &mut followers, 0);
    tick(&mut begins, &mut followers);
    let follower = &mut followers.places[0];
    let mut from = None;
    let last = loop {
        let mut effects = Effects::default();
        follower.step(ToFollower::Copy { from }, &mut effects);
        match effects.replies.pop().expect("an answer") {
            ToLeader::Copied { next, more: true, .. } => from = Some(next),
            last => break last,
        }
    };
    let slot = begins.declare(&follower.hello().name).expect("a slot");
    begins.receive(slot, 1, last);
    assert_eq!(begins.candidate().map(|view| view.copied), Some(false));
}
