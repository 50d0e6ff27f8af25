//! The messages between a leader and its followers.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::changes::CopyCursor;
use super::digest::{Buckets, Digest};
use super::types::{Config, Epoch, FollowerId, Key, Record, Synced};

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
    /// Changes with each message of the leader that it obeys: the one whose epoch it promised last.
    /// 0: as far as this follower knows, no process leads.
    pub heard: u64,
    /// That leader's URL for clients, if it is known.
    pub leader: Option<Arc<str>>,
}

/// Leader to follower.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ToFollower {
    /// A candidate asks for the greeting again. The follower promises nothing.
    Greet,
    /// A standby asks for records, to keep a copy of the follower's state. The follower promises
    /// nothing.
    Copy {
        /// Where the copy continues; `None` to start.
        from: Option<CopyCursor>,
    },
    /// This leader stops: it has answered every client and accepts no further write.
    Resign {
        /// The leader's epoch.
        epoch: Epoch,
    },
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
    /// The epoch of the leader that sent it; `None` for a question that any candidate may ask.
    pub fn epoch(&self) -> Option<Epoch> {
        match self {
            Self::Greet | Self::Copy { .. } => None,
            Self::Resign { epoch }
            | Self::Prepare { epoch }
            | Self::Compare { epoch, .. }
            | Self::Fetch { epoch, .. }
            | Self::Writes { epoch, .. }
            | Self::Install { epoch, .. }
            | Self::InstallEnd { epoch, .. }
            | Self::Configure { epoch, .. }
            | Self::Probe { epoch, .. } => Some(*epoch),
        }
    }

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
    /// The answer to [`ToFollower::Greet`].
    Greeted(Hello),
    /// The answer to [`ToFollower::Copy`].
    Copied {
        /// Keys with their newest records, stored or about to be.
        records: Vec<(Key, Record)>,
        /// Where the copy continues.
        next: CopyCursor,
        /// The follower sends its records from the first one on, since it no longer knows what
        /// changed.
        anew: bool,
        /// Whether there is more already.
        more: bool,
    },
    /// The answer to [`ToFollower::Resign`].
    Resigned {
        /// The epoch of the leader that stops.
        epoch: Epoch,
    },
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
