//! Goal: no rollout takes what writes, a restarting leader or an acknowledged write need, and every rollout that may end
//! does. Method: every number of followers up to 7, every quorum, and every mixture of states of the followers; and whole
//! rollouts, step by step.

use super::FollowerState::{Absent, Broken, Silent, Streams};
use super::*;

const CAP: usize = 3;
const STATES: [FollowerState; 4] = [Streams, Silent, Broken, Absent];

fn turn(others: usize) -> Turn {
    Turn { rolls: false, others, cap: CAP }
}

fn follower(ordinal: usize, current: bool, state: FollowerState) -> Follower {
    let name = format!("demo-follower-{ordinal}");
    Follower { why: format!("{name}: {state:?}"), name, current, state }
}

fn situation(write_quorum: u16, followers: Vec<Follower>) -> Situation {
    let count = u16::try_from(followers.len()).expect("a few followers");
    Situation {
        rules: vec![Rule { followers: count, write_quorum }],
        in_memory: false,
        recorded: true,
        followers,
        behind: None,
        leader: LeaderIs::Open,
        leader_template: LeaderTemplate::Current,
    }
}

/// All are outdated and stream, except those named.
fn all_but(count: usize, write_quorum: u16, others: &[(usize, bool, FollowerState)]) -> Situation {
    let other = |ordinal: usize| others.iter().find(|(other, ..)| *other == ordinal);
    let followers = (0..count).map(|n| match other(n) {
        Some((_, current, state)) => follower(n, *current, *state),
        None => follower(n, false, Streams),
    });
    situation(write_quorum, followers.collect())
}

/// Every multiset of states of so many followers. Their order decides nothing but which of equal ones moves.
fn mixtures(count: usize, kinds: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = mixtures(count - 1, kinds);
    let longer = shorter.into_iter().flat_map(|mixture| {
        let from = mixture.last().copied().unwrap_or_default();
        (from..kinds).map(move |kind| mixture.iter().copied().chain([kind]).collect::<Vec<_>>())
    });
    longer.collect()
}

#[test]
fn whatever_moves_leaves_enough_for_writes_for_a_restart_and_for_what_is_in_memory() {
    for count in 1..=7_usize {
        for mixture in mixtures(count, 8) {
            let kinds = mixture.iter().enumerate();
            let followers = kinds.map(|(n, kind)| follower(n, kind % 2 == 0, STATES[kind / 2])).collect();
            let mut situation = situation(1, followers);
            for write_quorum in 1..=u16::try_from(count).expect("a few") {
                situation.rules[0].write_quorum = write_quorum;
                for bits in 0..32 {
                    let bit = |n: i32| bits & (1 << n) != 0;
                    situation.in_memory = bit(0);
                    situation.behind = bit(1).then(|| "demo-follower-0: is behind".to_owned());
                    situation.leader = if bit(2) { LeaderIs::Open } else { LeaderIs::Closed };
                    situation.leader_template = if bit(3) { LeaderTemplate::Waits } else { LeaderTemplate::Current };
                    let others = if bit(4) { CAP } else { 0 };
                    keeps_to_the_rules(&situation, &decide(&situation, turn(others)), others);
                }
            }
        }
    }
}

fn keeps_to_the_rules(situation: &Situation, plan: &Plan, others: usize) {
    let Situation { followers, rules, .. } = situation;
    let (count, quorum) = (followers.len(), usize::from(rules[0].write_quorum));
    let streams = |follower: &&Follower| follower.state == Streams;
    let streaming = followers.iter().filter(streams).count();
    let bound = quorum.max(count - quorum + 1);
    let outdated = followers.iter().any(|follower| !follower.current);
    let whole = followers.iter().all(|follower| follower.state != Absent && (!follower.current || streams(&follower)));
    let context = || format!("{situation:?} gives {plan:?}");
    assert_eq!(
        plan.rollout == Rollout::Done,
        !outdated && situation.leader_template == LeaderTemplate::Current,
        "{}",
        context()
    );
    match &plan.next {
        None => assert!(plan.rollout == Rollout::Done || !plan.message.is_empty(), "{}", context()),
        Some(Move::Leader) => {
            assert!(!outdated, "the leader goes last: {}", context());
            assert!(situation.leader == LeaderIs::Open && whole && streaming >= bound && others < CAP, "{}", context());
        }
        Some(Move::Follower { name, within_budget }) => {
            let moved = followers.iter().find(|follower| follower.name == *name).expect("it exists");
            assert!(!moved.current, "{}", context());
            if moved.state == Broken {
                return; // Nothing depends on it.
            }
            assert_eq!(moved.state, Streams, "a recovery is not interrupted: {}", context());
            assert!(situation.leader == LeaderIs::Open && whole && others < CAP, "{}", context());
            let remaining = streaming - 1;
            if bound < count {
                assert!(remaining >= bound && *within_budget, "{}", context());
            } else {
                assert!(streaming == count && situation.behind.is_none() && !within_budget, "{}", context());
            }
            assert!(!situation.in_memory || count - remaining < quorum, "{}", context());
        }
    }
}

// Goal: each cluster that may roll out does, followers first, and never with two of them away. Method: carry out each
// plan until there is no more to do. W = 1 in memory never moves, and says the remedy.
#[test]
fn a_whole_rollout_ends_with_the_leader_and_no_two_followers_are_away_at_once() {
    for count in 1..=7_usize {
        for write_quorum in 1..=u16::try_from(count).expect("a few") {
            for in_memory in [false, true] {
                let mut now = all_but(count, write_quorum, &[]);
                now.in_memory = in_memory;
                now.leader_template = LeaderTemplate::Waits;
                let mut moved = Vec::new();
                for _ in 0..100 {
                    let plan = decide(&now, Turn { rolls: true, ..turn(0) });
                    match plan.next {
                        Some(Move::Follower { name, .. }) => {
                            let follower = now.followers.iter_mut().find(|f| f.name == name).expect("it exists");
                            follower.state = Absent;
                            moved.push(name);
                        }
                        Some(Move::Leader) => {
                            now.leader_template = LeaderTemplate::Rolls { problem: None };
                            moved.push("leader".to_owned());
                        }
                        None if plan.rollout == Rollout::Done => break,
                        None => come_back(&mut now),
                    }
                    let away = now.followers.iter().filter(|follower| follower.state != Streams).count();
                    assert!(away <= 1, "{now:?}");
                }
                let expected: Vec<String> = match in_memory && write_quorum == 1 {
                    true => Vec::new(),
                    false => {
                        (0..count).rev().map(|n| format!("demo-follower-{n}")).chain(["leader".to_owned()]).collect()
                    }
                };
                assert_eq!(moved, expected, "N {count} W {write_quorum} in memory {in_memory}");
            }
        }
    }
}

/// What moved goes on by one step: absent, starting, streaming.
fn come_back(now: &mut Situation) {
    if let LeaderTemplate::Rolls { .. } = now.leader_template {
        now.leader_template = LeaderTemplate::Current;
    }
    for follower in &mut now.followers {
        (follower.current, follower.state) = match follower.state {
            Absent => (true, Silent),
            Silent => (true, Streams),
            other => (follower.current, other),
        };
    }
}

#[test]
fn what_must_not_move_says_why() {
    let says = |situation: &Situation, rollout: Rollout, words: &str| {
        let plan = decide(situation, turn(0));
        assert_eq!((plan.next.clone(), plan.rollout), (None, rollout), "{plan:?}");
        assert!(plan.message.contains(words), "{}", plan.message);
    };
    let down = all_but(5, 2, &[(1, false, Silent)]);
    says(
        &down,
        Rollout::Blocked,
        "demo-follower-4 cannot move: 4 of 5 followers stream, and 4 have to remain: demo-follower-1: Silent",
    );
    let memory = |count, quorum| Situation { in_memory: true, ..all_but(count, quorum, &[]) };
    says(
        &memory(5, 1),
        Rollout::Blocked,
        "at most 0 may be with writeQuorum 1: set writeQuorum (and replicas) to at least 2",
    );
    says(&memory(1, 1), Rollout::Blocked, "set writeQuorum (and replicas) to at least 2 first");
    for state in [Silent, Broken, Absent] {
        says(&all_but(5, 3, &[(4, true, state)]), Rollout::Blocked, "waits until demo-follower-4 streams again");
        let plan = decide(&all_but(5, 3, &[(4, true, state)]), Turn { rolls: true, ..turn(0) });
        let expected = if state == Broken { Rollout::Blocked } else { Rollout::Moving };
        assert_eq!((plan.next, plan.rollout, plan.rolls), (None, expected, true), "{state:?} after it moved");
    }
    let behind = Situation { behind: Some("demo-follower-0: slow".to_owned()), ..all_but(5, 5, &[]) };
    says(&behind, Rollout::Moving, "while a follower is behind: demo-follower-0: slow");
    let mut grows = all_but(5, 3, &[]);
    grows.rules.push(Rule { followers: 7, write_quorum: 3 });
    says(&grows, Rollout::Queued, "the number of followers is in force");
    let early = Situation { recorded: false, ..all_but(5, 3, &[]) };
    says(&early, Rollout::Moving, "takes over the newest template");
    let two = all_but(5, 3, &[(0, false, Silent), (1, false, Silent)]);
    says(&two, Rollout::Blocked, "3 of 5 followers stream, and 3 have to remain");
    let closed = Situation { leader: LeaderIs::Closed, ..all_but(5, 3, &[]) };
    says(&closed, Rollout::Blocked, "waits for an open leader");
}

#[test]
fn the_strictest_of_several_rules_counts() {
    let mut lowered = all_but(5, 3, &[]);
    lowered.rules.push(Rule { followers: 5, write_quorum: 5 });
    lowered.followers[0].state = Silent;
    assert_eq!(decide(&lowered, turn(0)).next, None, "5 of 5 are in force");
    let mut raised = Situation { in_memory: true, ..all_but(5, 2, &[]) };
    raised.rules.push(Rule { followers: 5, write_quorum: 1 });
    assert_eq!(decide(&raised, turn(0)).next, None, "1 is in force");
}

#[test]
fn a_cluster_waits_while_as_many_others_roll_as_may_and_a_broken_pod_does_not_wait() {
    let plan = decide(&all_but(5, 3, &[]), turn(CAP));
    assert_eq!((plan.next, plan.rollout, plan.rolls), (None, Rollout::Queued, false));
    assert!(plan.message.contains("3 other KvClusters"), "{}", plan.message);
    assert!(decide(&all_but(5, 3, &[]), turn(CAP - 1)).rolls);
    let goes_on = decide(&all_but(5, 3, &[]), Turn { rolls: true, ..turn(CAP) });
    assert!(goes_on.next.is_some(), "one that rolls keeps its place");
    let broken = all_but(5, 1, &[(2, false, Broken)]);
    let next = decide(&Situation { in_memory: true, leader: LeaderIs::Closed, ..broken }, turn(CAP)).next;
    assert_eq!(next, Some(Move::Follower { name: "demo-follower-2".to_owned(), within_budget: true }));
}

#[test]
fn a_leader_that_cannot_run_is_repaired_first_and_a_new_one_that_cannot_holds_the_place() {
    let broken = Situation { leader: LeaderIs::Broken, leader_template: LeaderTemplate::Waits, ..all_but(3, 2, &[]) };
    assert_eq!(decide(&Situation { recorded: false, ..broken }, turn(CAP)).next, Some(Move::Leader));
    let mut rolls = all_but(3, 2, &[]);
    rolls.leader_template = LeaderTemplate::Rolls { problem: Some("demo-leader-x: ErrImagePull".to_owned()) };
    let plan = decide(&rolls, turn(0));
    assert_eq!((plan.next, plan.rollout, plan.rolls), (None, Rollout::Blocked, true));
    assert!(plan.message.contains("demo-leader-x: ErrImagePull"), "{}", plan.message);
}
