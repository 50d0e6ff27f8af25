//! What a leader asks its caller to do.

use std::sync::Arc;

use super::install::InstallJob;
use super::mask::SlotId;
use crate::protocol::types::{Epoch, ToFollower, Write};

/// What the caller has to do next.
#[derive(Clone, Debug)]
pub enum Output<W, R> {
    /// Send this message on the follower's present connection.
    Send(SlotId, ToFollower),
    /// Call [`Leader::due`] with the same slot and index after this wait.
    Schedule {
        /// Whose wait it is.
        slot: SlotId,
        /// Which write.
        index: u64,
        /// How long, in microseconds.
        delay_us: u32,
    },
    /// Send this write now, on the follower's present connection.
    Transmit(SlotId, Arc<Write>),
    /// Stream the parts of [`Leader::install_part`] on the follower's present connection until it returns nothing.
    Install(SlotId, InstallJob),
    /// W followers confirmed.
    Committed {
        /// Whom to tell.
        waiter: W,
        /// What to tell.
        receipt: Receipt,
    },
    /// The write can no longer be confirmed by this leader; another one may have taken it over.
    Indeterminate {
        /// Whom to tell.
        waiter: W,
        /// The sequence number that it had.
        seq: u64,
    },
    /// This leader led when the read arrived: [`Leader::committed`] may be shown.
    ReadConfirmed(R),
    /// This leader leads no longer.
    ReadRefused(R),
    /// Close the connection to this follower and connect again.
    Reset(SlotId, ResetReason),
    /// The follower was released and its slot is free.
    Released(SlotId),
    /// Another leader is starting as well: call [`Leader::elect`] after a short random wait.
    Backoff,
    /// The state is complete; writes and reads are served.
    Opened,
    /// This leader is over: a follower promised the other epoch.
    Fenced(Epoch),
    /// A rule came into force.
    InForce,
    /// A comparison in the background found that a follower has other records than the leader. They are sent again.
    Differs {
        /// The follower.
        slot: SlotId,
        /// In how many buckets of keys.
        buckets: usize,
        /// It did so in the comparison before too, and sending them again did not help.
        again: bool,
    },
}

/// Why a connection begins anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResetReason {
    /// The same disk is connected under this other name, and can count once only.
    #[error("it has the same disk as the follower {0}: one follower is listed under two names")]
    SameDisk(Arc<str>),
    /// The follower has lost its place in this leader's table.
    #[error("it is no longer among the followers")]
    NotDeclared,
    /// The follower names a promise that no leader can have asked for.
    #[error("it promised the epoch {0}, which no leader can have asked for")]
    ImpossibleEpoch(Epoch),
    /// The follower refuses this leader's epoch though it promised nothing higher: it begins anew.
    #[error("it refuses this leader, and promised no other one")]
    Refused,
    /// The leader starts over with another epoch's records, and does not take the rest of an earlier answer.
    #[error("the leader reads the records of another epoch")]
    OtherSource,
}

/// What is known of a committed write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its sequence number.
    pub seq: u64,
    /// The epoch that committed it.
    pub epoch: Epoch,
    /// The write quorum that it satisfied.
    pub quorum: u16,
    /// The delays drawn for it, in microseconds, if that was asked for.
    pub delays_us: Option<Vec<u32>>,
}
