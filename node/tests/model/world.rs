//! One state of everything: followers, leaders, what is on its way between them, and what clients saw.
//!
//! A follower's disk and its process are one here: no reply leaves before its changes are stored, so that a crash is seen
//! from outside as connections that break with some messages not taken. Leaders are never killed either: one that nothing
//! is delivered to, ever again, is as good as dead, and one that goes on later was paused.

use std::collections::VecDeque;
use std::fmt::{self, Debug, Write};
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use foldhash::fast::FixedState;
use kv_node::protocol::digest::{BucketLimits, Buckets};
use kv_node::protocol::follower::{self, Follower};
use kv_node::protocol::leader::{self, InstallJob, Leader, SlotId};
use kv_node::protocol::messages::{ToFollower, ToLeader};
use kv_node::protocol::types::FollowerId;
use xxhash_rust::xxh3::Xxh3;

use crate::clients::Clients;
use crate::mutation::Mutation;

pub(crate) const FOLLOWERS: usize = 3;

/// A write quorum and a number of followers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rule {
    pub(crate) quorum: u16,
    pub(crate) size: u16,
}

/// How often what may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    /// Leader processes that start.
    pub(crate) leaders: u8,
    pub(crate) writes: u8,
    pub(crate) deletes: u8,
    /// Repetitions of a write under its idempotency key, at any leader, also after its answer.
    pub(crate) retries: u8,
    pub(crate) reads: u8,
    /// Connections that break: what was sent on them may arrive late, or never.
    pub(crate) breaks: u8,
    /// Messages of which a copy arrives late.
    pub(crate) repeats: u8,
    /// Exchanges that stop in the middle, where something else comes between; it goes on later, or never.
    pub(crate) stops: u8,
    /// Disks that are emptied.
    pub(crate) wipes: u8,
    /// Changes of the wanted quorum.
    pub(crate) changes: u8,
    /// Changes of the wanted number of followers.
    pub(crate) sizes: u8,
    /// Heartbeats of leaders.
    pub(crate) ticks: u8,
    /// Leaders that resign.
    pub(crate) resigns: u8,
    /// Restores that a client begins or gives up.
    pub(crate) restores: u8,
}

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) quorum: u16,
    /// What the quorum is changed to.
    pub(crate) change_to: u16,
    /// How many keys there are.
    pub(crate) keys: usize,
    /// One record a message, one key a step, few buckets: a state of two keys takes several messages.
    pub(crate) small: bool,
    /// Writes that a leader keeps for followers that have not confirmed them.
    pub(crate) backlog: usize,
    /// Begins with an open leader, all followers and an acknowledged write of each key; otherwise with blank followers
    /// alone.
    pub(crate) founded: bool,
    /// The last follower does not have the last of these writes yet: it is on its way.
    pub(crate) behind: bool,
    /// A state transfer is read when it is received, not when it was decided on: what really happens is in between.
    pub(crate) late_installs: bool,
    /// After how many heartbeats without a sign of a leader another one asks for promises; 0: at once.
    pub(crate) takeover_rounds: u32,
    /// Terms above this one are not explored: leaders that start can interrupt each other for ever.
    pub(crate) terms: u64,
    pub(crate) left: Left,
    pub(crate) mutation: Option<Mutation>,
}

impl Plan {
    pub(crate) fn leader_limits(&self) -> leader::Limits {
        let limits = leader::Limits {
            writes_in_flight: 64,
            backlog_writes: self.backlog,
            backlog_bytes: 1 << 20,
            takeover_rounds: self.takeover_rounds,
            ..leader::Limits::default()
        };
        if !self.small {
            return limits;
        }
        let buckets = BucketLimits { keys_per_bucket: 1, least: 4, most: 4 };
        leader::Limits { message_bytes: 1, scan_keys: 1, buckets, digested_keys: 1, ..limits }
    }

    pub(crate) fn follower_limits(&self) -> follower::Limits {
        if self.small {
            follower::Limits { message_bytes: 1, scan_keys: 1, ..follower::Limits::default() }
        } else {
            follower::Limits::default()
        }
    }
}

/// A part of the state that most steps leave as it is: shared between states, with the digest that tells it from others.
#[derive(Clone, Debug)]
pub(crate) struct Part<T>(Arc<(T, Option<u64>)>);

/// A number that is another one whenever the part may behave differently.
pub(crate) trait Digest {
    fn digest(&self) -> u64;
}

impl<T: Clone + Digest> Part<T> {
    pub(crate) fn new(part: T) -> Self {
        Self(Arc::new((part, None)))
    }

    pub(crate) fn change<R>(&mut self, how: impl FnOnce(&mut T) -> R) -> R {
        let (part, digest) = Arc::make_mut(&mut self.0);
        *digest = None;
        how(part)
    }

    /// Taken once after each step, however often the part changed in it.
    fn digest(&mut self) -> u64 {
        if let Some(known) = self.0.1 {
            return known;
        }
        let (part, digest) = Arc::make_mut(&mut self.0);
        *digest.insert(part.digest())
    }
}

impl<T> Deref for Part<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.0
    }
}

/// A follower with its disk.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) follower: Follower,
    /// It lost its disk and does not say so; only in a mutation.
    pub(crate) pretends: bool,
}

impl Digest for Place {
    fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        (self.follower.id(), self.follower.promised(), self.follower.synced(), self.pretends).hash(&mut hash);
        self.follower.records().iter().for_each(|record| record.hash(&mut hash));
        hash.finish()
    }
}

/// A leader process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) leader: Leader<usize, usize>,
    /// The slot of each follower that the leader knows.
    pub(crate) slots: [Option<SlotId>; FOLLOWERS],
    /// It waits before it asks for promises again.
    pub(crate) waits: bool,
    /// The rule that its settings ask for.
    pub(crate) told: Rule,
    /// The first follower that sent records: the only one that a leader which promotes would listen to.
    pub(crate) promoted: Option<usize>,
    /// The buckets that it last asked each follower for; only a mutation looks at them.
    pub(crate) filters: [Option<Buckets>; FOLLOWERS],
}

impl Digest for Process {
    fn digest(&self) -> u64 {
        // One that was replaced does nothing any more, whatever it holds.
        if self.leader.has_ended() { 0 } else { of_debug(self) }
    }
}

/// Hashes a text as it is written, piece by piece: half of the time of a search goes to this.
struct Text<H>(H);

impl<H: Hasher> fmt::Write for Text<H> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.0.write(piece.as_bytes());
        Ok(())
    }
}

fn of_debug(value: &impl Debug) -> u64 {
    let mut text = Text(FixedState::default().build_hasher());
    write!(text, "{value:?}").expect("a hasher takes every text");
    text.0.finish()
}

/// On its way to a follower.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Sent {
    Message(ToFollower),
    Install(InstallJob),
}

/// What is between one leader and one follower.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Link {
    pub(crate) live: bool,
    pub(crate) down: VecDeque<Sent>,
    pub(crate) up: VecDeque<ToLeader>,
    /// Of connections that are gone: each keeps its order, and nobody hears the answers.
    pub(crate) late: Vec<VecDeque<ToFollower>>,
}

impl Digest for Link {
    fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        self.hash(&mut hash);
        hash.finish()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Lead {
    pub(crate) process: Part<Process>,
    pub(crate) links: [Part<Link>; FOLLOWERS],
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) places: [Part<Place>; FOLLOWERS],
    pub(crate) leads: Vec<Lead>,
    pub(crate) clients: Part<Clients>,
    pub(crate) left: Left,
    pub(crate) wanted: Rule,
    pub(crate) disks: u64,
}

impl World {
    /// Followers whose disks are new, and nothing else.
    pub(crate) fn blank(plan: &Plan) -> Self {
        let place = |number: usize| {
            let follower = Follower::blank(FollowerId(number as u64 + 1), format!("f{number}").into());
            Part::new(Place { follower: follower.limited(plan.follower_limits()), pretends: false })
        };
        Self {
            places: std::array::from_fn(place),
            leads: Vec::new(),
            clients: Part::new(Clients::default()),
            left: plan.left,
            wanted: Rule { quorum: plan.quorum, size: FOLLOWERS as u16 },
            disks: FOLLOWERS as u64,
        }
    }

    pub(crate) fn fingerprint(&mut self) -> u64 {
        let mut hash = Xxh3::new();
        self.places.iter_mut().for_each(|place| hash.write_u64(place.digest()));
        for lead in &mut self.leads {
            hash.write_u64(lead.process.digest());
            lead.links.iter_mut().for_each(|link| hash.write_u64(link.digest()));
        }
        hash.write_u64(self.clients.digest());
        (self.left, self.wanted, self.disks).hash(&mut hash);
        hash.finish()
    }

    /// Whether a disk may be lost without exceeding what every rule that is stored anywhere promises to survive.
    pub(crate) fn may_lose(&self, place: usize) -> bool {
        let lost = self.places[place].follower.id();
        let opened = self.clients.last_opened();
        let there = |id| self.places.iter().any(|place| place.follower.id() == id && !place.pretends);
        let stored = self.places.iter().filter_map(|place| place.follower.synced());
        let mut rules =
            stored.filter(|synced| synced.epoch >= opened).flat_map(|synced| synced.config.binding()).peekable();
        rules.peek().is_some()
            && rules.all(|rule| {
                let left = rule.members.iter().filter(|member| member.id != lost && there(member.id));
                left.count() >= rule.recovery_size()
            })
    }
}
