//! What can happen next, and what follows from it.

use std::collections::VecDeque;

use kv_node::protocol::follower::{Effects, Follower};
use kv_node::protocol::leader::{Accepted, DelayRange, Leader, LeaderSettings, NewWrite, Output, Refusal, SlotId};
use kv_node::protocol::messages::{ToFollower, ToLeader};
use kv_node::protocol::types::{Epoch, FollowerId};

use crate::clients::{Act, KEYS};
use crate::mutation::{self, Mutation};
use crate::world::{FOLLOWERS, Lead, Link, Part, Place, Plan, Process, Rule, Sent, World};

/// One step of one state; leaders and followers by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A leader process starts.
    Start,
    /// The two connect if they are not connected, and everything between them arrives, until both have said all.
    Exchange(u8, u8),
    /// The same, and a copy of each part of a state among it will arrive late.
    ExchangeRepeated(u8, u8),
    /// The two connect, and no more.
    Connect(u8, u8),
    /// The next message reaches the follower, and its answer the leader.
    Deliver(u8, u8),
    /// The next message reaches the follower; its answer is on its way.
    DeliverAlone(u8, u8),
    /// A copy of the next message will arrive late.
    Repeat(u8, u8),
    /// The connection breaks. A follower that crashes and restarts looks the same.
    Break(u8, u8),
    /// The next message of a connection that is gone arrives.
    Late(u8, u8, u8),
    Elect(u8),
    /// The leader sends heartbeats.
    Tick(u8),
    /// The leader resigns, if no write is under way.
    Resign(u8),
    /// Of a key.
    Write(u8, u8),
    Delete(u8, u8),
    Read(u8, u8),
    /// The client of this write sends it once more, under the same idempotency key.
    Retry(u8, u8),
    /// Another quorum is wanted from now on.
    Want,
    /// So many followers are wanted from now on.
    Resize(u16),
    /// The leader gets the wanted rule as its settings.
    Tell(u8),
    /// A client begins a restore at the leader, or repeats that request.
    BeginRestore(u8),
    /// The client sends a key of its backup.
    RestoreKey(u8, u8),
    EndRestore(u8),
    /// Somebody gives up the restore that the leader has not finished.
    GiveUpRestore(u8),
    /// A follower loses its disk.
    Wipe(u8),
    /// The answer leaves before the sync, and the follower crashes; only in a mutation.
    AnswerUnsynced(u8, u8),
}

pub(crate) const NO_DELAY: DelayRange = DelayRange { min_us: 0, max_us: 0 };

/// There is one connection at a time between two processes, and its answers end with it: one number is enough.
const SESSION: u64 = 1;

impl World {
    /// Everything that can happen next.
    pub(crate) fn actions(&self, plan: &Plan) -> Vec<Action> {
        let (mut actions, left) = (Vec::new(), self.left);
        for (number, lead) in self.leads.iter().enumerate() {
            self.actions_of(number as u8, lead, plan, &mut actions);
        }
        if left.leaders > 0 {
            actions.push(Action::Start);
        }
        if left.changes > 0 {
            actions.push(Action::Want);
        }
        if left.sizes > 0 {
            let others = (1..=FOLLOWERS as u16).filter(|size| *size != self.wanted.size);
            actions.extend(others.map(Action::Resize));
        }
        if left.wipes > 0 {
            let lost = (0..FOLLOWERS).filter(|place| self.may_lose(*place));
            actions.extend(lost.map(|place| Action::Wipe(place as u8)));
        }
        actions
    }

    fn actions_of(&self, number: u8, lead: &Lead, plan: &Plan, actions: &mut Vec<Action>) {
        let left = self.left;
        for place in 0..FOLLOWERS as u8 {
            let link = &lead.links[usize::from(place)];
            actions.extend((0..link.late.len()).map(|which| Action::Late(number, place, which as u8)));
            if lead.process.leader.has_ended() {
                continue;
            }
            if !link.live {
                if !self.may_connect(&lead.process, usize::from(place)) {
                    continue;
                }
                actions.push(Action::Exchange(number, place));
                if left.repeats > 0 {
                    actions.push(Action::ExchangeRepeated(number, place));
                }
                if left.stops > 0 {
                    actions.push(Action::Connect(number, place));
                }
                continue;
            }
            if !link.down.is_empty() || !link.up.is_empty() {
                actions.push(Action::Exchange(number, place));
                if left.repeats > 0 {
                    actions.push(Action::ExchangeRepeated(number, place));
                }
            }
            if let Some(next) = link.down.front() {
                if left.stops > 0 {
                    actions.push(Action::Deliver(number, place));
                    actions.push(Action::DeliverAlone(number, place));
                }
                if left.repeats > 0 && matches!(next, Sent::Message(message) if changes_state(message)) {
                    actions.push(Action::Repeat(number, place));
                }
                if left.breaks > 0 && plan.mutation == Some(Mutation::RepliesBeforeSync) {
                    actions.push(Action::AnswerUnsynced(number, place));
                }
            }
            if left.breaks > 0 {
                actions.push(Action::Break(number, place));
            }
        }
        let Process { leader, waits, told, .. } = &*lead.process;
        if leader.has_ended() {
            return;
        }
        if *waits {
            actions.push(Action::Elect(number));
        }
        if left.ticks > 0 {
            actions.push(Action::Tick(number));
        }
        if *told != self.wanted {
            actions.push(Action::Tell(number));
        }
        if !leader.is_open() {
            return;
        }
        if left.resigns > 0 {
            actions.push(Action::Resign(number));
        }
        let keys = 0..plan.keys as u8;
        if left.writes > 0 {
            actions.extend(keys.clone().map(|key| Action::Write(number, key)));
        }
        if left.deletes > 0 {
            actions.extend(keys.clone().map(|key| Action::Delete(number, key)));
        }
        if left.reads > 0 {
            actions.extend(keys.map(|key| Action::Read(number, key)));
        }
        if left.retries > 0 {
            actions.extend(self.clients.writes().map(|op| Action::Retry(number, op as u8)));
        }
        if plan.left.restores > 0 {
            self.restore_actions(number, leader, actions);
        }
    }

    /// The state after an action; nothing where it lies outside the bounds.
    pub(crate) fn after(&self, action: Action, plan: &Plan) -> Option<Self> {
        let mut world = self.clone();
        world.act(action, plan);
        let within = world.leads.iter().all(|lead| lead.process.leader.epoch().term <= plan.terms);
        within.then_some(world)
    }

    pub(crate) fn act(&mut self, action: Action, plan: &Plan) {
        let at = |number: u8, place: u8| (usize::from(number), usize::from(place));
        match action {
            Action::Start => self.start(plan),
            Action::Exchange(number, place) => {
                self.exchange(at(number, place), plan);
            }
            Action::ExchangeRepeated(number, place) => {
                self.left.repeats -= 1;
                let at = at(number, place);
                let parts = self.exchange(at, plan);
                if !parts.is_empty() {
                    self.link(at).change(|link| link.late.push(parts));
                }
            }
            Action::Connect(number, place) => {
                self.left.stops -= 1;
                self.connect(at(number, place), plan);
            }
            Action::Deliver(number, place) => {
                self.left.stops -= 1;
                let at = at(number, place);
                self.take(at, plan);
                self.hear(at, plan);
            }
            Action::DeliverAlone(number, place) => {
                self.left.stops -= 1;
                self.take(at(number, place), plan);
            }
            Action::Repeat(number, place) => {
                self.left.repeats -= 1;
                self.link(at(number, place)).change(|link| {
                    if let Some(Sent::Message(message)) = link.down.front().cloned() {
                        link.late.push(VecDeque::from([message]));
                    }
                });
            }
            Action::Break(number, place) => {
                self.left.breaks -= 1;
                self.cut(at(number, place), plan);
            }
            Action::Late(number, place, which) => self.arrive_late(at(number, place), usize::from(which), plan),
            Action::Elect(number) => {
                self.leads[usize::from(number)].process.change(|process| process.waits = false);
                self.drive(usize::from(number), plan, Leader::elect);
            }
            Action::Tick(number) => {
                self.left.ticks -= 1;
                self.drive(usize::from(number), plan, |leader| leader.tick(0));
            }
            Action::Resign(number) => {
                self.left.resigns -= 1;
                self.drive(usize::from(number), plan, |leader| _ = leader.resign());
            }
            Action::Write(number, key) => {
                self.left.writes -= 1;
                let value = self.clients.new_value();
                let op = self.clients.change(|clients| clients.call(usize::from(key), Act::Write(Some(value))));
                self.put(usize::from(number), op, plan);
            }
            Action::Delete(number, key) => {
                self.left.deletes -= 1;
                let op = self.clients.change(|clients| clients.call(usize::from(key), Act::Write(None)));
                self.put(usize::from(number), op, plan);
            }
            Action::Retry(number, op) => {
                self.left.retries -= 1;
                self.put(usize::from(number), usize::from(op), plan);
            }
            Action::Read(number, key) => self.read(usize::from(number), usize::from(key), plan),
            Action::Want => {
                self.left.changes -= 1;
                let Rule { quorum, size } = self.wanted;
                let quorum = if quorum == plan.quorum.min(size) { plan.change_to } else { plan.quorum }.min(size);
                self.wanted = Rule { quorum, size };
            }
            Action::Resize(size) => {
                self.left.sizes -= 1;
                self.wanted = Rule { quorum: self.wanted.quorum.min(size), size };
            }
            Action::Tell(number) => self.tell(usize::from(number), plan),
            Action::BeginRestore(number) => self.begin_restore(usize::from(number), plan),
            Action::RestoreKey(number, key) => self.restore_key(usize::from(number), usize::from(key), plan),
            Action::EndRestore(number) => self.end_restore(usize::from(number), plan),
            Action::GiveUpRestore(number) => self.give_up_restore(usize::from(number), plan),
            Action::Wipe(place) => {
                self.left.wipes -= 1;
                self.wipe(usize::from(place), plan);
            }
            Action::AnswerUnsynced(number, place) => {
                self.left.breaks -= 1;
                let at = at(number, place);
                let before = self.places[at.1].clone();
                self.take(at, plan);
                self.places[at.1] = before;
                self.hear(at, plan);
                self.cut(at, plan);
            }
        }
        self.forget_what_is_refused(plan);
    }

    pub(crate) fn link(&mut self, at: (usize, usize)) -> &mut Part<Link> {
        &mut self.leads[at.0].links[at.1]
    }

    fn start(&mut self, plan: &Plan) {
        self.left.leaders -= 1;
        let id = mutation::leader_id(plan.mutation, 100 + self.leads.len() as u64);
        let limits = plan.leader_limits();
        let Rule { quorum, size } = self.wanted;
        let mut leader = Leader::new(id, LeaderSettings { quorum, size, delay: NO_DELAY.into(), limits, seed: 0 });
        if plan.left.sizes > 0 && self.clients.last_opened() > Epoch::default() {
            // The controller knows it. A leader that wants one follower and finds a new disk would else found a cluster.
            leader.expect_state();
        }
        let declared = |place: usize| (place < usize::from(size)).then(|| leader.declare(&format!("f{place}")))?;
        let slots = std::array::from_fn(declared);
        let (told, filters) = (self.wanted, Default::default());
        let process = Part::new(Process { leader, slots, waits: false, told, promoted: None, filters });
        let links = std::array::from_fn(|_| Part::new(Link::default()));
        self.leads.push(Lead { process, links });
    }

    fn connect(&mut self, at: (usize, usize), plan: &Plan) {
        if !self.finds_slot(at) {
            return;
        }
        self.link(at).change(|link| link.live = true);
        let hello = ToLeader::Hello(self.places[at.1].follower.hello());
        self.answer(at, hello, plan);
    }

    /// Until both have said all. Returns the parts of a state that were among it.
    fn exchange(&mut self, at: (usize, usize), plan: &Plan) -> VecDeque<ToFollower> {
        let mut parts = VecDeque::new();
        if !self.leads[at.0].links[at.1].live {
            self.connect(at, plan);
        }
        self.hear(at, plan);
        while !self.leads[at.0].links[at.1].down.is_empty() {
            parts.extend(self.take(at, plan).filter(|message| matches!(message, ToFollower::Install { .. })));
            self.hear(at, plan);
        }
        parts
    }

    /// The follower takes the next message. What it says to that is on its way.
    fn take(&mut self, at: (usize, usize), plan: &Plan) -> Option<ToFollower> {
        let mut next = self.link(at).change(|link| link.down.pop_front());
        if let Some(Sent::Install(job)) = &mut next {
            let part = self.leads[at.0].process.leader.install_part(job);
            if part.is_some() {
                let rest = Sent::Install(job.clone());
                self.link(at).change(|link| link.down.push_front(rest));
            }
            next = part.map(Sent::Message);
        }
        let Some(Sent::Message(message)) = next else { return None };
        let replies = self.step(at.1, message.clone(), plan);
        self.link(at).change(|link| link.up.extend(replies));
        Some(message)
    }

    fn step(&mut self, place: usize, message: ToFollower, plan: &Plan) -> Vec<ToLeader> {
        let mut effects = Effects::default();
        self.places[place].change(|place| mutation::step(plan.mutation, &mut place.follower, message, &mut effects));
        effects.replies
    }

    /// What is on its way to the leader arrives.
    fn hear(&mut self, at: (usize, usize), plan: &Plan) {
        while let Some(reply) = self.link(at).change(|link| link.up.pop_front()) {
            self.answer(at, reply, plan);
        }
    }

    fn answer(&mut self, at: (usize, usize), reply: ToLeader, plan: &Plan) {
        let process = &mut self.leads[at.0].process;
        let reply = match plan.mutation {
            Some(_) => process.change(|process| mutation::answer(plan.mutation, &mut process.promoted, at.1, reply)),
            None => reply,
        };
        let Some(slot) = process.slots[at.1] else { return };
        self.drive(at.0, plan, |leader| match reply {
            ToLeader::Hello(hello) => leader.hello(slot, SESSION, hello),
            reply => leader.receive(slot, SESSION, reply),
        });
    }

    fn arrive_late(&mut self, at: (usize, usize), which: usize, plan: &Plan) {
        let message = self.link(at).change(|link| {
            let message = link.late[which].pop_front();
            link.late.retain(|queue| !queue.is_empty());
            message
        });
        if let Some(message) = message {
            self.step(at.1, message, plan);
        }
    }

    /// The connection is gone, and the leader notices. What was sent may arrive late.
    pub(crate) fn cut(&mut self, at: (usize, usize), plan: &Plan) {
        let was_live = self.link(at).change(|link| {
            let sent = std::mem::take(&mut link.down).into_iter();
            let sent = sent.map_while(|sent| if let Sent::Message(message) = sent { Some(message) } else { None });
            let late: VecDeque<ToFollower> = sent.filter(changes_state).collect();
            if !late.is_empty() {
                link.late.push(late);
            }
            link.up.clear();
            std::mem::replace(&mut link.live, false)
        });
        if was_live && !self.leads[at.0].process.leader.has_ended() {
            let Some(slot) = self.leads[at.0].process.slots[at.1] else { return };
            self.drive(at.0, plan, |leader| leader.closed(slot, SESSION));
        }
    }

    pub(crate) fn wipe(&mut self, place: usize, plan: &Plan) {
        self.disks += 1;
        let id = FollowerId(self.disks);
        let before = &self.places[place].follower;
        let kept = mutation::memory_of_wiped(plan.mutation, before);
        let pretends = kept.is_some();
        let follower = kept.unwrap_or_else(|| Follower::blank(id, before.hello().name)).limited(plan.follower_limits());
        self.places[place] = Part::new(Place { follower, pretends });
        for number in 0..self.leads.len() {
            self.cut((number, place), plan);
            // It was sent to a process that is gone.
            self.link((number, place)).change(|link| link.late.clear());
        }
    }

    /// What a follower will not take any more, and whose refusal nobody hears, may as well not be there.
    fn forget_what_is_refused(&mut self, plan: &Plan) {
        if plan.mutation == Some(Mutation::TakesWritesOfOldLeaders) {
            return;
        }
        for lead in &mut self.leads {
            for (place, link) in self.places.iter().zip(&mut lead.links) {
                let promised = place.follower.promised();
                let refused = |message: &ToFollower| {
                    let settled = matches!(message, ToFollower::Prepare { epoch } if *epoch == promised);
                    message.epoch().unwrap_or_default() < promised || settled
                };
                if link.late.iter().flatten().any(refused) {
                    link.change(|link| {
                        link.late.iter_mut().for_each(|queue| queue.retain(|message| !refused(message)));
                        link.late.retain(|queue| !queue.is_empty());
                    });
                }
            }
        }
    }

    /// The client of a write sends it to a leader. Without retries, no write has an idempotency key.
    fn put(&mut self, number: usize, op: usize, plan: &Plan) {
        let key = KEYS[self.clients.key(op)];
        let retry_token = (plan.left.retries > 0).then(|| format!("t{op}").into());
        let value = self.clients.value(op);
        let new = NewWrite { key: key.into(), value, retry_token, explain: false, now_us: 0 };
        self.enter(number, op, plan, |leader| leader.put(new, op));
    }

    /// A leader gets the write of an operation, in a way that decides how it takes it.
    pub(crate) fn enter(
        &mut self,
        number: usize,
        op: usize,
        plan: &Plan,
        take: impl FnOnce(&mut Leader<usize, usize>) -> Result<Accepted, Refusal>,
    ) {
        let key = KEYS[self.clients.key(op)];
        let process = &mut self.leads[number].process;
        let (taken, version, epoch) = process.change(|process| {
            let taken = take(&mut process.leader);
            let version = process.leader.latest(key).map(|(record, _)| record.version);
            (taken, version, process.leader.epoch())
        });
        match taken {
            Ok(Accepted::Pending { seq }) => {
                // Where a later write of the key is pending too, this attempt joined an earlier one.
                if let Some(version) = version.filter(|version| version.seq == seq) {
                    self.clients.change(|clients| clients.accepted(op, version));
                }
            }
            Ok(Accepted::Unmet) => unreachable!("no write has a condition here"),
            Ok(Accepted::AlreadyCommitted { seq }) => {
                self.clients.change(|clients| clients.acknowledged(op, epoch, seq));
            }
            Err(Refusal::Restoring(_) | Refusal::RestoreEnds) if plan.left.restores > 0 => {}
            // The leader has another restore, or none any more.
            Err(Refusal::NotRestoring { .. }) if self.clients.is_restored(op) => {}
            Err(why) => panic!("an open leader takes a write, and this one says {why:?}"),
        }
        self.drive(number, plan, |_| {});
    }

    fn read(&mut self, number: usize, key: usize, plan: &Plan) {
        self.left.reads -= 1;
        let op = self.clients.change(|clients| clients.call(key, Act::Read));
        if plan.mutation == Some(Mutation::ReadsWithoutAsking) {
            self.show(number, op);
        } else {
            self.drive(number, plan, |leader| match leader.read(op) {
                Ok(()) => {}
                Err(Refusal::Restoring(_) | Refusal::RestoreEnds) if plan.left.restores > 0 => {}
                Err(why) => panic!("an open leader takes a read, and this one says {why:?}"),
            });
        }
    }

    fn show(&mut self, number: usize, op: usize) {
        let leader = &self.leads[number].process.leader;
        let (record, epoch) = (leader.committed(KEYS[self.clients.key(op)]).cloned(), leader.epoch());
        self.clients.change(|clients| clients.read(op, record.as_ref(), epoch));
    }

    pub(crate) fn drive(&mut self, number: usize, plan: &Plan, event: impl FnOnce(&mut Leader<usize, usize>)) {
        let (outputs, epoch) = self.leads[number].process.change(|process| {
            event(&mut process.leader);
            (process.leader.take_outputs(), process.leader.epoch())
        });
        outputs.into_iter().for_each(|output| self.carry_out(number, epoch, output, plan));
    }

    fn carry_out(&mut self, number: usize, epoch: Epoch, output: Output<usize, usize>, plan: &Plan) {
        let slots = self.leads[number].process.slots;
        let at = |slot: SlotId| {
            let place = slots.iter().position(|known| *known == Some(slot));
            (number, place.expect("the leader knows the slots that it was given"))
        };
        match output {
            Output::Send(slot, mut message) => {
                if plan.mutation == Some(Mutation::FiltersOutliveTheirFetch) {
                    let filters = &mut self.leads[number].process;
                    filters.change(|process| mutation::question(&mut process.filters[at(slot).1], &mut message));
                }
                self.send(at(slot), Sent::Message(message));
            }
            Output::Transmit(to, write) => {
                for slot in to {
                    let writes = vec![(*write).clone()];
                    self.send(at(slot), Sent::Message(ToFollower::Writes { epoch, writes }));
                }
            }
            Output::Install(slot, job) if plan.late_installs && !mutation::changes_transfers(plan.mutation) => {
                self.send(at(slot), Sent::Install(job));
            }
            Output::Install(slot, mut job) => {
                let leader = &self.leads[number].process.leader;
                let mut parts: Vec<ToFollower> = std::iter::from_fn(|| leader.install_part(&mut job)).collect();
                mutation::transfer(plan.mutation, &mut parts);
                parts.into_iter().for_each(|part| self.send(at(slot), Sent::Message(part)));
            }
            Output::Schedule { .. } => unreachable!("nothing waits here"),
            Output::Committed { waiter, receipt } => {
                self.clients.change(|clients| clients.acknowledged(waiter, receipt.epoch, receipt.seq));
            }
            Output::Unmet { .. } | Output::NotApplied(_) => unreachable!("no write has a condition here"),
            Output::ReadConfirmed(reader) => self.show(number, reader),
            Output::Reset(slot, _) => self.cut(at(slot), plan),
            Output::Released(slot) => self.released(at(slot), plan),
            Output::Backoff => self.leads[number].process.change(|process| process.waits = true),
            Output::Opened => {
                let leader = &self.leads[number].process.leader;
                let state = KEYS.map(|key| leader.latest(key).map(|(record, _)| record));
                let epoch = leader.epoch();
                self.clients.change(|clients| clients.opened(epoch, state));
            }
            Output::Fenced(_) => (0..FOLLOWERS).for_each(|place| self.cut((number, place), plan)),
            // The client of such a request learns nothing certain.
            Output::Indeterminate { .. } | Output::ReadRefused(_) | Output::InForce | Output::Differs { .. } => {}
        }
    }

    fn send(&mut self, at: (usize, usize), sent: Sent) {
        if self.leads[at.0].links[at.1].live {
            self.link(at).change(|link| link.down.push_back(sent));
        }
    }
}

/// Whether a follower may be another one after it, so that it matters when it arrives late.
fn changes_state(message: &ToFollower) -> bool {
    !matches!(message, ToFollower::Compare { .. } | ToFollower::Fetch { .. } | ToFollower::Probe { .. })
}
