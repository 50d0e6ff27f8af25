//! The leader at run time: the state machine behind one lock, and the hands that carry out what it decides.
//!
//! One lock is enough: every step is a few hundred nanoseconds of arithmetic on memory, and everything that takes longer
//! (waking tasks, answering clients) happens after it is released.

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::RngExt;
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use super::discovery::is_member;
use super::outbox::{Item, Outbox};
use super::timer::Timer;
use crate::config::{ConfigError, LiveConfig};
use crate::deliberate::{self, DeliberateFault};
use crate::metrics::LeaderMetrics;
use crate::protocol::leader::{
    Accepted, InstallJob, Leader, Limits, NewWrite, Output, Part, Receipt, Refusal, Saved, Settings, SlotId,
};
use crate::protocol::types::{Epoch, Hello, Record, ToFollower, ToLeader};

/// How often the pause between two attempts to start doubles: up to 6.4 s.
const BACKOFF_DOUBLINGS_MAX: u32 = 5;

/// How a write ended.
#[derive(Debug)]
pub enum WriteOutcome {
    /// W followers have it.
    Committed(Receipt),
    /// It may commit under another leader, or never.
    Indeterminate {
        /// Its sequence number.
        seq: u64,
    },
}

/// A write that was taken.
pub(crate) struct Placed {
    pub(crate) accepted: Accepted,
    /// How it ended. Of no use for the retry of a write that has ended already.
    pub(crate) outcome: oneshot::Receiver<WriteOutcome>,
    pub(crate) epoch: Epoch,
    /// After how long the client is told that nobody knows.
    pub(crate) timeout: Duration,
}

/// One of the writes of a restore that were taken, and how it will have ended.
pub(crate) type Taken = (Accepted, oneshot::Receiver<WriteOutcome>);

/// A read that waits for its leader to be sure, and where its answer goes: nothing inside means that there is no value.
#[derive(Debug)]
pub(crate) struct ReadWaiter {
    key: Box<str>,
    answer: oneshot::Sender<Option<Record>>,
}

pub(crate) type Core = Leader<oneshot::Sender<WriteOutcome>, ReadWaiter>;

/// What is known of the way to a follower.
#[derive(Debug, Default)]
pub(crate) struct Path {
    pub(crate) url: String,
    pub(crate) last_error: Option<String>,
    outbox: Option<(u64, Arc<Outbox>)>,
}

pub(crate) struct State {
    pub(crate) core: Core,
    pub(crate) paths: Vec<Path>,
    pub(crate) wanted: LiveConfig,
    pub(crate) in_force: LiveConfig,
    sessions: u64,
    /// Memory for the outputs of a step, used over and over.
    outputs: Vec<Output<oneshot::Sender<WriteOutcome>, ReadWaiter>>,
    /// How often another leader that was starting stepped in since this one was last open.
    backoffs: u32,
}

/// What has to happen once the lock is released.
#[derive(Default)]
struct After {
    waits: Vec<(Duration, (SlotId, u64))>,
    wake: SmallVec<[Arc<Outbox>; 8]>,
    writes: Vec<(oneshot::Sender<WriteOutcome>, WriteOutcome)>,
    reads: Vec<(oneshot::Sender<Option<Record>>, Option<Record>)>,
    /// After how long to ask for promises again.
    elect: Option<Duration>,
}

/// The leader.
pub struct Coordinator {
    state: Mutex<State>,
    timer: OnceLock<Timer<(SlotId, u64)>>,
    started: Instant,
    seed: u64,
    runtime: Handle,
    changed: watch::Sender<u64>,
    pub(crate) metrics: LeaderMetrics,
}

impl Coordinator {
    /// A leader with a new identity. Must be called inside a runtime.
    ///
    /// # Errors
    /// When the operating system gives no thread for the random waits.
    pub fn start(live: LiveConfig, limits: Limits, seed: u64) -> std::io::Result<Arc<Self>> {
        let settings = Settings { quorum: live.write_quorum, size: live.followers, delay: live.delay(), limits, seed };
        let state = State {
            core: Leader::new(rand::rng().random(), settings),
            paths: Vec::new(),
            // Nothing is in force before the leader is open.
            in_force: LiveConfig { generation: 0, ..live.clone() },
            wanted: live,
            sessions: 0,
            outputs: Vec::new(),
            backoffs: 0,
        };
        let coordinator = Arc::new(Self {
            state: Mutex::new(state),
            timer: OnceLock::new(),
            started: Instant::now(),
            seed,
            runtime: Handle::current(),
            changed: watch::Sender::new(0),
            metrics: LeaderMetrics::default(),
        });
        let weak: Weak<Self> = Arc::downgrade(&coordinator);
        let timer = Timer::start(move |over: &mut Vec<(SlotId, u64)>| {
            if let Some(coordinator) = weak.upgrade() {
                coordinator.step(|state| over.iter().for_each(|(slot, index)| state.core.due(*slot, *index)));
            }
        })?;
        let _ = coordinator.timer.set(timer);
        Ok(coordinator)
    }

    /// Microseconds since this leader started.
    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Seed of the random waits.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Tells every change of the configuration in force, and of whether the leader is open.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Looks, without changing anything.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&State) -> T) -> T {
        at(&self.state.lock())
    }

    /// One step of the state machine, and everything that follows from it.
    pub(crate) fn step<T>(self: &Arc<Self>, step: impl FnOnce(&mut State) -> T) -> T {
        let mut after = After::default();
        let mut state = self.state.lock();
        let result = step(&mut state);
        let mut outputs = std::mem::take(&mut state.outputs);
        state.core.swap_outputs(&mut outputs);
        for output in outputs.drain(..) {
            self.carry_out(&mut state, output, &mut after);
        }
        state.outputs = outputs;
        drop(state);
        self.finish(after);
        result
    }

    fn carry_out(
        &self,
        state: &mut State,
        output: Output<oneshot::Sender<WriteOutcome>, ReadWaiter>,
        after: &mut After,
    ) {
        match output {
            Output::Send(slot, message) => state.post(slot, Item::Message(message), after),
            Output::Transmit(slot, write) => state.post(slot, Item::Write(write), after),
            Output::Install(slot, job) => state.post(slot, Item::Install(job), after),
            Output::Schedule { slot, index, delay_us } => {
                after.waits.push((Duration::from_micros(delay_us.into()), (slot, index)));
            }
            Output::Committed { waiter, receipt } => after.writes.push((waiter, WriteOutcome::Committed(receipt))),
            Output::Indeterminate { waiter, seq } => after.writes.push((waiter, WriteOutcome::Indeterminate { seq })),
            Output::ReadConfirmed(ReadWaiter { key, answer }) => {
                after.reads.push((answer, state.core.committed(&key).cloned()));
            }
            // The dropped sender tells the reader.
            Output::ReadRefused(_) => {}
            Output::Reset(slot) => state.hang_up(slot),
            Output::Released(slot) => {
                state.hang_up(slot);
                if let Some(path) = state.paths.get_mut(slot.index()) {
                    info!(follower = path.url, "follower released");
                    *path = Path::default();
                }
                self.settle(state);
            }
            Output::Backoff => {
                // Two leaders that start together must not step on each other for ever: longer each time.
                let wait_ms = rand::rng().random_range(20..200) << state.backoffs.min(BACKOFF_DOUBLINGS_MAX);
                state.backoffs += 1;
                after.elect = Some(Duration::from_millis(wait_ms));
            }
            Output::Opened => {
                state.backoffs = 0;
                let keys = state.core.keys();
                info!(epoch = %state.core.epoch(), keys, "leader open");
                self.settle(state);
            }
            Output::Fenced(by) => {
                warn!(%by, "another leader took over: this one serves no more");
                self.changed.send_modify(|changes| *changes += 1);
            }
            Output::InForce => self.settle(state),
        }
    }

    fn finish(self: &Arc<Self>, after: After) {
        if let Some(timer) = self.timer.get()
            && !after.waits.is_empty()
        {
            timer.schedule(after.waits);
        }
        after.wake.iter().for_each(|outbox| outbox.wake());
        // A client that went away hears nothing; its write stands all the same.
        for (waiter, outcome) in after.writes {
            let _ = waiter.send(outcome);
        }
        for (waiter, record) in after.reads {
            let _ = waiter.send(record);
        }
        if let Some(wait) = after.elect {
            let coordinator = self.clone();
            self.runtime.spawn(async move {
                tokio::time::sleep(wait).await;
                coordinator.step(|state| state.core.elect());
            });
        }
    }

    /// Takes over what came into force.
    fn settle(&self, state: &mut State) {
        if state.core.is_open() && state.core.settled() && state.in_force != state.wanted {
            state.in_force = state.wanted.clone();
            let LiveConfig { generation, write_quorum, followers, min_delay_ms, max_delay_ms, .. } = state.in_force;
            info!(generation, write_quorum, followers, min_delay_ms, max_delay_ms, "configuration in force");
        } else if let Some(config) = state.core.config() {
            state.in_force.write_quorum = config.quorum;
            state.in_force.followers = config.size;
        }
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Asks for another configuration. It is in force once [`State::in_force`] has its generation.
    ///
    /// # Errors
    /// [`ConfigError`] when it contradicts itself; nothing changed.
    pub fn configure(self: &Arc<Self>, wanted: LiveConfig) -> Result<(), ConfigError> {
        wanted.check()?;
        self.step(|state| {
            if wanted.followers != state.wanted.followers {
                for follower in state.core.followers(0) {
                    if !is_member(&follower.name, wanted.followers) {
                        state.core.retire(follower.slot);
                    } else if follower.retired {
                        state.core.declare(&follower.name);
                    }
                }
            }
            state.core.set(wanted.write_quorum, wanted.followers, wanted.delay());
            // Waits and timeouts need nobody's consent: they hold for the next write.
            state.in_force.min_delay_ms = wanted.min_delay_ms;
            state.in_force.max_delay_ms = wanted.max_delay_ms;
            state.in_force.replication_timeout_ms = wanted.replication_timeout_ms;
            state.wanted = wanted;
            self.settle(state);
        });
        Ok(())
    }

    /// Hands a write in.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was assigned.
    pub(crate) fn put(self: &Arc<Self>, write: NewWrite) -> Result<Placed, Refusal> {
        let (sender, outcome) = oneshot::channel();
        self.step(|state| {
            let accepted = state.core.put(write, sender)?;
            Ok(Placed { accepted, outcome, epoch: state.core.epoch(), timeout: state.in_force.replication_timeout() })
        })
    }

    /// Hands in keys of a backup, all at once. Where one is refused, those before it were taken.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn restore(self: &Arc<Self>, keys: Vec<Saved>, part: Part<'_>) -> Result<Vec<Taken>, Refusal> {
        let now_us = self.now_us();
        self.step(|state| {
            let take = |saved| {
                let (sender, receiver) = oneshot::channel();
                state.core.restore(saved, part, now_us, sender).map(|accepted| (accepted, receiver))
            };
            keys.into_iter().map(take).collect()
        })
    }

    /// The newest committed record, once this leader is sure that it still leads.
    ///
    /// # Errors
    /// [`Refusal`] when it does not.
    pub(crate) async fn read(self: &Arc<Self>, key: &str) -> Result<Option<Record>, Refusal> {
        if deliberate::is_on(DeliberateFault::ReadsWithoutAsking) && self.look(|state| state.core.is_open()) {
            return Ok(self.look(|state| state.core.committed(key).cloned()));
        }
        let (answer, receiver) = oneshot::channel();
        self.step(|state| state.core.read(ReadWaiter { key: key.into(), answer }))?;
        receiver
            .await
            .map_err(|_| self.look(|state| state.core.fenced_by()).map_or(Refusal::Recovering, Refusal::Fenced))
    }

    /// A follower connected. Returns the number of the session and its outbox.
    pub(crate) fn connected(self: &Arc<Self>, slot: SlotId, url: &str, mut hello: Hello) -> (u64, Arc<Outbox>) {
        deliberate::one_promise_fewer(hello.synced.as_mut());
        self.step(|state| {
            state.sessions += 1;
            let (session, outbox) = (state.sessions, Arc::new(Outbox::default()));
            state.hang_up(slot);
            let path = state.path(slot);
            url.clone_into(&mut path.url);
            path.last_error = None;
            path.outbox = Some((session, outbox.clone()));
            state.core.hello(slot, session, hello);
            (session, outbox)
        })
    }

    pub(crate) fn disconnected(self: &Arc<Self>, slot: SlotId, session: u64, error: &str) {
        self.step(|state| {
            let path = state.path(slot);
            if path.outbox.as_ref().is_some_and(|(current, _)| *current == session) {
                path.outbox = None;
                path.last_error = Some(error.to_owned());
            }
            state.core.closed(slot, session);
        });
    }

    /// A follower cannot be reached.
    pub(crate) fn unreachable(&self, slot: SlotId, url: &str, error: String) {
        let mut state = self.state.lock();
        let path = state.path(slot);
        url.clone_into(&mut path.url);
        path.last_error = Some(error);
    }

    pub(crate) fn received(self: &Arc<Self>, slot: SlotId, session: u64, messages: &mut Vec<ToLeader>) {
        for message in messages.iter_mut() {
            if let ToLeader::Promised { synced, .. } = message {
                deliberate::one_promise_fewer(synced.as_mut());
            }
        }
        self.step(|state| messages.drain(..).for_each(|message| state.core.receive(slot, session, message)));
    }

    pub(crate) fn install_part(&self, job: &mut InstallJob) -> Option<ToFollower> {
        self.look(|state| state.core.install_part(job))
    }

    /// Sends heartbeats until the leader is dropped.
    pub(crate) async fn beat(weak: Weak<Self>, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(coordinator) = weak.upgrade() else {
                return;
            };
            let now_us = coordinator.now_us();
            coordinator.step(|state| state.core.tick(now_us));
        }
    }
}

impl State {
    pub(crate) fn path(&mut self, slot: SlotId) -> &mut Path {
        if self.paths.len() <= slot.index() {
            self.paths.resize_with(slot.index() + 1, Path::default);
        }
        &mut self.paths[slot.index()]
    }

    /// Whether a connection of this slot lives.
    pub(crate) fn has_session(&mut self, slot: SlotId) -> bool {
        self.path(slot).outbox.is_some()
    }

    fn post(&mut self, slot: SlotId, item: Item, after: &mut After) {
        let Some((_, outbox)) = self.paths.get(slot.index()).and_then(|path| path.outbox.as_ref()) else {
            return;
        };
        outbox.push(item);
        if !after.wake.iter().any(|known| Arc::ptr_eq(known, outbox)) {
            after.wake.push(outbox.clone());
        }
    }

    fn hang_up(&mut self, slot: SlotId) {
        if let Some((_, outbox)) = self.paths.get(slot.index()).and_then(|path| path.outbox.as_ref()) {
            outbox.close();
        }
    }
}
