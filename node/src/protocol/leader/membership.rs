//! Who counts, and how many of them: the rules in force and on their way, and how one replaces another.
//!
//! The safe order. From the moment a new rule is proposed, a write is acknowledged only if the old and the new rule are
//! both satisfied. Once enough of the new rule's members have everything accepted before that moment, the new rule is
//! stored on them, together with the old one; once every recovery under the old rule must meet a follower that stores it,
//! it replaces the old one and is stored alone. Epochs need not change for this: all followers of one epoch were installed
//! by the same leader, so that merging any of them is right, and a recovery takes the newest rules it finds.
//!
//! Why together: as long as the new rule may be on one follower only, another leader may have recovered, opened and
//! acknowledged by the old rule without meeting that follower. A recovery that starts there must not do with the new
//! rule's number of promises, which may be smaller.

use std::collections::VecDeque;

use super::mask::Mask;
use super::{Leader, Link, Output, Phase, SlotId};
use crate::protocol::types::{Config, FollowerId, Member, ToFollower};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nobody stores it yet: it waits until enough of its members confirmed everything below this index.
    Draining {
        until: u64,
    },
    /// It is being stored.
    Installing,
    InForce,
}

/// One rule, with what the leader knows about its members.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) config: Config,
    stage: Stage,
    /// Slots whose disk is a member.
    members: Mask,
    /// How many members must store a successor so that no recovery under this rule can miss it: W. Where so many lost
    /// their disks (other ones fill their places) that fewer are left, all that are left, and at least one: a leader
    /// that was replaced long ago and finds nothing but new disks must not take them for its own.
    cover: usize,
}

impl Rule {
    fn quorum(&self) -> usize {
        usize::from(self.config.quorum)
    }
}

/// The rule in force first, then those on their way. All of them bind.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules(VecDeque<Rule>);

impl Rules {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn push(&mut self, config: Config, stage: Stage) {
        self.0.push_back(Rule { config, stage, members: Mask::default(), cover: 0 });
    }

    /// Whether these followers are a quorum, under every rule.
    pub(super) fn satisfied(&self, by: Mask) -> bool {
        self.0.iter().all(|rule| (by & rule.members).count() >= rule.quorum()) && !self.0.is_empty()
    }

    /// The quorum that an acknowledgement has to satisfy now.
    pub(super) fn quorum(&self) -> u16 {
        self.0.iter().map(|rule| rule.config.quorum).max().unwrap_or(0)
    }

    /// The newest rule that followers may store already.
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

    /// Writes into the newest rule which others bind beside it.
    pub(super) fn name_earlier(&mut self) {
        let Some((newest, before)) = self.0.make_contiguous().split_last_mut() else { return };
        let mut earlier: Vec<Config> = Vec::new();
        for Rule { config, .. } in before {
            if !config.same_rule(&newest.config) && !earlier.iter().any(|known| known.same_rule(config)) {
                earlier.push(Config { earlier: Vec::new(), ..config.clone() });
            }
        }
        newest.config.earlier = earlier;
    }

    /// Whether any of them names this follower.
    pub(super) fn name(&self, name: &str) -> bool {
        self.0.iter().any(|rule| rule.config.members.iter().any(|member| &*member.name == name))
    }

    pub(super) fn involves(&self, slot: SlotId) -> bool {
        self.0.iter().any(|rule| rule.members.contains(slot))
    }
}

impl<W, R> Leader<W, R> {
    /// Recomputes who the members are after a slot got another disk, or a rule was added.
    pub(super) fn refresh_rules(&mut self) {
        let mut rules = std::mem::take(&mut self.rules);
        for rule in &mut rules.0 {
            let Config { quorum, members, .. } = &rule.config;
            rule.members = self.mask_of(|slot| slot.bound.is_some_and(|id| rule.config.contains(id)));
            let lost = members.iter().filter(|member| {
                self.each_slot()
                    .any(|(_, slot)| slot.name == member.name && slot.bound.is_some_and(|bound| bound != member.id))
            });
            rule.cover = usize::from(*quorum).min(members.len().saturating_sub(lost.count())).max(1);
        }
        self.rules = rules;
    }

    /// Proposes what is wanted, as far as it can be had now.
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
        // Where the wanted quorum is out of reach for now, at least the disks that replaced others begin to count.
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

    /// The members of a next rule: by the disk that has the state now, else by the one that the last rule names.
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
        // Known members first, so that a newcomer takes nobody's place.
        members
            .sort_by(|a, b| known(&b.name).is_some().cmp(&known(&a.name).is_some()).then_with(|| a.name.cmp(&b.name)));
        self.add_absent(&mut members, Some(last), size);
        members.truncate(usize::from(size));
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }

    /// Adds, as far as there is room, the members of an earlier rule that have no slot: under DNS discovery this leader
    /// has not met them yet. They are members all the same, or each leader would do with those that it met first.
    pub(super) fn add_absent(&self, members: &mut Vec<Member>, earlier: Option<&Config>, size: u16) {
        let room = usize::from(size).saturating_sub(members.len());
        let absent = earlier.into_iter().flat_map(|earlier| &earlier.members);
        let absent = absent.filter(|member| self.each_slot().all(|(_, slot)| slot.name != member.name));
        let absent: Vec<Member> = absent.take(room).cloned().collect();
        members.extend(absent);
    }

    fn streaming_members(&self, config: &Config) -> usize {
        self.mask_of(|slot| slot.link == Link::Streaming && slot.bound.is_some_and(|id| config.contains(id))).count()
    }

    fn propose(&mut self, config: Config) {
        // A proposal that nobody stores yet binds nobody: the newer one takes its place.
        if let Some(Stage::Draining { .. }) = self.rules.0.back().map(|rule| rule.stage) {
            self.rules.0.pop_back();
        }
        let fewer = self.rules.newest().is_some_and(|last| {
            config.quorum <= last.quorum && config.size == last.size && config.members == last.members
        });
        // Under a lower quorum of the same members, everything acknowledged is on enough of them already.
        let until = if fewer { 0 } else { self.window.next_index() };
        self.rules.push(config, Stage::Draining { until });
        self.refresh_rules();
    }

    /// Moves the newest rule on as far as it goes.
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
        self.tell_alone();
    }

    /// Tells once of each rule that it stands alone.
    fn tell_alone(&mut self) {
        let generation = self.rules.in_force().map_or(0, |config| config.generation);
        if self.told_alone < generation && self.stands_alone() {
            self.told_alone = generation;
            self.out.push(Output::InForce);
        }
    }

    fn complete_rule(&mut self) {
        let Some(newest) = self.rules.0.back().filter(|rule| rule.stage == Stage::Installing) else {
            return;
        };
        let generation = newest.config.generation;
        let stored = self.mask_of(|slot| slot.progress.complete && slot.progress.generation >= generation);
        let covered = self.rules.0.iter().rev().skip(1).all(|rule| (stored & rule.members).count() >= rule.cover);
        if !covered || (stored & newest.members).count() < newest.quorum() {
            return;
        }
        let last = self.rules.0.len() - 1;
        self.rules.0.drain(..last);
        if let Some(rule) = self.rules.0.back_mut() {
            rule.stage = Stage::InForce;
            if !rule.config.earlier.is_empty() {
                // From here on it stands alone: a step of its own for those who store it.
                rule.config.earlier.clear();
                rule.config.generation += 1;
            }
        }
        self.configure_all();
        self.out.push(Output::InForce);
        if matches!(self.phase, Phase::Opening) {
            self.phase = Phase::Open;
            self.restoring = self.unfinished_restore().is_some();
            self.out.push(Output::Opened);
            self.plan();
        } else {
            self.commit_satisfied();
            self.release();
        }
    }

    /// While opening: whether this disk may take over the state yet. The members of the rules that the promises went by
    /// come first. Had new disks the state of an opening that failed, it would pass for the newest one, though those
    /// members may have gone on under another leader.
    pub(super) fn may_enter(&self, disk: FollowerId) -> bool {
        let stored = self.mask_of(|slot| slot.progress.complete);
        let mut old = self.rules.0.iter().filter(|rule| rule.stage == Stage::InForce);
        !matches!(self.phase, Phase::Opening)
            || old.clone().any(|rule| rule.config.contains(disk))
            || old.all(|rule| (stored & rule.members).count() >= rule.cover)
    }

    /// While opening: takes in those that had to wait.
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

    /// From here on only the newest rule binds.
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

    /// Gives the newest rule that may be stored to a follower that has the state and an older rule.
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

    /// Whether one rule is in force and stands alone on so many followers that no recovery goes by an earlier one.
    pub(super) fn stands_alone(&self) -> bool {
        let Some(rule) = self.rules.0.front().filter(|rule| rule.stage == Stage::InForce) else { return false };
        let stored = self.mask_of(|slot| slot.progress.complete && slot.progress.generation >= rule.config.generation);
        self.rules.0.len() == 1 && (stored & rule.members).count() >= rule.quorum()
    }

    /// Lets go of followers that are not wanted and that no rule needs any more.
    pub(super) fn release(&mut self) {
        if !self.stands_alone() {
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
