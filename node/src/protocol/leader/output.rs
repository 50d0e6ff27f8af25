//! The actions that a leader asks its caller for.

use std::sync::Arc;

use super::install::InstallJob;
use super::mask::{Mask, SlotId};
use crate::protocol::messages::{ToFollower, Write};
use crate::protocol::types::{Epoch, Record};

/// An action for the caller.
#[derive(Clone, Debug)]
pub enum Output<W, R> {
    /// Send this message on the follower's present connection.
    Send(SlotId, ToFollower),
    /// Call [`Leader::due`] with the same slot and index after this delay.
    Schedule {
        /// The follower.
        slot: SlotId,
        /// Index of the write.
        index: u64,
        /// The delay, in microseconds.
        delay_us: u32,
    },
    /// Send this write now, on the present connections of these followers.
    Transmit(Mask, Arc<Write>),
    /// Stream the parts of [`Leader::install_part`] on the follower's present connection until it returns nothing.
    Install(SlotId, InstallJob),
    /// W followers confirmed the write.
    Committed {
        /// The client to answer.
        waiter: W,
        /// The answer.
        receipt: Receipt,
    },
    /// This leader can no longer commit the write. Another leader may have recovered it.
    Indeterminate {
        /// The client to answer.
        waiter: W,
        /// The sequence number of the write.
        seq: u64,
    },
    /// The write is refused because of this record, which is committed: its condition does not
    /// hold, or the value cannot be added to. This leader led after the request arrived.
    Unmet {
        /// The client to answer.
        waiter: W,
        /// The newest record of the key when the leader decided; `None` if there was none.
        found: Option<Record>,
    },
    /// This leader no longer leads, so it cannot answer a write that it would have refused. It
    /// assigned nothing.
    NotApplied(W),
    /// This leader led when the read arrived: the caller may answer with [`Leader::committed`].
    ReadConfirmed(R),
    /// This leader no longer leads.
    ReadRefused(R),
    /// Close the connection to this follower and connect again.
    Reset(SlotId, ResetReason),
    /// The follower was released and its slot is free.
    Released(SlotId),
    /// Another leader is starting too: call [`Leader::elect`] after a short random wait.
    Backoff,
    /// The state is complete; the leader serves writes and reads.
    Opened,
    /// A follower promised this higher epoch. This leader serves nothing any more.
    Fenced(Epoch),
    /// A rule came into force.
    InForce,
    /// A comparison in the background found that a follower has other records than the leader,
    /// which sends them again.
    Differs {
        /// The follower.
        slot: SlotId,
        /// How many buckets of keys differ.
        buckets: usize,
        /// The follower also differed in the comparison before, and sending the records did not
        /// help.
        again: bool,
    },
}

/// Why the caller has to reconnect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResetReason {
    /// The same disk is connected under this other name, and counts only once.
    #[error("it has the same disk as the follower {0}: one follower is listed under two names")]
    SameDisk(Arc<str>),
    /// The leader released the follower's slot.
    #[error("it is no longer among the followers")]
    NotDeclared,
    /// The follower reports a promise that no leader can have asked for.
    #[error("it promised the epoch {0}, which no leader can have asked for")]
    ImpossibleEpoch(Epoch),
    /// The follower refuses this leader's epoch although it promised no higher one.
    #[error("it refuses this leader, but promised no higher epoch")]
    Refused,
    /// Recovery restarted with the records of another epoch and drops the rest of an earlier
    /// answer.
    #[error("the leader reads the records of another epoch")]
    OtherSource,
}

/// Facts about a committed write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its sequence number.
    pub seq: u64,
    /// The epoch that committed it.
    pub epoch: Epoch,
    /// The write quorum that it satisfied.
    pub quorum: u16,
    /// The delays drawn for it, in microseconds, if the client asked for them.
    pub delays_us: Option<Vec<u32>>,
}
