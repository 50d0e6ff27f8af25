//! Followers with their disks.

use std::sync::Arc;

use kv_node::protocol::follower::{Change, Effects, Follower};
use kv_node::protocol::messages::ToLeader;
use kv_node::protocol::types::{Config, FollowerId};
use rand::RngExt;

use super::{Event, World, note};

/// Where a follower lives: a name, a disk, and perhaps a running process.
pub(crate) struct Place {
    pub(crate) name: Arc<str>,
    pub(crate) live: Option<Follower>,
    /// What a restart would find.
    pub(crate) durable: Follower,
    /// Tells this process from earlier ones.
    pub(crate) process: u64,
    unsynced: Vec<Change>,
    replies: Vec<(u64, ToLeader)>,
    syncing: bool,
    pub(crate) slow: bool,
    /// Discovery finds it: it is wanted, or was and has not been removed.
    pub(crate) present: bool,
    /// It lost its disk and does not say so; only in a mutation.
    pub(crate) pretends: bool,
}

impl World {
    pub(crate) fn new_place(&mut self) -> Place {
        let name: Arc<str> = format!("f{}", self.places.len()).into();
        let durable = Follower::blank(self.new_disk(), name.clone()).limited(self.plan.sizes.follower);
        let present = self.places.len() < usize::from(self.wanted.1);
        Place {
            name,
            live: present.then(|| durable.clone()),
            durable,
            process: 0,
            unsynced: Vec::new(),
            replies: Vec::new(),
            syncing: false,
            slow: false,
            present,
            pretends: false,
        }
    }

    fn new_disk(&mut self) -> FollowerId {
        self.next_disk += 1;
        FollowerId(self.next_disk)
    }

    /// Takes what the follower decided: replies wait for everything decided before them.
    pub(crate) fn store(&mut self, place: usize, connection: u64, effects: Effects) {
        let early = self.mutated_replies_before_sync();
        let it = &mut self.places[place];
        it.unsynced.extend(effects.changes);
        let replies = effects.replies.into_iter().map(|reply| (connection, reply));
        if early {
            replies.for_each(|(connection, reply)| self.send_to_leader(connection, reply));
        } else {
            it.replies.extend(replies);
        }
        let it = &mut self.places[place];
        if !it.syncing {
            it.syncing = true;
            let (process, slow) = (it.process, it.slow);
            let wait = self.wait(if slow { 200_000 } else { self.plan.sync_us });
            self.after(wait, Event::Sync { place, process });
        }
    }

    pub(crate) fn sync(&mut self, place: usize, process: u64) {
        let it = &mut self.places[place];
        if it.process != process {
            return;
        }
        it.syncing = false;
        std::mem::take(&mut it.unsynced).into_iter().for_each(|change| it.durable.restore(change));
        let same = it.live.as_ref().is_some_and(|live| {
            live.synced() == it.durable.synced()
                && live.promised() == it.durable.promised()
                && live.records() == it.durable.records()
        });
        assert!(same, "the stored changes of {} do not rebuild it", it.name);
        let replies = std::mem::take(&mut it.replies);
        replies.into_iter().for_each(|(connection, reply)| self.send_to_leader(connection, reply));
    }

    /// The process dies; of what was not synced, a prefix may be on the disk all the same.
    pub(crate) fn crash(&mut self, place: usize) {
        let unsynced = std::mem::take(&mut self.places[place].unsynced);
        let kept = self.rng.random_range(0..=unsynced.len());
        let it = &mut self.places[place];
        unsynced.into_iter().take(kept).for_each(|change| it.durable.restore(change));
        it.live = None;
        it.process += 1;
        it.replies.clear();
        it.syncing = false;
        note!(self, "crash {}", self.places[place].name);
        self.break_all(|connection| connection.place == place);
    }

    pub(crate) fn restart(&mut self, place: usize) {
        if self.places[place].live.is_some() {
            return;
        }
        if self.plan.memory && self.may_lose(place) {
            self.wipe(place);
        }
        let it = &mut self.places[place];
        it.live = Some(it.durable.clone());
        note!(self, "restart {} as {:?}", self.places[place].name, self.places[place].durable.id());
    }

    /// Empties the disk of a follower that does not run.
    pub(crate) fn wipe(&mut self, place: usize) {
        let id = self.new_disk();
        let kept = self.mutated_memory_of_wiped(place);
        let limits = self.plan.sizes.follower;
        let it = &mut self.places[place];
        note!(self, "wipe {} ({:?} -> {id:?})", it.name, it.durable.id());
        it.pretends |= kept.is_some();
        it.durable = kept.unwrap_or_else(|| Follower::blank(id, it.name.clone())).limited(limits);
    }

    /// Whether the disk may be lost without exceeding what the rules in force promise to survive.
    ///
    /// Lost may be so many members that every rule that can still decide a recovery finds enough of them.
    pub(crate) fn may_lose(&self, place: usize) -> bool {
        let lost = self.places[place].durable.id();
        let rules = self.deciding_rules();
        !rules.is_empty() && rules.iter().all(|rule| self.left_of(rule, Some(lost)) >= rule.recovery_size())
    }

    /// How many members' disks there are, one of them aside.
    fn left_of(&self, rule: &Config, aside: Option<FollowerId>) -> usize {
        let exists = |id| self.places.iter().any(|place| place.durable.id() == id && place.present && !place.pretends);
        rule.members.iter().filter(|member| Some(member.id) != aside && exists(member.id)).count()
    }

    /// Whether a leader has to stay closed: a rule that decides cannot be satisfied by the disks that are left. That
    /// happens when a disk was lost just before a rule under which none may be lost.
    pub(crate) fn must_stay_closed(&self) -> bool {
        let stored = self.places.iter().filter_map(|place| place.durable.synced());
        let newest = stored.max_by_key(|synced| (synced.epoch, synced.config.generation));
        let Some(synced) = newest else {
            // A leader process knows that the disks that are gone had state. They may have had it without an open
            // leader, but nothing proves that.
            let met_state = |number: &usize| self.leads[*number].leader.recovery().is_some_and(|it| it.opened_before);
            return self.leading().iter().any(met_state);
        };
        synced.config.binding().any(|rule| {
            // The next opening lacks a follower that is gone for good, name and disk, as well.
            let left = self.left_of(rule, None);
            let replaced = |name: &Arc<str>| self.places.iter().any(|place| place.present && place.name == *name);
            let lost = rule.members.iter().filter(|member| replaced(&member.name)).count() - left;
            left < rule.recovery_size() || left < usize::from(rule.quorum).min(rule.members.len() - lost)
        })
    }

    /// The rules that disks hold and that a recovery may still have to satisfy.
    pub(crate) fn deciding_rules(&self) -> Vec<Config> {
        let opened = self.history.last_opened();
        let stored: Vec<_> = self
            .places
            .iter()
            .flat_map(|place| [place.durable.synced(), place.live.as_ref().and_then(Follower::synced)])
            .flatten()
            .filter(|synced| synced.epoch >= opened)
            .collect();
        // A rule that stands alone on a quorum of its members has replaced all before it.
        let alone = stored.iter().filter(|synced| synced.epoch == opened && synced.config.earlier.is_empty());
        let settled = alone.map(|synced| &synced.config).filter(|config| {
            let holders = self.places.iter().filter(|place| {
                config.contains(place.durable.id())
                    && place
                        .durable
                        .synced()
                        .is_some_and(|synced| synced.epoch == opened && synced.config.generation >= config.generation)
            });
            holders.count() >= usize::from(config.quorum)
        });
        let settled = settled.map(|config| config.generation).max().unwrap_or(0);
        let mut rules: Vec<Config> = stored
            .iter()
            .filter(|synced| synced.epoch > opened || synced.config.generation >= settled)
            .flat_map(|synced| synced.config.binding())
            .cloned()
            .collect();
        rules.sort_by_key(|rule| rule.generation);
        rules.dedup();
        rules
    }
}
