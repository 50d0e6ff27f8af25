//! A running leader: the state machine behind one lock, and the code that carries out its
//! decisions.
//!
//! One lock is enough: a step is a few hundred nanoseconds of arithmetic on memory, and everything that takes longer
//! (waking tasks, answering clients) happens after the lock is released.
//!
//! This file contains the step. The methods are in files by caller: `requests` for clients, `connections` for the
//! sessions with followers, `configuration` for operators, `view` for status pages and metrics, `samples` for the live
//! page, `watches` for `GET /watch`. `together` decides several requests in one step, `answers` brings their outcomes.

mod answers;
mod configuration;
mod connections;
mod environment;
mod requests;
mod samples;
mod together;
mod view;
mod watches;

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use kvcluster_api::config::LiveConfig;
use parking_lot::{Mutex, MutexGuard};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tracing::{info, warn};

pub(crate) use self::answers::Answers;
use self::answers::Waiter;
use self::connections::{Path, Staged};
pub use self::environment::Environment;
use self::requests::ReadWaiter;
pub(crate) use self::requests::Taken;
pub use self::requests::{Placed, WriteOutcome};
use self::samples::Samples;
pub use self::samples::{SampledFollower, SampledWrite};
pub(crate) use self::together::{Entered, Together};
pub use self::view::{Condition, LeaderView, PlaceView};
use self::watches::Watches;
pub(crate) use self::watches::Watching;
use super::outbox::{Item, Outbox};
use super::timer::Timer;
use crate::protocol::leader::{Leader, LeaderSettings, Limits, Output, SlotId};
use crate::protocol::types::{Key, Record};

/// How often the pause between two attempts to start doubles: up to 6.4 s.
const BACKOFF_DOUBLINGS_MAX: u32 = 5;

/// How often the leader drops the waiters of clients that disconnected.
const FORGET_EVERY_US: u64 = 1_000_000;

type Core = Leader<Waiter, ReadWaiter>;
type CoreOutput = Output<Waiter, ReadWaiter>;

/// Everything behind the lock.
struct State {
    core: Core,
    paths: Vec<Path>,
    wanted: LiveConfig,
    in_force: LiveConfig,
    sessions: u64,
    /// Writes that no connection has taken yet.
    staged: Staged,
    /// Maximum bytes queued during one send to a follower.
    outbox_bytes_max: usize,
    /// Memory for the outputs of a step, reused by every step.
    outputs: Vec<CoreOutput>,
    /// How often another starting leader interfered since this one was last open.
    backoffs: u32,
    /// Whether it is logged that this leader refuses clients for lack of followers.
    cut_off_logged: bool,
    /// Randomness of the delays between two attempts to start.
    rng: SmallRng,
    /// The writes that the live page shows.
    samples: Samples,
}

/// What waits for the timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wait {
    /// A write, by its index, for its delay to a follower.
    Write(SlotId, u64),
    /// A frame of writes without a delay, by its number, for others that join it.
    Frame(u64),
}

/// The actions of a step after the lock is released.
#[derive(Default)]
struct After {
    waits: Vec<(Duration, Wait)>,
    wake: SmallVec<[Arc<Outbox>; 8]>,
    writes: Vec<(Waiter, WriteOutcome)>,
    reads: Vec<(oneshot::Sender<Option<Record>>, Option<Record>)>,
    /// Committed writes, while a client watches.
    commits: Vec<(usize, Key)>,
    /// The delay before the leader asks for promises again.
    elect: Option<Duration>,
}

impl After {
    /// Wakes the sender of a connection, once.
    fn wake(&mut self, outbox: &Arc<Outbox>) {
        if !self.wake.iter().any(|known| Arc::ptr_eq(known, outbox)) {
            self.wake.push(outbox.clone());
        }
    }
}

/// The leader.
pub struct Coordinator {
    state: Mutex<State>,
    timer: OnceLock<Timer<Wait>>,
    started: Instant,
    seed: u64,
    runtime: Handle,
    changed: watch::Sender<u64>,
    watches: Watches,
}

impl Coordinator {
    /// Creates a leader with a new identity. Must be called inside a runtime.
    ///
    /// # Errors
    /// If the operating system cannot create a timer for the random delays.
    pub fn start(live: LiveConfig, limits: Limits, seed: u64) -> std::io::Result<Arc<Self>> {
        Ok(Self::start_in(live, limits, seed, Environment::system()?))
    }

    /// A leader of one follower without delays, W = 1.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Arc<Self> {
        let live = LiveConfig {
            generation: 1,
            write_quorum: 1,
            followers: 1,
            min_delay_ms: 0,
            max_delay_ms: 0,
            delay: None,
            replication_timeout_ms: 1_000,
        };
        Self::start_in(live, Limits::default(), 1, Environment::simulated(1))
    }

    /// Creates a leader with a given environment.
    pub fn start_in(live: LiveConfig, limits: Limits, seed: u64, environment: Environment) -> Arc<Self> {
        let Environment { identity, backoff_seed, alarm } = environment;
        let settings =
            LeaderSettings { quorum: live.write_quorum, size: live.followers, delay: (&live).into(), limits, seed };
        let state = State {
            core: Leader::new(identity, settings),
            paths: Vec::new(),
            // No configuration is in force before the leader is open.
            in_force: LiveConfig { generation: 0, ..live.clone() },
            wanted: live,
            sessions: 0,
            staged: Staged::default(),
            outbox_bytes_max: limits.backlog_bytes,
            outputs: Vec::new(),
            backoffs: 0,
            cut_off_logged: false,
            rng: SmallRng::seed_from_u64(backoff_seed),
            samples: Samples::default(),
        };
        let coordinator = Arc::new(Self {
            state: Mutex::new(state),
            timer: OnceLock::new(),
            started: Instant::now(),
            seed,
            runtime: Handle::current(),
            changed: watch::Sender::new(0),
            watches: Watches::default(),
        });
        let weak: Weak<Self> = Arc::downgrade(&coordinator);
        let timer = Timer::with_alarm(alarm, move |over: &mut Vec<Wait>| {
            if let Some(coordinator) = weak.upgrade() {
                coordinator.step(|state| {
                    for wait in over.iter() {
                        match *wait {
                            Wait::Write(slot, index) => state.core.due(slot, index),
                            Wait::Frame(number) => state.gathered(number),
                        }
                    }
                });
            }
        });
        let _ = coordinator.timer.set(timer);
        coordinator
    }

    /// Microseconds since this leader started.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Seed of the random delays.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Sends heartbeats until the leader is dropped.
    pub async fn beat(weak: Weak<Self>, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut cleared_us = 0;
        loop {
            ticks.tick().await;
            let Some(coordinator) = weak.upgrade() else {
                return;
            };
            let now_us = coordinator.now_us();
            coordinator.step(|state| {
                state.core.tick(now_us);
                state.log_cut_off();
            });
            if now_us.saturating_sub(cleared_us) >= FORGET_EVERY_US {
                cleared_us = now_us;
                coordinator.step(|state| {
                    state.core.forget_gone(Waiter::is_gone, |reader| reader.answer.is_closed());
                });
            }
        }
    }

    /// Reads the state without changing it.
    fn look<T>(&self, at: impl FnOnce(&State) -> T) -> T {
        at(&self.state.lock())
    }

    /// Runs one step of the state machine and carries out its outputs.
    fn step<T>(self: &Arc<Self>, step: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = step(&mut state);
        self.end_step(state);
        result
    }

    /// Carries out the outputs of a step.
    fn end_step(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let mut after = After::default();
        let mut outputs = std::mem::take(&mut state.outputs);
        state.core.swap_outputs(&mut outputs);
        if state.samples.begins() {
            let State { core, samples, in_force, .. } = &mut *state;
            samples.begin(core, in_force.write_quorum, &outputs, || self.now_us());
        }
        for output in outputs.drain(..) {
            self.carry_out(&mut state, output, &mut after);
        }
        state.outputs = outputs;
        after.commits = state.core.take_commits();
        drop(state);
        self.finish(after);
    }

    fn carry_out(&self, state: &mut State, output: CoreOutput, after: &mut After) {
        match output {
            Output::Send(slot, message) => state.post(slot, Item::Message(message), after),
            Output::Transmit(to, write) => state.transmit(to, &write, after),
            Output::Install(slot, job) => state.post(slot, Item::Install(job), after),
            Output::Schedule { slot, index, delay_us } => {
                after.waits.push((Duration::from_micros(delay_us.into()), Wait::Write(slot, index)));
            }
            Output::Committed { waiter, receipt } => after.writes.push((waiter, WriteOutcome::Committed(receipt))),
            Output::Indeterminate { waiter, seq } => after.writes.push((waiter, WriteOutcome::Indeterminate { seq })),
            Output::ReadConfirmed(ReadWaiter { key, answer }) => {
                after.reads.push((answer, state.core.committed(&key).cloned()));
            }
            Output::Unmet { waiter, found } => after.writes.push((waiter, WriteOutcome::Unmet(found.map(Box::new)))),
            // Dropping the waiter ends the client's wait.
            Output::ReadRefused(_) | Output::NotApplied(_) => {}
            Output::Reset(slot, reason) => state.reset(slot, &reason),
            Output::Released(slot) => {
                state.hang_up(slot);
                if let Some(path) = state.paths.get_mut(slot.index()) {
                    info!(follower = path.url, "follower released");
                    *path = Path::default();
                }
                self.settle(state);
            }
            Output::Backoff => {
                // Two leaders that start together would keep interrupting each other, so each waits
                // longer each time.
                let wait_ms = state.rng.random_range(20..200) << state.backoffs.min(BACKOFF_DOUBLINGS_MAX);
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
            Output::Differs { slot, buckets, again } => state.log_difference(slot, buckets, again),
        }
    }

    fn finish(self: &Arc<Self>, after: After) {
        if let Some(timer) = self.timer.get()
            && !after.waits.is_empty()
        {
            timer.schedule(after.waits);
        }
        after.wake.iter().for_each(|outbox| outbox.wake());
        if !after.commits.is_empty() {
            self.watches.committed(&after.commits);
        }
        for (waiter, outcome) in after.writes {
            waiter.answer(outcome);
        }
        for (waiter, record) in after.reads {
            // Sending fails if the client disconnected.
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
}
