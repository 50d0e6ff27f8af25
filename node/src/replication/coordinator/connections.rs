//! The connections to followers: their events for the leader, and its messages for them.

use std::sync::Arc;

use tracing::{error, warn};

use super::configuration::is_member;
use super::{After, Coordinator, State};
use crate::deliberate;
use crate::protocol::leader::{InstallJob, ResetReason, SlotId};
use crate::protocol::messages::{Hello, ToFollower, ToLeader};
use crate::replication::outbox::{Item, Outbox};

/// The connection to a follower, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Path {
    pub(super) url: String,
    pub(super) last_error: Option<String>,
    /// The reason of the last reset by this leader.
    last_reset: Option<ResetReason>,
    /// Whether the present connection is closing for that reason.
    is_reset: bool,
    /// The present session and its outbox.
    outbox: Option<(u64, Arc<Outbox>)>,
}

impl Coordinator {
    /// Declares a follower by its URL and returns its slot. `None`: all slots are taken.
    pub(crate) fn declare(self: &Arc<Self>, url: &str) -> Option<SlotId> {
        self.step(|state| state.core.declare(url))
    }

    /// Finds the slot for a follower by its greeting.
    ///
    /// # Errors
    /// Why the follower has no slot.
    pub fn slot_for(self: &Arc<Self>, hello: &Hello) -> Result<SlotId, &'static str> {
        self.step(|state| {
            let slot = if is_member(&hello.name, state.wanted.followers) {
                state.core.declare(&hello.name).ok_or("no more followers can be declared")?
            } else {
                // A starting leader may need the records of followers that are leaving.
                state.core.declare_leaving(hello).ok_or("it is not among the declared followers")?
            };
            let connected = state.path(slot).outbox.is_some();
            if connected { Err("another follower of this name is connected") } else { Ok(slot) }
        })
    }

    /// A follower connected. Returns the number of the session and its outbox.
    pub(crate) fn connected(self: &Arc<Self>, slot: SlotId, url: &str, mut hello: Hello) -> (u64, Arc<Outbox>) {
        deliberate::one_promise_fewer(hello.synced.as_mut());
        self.step(|state| {
            state.sessions += 1;
            let (session, outbox) = (state.sessions, Arc::new(Outbox::new(state.outbox_bytes_max)));
            state.hang_up(slot);
            let path = state.path(slot);
            url.clone_into(&mut path.url);
            path.last_error = None;
            path.outbox = Some((session, outbox.clone()));
            state.core.hello(slot, session, hello);
            (session, outbox)
        })
    }

    /// The connection of this session ended.
    pub(crate) fn disconnected(self: &Arc<Self>, slot: SlotId, session: u64, error: &str) {
        self.step(|state| {
            let path = state.path(slot);
            if path.outbox.as_ref().is_some_and(|(current, _)| *current == session) {
                path.outbox = None;
                let reset =
                    std::mem::take(&mut path.is_reset).then(|| path.last_reset.as_ref().map(ToString::to_string));
                path.last_error = Some(reset.flatten().unwrap_or_else(|| error.to_owned()));
            }
            state.core.closed(slot, session);
        });
    }

    /// Records that a follower is unreachable.
    pub(crate) fn unreachable(&self, slot: SlotId, url: &str, error: String) {
        let mut state = self.state.lock();
        let path = state.path(slot);
        url.clone_into(&mut path.url);
        path.last_error = Some(error);
    }

    /// Passes messages of a follower to the leader, in order.
    pub(crate) fn received(self: &Arc<Self>, slot: SlotId, session: u64, messages: &mut Vec<ToLeader>) {
        for message in messages.iter_mut() {
            if let ToLeader::Promised { synced, .. } = message {
                deliberate::one_promise_fewer(synced.as_mut());
            }
        }
        self.step(|state| {
            if state.samples.waits() {
                state.receive_sampled(slot, session, messages.drain(..), self.now_us());
            } else {
                messages.drain(..).for_each(|message| state.core.receive(slot, session, message));
            }
        });
    }

    /// Returns the next message of a state transfer; `None` once it is complete or obsolete.
    pub(crate) fn install_part(&self, job: &mut InstallJob) -> Option<ToFollower> {
        self.look(|state| state.core.install_part(job))
    }
}

impl State {
    fn path(&mut self, slot: SlotId) -> &mut Path {
        if self.paths.len() <= slot.index() {
            self.paths.resize_with(slot.index() + 1, Path::default);
        }
        &mut self.paths[slot.index()]
    }

    /// Queues an item on the present connection of a follower. Without a connection, drops it.
    pub(super) fn post(&mut self, slot: SlotId, item: Item, after: &mut After) {
        let Some((_, outbox)) = self.paths.get(slot.index()).and_then(|path| path.outbox.as_ref()) else {
            return;
        };
        outbox.push(item);
        if !after.wake.iter().any(|known| Arc::ptr_eq(known, outbox)) {
            after.wake.push(outbox.clone());
        }
    }

    /// Closes the present connection of a follower. Logs each reason once, since a follower that is
    /// listed under two names is reset again and again.
    pub(super) fn reset(&mut self, slot: SlotId, reason: &ResetReason) {
        self.hang_up(slot);
        let path = self.path(slot);
        path.is_reset = true;
        if path.last_reset.as_ref() != Some(reason) {
            warn!(follower = path.url, %reason, "connection reset");
            path.last_reset = Some(reason.clone());
        }
    }

    /// Logs that a follower has other records than the leader.
    pub(super) fn log_difference(&mut self, slot: SlotId, buckets: usize, again: bool) {
        let follower = &self.path(slot).url;
        if again {
            error!(
                follower,
                buckets, "the follower's records differ from the leader's, and sending them again did not help"
            );
        } else {
            warn!(follower, buckets, "the follower's records differ from the leader's: sending them again");
        }
    }

    /// Closes the present connection of a follower.
    pub(super) fn hang_up(&mut self, slot: SlotId) {
        if let Some((_, outbox)) = self.paths.get(slot.index()).and_then(|path| path.outbox.as_ref()) {
            outbox.close();
        }
    }
}
