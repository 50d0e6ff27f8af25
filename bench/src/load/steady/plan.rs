//! What happens in a round: pauses of any nodes, and restarts of as many followers as a quorum can spare.

use std::{fmt, time::Duration};

use clap::ValueEnum;
use rand::{Rng, RngExt};

/// The shortest pause of a node.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// Within this time of a round disturbances begin.
const BEGINNINGS: Duration = Duration::from_millis(500);
/// The longest time for which a follower is down.
const LONGEST_DOWN: Duration = Duration::from_millis(1_500);
/// The share of rounds in which followers restart.
const RESTARTS: f64 = 0.3;
/// The share of nodes that pause in a round.
const PAUSES: f64 = 0.4;

/// A node of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// The process that leads.
    Leader,
    /// The one that waits.
    Standby,
    /// A follower, from 0.
    Follower(usize),
}

impl Node {
    /// The node, or what it is one of.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Standby => "standby",
            Self::Follower(_) => "followers",
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => f.write_str("leader"),
            Self::Standby => f.write_str("standby"),
            Self::Follower(index) => write!(f, "follower{}", index + 1),
        }
    }
}

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disturbance {
    /// SIGSTOP, and SIGCONT later.
    Pause,
    /// kill -9, and a start later.
    Kill,
    /// SIGTERM, and a start later.
    Terminate,
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pause => "paused",
            Self::Kill => "killed",
            Self::Terminate => "terminated",
        })
    }
}

/// Which nodes are disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The process that leads: it is paused.
    Leader,
    /// The one that waits: it is paused.
    Standby,
    /// They are paused, and restart.
    Followers,
}

/// The cluster that is disturbed.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub followers: usize,
    /// How many followers a write quorum can spare.
    pub restarts_at_once: usize,
    pub longest_pause: Duration,
    pub nodes: Vec<Kind>,
}

/// One end of a disturbance, at a time of the round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Begin { at: Duration, node: Node, disturbance: Disturbance, lasts: Duration },
    End { at: Duration, node: Node, disturbance: Disturbance },
}

impl Step {
    pub(super) fn at(&self) -> Duration {
        match self {
            Self::Begin { at, .. } | Self::End { at, .. } => *at,
        }
    }
}

/// The steps of a round, in order. At least one node is disturbed, so `shape` must have a kind of nodes.
pub(super) fn draw(shape: &Shape, rng: &mut impl Rng) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut restarted = Vec::new();
    let has = |kind| shape.nodes.contains(&kind);
    if has(Kind::Followers) && shape.restarts_at_once > 0 && rng.random_bool(RESTARTS) {
        let count = rng.random_range(1..=shape.restarts_at_once);
        restarted = rand::seq::index::sample(rng, shape.followers, count).into_vec();
        for follower in &restarted {
            let disturbance = if rng.random_bool(0.5) { Disturbance::Kill } else { Disturbance::Terminate };
            let lasts = between(Duration::ZERO, LONGEST_DOWN, rng);
            add(&mut steps, Node::Follower(*follower), disturbance, lasts, rng);
        }
    }
    while steps.is_empty() {
        let followers = (0..shape.followers).filter(|follower| !restarted.contains(follower)).map(Node::Follower);
        let followers = followers.filter(|_| has(Kind::Followers));
        let leader = has(Kind::Leader).then_some(Node::Leader);
        let standby = has(Kind::Standby).then_some(Node::Standby);
        for node in leader.into_iter().chain(standby).chain(followers) {
            if rng.random_bool(PAUSES) {
                let lasts = between(SHORTEST_PAUSE.min(shape.longest_pause), shape.longest_pause, rng);
                add(&mut steps, node, Disturbance::Pause, lasts, rng);
            }
        }
    }
    steps.sort_by_key(Step::at);
    steps
}

fn add(steps: &mut Vec<Step>, node: Node, disturbance: Disturbance, lasts: Duration, rng: &mut impl Rng) {
    let at = between(Duration::ZERO, BEGINNINGS, rng);
    steps.push(Step::Begin { at, node, disturbance, lasts });
    steps.push(Step::End { at: at + lasts, node, disturbance });
}

fn between(shortest: Duration, longest: Duration, rng: &mut impl Rng) -> Duration {
    rng.random_range(shortest..=longest)
}

/// A round in words.
pub(super) fn words(steps: &[Step]) -> String {
    let words = steps.iter().filter_map(|step| match step {
        Step::Begin { at, node, disturbance, lasts } => {
            Some(format!("{node} {disturbance} at {} ms for {} ms", at.as_millis(), lasts.as_millis()))
        }
        Step::End { .. } => None,
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    fn shape(restarts_at_once: usize, nodes: &[Kind]) -> Shape {
        Shape { followers: 5, restarts_at_once, longest_pause: Duration::from_millis(400), nodes: nodes.to_vec() }
    }

    // Goal: no round breaks what a leader needs. Method: many rounds, with and without a follower to spare.
    #[test]
    fn a_round_leaves_a_quorum_and_pauses_nothing_for_too_long() {
        let mut rng = SmallRng::seed_from_u64(5);
        let mut seen = BTreeSet::new();
        for shape in [shape(2, Kind::value_variants()), shape(0, Kind::value_variants())] {
            for _ in 0..500 {
                let steps = draw(&shape, &mut rng);
                assert!(!steps.is_empty() && steps.is_sorted_by_key(Step::at), "{steps:?}");
                let mut nodes = BTreeSet::new();
                let mut down = 0;
                for step in &steps {
                    let Step::Begin { node, disturbance, lasts, at } = *step else { continue };
                    assert!(nodes.insert(node), "{node} is disturbed twice: {steps:?}");
                    assert!(steps.contains(&Step::End { at: at + lasts, node, disturbance }), "{steps:?}");
                    seen.insert((node.kind(), disturbance));
                    match disturbance {
                        Disturbance::Pause => assert!(lasts <= shape.longest_pause, "{steps:?}"),
                        Disturbance::Kill | Disturbance::Terminate => down += 1,
                    }
                }
                assert!(down <= shape.restarts_at_once, "{steps:?}");
            }
        }
        let kinds = ["leader", "standby", "followers"].map(|kind| (kind, Disturbance::Pause));
        let restarts = [("followers", Disturbance::Kill), ("followers", Disturbance::Terminate)];
        assert_eq!(seen, kinds.into_iter().chain(restarts).collect());
    }

    #[test]
    fn no_other_nodes_are_disturbed_than_asked_for() {
        let mut rng = SmallRng::seed_from_u64(5);
        let kinds = [("leader", Kind::Leader), ("standby", Kind::Standby), ("followers", Kind::Followers)];
        for (name, kind) in kinds {
            for _ in 0..100 {
                for step in draw(&shape(2, &[kind]), &mut rng) {
                    let (Step::Begin { node, .. } | Step::End { node, .. }) = step;
                    assert_eq!(node.kind(), name);
                }
            }
        }
    }

    #[test]
    fn a_round_is_told_in_words() {
        let ms = Duration::from_millis;
        let (node, disturbance) = (Node::Follower(1), Disturbance::Kill);
        let steps = [
            Step::Begin { at: ms(3), node, disturbance, lasts: ms(40) },
            Step::Begin { at: ms(7), node: Node::Leader, disturbance: Disturbance::Pause, lasts: ms(9) },
            Step::End { at: ms(43), node, disturbance },
        ];
        assert_eq!(words(&steps), "follower2 killed at 3 ms for 40 ms, leader paused at 7 ms for 9 ms");
    }
}
