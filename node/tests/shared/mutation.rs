//! Rules of the protocol, switched off from outside: what a follower or leader without the rule would say instead.
//!
//! The shipped code has no switches. A mutation rewrites a message, or a follower's stored state, in such a way that the
//! shipped machines act as if one of them did not keep the rule. The simulation and the model both use these.

use kv_node::protocol::digest::Buckets;
use kv_node::protocol::follower::{Change, Effects, Follower};
use kv_node::protocol::messages::{Covered, ToFollower, ToLeader};
use kv_node::protocol::types::{Config, RESTORE_MARK, Record, Synced, Version};

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
    /// A candidate asks for promises once N − W followers hear no leader.
    AsksAfterFewerSilent,
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
    /// A leader decides about conditions by what is committed.
    ConditionsOfCommittedRecords,
    /// A leader adds to what is committed.
    IncrementsOfCommittedRecords,
    /// A leader refuses a write at once, with a record that may not be committed.
    RefusesAtOnce,
    /// A follower says that it stored a rule, and did not.
    RulesAreNotStored,
    /// A follower keeps only the newest rule, though the one before may still decide.
    ForgetsEarlierRules,
    /// A follower says that it took over the whole state, and did not.
    InstallsAreNotStored,
    /// A follower that takes over a state keeps the keys that are not in it.
    KeepsWhatIsOlder,
    /// A follower that is asked what it has says that it has nothing.
    DigestsLeaveOutKeys,
    /// A leader that asks for all records asks for the rest of them by the filter of an earlier question.
    FiltersOutliveTheirFetch,
    /// A follower that is asked for its records leaves out the deleted keys.
    DeletedKeysAreNotReported,
    /// A follower that fell behind the backlog gets the end of a transfer, and none of its records.
    NothingNewerIsTransferred,
    /// A follower keeps a value without the idempotency keys of its writes.
    RetryMarksAreNotStored,
    /// A follower stores the mark of an unfinished restore as one that is finished.
    RestoreMarksAreNotStored,
}

/// The id of a leader process.
pub(crate) fn leader_id(off: Option<Mutation>, id: u64) -> u64 {
    if off == Some(Mutation::EpochsAreBareTerms) { 7 } else { id }
}

/// What a follower whose disk was lost would claim to be.
pub(crate) fn memory_of_wiped(off: Option<Mutation>, before: &Follower) -> Option<Follower> {
    let synced = before.synced().filter(|_| off == Some(Mutation::WipedCountsAsFull))?.clone();
    let mut kept = Follower::blank(before.id(), before.hello().name);
    kept.restore(Change::Promised(before.promised()));
    kept.restore(Change::Synced { synced, drop_older: None });
    Some(kept)
}

/// Gives a follower a message.
pub(crate) fn step(off: Option<Mutation>, follower: &mut Follower, mut message: ToFollower, effects: &mut Effects) {
    match (off, &mut message) {
        (Some(Mutation::VersionsAreBareSeqs), ToFollower::Install { records, .. }) => {
            records.iter_mut().for_each(|(key, record)| keep_higher_seq(follower, key, record));
        }
        (Some(Mutation::VersionsAreBareSeqs), ToFollower::Writes { writes, .. }) => {
            writes.iter_mut().for_each(|write| keep_higher_seq(follower, &write.key, &mut write.record));
        }
        (Some(Mutation::LateInstallOverwrites), ToFollower::Install { epoch, records }) => {
            for (key, record) in records {
                let newer = follower.get(key).is_some_and(|known| known.version > record.version);
                if newer && *epoch == follower.promised() {
                    let change = Change::Put(key.clone(), record.clone());
                    follower.restore(change.clone());
                    effects.changes.push(change);
                }
            }
        }
        (Some(Mutation::TakesWritesOfOldLeaders), ToFollower::Writes { epoch, .. }) => {
            let asked = *epoch;
            *epoch = follower.promised();
            follower.step(message, effects);
            for reply in &mut effects.replies {
                if let ToLeader::Confirmed { epoch, .. } = reply {
                    *epoch = asked;
                }
            }
            return;
        }
        (Some(Mutation::RulesAreNotStored), ToFollower::Configure { epoch, config })
            if follower.synced().is_some_and(|synced| synced.epoch == *epoch) && follower.promised() == *epoch =>
        {
            effects.replies.push(ToLeader::Configured { epoch: *epoch, generation: config.generation });
            return;
        }
        (Some(Mutation::InstallsAreNotStored), ToFollower::Install { .. }) => return,
        (Some(Mutation::RetryMarksAreNotStored), message) => {
            each_record(message, |_, record| record.marks = None);
        }
        (Some(Mutation::RestoreMarksAreNotStored), message) => {
            each_record(message, |key, record| {
                if key == RESTORE_MARK {
                    record.value = None;
                }
            });
        }
        (Some(Mutation::KeepsWhatIsOlder), ToFollower::InstallEnd { covered: Covered::Buckets(buckets), .. }) => {
            *buckets = Buckets::none(1, 0);
        }
        _ => {}
    }
    follower.step(message, effects);
}

/// What a leader gets to see of the answer of the follower at a place. `promoted` is the first one that sent records.
pub(crate) fn answer(
    off: Option<Mutation>,
    promoted: &mut Option<usize>,
    place: usize,
    mut message: ToLeader,
) -> ToLeader {
    let Some(mutation) = off else {
        return message;
    };
    if let ToLeader::Records { records, .. } = &mut message
        && *promoted.get_or_insert(place) != place
        && mutation == Mutation::PromotesInsteadOfMerging
    {
        records.clear();
    }
    if let ToLeader::Records { records, .. } = &mut message
        && mutation == Mutation::DeletedKeysAreNotReported
    {
        records.retain(|(_, record)| record.value.is_some());
    }
    if let ToLeader::Digested { digest, .. } = &mut message
        && mutation == Mutation::DigestsLeaveOutKeys
    {
        *digest = digest.emptied();
    }
    let synced = match &mut message {
        ToLeader::Hello(hello) => hello.synced.as_mut(),
        ToLeader::Promised { synced, .. } => synced.as_mut(),
        // A candidate decides by the rule of the last answer.
        ToLeader::Greeted(hello) if mutation == Mutation::AsksAfterFewerSilent => hello.synced.as_mut(),
        _ => None,
    };
    if let Some(Synced { config, .. }) = synced {
        match mutation {
            Mutation::RecoversWithOneFewer | Mutation::AsksAfterFewerSilent => {
                one_fewer(config);
                config.earlier.iter_mut().for_each(one_fewer);
            }
            Mutation::ForgetsEarlierRules => config.earlier.clear(),
            _ => {}
        }
    }
    message
}

/// Whether [`transfer`] needs a whole transfer at once.
pub(crate) fn changes_transfers(off: Option<Mutation>) -> bool {
    off == Some(Mutation::NothingNewerIsTransferred)
}

/// What a leader sends in a whole state transfer.
pub(crate) fn transfer(off: Option<Mutation>, parts: &mut Vec<ToFollower>) {
    let newer = matches!(parts.last(), Some(ToFollower::InstallEnd { covered: Covered::Newer, .. }));
    if newer && changes_transfers(off) {
        parts.retain(|part| !matches!(part, ToFollower::Install { .. }));
    }
}

/// Every record that a message brings to a follower.
fn each_record(message: &mut ToFollower, mut change: impl FnMut(&str, &mut Record)) {
    match message {
        ToFollower::Install { records, .. } => records.iter_mut().for_each(|(key, record)| change(key, record)),
        ToFollower::Writes { writes, .. } => writes.iter_mut().for_each(|write| change(&write.key, &mut write.record)),
        _ => {}
    }
}

/// What a leader asks a follower when a filter outlives its question. `filter` is the last one of this follower.
pub(crate) fn question(filter: &mut Option<Buckets>, message: &mut ToFollower) {
    let ToFollower::Fetch { cursor, of, .. } = message else { return };
    match of {
        Some(buckets) => *filter = Some(buckets.clone()),
        None if *cursor > 0 => of.clone_from(filter),
        None => {}
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
