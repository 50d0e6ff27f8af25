//! Visits every state that can be reached, each once; or walks through some of them at random.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::actions::Action;
use crate::world::{Plan, World};

/// A search that visited everything and found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Explored {
    pub(crate) states: usize,
    pub(crate) steps: usize,
    /// States in which another leader opened, and in which another write was acknowledged: a search in which nothing
    /// happens shows nothing.
    pub(crate) opened: usize,
    pub(crate) acknowledged: usize,
}

/// A way to a state in which something does not hold.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) why: String,
    pub(crate) way: Vec<Action>,
    pub(crate) states: usize,
}

/// A fingerprint is as good as any hash of it.
#[derive(Clone, Copy, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("fingerprints are numbers")
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// # Errors
/// What does not hold, and how to get there; or that there are more states than that.
pub(crate) fn explore(plan: &Plan, mut first: World, states_max: usize) -> Result<Explored, Box<Found>> {
    let mut known: HashSet<u64, BuildHasherDefault<AsItIs>> = HashSet::default();
    // From which state, by which action.
    let mut ways: Vec<(u32, Action)> = vec![(0, Action::Start)];
    let (mut steps, mut opened, mut acknowledged) = (0, 0, 0);
    known.insert(first.fingerprint());
    let (epoch, writes) = (first.clients.last_opened(), first.clients.acknowledged_writes());
    // The newest state comes next: that needs little memory.
    let mut open = vec![(0_u32, first)];
    while let Some((number, world)) = open.pop() {
        opened += usize::from(world.clients.last_opened() > epoch);
        acknowledged += usize::from(world.clients.acknowledged_writes() > writes);
        for action in world.actions(plan) {
            let Some(mut after) = world.after(action, plan) else {
                continue;
            };
            steps += 1;
            if !known.insert(after.fingerprint()) {
                continue;
            }
            ways.push((number, action));
            let reached = u32::try_from(ways.len() - 1).expect("states are far below four billion");
            if let Some(why) = after.clients.violation.clone() {
                return Err(Box::new(Found { why, way: way_to(&ways, reached), states: known.len() }));
            }
            if known.len() > states_max {
                let why = format!("there are more than {states_max} states");
                return Err(Box::new(Found { why, way: Vec::new(), states: known.len() }));
            }
            open.push((reached, after));
        }
    }
    Ok(Explored { states: known.len(), steps, opened, acknowledged })
}

/// Takes so many random walks from a state, each until nothing can happen or after so many steps.
///
/// # Errors
/// What does not hold, and how to get there.
pub(crate) fn walk(
    plan: &Plan,
    first: &World,
    seed: u64,
    walks: usize,
    steps_max: usize,
) -> Result<Explored, Box<Found>> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut explored = Explored { states: 0, steps: 0, opened: 0, acknowledged: 0 };
    let (epoch, writes) = (first.clients.last_opened(), first.clients.acknowledged_writes());
    for _ in 0..walks {
        let (mut world, mut way) = (first.clone(), Vec::new());
        for _ in 0..steps_max {
            let actions = world.actions(plan);
            if actions.is_empty() {
                break;
            }
            let action = actions[random.random_range(0..actions.len())];
            let Some(after) = world.after(action, plan) else {
                continue;
            };
            world = after;
            way.push(action);
            explored.steps += 1;
            explored.states += 1;
            explored.opened += usize::from(world.clients.last_opened() > epoch);
            explored.acknowledged += usize::from(world.clients.acknowledged_writes() > writes);
            if let Some(why) = world.clients.violation.clone() {
                return Err(Box::new(Found { why, way, states: explored.states }));
            }
        }
    }
    Ok(explored)
}

fn way_to(ways: &[(u32, Action)], mut number: u32) -> Vec<Action> {
    let mut way = Vec::new();
    while number != 0 {
        let (before, action) = ways[number as usize];
        way.push(action);
        number = before;
    }
    way.reverse();
    way
}
