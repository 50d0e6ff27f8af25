//! The connections to followers: their events for the leader, and its messages for them.

use std::sync::Arc;

use tracing::{error, warn};

use super::configuration::is_member;
use super::{After, Coordinator, State, Wait};
use crate::deliberate;
use crate::protocol::leader::{InstallJob, Mask, ResetReason, SlotId};
use crate::protocol::messages::{Hello, ToFollower, ToLeader, Write};
use crate::replication::gather::Gather;
use crate::replication::outbox::{Item, Outbox};
use crate::replication::wire::{self, WritesFrame};

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

/// Writes for the same followers, encoded once for all of them.
///
/// A write wakes the connections of its followers, at once or when others have joined it ([`Gather`]). The first of
/// them that runs sends what has come together until then, so that writes of many clients share frames.
#[derive(Debug, Default)]
pub(super) struct Staged {
    to: Mask,
    frame: WritesFrame,
    /// The number of the frame.
    number: u64,
    /// The index of the last write in it.
    last: u64,
    gather: Gather,
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
            // What is staged belongs to the connection before.
            state.send_staged();
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
        let mut confirmed = None;
        for message in messages.iter_mut() {
            match message {
                ToLeader::Promised { synced, .. } => deliberate::one_promise_fewer(synced.as_mut()),
                ToLeader::Confirmed { ranges, .. } => confirmed = ranges.last().map(|(_, last)| *last).or(confirmed),
                _ => {}
            }
        }
        self.step(|state| {
            if let Some(index) = confirmed {
                state.staged.gather.confirmed(index);
            }
            if state.samples.waits() {
                state.receive_sampled(slot, session, messages.drain(..), self.now_us());
            } else {
                messages.drain(..).for_each(|message| state.core.receive(slot, session, message));
            }
        });
    }

    /// Queues the staged writes on the connections of their followers.
    pub(crate) fn send_staged(&self) {
        self.state.lock().send_staged();
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
        if self.staged.to.contains(slot) {
            self.send_staged();
        }
        let Some(outbox) = self.outbox(slot) else { return };
        outbox.push(item);
        after.wake(outbox);
    }

    /// Sends a write to followers. One for several of them waits until the first of their connections runs.
    pub(super) fn transmit(&mut self, to: Mask, write: &Arc<Write>, after: &mut After) {
        if let Some(slot) = to.only() {
            return self.post(slot, Item::Write(write.clone()), after);
        }
        if self.staged.to != to || !self.staged.frame.takes(write.record.version.epoch) {
            self.send_staged();
        }
        let in_flight = self.core.in_flight();
        if self.staged.frame.is_empty() {
            self.staged.to = to;
            self.staged.number += 1;
            match self.staged.gather.begins(in_flight) {
                Some(wait) => after.waits.push((wait, Wait::Frame(self.staged.number))),
                None => to.into_iter().filter_map(|slot| self.outbox(slot)).for_each(|outbox| after.wake(outbox)),
            }
        }
        self.staged.frame.push(write);
        self.staged.last = write.index;
        let complete = self.staged.gather.joined(in_flight);
        if complete || self.staged.frame.len() >= wire::FRAME_BYTES_TARGET {
            self.send_staged();
        }
    }

    /// The wait of a frame is over, unless it has left before.
    pub(super) fn gathered(&mut self, number: u64) {
        if self.staged.number == number {
            self.send_staged();
        }
    }

    fn send_staged(&mut self) {
        if self.staged.frame.is_empty() {
            return;
        }
        let frame = self.staged.frame.finish();
        // Connections whose frame waits are not woken yet.
        let gathered = self.staged.gather.left(self.staged.last);
        for slot in std::mem::take(&mut self.staged.to) {
            if let Some(outbox) = self.outbox(slot) {
                outbox.push(Item::Writes(frame.clone()));
                if gathered {
                    outbox.wake();
                }
            }
        }
    }

    fn outbox(&self, slot: SlotId) -> Option<&Arc<Outbox>> {
        let (_, outbox) = self.paths.get(slot.index())?.outbox.as_ref()?;
        Some(outbox)
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
        if let Some(outbox) = self.outbox(slot) {
            outbox.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::protocol::types::{Epoch, Record, Version};

    const EPOCH: Epoch = Epoch { term: 1, leader: 7 };

    fn write(index: u64) -> Arc<Write> {
        let version = Version { epoch: EPOCH, seq: index };
        Arc::new(Write::new(index, format!("key{index}").into(), Record { version, value: None, marks: None }))
    }

    /// What a connection sends now: the indices of the writes in each frame, none for another message.
    async fn sent(coordinator: &Coordinator, outbox: &Outbox) -> Vec<Vec<u64>> {
        let mut items = Vec::new();
        outbox.take(&mut items, || coordinator.send_staged()).await;
        let indices = |item| match item {
            Item::Writes(frame) => match wire::decode(&mut BytesMut::from(frame)) {
                Ok(Some(ToFollower::Writes { writes, .. })) => writes.iter().map(|write| write.index).collect(),
                other => panic!("no writes: {other:?}"),
            },
            Item::Write(write) => vec![write.index],
            _ => Vec::new(),
        };
        items.into_iter().map(indices).collect()
    }

    // Goal: writes of several steps reach their followers in one frame, wake each connection once, and keep their place
    // before and behind everything else. Method: three followers, of which two have no delay.
    #[tokio::test]
    async fn staged_writes_leave_together_and_in_order() {
        let coordinator = Coordinator::for_tests();
        let [first, second, third] = [0, 1, 2].map(SlotId);
        let both: Mask = [first, second].into_iter().collect();
        let outboxes = [first, second, third].map(|slot| {
            let outbox = Arc::new(Outbox::new(1 << 20));
            coordinator.state.lock().path(slot).outbox = Some((1, outbox.clone()));
            outbox
        });
        let step = |step: &dyn Fn(&mut State, &mut After)| {
            let mut after = After::default();
            step(&mut coordinator.state.lock(), &mut after);
            after.wake.len()
        };
        assert_eq!(step(&|state, after| state.transmit(both, &write(1), after)), 2);
        assert_eq!(step(&|state, after| state.transmit(both, &write(2), after)), 0, "they wake up already");
        assert_eq!(step(&|state, after| state.transmit(third.into(), &write(2), after)), 1, "its delay is over");
        let message = || Item::Message(ToFollower::Prepare { epoch: EPOCH });
        assert_eq!(step(&|state, after| state.post(second, message(), after)), 1);
        step(&|state, after| state.transmit(both, &write(3), after));
        let [to_first, to_second, to_third] = &outboxes;
        assert_eq!(sent(&coordinator, to_first).await, [vec![1, 2], vec![3]]);
        assert_eq!(sent(&coordinator, to_second).await, [vec![1, 2], vec![], vec![3]]);
        assert_eq!(sent(&coordinator, to_third).await, [vec![2]]);
    }

    // Goal: a frame that waits for others wakes every connection when it leaves, whatever ends its wait. Method: two
    // connections wait; the time ends, a message overtakes, or the frame is full.
    #[tokio::test]
    async fn a_frame_that_waited_wakes_every_connection() {
        type End = fn(&mut State, &mut After);
        let ends: [End; 3] = [
            |state, _| state.gathered(1),
            |state, after| state.post(SlotId(0), Item::Message(ToFollower::Prepare { epoch: EPOCH }), after),
            |state, after| {
                let version = Version { epoch: EPOCH, seq: 2 };
                let value = Some("x".repeat(wire::FRAME_BYTES_TARGET).into());
                let record = Record { version, value, marks: None };
                let both = [0, 1].map(SlotId).into_iter().collect();
                state.transmit(both, &Arc::new(Write::new(2, "key".into(), record)), after);
            },
        ];
        for end in ends {
            let coordinator = Coordinator::for_tests();
            let both: Mask = [0, 1].map(SlotId).into_iter().collect();
            let outboxes = [0, 1].map(|slot| {
                let outbox = Arc::new(Outbox::new(1 << 20));
                coordinator.state.lock().path(SlotId(slot)).outbox = Some((1, outbox.clone()));
                outbox
            });
            let mut taken = [Vec::new(), Vec::new()];
            let [first, second] = &mut taken;
            // As connections that wait: only a wake-up shows them what is queued.
            let mut waiting = [(&outboxes[0], first), (&outboxes[1], second)]
                .map(|(outbox, items)| Box::pin(outbox.take(items, || {})));
            for taking in &mut waiting {
                assert!(futures::poll!(taking.as_mut()).is_pending());
            }
            let mut after = After::default();
            {
                let state = &mut *coordinator.state.lock();
                state.staged.gather = Gather::expecting(10);
                state.transmit(both, &write(1), &mut after);
                assert!(after.wake.is_empty() && matches!(after.waits[..], [(_, Wait::Frame(1))]));
                end(state, &mut after);
                state.gathered(1);
                state.gathered(7);
            }
            for taking in &mut waiting {
                assert!(futures::poll!(taking.as_mut()).is_ready(), "a connection sleeps");
            }
        }
    }

    // Goal: what no connection takes is bounded. Method: more bytes than one frame has, and no connection runs.
    #[tokio::test]
    async fn a_long_frame_does_not_wait_for_a_connection() {
        let coordinator = Coordinator::for_tests();
        let both: Mask = [0, 1].map(SlotId).into_iter().collect();
        let mut state = coordinator.state.lock();
        for index in 0..1_000 {
            let version = Version { epoch: EPOCH, seq: index };
            let record = Record { version, value: Some("x".repeat(1_000).into()), marks: None };
            state.transmit(both, &Arc::new(Write::new(index, "key".into(), record)), &mut After::default());
            assert!(state.staged.frame.len() <= wire::FRAME_BYTES_TARGET);
        }
    }
}
