//! What a leader knows of one follower.

use std::sync::Arc;

use crate::protocol::digest::{Buckets, Digest};
use crate::protocol::types::{Epoch, FollowerId, Hello};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Down,
    /// Connected, but not yet promised.
    Greeted,
    /// Promised, but not yet sent any state.
    Promised,
    /// Reports the digest of its state, which decides what it is sent up to the write with this index.
    Comparing {
        upto: u64,
        /// What it has reported so far.
        theirs: Digest,
    },
    /// Is being sent the state up to (not including) the write with this index.
    Installing {
        upto: u64,
    },
    /// Has the whole state and takes single writes.
    Streaming,
}

/// How far recovery is with the records of one follower, as one value: what belongs to one question ends with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Gathered {
    /// Nothing, or a part whose rest does not come.
    #[default]
    Nothing,
    /// The follower reports its digest; this much has arrived.
    Comparing(Digest),
    /// The follower sends its records in these buckets, or all of them.
    Fetching(Option<Buckets>),
    /// Every record that may differ from those merged before has arrived.
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

/// What the disk behind a slot has of this leader's state.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// It took over the whole state from this leader at least once: from then on a difference is enough.
    pub(super) complete: bool,
    /// From which write on the window waits for it; nothing when it fell behind the window or never was in it.
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
    /// It is a declared follower. One that is not leaves as soon as those that stay have everything.
    pub(super) wanted: bool,
    /// Tells this connection from earlier ones.
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
}

impl Slot {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            wanted: true,
            session: 0,
            link: Link::Down,
            hello: None,
            promised: false,
            gathered: Gathered::Nothing,
            bound: None,
            progress: Progress::default(),
            probed: 0,
        }
    }

    /// The same follower for a leader that starts again under another epoch: only its identity and its connection stay.
    /// Every other field, also one that is added later, begins anew.
    pub(super) fn in_new_epoch(self) -> Self {
        let Self { name, wanted, session, link, hello, bound, .. } = self;
        let link = if link == Link::Down { Link::Down } else { Link::Greeted };
        Self { wanted, session, link, hello, bound, ..Self::new(name) }
    }

    pub(super) fn synced_epoch(&self) -> Option<Epoch> {
        self.hello.as_ref()?.synced.as_ref().map(|synced| synced.epoch)
    }
}
