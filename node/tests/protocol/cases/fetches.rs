//! Recovery of a state that takes many messages, step by step.

use kv_node::protocol::follower::{self, Effects, Follower};
use kv_node::protocol::leader::{DelayRange, Leader, LeaderSettings, Limits, Mask, NewWrite, Output};
use kv_node::protocol::messages::ToFollower;
use kv_node::protocol::types::{Epoch, FollowerId};

type Core = Leader<usize, usize>;

const QUORUM: u16 = 2;

/// Three followers whose messages hold one record each.
fn followers() -> Vec<Follower> {
    let limits = follower::Limits { message_bytes: 1, scan_keys: 1, scan_bytes: 1, changed_keys: 1 };
    (0..3).map(|place| Follower::blank(FollowerId(place), format!("f{place}").into()).limited(limits)).collect()
}

fn leader(id: u64) -> Core {
    let limits = Limits { message_bytes: 1, scan_keys: 1, ..Limits::default() };
    let settings =
        LeaderSettings { quorum: QUORUM, size: 3, delay: DelayRange { min_us: 0, max_us: 0 }.into(), limits, seed: 1 };
    let mut leader = Leader::new(id, settings);
    (0..3).for_each(|place| assert!(leader.declare(&format!("f{place}")).is_some()));
    leader
}

fn connect(leader: &mut Core, followers: &[Follower], place: usize) {
    let slot = leader.declare(&format!("f{place}")).expect("a slot");
    leader.hello(slot, 1, followers[place].hello());
}

/// Delivers everything between the leader and these followers; what is sent to others is lost. `before` sees each
/// message before its follower does. Returns whether the leader asks for a pause.
fn deliver(
    leader: &mut Core,
    followers: &mut [Follower],
    reached: &[usize],
    mut before: impl FnMut(&mut Follower, &ToFollower),
) -> bool {
    let mut pauses = false;
    loop {
        let outputs = leader.take_outputs();
        if outputs.is_empty() {
            return pauses;
        }
        for output in outputs {
            let (to, messages): (Mask, Vec<ToFollower>) = match output {
                Output::Send(slot, message) => (slot.into(), vec![message]),
                Output::Transmit(to, write) => {
                    (to, vec![ToFollower::Writes { epoch: leader.epoch(), writes: vec![(*write).clone()] }])
                }
                Output::Install(slot, mut job) => {
                    (slot.into(), std::iter::from_fn(|| leader.install_part(&mut job)).collect())
                }
                Output::Backoff => {
                    pauses = true;
                    continue;
                }
                _ => continue,
            };
            for slot in to.into_iter().filter(|slot| reached.contains(&slot.index())) {
                for message in messages.clone() {
                    let (mut effects, follower) = (Effects::default(), &mut followers[slot.index()]);
                    before(follower, &message);
                    follower.step(message, &mut effects);
                    effects.replies.into_iter().for_each(|reply| leader.receive(slot, 1, reply));
                }
            }
        }
    }
}

fn put(leader: &mut Core, followers: &mut [Follower], reached: &[usize], key: &str) {
    let new = NewWrite { key: key.into(), value: Some("value".into()), retry_token: None, explain: false, now_us: 0 };
    leader.put(new, 0).expect("an open leader takes writes");
    deliver(leader, followers, reached, |_, _| {});
}

// Goal: a question of an abandoned attempt leaves no trace in the next one. Method: recovery asks a follower for some
// buckets alone when another leader interrupts it. The next attempt asks the same follower for everything, over many
// messages. Every acknowledged key has to be there when the leader opens.
#[test]
fn a_filter_ends_with_its_fetch() {
    let mut followers = followers();
    let mut first = leader(1);
    (0..3).for_each(|place| connect(&mut first, &followers, place));
    deliver(&mut first, &mut followers, &[0, 1, 2], |_, _| {});
    assert!(first.is_open());
    // The second leader opens without f2, whose state stays of the first epoch.
    let mut second = leader(2);
    [0, 1].into_iter().for_each(|place| connect(&mut second, &followers, place));
    deliver(&mut second, &mut followers, &[0, 1], |_, _| {});
    assert!(second.is_open());
    let keys: Vec<String> = (0..40).map(|number| format!("key{number}")).collect();
    keys.iter().for_each(|key| put(&mut second, &mut followers, &[0, 1], key));
    put(&mut second, &mut followers, &[1], "only at f1");

    let mut third = leader(3);
    [0, 1].into_iter().for_each(|place| connect(&mut third, &followers, place));
    let mut filtered = false;
    let pauses = deliver(&mut third, &mut followers, &[0, 1], |follower, message| {
        if matches!(message, ToFollower::Fetch { of: Some(_), .. }) {
            filtered = true;
            let competitor = Epoch { term: 9, leader: 9 };
            follower.step(ToFollower::Prepare { epoch: competitor }, &mut Effects::default());
        }
    });
    assert!(filtered && pauses, "the third leader asks f1 for what differs, and is interrupted");
    // f0 is slow. f1 alone holds the second epoch's state now.
    connect(&mut third, &followers, 2);
    third.elect();
    deliver(&mut third, &mut followers, &[1, 2], |_, _| {});
    assert!(third.is_open());
    for key in &keys {
        assert!(third.latest(key).is_some(), "{key} was acknowledged, and the third leader opens without it");
    }
}
