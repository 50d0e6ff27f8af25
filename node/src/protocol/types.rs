//! The data types of the protocol: epochs, versions, records and configurations.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use super::value::Value;

/// A key. The map, the window and the wire share it without copying.
pub type Key = Arc<str>;

/// The key of the mark that exists while a restore is under way. Clients cannot use the empty key.
pub const RESTORE_MARK: &str = "";

/// The right to lead, totally ordered: a term, and among equal terms the random id of the leader process.
///
/// The id is needed: with a write quorum above N/2, two starting leaders can collect enough
/// promises from disjoint followers for the same term. Only the id then distinguishes their writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// One more than the highest term that the leader had seen when it asked for promises.
    pub term: u64,
    /// Random id of the leader process, new at every start.
    pub leader: u64,
}

/// Maximum by which a term may exceed a known one. Leaders raise the term in small steps, so a
/// larger step cannot come from a leader. Accepting it could exhaust the terms, and no leader could
/// open any more.
pub const TERM_STEP_MAX: u64 = 1 << 32;

impl Epoch {
    /// Whether a leader may ask for this epoch when `known` is the highest known epoch.
    pub fn may_follow(self, known: Self) -> bool {
        self.term.saturating_sub(known.term) <= TERM_STEP_MAX
    }
}

/// The highest sequence number that a restore accepts. The numbers above it last longer than any
/// cluster runs.
pub const SEQ_MAX: u64 = u64::MAX >> 1;

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.term, self.leader)
    }
}

/// Orders the values of one key: by epoch first, then by sequence number.
///
/// Sequence numbers alone would let the unacknowledged write of a dead leader beat an acknowledged one of its successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The epoch in which a leader accepted or recovered the value.
    pub epoch: Epoch,
    /// Number of the accepted write of the key, from 1, without gaps.
    pub seq: u64,
}

/// The random id that a follower draws when it creates its data directory. An emptied disk
/// therefore gets another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FollowerId(pub u64);

impl fmt::Display for FollowerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A write that a client marked with an `Idempotency-Key`, stored with the value of its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RetryMark {
    /// The client's `Idempotency-Key`.
    pub token: Arc<str>,
    /// The sequence number that the write got.
    pub seq: u64,
    /// Fingerprint of the value. The leader refuses the same token with another value.
    pub fingerprint: u64,
}

/// How many marked writes are stored with a key. A retry is recognised until its key gets this many
/// later marked writes.
pub const RETRY_MARKS_PER_KEY: usize = 16;

/// The generation of the rule of a new cluster. Rules that leaders propose start with 1.
const FOUNDING: u64 = 0;

/// The newest state of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Of two records of a key, the one with the higher version wins.
    pub version: Version,
    /// The value; `None` once the key is deleted. The record remains, so that its sequence numbers
    /// continue.
    pub value: Option<Value>,
    /// The last marked writes of the key, oldest first.
    pub marks: Option<Arc<[RetryMark]>>,
}

/// A follower that counts: its name and its disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The follower's URL, or with DNS discovery the name that it reports. Never an IP address.
    pub name: Arc<str>,
    /// The id of its disk.
    pub id: FollowerId,
}

/// The followers that count, and how many of them make a quorum. Each follower stores it with the
/// epoch of its state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Config {
    /// Orders the configurations of a cluster, across leaders.
    pub generation: u64,
    /// W: how many followers confirm a write before it is acknowledged.
    pub quorum: u16,
    /// N: how many followers are declared, whether they answer or not.
    pub size: u16,
    /// The followers known so far, at most `size`.
    pub members: Vec<Member>,
    /// Earlier rules that still bind: until this one is in force, another recovery may have used
    /// one of them alone. Their own `earlier` is empty.
    #[serde(deserialize_with = "not_nested")]
    pub earlier: Vec<Config>,
}

/// Reads configurations whose own `earlier` is empty. Otherwise a message could nest them until the
/// stack is used up.
fn not_nested<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Config>, D::Error> {
    #[derive(Deserialize)]
    enum Nothing {}
    #[derive(Deserialize)]
    struct Earlier {
        generation: u64,
        quorum: u16,
        size: u16,
        members: Vec<Member>,
        earlier: Vec<Nothing>,
    }
    let of = |Earlier { generation, quorum, size, members, earlier }| {
        debug_assert!(earlier.is_empty(), "there is no element");
        Config { generation, quorum, size, members, earlier: Vec::new() }
    };
    Ok(Vec::<Earlier>::deserialize(deserializer)?.into_iter().map(of).collect())
}

impl Config {
    /// How many members must promise before a leader knows every acknowledged write: N − W + 1. N
    /// is the number of members here: no other follower can have confirmed a write.
    pub fn recovery_size(&self) -> usize {
        (self.members.len() + 1).saturating_sub(usize::from(self.quorum)).max(1)
    }

    /// The rule that a leader records with the state of a new cluster until all members store that
    /// state. Quorum 1: a recovery needs every member.
    pub(crate) fn founding(size: u16, members: Vec<Member>) -> Self {
        Self { generation: FOUNDING, quorum: 1, size, members, earlier: Vec::new() }
    }

    /// Whether this is the rule of a cluster that was perhaps never open.
    pub(crate) fn is_founding(&self) -> bool {
        self.generation == FOUNDING
    }

    /// Every rule that a recovery from this configuration must satisfy, the newest last.
    pub fn binding(&self) -> impl Iterator<Item = &Config> {
        self.earlier.iter().chain([self])
    }

    /// Whether the disk with this id is a member.
    pub fn contains(&self, id: FollowerId) -> bool {
        self.members.iter().any(|member| member.id == id)
    }

    /// Whether both have the same quorum, size and members, regardless of the generation.
    pub(crate) fn same_rule(&self, other: &Self) -> bool {
        self.quorum == other.quorum && self.size == other.size && self.members == other.members
    }
}

/// The last epoch whose whole state a follower received, with the newest configuration that it
/// stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Synced {
    /// The epoch of the leader that installed the state.
    pub epoch: Epoch,
    /// Its newest configuration that this follower stored.
    pub config: Config,
}

/// A stable 64-bit fingerprint (FNV-1a) of a value, the same in every process and release.
///
/// The parameters are those of <http://www.isthe.com/chongo/tech/comp/fnv/>.
pub fn fingerprint(value: Option<&[u8]>) -> u64 {
    fnv(0, value.unwrap_or(b"\xff"))
}

/// The fingerprint of a request to add to a value. Its seed differs from that of a value.
pub fn fingerprint_of_increment(by: i64) -> u64 {
    fnv(1 << 63, &by.to_le_bytes())
}

fn fnv(seed: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
