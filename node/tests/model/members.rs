//! Followers that come and go.
//!
//! A leader knows the followers that its settings ask for, and each other one that connects and that it still needs. The
//! disk of a follower is deleted once a leader releases it, unless it is wanted again.

use kv_node::protocol::leader::Leader;

use crate::actions::NO_DELAY;
use crate::world::{Plan, Process, Rule, World};

impl World {
    /// Whether a leader can connect to the follower at a place: there is one, and it has a slot or could get one.
    pub(crate) fn may_connect(&self, process: &Process, place: usize) -> bool {
        let has_state = self.places[place].follower.synced().is_some();
        let exists = place < usize::from(self.wanted.size) || has_state;
        let declared = place < usize::from(process.told.size);
        exists && (process.slots[place].is_some() || declared || has_state)
    }

    /// Gives the follower that connects a slot, as discovery does. Returns false if the leader does not take it.
    pub(crate) fn finds_slot(&mut self, at: (usize, usize)) -> bool {
        let (number, place) = at;
        if self.leads[number].process.slots[place].is_some() {
            return true;
        }
        let hello = self.places[place].follower.hello();
        self.leads[number].process.change(|process| {
            let Process { leader, slots, told, .. } = process;
            let declared = place < usize::from(told.size);
            slots[place] = if declared { leader.declare(&hello.name) } else { leader.declare_leaving(&hello) };
            slots[place].is_some()
        })
    }

    /// A leader gets the wanted rule as its settings.
    pub(crate) fn tell(&mut self, number: usize, plan: &Plan) {
        let Rule { quorum, size } = self.wanted;
        self.leads[number].process.change(|process| process.told = Rule { quorum, size });
        let slots = self.leads[number].process.slots;
        let retire_or_declare = |leader: &mut Leader<usize, usize>| {
            for (place, slot) in slots.into_iter().enumerate() {
                let Some(slot) = slot else { continue };
                if place < usize::from(size) {
                    leader.declare(&format!("f{place}")).expect("the follower has a slot");
                } else {
                    leader.retire(slot);
                }
            }
            leader.set(quorum, size, NO_DELAY);
        };
        self.drive(number, plan, retire_or_declare);
    }

    /// A leader released a follower.
    pub(crate) fn released(&mut self, at: (usize, usize), plan: &Plan) {
        let (number, place) = at;
        self.leads[number].process.change(|process| process.slots[place] = None);
        self.cut(at, plan);
        if place >= usize::from(self.wanted.size) {
            self.wipe(place, plan);
        }
    }
}
