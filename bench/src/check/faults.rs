//! What is done to the cluster, drawn from a seed: rounds of one to three faults that overlap.
//!
//! The plan keeps to what the contract covers: at most W − 1 disks are lost before the cluster is whole again, W being the
//! smallest quorum in force in that round.

use std::{fmt, time::Duration};

use clap::ValueEnum;
use rand::{RngExt, rngs::SmallRng};

/// Kinds of faults, as on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum FaultKind {
    /// kill -9 of the leader or of a follower, which starts again
    Kill,
    /// SIGSTOP of the leader or of a follower, and SIGCONT after a while
    Pause,
    /// kill -9 of a follower, which starts again with an empty disk
    Wipe,
    /// kill -9 of all nodes at once
    All,
    /// A second leader over the same followers, the first one paused meanwhile or not
    TwoLeaders,
    /// Another write quorum, and back
    Quorum,
}

impl FaultKind {
    /// All of them.
    pub const EVERY: [Self; 6] = [Self::Kill, Self::Pause, Self::Wipe, Self::All, Self::TwoLeaders, Self::Quorum];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Wipe => "wipe",
            Self::All => "all",
            Self::TwoLeaders => "two-leaders",
            Self::Quorum => "quorum",
        }
    }
}

/// Whom it hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// The leader.
    Leader,
    /// The follower with this index, from 0.
    Follower(usize),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => write!(f, "leader"),
            Self::Follower(index) => write!(f, "follower{}", index + 1),
        }
    }
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed.
    Kill(Node),
    /// The process stands still.
    Pause(Node),
    /// The follower is killed and its disk emptied.
    Wipe(usize),
    /// Everybody is killed.
    All,
    /// A second leader starts.
    TwoLeaders {
        /// Whether the first one stands still meanwhile, and finds itself replaced afterwards.
        paused: bool,
    },
    /// The quorum is another one.
    Quorum(u32),
}

impl Fault {
    /// Of which kind it is.
    pub fn kind(self) -> FaultKind {
        match self {
            Self::Kill(_) => FaultKind::Kill,
            Self::Pause(_) => FaultKind::Pause,
            Self::Wipe(_) => FaultKind::Wipe,
            Self::All => FaultKind::All,
            Self::TwoLeaders { .. } => FaultKind::TwoLeaders,
            Self::Quorum(_) => FaultKind::Quorum,
        }
    }

    /// Whether both would act on the same process.
    fn collides(self, other: Self) -> bool {
        let hit = |fault: Self| match fault {
            Self::Kill(node) | Self::Pause(node) => Some(node),
            Self::Wipe(follower) => Some(Node::Follower(follower)),
            Self::TwoLeaders { .. } => Some(Node::Leader),
            Self::All | Self::Quorum(_) => None,
        };
        match (self, other) {
            (Self::All, _) | (_, Self::All) => true,
            (Self::Quorum(_), Self::Quorum(_)) => true,
            _ => hit(self).is_some() && hit(self) == hit(other),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(node) => write!(f, "{node} killed"),
            Self::Pause(node) => write!(f, "{node} paused"),
            Self::Wipe(follower) => write!(f, "{} killed and wiped", Node::Follower(*follower)),
            Self::All => write!(f, "all nodes killed"),
            Self::TwoLeaders { paused: false } => write!(f, "second leader"),
            Self::TwoLeaders { paused: true } => write!(f, "second leader, the first paused"),
            Self::Quorum(quorum) => write!(f, "write quorum {quorum}"),
        }
    }
}

/// A fault with its time in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// After the round's beginning.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What it is.
    pub fault: Fault,
}

/// What a plan has to know of the cluster.
#[derive(Debug, Clone)]
pub struct Shape {
    /// N.
    pub followers: usize,
    /// W, outside of faults that change it.
    pub write_quorum: u32,
    /// What may be done; at least one.
    pub kinds: Vec<FaultKind>,
    /// Whether a follower that is killed keeps what it has. Otherwise a killed one counts as wiped.
    pub durable: bool,
}

impl Shape {
    /// Why a kind of fault cannot be drawn here, in words.
    pub fn objection(&self, kind: FaultKind) -> Option<String> {
        match kind {
            FaultKind::Wipe if self.write_quorum < 2 => {
                Some(format!("at a write quorum of {} no disk may be lost", self.write_quorum))
            }
            FaultKind::All if !self.durable => Some("followers that keep nothing cannot all be killed".to_owned()),
            _ => None,
        }
    }

    /// The faults of a round. Every kind gets its turn as the first one; others join it.
    pub fn round(&self, number: u32, rng: &mut SmallRng) -> Vec<Planned> {
        let first = self.kinds[number.saturating_sub(1) as usize % self.kinds.len()];
        let mut planned: Vec<Planned> = self.draw(first, rng).into_iter().collect();
        for _ in 0..rng.random_range(0..=2) {
            let kind = self.kinds[rng.random_range(0..self.kinds.len())];
            let Some(another) = self.draw(kind, rng) else { continue };
            let collides = planned.iter().any(|known| known.fault.collides(another.fault));
            if !collides && self.is_covered(planned.iter().map(|known| known.fault).chain([another.fault])) {
                planned.push(another);
            }
        }
        planned
    }

    fn draw(&self, kind: FaultKind, rng: &mut SmallRng) -> Option<Planned> {
        let follower = rng.random_range(0..self.followers);
        let node = if rng.random_bool(0.5) { Node::Leader } else { Node::Follower(follower) };
        let (fault, shortest_ms, longest_ms) = match kind {
            FaultKind::Kill => (Fault::Kill(node), 0, 2_000),
            FaultKind::Pause => (Fault::Pause(node), 100, 4_000),
            FaultKind::Wipe => (Fault::Wipe(follower), 0, 1_500),
            FaultKind::All => (Fault::All, 0, 500),
            FaultKind::TwoLeaders => (Fault::TwoLeaders { paused: rng.random_bool(0.5) }, 300, 2_500),
            FaultKind::Quorum => (Fault::Quorum(rng.random_range(1..=self.followers as u32)), 200, 2_000),
        };
        let at = Duration::from_millis(rng.random_range(0..700));
        let lasts = Duration::from_millis(rng.random_range(shortest_ms..=longest_ms));
        // A first fault that alone is beyond what the contract covers: a killed follower without a disk at W = 1.
        self.is_covered([fault].into_iter()).then_some(Planned { at, lasts, fault })
    }

    /// Whether the contract holds under all of these at once: at most W − 1 disks lost, under each quorum in force.
    fn is_covered(&self, faults: impl Iterator<Item = Fault>) -> bool {
        let (mut lost, mut quorum) = (0, self.write_quorum);
        for fault in faults {
            match fault {
                Fault::Wipe(_) => lost += 1,
                Fault::Kill(Node::Follower(_)) if !self.durable => lost += 1,
                Fault::Quorum(other) => quorum = quorum.min(other),
                _ => {}
            }
        }
        lost < quorum
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    fn shape(write_quorum: u32, durable: bool) -> Shape {
        let mut shape = Shape { followers: 5, write_quorum, kinds: FaultKind::EVERY.to_vec(), durable };
        shape.kinds = FaultKind::EVERY.into_iter().filter(|kind| shape.objection(*kind).is_none()).collect();
        shape
    }

    fn rounds(shape: &Shape, seed: u64, count: u32) -> Vec<Vec<Planned>> {
        let mut rng = SmallRng::seed_from_u64(seed);
        (1..=count).map(|number| shape.round(number, &mut rng)).collect()
    }

    #[test]
    fn the_same_seed_draws_the_same_faults() {
        assert_eq!(rounds(&shape(3, true), 9, 40), rounds(&shape(3, true), 9, 40));
        assert_ne!(rounds(&shape(3, true), 9, 40), rounds(&shape(3, true), 10, 40));
    }

    #[test]
    fn every_kind_gets_its_turn_and_nothing_beyond_the_contract_is_drawn() {
        for (write_quorum, durable, kinds) in [(1, true, 5), (2, true, 6), (3, true, 6), (5, true, 6), (3, false, 5)] {
            let shape = shape(write_quorum, durable);
            let mut seen = BTreeSet::new();
            let mut overlapping = 0;
            for planned in rounds(&shape, 1, 600) {
                let faults: Vec<Fault> = planned.iter().map(|planned| planned.fault).collect();
                overlapping += usize::from(faults.len() > 1);
                seen.extend(faults.iter().map(|fault| fault.kind()));
                let lost = faults.iter().filter(|fault| match fault {
                    Fault::Wipe(_) => true,
                    Fault::Kill(Node::Follower(_)) => !durable,
                    _ => false,
                });
                let quorums = faults.iter().filter_map(|fault| match fault {
                    Fault::Quorum(quorum) => Some(*quorum),
                    _ => None,
                });
                let smallest = quorums.chain([write_quorum]).min().expect("one");
                assert!(lost.count() < smallest as usize, "W = {write_quorum}: {faults:?}");
                for (index, fault) in faults.iter().enumerate() {
                    assert!(faults[..index].iter().all(|other| !fault.collides(*other)), "{faults:?}");
                }
            }
            assert_eq!(seen.len(), kinds, "W = {write_quorum}: {seen:?}");
            assert!(overlapping > 150, "W = {write_quorum}: {overlapping} rounds overlap");
        }
    }

    #[test]
    fn what_cannot_be_is_said_in_words() {
        assert_eq!(
            shape(1, true).objection(FaultKind::Wipe).as_deref(),
            Some("at a write quorum of 1 no disk may be lost")
        );
        assert!(shape(3, false).objection(FaultKind::All).is_some());
        assert_eq!(shape(2, true).objection(FaultKind::Wipe), None);
    }
}
