//! The shipped leader and follower in a world made of one seed: its network, clock, disks, clients and faults.
//!
//! Goal: whatever happens in that world, what clients saw can be explained by one register per key, and once the faults
//! are over everything converges. Method: one queue of events in virtual time. A connection keeps the order of what was
//! sent and loses a suffix when it breaks; what is left of it may arrive much later, as a paused sender's would. A
//! follower's changes reach its disk at a sync, and replies leave after it. A crash drops what was not synced.

pub(crate) mod clients;
pub(crate) mod faults;
pub(crate) mod history;
pub(crate) mod leaders;
pub(crate) mod linearizability;
mod mutation;
pub(crate) mod network;
pub(crate) mod places;
pub(crate) mod restores;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use kv_node::protocol::digest::BucketLimits;
use kv_node::protocol::leader::SlotId;
use kv_node::protocol::messages::ToFollower;
use kv_node::protocol::{follower, leader};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use self::clients::Client;
use self::faults::Fault;
use self::history::History;
use self::leaders::Lead;
use self::network::Connection;
use self::places::Place;
use self::restores::Restorer;
use crate::mutation::Mutation;

/// What can happen next.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The front of what is on its way to the follower arrives.
    ToFollower(u64),
    /// The front of what is on its way to the leader arrives.
    ToLeader(u64),
    /// A part of an install arrives once more, long after.
    Again {
        place: usize,
        process: u64,
        message: ToFollower,
    },
    /// The follower's disk has everything that was queued for it.
    Sync {
        place: usize,
        process: u64,
    },
    Connect {
        leader: usize,
        slot: SlotId,
    },
    /// The leader notices that the connection is gone.
    Closed(u64),
    Due {
        leader: usize,
        slot: SlotId,
        index: u64,
    },
    /// The next part of a state transfer is sent.
    InstallPart(u64),
    Elect(usize),
    Tick(usize),
    /// The leader is told the wanted rule.
    Want(usize),
    Client(usize),
    /// The client stops waiting for this attempt.
    Impatient {
        op: usize,
        attempt: u32,
    },
    Restorer,
    Nemesis,
    Heal(Fault),
    /// A new leader is started if there is none.
    Supervise,
}

/// What one world is made of. Everything else follows from the seed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) quorum: u16,
    pub(crate) size: u16,
    pub(crate) clients: usize,
    pub(crate) keys: usize,
    /// Longest wait of a write and of a message.
    pub(crate) delay_us: u32,
    pub(crate) latency_us: u64,
    pub(crate) sync_us: u64,
    /// Followers that forget everything at a restart.
    pub(crate) memory: bool,
    pub(crate) faults: bool,
    /// Whether clients increment keys too, and write numbers among others.
    pub(crate) counters: bool,
    /// A client that restores backups.
    pub(crate) restores: bool,
    pub(crate) sizes: Sizes,
    /// Leader processes are started by themselves where too few run.
    pub(crate) supervised: bool,
    /// How many of them run beside the one that leads.
    pub(crate) standbys: usize,
    pub(crate) mutation: Option<Mutation>,
}

/// How much of a state one message or one step carries, and how much a leader keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) leader: leader::Limits,
    pub(crate) follower: follower::Limits,
}

impl Sizes {
    /// As a node has them: every state of a world fits one message.
    fn large() -> Self {
        let leader = leader::Limits { writes_in_flight: 64, backlog_writes: 1_000, ..leader::Limits::default() };
        Self { leader, follower: follower::Limits::default() }
    }

    /// From 1 to 3 of everything, so that a state of a few keys takes many messages.
    fn small(rng: &mut SmallRng) -> Self {
        let mut few = || rng.random_range(1..=3_usize);
        let buckets = BucketLimits { keys_per_bucket: few(), least: few(), most: [1, 2, 4][few() - 1] };
        let leader = leader::Limits {
            message_bytes: few() * RECORD_BYTES,
            scan_keys: few(),
            buckets,
            digested_keys: few(),
            audit_keys: few(),
            audit_pause_us: 50_000,
            ..Self::large().leader
        };
        Self { leader, follower: Self::small_follower(&mut few) }
    }

    fn small_follower(few: &mut impl FnMut() -> usize) -> follower::Limits {
        let (message_bytes, scan_keys, scan_bytes) = (few() * RECORD_BYTES, few(), few() * RECORD_BYTES);
        follower::Limits { message_bytes, scan_keys, scan_bytes, changed_keys: few() }
    }
}

/// About how many bytes a record of a world counts for in a message.
const RECORD_BYTES: usize = 36;

impl Plan {
    /// A world with faults and clients, drawn from the seed.
    pub(crate) fn random(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed);
        let size = [3, 3, 3, 4, 5, 5, 2, 1][rng.random_range(0..8)];
        Self {
            seed,
            quorum: rng.random_range(1..=size),
            size,
            clients: rng.random_range(1..=5),
            keys: rng.random_range(1..=6),
            delay_us: [0, 2_000, 20_000][rng.random_range(0..3)],
            latency_us: [500, 3_000, 15_000][rng.random_range(0..3)],
            sync_us: [100, 1_000, 10_000][rng.random_range(0..3)],
            memory: rng.random_bool(0.2),
            faults: true,
            counters: false,
            sizes: Self::random_sizes(&mut rng),
            restores: rng.random_bool(0.25),
            supervised: true,
            standbys: 0,
            mutation: None,
        }
        .with_candidates(rng)
    }

    /// In half of the worlds leader processes ask for promises only when no leader can commit, and some have standbys.
    fn with_candidates(mut self, mut rng: SmallRng) -> Self {
        self.sizes.leader.takeover_rounds = if rng.random_bool(0.5) { rng.random_range(1..=3) } else { 0 };
        self.standbys = if self.sizes.leader.takeover_rounds > 0 { rng.random_range(0..=2) } else { 0 };
        self.counters = rng.random_bool(0.5);
        self
    }

    /// Leader processes ask for promises at once. More of them lead, one after another.
    pub(crate) fn leave_candidates_out(&mut self) {
        self.sizes.leader.takeover_rounds = 0;
        self.standbys = 0;
    }

    fn random_sizes(rng: &mut SmallRng) -> Sizes {
        let mut sizes = if rng.random_bool(0.8) { Sizes::small(rng) } else { Sizes::large() };
        sizes.leader.backlog_writes = [4, 16, 1_000][rng.random_range(0..3)];
        sizes
    }

    /// A world in which nothing happens by itself: for cases told step by step.
    pub(crate) fn quiet(quorum: u16, size: u16) -> Self {
        Self {
            seed: 1,
            quorum,
            size,
            clients: 0,
            keys: 1,
            delay_us: 0,
            latency_us: 100,
            sync_us: 100,
            memory: false,
            faults: false,
            counters: false,
            restores: false,
            sizes: Sizes::large(),
            supervised: false,
            standbys: 0,
            mutation: None,
        }
    }

    /// The same world with leaders that keep so many writes for followers.
    pub(crate) fn keeping(mut self, writes: usize) -> Self {
        self.sizes.leader.backlog_writes = writes;
        self
    }
}

/// The most followers that a world has.
pub(crate) const PLACES_MAX: usize = 6;

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: SmallRng,
    pub(crate) now_us: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    queued: BTreeMap<u64, Event>,
    order: u64,
    pub(crate) places: Vec<Place>,
    pub(crate) leads: Vec<Lead>,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) connected: u64,
    pub(crate) clients: Vec<Client>,
    pub(crate) restorer: Restorer,
    pub(crate) history: History,
    /// The wanted rule: quorum and size.
    pub(crate) wanted: (u16, u16),
    pub(crate) faults_on: bool,
    pub(crate) clients_on: bool,
    pub(crate) next_disk: u64,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) handled: u64,
}

/// Adds a line to the trace, if there is one; costs nothing otherwise.
macro_rules! note {
    ($world:expr, $($part:tt)*) => {
        if let Some(lines) = &mut $world.trace {
            let line = format!($($part)*);
            let line: String = line.chars().take(400).collect();
            lines.push(format!("{:>10} {line}", $world.now_us));
        }
    };
}
pub(crate) use note;

impl World {
    pub(crate) fn new(plan: Plan, traced: bool) -> Self {
        let mut world = Self {
            rng: SmallRng::seed_from_u64(plan.seed),
            now_us: 0,
            events: BinaryHeap::new(),
            queued: BTreeMap::new(),
            order: 0,
            places: Vec::new(),
            leads: Vec::new(),
            connections: BTreeMap::new(),
            connected: 0,
            clients: Vec::new(),
            restorer: Restorer::default(),
            history: History::default(),
            wanted: (plan.quorum, plan.size),
            faults_on: plan.faults,
            clients_on: true,
            next_disk: 1,
            trace: traced.then(Vec::new),
            handled: 0,
            plan,
        };
        note!(world, "plan {:?}", world.plan);
        for _ in 0..PLACES_MAX {
            let place = world.new_place();
            world.places.push(place);
        }
        for client in 0..world.plan.clients {
            world.clients.push(Client::default());
            world.after(1_000, Event::Client(client));
        }
        if world.plan.supervised {
            world.after(0, Event::Supervise);
        }
        if world.plan.restores {
            world.after(50_000, Event::Restorer);
        }
        if world.plan.faults {
            world.after(100_000, Event::Nemesis);
        }
        world
    }

    pub(crate) fn after(&mut self, wait_us: u64, event: Event) {
        self.order += 1;
        self.events.push(Reverse((self.now_us + wait_us, self.order)));
        self.queued.insert(self.order, event);
    }

    /// A wait drawn from [1, most].
    pub(crate) fn wait(&mut self, most_us: u64) -> u64 {
        self.rng.random_range(1..=most_us.max(1))
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.rng.random_range(0..from.len())]) }
    }

    /// Handles the next event; false when there is none before that time.
    fn step(&mut self, until_us: u64) -> bool {
        let Some(&Reverse((at, order))) = self.events.peek() else {
            return false;
        };
        if at > until_us {
            return false;
        }
        self.events.pop();
        let event = self.queued.remove(&order).expect("every queued event is known by its order");
        self.now_us = at;
        self.handled += 1;
        self.handle(event);
        true
    }

    fn handle(&mut self, event: Event) {
        if let Some(leader) = self.addressee(&event) {
            let lead = &mut self.leads[leader];
            if lead.dead {
                return;
            }
            if lead.paused {
                lead.held.push(event);
                return;
            }
        }
        match event {
            Event::ToFollower(connection) => self.deliver_to_follower(connection),
            Event::ToLeader(connection) => self.deliver_to_leader(connection),
            Event::Again { place, process, message } => self.deliver_again(place, process, message),
            Event::Sync { place, process } => self.sync(place, process),
            Event::Connect { leader, slot } => self.connect(leader, slot),
            Event::Closed(connection) => self.notice_closed(connection),
            Event::Due { leader, slot, index } => self.drive(leader, |lead| lead.due(slot, index)),
            Event::InstallPart(connection) => self.install_part(connection),
            Event::Elect(leader) => self.drive(leader, |lead| lead.elect()),
            Event::Tick(leader) => self.tick(leader),
            Event::Want(leader) => self.want(leader),
            Event::Client(client) => self.client_acts(client),
            Event::Impatient { op, attempt } => self.client_gives_up(op, attempt),
            Event::Restorer => self.restorer_acts(),
            Event::Nemesis => self.nemesis(),
            Event::Heal(fault) => self.heal(fault),
            Event::Supervise => self.supervise(),
        }
    }

    /// The leader process that handles the event, if one does.
    fn addressee(&self, event: &Event) -> Option<usize> {
        match event {
            Event::ToLeader(connection) | Event::Closed(connection) | Event::InstallPart(connection) => {
                self.connections.get(connection).map(|connection| connection.leader)
            }
            Event::Connect { leader, .. }
            | Event::Due { leader, .. }
            | Event::Elect(leader)
            | Event::Tick(leader)
            | Event::Want(leader) => Some(*leader),
            _ => None,
        }
    }

    pub(crate) fn run_for(&mut self, us: u64) {
        let until = self.now_us + us;
        while self.step(until) {}
        self.now_us = until;
    }

    /// Runs until the condition holds; false when it does not within that time.
    pub(crate) fn run_until(&mut self, us: u64, mut condition: impl FnMut(&mut Self) -> bool) -> bool {
        let until = self.now_us + us;
        let pace = if self.plan.faults { 1_000 } else { 20 };
        loop {
            if condition(self) {
                return true;
            }
            let next = self.now_us + pace;
            while self.step(next.min(until)) {}
            if next > until {
                return condition(self);
            }
            self.now_us = next;
        }
    }
}

/// What a world that ran to its end amounts to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) events: u64,
    pub(crate) acknowledged: usize,
    /// Of those, with a condition.
    pub(crate) conditional: usize,
    /// Of those, increments.
    pub(crate) increments: usize,
    /// Writes that their condition refused.
    pub(crate) unmet: usize,
    pub(crate) unknown: usize,
    pub(crate) reads: usize,
    pub(crate) opened: usize,
    pub(crate) restores: usize,
    pub(crate) rules: u64,
    /// Worlds that ended closed because more disks were lost than a rule on its way survives.
    pub(crate) closed: usize,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.acknowledged += other.acknowledged;
        self.conditional += other.conditional;
        self.increments += other.increments;
        self.unmet += other.unmet;
        self.unknown += other.unknown;
        self.reads += other.reads;
        self.opened += other.opened;
        self.restores += other.restores;
        self.rules += other.rules;
        self.closed += other.closed;
    }
}

/// Runs one world: a time of faults, then none, then the checks.
///
/// # Errors
/// What was violated, in one sentence.
pub(crate) fn run(plan: Plan, traced: bool) -> (Result<Summary, String>, Vec<String>) {
    let mut world = World::new(plan, traced);
    let faulty_us = 2_000_000;
    world.run_for(faulty_us);
    world.calm();
    let over = |world: &mut World| world.history.failed() || world.is_converged();
    let calm = world.run_until(10_000_000, over) || world.must_stay_closed() || world.run_until(50_000_000, over);
    let closed = usize::from(calm && !world.is_converged());
    if !calm && !world.history.failed() {
        let why = world.why_not_converged();
        world.history.fail(format!("liveness: {why}"));
    }
    if closed == 0 {
        world.read_everything();
    }
    let verdict = world.history.verdict();
    let summary = Summary {
        events: world.handled,
        rules: world.leads.iter().map(|lead| lead.rules).sum(),
        closed,
        restores: world.restorer.finished,
        ..world.history.summary()
    };
    (verdict.map(|()| summary), world.trace.take().unwrap_or_default())
}
