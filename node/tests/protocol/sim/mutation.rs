//! Where a rule that is switched off shows in a simulated world.

use kv_node::protocol::follower::{Effects, Follower};
use kv_node::protocol::leader::SlotId;
use kv_node::protocol::messages::{ToFollower, ToLeader};

use super::World;
use crate::mutation::{self, Mutation};

impl World {
    pub(crate) fn mutated_leader_id(&self, id: u64) -> u64 {
        mutation::leader_id(self.plan.mutation, id)
    }

    pub(crate) fn mutated_replies_before_sync(&self) -> bool {
        self.plan.mutation == Some(Mutation::RepliesBeforeSync)
    }

    pub(crate) fn mutated_reads_without_asking(&self) -> bool {
        self.plan.mutation == Some(Mutation::ReadsWithoutAsking)
    }

    pub(crate) fn mutated_memory_of_wiped(&self, place: usize) -> Option<Follower> {
        mutation::memory_of_wiped(self.plan.mutation, &self.places[place].durable)
    }

    pub(crate) fn step_follower(&mut self, place: usize, message: ToFollower, effects: &mut Effects) {
        if let Some(live) = self.places[place].live.as_mut() {
            mutation::step(self.plan.mutation, live, message, effects);
        }
    }

    /// What the leader sends to the follower at a place.
    pub(crate) fn mutated_question(&mut self, leader: usize, slot: SlotId, message: &mut ToFollower) {
        if self.plan.mutation == Some(Mutation::FiltersOutliveTheirFetch) {
            mutation::question(self.leads[leader].filters.entry(slot).or_default(), message);
        }
    }

    /// What the leader gets to see of a follower's answer.
    pub(crate) fn mutated_answer(&mut self, leader: usize, place: usize, message: ToLeader) -> ToLeader {
        mutation::answer(self.plan.mutation, &mut self.leads[leader].promoted, place, message)
    }
}
