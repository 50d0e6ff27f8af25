//! `GET /status` of a leader and of a follower.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::ConfigView;
use crate::tolerance::Tolerance;

/// The role of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It accepts writes and replicates them.
    Leader,
    /// It stores what the leader sends, and serves reads.
    Follower,
}

/// The right to lead. Of two leaders the one with the higher epoch counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epoch {
    /// Grows with each leader.
    pub term: u64,
    /// The random id of the leader's process, 16 hexadecimal digits. Of two leaders in one term,
    /// the higher id wins.
    pub leader: String,
}

/// The answer of a leader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeaderStatus {
    /// Always [`Role::Leader`].
    pub role: Role,
    /// The name of the node.
    #[serde(default)]
    pub name: String,
    /// The version of the node's program.
    #[serde(default)]
    pub version: String,
    /// The state of the leader.
    pub state: LeaderState,
    /// What the leader waits for, in one sentence, or empty.
    #[serde(default)]
    pub message: String,
    /// The epoch that it leads, or asks to lead.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// How many keys there are, deleted ones included.
    #[serde(default)]
    pub keys: u64,
    /// A restore that began and has not ended. Until then the leader serves no client.
    #[serde(default)]
    pub restore: Option<UnfinishedRestore>,
    /// In a cluster that starts from a backup: whether the restore has still to end. It means something once the leader is
    /// open. Absent in other clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_pending: Option<bool>,
    /// Counts of writes.
    #[serde(default)]
    pub writes: WriteCounts,
    /// Which failures the cluster survives with the values in force.
    #[serde(default)]
    pub tolerates: Tolerance,
    /// The progress of the recovery, while the leader waits for the followers' state.
    #[serde(default)]
    pub recovery: Option<RecoveryStatus>,
    /// Every follower that the leader knows.
    #[serde(default)]
    pub followers: Vec<FollowerView>,
    /// The values in force, and those that are pending.
    pub config: ConfigView,
    /// What a person has to look at although the node works, one sentence each: files of tokens or certificates that
    /// cannot be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The state of a leader. Of two leaders, the one with the greater state serves clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaderState {
    /// A newer leader replaced it.
    Fenced,
    /// It is shutting down, or it handed over.
    Draining,
    /// Another leader is at work. It takes over if that one is lost.
    Standby,
    /// It collects and installs the followers' state.
    Recovering,
    /// It accepts writes.
    Open,
}

impl fmt::Display for LeaderState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fenced => "fenced",
            Self::Draining => "draining",
            Self::Standby => "standby",
            Self::Recovering => "recovering",
            Self::Open => "open",
        })
    }
}

/// Whether a leader process leads: an event of `GET /leadership`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leadership {
    /// The state of this process.
    pub state: LeaderState,
    /// The epoch that it leads, or asks to lead.
    pub epoch: Epoch,
    /// The URL of the leader, where another process leads and this one knows it.
    #[serde(default)]
    pub leader: Option<String>,
}

/// Numbers of writes of one leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WriteCounts {
    /// Accepted since the leader started.
    pub accepted: u64,
    /// Committed since the leader started.
    pub committed: u64,
    /// Accepted and without their quorum.
    pub in_flight: u64,
    /// Accepted and not yet confirmed by every follower that the leader waits for.
    pub backlog: u64,
}

/// A restore that began and has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedRestore {
    /// The digest of the backup.
    pub backup: String,
    /// Whether the keys of the backup replace existing ones.
    pub overwrite: bool,
}

/// The progress of a recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryStatus {
    /// How many followers with state have to answer. Absent until one with state answered.
    pub needed: Option<u64>,
    /// How many followers answered.
    pub answered: u64,
    /// How many of them have state and count.
    pub non_blank: u64,
    /// How many of them are blank.
    pub blank: u64,
    /// What the recovery waits for, in one sentence.
    pub message: String,
}

/// A follower, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FollowerView {
    /// Its name: its URL, or with DNS discovery its node name.
    pub name: String,
    /// The address at which the leader reaches it.
    #[serde(default)]
    pub url: Option<String>,
    /// The id of its disk, 16 hexadecimal digits, once it answered.
    #[serde(default)]
    pub id: Option<String>,
    /// How far it is.
    pub state: FollowerState,
    /// Whether its confirmations count for a quorum.
    #[serde(default)]
    pub member: bool,
    /// Whether it leaves the cluster.
    #[serde(default)]
    pub retiring: bool,
    /// How many writes it has not confirmed.
    #[serde(default)]
    pub lag_writes: u64,
    /// The age of the oldest of them, in milliseconds.
    #[serde(default)]
    pub lag_ms: f64,
    /// The generation of the newest configuration that it stores.
    #[serde(default)]
    pub config_generation: Option<u64>,
    /// The last error of its connection.
    #[serde(default)]
    pub last_error: Option<String>,
}

impl FollowerView {
    /// Whether it confirms new writes: it is streaming.
    #[must_use]
    pub fn confirms(&self) -> bool {
        self.state == FollowerState::Streaming
    }
}

/// The state of a follower, as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FollowerState {
    /// There is no connection.
    Unreachable,
    /// The follower is connected, and the leader has not started to bring it up to date.
    Connecting,
    /// It receives the data that it lacks.
    Installing,
    /// It has everything and receives new writes.
    Streaming,
    /// It is not connected and fell behind the leader's backlog. It gets the missing records when
    /// it reconnects.
    Lagging,
    /// A state of a newer node. No node of this version sends it.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for FollowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "unreachable",
            Self::Connecting => "connecting",
            Self::Installing => "installing",
            Self::Streaming => "streaming",
            Self::Lagging => "lagging",
            Self::Unknown => "unknown",
        })
    }
}

/// The answer of a follower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FollowerStatus {
    /// Always [`Role::Follower`].
    pub role: Role,
    /// The name of the node.
    pub name: String,
    /// The version of the node's program.
    pub version: String,
    /// The id of its disk, 16 hexadecimal digits.
    pub id: String,
    /// How much of a leader's state it has.
    pub state: ReplicaState,
    /// The epoch whose whole state it has.
    pub epoch: Option<Epoch>,
    /// The highest epoch that it promised to obey.
    pub promised: Option<Epoch>,
    /// The write quorum that is stored with that state.
    pub write_quorum: Option<u16>,
    /// How many keys it has, deleted ones included.
    pub keys: u64,
    /// Where it stores them.
    pub durability: Durability,
    /// What it found in its data directory when it started. Absent in memory.
    pub disk: Option<DiskStatus>,
    /// The URL of the leader, if it is known.
    pub leader: Option<String>,
    /// How old its state may be, in milliseconds. Absent if it does not know.
    pub staleness_ms: Option<f64>,
    /// What a person has to look at although the node works, one sentence each: files of tokens or certificates that
    /// cannot be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How much of a leader's state a follower has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaState {
    /// Nothing, and it has promised no epoch.
    Blank,
    /// Not the whole state of the epoch that it promised.
    Installing,
    /// The whole state.
    Synced,
}

/// Where a follower keeps its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// In its data directory.
    Disk,
    /// In memory.
    Memory,
}

/// What a follower found in its data directory when it started, and since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// One word.
    pub found: DiskState,
    /// One sentence.
    pub message: String,
    /// How many bytes of the log were read again since the start and found intact.
    #[serde(default)]
    pub checked_bytes: u64,
    /// How many damaged batches were found since the start.
    #[serde(default)]
    pub damaged: u64,
    /// How many of these were repaired from the follower's memory.
    #[serde(default)]
    pub mended: u64,
    /// The number of the damaged batch found last.
    #[serde(default)]
    pub damaged_batch: Option<u64>,
}

/// The condition of a data directory at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskState {
    /// It was empty.
    New,
    /// It had the follower's state.
    Restored,
    /// It was damaged, and the follower started blank.
    Damaged,
}
