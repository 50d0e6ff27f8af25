//! Follower processes and their disks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use kv_node::protocol::follower::Follower;
use kv_node::protocol::types::FollowerId;
use kv_node::replication::replica::Replica;
use kv_node::replication::session::{Connect, Connection, SessionError};
use kv_node::store::disk::{Found, Limits, Opened, Options, open_with};
use kv_node::store::{Stepped, Store};
use rand::RngExt;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::files::{SimDisk, Unsynced};
use crate::pipe::{self, Receiver, Sender};
use crate::plan::Mutation;
use crate::world::{Link, World};

/// Where a follower lives: a name, a disk, and perhaps a running process.
pub(crate) struct Place {
    pub(crate) name: Arc<str>,
    pub(crate) disk: SimDisk,
    pub(crate) live: Option<Live>,
    /// What it had is lost, and it has not yet received it again.
    pub(crate) lost: bool,
    /// How many processes there were.
    pub(crate) processes: u64,
    /// Syncs take this much longer.
    pub(crate) slow_ms: u64,
}

/// A running process.
pub(crate) struct Live {
    pub(crate) replica: Arc<Replica>,
    pub(crate) process: u64,
    tasks: Vec<AbortHandle>,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process alone: what it wrote is in the memory of the machine.
    Killed,
    /// The machine stops: of what was not synced, so much is left.
    Crash(Unsynced),
}

impl World {
    fn empty_disk(&self) -> SimDisk {
        let disk = SimDisk::new(self.seed());
        if self.plan.mutation == Some(Mutation::SyncsInVain) {
            disk.sync_in_vain();
        }
        disk
    }

    pub(crate) fn add_place(&self, place: usize) {
        let disk = self.empty_disk();
        let name = format!("f-{place}").into();
        self.state.lock().places.push(Place { name, disk, live: None, lost: false, processes: 0, slow_ms: 0 });
    }

    /// Starts the process at a place, unless it runs. A start that fails is tried again.
    pub(crate) fn start_follower(self: &Arc<Self>, place: usize) {
        let (name, disk, id) = {
            let mut state = self.state.lock();
            if state.places[place].live.is_some() {
                return;
            }
            state.disks_made += 1;
            let id = FollowerId(state.disks_made);
            let it = &state.places[place];
            (it.name.clone(), it.disk.clone(), id)
        };
        let mut stepped = None;
        let replica = if self.plan.memory {
            Replica::new(Follower::blank(id, name.clone()).limited(self.plan.follower), Store::Memory, None)
        } else {
            let limits = Limits { segment: 4 << 10, ahead: 512, slack: 8 << 10 };
            let options = Options {
                files: disk.files(),
                limits,
                new_id: id,
                scrub_bytes_per_s: 4 << 10,
                clock: || Instant::now().into_std(),
            };
            match open_with(Path::new("/data"), Some("sim"), options) {
                Ok(ready) => {
                    let (Opened { store, id, kept, found }, steps) = ready.stepped();
                    if let Found::Damage { reason, .. } = &found {
                        self.fail(format!("{name} takes its disk for damaged, which it is not: {reason}"));
                    }
                    stepped = Some(steps);
                    let follower = Follower::with(id, name.clone(), kept).limited(self.plan.follower);
                    Replica::new(follower, store, Some(found))
                }
                Err(error) => {
                    self.note(|| format!("{name} cannot open its disk: {error}"));
                    disk.kill();
                    return self.start_later(place, Duration::from_millis(100));
                }
            }
        };
        let view = replica.view();
        self.note(|| format!("start {name} as {} with {} keys, {:?}", view.hello.id, view.keys, view.hello.synced));
        let process = {
            let it = &mut self.state.lock().places[place];
            it.processes += 1;
            it.live = Some(Live { replica: replica.clone(), process: it.processes, tasks: Vec::new() });
            it.processes
        };
        if let Some(stepped) = stepped {
            self.run_in(place, self.clone().store(place, stepped));
        }
        let (world, failure) = (self.clone(), replica.store_failure());
        // Not a task of the process, which it ends.
        tokio::spawn(async move {
            let failure = failure.wait().await;
            if world.is_running(place, process) {
                world.note(|| format!("f-{place} ends: {failure}"));
                world.end_follower(place, End::Killed);
                world.start_later(place, Duration::from_millis(50));
            }
        });
    }

    fn is_running(&self, place: usize, process: u64) -> bool {
        self.state.lock().places[place].live.as_ref().is_some_and(|live| live.process == process)
    }

    /// A task of the process at a place: it ends with it.
    fn run_in(&self, place: usize, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(live) = &mut self.state.lock().places[place].live {
            live.tasks.retain(|task| !task.is_finished());
            live.tasks.push(tokio::spawn(task).abort_handle());
        }
    }

    pub(crate) fn start_later(self: &Arc<Self>, place: usize, wait: Duration) {
        let world = self.clone();
        tokio::spawn(async move {
            sleep(wait).await;
            world.start_follower(place);
        });
    }

    /// Stores what is queued, each batch after the time of a sync.
    async fn store(self: Arc<Self>, place: usize, mut stepped: Stepped) {
        loop {
            tokio::select! {
                biased;
                () = stepped.ready() => {}
                () = sleep(Duration::from_millis(100)) => {
                    if !stepped.idle() {
                        return;
                    }
                    stepped.ready().await;
                }
            }
            let slow = self.state.lock().places[place].slow_ms;
            sleep(self.wait_ms(self.plan.sync_ms + slow)).await;
            if !stepped.step() {
                return;
            }
        }
    }

    /// Ends the process at a place.
    pub(crate) fn end_follower(&self, place: usize, end: End) {
        let live = self.state.lock().places[place].live.take();
        let Some(live) = live else { return };
        live.tasks.iter().for_each(AbortHandle::abort);
        self.note(|| format!("end f-{place}: {end:?}"));
        let disk = self.state.lock().places[place].disk.clone();
        match end {
            End::Killed => disk.kill(),
            End::Crash(unsynced) => disk.crash(unsynced),
        }
    }

    /// Replaces the disk at a place, where no process runs, by an empty one.
    pub(crate) fn wipe(&self, place: usize) {
        self.note(|| format!("wipe f-{place}"));
        let disk = self.empty_disk();
        let it = &mut self.state.lock().places[place];
        (it.disk, it.lost) = (disk, true);
    }
}

/// How a leader of this world reaches followers: `f-0` and so on.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) world: Arc<World>,
    pub(crate) leader: usize,
}

impl Connect for Network {
    type Reader = Receiver;
    type Writer = Sender;

    async fn connect(&self, url: &str) -> Result<Connection<Receiver, Sender>, SessionError> {
        let world = &self.world;
        sleep(world.wait_ms(self.world.plan.latency_ms * 2)).await;
        let unreachable = || SessionError::Connect("nothing listens".to_owned());
        let place: usize = url.rsplit('-').next().and_then(|place| place.parse().ok()).ok_or_else(unreachable)?;
        let seed = world.seed();
        let (wire, (reader, writer), (serve_reader, serve_writer)) =
            pipe::connect(seed, world.plan.latency_ms, world.plan.pipe_bytes);
        let replica = {
            let mut state = world.state.lock();
            let replica = state.places[place].live.as_ref().map(|live| live.replica.clone()).ok_or_else(unreachable)?;
            state.links_made += 1;
            let number = state.links_made;
            // Some connections are to break at a byte of their own, early or late.
            if state.faults_on && state.rng.random_bool(0.3) {
                let (way, bytes) = (state.rng.random_range(0..2), state.rng.random_range(0..6_000));
                wire.cut_after(way, bytes);
            }
            for (at, stalled) in &state.leads[self.leader].stalled {
                if *at == place {
                    (0..2).for_each(|way| wire.stall(way, stalled.saturating_duration_since(Instant::now())));
                }
            }
            state.links.push(Link { number, leader: self.leader, place, wire });
            replica
        };
        let (leader, served) = (format!("L{}", self.leader), world.clone());
        world.run_in(place, async move {
            let connection = Connection { reader: serve_reader, writer: serve_writer, read: BytesMut::new() };
            let ended = replica.serve(connection, leader.as_str().into()).await;
            served.note(|| format!("f-{place} ends the connection of {leader}: {ended:?}"));
        });
        world.sweep_links();
        Ok(Connection { reader, writer, read: BytesMut::new() })
    }
}
