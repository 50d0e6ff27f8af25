//! One client of the load: its links, and the pipeline that it has under way. A pipeline is a number of operations of one
//! kind that are sent together; without pipelines, it is one operation.

use std::time::Duration;

use super::{
    link::Link,
    recorder::{Flight, Kind},
};

/// One client: at most one pipeline under way.
pub(super) struct Client {
    /// For writes, then for reads where those go elsewhere.
    pub links: Vec<Link>,
    pub pipeline: Pipeline,
}

impl Client {
    pub(super) fn new(links: Vec<Link>) -> Self {
        Self { links, pipeline: Pipeline::default() }
    }
}

/// The operations that a client sent together, and what was answered so far, in the order of sending.
#[derive(Debug, Default)]
pub(super) struct Pipeline {
    flight: Flight,
    /// The numbers of the keys.
    keys: Vec<u64>,
    answered: usize,
    has_failed: bool,
    /// How long the client leaves the other side alone after a failure.
    pause: Duration,
    /// Whether the connection cannot be used again.
    is_last: bool,
    quorum_delay_ns: Option<u64>,
}

/// How a pipeline ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub flight: Flight,
    /// Whether every operation of it was done.
    pub is_done: bool,
    pub pause: Duration,
    pub is_last: bool,
    pub quorum_delay_ns: Option<u64>,
}

impl Pipeline {
    /// Forgets the last one, and begins with no operation.
    pub(super) fn begin(&mut self, flight: Flight) {
        self.keys.clear();
        let keys = std::mem::take(&mut self.keys);
        *self = Self { flight, keys, ..Self::default() };
    }

    /// Adds an operation on the key of this number.
    pub(super) fn add(&mut self, key: u64) {
        self.keys.push(key);
    }

    /// How many operations it has.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether an operation has no answer yet.
    pub(super) fn is_under_way(&self) -> bool {
        self.answered < self.keys.len()
    }

    pub(super) fn flight(&self) -> Flight {
        self.flight
    }

    pub(super) fn kind(&self) -> Kind {
        self.flight.kind
    }

    /// The key of the next operation to be answered, which counts as answered from here on; `None` of a pipeline that ended.
    pub(super) fn answer(&mut self) -> Option<u64> {
        let key = self.keys.get(self.answered).copied()?;
        self.answered += 1;
        Some(key)
    }

    /// Notes that an operation was not done, and how long to stay away.
    pub(super) fn fail(&mut self, pause: Duration) {
        self.has_failed = true;
        self.pause = self.pause.max(pause);
    }

    /// Notes that its connection has no further use.
    pub(super) fn close(&mut self) {
        self.is_last = true;
    }

    /// Notes the delay that the write's quorum had to wait for.
    pub(super) fn explain(&mut self, quorum_delay_ns: Option<u64>) {
        self.quorum_delay_ns = quorum_delay_ns;
    }

    pub(super) fn ended(&self) -> Ended {
        let Self { flight, has_failed, pause, is_last, quorum_delay_ns, .. } = *self;
        Ended { flight, is_done: !has_failed, pause, is_last, quorum_delay_ns }
    }
}
