//! The leader's knowledge of one follower.

use std::sync::Arc;

use super::candidate::Silence;
use crate::protocol::digest::{Buckets, Digest};
use crate::protocol::messages::Hello;
use crate::protocol::types::{Epoch, FollowerId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Down,
    /// Connected, but not yet promised.
    Greeted,
    /// Promised, but not yet sent any state.
    Promised,
    /// Reports the digest of its state, from which the leader decides which records to send. Later
    /// writes, from index `upto` on, follow singly.
    Comparing {
        upto: u64,
        /// The digest reported so far.
        theirs: Digest,
    },
    /// Receives the state up to (not including) the write with index `upto`.
    Installing {
        upto: u64,
    },
    /// Has the whole state and receives single writes.
    Streaming,
}

/// The progress of recovery with one follower. One value, so that the data of a question disappears
/// with the question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Gathered {
    /// Nothing, or a part whose rest will not arrive.
    #[default]
    Nothing,
    /// The follower reports its digest; this part has arrived.
    Comparing(Digest),
    /// The follower sends its records in these buckets, or all of them.
    Fetching(Option<Buckets>),
    /// Every record that may differ from the merged ones has arrived.
    Everything,
}

impl Gathered {
    /// Whether the follower has yet to answer a question.
    pub(super) fn is_under_way(&self) -> bool {
        matches!(self, Self::Comparing(_) | Self::Fetching(_))
    }

    pub(super) fn is_everything(&self) -> bool {
        matches!(self, Self::Everything)
    }
}

/// The part of this leader's state that is on the disk of a slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// It received the whole state from this leader at least once. From then on newer records are
    /// enough.
    pub(super) complete: bool,
    /// The window keeps writes for it from this index on; `None` if it fell behind the window or
    /// was never in it.
    pub(super) tracked_from: Option<u64>,
    /// It confirmed every write with a lower index.
    pub(super) watermark: u64,
    /// Generation of the newest rule that it stored in this epoch.
    pub(super) generation: u64,
}

/// One follower, as the leader knows it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) name: Arc<str>,
    /// The number by which a law of the delays names it.
    pub(super) number: u16,
    /// It is a declared follower. The leader releases any other once the declared ones have
    /// everything.
    pub(super) wanted: bool,
    /// Distinguishes this connection from earlier ones.
    pub(super) session: u64,
    pub(super) link: Link,
    pub(super) hello: Option<Hello>,
    pub(super) promised: bool,
    pub(super) gathered: Gathered,
    /// The disk behind this slot.
    pub(super) bound: Option<FollowerId>,
    pub(super) progress: Progress,
    /// Highest round of probes that it answered.
    pub(super) probed: u64,
    /// What it heard of another leader, while this one is a candidate.
    pub(super) silence: Silence,
}

impl Slot {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            number: 0,
            wanted: true,
            session: 0,
            link: Link::Down,
            hello: None,
            promised: false,
            gathered: Gathered::Nothing,
            bound: None,
            progress: Progress::default(),
            probed: 0,
            silence: Silence::default(),
        }
    }

    /// The same follower for a leader that restarts recovery under another epoch. Only its identity
    /// and its connection remain; every other field gets its initial value.
    pub(super) fn in_new_epoch(self) -> Self {
        let Self { name, number, wanted, session, link, hello, bound, .. } = self;
        let link = if link == Link::Down { Link::Down } else { Link::Greeted };
        Self { number, wanted, session, link, hello, bound, ..Self::new(name) }
    }

    /// Whether the follower reports that no process leads: none ever did, or the leader resigned.
    pub(super) fn knows_of_no_leader(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.heard == 0)
    }

    pub(super) fn synced_epoch(&self) -> Option<Epoch> {
        self.hello.as_ref()?.synced.as_ref().map(|synced| synced.epoch)
    }
}
