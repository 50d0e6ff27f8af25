//! What the leader shows of its configuration, for those who write it and those who read it.

use serde::{Deserialize, Serialize};

/// `GET /config`: what is in force, and what is on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownConfig {
    /// Grows with every change that came into force.
    pub generation: u64,
    /// W: followers that must confirm a write before it is answered.
    pub write_quorum: u32,
    /// N: the declared number of followers.
    pub followers: u32,
    /// Shortest wait before a send to a follower, in ms.
    pub min_delay_ms: u64,
    /// Longest wait before a send to a follower, in ms.
    pub max_delay_ms: u64,
    /// After this long without a quorum a write's outcome is unknown, in ms.
    pub replication_timeout_ms: u64,
    /// Seed of the random waits.
    #[serde(default)]
    pub delay_seed: Option<u64>,
    /// A change that was accepted and is not in force yet.
    #[serde(default)]
    pub pending: Option<PendingConfig>,
}

/// A write quorum or a number of followers on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingConfig {
    /// Its generation.
    pub generation: u64,
    /// W.
    pub write_quorum: u32,
    /// N.
    pub followers: u32,
    /// In one sentence, what it waits for.
    #[serde(default)]
    pub message: String,
}
