//! The words of the protocol: what is compared, what is stored, what is sent.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::digest::{Buckets, Digest};

/// A key. Shared, never copied, between the map, the window and the wire.
pub type Key = Arc<str>;

/// The key of the mark that a restore leaves while it is under way: the only one that no client can name.
pub const RESTORE_MARK: &str = "";

/// The right to lead, totally ordered: a term, and among equal terms the random id of the leader process.
///
/// The id is not decoration. With a write quorum above N/2 two starting leaders can collect enough promises from disjoint
/// followers for the same term; only the id then tells their writes apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Counts leaders: one more than the highest that the leader had seen when it asked for promises.
    pub term: u64,
    /// Random id of the leader process, new at every start.
    pub leader: u64,
}

/// A term may be higher than one that is known by at most this much. Leaders count terms one by one, so a larger step is
/// no leader's: it would use up the terms, after which no leader could open any more.
pub const TERM_STEP_MAX: u64 = 1 << 32;

impl Epoch {
    /// Whether a leader may ask for this epoch where `known` is the highest epoch that is known.
    pub fn may_follow(self, known: Self) -> bool {
        self.term.saturating_sub(known.term) <= TERM_STEP_MAX
    }
}

/// The highest sequence number that a backup may bring: the numbers of its key then go on for longer than any cluster
/// runs.
pub const SEQ_MAX: u64 = u64::MAX >> 1;

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.term, self.leader)
    }
}

/// Which of two values of one key is newer: epoch first, then the sequence number.
///
/// Sequence numbers alone would let the unacknowledged write of a dead leader beat an acknowledged one of its successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The epoch in which a leader accepted or recovered the value.
    pub epoch: Epoch,
    /// Counts the accepted writes of the key, from 1, without gaps.
    pub seq: u64,
}

/// The random id that a follower makes together with its data directory. An emptied disk therefore has another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FollowerId(pub u64);

impl fmt::Display for FollowerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One write that a client marked with an `Idempotency-Key`, remembered beside the value of its key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RetryMark {
    /// The client's `Idempotency-Key`.
    pub token: Arc<str>,
    /// The sequence number that the write got.
    pub seq: u64,
    /// Fingerprint of the value, so that the same token with another value is refused instead of swallowed.
    pub fingerprint: u64,
}

/// How many marked writes a key remembers: a retry is recognised until this many later marked writes of its key.
pub const RETRY_MARKS_PER_KEY: usize = 16;

/// The newest state of one key: a register.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Decides against every other record of this key.
    pub version: Version,
    /// The value; absent once the key is deleted. The record stays, so that its sequence numbers go on.
    pub value: Option<Arc<str>>,
    /// The last marked writes of the key, oldest first.
    pub marks: Option<Arc<[RetryMark]>>,
}

/// A follower that counts: the place it fills, and the disk that fills it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The place: its URL, or under DNS discovery the name that it reports. Never an address.
    pub name: Arc<str>,
    /// The disk.
    pub id: FollowerId,
}

/// Who counts, and how many of them make a quorum. Every follower stores it with the epoch it was installed for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Config {
    /// Orders the configurations of one cluster; goes on over leaders.
    pub generation: u64,
    /// W: how many followers confirm a write before it is acknowledged.
    pub quorum: u16,
    /// N: how many followers are declared. Not how many answer.
    pub size: u16,
    /// The followers known so far, at most `size`.
    pub members: Vec<Member>,
    /// The rules before this one that still bind: until it is in force, another recovery may have gone by one of them
    /// alone. Each without its own `earlier`.
    pub earlier: Vec<Config>,
}

impl Config {
    /// How many members must promise before a leader can know every acknowledged write: N − W + 1. Of the N declared
    /// those count that are members by now: nobody else can have confirmed anything, nor could answer.
    pub fn recovery_size(&self) -> usize {
        (self.members.len() + 1).saturating_sub(usize::from(self.quorum)).max(1)
    }

    /// Every rule that a recovery from this configuration has to satisfy, the newest last.
    pub fn binding(&self) -> impl Iterator<Item = &Config> {
        self.earlier.iter().chain([self])
    }

    /// Whether the disk with this id counts.
    pub fn contains(&self, id: FollowerId) -> bool {
        self.members.iter().any(|member| member.id == id)
    }

    /// The same rule for the same disks, whatever its generation.
    pub(crate) fn same_rule(&self, other: &Self) -> bool {
        self.quorum == other.quorum && self.size == other.size && self.members == other.members
    }
}

/// The last epoch whose whole state a follower took over, with the configuration in force there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Synced {
    /// The epoch of the leader that installed the state.
    pub epoch: Epoch,
    /// Its newest configuration that this follower stored.
    pub config: Config,
}

/// A write on its way to a follower.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Write {
    /// Position in the order in which this leader accepted writes; confirmations name it.
    pub index: u64,
    /// The key.
    pub key: Key,
    /// The value with its version.
    pub record: Record,
    /// How it is sent.
    #[serde(skip)]
    pub encoded: Encoded,
}

impl Write {
    /// A write that nobody has sent yet.
    pub fn new(index: u64, key: Key, record: Record) -> Self {
        Self { index, key, record, encoded: Encoded::default() }
    }
}

/// The bytes of something that is sent to many, made by the first who sends it. No part of what it stands beside: it is
/// always equal, and a copy starts without.
#[derive(Debug, Default)]
pub struct Encoded(OnceLock<Box<[u8]>>);

impl Encoded {
    /// The bytes, made by `encode` if they are not there yet.
    pub fn get_or_make(&self, encode: impl FnOnce() -> Vec<u8>) -> &[u8] {
        self.0.get_or_init(|| encode().into_boxed_slice())
    }
}

impl Clone for Encoded {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Encoded {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Encoded {}

impl Hash for Encoded {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// What a follower says first on every connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hello {
    /// The follower's disk.
    pub id: FollowerId,
    /// The name it was given (a StatefulSet pod's name, say).
    pub name: Arc<str>,
    /// The highest epoch it promised.
    pub promised: Epoch,
    /// What it has in full; nothing makes it blank.
    pub synced: Option<Synced>,
}

/// Leader to follower.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ToFollower {
    /// Asks for the promise to take nothing of a lower epoch from now on.
    Prepare {
        /// The epoch to promise.
        epoch: Epoch,
    },
    /// Asks for the digest of the follower's state, from a position on.
    Compare {
        /// The leader's epoch.
        epoch: Epoch,
        /// Into how many buckets the keys fall.
        buckets: u32,
        /// Position to continue at; 0 at first.
        cursor: u64,
        /// The follower looks at no more keys than this for one answer.
        keys: u32,
        /// The follower looks at about so many bytes of keys and values, and at least at one record.
        bytes: u32,
        /// Comes back in the answer.
        token: u64,
    },
    /// Asks for the records from a position on, to merge them.
    Fetch {
        /// The leader's epoch.
        epoch: Epoch,
        /// Position to continue at; 0 at first.
        cursor: u64,
        /// Only those with keys in these buckets.
        of: Option<Buckets>,
    },
    /// Writes whose delay is over.
    Writes {
        /// The leader's epoch.
        epoch: Epoch,
        /// In no particular order.
        writes: Vec<Write>,
    },
    /// A part of the leader's state.
    Install {
        /// The leader's epoch.
        epoch: Epoch,
        /// Keys with their newest records.
        records: Vec<(Key, Record)>,
    },
    /// The state is complete.
    InstallEnd {
        /// The leader's epoch.
        epoch: Epoch,
        /// What is in force.
        config: Config,
        /// What was sent.
        covered: Covered,
        /// Comes back in the answer.
        token: u64,
    },
    /// A new rule for a follower that has everything.
    Configure {
        /// The leader's epoch.
        epoch: Epoch,
        /// The new rule.
        config: Config,
    },
    /// Heartbeat, and the question whether this leader still leads.
    Probe {
        /// The leader's epoch.
        epoch: Epoch,
        /// Comes back in the answer.
        round: u64,
        /// Everything that any leader accepted up to this long before the question was sent, in microseconds, is at this
        /// follower. The largest number where nothing is said about it.
        lag_us: u64,
        /// The highest round that this follower had answered when the question was sent. It cannot have been sent before
        /// that answer, however long it was on its way.
        heard: u64,
    },
}

impl ToFollower {
    /// Asks for the digest of as much of the state as the follower gives in one answer.
    pub(crate) fn compare(epoch: Epoch, buckets: u32, cursor: u64, token: u64) -> Self {
        Self::Compare { epoch, buckets, cursor, keys: u32::MAX, bytes: u32::MAX, token }
    }
}

/// What a state transfer brought.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Covered {
    /// What was accepted since the follower was up to date in this epoch.
    Newer,
    /// Everything in these buckets: what is of an older epoch there goes. In all others the follower had the same.
    Buckets(Buckets),
}

/// Follower to leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ToLeader {
    /// First on every connection.
    Hello(Hello),
    /// The promise is stored.
    Promised {
        /// The promised epoch.
        epoch: Epoch,
        /// What the follower has in full.
        synced: Option<Synced>,
    },
    /// The digest of a part of the follower's state.
    Digested {
        /// The epoch of the question.
        epoch: Epoch,
        /// As in the question.
        token: u64,
        /// Of this part; those of all parts are to be joined.
        digest: Digest,
        /// Position to continue at; nothing once it was everything.
        next: Option<u64>,
    },
    /// A part of the follower's records.
    Records {
        /// The epoch of the question.
        epoch: Epoch,
        /// Keys with their newest records.
        records: Vec<(Key, Record)>,
        /// Position to continue at; nothing once all were sent.
        next: Option<u64>,
    },
    /// These writes are stored, or something newer of their keys is.
    Confirmed {
        /// The epoch in which they came.
        epoch: Epoch,
        /// Ranges of write indices, first and last inclusive.
        ranges: Vec<(u64, u64)>,
    },
    /// The whole state is stored.
    Installed {
        /// The epoch of the state.
        epoch: Epoch,
        /// As in the question.
        token: u64,
        /// Of the configuration that was stored with it.
        generation: u64,
    },
    /// The new rule is stored.
    Configured {
        /// The epoch of the rule.
        epoch: Epoch,
        /// Its generation.
        generation: u64,
    },
    /// Nothing higher was promised so far.
    Probed {
        /// The epoch of the question.
        epoch: Epoch,
        /// As in the question.
        round: u64,
    },
    /// The message was not taken: another epoch was promised.
    Refused {
        /// The highest promised epoch.
        promised: Epoch,
    },
}

/// A stable 64-bit fingerprint (FNV-1a) of a value, the same in every process and release.
///
/// The parameters are those of <http://www.isthe.com/chongo/tech/comp/fnv/>.
pub fn fingerprint(value: Option<&str>) -> u64 {
    let bytes = value.map_or(&b"\xff"[..], str::as_bytes);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
