//! What is done to the cluster, drawn from a seed: rounds of one to three faults that overlap.
//!
//! The plan keeps to what the contract covers: at most W − 1 disks are lost before the cluster is whole again, W being the
//! smallest quorum in force in that round.

use std::time::Duration;

use kvcluster_api::tolerance::Tolerance;
use rand::{RngExt, rngs::SmallRng};

use super::faults::{Fault, FaultKind, Node, Place};

/// Leaders beside the first one in a race.
const RIVALS_MAX: u32 = 2;
/// How long followers go on being paused once the killed one is back, in ms: about as long as leaders interrupt each other.
const RACE_MS: u64 = 1_000;

/// A fault with its time in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// After the round's beginning.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What it is.
    pub fault: Fault,
}

/// What a plan has to know of the cluster.
#[derive(Clone, Debug)]
pub struct Shape {
    /// What its nodes are.
    pub place: Place,
    /// N.
    pub followers: u16,
    /// W, outside of faults that change it.
    pub write_quorum: u16,
    /// What may be done; at least one.
    pub kinds: Vec<FaultKind>,
    /// Whether a follower that is killed keeps what it has. Otherwise a killed one counts as wiped.
    pub durable: bool,
}

impl Shape {
    /// A cluster, with all kinds of faults that are possible there.
    pub fn new(place: Place, followers: u16, write_quorum: u16, durable: bool) -> Self {
        let mut shape = Self { place, followers, write_quorum, kinds: Vec::new(), durable };
        shape.kinds = place.kinds().iter().copied().filter(|kind| shape.objection(*kind).is_none()).collect();
        shape
    }

    /// Only these kinds of faults.
    ///
    /// # Errors
    /// Why one of them cannot be, in words.
    pub fn only(self, kinds: &[FaultKind]) -> Result<Self, String> {
        match kinds.iter().find_map(|kind| Some((kind, self.objection(*kind)?))) {
            Some((kind, why)) => Err(format!("--faults {} is not possible here: {why}", kind.name())),
            None if kinds.is_empty() => Ok(self),
            None => Ok(Self { kinds: kinds.to_vec(), ..self }),
        }
    }

    /// Why a kind of fault cannot be drawn here, in words.
    fn objection(&self, kind: FaultKind) -> Option<String> {
        match kind {
            _ if !self.place.kinds().contains(&kind) => Some(match self.place {
                Place::Process => "there are no pods without --kube".to_owned(),
                Place::Pod => "pods are deleted, by delete and force-delete".to_owned(),
            }),
            FaultKind::Wipe if self.tolerance(self.write_quorum).disks_lost == 0 => {
                Some(format!("at a write quorum of {} no disk may be lost", self.write_quorum))
            }
            FaultKind::All if !self.durable => Some("followers that keep nothing cannot all be killed".to_owned()),
            FaultKind::LeaderRace if !self.durable && self.write_quorum < 2 => {
                Some("at a write quorum of 1 a follower that keeps nothing cannot restart".to_owned())
            }
            _ => None,
        }
    }

    /// The faults of a round. Every kind gets its turn as the first one; others join it.
    pub fn round(&self, number: u32, rng: &mut SmallRng) -> Vec<Planned> {
        let first = self.kinds[number.saturating_sub(1) as usize % self.kinds.len()];
        if first == FaultKind::LeaderRace {
            return self.leader_race(rng);
        }
        let mut planned: Vec<Planned> = self.draw(first, rng).into_iter().collect();
        for _ in 0..rng.random_range(0..=2) {
            let kind = self.kinds[rng.random_range(0..self.kinds.len())];
            if kind == FaultKind::LeaderRace {
                // A race is a round of its own.
                continue;
            }
            let Some(another) = self.draw(kind, rng) else { continue };
            let collides = planned.iter().any(|known| known.fault.collides(another.fault));
            if !collides && self.is_covered(planned.iter().map(|known| known.fault).chain([another.fault])) {
                planned.push(another);
            }
        }
        planned
    }

    /// The leader and one follower are killed. Rivals start together with the leader that is started again, or interrupt a
    /// recovery later on.
    fn leader_race(&self, rng: &mut SmallRng) -> Vec<Planned> {
        let killed = rng.random_range(0..self.followers);
        let others: Vec<u16> = (0..self.followers).filter(|follower| *follower != killed).collect();
        if others.len() > 1 && rng.random_bool(0.75) {
            return interrupted_recovery(killed, others[0], others[others.len() - 1], rng);
        }
        let returns_ms = rng.random_range(600..1_200);
        let mut race = race_begins(killed, returns_ms);
        for _ in 0..rng.random_range(1..=RIVALS_MAX) {
            race.push(planned(50 + rng.random_range(0..60), 0, Fault::Rival));
        }
        let mut at_ms = 50;
        while at_ms < returns_ms + RACE_MS {
            let lasts_ms = rng.random_range(20..150);
            let paused = rng.random_range(0..self.followers);
            if paused != killed {
                race.push(pause(paused, at_ms, lasts_ms));
            }
            at_ms += lasts_ms + rng.random_range(10..100);
        }
        race
    }

    fn draw(&self, kind: FaultKind, rng: &mut SmallRng) -> Option<Planned> {
        let follower = rng.random_range(0..usize::from(self.followers));
        let node = if rng.random_bool(0.5) { Node::Leader } else { Node::Follower(follower) };
        let pods = self.place == Place::Pod;
        let (fault, shortest_ms, longest_ms) = match kind {
            FaultKind::Kill => (Fault::Kill(node), 0, 2_000),
            FaultKind::Pause => (Fault::Pause(node), 100, 4_000),
            FaultKind::Wipe => (Fault::Wipe(follower), 0, 1_500),
            // What is deleted comes back by itself.
            FaultKind::Delete => (Fault::Delete(node), 0, 0),
            FaultKind::ForceDelete => (Fault::ForceDelete(node), 0, 0),
            FaultKind::Scale => (Fault::Scale(self.another_number(rng)), 1_000, 6_000),
            FaultKind::All => (Fault::All, 0, if pods { 0 } else { 500 }),
            FaultKind::TwoLeaders if pods => (Fault::TwoLeaders { paused: false }, 0, 0),
            FaultKind::TwoLeaders => (Fault::TwoLeaders { paused: rng.random_bool(0.5) }, 300, 2_500),
            FaultKind::Partition => (Fault::Partition { second: rng.random_bool(0.5) }, 300, 2_500),
            FaultKind::Quorum => (Fault::Quorum(rng.random_range(1..=self.followers)), 200, 2_000),
            FaultKind::LeaderRace => return None,
        };
        // Pods need seconds to come back: those that overlap may be as far apart.
        let at = Duration::from_millis(rng.random_range(0..if pods { 3_000 } else { 700 }));
        let lasts = Duration::from_millis(rng.random_range(shortest_ms..=longest_ms));
        // A first fault that alone is beyond what the contract covers: a killed follower without a disk at W = 1.
        self.is_covered([fault].into_iter()).then_some(Planned { at, lasts, fault })
    }

    /// One or two followers more, or one less where the quorum allows it.
    fn another_number(&self, rng: &mut SmallRng) -> u16 {
        let followers = self.followers;
        if self.tolerance(self.write_quorum).followers_down > 0 && rng.random_bool(0.5) {
            followers - 1
        } else {
            followers + rng.random_range(1..=2)
        }
    }

    /// Whether the contract holds under all of these at once: at most W − 1 disks lost, under each quorum in force. Where
    /// another leader starts, at most N − W as well: it knows the followers by the ports of its own wires, so it cannot see
    /// that a disk of an earlier rule was replaced, and opens once W others have the state.
    fn is_covered(&self, faults: impl Iterator<Item = Fault>) -> bool {
        let (mut lost, mut quorum, mut highest) = (0, self.write_quorum, self.write_quorum);
        let mut other_names = false;
        for fault in faults {
            match fault {
                Fault::Wipe(_) => lost += 1,
                _ if !self.durable && fault.kills_a_follower() => lost += 1,
                Fault::Quorum(other) => (quorum, highest) = (quorum.min(other), highest.max(other)),
                Fault::TwoLeaders { .. } | Fault::Partition { second: true } => {
                    other_names = self.place == Place::Process
                }
                _ => {}
            }
        }
        let kept_by_name = !other_names || lost <= self.tolerance(highest).followers_down;
        lost <= self.tolerance(quorum).disks_lost && kept_by_name
    }

    fn tolerance(&self, write_quorum: u16) -> Tolerance {
        Tolerance::of(self.followers, write_quorum)
    }
}

impl Fault {
    fn kills_a_follower(self) -> bool {
        let kills = matches!(self, Self::Kill(_) | Self::Delete(_) | Self::ForceDelete(_));
        kills && matches!(self.node(), Some(Node::Follower(_)))
    }
}

/// The leader starts again and takes writes without the killed follower, which returns with an older state than the others.
/// At that moment one rival fetches the state of `fast`, then what differs of `slow`, which short pauses draw out. The second
/// rival interrupts that. Then `fast` pauses, so that the first rival, which asks again, recovers from the two others.
fn interrupted_recovery(killed: u16, fast: u16, slow: u16, rng: &mut SmallRng) -> Vec<Planned> {
    let rival_ms = rng.random_range(2_000..3_000);
    let interrupts_ms = rival_ms + rng.random_range(150..700);
    let mut race = race_begins(killed, rival_ms - rng.random_range(0..200));
    race.push(planned(rival_ms, 0, Fault::Rival));
    race.push(planned(interrupts_ms, 0, Fault::Rival));
    race.push(pause(fast, interrupts_ms + rng.random_range(0..150), rng.random_range(200..700)));
    let mut at_ms = rival_ms;
    while at_ms < interrupts_ms + 200 {
        let lasts_ms = rng.random_range(15..40);
        race.push(pause(slow, at_ms, lasts_ms));
        at_ms += lasts_ms + rng.random_range(3..12);
    }
    race
}

fn race_begins(killed: u16, returns_ms: u64) -> Vec<Planned> {
    vec![
        planned(0, returns_ms, Fault::Kill(Node::Follower(usize::from(killed)))),
        planned(0, 50, Fault::Kill(Node::Leader)),
    ]
}

fn pause(follower: u16, at_ms: u64, lasts_ms: u64) -> Planned {
    planned(at_ms, lasts_ms, Fault::Pause(Node::Follower(usize::from(follower))))
}

fn planned(at_ms: u64, lasts_ms: u64, fault: Fault) -> Planned {
    Planned { at: Duration::from_millis(at_ms), lasts: Duration::from_millis(lasts_ms), fault }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    fn shape(write_quorum: u16, durable: bool) -> Shape {
        Shape::new(Place::Process, 5, write_quorum, durable)
    }

    fn pods(write_quorum: u16, durable: bool) -> Shape {
        Shape::new(Place::Pod, 5, write_quorum, durable)
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
        let processes = [(1, true, 7), (2, true, 8), (3, true, 8), (5, true, 8), (3, false, 7), (1, false, 5)];
        let processes = processes.map(|(write_quorum, durable, kinds)| (shape(write_quorum, durable), kinds));
        let pods = [(1, true, 6), (3, true, 6), (5, true, 6), (3, false, 5), (1, false, 5)]
            .map(|(write_quorum, durable, kinds)| (pods(write_quorum, durable), kinds));
        for (shape, kinds) in processes.into_iter().chain(pods) {
            let Shape { write_quorum, durable, .. } = shape;
            let mut seen = BTreeSet::new();
            let (mut overlapping, mut lost_beside_another_leader) = (0, 0);
            for planned in rounds(&shape, 1, 600) {
                let faults: Vec<Fault> = planned.iter().map(|planned| planned.fault).collect();
                overlapping += usize::from(faults.len() > 1);
                seen.extend(faults.iter().map(|fault| fault.kind()));
                let lost = faults.iter().filter(|fault| match fault {
                    Fault::Wipe(_) => true,
                    Fault::Kill(_) | Fault::Delete(_) | Fault::ForceDelete(_) => {
                        !durable && fault.node() != Some(Node::Leader)
                    }
                    _ => false,
                });
                let quorums = faults.iter().filter_map(|fault| match fault {
                    Fault::Quorum(quorum) => Some(*quorum),
                    _ => None,
                });
                let followers = faults.iter().filter_map(|fault| match fault {
                    Fault::Scale(followers) => Some(*followers),
                    _ => None,
                });
                for followers in followers {
                    assert!((write_quorum..=7).contains(&followers) && followers != 5, "{faults:?}");
                    assert!(faults.iter().all(|fault| fault.kind() != FaultKind::Quorum), "{faults:?}");
                }
                let quorums: Vec<u16> = quorums.chain([write_quorum]).collect();
                let (smallest, largest) = (quorums.iter().min().expect("one"), quorums.iter().max().expect("one"));
                // The formulas themselves, so that wrong shared ones show.
                let lost = lost.count();
                assert!(lost < usize::from(*smallest), "W = {write_quorum}: {faults:?}");
                let another_leader = |fault: &Fault| match fault {
                    Fault::TwoLeaders { .. } => shape.place == Place::Process,
                    Fault::Partition { second } => *second,
                    _ => false,
                };
                if faults.iter().any(another_leader) {
                    assert!(lost <= 5 - usize::from(*largest), "W = {write_quorum}: {faults:?}");
                    lost_beside_another_leader += lost;
                }
                let is_race = faults.contains(&Fault::Rival);
                for (index, fault) in planned.iter().enumerate() {
                    // A race pauses the same follower several times, one after the other.
                    let apart = |other: &Planned| is_race && other.at + other.lasts < fault.at;
                    let collides = |other: &&Planned| fault.fault.collides(other.fault) && !apart(other);
                    assert_eq!(planned[..index].iter().find(collides), None, "{planned:?}");
                }
            }
            assert_eq!(seen.len(), kinds, "W = {write_quorum}: {seen:?}");
            assert!(overlapping > 150, "W = {write_quorum}: {overlapping} rounds overlap");
            let may_lose = shape.place == Place::Process && (2..5).contains(&write_quorum);
            assert_eq!(lost_beside_another_leader > 0, may_lose, "W = {write_quorum}: {lost_beside_another_leader}");
        }
    }

    #[test]
    fn a_race_has_two_or_three_leaders_and_a_follower_that_restarts() {
        let shape = shape(2, true).only(&[FaultKind::LeaderRace]).expect("possible");
        let mut leaders_seen = BTreeSet::new();
        for race in rounds(&shape, 4, 100) {
            let count = |is: fn(Fault) -> bool| race.iter().filter(|planned| is(planned.fault)).count();
            leaders_seen.insert(1 + count(|fault| fault == Fault::Rival));
            assert_eq!(count(|fault| fault == Fault::Kill(Node::Leader)), 1, "{race:?}");
            assert_eq!(count(|fault| matches!(fault, Fault::Kill(Node::Follower(_)))), 1, "{race:?}");
            let killed = race[0].fault.node();
            assert!(race[1..].iter().all(|planned| planned.fault.node() != killed), "{race:?}");
        }
        assert_eq!(leaders_seen, BTreeSet::from([2, 3]));
    }

    #[test]
    fn what_leaves_with_a_smaller_number_is_not_deleted_beside() {
        let deletes = |index| Fault::Delete(Node::Follower(index));
        assert!(Fault::Scale(4).collides(deletes(4)) && deletes(4).collides(Fault::Scale(4)));
        assert!(!Fault::Scale(4).collides(deletes(3)) && !Fault::Scale(6).collides(deletes(4)));
        assert!(Fault::Scale(6).collides(Fault::Quorum(2)) && !Fault::Scale(6).collides(Fault::Delete(Node::Leader)));
    }

    #[test]
    fn what_cannot_be_is_said_in_words() {
        let objection = |shape: Shape, kind| shape.only(&[kind]).expect_err("cannot be");
        let wipe = "--faults wipe is not possible here: at a write quorum of 1 no disk may be lost";
        assert_eq!(objection(shape(1, true), FaultKind::Wipe), wipe);
        let all = "--faults all is not possible here: followers that keep nothing cannot all be killed";
        assert_eq!(objection(shape(3, false), FaultKind::All), all);
        assert_eq!(objection(pods(3, false), FaultKind::All), all);
        let race = "--faults leader-race is not possible here: at a write quorum of 1 a follower that keeps nothing cannot restart";
        assert_eq!(objection(shape(1, false), FaultKind::LeaderRace), race);
        let pause = "--faults pause is not possible here: pods are deleted, by delete and force-delete";
        assert_eq!(objection(pods(3, true), FaultKind::Pause), pause);
        let delete = "--faults delete is not possible here: there are no pods without --kube";
        assert_eq!(objection(shape(3, true), FaultKind::Delete), delete);
        let wiped = shape(2, true).only(&[FaultKind::Wipe]).expect("possible");
        assert_eq!(wiped.kinds, [FaultKind::Wipe]);
    }
}
