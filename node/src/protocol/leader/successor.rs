//! Where clients find the leader when it is not this process.
//!
//! A standby learns it from its followers. So does a leader that resigned or was replaced: it goes on
//! asking them, so that its clients are sent to its successor instead of being refused.

use std::sync::Arc;

use super::slot::Link;
use super::{Leader, Phase, SlotId};
use crate::protocol::messages::Hello;

impl<W, R> Leader<W, R> {
    /// The URL of the leader, where another process leads as far as followers report.
    pub fn leads_elsewhere(&self) -> Option<Arc<str>> {
        match self.phase {
            Phase::Resigned | Phase::Fenced(_) if self.settings.limits.takeover_rounds > 0 => self.successor(),
            _ => self.heard_leader(),
        }
    }

    /// The leader that followers obey in place of this one; of two, the one with the higher epoch.
    fn successor(&self) -> Option<Arc<str>> {
        // A follower that has not noticed yet may still name this process.
        let follows = |hello: &&Hello| hello.promised > self.epoch && hello.leader.is_some();
        let connected = self.each_slot().filter(|(_, slot)| slot.link != Link::Down);
        let hellos = connected.filter_map(|(_, slot)| slot.hello.as_ref()).filter(follows);
        hellos.max_by_key(|hello| hello.promised)?.leader.clone()
    }

    /// Whether a write quorum has the state of the leader that follows this one, which then opens.
    pub fn successor_opens(&self) -> bool {
        let has_state = |hello: &Hello| {
            hello.promised > self.epoch && hello.synced.as_ref().is_some_and(|synced| synced.epoch == hello.promised)
        };
        let having = self.mask_of(|slot| slot.link != Link::Down && slot.hello.as_ref().is_some_and(has_state));
        having.count() >= usize::from(self.rules.quorum())
    }

    /// A tick of a leader that has ended: it asks every follower which leader it obeys.
    pub(super) fn tick_ended(&mut self) {
        if self.settings.limits.takeover_rounds > 0 {
            self.ask_each(false, |slot| slot.link != Link::Down);
        }
    }

    /// The answer of a follower to a leader that has ended.
    pub(super) fn on_greeted_after_end(&mut self, id: SlotId, hello: Hello) {
        let Some(slot) = self.slot_mut(id) else { return };
        slot.silence.asked = false;
        if slot.hello.as_ref().is_some_and(|known| known.id == hello.id) {
            slot.hello = Some(hello);
        }
    }
}
