//! Requests that arrived together, decided in one step.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::answers::{Ticket, Waiter};
use super::{Coordinator, State};
use crate::protocol::leader::{Accepted, Change, ReadOf, Refusal};
use crate::protocol::types::Record;

/// Requests that arrived together: one lock, one message for each follower, one wake-up. The lock is
/// held from the first request to [`Together::end`]; whoever uses the leader in another way before
/// would wait for itself.
pub(crate) struct Together<'a> {
    coordinator: &'a Arc<Coordinator>,
    now_us: u64,
    state: Option<MutexGuard<'a, State>>,
}

/// An accepted request.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) accepted: Accepted,
    /// How long the client waits before the outcome is unknown.
    pub(crate) timeout: Duration,
    /// The index behind the newest write that the leader has accepted.
    pub(crate) end: u64,
}

impl<'a> Together<'a> {
    /// Requests that arrived now.
    pub(crate) fn new(coordinator: &'a Arc<Coordinator>) -> Self {
        Self { coordinator, now_us: coordinator.now_us(), state: None }
    }

    /// Carries out what was decided so far. The next request begins another step.
    pub(crate) fn end(&mut self) {
        if let Some(state) = self.state.take() {
            self.coordinator.end_step(state);
        }
    }

    /// Accepts a write that `decide` makes of the newest record of its key. Also returns what `decide`
    /// finds, see [`Leader::update`](crate::protocol::leader::Leader::update).
    ///
    /// # Errors
    /// [`Refusal`] when nothing was accepted.
    pub(crate) fn update<T>(
        &mut self,
        key: &str,
        decide: impl FnOnce(Option<&Record>) -> (Change, T),
        ticket: Ticket,
    ) -> Result<(Entered, T), Refusal> {
        let now_us = self.now_us;
        let state = self.state();
        let (accepted, found) = state.core.update(key, now_us, decide, Waiter::Ticket(ticket))?;
        Ok((state.entered(accepted), found))
    }

    /// Accepts a read that shows a key as it is now; see [`Coordinator::read_in_order`].
    ///
    /// # Errors
    /// [`Refusal`] when the leader does not lead.
    pub(crate) fn read_in_order(&mut self, key: &str, of: ReadOf, ticket: Ticket) -> Result<Entered, Refusal> {
        let state = self.state();
        state.core.read_in_order(key, of, Waiter::Ticket(ticket))?;
        Ok(state.entered(Accepted::Unmet))
    }

    /// As [`Coordinator::leads_elsewhere`].
    pub(crate) fn leads_elsewhere(&mut self) -> Option<Arc<str>> {
        self.state().core.leads_elsewhere()
    }

    fn state(&mut self) -> &mut State {
        let coordinator = self.coordinator;
        self.state.get_or_insert_with(|| coordinator.state.lock())
    }
}

impl Drop for Together<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    fn entered(&self, accepted: Accepted) -> Entered {
        Entered { accepted, timeout: self.in_force.replication_timeout(), end: self.core.end() }
    }
}
