//! Rules of the protocol, switched off from outside: what a follower or leader without the rule would say instead.
//!
//! The shipped code has no switches. A mutation rewrites a message, or a follower's stored state, in such a way that the
//! shipped machines act as if one of them did not keep the rule.

use kv_node::protocol::follower::{Change, Effects, Follower};
use kv_node::protocol::types::{Config, Record, Synced, ToFollower, ToLeader, Version};

use super::World;

/// The rule that is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// Epochs are bare numbers: two leaders of one term are not told apart.
    EpochsAreBareTerms,
    /// Versions are compared by their sequence number alone.
    VersionsAreBareSeqs,
    /// A follower that lost its disk says that it has what it had.
    WipedCountsAsFull,
    /// Recovery waits for N − W promises.
    RecoversWithOneFewer,
    /// Recovery takes over one follower's records instead of merging.
    PromotesInsteadOfMerging,
    /// A part of an install overwrites what is newer in the same epoch.
    LateInstallOverwrites,
    /// A follower takes writes of a leader that was replaced.
    TakesWritesOfOldLeaders,
    /// A follower answers before its disk has the change.
    RepliesBeforeSync,
    /// A leader answers reads without asking whether it still leads.
    ReadsWithoutAsking,
    /// A follower says that it stored a rule, and did not.
    RulesAreNotStored,
    /// A follower keeps only the newest rule, though the one before may still decide.
    ForgetsEarlierRules,
    /// A follower says that it took over the whole state, and did not.
    InstallsAreNotStored,
}

impl World {
    fn is_off(&self, mutation: Mutation) -> bool {
        self.plan.mutation == Some(mutation)
    }

    pub(crate) fn mutated_leader_id(&self, id: u64) -> u64 {
        if self.is_off(Mutation::EpochsAreBareTerms) { 7 } else { id }
    }

    pub(crate) fn mutated_replies_before_sync(&self) -> bool {
        self.is_off(Mutation::RepliesBeforeSync)
    }

    pub(crate) fn mutated_reads_without_asking(&self) -> bool {
        self.is_off(Mutation::ReadsWithoutAsking)
    }

    pub(crate) fn mutated_memory_of_wiped(&self, place: usize) -> Option<Follower> {
        let before = &self.places[place].durable;
        let synced = before.synced().filter(|_| self.is_off(Mutation::WipedCountsAsFull))?.clone();
        let mut kept = Follower::blank(before.id(), self.places[place].name.clone());
        kept.restore(Change::Promised(before.promised()));
        kept.restore(Change::Synced { synced, drop_older: false });
        Some(kept)
    }

    pub(crate) fn step_follower(&mut self, place: usize, mut message: ToFollower, effects: &mut Effects) {
        let mutation = self.plan.mutation;
        let Some(live) = self.places[place].live.as_mut() else {
            return;
        };
        match (mutation, &mut message) {
            (Some(Mutation::VersionsAreBareSeqs), ToFollower::Install { records, .. }) => {
                records.iter_mut().for_each(|(key, record)| keep_higher_seq(live, key, record));
            }
            (Some(Mutation::VersionsAreBareSeqs), ToFollower::Writes { writes, .. }) => {
                writes.iter_mut().for_each(|write| keep_higher_seq(live, &write.key, &mut write.record));
            }
            (Some(Mutation::LateInstallOverwrites), ToFollower::Install { epoch, records }) => {
                for (key, record) in records {
                    let newer = live.get(key).is_some_and(|known| known.version > record.version);
                    if newer && *epoch == live.promised() {
                        let change = Change::Put(key.clone(), record.clone());
                        live.restore(change.clone());
                        effects.changes.push(change);
                    }
                }
            }
            (Some(Mutation::TakesWritesOfOldLeaders), ToFollower::Writes { epoch, .. }) => {
                let asked = *epoch;
                *epoch = live.promised();
                live.step(message, effects);
                for reply in &mut effects.replies {
                    if let ToLeader::Confirmed { epoch, .. } = reply {
                        *epoch = asked;
                    }
                }
                return;
            }
            (Some(Mutation::RulesAreNotStored), ToFollower::Configure { epoch, config })
                if live.synced().is_some_and(|synced| synced.epoch == *epoch) && live.promised() == *epoch =>
            {
                effects.replies.push(ToLeader::Configured { epoch: *epoch, generation: config.generation });
                return;
            }
            (Some(Mutation::InstallsAreNotStored), ToFollower::Install { .. }) => return,
            _ => {}
        }
        live.step(message, effects);
    }

    /// What the leader gets to see of a follower's answer.
    pub(crate) fn mutated_answer(&mut self, leader: usize, place: usize, mut message: ToLeader) -> ToLeader {
        let Some(mutation) = self.plan.mutation else {
            return message;
        };
        if let ToLeader::Records { records, .. } = &mut message
            && mutation == Mutation::PromotesInsteadOfMerging
            && self.leads[leader].promoted.is_some_and(|promoted| promoted != place)
        {
            records.clear();
        }
        if let ToLeader::Records { .. } = message {
            self.leads[leader].promoted.get_or_insert(place);
        }
        let synced = match &mut message {
            ToLeader::Hello(hello) => hello.synced.as_mut(),
            ToLeader::Promised { synced, .. } => synced.as_mut(),
            _ => None,
        };
        if let Some(Synced { config, .. }) = synced {
            match mutation {
                Mutation::RecoversWithOneFewer => {
                    one_fewer(config);
                    config.earlier.iter_mut().for_each(one_fewer);
                }
                Mutation::ForgetsEarlierRules => config.earlier.clear(),
                _ => {}
            }
        }
        message
    }
}

/// What a follower would hold that compares nothing but sequence numbers.
fn keep_higher_seq(follower: &Follower, key: &str, record: &mut Record) {
    if let Some(known) = follower.get(key).filter(|known| known.version.seq > record.version.seq) {
        let version = Version { epoch: record.version.epoch, seq: known.version.seq };
        *record = Record { version, ..known.clone() };
    }
}

/// A rule under which one promise fewer suffices.
fn one_fewer(config: &mut Config) {
    if config.quorum < config.size {
        config.quorum += 1;
    }
}
