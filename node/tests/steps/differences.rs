//! What a new leader asks of its followers and sends to them: what differs, and nothing else.

use kv_node::protocol::messages::ToFollower;
use kv_node::protocol::types::Epoch;

use crate::direct::{Core, Followers, Traffic, connect, disconnect, followers, key, leader, put};

const KEYS: usize = 5_000;

/// More keys than fall into one bucket.
const BUCKET: usize = 200;

/// Five followers of an open leader, all with the same keys.
fn full() -> (Core, Followers) {
    let (mut first, mut followers) = (leader(1), followers());
    (0..5).for_each(|place| connect(&mut first, &mut followers, place));
    assert!(first.is_open());
    (0..KEYS).for_each(|number| {
        put(&mut first, &mut followers, number, "first");
    });
    followers.traffic = Traffic::default();
    (first, followers)
}

/// Every follower shows what the leader does.
fn assert_same(leader: &Core, followers: &Followers, places: impl IntoIterator<Item = usize>) {
    for place in places {
        let follower = &followers.places[place];
        let keys = (0..KEYS + 10).map(key);
        for key in keys {
            let here = follower.get(&key).map(|record| (record.version.seq, record.value.clone()));
            let there = leader.latest(&key).map(|(record, _)| (record.version.seq, record.value.clone()));
            assert_eq!(here, there, "{key} at {place}");
        }
        assert_eq!(follower.synced().map(|synced| synced.epoch), Some(leader.epoch()));
    }
}

// Goal: a leader that restarts moves no record but those that it needs once. Method: one follower gives everything, four say
// that they have the same; nobody is sent anything, and yet all go on with the new leader.
#[test]
fn what_is_the_same_is_not_sent_again() {
    let (_, mut followers) = full();
    let mut next = leader(2);
    (0..5).for_each(|place| connect(&mut next, &mut followers, place));
    assert!(next.is_open());
    assert_eq!(followers.traffic, Traffic { fetched: KEYS, installed: 0, jobs: 5, copied: 0 });
    assert_same(&next, &followers, 0..5);
    assert_eq!(put(&mut next, &mut followers, 7, "second"), 2, "the numbers of a key go on");
    assert_same(&next, &followers, 0..5);
}

// Goal: one that was away over a change of leaders is sent what it missed. Method: three keys change without it, then
// another leader comes, once with it among the promises and once after it opened.
#[test]
fn one_that_was_away_gets_what_it_missed() {
    for order in [[4, 0, 1, 2, 3], [0, 1, 2, 3, 4]] {
        let (mut first, mut followers) = full();
        disconnect(&mut first, &mut followers, 4);
        for number in [3, 1_003, 2_003] {
            put(&mut first, &mut followers, number, "second");
        }
        let mut next = leader(2);
        order.into_iter().for_each(|place| connect(&mut next, &mut followers, place));
        assert!(next.is_open());
        let Traffic { fetched, installed, .. } = followers.traffic;
        assert!((3..=3 * BUCKET).contains(&installed), "{installed} records for three keys");
        assert!(fetched <= KEYS + 6 * BUCKET, "{fetched} records");
        assert_same(&next, &followers, 0..5);
    }
}

// Goal: what a recovery did not pick is gone. Method: a key reaches one follower and no quorum; the next leader opens
// without that follower, which then joins.
#[test]
fn a_key_that_nobody_recovered_goes() {
    let (mut first, mut followers) = full();
    (0..4).for_each(|place| disconnect(&mut first, &mut followers, place));
    put(&mut first, &mut followers, KEYS, "lost");
    assert!(followers.places[4].get(&key(KEYS)).is_some());
    let mut next = leader(2);
    (0..5).for_each(|place| connect(&mut next, &mut followers, place));
    assert!(next.is_open() && next.latest(&key(KEYS)).is_none());
    assert!(followers.places[4].get(&key(KEYS)).is_none());
    assert_same(&next, &followers, 0..5);
    let installed = followers.traffic.installed;
    assert!(installed <= BUCKET, "{installed} records for the bucket of one key");
}

// Goal: a write of this leader is never taken for one of a leader that is gone, though the two look alike: a state
// transfer that arrives late would put what was recovered over the old one. Method: the same value gets the same number
// from two leaders, and the follower that has the first joins the second.
#[test]
fn the_same_value_accepted_again_is_sent_again() {
    let (mut first, mut followers) = full();
    (0..4).for_each(|place| disconnect(&mut first, &mut followers, place));
    let before = put(&mut first, &mut followers, 9, "again");
    let mut next = leader(2);
    (0..3).for_each(|place| connect(&mut next, &mut followers, place));
    assert_eq!(put(&mut next, &mut followers, 9, "again"), before);
    let epoch_at = |followers: &Followers| -> Option<Epoch> {
        followers.places[4].get(&key(9)).map(|record| record.version.epoch)
    };
    assert_eq!(epoch_at(&followers), Some(first.epoch()));
    connect(&mut next, &mut followers, 4);
    assert_eq!(epoch_at(&followers), Some(next.epoch()));
}

// Goal: nobody is waited for in vain. Method: the follower that was to give everything never does, and its connection ends.
#[test]
fn another_one_gives_what_the_first_did_not() {
    let (_, mut followers) = full();
    followers.hold = |place, message| place == 0 && matches!(message, ToFollower::Fetch { .. });
    let mut next = leader(2);
    (0..4).for_each(|place| connect(&mut next, &mut followers, place));
    assert!(!next.is_open() && followers.traffic.fetched == 0);
    disconnect(&mut next, &mut followers, 0);
    assert!(next.is_open());
    assert_same(&next, &followers, 1..4);
}

// Goal: an answer to what was asked before the leader opened does not decide what a follower is sent afterwards. Method:
// both questions reach the follower only then, one after the other.
#[test]
fn an_answer_to_an_earlier_question_is_passed_over() {
    let (_, mut followers) = full();
    followers.hold = |place, message| place == 3 && matches!(message, ToFollower::Compare { .. });
    let mut next = leader(2);
    // The last one to promise gives the third promise that is needed, and the fourth is asked as well.
    [0, 3, 1, 2].into_iter().for_each(|place| connect(&mut next, &mut followers, place));
    assert!(next.is_open());
    followers.hold = |_, _| false;
    let jobs = followers.traffic.jobs;
    assert!(followers.let_go(&mut next));
    assert_eq!(followers.traffic.jobs, jobs, "that was the answer for the recovery");
    assert!(followers.let_go(&mut next));
    assert_eq!(followers.traffic.jobs, jobs + 1);
    assert!(!followers.let_go(&mut next));
    assert_same(&next, &followers, 0..4);
}
