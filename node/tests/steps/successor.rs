//! What a leader that has ended knows of its successor, where it sends its clients.

use std::sync::Arc;

use kv_node::protocol::leader::Limits;

use crate::direct::{Core, Followers, connect, deliver, followers, leader_with, put};

const ROUNDS: u32 = 3;
const OLD: &str = "http://old:8000";
const NEXT: &str = "http://next:8000";

/// A candidate that reaches so many followers.
fn candidate(id: u64, reached: usize, followers: &mut Followers) -> Core {
    let mut candidate = leader_with(id, 5, Limits { takeover_rounds: ROUNDS, ..Limits::default() });
    (0..reached).for_each(|place| connect(&mut candidate, followers, place));
    candidate
}

fn tick(leader: &mut Core, followers: &mut Followers) {
    leader.tick(0);
    deliver(leader, followers);
}

/// As the connection of a follower does when it obeys a leader.
fn obeys(followers: &mut Followers, places: impl IntoIterator<Item = usize>, url: &str) {
    places.into_iter().for_each(|place| followers.places[place].set_leader(url.into()));
}

/// A leader that the last follower names, and a standby that reaches so many followers.
fn pair(reached: usize) -> (Core, Core, Followers) {
    let mut followers = followers();
    let mut old = candidate(1, 5, &mut followers);
    (0..4 * ROUNDS).for_each(|_| tick(&mut old, &mut followers));
    assert!(old.is_open());
    obeys(&mut followers, [4], OLD);
    put(&mut old, &mut followers, 1, "value");
    let mut next = candidate(2, reached, &mut followers);
    tick(&mut next, &mut followers);
    assert_eq!(next.leads_elsewhere().as_deref(), (reached == 5).then_some(OLD));
    assert_eq!(old.leads_elsewhere(), None);
    (old, next, followers)
}

fn asks(old: &mut Core, followers: &mut Followers) -> Option<Arc<str>> {
    tick(old, followers);
    old.leads_elsewhere()
}

// Goal: a leader that handed over names its successor, and no leader before that. Method: it asks before and after the standby opens.
#[test]
fn a_leader_that_handed_over_names_its_successor() {
    let (mut old, mut next, mut followers) = pair(5);
    assert!(old.resign());
    deliver(&mut old, &mut followers);
    assert_eq!(asks(&mut old, &mut followers), None);
    assert!(!old.successor_opens());
    (0..4 * ROUNDS).for_each(|_| tick(&mut next, &mut followers));
    assert!(next.is_open());
    assert_eq!(asks(&mut old, &mut followers), None, "no follower knows its URL yet");
    assert!(old.successor_opens());
    obeys(&mut followers, [4], NEXT);
    assert_eq!(asks(&mut old, &mut followers).as_deref(), Some(NEXT));
}

// Goal: a leader that was replaced does not send clients to itself. Method: the standby does not reach the follower that names
// the old leader.
#[test]
fn a_leader_that_was_replaced_names_its_successor_and_not_itself() {
    let (mut old, mut next, mut followers) = pair(4);
    for _ in 0..4 * ROUNDS {
        tick(&mut next, &mut followers);
    }
    assert!(next.is_open());
    put(&mut old, &mut followers, 1, "refused");
    assert!(old.fenced_by().is_some());
    assert_eq!(asks(&mut old, &mut followers), None, "the last follower names it");
    obeys(&mut followers, [2], NEXT);
    assert_eq!(asks(&mut old, &mut followers).as_deref(), Some(NEXT));
}
