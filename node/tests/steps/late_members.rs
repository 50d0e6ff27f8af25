//! Leaders that learn of their followers only as those connect, as under DNS discovery.

use std::collections::BTreeSet;

use kv_node::protocol::leader::DelayRange;

use crate::direct::{Core, connect, connect_leaving, deliver, followers, leader, leader_of};

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

/// Goal: a leader that starts in the middle of a scale-down from seven to three opens, though three followers alone are
/// not enough to recover what seven were given under a quorum of three; then it lets those go that leave.
/// Method: every order in which they may connect, of those that leave only as many as are needed.
#[test]
fn a_leader_that_starts_while_followers_leave_recovers_from_them_and_lets_them_go() {
    for first in 0..5 {
        let mut followers = followers();
        let mut old = leader_of(1, 7);
        (0..7).for_each(|place| connect(&mut old, &mut followers, place));
        assert!(old.is_open());
        let mut next = leader_of(2, 3);
        let mut order = [0, 1, 2, 4, 6];
        order.rotate_left(first);
        for place in order {
            assert!(!next.is_open(), "5 of 7 are needed");
            if place < 3 {
                connect(&mut next, &mut followers, place);
            } else {
                assert!(connect_leaving(&mut next, &mut followers, place), "follower {place} holds what is needed");
            }
        }
        assert!(next.is_open() && next.settled(), "{next:#?}");
        let names: Vec<String> = next.followers(0).into_iter().map(|view| view.name).collect();
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(sorted, ["demo-follower-0", "demo-follower-1", "demo-follower-2"], "the others are released");
        assert!(!connect_leaving(&mut next, &mut followers, 5), "nothing depends on it any more");
    }
}

/// Goal: a blank follower that leaves keeps nobody from opening: it has nothing, and will not come back.
#[test]
fn a_blank_follower_that_leaves_is_not_waited_for() {
    let mut followers = followers();
    let mut fresh = leader_of(1, 3);
    assert!(!connect_leaving(&mut fresh, &mut followers, 4));
    (0..3).for_each(|place| connect(&mut fresh, &mut followers, place));
    assert!(fresh.is_open() && fresh.settled());
}

/// Goal: a leader that knows its followers by other names than the one before opens with all of them. Method: W = 5 of five;
/// it meets four by new names, which suffices for a recovery, and then the fifth.
#[test]
fn a_leader_may_know_the_followers_by_other_names() {
    let all = |leader: &mut Core| leader.set(5, 5, DelayRange { min_us: 0, max_us: 0 });
    let (mut followers, mut old, mut next) = (followers(), leader(1), leader(2));
    (0..5).for_each(|place| connect(&mut old, &mut followers, place));
    all(&mut old);
    deliver(&mut old, &mut followers);
    all(&mut next);
    for place in [0, 1, 2, 4, 3] {
        let slot = next.declare(&format!("other-name-{place}")).expect("a slot");
        next.hello(slot, place as u64 + 1, followers.places[place].hello());
        deliver(&mut next, &mut followers);
    }
    let ids: BTreeSet<_> = next.config().expect("a rule").members.iter().map(|member| member.id).collect();
    assert_eq!((next.is_open(), ids.len()), (true, 5), "{:?}", next.config());
}
