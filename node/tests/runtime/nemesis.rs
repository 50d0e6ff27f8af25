//! What goes wrong, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::time::{Instant, sleep};

use crate::files::{Failure, Fault, Unsynced};
use crate::followers::End;
use crate::plan::PLACES_MAX;
use crate::world::World;

impl World {
    fn below(&self, end: u64) -> u64 {
        self.state.lock().rng.random_range(0..end)
    }

    /// Breaks something now and then, until faults end.
    pub(crate) async fn nemesis(self: Arc<Self>) {
        loop {
            sleep(self.wait_ms(500)).await;
            if !self.state.lock().faults_on {
                return;
            }
            let place = {
                let state = &mut *self.state.lock();
                state.rng.random_range(0..usize::from(state.wanted.1))
            };
            let leading = self.leading();
            let leader = match leading.len() {
                0 => continue,
                count => leading[self.below(count as u64) as usize].0,
            };
            match self.below(24) {
                0 => self.kill_leader(leader),
                1 => self.hand_over(leader),
                2 | 3 => {
                    if leading.len() < 3 {
                        self.start_leader();
                    }
                }
                // As a paused process, or one that is cut off: what it sent arrives much later.
                4 | 5 => {
                    let lasts = self.wait_ms(5_000);
                    (0..PLACES_MAX).for_each(|place| self.stall(leader, place, &[0, 1], lasts));
                    if self.below(10) < 7 {
                        self.start_leader();
                    }
                }
                6 | 7 => self.crash_and_restart(place),
                8 => {
                    (0..PLACES_MAX).for_each(|place| self.crash_and_restart(place));
                    leading.iter().for_each(|(number, _)| self.kill_leader(*number));
                }
                9..=11 => self.fail_disk(place),
                12 => self.lose_disk(place),
                13..=15 => {
                    let ways: [&[usize]; 3] = [&[0], &[1], &[0, 1]];
                    let (way, lasts) = (self.below(3) as usize, self.wait_ms(5_000));
                    self.stall(leader, place, ways[way], lasts);
                }
                16 | 17 => self.cut(leader, place),
                18 => {
                    let slow_ms = self.below(800);
                    self.state.lock().places[place].slow_ms = slow_ms;
                    self.note(|| format!("f-{place} syncs {slow_ms} ms more slowly"));
                }
                19 => {
                    if leading.len() < 4 {
                        // Two that start at once, beside the one that leads.
                        self.start_leader();
                        self.start_leader();
                        self.cut(leader, place);
                    }
                }
                _ => self.change_rule(),
            }
        }
    }

    fn stall(&self, leader: usize, place: usize, ways: &[usize], lasts: Duration) {
        self.note(|| format!("stall L{leader} f-{place} {ways:?} for {lasts:?}"));
        let state = &mut *self.state.lock();
        for link in state.links.iter().filter(|link| link.leader == leader && link.place == place) {
            ways.iter().for_each(|way| link.wire.stall(*way, lasts));
        }
        state.leads[leader].stalled.push((place, Instant::now() + lasts));
    }

    fn cut(&self, leader: usize, place: usize) {
        self.note(|| format!("cut L{leader} f-{place}"));
        let state = self.state.lock();
        let links = state.links.iter().filter(|link| link.leader == leader && link.place == place);
        links.for_each(|link| link.wire.cut());
    }

    /// The process or its machine ends, and is back later. One that keeps its state in memory loses it.
    fn crash_and_restart(self: &Arc<Self>, place: usize) {
        if self.plan.memory {
            return self.lose_disk(place);
        }
        let end = match self.below(4) {
            0 => End::Killed,
            1 => End::Crash(Unsynced::Lost),
            2 => End::Crash(Unsynced::Kept),
            _ => End::Crash(Unsynced::Torn),
        };
        self.end_follower(place, end);
        self.start_later(place, self.wait_ms(3_000));
    }

    /// One of the next file operations fails, or all from there on: the process ends by itself.
    fn fail_disk(&self, place: usize) {
        if self.plan.memory {
            return;
        }
        let failure = [Failure::Eio, Failure::Enospc, Failure::Emfile, Failure::Stop][self.below(4) as usize];
        let (after, lasts) = (self.below(12), self.below(2) == 0);
        let disk = self.state.lock().places[place].disk.clone();
        self.note(|| format!("f-{place}: {failure:?} in {after} operations"));
        disk.plan(Some(Fault { at: disk.operations() + after, lasts, failure }));
    }

    /// Empties a disk, or the memory of a follower without one. Only where the rule promises to survive it: nothing else
    /// is missing, and no rule is on its way.
    fn lose_disk(self: &Arc<Self>, place: usize) {
        let quorum = self.state.lock().wanted.0;
        if quorum < 2 || !self.nothing_is_missing() {
            return;
        }
        self.end_follower(place, End::Killed);
        self.wipe(place);
        self.start_later(place, self.wait_ms(1_000));
    }

    /// Asks for another quorum, other followers, or both. Not while a disk that was lost is missing.
    fn change_rule(&self) {
        if !self.nothing_is_missing() {
            return;
        }
        {
            let state = &mut *self.state.lock();
            let (mut quorum, mut size) = state.wanted;
            if state.rng.random_bool(0.4) {
                size = state.rng.random_range(1..=PLACES_MAX as u16);
            }
            if state.rng.random_bool(0.7) {
                quorum = state.rng.random_range(1..=size);
            }
            state.wanted = (quorum.min(size), size);
            state.generation += 1;
        }
        let some = self.below(10);
        self.configure(|number| some > 0 || number % 2 == 0);
    }

    /// No faults and no clients from now on.
    pub(crate) fn calm(self: &Arc<Self>) {
        self.note(|| "calm".to_owned());
        {
            let state = &mut *self.state.lock();
            (state.faults_on, state.clients_on) = (false, false);
            state.links.iter().for_each(|link| link.wire.heal());
            state.leads.iter_mut().for_each(|lead| lead.stalled.clear());
            for place in &mut state.places {
                place.disk.plan(None);
                place.slow_ms = 0;
            }
        }
        (0..PLACES_MAX).for_each(|place| self.start_follower(place));
        self.configure(|_| true);
    }
}
