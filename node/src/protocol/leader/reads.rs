//! Linearizable reads. A leader answers a read only after W followers confirmed, after the read
//! arrived, that they promised no higher epoch. Reads share rounds of this question; at most one
//! round is under way. A refused write is a read too, of the record that refused it.

use std::collections::BTreeMap;

use super::mask::Mask;
use super::slot::Slot;
use super::view::CutOff;
use super::writes::Refusal;
use super::{Leader, Limits, Link, Output, Phase, SlotId};
use crate::protocol::messages::ToFollower;
use crate::protocol::types::Record;

/// A client that waits until this leader knows that it still leads.
#[derive(Clone, Debug)]
pub(super) enum Reader<W, R> {
    Read(R),
    /// A refused write, and the record that refused it.
    Unmet(Box<(W, Option<Record>)>),
}

#[derive(Clone, Debug)]
pub(super) struct Reads<W, R> {
    /// Number of the last round sent.
    round: u64,
    /// The reads of the round under way, and its number. The leader sent it after all of them
    /// arrived.
    asking: Option<(u64, Vec<Reader<W, R>>)>,
    /// Reads that arrived while a round was under way. The next round serves them.
    waiting: Vec<Reader<W, R>>,
    /// Reads of records that are not committed yet, by the index of the write.
    uncommitted: BTreeMap<u64, Vec<Reader<W, R>>>,
    /// How many reads `uncommitted` contains.
    uncommitted_reads: usize,
    /// The oldest heartbeat that fewer than W followers answered: its round, and when it was sent,
    /// in microseconds.
    beat: Option<(u64, u64)>,
    /// When the last heartbeat that W followers answered was sent. No other leader had opened by
    /// then.
    led_us: u64,
}

impl<W, R> Default for Reads<W, R> {
    fn default() -> Self {
        Self {
            round: 0,
            asking: None,
            waiting: Vec::new(),
            uncommitted: BTreeMap::new(),
            uncommitted_reads: 0,
            beat: None,
            led_us: 0,
        }
    }
}

impl<W, R> Reads<W, R> {
    /// How many reads wait.
    fn len(&self) -> usize {
        let asking = self.asking.as_ref().map_or(0, |(_, readers)| readers.len());
        self.waiting.len() + asking + self.uncommitted_reads
    }

    /// The number of the next round.
    pub(super) fn next_round(&self) -> u64 {
        self.round + 1
    }

    pub(super) fn retain(&mut self, mut stays: impl FnMut(&Reader<W, R>) -> bool) {
        self.waiting.retain(&mut stays);
        if let Some((_, readers)) = &mut self.asking {
            readers.retain(&mut stays);
        }
        self.uncommitted.retain(|_, readers| {
            readers.retain(&mut stays);
            !readers.is_empty()
        });
        self.uncommitted_reads = self.uncommitted.values().map(Vec::len).sum();
    }

    /// When the oldest heartbeat that fewer than W followers answered was sent, in microseconds.
    fn unanswered_since_us(&self) -> Option<u64> {
        self.beat.map(|(_, sent_us)| sent_us)
    }
}

impl<W, R> Leader<W, R> {
    /// Asks the followers whether this leader still leads. The answer is [`Output::ReadConfirmed`]
    /// or [`Output::ReadRefused`].
    ///
    /// # Errors
    /// [`Refusal`] if this leader is not open, is cut off, has an unfinished restore, or too many
    /// reads wait.
    pub fn read(&mut self, waiter: R) -> Result<(), Refusal> {
        self.client_refusal()?;
        self.enter_reader(Reader::Read(waiter), None)
    }

    /// Accepts a reader. `after` is the index of the write that it reads, if that is not committed:
    /// the round that answers the reader begins after the commit.
    ///
    /// # Errors
    /// [`Refusal`] if too many reads wait.
    pub(super) fn enter_reader(&mut self, reader: Reader<W, R>, after: Option<u64>) -> Result<(), Refusal> {
        let (reads, limit) = (self.reads.len(), self.settings.limits.reads_waiting);
        if reads >= limit {
            return Err(Refusal::OverloadedReads { reads, limit });
        }
        match after {
            Some(index) => {
                self.reads.uncommitted.entry(index).or_default().push(reader);
                self.reads.uncommitted_reads += 1;
            }
            None => self.ask_for([reader]),
        }
        Ok(())
    }

    /// The write with this index is committed: its readers take part in the next round.
    pub(super) fn release_readers(&mut self, index: u64) {
        if let Some(readers) = self.reads.uncommitted.remove(&index) {
            self.reads.uncommitted_reads -= readers.len();
            self.ask_for(readers);
        }
    }

    fn ask_for(&mut self, readers: impl IntoIterator<Item = Reader<W, R>>) {
        self.reads.waiting.extend(readers);
        if self.reads.asking.is_none() {
            self.ask_next();
        }
    }

    /// The newest committed record of a key. After [`Output::ReadConfirmed`] this is the linearizable answer.
    pub fn committed(&self, key: &str) -> Option<&Record> {
        self.entries.get(key)?.committed()
    }

    /// Heartbeat: reports its lag to every connected follower, and repeats questions that may be
    /// lost.
    pub fn tick(&mut self, now_us: u64) {
        match self.phase {
            Phase::Waiting(_) => self.tick_candidate(),
            // Followers count the repetition below as a leader that is heard. One that gets no
            // further lets another candidate try, and asks whether one did.
            Phase::Recovering(_) if self.is_stalled() => {
                self.send_each(|slot| matches!(slot.link, Link::Greeted | Link::Promised), || ToFollower::Greet);
            }
            Phase::Recovering(_) | Phase::Opening => {
                self.stalled_ticks = self.stalled_ticks.saturating_add(1);
                self.ask_for_promises();
            }
            Phase::Fenced(_) | Phase::Resigned => self.tick_ended(),
            Phase::Open => {}
        }
        if !matches!(self.phase, Phase::Opening | Phase::Open) {
            return;
        }
        self.reads.round += 1;
        if let Some((round, sent_us)) = self.reads.beat
            && self.rules.satisfied(self.mask_of(|slot| slot.link == Link::Streaming && slot.probed >= round))
        {
            self.reads.led_us = sent_us;
            self.reads.beat = None;
        }
        self.reads.beat.get_or_insert((self.reads.round, now_us));
        self.probe(now_us);
        self.watch_quorum(now_us);
        self.audit(now_us);
    }

    /// Updates whether the leader can acknowledge writes at all.
    fn watch_quorum(&mut self, now_us: u64) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        let connected = self.mask_of(|slot| slot.link != Link::Down);
        let enough = self.rules.satisfied(connected);
        self.short_since_us = if enough { None } else { self.short_since_us.or(Some(now_us)) };
        let Limits { connect_grace_us, answer_grace_us, .. } = self.settings.limits;
        let longer = |since: Option<u64>, grace_us| since.is_some_and(|since| now_us.saturating_sub(since) > grace_us);
        self.cut_off = if longer(self.short_since_us, connect_grace_us) {
            Some(CutOff::TooFewConnected { connected: connected.count(), quorum: self.rules.quorum() })
        } else if enough && longer(self.reads.unanswered_since_us(), answer_grace_us) {
            Some(CutOff::TooFewAnswer { quorum: self.rules.quorum(), for_ms: answer_grace_us / 1_000 })
        } else {
            None
        };
    }

    fn ask_next(&mut self) {
        if self.reads.waiting.is_empty() {
            self.reads.asking = None;
            return;
        }
        self.reads.asking = Some((self.reads.next_round(), std::mem::take(&mut self.reads.waiting)));
        self.ask_round();
    }

    /// Asks the followers whether this leader still leads, in a new round.
    pub(super) fn ask_round(&mut self) {
        self.reads.round += 1;
        let (epoch, round) = (self.epoch, self.reads.round);
        let streaming: Vec<(SlotId, u64)> = self.streaming().collect();
        for (id, heard) in streaming {
            // This call has no clock. Followers use the lag of the last heartbeat until the next
            // one.
            self.out.push(Output::Send(id, ToFollower::Probe { epoch, round, lag_us: u64::MAX, heard }));
        }
        self.ask_who_waits();
    }

    /// Asks the followers that wait for the state, while the rules change: one of them may have the
    /// disk that replaced a member's.
    fn ask_who_waits(&mut self) {
        let (epoch, round) = (self.epoch, self.reads.round);
        if self.rules.changing() {
            let waits =
                |slot: &Slot| matches!(slot.link, Link::Promised | Link::Comparing { .. } | Link::Installing { .. });
            self.send_each(waits, || ToFollower::Probe { epoch, round, lag_us: u64::MAX, heard: 0 });
        }
    }

    fn probe(&mut self, now_us: u64) {
        let (epoch, round) = (self.epoch, self.reads.round);
        let streaming: Vec<(SlotId, u64)> = self.streaming().collect();
        // Another leader may have accepted writes since the last time this one certainly led.
        let unsure_us = now_us.saturating_sub(self.reads.led_us);
        for (id, heard) in streaming {
            let lag_us = self.lag_us(id, now_us).max(unsure_us);
            self.out.push(Output::Send(id, ToFollower::Probe { epoch, round, lag_us, heard }));
        }
        self.ask_who_waits();
    }

    /// The streaming followers, and the highest round that each answered.
    fn streaming(&self) -> impl Iterator<Item = (SlotId, u64)> {
        self.each_slot().filter(|(_, slot)| slot.link == Link::Streaming).map(|(id, slot)| (id, slot.probed))
    }

    /// Age of the oldest write that a follower has not confirmed, in microseconds.
    pub(super) fn lag_us(&self, id: SlotId, now_us: u64) -> u64 {
        let oldest = self.slot(id).and_then(|slot| self.window.get(slot.progress.watermark));
        oldest.map_or(0, |pending| now_us.saturating_sub(pending.accepted_us))
    }

    pub(super) fn on_probed(&mut self, id: SlotId, round: u64) {
        if let Some(slot) = self.slot_mut(id) {
            slot.probed = slot.probed.max(round);
        }
        if self.rules.changing() {
            self.advance();
        }
        let Some((asked, _)) = &self.reads.asking else {
            return;
        };
        let confirmed: Mask = self.mask_of(|slot| slot.link == Link::Streaming && slot.probed >= *asked);
        if self.rules.satisfied(confirmed) {
            if let Some((_, readers)) = self.reads.asking.take() {
                self.out.extend(readers.into_iter().map(|reader| match reader {
                    Reader::Read(reader) => Output::ReadConfirmed(reader),
                    Reader::Unmet(unmet) => Output::Unmet { waiter: unmet.0, found: unmet.1 },
                }));
            }
            self.ask_next();
        }
    }

    pub(super) fn refuse_reads(&mut self) {
        let asking = self.reads.asking.take().map(|(_, readers)| readers).unwrap_or_default();
        let waiting = std::mem::take(&mut self.reads.waiting);
        let uncommitted = std::mem::take(&mut self.reads.uncommitted).into_values().flatten();
        self.reads.uncommitted_reads = 0;
        self.out.extend(asking.into_iter().chain(waiting).chain(uncommitted).map(|reader| match reader {
            Reader::Read(reader) => Output::ReadRefused(reader),
            Reader::Unmet(unmet) => Output::NotApplied(unmet.0),
        }));
    }
}
