//! A leader and its followers who hear each other at once: no network, no disk, nothing that fails by itself.

use std::collections::VecDeque;
use std::sync::Arc;

use kv_node::protocol::follower::{Effects, Follower};
use kv_node::protocol::leader::{Accepted, DelayRange, Leader, LeaderSettings, Limits, NewWrite, Output, SlotId};
use kv_node::protocol::messages::{ToFollower, ToLeader};
use kv_node::protocol::types::FollowerId;

pub(crate) type Core = Leader<u32, u32>;

pub(crate) fn leader(id: u64) -> Core {
    leader_of(id, 5)
}

pub(crate) fn leader_of(id: u64, size: u16) -> Core {
    leader_with(id, size, Limits::default())
}

pub(crate) fn leader_with(id: u64, size: u16, limits: Limits) -> Core {
    let delay = DelayRange { min_us: 0, max_us: 0 }.into();
    Leader::new(id, LeaderSettings { quorum: 3, size, delay, limits, seed: 1 })
}

/// What went over the wire, as far as somebody asks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Records that followers gave to a leader that starts.
    pub(crate) fetched: usize,
    /// Records that a leader gave to followers in state transfers.
    pub(crate) installed: usize,
    /// State transfers.
    pub(crate) jobs: usize,
    /// Records that followers gave to a standby.
    pub(crate) copied: usize,
}

/// Followers by their places, and what is between them and their leaders.
pub(crate) struct Followers {
    pub(crate) places: Vec<Follower>,
    pub(crate) traffic: Traffic,
    /// Which messages to a place do not arrive until they are let go.
    pub(crate) hold: fn(usize, &ToFollower) -> bool,
    /// The outputs of the leader that are not messages to send.
    pub(crate) reports: Vec<Output<u32, u32>>,
    held: VecDeque<(SlotId, ToFollower)>,
}

impl Followers {
    /// Delivers the oldest held message and everything that follows from it. Returns false when there is none.
    pub(crate) fn let_go(&mut self, leader: &mut Core) -> bool {
        let found = self.let_go_one(leader);
        deliver(leader, self);
        found
    }

    /// Delivers every held message that is not to be held any more, and everything that follows from it.
    pub(crate) fn let_go_all(&mut self, leader: &mut Core) {
        for _ in 0..self.held.len() {
            self.let_go(leader);
        }
    }

    /// Delivers the oldest held message alone. Returns false when there is none.
    pub(crate) fn let_go_one(&mut self, leader: &mut Core) -> bool {
        let Some((slot, message)) = self.held.pop_front() else { return false };
        exchange(leader, self, slot, message);
        true
    }
}

pub(crate) fn followers() -> Followers {
    let places = (0..7).map(|place| Follower::blank(FollowerId(place), name(place))).collect();
    Followers { places, traffic: Traffic::default(), hold: |_, _| false, reports: Vec::new(), held: VecDeque::new() }
}

fn name(place: u64) -> Arc<str> {
    format!("demo-follower-{place}").into()
}

/// Connects a follower, as discovery does: the slot is declared by the name that the greeting says.
pub(crate) fn connect(leader: &mut Core, followers: &mut Followers, place: usize) {
    let hello = followers.places[place].hello();
    let slot = leader.declare(&hello.name).expect("a slot");
    leader.hello(slot, place as u64 + 1, hello);
    deliver(leader, followers);
}

/// Closes the connection of a follower.
pub(crate) fn disconnect(leader: &mut Core, followers: &mut Followers, place: usize) {
    let name = followers.places[place].hello().name;
    let slot = leader.declare(&name).expect("a slot");
    leader.closed(slot, place as u64 + 1);
    deliver(leader, followers);
}

/// The key with this number.
pub(crate) fn key(number: usize) -> String {
    format!("key{number}")
}

/// Writes the key with this number at an open leader. Returns the number of the write.
pub(crate) fn put(leader: &mut Core, followers: &mut Followers, number: usize, value: &str) -> u64 {
    let new =
        NewWrite { key: key(number).into(), value: Some(value.into()), retry_token: None, explain: false, now_us: 0 };
    let accepted = leader.put(new, 0).expect("an open leader takes writes");
    deliver(leader, followers);
    match accepted {
        Accepted::Pending { seq } | Accepted::AlreadyCommitted { seq } => seq,
        Accepted::Unmet => unreachable!("the write has no condition"),
    }
}

/// Connects a follower that has no place any more, as discovery does; false when it is not taken.
pub(crate) fn connect_leaving(leader: &mut Core, followers: &mut Followers, place: usize) -> bool {
    let hello = followers.places[place].hello();
    let Some(slot) = leader.declare_leaving(&hello) else { return false };
    leader.hello(slot, place as u64 + 1, hello);
    deliver(leader, followers);
    true
}

/// Delivers everything until nothing is under way.
pub(crate) fn deliver(leader: &mut Core, followers: &mut Followers) {
    loop {
        let outputs = leader.take_outputs();
        if outputs.is_empty() {
            return;
        }
        for output in outputs {
            match output {
                Output::Send(slot, message) => exchange(leader, followers, slot, message),
                Output::Install(slot, mut job) => {
                    followers.traffic.jobs += 1;
                    while let Some(part) = leader.install_part(&mut job) {
                        exchange(leader, followers, slot, part);
                    }
                }
                Output::Transmit(to, write) => {
                    for slot in to {
                        let epoch = leader.epoch();
                        exchange(leader, followers, slot, ToFollower::Writes { epoch, writes: vec![(*write).clone()] });
                    }
                }
                Output::Backoff => leader.elect(),
                report => followers.reports.push(report),
            }
        }
    }
}

fn exchange(leader: &mut Core, followers: &mut Followers, slot: SlotId, message: ToFollower) {
    let views = leader.followers(0);
    let view = views.iter().find(|view| view.slot == slot).expect("a follower");
    let place: usize = view.name.rsplit('-').next().and_then(|place| place.parse().ok()).expect("a place");
    if (followers.hold)(place, &message) {
        return followers.held.push_back((slot, message));
    }
    if let ToFollower::Install { records, .. } = &message {
        followers.traffic.installed += records.len();
    }
    let mut effects = Effects::default();
    followers.places[place].step(message, &mut effects);
    for reply in effects.replies {
        if let ToLeader::Records { records, .. } = &reply {
            followers.traffic.fetched += records.len();
        }
        if let ToLeader::Copied { records, .. } = &reply {
            followers.traffic.copied += records.len();
        }
        leader.receive(slot, place as u64 + 1, reply);
    }
}
