//! What a leader knows of one follower.

use std::sync::Arc;

use crate::protocol::digest::{Buckets, Digest};
use crate::protocol::types::{Epoch, FollowerId, Hello};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Down,
    /// Connected; not yet promised.
    Greeted,
    /// Promised; not yet given anything.
    Promised,
    /// Is being given the state up to (not including) the write with this index.
    Installing {
        upto: u64,
    },
    /// Has the whole state and takes single writes.
    Streaming,
}

/// A follower is being asked what it has.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Tells the answers from those to an earlier question on the same connection.
    pub(super) token: u64,
    /// What it said so far.
    pub(super) digest: Digest,
}

/// One follower, as the leader knows it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) name: Arc<str>,
    /// Declared to be a follower; one that is not leaves as soon as those that stay have everything.
    pub(super) wanted: bool,
    /// Tells this connection from earlier ones.
    pub(super) session: u64,
    pub(super) link: Link,
    pub(super) hello: Option<Hello>,
    pub(super) promised: bool,
    pub(super) fetching: bool,
    pub(super) fetched: bool,
    /// Of which buckets its records are fetched; of all where there is nothing.
    pub(super) fetch_of: Option<Buckets>,
    /// Where it is asked what it has.
    pub(super) asked: Option<Asked>,
    /// The disk behind this slot.
    pub(super) bound: Option<FollowerId>,
    /// It took over the whole state from this leader at least once: a difference is enough from here on.
    pub(super) complete: bool,
    /// From which write on the window waits for it; nothing when it fell behind the window or never was in it.
    pub(super) tracked_from: Option<u64>,
    /// Every write with a lower index is confirmed.
    pub(super) watermark: u64,
    /// Generation of the newest rule that it stored in this epoch.
    pub(super) generation: u64,
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
            fetching: false,
            fetched: false,
            fetch_of: None,
            asked: None,
            bound: None,
            complete: false,
            tracked_from: None,
            watermark: 0,
            generation: 0,
            probed: 0,
        }
    }

    pub(super) fn synced_epoch(&self) -> Option<Epoch> {
        self.hello.as_ref()?.synced.as_ref().map(|synced| synced.epoch)
    }
}
