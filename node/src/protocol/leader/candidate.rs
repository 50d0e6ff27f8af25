//! Candidates: when a leader process that does not lead may ask for promises.
//!
//! A promise fences the leader that had it before. So a candidate asks only when no leader can
//! commit: N − W + 1 members, under every rule that binds, hear no leader. A leader that so many do
//! not hear has at most W − 1 followers left. Safety does not depend on this: the promises fence.

use std::sync::Arc;

use rand::RngExt;

use super::mask::Mask;
use super::slot::{Link, Slot};
use super::{Leader, Output, Phase, SlotId};
use crate::protocol::messages::{Hello, ToFollower};
use crate::protocol::types::{Epoch, Synced};

/// After so many interruptions the wait of a candidate grows no further.
const INTERRUPTIONS_MAX: u32 = 6;

/// What a candidate learned of the leader of one follower, from answers on one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Silence {
    /// How many answers in a row reported the same count of heard messages, after the first one.
    rounds: u32,
    /// Whether a question is unanswered. One at a time: a follower that was paused answers all that
    /// waited at once, perhaps before it reads what its leader sent meanwhile.
    pub(super) asked: bool,
    /// Whether the question is, or the last answer was, one after this candidate decided to ask for
    /// promises.
    last: bool,
}

/// The state of a candidate.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidacy {
    /// Ticks until it asks for promises, if followers hear no leader until then. Random, so that one of
    /// several candidates asks first.
    wait: Option<u32>,
}

/// How often other candidates interrupted this one since a leader last installed a state.
#[derive(Clone, Debug, Default)]
pub(super) struct Rivalry {
    /// The newest epoch whose state a follower has.
    newest: Option<Epoch>,
    interruptions: u32,
}

impl Rivalry {
    fn interrupted(&mut self, newest: Option<Epoch>) {
        if newest > self.newest {
            *self = Self { newest, interruptions: 0 };
        }
        self.interruptions += 1;
    }

    /// The longest random wait, in ticks. It doubles with each interruption: if recovery takes longer than
    /// the silence that followers report, many candidates would interrupt each other for ever.
    fn wait_max(&self, takeover_rounds: u32) -> u32 {
        match self.interruptions {
            0 => takeover_rounds / 2,
            times => (takeover_rounds / 2).max(1) << times.min(INTERRUPTIONS_MAX),
        }
    }
}

/// What a leader process that asks for no promises knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateView {
    /// The URL of a leader that followers hear.
    pub leader: Option<Arc<str>>,
    /// How many followers answered.
    pub answered: usize,
    /// How many of them hear a leader.
    pub hearing: usize,
    /// How many keys its copy of a follower's state has.
    pub copied_keys: usize,
    /// Whether the copy contained the whole state at some moment.
    pub copied: bool,
}

impl<W, R> Leader<W, R> {
    /// What this process knows while it asks for no promises; `None` in any other phase.
    pub fn candidate(&self) -> Option<CandidateView> {
        self.is_candidate().then(|| {
            let answered = self.mask_of(|slot| slot.link != Link::Down).count();
            CandidateView {
                leader: self.heard_leader(),
                answered,
                hearing: self.hearing().count(),
                copied_keys: self.copy.records.len(),
                copied: self.copy.is_complete(),
            }
        })
    }

    /// Whether this process waits until no other leader can commit.
    pub(super) fn is_candidate(&self) -> bool {
        self.settings.limits.takeover_rounds > 0 && matches!(self.phase, Phase::Waiting(_))
    }

    /// The URL of the leader that followers hear, while this process is a candidate. Of two, it is
    /// the one with the higher epoch.
    pub(super) fn heard_leader(&self) -> Option<Arc<str>> {
        if !self.is_candidate() {
            return None;
        }
        let hearing = self.hearing();
        let heard = self.each_slot().filter(|(id, _)| hearing.contains(*id));
        let heard = heard.filter_map(|(_, slot)| slot.hello.as_ref()).filter(|hello| hello.leader.is_some());
        heard.max_by_key(|hello| hello.promised)?.leader.clone()
    }

    /// The followers that hear a leader.
    fn hearing(&self) -> Mask {
        self.mask_of(|slot| slot.link != Link::Down && !self.is_silent(slot))
    }

    /// A tick of a candidate: it asks for promises, or asks every follower what it hears.
    pub(super) fn tick_candidate(&mut self) {
        let rounds = self.settings.limits.takeover_rounds;
        if rounds == 0 {
            return;
        }
        let lost = self.is_leaderless(|leader, slot| leader.is_silent(slot));
        let drawn = self.candidate_rng.random_range(0..=self.rivalry.wait_max(rounds));
        let Phase::Waiting(candidacy) = &mut self.phase else { return };
        candidacy.wait = match candidacy.wait {
            _ if !lost => None,
            None => Some(drawn),
            Some(ticks) => Some(ticks.saturating_sub(1)),
        };
        // It asks once more before it asks for promises. Another candidate may have been quicker.
        let last = candidacy.wait == Some(0);
        self.ask_each(last, |slot| slot.link == Link::Greeted);
        self.tick_copy();
    }

    /// Asks these followers what they hear, one question at a time.
    pub(super) fn ask_each(&mut self, last: bool, among: impl Fn(&Slot) -> bool) {
        for index in 0..self.slots.len() {
            let id = SlotId(index as u8);
            if let Some(slot) = self.slot_mut(id).filter(|slot| among(slot) && !slot.silence.asked) {
                (slot.silence.asked, slot.silence.last) = (true, last);
                self.out.push(Output::Send(id, ToFollower::Greet));
            }
        }
    }

    /// A follower answered [`ToFollower::Greet`].
    pub(super) fn on_greeted(&mut self, id: SlotId, hello: Hello) {
        match self.phase {
            Phase::Waiting(_) => {}
            Phase::Fenced(_) | Phase::Resigned => return self.on_greeted_after_end(id, hello),
            Phase::Recovering(_) if hello.promised > self.epoch => return self.on_other_epoch(hello.promised, true),
            _ => return,
        }
        let Some(slot) = self.slot_mut(id) else { return };
        slot.silence.asked = false;
        let Some(known) = slot.hello.as_ref().filter(|known| known.id == hello.id) else { return };
        let same = (known.heard, known.promised) == (hello.heard, hello.promised);
        slot.silence.rounds = if same { slot.silence.rounds.saturating_add(1) } else { 0 };
        let promised = hello.promised;
        slot.hello = Some(hello);
        self.outdo(promised);
        let Phase::Waiting(candidacy) = &self.phase else { return };
        let answered = |slot: &Slot| slot.silence.last && !slot.silence.asked;
        if candidacy.wait == Some(0) && self.is_leaderless(|leader, slot| answered(slot) && leader.is_silent(slot)) {
            self.elect();
        }
        self.elect_if_none_leads();
    }

    /// Asks for promises without a wait if enough followers report that no process leads.
    pub(super) fn elect_if_none_leads(&mut self) {
        if self.is_candidate() && self.is_leaderless(|_, slot| slot.knows_of_no_leader()) {
            self.elect();
        }
    }

    /// Whether so many followers are without a leader that no leader can commit.
    fn is_leaderless(&self, without: impl Fn(&Self, &Slot) -> bool) -> bool {
        let said = self.mask_of(|slot| slot.link != Link::Down && slot.hello.is_some());
        let without = self.mask_of(|slot| slot.link != Link::Down && without(self, slot));
        match self.highest_synced_of(said) {
            Some(Synced { config, .. }) => {
                config.binding().all(|rule| (self.members(rule) & without).count() >= rule.recovery_size())
            }
            // Blank followers prove nothing about a leader that others obey, so all have to answer.
            None => {
                let wanted = self.mask_of(|slot| slot.wanted);
                self.each_slot().all(|(id, _)| without.contains(id))
                    && (wanted & without).count() >= usize::from(self.settings.size)
            }
        }
    }

    /// Another candidate interrupted this one.
    pub(super) fn on_interruption(&mut self) {
        let hellos = self.each_slot().filter_map(|(_, slot)| slot.hello.as_ref());
        let newest = hellos.filter_map(|hello| Some(hello.synced.as_ref()?.epoch)).max();
        self.rivalry.interrupted(newest);
    }

    /// Whether recovery gets no further. Without candidates no other process would try.
    pub(super) fn is_stalled(&self) -> bool {
        let rounds = self.settings.limits.takeover_rounds;
        rounds > 0 && self.stalled_ticks > rounds
    }

    pub(super) fn is_silent(&self, slot: &Slot) -> bool {
        slot.knows_of_no_leader() || slot.silence.rounds >= self.settings.limits.takeover_rounds
    }
}
