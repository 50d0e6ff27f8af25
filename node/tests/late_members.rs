//! Leaders that learn of their followers only as those connect, as under DNS discovery.

use std::sync::Arc;

use kv_node::protocol::follower::{Effects, Follower};
use kv_node::protocol::leader::{DelayRange, Leader, Limits, Output, Settings, SlotId};
use kv_node::protocol::types::{FollowerId, ToFollower};

type Core = Leader<u32, u32>;

fn leader(id: u64) -> Core {
    let delay = DelayRange { min_us: 0, max_us: 0 };
    Leader::new(id, Settings { quorum: 3, size: 5, delay, limits: Limits::default(), seed: 1 })
}

fn followers() -> Vec<Follower> {
    (0..5).map(|place| Follower::blank(FollowerId(place), name(place))).collect()
}

fn name(place: u64) -> Arc<str> {
    format!("demo-follower-{place}").into()
}

/// Connects a follower, as discovery does: the slot is declared by the name that the greeting says.
fn connect(leader: &mut Core, followers: &mut [Follower], place: usize) {
    let hello = followers[place].hello();
    let slot = leader.declare(&hello.name).expect("a slot");
    leader.hello(slot, place as u64 + 1, hello);
    deliver(leader, followers);
}

/// Delivers everything until nothing is under way.
fn deliver(leader: &mut Core, followers: &mut [Follower]) {
    loop {
        let outputs = leader.take_outputs();
        if outputs.is_empty() {
            return;
        }
        for output in outputs {
            match output {
                Output::Send(slot, message) => exchange(leader, followers, slot, message),
                Output::Install(slot, mut job) => {
                    while let Some(part) = leader.install_part(&mut job) {
                        exchange(leader, followers, slot, part);
                    }
                }
                Output::Transmit(slot, write) => {
                    let epoch = leader.epoch();
                    exchange(leader, followers, slot, ToFollower::Writes { epoch, writes: vec![(*write).clone()] });
                }
                _ => {}
            }
        }
    }
}

fn exchange(leader: &mut Core, followers: &mut [Follower], slot: SlotId, message: ToFollower) {
    let views = leader.followers(0);
    let view = views.iter().find(|view| view.slot == slot).expect("a follower");
    let place: usize = view.name.rsplit('-').next().and_then(|place| place.parse().ok()).expect("a place");
    let mut effects = Effects::default();
    followers[place].step(message, &mut effects);
    effects.replies.into_iter().for_each(|reply| leader.receive(slot, place as u64 + 1, reply));
}

/// Goal: a restarted leader opens with exactly max(N − W + 1, W) followers, whatever becomes of the others.
/// Method: every three of five, in every order of two generations of leaders.
#[test]
fn a_restarted_leader_opens_with_three_of_five() {
    for first in 0..5 {
        for second in 0..5 {
            let mut followers = followers();
            let mut fresh = leader(1);
            (0..5).for_each(|place| connect(&mut fresh, &mut followers, place));
            assert!(fresh.is_open());
            for (id, start) in [(2, first), (3, second)] {
                let mut next = leader(id);
                for step in 0..3 {
                    assert!(!next.is_open());
                    connect(&mut next, &mut followers, (start + step) % 5);
                }
                assert!(next.is_open(), "leader {id} with three from {start}: {next:#?}");
            }
        }
    }
}
