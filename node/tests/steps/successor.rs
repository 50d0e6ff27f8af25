//! What a leader that has ended knows of its successor, to whom it sends its clients.

use std::sync::Arc;

use kv_node::protocol::leader::Limits;

use crate::direct::{Core, Followers, connect, deliver, followers, leader_with, put};

const ROUNDS: u32 = 3;
const OLD: &str = "http://old:8000";
const NEXT: &str = "http://next:8000";

fn candidate(id: u64, followers: &mut Followers) -> Core {
    let mut candidate = leader_with(id, 5, Limits { takeover_rounds: ROUNDS, ..Limits::default() });
    (0..5).for_each(|place| connect(&mut candidate, followers, place));
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

fn pair() -> (Core, Core, Followers) {
    let mut followers = followers();
    let mut old = candidate(1, &mut followers);
    (0..4 * ROUNDS).for_each(|_| tick(&mut old, &mut followers));
    assert!(old.is_open());
    obeys(&mut followers, 0..5, OLD);
    put(&mut old, &mut followers, 1, "value");
    let mut next = candidate(2, &mut followers);
    tick(&mut next, &mut followers);
    assert_eq!(next.leads_elsewhere().as_deref(), Some(OLD));
    assert_eq!(old.leads_elsewhere(), None);
    (old, next, followers)
}

fn asks(old: &mut Core, followers: &mut Followers) -> Option<Arc<str>> {
    tick(old, followers);
    old.leads_elsewhere()
}

// Goal: a leader that handed over names its successor, and nobody before. Method: it asks before and after the standby opens.
#[test]
fn a_leader_that_handed_over_names_its_successor() {
    let (mut old, mut next, mut followers) = pair();
    assert!(old.resign());
    deliver(&mut old, &mut followers);
    assert_eq!(asks(&mut old, &mut followers), None);
    (0..4 * ROUNDS).for_each(|_| tick(&mut next, &mut followers));
    assert!(next.is_open());
    assert_eq!(asks(&mut old, &mut followers), None, "no follower knows its URL yet");
    obeys(&mut followers, [4], NEXT);
    assert_eq!(asks(&mut old, &mut followers).as_deref(), Some(NEXT));
}
