//! The head of a batch: the state of a follower except its records.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::protocol::types::{Epoch, FollowerId, Synced};

/// Everything that a follower stores except its records. The store writes it atomically with every
/// batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The follower's id, created with the directory.
    pub(super) id: FollowerId,
    /// The number of the batch.
    pub(super) batch: u64,
    /// The highest promised epoch.
    pub(super) promised: Epoch,
    /// The last epoch whose whole state is stored.
    pub(super) synced: Option<Synced>,
    /// How many records there are.
    pub(super) records: u64,
    /// Sum of the hashes of all records.
    pub(super) digest: u64,
}

impl Head {
    /// Encodes the head with a checksum of its own, since no other check covers it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = postcard::to_allocvec(self).expect("plain data always encodes");
        bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_last_chunk::<8>()?;
        let intact = xxh3_64(body) == u64::from_le_bytes(*sum);
        intact.then(|| postcard::from_bytes(body).ok()).flatten()
    }
}
