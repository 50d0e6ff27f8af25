//! The data types of the protocol: epochs, versions, records, configurations and messages.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::digest::{Buckets, Digest};

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

/// The newest state of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Of two records of a key, the one with the higher version wins.
    pub version: Version,
    /// The value; `None` once the key is deleted. The record remains, so that its sequence numbers
    /// continue.
    pub value: Option<Arc<str>>,
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
    pub earlier: Vec<Config>,
}

impl Config {
    /// How many members must promise before a leader knows every acknowledged write: N − W + 1. N
    /// is the number of members here: no other follower can have confirmed a write.
    pub fn recovery_size(&self) -> usize {
        (self.members.len() + 1).saturating_sub(usize::from(self.quorum)).max(1)
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

/// A write on its way to a follower.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Write {
    /// Position in the order in which this leader accepted writes. Confirmations refer to it.
    pub index: u64,
    /// The key.
    pub key: Key,
    /// The value with its version.
    pub record: Record,
    /// The encoded write.
    #[serde(skip)]
    pub encoded: Encoded,
}

impl Write {
    /// A write that is not encoded yet.
    pub fn new(index: u64, key: Key, record: Record) -> Self {
        Self { index, key, record, encoded: Encoded::default() }
    }
}

/// The encoded bytes of a value that is sent to several followers; the first connection that sends
/// it encodes it. A cache: all caches compare as equal, and a clone is empty.
#[derive(Debug, Default)]
pub struct Encoded(OnceLock<Box<[u8]>>);

impl Encoded {
    /// The bytes, which `encode` makes if they do not exist yet.
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

/// A follower's first message on every connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hello {
    /// The follower's disk.
    pub id: FollowerId,
    /// The name in its settings, for example that of a StatefulSet's pod.
    pub name: Arc<str>,
    /// The highest epoch it promised.
    pub promised: Epoch,
    /// The last epoch whose whole state it has; `None` for a blank follower.
    pub synced: Option<Synced>,
}

/// Leader to follower.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ToFollower {
    /// Asks for the promise to accept no message of a lower epoch from now on.
    Prepare {
        /// The epoch to promise.
        epoch: Epoch,
    },
    /// Asks for the digest of the follower's state, from a position on.
    Compare {
        /// The leader's epoch.
        epoch: Epoch,
        /// The number of buckets of the digest.
        buckets: u32,
        /// Position to continue at; 0 at first.
        cursor: u64,
        /// Maximum number of keys in one answer.
        keys: u32,
        /// About how many bytes of keys and values one answer covers; at least one record.
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
        /// Only records whose keys are in these buckets; `None` for all.
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
        /// The newest rule that followers may store.
        config: Config,
        /// The records that the transfer sent.
        covered: Covered,
        /// Comes back in the answer.
        token: u64,
    },
    /// A new rule for a follower that has the whole state.
    Configure {
        /// The leader's epoch.
        epoch: Epoch,
        /// The new rule.
        config: Config,
    },
    /// Heartbeat. Also asks whether this leader still leads.
    Probe {
        /// The leader's epoch.
        epoch: Epoch,
        /// Comes back in the answer.
        round: u64,
        /// The follower has every write that any leader accepted up to this long before the
        /// question was sent, in microseconds. `u64::MAX` if the leader does not know.
        lag_us: u64,
        /// The highest round that this follower had answered when the question was sent. It shows
        /// the follower that the question was sent after that answer, however long it was delayed.
        heard: u64,
    },
}

impl ToFollower {
    /// Asks for the digest of as much of the state as the follower covers in one answer.
    pub(crate) fn compare(epoch: Epoch, buckets: u32, cursor: u64, token: u64) -> Self {
        Self::Compare { epoch, buckets, cursor, keys: u32::MAX, bytes: u32::MAX, token }
    }
}

/// The records that a state transfer sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Covered {
    /// The records accepted since the follower was last up to date in this epoch.
    Newer,
    /// All records in these buckets; the follower drops the ones of an older epoch there. In all
    /// other buckets it has the same records as the leader.
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
        /// The digest of this part. The leader joins those of all parts.
        digest: Digest,
        /// Position to continue at; `None` after the last part.
        next: Option<u64>,
    },
    /// A part of the follower's records.
    Records {
        /// The epoch of the question.
        epoch: Epoch,
        /// Keys with their newest records.
        records: Vec<(Key, Record)>,
        /// Position to continue at; `None` after the last part.
        next: Option<u64>,
    },
    /// These writes, or newer ones of their keys, are stored.
    Confirmed {
        /// The epoch of the writes.
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
        /// Generation of the configuration that was stored with it.
        generation: u64,
    },
    /// The new rule is stored.
    Configured {
        /// The epoch of the rule.
        epoch: Epoch,
        /// Its generation.
        generation: u64,
    },
    /// The follower has promised no higher epoch so far.
    Probed {
        /// The epoch of the question.
        epoch: Epoch,
        /// As in the question.
        round: u64,
    },
    /// The follower rejected the message, since it promised another epoch.
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
