//! The world: its clock, its random numbers, and everything in it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};

use crate::Summary;
use crate::followers::Place;
use crate::history::{Act, History};
use crate::leaders::Lead;
use crate::pipe::Wire;
use crate::plan::{PLACES_MAX, Plan};

/// How long a world may take to converge once the faults are over. Minutes: several leaders that start together over a
/// state of many short messages interrupt each other, until one recovers within the longest pause of the others.
const CALM_MAX: Duration = Duration::from_secs(600);

/// A connection, and who is at its ends.
pub(crate) struct Link {
    pub(crate) number: u64,
    pub(crate) leader: usize,
    pub(crate) place: usize,
    pub(crate) wire: Wire,
}

pub(crate) struct State {
    pub(crate) rng: SmallRng,
    pub(crate) places: Vec<Place>,
    pub(crate) leads: Vec<Lead>,
    pub(crate) links: Vec<Link>,
    pub(crate) links_made: u64,
    pub(crate) history: History,
    /// The wanted rule: quorum and size.
    pub(crate) wanted: (u16, u16),
    pub(crate) generation: u64,
    pub(crate) faults_on: bool,
    pub(crate) clients_on: bool,
    pub(crate) disks_made: u64,
    bytes: u64,
    trace: Option<Vec<String>>,
}

/// Shared by all tasks. They run on one thread, and none holds the lock across a wait.
pub(crate) struct World {
    pub(crate) plan: Plan,
    started: Instant,
    /// When the world ended, in simulated seconds.
    ended_s: OnceLock<f64>,
    pub(crate) state: Mutex<State>,
}

impl World {
    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A seed for one actor or connection.
    pub(crate) fn seed(&self) -> u64 {
        self.state.lock().rng.random()
    }

    /// A wait from 1 ms to `most_ms`.
    pub(crate) fn wait_ms(&self, most_ms: u64) -> Duration {
        Duration::from_millis(self.state.lock().rng.random_range(1..=most_ms.max(1)))
    }

    /// Adds a line to the trace, if there is one.
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        let now_us = self.now_us();
        if let Some(trace) = &mut self.state.lock().trace {
            let line: String = line().chars().take(300).collect();
            trace.push(format!("{:>9}.{:03} {line}", now_us / 1000, now_us % 1000));
        }
    }

    pub(crate) fn fail(&self, why: String) {
        self.note(|| format!("FAILED: {why}"));
        self.state.lock().history.fail(why);
    }

    /// Forgets connections that no node uses, and writes into the trace what arrived on them.
    pub(crate) fn sweep_links(&self) {
        let over: Vec<Link> = {
            let links = &mut self.state.lock().links;
            let (over, used) = std::mem::take(links).into_iter().partition(|link: &Link| link.wire.is_over());
            *links = used;
            over
        };
        self.account(&over);
    }

    fn account(&self, links: &[Link]) {
        for Link { number, wire, .. } in links {
            self.state.lock().bytes += wire.arrived_bytes();
            self.note(|| format!("#{number}: {} bytes, {:016x}", wire.arrived_bytes(), wire.fingerprint()));
        }
    }
}

/// Runs one world: a time of faults, then none, then the checks. Returns the verdict and the trace.
pub(crate) fn run(plan: Plan, traced: bool) -> (Result<Summary, String>, Vec<String>) {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime starts");
    let world = runtime.block_on(live(plan, traced));
    // Ends all tasks, and with them whatever they share with the world.
    drop(runtime);
    let mut state = world.state.lock();
    let trace = state.trace.take().unwrap_or_default();
    let verdict = state.history.verdict().map(|()| Summary {
        connections: state.links_made,
        bytes: state.bytes,
        simulated_s: world.ended_s.get().copied().unwrap_or_default(),
        ..state.history.summary()
    });
    (verdict, trace)
}

async fn live(plan: Plan, traced: bool) -> Arc<World> {
    let state = State {
        rng: SmallRng::seed_from_u64(plan.seed),
        places: Vec::new(),
        leads: Vec::new(),
        links: Vec::new(),
        links_made: 0,
        history: History::default(),
        wanted: (plan.quorum, plan.size),
        generation: 1,
        faults_on: false,
        clients_on: false,
        disks_made: 0,
        bytes: 0,
        trace: traced.then(Vec::new),
    };
    let world = Arc::new(World { plan, started: Instant::now(), state: Mutex::new(state), ended_s: OnceLock::new() });
    world.note(|| format!("{:?}", world.plan));
    for place in 0..PLACES_MAX {
        world.add_place(place);
        world.start_follower(place);
    }
    tokio::spawn(world.clone().supervise());
    if world.until(CALM_MAX, World::is_converged).await {
        world.fill().await;
        world.open_to_clients();
        sleep(world.plan.faulty).await;
        world.calm();
        if world.until(CALM_MAX, World::is_converged).await {
            world.read_everything().await;
        } else {
            let why = world.why_not_converged();
            world.fail(format!("liveness: {why}"));
        }
    } else {
        let why = world.why_not_converged();
        world.fail(format!("liveness: the first leader does not open: {why}"));
    }
    let links = std::mem::take(&mut world.state.lock().links);
    world.account(&links);
    let _ = world.ended_s.set(world.now_us() as f64 / 1e6);
    world
}

impl World {
    /// Waits for a condition; false when it does not hold within that time, or something failed before.
    async fn until(self: &Arc<Self>, limit: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let until = Instant::now() + limit;
        while Instant::now() < until {
            let failed = self.state.lock().history.failed();
            if failed || condition(self) {
                return true;
            }
            sleep(Duration::from_millis(20)).await;
        }
        false
    }

    fn open_to_clients(self: &Arc<Self>) {
        let clients = {
            let mut state = self.state.lock();
            (state.clients_on, state.faults_on) = (true, true);
            self.plan.clients
        };
        (0..clients).for_each(|client| _ = tokio::spawn(self.clone().client(client)));
        tokio::spawn(self.clone().nemesis());
    }

    /// Reads every key once more: the last operations of the history.
    async fn read_everything(self: &Arc<Self>) {
        for key in 0..self.plan.keys + self.plan.filled_keys {
            let mut answered = self.state.lock().history.failed();
            for _ in 0..20 {
                if answered {
                    break;
                }
                answered = self.operate(key, Act::Read, None, false, false, Duration::from_secs(3)).await;
                if !answered {
                    sleep(Duration::from_millis(200)).await;
                }
            }
            if !answered {
                self.fail(format!("liveness: the last read of k{key} is not answered"));
            }
        }
    }

    pub(crate) fn is_converged(&self) -> bool {
        self.why_not_converged().is_empty()
    }
}
