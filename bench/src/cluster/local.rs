//! A leader and its followers as processes on this machine, for the bench and for integration tests.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
//!
//! let options = LocalClusterOptions::new("target/release/kv-bench", "out/logs");
//! let mut cluster = LocalCluster::start(options).await?;
//! cluster.kill_follower(0)?; // kill -9
//! cluster.start_follower(0).await?;
//! cluster.wait_until_open().await?;
//! # Ok(()) }
//! ```
//! Every node is `program node --exit-with-stdin`, listens on a free port of 127.0.0.1 that it keeps across restarts, and ends when the
//! cluster is dropped or this process ends, however it ends (see [`crate::node_command`]).

mod process;
mod wires;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use kvcluster_api::{
    delay::DelayLaw,
    status::{FollowerState, LeaderState, LeaderStatus},
};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use self::{
    process::{NodeProcess, NodeSpec},
    wires::Wires,
};
use super::ports::{Ports, free_ports};
use crate::client::{Credentials, NodeClient};

/// How often a condition is looked at while it is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// An executable that runs a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// kv-bench: as `program node --exit-with-stdin`, so that no node outlives its bench.
    Bench(PathBuf),
    /// kv-node, of this or of another version: without arguments. It outlives a bench that is killed with kill -9.
    Node(PathBuf),
}

impl Program {
    /// The executable at `path`: kv-node where the file is named so, otherwise kv-bench.
    pub fn at(path: PathBuf) -> Self {
        let is_node = path.file_stem().is_some_and(|stem| stem == "kv-node");
        if is_node { Self::Node(path) } else { Self::Bench(path) }
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct LocalClusterOptions {
    /// The executable of the nodes.
    pub program: Program,
    /// Where each node's log goes, as `NAME.log`; created if it is not there.
    pub logs_directory: PathBuf,
    /// Number of followers, N. Default 5.
    pub followers: u16,
    /// Followers that must confirm a write. Default 1.
    pub write_quorum: u16,
    /// Shortest delay before a send to a follower, in ms. Default 0.
    pub min_delay_ms: u32,
    /// Longest delay before a send to a follower, in ms. Default 200.
    pub max_delay_ms: u32,
    /// The law of the delays, in place of the shortest and the longest.
    pub delay: Option<Arc<DelayLaw>>,
    /// After this long without a quorum a write's outcome is unknown, in ms. Default 5000.
    pub replication_timeout_ms: u32,
    /// Seed of the random delays; drawn by the leader when absent.
    pub delay_seed: Option<u64>,
    /// Further settings of every node, by environment variable; they override those above.
    pub environment: Vec<(String, String)>,
    /// Each node gets `DATA_DIR=data_directory/NAME` when present.
    pub data_directory: Option<PathBuf>,
    /// Whether leaders reach their followers over wires that [`LocalCluster::cut_leader_off`] cuts. Default false.
    pub wired: bool,
    /// How long the cluster, or a node that is started again, may take. Default 20 s.
    pub start_timeout: Duration,
}

impl LocalClusterOptions {
    /// Five followers, W = 1, delays of 0-200 ms, in memory.
    pub fn new(program: impl Into<PathBuf>, logs_directory: impl Into<PathBuf>) -> Self {
        Self {
            program: Program::at(program.into()),
            logs_directory: logs_directory.into(),
            followers: 5,
            write_quorum: 1,
            min_delay_ms: 0,
            max_delay_ms: 200,
            delay: None,
            replication_timeout_ms: 5000,
            delay_seed: None,
            environment: Vec::new(),
            data_directory: None,
            wired: false,
            start_timeout: Duration::from_secs(20),
        }
    }
}

/// A running cluster of processes. Dropped, every process is killed.
#[derive(Debug)]
pub struct LocalCluster {
    leader: NodeProcess,
    /// Further leaders over the same followers: those that run compete with `leader`.
    rivals: Vec<NodeProcess>,
    followers: Vec<NodeProcess>,
    data_directory: Option<PathBuf>,
    client: NodeClient,
    credentials: Credentials,
    start_timeout: Duration,
    starts: u64,
    /// No other bench takes them while a node is down.
    ports: Vec<Ports>,
}

impl LocalCluster {
    /// Starts all nodes and waits until the leader is open and every follower takes part.
    ///
    /// # Errors
    /// When a node ends or the time is up; the error shows the end of the log of the node that failed.
    pub async fn start(options: LocalClusterOptions) -> Result<Self> {
        let (leader, followers, ports) = nodes(&options)?;
        let credentials = Credentials::of_nodes(&options.environment)?;
        let client = NodeClient::with(&credentials, &leader.url(), 1)?;
        let LocalClusterOptions { data_directory, start_timeout, .. } = options;
        let mut cluster = Self {
            leader,
            rivals: Vec::new(),
            followers,
            data_directory,
            client,
            credentials,
            start_timeout,
            starts: 1,
            ports: vec![ports],
        };
        for index in 0..cluster.followers.len() {
            cluster.followers[index].start()?;
        }
        cluster.leader.start()?;
        cluster.wait_until_open().await?;
        Ok(cluster)
    }

    /// What its nodes asked for when they started.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Where the leader listens for Redis' protocol, `127.0.0.1:port`.
    pub fn leader_redis(&self) -> String {
        self.leader.redis()
    }

    /// Where the leader or rival at this URL listens for Redis' protocol.
    pub fn redis_of(&self, url: &str) -> Option<String> {
        let leaders = std::iter::once(&self.leader).chain(&self.rivals);
        leaders.into_iter().find(|leader| leader.url() == url).map(NodeProcess::redis)
    }

    /// Where a follower listens for Redis' protocol.
    pub fn follower_redis(&self, index: usize) -> String {
        self.followers[index].redis()
    }

    /// Where the leader listens, `http://127.0.0.1:port`.
    pub fn leader_url(&self) -> String {
        self.leader.url()
    }

    /// Where follower `index` (from 0) listens.
    ///
    /// # Panics
    /// When there is no such follower; so do all methods that take an index.
    pub fn follower_url(&self, index: usize) -> String {
        self.followers[index].url()
    }

    /// Where the followers listen, in order.
    pub fn follower_urls(&self) -> Vec<String> {
        self.followers.iter().map(NodeProcess::url).collect()
    }

    /// Process ids of the nodes that run: the leader's first.
    pub fn process_ids(&self) -> Vec<u32> {
        let leaders = std::iter::once(&self.leader).chain(&self.rivals);
        leaders.chain(&self.followers).filter_map(NodeProcess::id).collect()
    }

    /// How often followers were started: a number that none of their processes shares with another.
    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// The leader's log.
    pub fn leader_log(&self) -> &Path {
        &self.leader.spec.log_path
    }

    /// The log of follower `index`.
    pub fn follower_log(&self, index: usize) -> &Path {
        &self.followers[index].spec.log_path
    }

    /// kill -9 of the leader; returns when the process is gone.
    pub fn kill_leader(&mut self) -> Result<()> {
        self.leader.kill()
    }

    /// kill -9 of the leaders beside the first one; returns when the processes are gone.
    pub fn kill_rivals(&mut self) -> Result<()> {
        self.rivals.iter_mut().try_for_each(NodeProcess::kill)
    }

    /// kill -9 of follower `index`; returns when the process is gone.
    pub fn kill_follower(&mut self, index: usize) -> Result<()> {
        self.followers[index].kill()
    }

    /// kill -9 of every node at once; returns when all processes are gone.
    pub fn kill_all(&mut self) -> Result<()> {
        let nodes = || std::iter::once(&self.leader).chain(&self.rivals).chain(&self.followers);
        nodes().filter(|node| node.is_started()).try_for_each(|node| node.signal(Signal::KILL))?;
        let nodes = std::iter::once(&mut self.leader).chain(&mut self.rivals).chain(&mut self.followers);
        nodes.into_iter().try_for_each(NodeProcess::kill)
    }

    /// Empties the disk of follower `index`, which must not run. Nothing to do for one without a disk.
    pub fn wipe_follower(&self, index: usize) -> Result<()> {
        let NodeProcess { spec, .. } = &self.followers[index];
        if self.followers[index].is_started() {
            bail!("failed to wipe {}: it is running", spec.name);
        }
        let Some(directory) = self.data_directory.as_ref().map(|all| all.join(&spec.name)) else { return Ok(()) };
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("failed to empty {}", directory.display()))
            }
            _ => Ok(()),
        }
    }

    /// Starts one more leader over the same followers, as a Deployment does before the old leader is gone. Returns its
    /// name and URL at once, before it answers. Followers obey one leader; [`LocalCluster::keep_one_leader`] ends the
    /// others. With `TAKEOVER_AFTER_MS` above 0 in the environment it is a standby.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn launch_rival(&mut self) -> Result<(String, String)> {
        let rival = self.idle_rival()?;
        rival.start()?;
        Ok((rival.spec.name.clone(), rival.url()))
    }

    /// The same, and returns once it answers HTTP.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn start_rival(&mut self) -> Result<(String, String)> {
        let timeout = self.start_timeout;
        let rival = self.idle_rival()?;
        start_and_listen(rival, timeout).await?;
        Ok((rival.spec.name.clone(), rival.url()))
    }

    /// A leader process beside the first one that does not run.
    fn idle_rival(&mut self) -> Result<&mut NodeProcess> {
        let index = match self.rivals.iter().position(|rival| !rival.is_started()) {
            Some(index) => index,
            None => {
                let name = format!("leader{}", self.rivals.len() + 2);
                let own = free_ports(2)?;
                let rival = self.leader.sibling(&name, own[0], own[1])?;
                self.ports.push(own);
                let ports: Vec<u16> = self.followers.iter().map(|follower| follower.spec.port).collect();
                self.rivals.push(if self.leader.wires.is_some() { rival.over_wires(&ports)? } else { rival });
                self.rivals.len() - 1
            }
        };
        Ok(&mut self.rivals[index])
    }

    /// Where the rivals that run listen.
    pub fn rival_urls(&self) -> Vec<String> {
        self.rivals.iter().filter(|rival| rival.is_started()).map(NodeProcess::url).collect()
    }

    /// Where the rivals that run listen for Redis' protocol.
    pub fn rivals_redis(&self) -> Vec<String> {
        self.rivals.iter().filter(|rival| rival.is_started()).map(NodeProcess::redis).collect()
    }

    /// Where several leaders run, waits until one of them is open and the others know that they were replaced, and kills
    /// those. The one that stays is [`LocalCluster::leader_url`].
    ///
    /// # Errors
    /// When the time is up; all still run.
    pub async fn keep_one_leader(&mut self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !self.rival_urls().is_empty() {
            let mut states = Vec::new();
            for leader in std::iter::once(&self.leader).chain(&self.rivals).filter(|leader| leader.is_started()) {
                let status = self.client.at(&leader.url()).status().await;
                states.push((leader.url(), status.ok().map(|status| status.state)));
            }
            let among = |wanted| states.iter().filter(move |(_, state)| *state == Some(wanted)).map(|(url, _)| url);
            let (open, fenced): (Vec<_>, _) = (among(LeaderState::Open).collect(), among(LeaderState::Fenced).count());
            match open[..] {
                [url] if fenced + 1 == states.len() => {
                    if let Some(rival) = self.rivals.iter_mut().find(|rival| rival.url() == *url) {
                        std::mem::swap(&mut self.leader, rival);
                    }
                    self.client = self.client.at(url);
                    self.kill_rivals()?;
                }
                _ if Instant::now() > deadline => {
                    let word = |state: Option<LeaderState>| state.map_or("unreachable".to_owned(), |it| it.to_string());
                    let states: Vec<String> = states.into_iter().map(|(_, state)| word(state)).collect();
                    let (states, seconds) = (states.join(", "), timeout.as_secs_f64());
                    bail!(
                        "of {} leaders none is the only one after {seconds} s: {states}; {}",
                        states.split(", ").count(),
                        self.leader.log_tail()
                    );
                }
                _ => sleep(POLL_INTERVAL).await,
            }
        }
        Ok(())
    }

    /// From now on the process that takes over is the leader: exchanges the first one, which has ended, with its standby.
    ///
    /// # Errors
    /// Unless exactly one other leader runs.
    pub fn swap_leaders(&mut self) -> Result<()> {
        let [rival] = &mut self.rivals[..] else { bail!("failed to exchange the leaders: there are not two of them") };
        std::mem::swap(&mut self.leader, rival);
        self.client = self.client.at(&self.leader.url());
        Ok(())
    }

    /// Starts the leader again, on its port with its settings; returns when it answers HTTP, which is before it has
    /// recovered: see [`LocalCluster::wait_until_open`].
    pub async fn start_leader(&mut self) -> Result<()> {
        start_and_listen(&mut self.leader, self.start_timeout).await
    }

    /// Starts follower `index` again, on its port with its settings; returns when it answers HTTP.
    pub async fn start_follower(&mut self, index: usize) -> Result<()> {
        self.starts += 1;
        start_and_listen(&mut self.followers[index], self.start_timeout).await
    }

    /// The same, and returns at once, before it answers. One that still ends after [`LocalCluster::end_follower`] is waited
    /// for.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn launch_follower(&mut self, index: usize) -> Result<()> {
        self.starts += 1;
        let follower = &mut self.followers[index];
        follower.wait()?;
        follower.start()
    }

    /// Starts every node that does not run, all at once; returns when each answers HTTP.
    pub async fn start_all(&mut self) -> Result<()> {
        let nodes = std::iter::once(&mut self.leader).chain(&mut self.followers).filter(|node| !node.is_started());
        let timeout = self.start_timeout;
        futures::future::try_join_all(nodes.map(|node| start_and_listen(node, timeout))).await.map(drop)
    }

    /// Freezes the leader (SIGSTOP): to everyone else it looks like a partition or a long pause.
    pub fn pause_leader(&self) -> Result<()> {
        self.leader.signal(Signal::STOP)
    }

    /// Lets a frozen leader go on.
    pub fn resume_leader(&self) -> Result<()> {
        self.leader.signal(Signal::CONT)
    }

    /// From now on nothing passes between the leader and its followers, while clients reach them all: a partition. What is
    /// sent meanwhile arrives afterwards.
    ///
    /// # Errors
    /// Unless the cluster is [wired](LocalClusterOptions::wired).
    pub fn cut_leader_off(&self) -> Result<()> {
        self.leader.wires.as_ref().context("failed to cut the leader off: it has no wires").map(Wires::cut)
    }

    /// Ends that.
    ///
    /// # Errors
    /// Unless the cluster is [wired](LocalClusterOptions::wired).
    pub fn reconnect_leader(&self) -> Result<()> {
        self.leader.wires.as_ref().context("failed to reconnect the leader: it has no wires").map(Wires::mend)
    }

    /// Freezes the leaders beside the first one (SIGSTOP).
    pub fn pause_rivals(&self) -> Result<()> {
        self.signal_rivals(Signal::STOP)
    }

    /// Lets frozen leaders beside the first one go on.
    pub fn resume_rivals(&self) -> Result<()> {
        self.signal_rivals(Signal::CONT)
    }

    fn signal_rivals(&self, signal: Signal) -> Result<()> {
        self.rivals.iter().filter(|rival| rival.is_started()).try_for_each(|rival| rival.signal(signal))
    }

    /// Freezes follower `index` (SIGSTOP).
    pub fn pause_follower(&self, index: usize) -> Result<()> {
        self.followers[index].signal(Signal::STOP)
    }

    /// Lets a frozen follower go on.
    pub fn resume_follower(&self, index: usize) -> Result<()> {
        self.followers[index].signal(Signal::CONT)
    }

    /// Waits until the leader's process ended by itself; returns its exit code.
    ///
    /// # Errors
    /// When it still runs after the start timeout.
    pub async fn leader_ends(&mut self) -> Result<Option<i32>> {
        ends(&mut self.leader, self.start_timeout).await
    }

    /// Asks the leader to shut down in order (SIGTERM), and waits until it has; returns its exit code.
    pub async fn terminate_leader(&mut self) -> Result<Option<i32>> {
        terminate(&mut self.leader, self.start_timeout).await
    }

    /// Asks follower `index` to shut down in order (SIGTERM), and waits until it has.
    pub async fn terminate_follower(&mut self, index: usize) -> Result<Option<i32>> {
        terminate(&mut self.followers[index], self.start_timeout).await
    }

    /// Asks the leader to shut down in order (SIGTERM), and does not wait.
    pub fn end_leader(&self) -> Result<()> {
        self.leader.signal(Signal::TERM)
    }

    /// Asks follower `index` to shut down in order (SIGTERM), and does not wait.
    pub fn end_follower(&self, index: usize) -> Result<()> {
        self.followers[index].signal(Signal::TERM)
    }

    /// Waits until the leader is open and each follower whose process runs takes part.
    ///
    /// # Errors
    /// When a node ends or the time is up, with what was missing and the end of a log.
    pub async fn wait_until_open(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.start_timeout;
        loop {
            self.fail_if_any_exited()?;
            let missing = match self.client.status().await {
                Ok(status) => self.missing(&status),
                Err(error) => Some(format!("{error:#}")),
            };
            let Some(missing) = missing else {
                return Ok(());
            };
            if Instant::now() > deadline {
                let seconds = self.start_timeout.as_secs_f64();
                bail!("failed to start the cluster within {seconds} s: {missing}; {}", self.leader.log_tail());
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Fails when a node ended by itself.
    ///
    /// # Errors
    /// Which node, and the end of its log.
    pub fn fail_if_any_exited(&mut self) -> Result<()> {
        let nodes = std::iter::once(&mut self.leader).chain(&mut self.rivals).chain(&mut self.followers);
        nodes.into_iter().try_for_each(fail_if_exited)
    }

    /// What the leader still lacks; `None` when it is open and has its running followers.
    fn missing(&self, status: &LeaderStatus) -> Option<String> {
        if status.state != LeaderState::Open {
            return Some(format!("the leader is {}: {}", status.state, status.message));
        }
        let running = self.followers.iter().filter(|node| node.is_started()).count();
        let streaming = status.followers.iter().filter(|follower| follower.state == FollowerState::Streaming).count();
        (streaming < running).then(|| format!("{streaming} of {running} running followers take part"))
    }
}

/// The nodes with their ports, settings and empty logs; nothing runs yet.
fn nodes(options: &LocalClusterOptions) -> Result<(NodeProcess, Vec<NodeProcess>, Ports)> {
    let logs = &options.logs_directory;
    fs::create_dir_all(logs).with_context(|| format!("failed to create {}", logs.display()))?;
    let count = options.followers as usize;
    let all_ports = free_ports(2 * (count + 1))?;
    let (ports, redis_ports) = all_ports.split_at(count + 1);
    let node = |name: &str, place: usize, settings: Vec<(&str, String)>| {
        let (port, redis_port) = (ports[place], redis_ports[place]);
        let mut environment = vec![
            ("PORT".to_owned(), port.to_string()),
            ("BIND_ADDRESS".to_owned(), "127.0.0.1".to_owned()),
            ("ADVERTISE_URL".to_owned(), format!("http://127.0.0.1:{port}")),
            ("NODE_NAME".to_owned(), name.to_owned()),
            ("RESP_PORT".to_owned(), redis_port.to_string()),
        ];
        if let Some(directory) = &options.data_directory {
            environment.push(("DATA_DIR".to_owned(), directory.join(name).display().to_string()));
        }
        environment.extend(settings.into_iter().map(|(name, value)| (name.to_owned(), value)));
        environment.extend(options.environment.iter().cloned());
        let (program, log_path) = (options.program.clone(), logs.join(format!("{name}.log")));
        NodeProcess::new(NodeSpec { name: name.to_owned(), program, port, redis_port, environment, log_path })
    };
    let urls: Vec<String> = ports[1..].iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    let mut settings = vec![
        ("ROLE", "leader".to_owned()),
        ("ADVERTISE_URL", format!("http://127.0.0.1:{}", ports[0])),
        ("FOLLOWERS", urls.join(",")),
        ("WRITE_QUORUM", options.write_quorum.to_string()),
        ("REPLICATION_TIMEOUT_MS", options.replication_timeout_ms.to_string()),
        // Leaders over the same followers compete; with another value they are standbys of one another.
        ("TAKEOVER_AFTER_MS", "0".to_owned()),
    ];
    settings.extend(match &options.delay {
        Some(law) => vec![("DELAY", serde_json::to_string(law).context("failed to write the law of the delays")?)],
        None => {
            vec![("MIN_DELAY_MS", options.min_delay_ms.to_string()), ("MAX_DELAY_MS", options.max_delay_ms.to_string())]
        }
    });
    settings.extend(options.delay_seed.map(|seed| ("DELAY_SEED", seed.to_string())));
    let leader = node("leader", 0, settings)?;
    let leader = if options.wired { leader.over_wires(&ports[1..])? } else { leader };
    let followers = (1..=count)
        .map(|number| node(&format!("follower{number}"), number, vec![("ROLE", "follower".to_owned())]))
        .collect::<Result<_>>()?;
    Ok((leader, followers, all_ports))
}

async fn start_and_listen(node: &mut NodeProcess, timeout: Duration) -> Result<()> {
    node.start()?;
    let client = NodeClient::with(&Credentials::default(), &node.url(), 0)?;
    let deadline = Instant::now() + timeout;
    while !client.is_listening().await {
        fail_if_exited(node)?;
        if Instant::now() > deadline {
            bail!("{} did not listen within {} s; {}", node.spec.name, timeout.as_secs_f64(), node.log_tail());
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

async fn terminate(node: &mut NodeProcess, timeout: Duration) -> Result<Option<i32>> {
    node.signal(Signal::TERM)?;
    ends(node, timeout).await
}

async fn ends(node: &mut NodeProcess, timeout: Duration) -> Result<Option<i32>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = node.exited() {
            return Ok(status.code());
        }
        if Instant::now() > deadline {
            bail!("{} did not shut down within {} s; {}", node.spec.name, timeout.as_secs_f64(), node.log_tail());
        }
        sleep(POLL_INTERVAL).await;
    }
}

fn fail_if_exited(node: &mut NodeProcess) -> Result<()> {
    match node.exited() {
        Some(status) => bail!("{} ended by itself ({status}); {}", node.spec.name, node.log_tail()),
        None => Ok(()),
    }
}
