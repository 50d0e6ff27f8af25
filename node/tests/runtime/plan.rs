//! What one world is made of.

use std::time::Duration;

use kv_node::protocol::digest::BucketLimits;
use kv_node::protocol::{follower, leader};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// The most followers that a world has.
pub(crate) const PLACES_MAX: usize = 5;

/// A rule that is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// A disk says that it has synced, and has not.
    SyncsInVain,
    /// All leader processes have one id, so that two of one term are not told apart.
    LeadersShareAnId,
}

/// Everything else follows from the seed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) quorum: u16,
    pub(crate) size: u16,
    pub(crate) clients: usize,
    pub(crate) keys: usize,
    /// Whether clients increment keys too, and write numbers among others.
    pub(crate) counters: bool,
    /// Keys that are written before the faults begin, so that a state is many messages long.
    pub(crate) filled_keys: usize,
    /// Longest random wait of a write, of bytes on a connection, and of a sync.
    pub(crate) delay_ms: u32,
    pub(crate) latency_ms: u64,
    pub(crate) sync_ms: u64,
    /// About how long a value is.
    pub(crate) value_bytes: usize,
    /// Bytes that a connection takes before the sender has to wait.
    pub(crate) pipe_bytes: usize,
    /// How much of a state one message or one step carries, and how much a leader keeps.
    pub(crate) leader: leader::Limits,
    pub(crate) follower: follower::Limits,
    /// Leader processes that run beside the one that leads.
    pub(crate) standbys: usize,
    /// Followers that forget everything at a restart.
    pub(crate) memory: bool,
    /// How long the faults last.
    pub(crate) faulty: Duration,
    pub(crate) mutation: Option<Mutation>,
}

impl Plan {
    pub(crate) fn random(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed);
        let size = [3, 3, 3, 4, 5, 5, 2, 1][rng.random_range(0..8)];
        Self {
            seed,
            quorum: rng.random_range(1..=size),
            size,
            clients: rng.random_range(1..=4),
            keys: rng.random_range(1..=4),
            counters: false,
            filled_keys: [0, 0, 3, 40][rng.random_range(0..4)],
            delay_ms: [0, 5, 50][rng.random_range(0..3)],
            latency_ms: [1, 4, 20][rng.random_range(0..3)],
            sync_ms: [1, 5, 30][rng.random_range(0..3)],
            value_bytes: [10, 10, 300, 5_000][rng.random_range(0..4)],
            pipe_bytes: [2 << 10, 16 << 10, 256 << 10][rng.random_range(0..3)],
            leader: leader_limits(&mut rng),
            follower: follower_limits(&mut rng),
            standbys: 0,
            memory: rng.random_bool(0.15),
            faulty: Duration::from_secs(8),
            mutation: None,
        }
        .with_candidates(rng)
    }

    /// In half of the worlds leader processes ask for promises only when no leader can commit, and some have a standby.
    fn with_candidates(mut self, mut rng: SmallRng) -> Self {
        if rng.random_bool(0.5) {
            self.leader.takeover_rounds = rng.random_range(1..=5);
            self.standbys = rng.random_range(0..=1);
        }
        self.counters = rng.random_bool(0.5);
        self
    }
}

/// From few records of everything to what a node has.
fn leader_limits(rng: &mut SmallRng) -> leader::Limits {
    let large = leader::Limits {
        writes_in_flight: 64,
        backlog_writes: [8, 32, 1_000][rng.random_range(0..3)],
        backlog_bytes: [20_000, 1 << 20][rng.random_range(0..2)],
        // The background comparison runs many times in each world.
        audit_pause_us: 500_000,
        ..leader::Limits::default()
    };
    if rng.random_bool(0.3) {
        return large;
    }
    let mut few = || rng.random_range(1..=3_usize);
    leader::Limits {
        message_bytes: few() * 50,
        scan_keys: few(),
        buckets: BucketLimits { keys_per_bucket: few(), least: few(), most: [1, 2, 4][few() - 1] },
        digested_keys: few(),
        ..large
    }
}

fn follower_limits(rng: &mut SmallRng) -> follower::Limits {
    if rng.random_bool(0.3) {
        return follower::Limits::default();
    }
    let mut few = || rng.random_range(1..=3_usize);
    follower::Limits { message_bytes: few() * 50, scan_keys: few(), scan_bytes: few() * 50, changed_keys: few() }
}
