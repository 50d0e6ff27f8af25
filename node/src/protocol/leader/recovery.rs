//! Recovery: how a leader without state opens. It collects promises, merges records and installs
//! the result.

use super::mask::Mask;
use super::membership::Stage;
use super::slot::{Gathered, Slot};
use super::warm::Compared;
use super::{Entry, Leader, LeaderSettings, Limits, Link, Output, Phase, ResetReason, SlotId};
use crate::protocol::digest::{BucketLimits, Buckets, Digest, seed_of};
use crate::protocol::keymap::KeyMap;
use crate::protocol::messages::ToFollower;
use crate::protocol::types::{Config, Epoch, Key, Member, Record, Synced};

/// Token of the digest questions of recovery. A state transfer uses the index of a write, from 1.
pub(super) const RECOVERY: u64 = 0;

/// The progress of recovery.
#[derive(Clone, Debug)]
pub(super) struct Recovery {
    /// The epoch whose records are being merged.
    source: Option<Epoch>,
    merged: KeyMap<Entry>,
    /// The copy of a standby, until a follower has reported in which buckets it has the same.
    copy: Option<Box<Compared>>,
    /// Digest of `merged`. Of a large state it is updated with each record, so that no single step
    /// computes all of it.
    digest: Option<Digest>,
    /// Set once the first follower sent everything: the number of buckets in which the other
    /// followers report their digests.
    compared: Option<u32>,
    loss_accepted: bool,
    /// Seed of the digests.
    seed: u64,
    buckets: BucketLimits,
    digested_keys: usize,
}

/// The promises that a closed leader has, and how many it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryView {
    /// How many members must promise; unknown until a follower that is not blank answers.
    pub needed: Option<usize>,
    /// How many followers promised.
    pub answered: usize,
    /// How many of those count: followers whose disk is a member.
    pub counting: usize,
    /// How many of those are blank.
    pub blank: usize,
    /// N, the declared number of followers.
    pub size: usize,
    /// Whether the cluster was open before. If so, blank followers do not prove a new cluster.
    pub opened_before: bool,
}

impl RecoveryView {
    /// Whether enough followers answered.
    pub fn is_enough(&self) -> bool {
        self.needed.map_or(self.answered >= self.size && !self.opened_before, |needed| self.counting >= needed)
    }
}

impl Recovery {
    /// `copy` is what this process copied as a standby.
    pub(super) fn new(epoch: Epoch, limits: &Limits, copy: KeyMap<Entry>) -> Self {
        let seed = seed_of(epoch);
        Self {
            source: None,
            merged: KeyMap::default(),
            copy: Compared::new(copy, limits.buckets.most, seed).map(Box::new),
            digest: None,
            compared: None,
            loss_accepted: false,
            seed,
            buckets: limits.buckets,
            digested_keys: limits.digested_keys,
        }
    }

    /// The copy that no follower has been compared with.
    pub(super) fn into_copy(self) -> KeyMap<Entry> {
        self.copy.map(|copy| copy.into_records()).unwrap_or_default()
    }

    /// Keeps the record with the higher version.
    fn merge(&mut self, key: Key, record: Record) {
        let known = self.merged.get_mut(&key);
        if known.as_ref().is_some_and(|known| known.latest.version >= record.version) {
            return;
        }
        if let Some(digest) = &mut self.digest {
            known.iter().for_each(|known| digest.remove(&key, &known.latest));
            digest.add(&key, &record);
        }
        match known {
            Some(known) => known.latest = record,
            None => _ = self.merged.insert(key, Entry::recovered(record)),
        }
        if self.digest.is_none() && self.merged.len() == self.digested_keys {
            self.digest = Some(self.digested(self.buckets.most as u32));
        }
    }

    /// Digest of the records merged so far.
    fn digested(&self, buckets: u32) -> Digest {
        match &self.digest {
            Some(digest) => digest.folded(buckets),
            None => {
                let mut digest = Digest::new(buckets, self.seed);
                self.merged.iter().for_each(|(key, entry)| digest.add(key, &entry.latest));
                digest
            }
        }
    }

    /// The digest of the first follower is complete: merges what the copy shares with it. Returns the
    /// buckets in which the follower has other records.
    fn merge_copy(&mut self, theirs: &Digest) -> Option<Buckets> {
        let (records, digest, differing) = self.copy.take()?.shared_with(theirs, self.source?);
        (self.merged, self.digest) = (records, Some(digest));
        Some(differing)
    }

    /// The first follower sent everything: prepares the digest that is compared with the other
    /// followers.
    fn begin_comparing(&mut self) {
        let buckets = self.buckets.buckets_for(self.merged.len());
        self.digest = Some(self.digested(buckets));
        self.compared = Some(buckets);
    }
}

impl<W, R> Leader<W, R> {
    /// Opens with the records of the followers that answered, even if acknowledged writes are
    /// missing. Only for an operator who knows that the other followers will not return. Returns
    /// false if this leader is neither recovering nor opening.
    pub fn accept_loss(&mut self) -> bool {
        // A person decided: this one leads.
        self.elect();
        match &mut self.phase {
            Phase::Recovering(recovery) => {
                recovery.loss_accepted = true;
                self.recover();
            }
            // The state is complete, but members of an earlier rule that have to store it are
            // missing.
            Phase::Opening => {
                self.basis = (self.epoch, u64::MAX);
                self.drop_earlier_rules();
            }
            _ => return false,
        }
        true
    }

    /// Progress of recovery; `None` once the leader opens.
    pub fn recovery(&self) -> Option<RecoveryView> {
        matches!(self.phase, Phase::Recovering(_) | Phase::Waiting(_)).then(|| {
            // A candidate reports who would promise.
            let candidate = self.is_candidate();
            let promised = self.mask_of(|slot| slot.promised || (candidate && slot.link == Link::Greeted));
            let config = self.highest_synced_of(promised).map(|synced| synced.config);
            // If several rules bind, the one that misses most promises.
            let rule = config.iter().flat_map(Config::binding);
            let rule = rule.map(|rule| (rule.recovery_size(), (self.members(rule) & promised).count()));
            let rule = rule.max_by_key(|(needed, counting)| needed.saturating_sub(*counting));
            let blank = promised & self.mask_of(|slot| slot.synced_epoch().is_none());
            RecoveryView {
                needed: rule.map(|(needed, _)| needed),
                answered: promised.count(),
                counting: rule.map_or(0, |(_, counting)| counting),
                blank: blank.count(),
                size: usize::from(self.settings.size),
                opened_before: self.opened_before,
            }
        })
    }

    /// The highest epoch of which a follower that promised has the full state, and the newest rule
    /// there.
    fn highest_synced(&self) -> Option<Synced> {
        self.highest_synced_of(self.mask_of(|slot| slot.promised))
    }

    /// The same among these followers, without states that no client saw.
    pub(super) fn highest_synced_of(&self, followers: Mask) -> Option<Synced> {
        self.synced_of(followers)
            .filter(|synced| !self.never_opened(synced, followers))
            .max_by_key(|synced| (synced.epoch, synced.config.generation))
            .cloned()
    }

    fn synced_of(&self, followers: Mask) -> impl Iterator<Item = &Synced> {
        let slots = self.each_slot().filter(move |(id, _)| followers.contains(*id));
        slots.filter_map(|(_, slot)| slot.hello.as_ref()?.synced.as_ref())
    }

    /// Whether these followers prove that the leader of this state never opened: it had to store the
    /// state of a new cluster on all members first, and one of them promised a later epoch without
    /// it. Such a state is empty, and its epoch is no newer than what that member has.
    fn never_opened(&self, synced: &Synced, followers: Mask) -> bool {
        let Some(founding) = synced.config.earlier.iter().find(|rule| rule.is_founding()) else { return false };
        let without = self.mask_of(|slot| slot.synced_epoch() < Some(synced.epoch));
        (self.members(founding) & followers & without).count() > 0
    }

    /// The promises that count: those from disks that are members. A disk that was emptied has a
    /// new id, which is no member's.
    fn counting(&self, config: &Config) -> Mask {
        self.members(config) & self.mask_of(|slot| slot.promised)
    }

    /// The followers whose disk is a member.
    pub(super) fn members(&self, config: &Config) -> Mask {
        self.mask_of(|slot| slot.hello.as_ref().is_some_and(|hello| config.contains(hello.id)))
    }

    /// Whether the answers of these followers include every acknowledged write, under every rule
    /// that binds.
    fn suffices(&self, config: &Config, said: Mask) -> bool {
        config.binding().all(|rule| (self.counting(rule) & said).count() >= rule.recovery_size())
    }

    /// Takes the next steps that the promises so far allow.
    pub(super) fn recover(&mut self) {
        let Phase::Recovering(recovery) = &self.phase else {
            return;
        };
        let loss_accepted = recovery.loss_accepted;
        let Some(Synced { epoch: source, config }) = self.highest_synced() else {
            // All followers that answered are blank, or have the state of a leader that never
            // opened. That proves a new cluster only if every known follower answered, those that
            // leave included.
            let answered = self.mask_of(|slot| slot.promised && slot.wanted).count();
            let all = self.each_slot().all(|(_, slot)| slot.promised);
            let proven_new = all && answered >= usize::from(self.settings.size) && !self.opened_before;
            if proven_new || (loss_accepted && answered > 0) {
                self.begin_opening(None);
            }
            return;
        };
        if !loss_accepted && !self.suffices(&config, self.mask_of(|slot| slot.promised)) {
            return;
        }
        self.fetch_from(source);
        // A follower of an older epoch confirmed no write of the newest epoch. Its promise is
        // enough.
        let done = self.mask_of(|slot| slot.gathered.is_everything() || slot.synced_epoch() != Some(source));
        // Any follower with the full state of the newest epoch also has every write acknowledged
        // before it, so one such follower must send its records.
        let fetched = self.mask_of(|slot| slot.promised && slot.gathered.is_everything());
        let enough = if loss_accepted { !self.fetching() } else { self.suffices(&config, done) };
        if enough && fetched.count() > 0 {
            self.begin_opening((!loss_accepted).then_some(config));
        }
    }

    /// Asks every follower without this leader's state for a promise. Also repeats the question
    /// where the follower promised: another leader may have overtaken the promise since, which this
    /// leader would not notice while it waits.
    pub(super) fn ask_for_promises(&mut self) {
        let epoch = self.epoch;
        let asked = |slot: &Slot| matches!(slot.link, Link::Greeted | Link::Promised);
        self.send_each(asked, || ToFollower::Prepare { epoch });
    }

    fn fetching(&self) -> bool {
        self.each_slot().any(|(_, slot)| slot.gathered.is_under_way())
    }

    fn fetch_from(&mut self, source: Epoch) {
        let Phase::Recovering(recovery) = &mut self.phase else {
            return;
        };
        if recovery.source != Some(source) {
            // The merged records belong to another epoch: a newer epoch appeared, or the only disk
            // with that epoch is gone.
            recovery.source = Some(source);
            recovery.merged = KeyMap::default();
            (recovery.digest, recovery.compared) = (None, None);
            for index in 0..self.slots.len() {
                let id = SlotId(index as u8);
                let Some(slot) = self.slot_mut(id) else { continue };
                if std::mem::take(&mut slot.gathered).is_under_way() {
                    // The rest of the answer may still arrive. Closing the connection drops it, so
                    // that the leader cannot take it for a part of the next answer.
                    slot.link = Link::Down;
                    self.out.push(Output::Reset(id, ResetReason::OtherSource));
                }
            }
        }
        self.fetch_more(source);
    }

    /// Asks one follower for everything, and the others for the records that differ from those
    /// merged so far.
    fn fetch_more(&mut self, source: Epoch) {
        let epoch = self.epoch;
        let Phase::Recovering(recovery) = &mut self.phase else {
            return;
        };
        let anything = !recovery.merged.is_empty();
        let mut busy = self.slots.iter().flatten().any(|slot| slot.gathered.is_under_way());
        let fetched = self.slots.iter().flatten().any(|slot| slot.gathered.is_everything());
        if recovery.compared.is_none() && !busy && (anything || fetched) {
            // The records that a follower sent before its connection broke count too.
            recovery.begin_comparing();
        }
        // A standby has a copy. Its comparison with the first follower takes the place of the records
        // that are the same.
        let copied = recovery.copy.as_ref().map(|copy| recovery.buckets.buckets_for(copy.len()));
        let (compared, seed) = (recovery.compared, recovery.seed);
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot else { continue };
            let wanted = slot.promised && slot.synced_epoch() == Some(source) && slot.link == Link::Promised;
            if !wanted || slot.gathered != Gathered::Nothing {
                continue;
            }
            if compared.is_none() && busy {
                return;
            }
            let message;
            (slot.gathered, message) = match compared.or(copied) {
                Some(buckets) => {
                    (Gathered::Comparing(Digest::new(buckets, seed)), ToFollower::compare(epoch, buckets, 0, RECOVERY))
                }
                None => (Gathered::Fetching(None), ToFollower::Fetch { epoch, cursor: 0, of: None }),
            };
            busy = true;
            self.out.push(Output::Send(SlotId(index as u8), message));
        }
    }

    /// Handles a part of the digest of a follower's records. Once the digest is complete, the
    /// leader fetches the buckets that differ from the merged records.
    pub(super) fn gather_digest(&mut self, id: SlotId, part: &Digest, next: Option<u64>) {
        let epoch = self.epoch;
        let Some(slot) = self.slots.get_mut(id.index()).and_then(Option::as_mut) else {
            return;
        };
        let Gathered::Comparing(theirs) = &mut slot.gathered else {
            return;
        };
        let buckets = theirs.buckets();
        theirs.join(part);
        let Phase::Recovering(recovery) = &mut self.phase else {
            return;
        };
        let first = recovery.compared.is_none();
        if let Some(copy) = recovery.copy.as_mut().filter(|_| first) {
            // A part for each part of theirs, so that no single step computes all of it.
            copy.digest_more(recovery.digested_keys);
        }
        if let Some(cursor) = next {
            let message = ToFollower::compare(epoch, buckets, cursor, RECOVERY);
            return self.out.push(Output::Send(id, message));
        }
        let differing = if first {
            recovery.merge_copy(theirs)
        } else {
            recovery.digest.as_ref().map(|ours| ours.differing(theirs))
        };
        let Some(differing) = differing else {
            return;
        };
        if differing.is_empty() {
            slot.gathered = Gathered::Everything;
            return self.recover();
        }
        slot.gathered = Gathered::Fetching(Some(differing.clone()));
        self.out.push(Output::Send(id, ToFollower::Fetch { epoch, cursor: 0, of: Some(differing) }));
    }

    pub(super) fn on_records(&mut self, id: SlotId, records: Vec<(Key, Record)>, next: Option<u64>) {
        let epoch = self.epoch;
        let Some(slot) = self.slots.get_mut(id.index()).and_then(Option::as_mut) else {
            return;
        };
        let Phase::Recovering(recovery) = &mut self.phase else {
            return;
        };
        let Gathered::Fetching(of) = &slot.gathered else {
            return;
        };
        if slot.synced_epoch() != recovery.source {
            return;
        }
        records.into_iter().for_each(|(key, record)| recovery.merge(key, record));
        match next {
            Some(cursor) => {
                let of = of.clone();
                self.out.push(Output::Send(id, ToFollower::Fetch { epoch, cursor, of }));
            }
            None => {
                slot.gathered = Gathered::Everything;
                self.recover();
            }
        }
    }

    /// Makes the merged records the state: sets their epoch to this one and installs them on all
    /// followers.
    fn begin_opening(&mut self, old: Option<Config>) {
        let Phase::Recovering(recovery) = std::mem::replace(&mut self.phase, Phase::Opening) else {
            return;
        };
        let epoch = self.epoch;
        self.recovered =
            recovery.digested(recovery.compared.unwrap_or_else(|| recovery.buckets.buckets_for(recovery.merged.len())));
        self.entries = recovery.merged;
        self.committed_keys = self.entries.len();
        self.entries.values_mut().for_each(|entry| entry.latest.version.epoch = epoch);

        let promised = self.mask_of(|slot| slot.promised);
        let found = self.synced_of(promised).map(|synced| (synced.epoch, synced.config.generation)).max();
        self.basis = if recovery.loss_accepted { (epoch, u64::MAX) } else { found.unwrap_or_default() };
        let members = self.opening_members(old.as_ref());
        let generation = self.each_slot().filter_map(|(_, slot)| slot.hello.as_ref()?.synced.as_ref());
        let generation = generation.map(|synced| synced.config.generation).max().unwrap_or(0) + 1;
        let LeaderSettings { quorum, size, .. } = self.settings;
        // No follower may store a quorum that is out of reach now. That quorum allows a recovery
        // with fewer promises, which could miss writes until enough followers have everything. The
        // leader changes to it later, once enough followers are present.
        let present = self.mask_of(|slot| slot.promised && slot.wanted).count();
        let quorum = match &old {
            Some(old) if present < usize::from(quorum) => old.quorum.min(size),
            _ => quorum,
        };
        self.rules.clear();
        // The rule of a new cluster has done its part: all members answered.
        for config in old.iter().flat_map(Config::binding).filter(|rule| !rule.is_founding()) {
            self.rules.push(Config { earlier: Vec::new(), ..config.clone() }, Stage::InForce);
        }
        if old.is_none() && !recovery.loss_accepted {
            // Blank followers prove a new cluster only if none of them received another leader's
            // state since.
            let quorum = members.len() as u16;
            let all = Config { quorum, ..Config::founding(size, members.clone()) };
            self.rules.push(all, Stage::InForce);
        }
        self.rules.push(Config { generation, quorum, size, members, earlier: Vec::new() }, Stage::Installing);
        self.rules.name_earlier();

        self.refresh_rules();
        let promised: Vec<SlotId> =
            self.each_slot().filter(|(_, slot)| slot.link == Link::Promised).map(|(id, _)| id).collect();
        promised.into_iter().for_each(|id| self.admit(id));
    }

    /// The members of the first rule. Each follower that promised has the disk that answered; the
    /// others have the disk that the old rule names.
    fn opening_members(&self, old: Option<&Config>) -> Vec<Member> {
        let known = |name: &str| old.and_then(|old| old.members.iter().find(|member| &*member.name == name));
        let mut members: Vec<Member> = self
            .each_slot()
            .filter(|(_, slot)| slot.wanted)
            .filter_map(|(_, slot)| {
                let id = match &slot.hello {
                    Some(hello) if slot.promised => hello.id,
                    _ => known(&slot.name)?.id,
                };
                Some(Member { name: slot.name.clone(), id })
            })
            .collect();
        self.add_absent(&mut members, old, self.settings.size);
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members.truncate(usize::from(self.settings.size));
        members
    }

    /// Whether this follower has a newer state than the one with which this leader opens. Another
    /// leader may have continued after the promises; if the disks that promised were lost, that
    /// leader never learned of them.
    pub(super) fn is_outdated_by(&self, id: SlotId) -> bool {
        let synced = self.slot(id).and_then(|slot| slot.hello.as_ref()?.synced.as_ref());
        synced.is_some_and(|synced| synced.epoch != self.epoch && (synced.epoch, synced.config.generation) > self.basis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::types::Version;

    // Goal: the digest that is updated with each merged record equals the digest of all records.
    // Method: below and above `digested_keys`, with records that replace earlier ones.
    #[test]
    fn the_digest_of_much_goes_along_with_it() {
        let mut recovery = Recovery::new(Epoch::default(), &Limits::default(), KeyMap::default());
        for number in 0..recovery.digested_keys + 1_000 {
            let record = |seq: usize| {
                let version = Version { epoch: Epoch { term: 1, leader: 1 }, seq: seq as u64 };
                Record { version, value: Some(format!("value {seq}").into()), marks: None }
            };
            recovery.merge(format!("key{number}").into(), record(number + 2));
            recovery.merge(format!("key{}", number / 2).into(), record(number + 3));
            recovery.merge(format!("key{}", number / 3).into(), record(1));
            assert_eq!(recovery.digest.is_some(), number + 1 >= recovery.digested_keys);
        }
        let buckets = recovery.buckets.buckets_for(recovery.merged.len());
        let mut all = Digest::new(buckets, recovery.seed);
        recovery.merged.iter().for_each(|(key, entry)| all.add(key, &entry.latest));
        assert_eq!(recovery.digested(buckets), all);
        recovery.begin_comparing();
        let latest = Record { version: Version::default(), ..recovery.merged.at(7).expect("there").1.latest.clone() };
        recovery.merge("another".into(), latest.clone());
        all.add("another", &latest);
        assert_eq!((recovery.compared, recovery.digest.clone()), (Some(buckets), Some(all)));
    }
}
