//! The rules that say which followers count and how many make a quorum, and how one rule replaces
//! another.
//!
//! From the proposal of a new rule on, the leader acknowledges a write only if it satisfies the old
//! and the new rule. Once enough members of the new rule have every write accepted before the
//! proposal, the leader stores the new rule on them, together with the old one. Once every recovery
//! under the old rule must find a follower that stores the new rule, the new rule replaces the old
//! one and the leader stores it alone. The epoch does not change: one leader installed all
//! followers of an epoch, so a recovery may merge any of them, and it uses the newest rules that it
//! finds.
//!
//! The rules are stored together because the new rule may be on one follower only. Another leader
//! may then have recovered, opened and acknowledged writes under the old rule without that
//! follower. A later recovery must not rely on the new rule's number of promises alone, which may
//! be smaller.

use std::collections::VecDeque;

use super::mask::Mask;
use super::slot::Slot;
use super::{Leader, Link, Output, Phase, SlotId};
use crate::protocol::messages::ToFollower;
use crate::protocol::types::{Config, FollowerId, Member};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No follower stores it yet. It waits until enough of its members confirmed every write below
    /// this index.
    Draining {
        until: u64,
    },
    /// Followers are storing it.
    Installing,
    InForce,
}

/// A rule, with what the leader knows about its members.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) config: Config,
    stage: Stage,
    /// Slots whose disk is a member.
    members: Mask,
    /// The members under whose names other disks answer, with the slots of these disks.
    replaced: Vec<(FollowerId, SlotId)>,
    /// The round of probes that the leader sent after it learned of the last such disk. A disk that
    /// has not answered it may be an older one than the member, on a connection that is dead.
    since_round: u64,
}

impl Rule {
    fn quorum(&self) -> usize {
        usize::from(self.config.quorum)
    }
}

/// The rule in force, then the rules that are to replace it. All of them bind.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules(VecDeque<Rule>);

impl Rules {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn push(&mut self, config: Config, stage: Stage) {
        let members = Mask::default();
        self.0.push_back(Rule { config, stage, members, replaced: Vec::new(), since_round: 0 });
    }

    /// Whether these followers are a quorum under every rule.
    pub(super) fn satisfied(&self, by: Mask) -> bool {
        self.0.iter().all(|rule| (by & rule.members).count() >= rule.quorum()) && !self.0.is_empty()
    }

    /// The quorum that an acknowledgement has to satisfy now.
    pub(super) fn quorum(&self) -> u16 {
        self.0.iter().map(|rule| rule.config.quorum).max().unwrap_or(0)
    }

    /// The newest rule that followers may store.
    pub(super) fn stored_config(&self) -> Option<&Config> {
        self.0.iter().rev().find(|rule| !matches!(rule.stage, Stage::Draining { .. })).map(|rule| &rule.config)
    }

    pub(super) fn in_force(&self) -> Option<&Config> {
        self.0.front().filter(|rule| rule.stage == Stage::InForce).map(|rule| &rule.config)
    }

    pub(super) fn newest(&self) -> Option<&Config> {
        self.0.back().map(|rule| &rule.config)
    }

    pub(super) fn changing(&self) -> bool {
        self.0.iter().any(|rule| rule.stage != Stage::InForce)
    }

    /// Records in the newest rule which earlier rules bind beside it.
    pub(super) fn name_earlier(&mut self) {
        let Some((newest, before)) = self.0.make_contiguous().split_last_mut() else { return };
        let mut earlier: Vec<Config> = Vec::new();
        for Rule { config, .. } in before {
            if config.is_founding() {
                // All members have to store the state before it counts. Until they do, a recovery
                // has to ask all of them: another leader may open with those that are missing.
                earlier.push(Config::founding(config.size, config.members.clone()));
            } else if !config.same_rule(&newest.config) && !earlier.iter().any(|known| known.same_rule(config)) {
                earlier.push(Config { earlier: Vec::new(), ..config.clone() });
            }
        }
        newest.config.earlier = earlier;
    }

    /// Whether any rule names this follower.
    pub(super) fn name(&self, name: &str) -> bool {
        self.0.iter().any(|rule| rule.config.members.iter().any(|member| &*member.name == name))
    }

    pub(super) fn involves(&self, slot: SlotId) -> bool {
        self.0.iter().any(|rule| rule.members.contains(slot))
    }
}

impl<W, R> Leader<W, R> {
    /// Recomputes the members of each rule after a slot got another disk or a rule was added.
    pub(super) fn refresh_rules(&mut self) {
        let mut rules = std::mem::take(&mut self.rules);
        let next_round = self.reads.next_round();
        let mut asks = false;
        for rule in &mut rules.0 {
            rule.members = self.mask_of(|slot| slot.bound.is_some_and(|id| rule.config.contains(id)));
            let members = rule.config.members.iter();
            let replaced = members.filter_map(|member| Some((member.id, self.replacement(member)?)));
            let replaced: Vec<(FollowerId, SlotId)> = replaced.collect();
            if replaced.iter().any(|known| !rule.replaced.contains(known)) {
                rule.since_round = next_round;
                asks |= rule.config.members.len() - replaced.len() < rule.quorum();
            }
            rule.replaced = replaced;
        }
        self.rules = rules;
        if asks {
            self.ask_round();
        }
    }

    /// The slot in which another disk is bound to the name of this member.
    fn replacement(&self, member: &Member) -> Option<SlotId> {
        if self.each_slot().any(|(_, slot)| slot.bound == Some(member.id)) {
            return None;
        }
        let replaced = |slot: &Slot| slot.name == member.name && slot.bound.is_some_and(|bound| bound != member.id);
        self.each_slot().find(|(_, slot)| replaced(slot)).map(|(id, _)| id)
    }

    /// Whether every recovery under this rule finds what these followers store: W members do. If
    /// fewer than W members still have their disks, all of those do, and at least one. At least one,
    /// because a leader that was replaced long ago and finds only new disks must not take these for
    /// its members.
    fn is_covered(&self, rule: &Rule, stored: Mask) -> bool {
        let stored = stored & rule.members;
        if stored.count() >= rule.quorum() {
            return true;
        }
        // Another leader may have recovered from a lost disk alone, and the other members may have
        // promised its epoch since they last answered this one.
        let answered = self.mask_of(|slot| slot.probed >= rule.since_round);
        let lost = rule.replaced.iter().filter(|(_, slot)| answered.contains(*slot)).count();
        let left = rule.config.members.len() - lost;
        left < rule.quorum() && (stored & answered).count() >= left.max(1)
    }

    /// Proposes the rule that the settings ask for, if enough of its members are up to date.
    pub(super) fn plan(&mut self) {
        if !matches!(self.phase, Phase::Opening | Phase::Open) {
            return;
        }
        self.refresh_rules();
        let Some(last) = self.rules.newest().cloned() else {
            return;
        };
        let generation = last.generation + 1;
        let wanted = Config {
            generation,
            quorum: self.settings.quorum,
            size: self.settings.size,
            members: self.present_members(&last, self.settings.size, true),
            earlier: Vec::new(),
        };
        // If that quorum is out of reach for now, this rule at least makes replacement disks count.
        let same_quorum = Config {
            generation,
            quorum: last.quorum,
            size: last.size,
            members: self.present_members(&last, last.size, false),
            earlier: Vec::new(),
        };
        for config in [wanted, same_quorum] {
            if config.same_rule(&last) {
                break;
            }
            if self.streaming_members(&config) >= usize::from(config.quorum) {
                self.propose(config);
                break;
            }
        }
        self.advance();
        self.release();
    }

    /// The members of the next rule. Each has the disk that streams now, or else the disk that the
    /// last rule names.
    fn present_members(&self, last: &Config, size: u16, only_wanted: bool) -> Vec<Member> {
        let known = |name: &str| last.members.iter().find(|member| &*member.name == name);
        let mut members: Vec<Member> = self
            .each_slot()
            .filter(|(_, slot)| if only_wanted { slot.wanted } else { slot.wanted || known(&slot.name).is_some() })
            .filter_map(|(_, slot)| {
                let present = slot.bound.filter(|_| slot.link == Link::Streaming);
                let id = present.or_else(|| known(&slot.name).map(|member| member.id))?;
                Some(Member { name: slot.name.clone(), id })
            })
            .collect();
        // Known members come first, so that a new follower never displaces one.
        members
            .sort_by(|a, b| known(&b.name).is_some().cmp(&known(&a.name).is_some()).then_with(|| a.name.cmp(&b.name)));
        self.add_absent(&mut members, Some(last), size);
        members.truncate(usize::from(size));
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }

    /// Adds the members of an earlier rule that have no slot, up to `size`. With DNS discovery this
    /// leader may not have found them yet. If they did not count, two leaders could each form a
    /// quorum of the followers that they found first.
    pub(super) fn add_absent(&self, members: &mut Vec<Member>, earlier: Option<&Config>, size: u16) {
        let room = usize::from(size).saturating_sub(members.len());
        let absent = earlier.into_iter().flat_map(|earlier| &earlier.members);
        let absent = absent.filter(|member| self.each_slot().all(|(_, slot)| slot.name != member.name));
        // An earlier leader may have known the same disk by another name.
        let absent = absent.filter(|member| members.iter().all(|known| known.id != member.id));
        let absent: Vec<Member> = absent.take(room).cloned().collect();
        members.extend(absent);
    }

    fn streaming_members(&self, config: &Config) -> usize {
        self.mask_of(|slot| slot.link == Link::Streaming && slot.bound.is_some_and(|id| config.contains(id))).count()
    }

    fn propose(&mut self, config: Config) {
        // No follower stores a draining proposal yet, so the newer one replaces it.
        if let Some(Stage::Draining { .. }) = self.rules.0.back().map(|rule| rule.stage) {
            self.rules.0.pop_back();
        }
        let fewer = self.rules.newest().is_some_and(|last| {
            config.quorum <= last.quorum && config.size == last.size && config.members == last.members
        });
        // With the same members and no higher quorum, enough of them already have every
        // acknowledged write.
        let until = if fewer { 0 } else { self.window.next_index() };
        self.rules.push(config, Stage::Draining { until });
        self.refresh_rules();
    }

    /// Moves the newest rule to the next stages whose conditions are met.
    pub(super) fn advance(&mut self) {
        self.admit_waiting();
        let Some(newest) = self.rules.0.back() else {
            return;
        };
        if let Stage::Draining { until } = newest.stage {
            let has_all = self.mask_of(|slot| slot.progress.complete && slot.progress.watermark >= until);
            if (has_all & newest.members).count() < newest.quorum() {
                return;
            }
            if let Some(newest) = self.rules.0.back_mut() {
                newest.stage = Stage::Installing;
            }
            self.rules.name_earlier();
            self.configure_all();
        }
        self.complete_rule();
        self.report_sole_rule();
    }

    /// Reports once for each rule that only this rule binds.
    fn report_sole_rule(&mut self) {
        let generation = self.rules.in_force().map_or(0, |config| config.generation);
        if self.reported_sole_rule < generation && self.only_rule_binds() {
            self.reported_sole_rule = generation;
            self.out.push(Output::InForce);
        }
    }

    fn complete_rule(&mut self) {
        let Some(newest) = self.rules.0.back().filter(|rule| rule.stage == Stage::Installing) else {
            return;
        };
        let generation = newest.config.generation;
        let stored = self.mask_of(|slot| slot.progress.complete && slot.progress.generation >= generation);
        let covered = self.rules.0.iter().rev().skip(1).all(|rule| self.is_covered(rule, stored));
        if !covered || (stored & newest.members).count() < newest.quorum() {
            return;
        }
        let last = self.rules.0.len() - 1;
        self.rules.0.drain(..last);
        if let Some(rule) = self.rules.0.back_mut() {
            rule.stage = Stage::InForce;
            if !rule.config.earlier.is_empty() {
                // From here on only this rule binds. Followers store that as a generation of its
                // own.
                rule.config.earlier.clear();
                rule.config.generation += 1;
            }
        }
        self.configure_all();
        self.out.push(Output::InForce);
        if matches!(self.phase, Phase::Opening) {
            self.phase = Phase::Open;
            self.restoring = self.restore_refusal().is_some();
            self.out.push(Output::Opened);
            self.plan();
        } else {
            self.commit_satisfied();
            self.release();
        }
    }

    /// While opening: whether this disk may receive the state yet. The members of the old rules
    /// come first. If the opening failed after new disks had the state, a recovery would take that
    /// state for the newest, although the old members may have continued under another leader.
    pub(super) fn may_enter(&self, disk: FollowerId) -> bool {
        let stored = self.mask_of(|slot| slot.progress.complete);
        let mut old = self.rules.0.iter().filter(|rule| rule.stage == Stage::InForce);
        !matches!(self.phase, Phase::Opening)
            || old.clone().any(|rule| rule.config.contains(disk))
            || old.all(|rule| self.is_covered(rule, stored))
    }

    /// While opening: admits the followers that had to wait.
    fn admit_waiting(&mut self) {
        for index in 0..self.slots.len() {
            let id = SlotId(index as u8);
            let waiting = self.slot(id).filter(|slot| slot.link == Link::Promised);
            let disk = waiting.and_then(|slot| slot.bound);
            if matches!(self.phase, Phase::Opening) && disk.is_some_and(|disk| self.may_enter(disk)) {
                self.admit(id);
            }
        }
    }

    /// Drops all rules but the newest, which alone binds from here on.
    pub(super) fn drop_earlier_rules(&mut self) {
        let Some(mut newest) = self.rules.0.pop_back() else { return };
        newest.config.generation += 1;
        newest.config.earlier.clear();
        newest.stage = Stage::Installing;
        self.rules.clear();
        self.rules.0.push_back(newest);
        self.configure_all();
        self.advance();
    }

    fn configure_all(&mut self) {
        (0..self.slots.len()).for_each(|index| self.configure(SlotId(index as u8)));
    }

    /// Sends the newest rule that may be stored to a follower that has the state and an older rule.
    pub(super) fn configure(&mut self, id: SlotId) {
        let epoch = self.epoch;
        let Some(config) = self.rules.stored_config().cloned() else {
            return;
        };
        if self
            .slot(id)
            .is_some_and(|slot| slot.link == Link::Streaming && slot.progress.generation < config.generation)
        {
            self.out.push(Output::Send(id, ToFollower::Configure { epoch, config }));
        }
    }

    /// Whether one rule alone is in force, stored on so many followers that no recovery uses an
    /// earlier one.
    pub(super) fn only_rule_binds(&self) -> bool {
        let Some(rule) = self.rules.0.front().filter(|rule| rule.stage == Stage::InForce) else { return false };
        let stored = self.mask_of(|slot| slot.progress.complete && slot.progress.generation >= rule.config.generation);
        self.rules.0.len() == 1 && (stored & rule.members).count() >= rule.quorum()
    }

    /// Releases the followers that are not declared and that no rule needs.
    pub(super) fn release(&mut self) {
        if !self.only_rule_binds() {
            return;
        }
        for index in 0..self.slots.len() {
            let id = SlotId(index as u8);
            if self.slot(id).is_some_and(|slot| !slot.wanted) && !self.named_in_a_rule(id) {
                self.window.iter_mut().for_each(|pending| {
                    pending.confirmed.remove(id);
                    pending.due.remove(id);
                });
                self.slots[index] = None;
                self.out.push(Output::Released(id));
            }
        }
        self.trim();
    }

    fn named_in_a_rule(&self, id: SlotId) -> bool {
        let Some(slot) = self.slot(id) else {
            return false;
        };
        self.rules.involves(id) || self.rules.name(&slot.name)
    }
}
