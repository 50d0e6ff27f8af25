//! That a leader which works is left alone: everything that must not make a standby take over, and how often one did.
//!
//! Clients write without pause while nodes are paused for a short time, followers restart, and other work takes processors
//! and the disk. Each of these leaves a leader that can commit, or will in a moment. A takeover is counted by the epoch: it
//! changes with every leader.

mod plan;
mod strain;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use kvcluster_api::status::{Epoch, LeaderState};
use rand::rngs::SmallRng;
use tokio::time::{Instant, sleep, sleep_until};

pub use self::plan::{Disturbance, Kind, Node};
use self::{
    plan::{Shape, Step, draw},
    strain::Strain,
};
use super::{
    Answers,
    failover::{settled, unsettled},
    writers::{Servers, Writers},
};
use crate::{
    client::NodeClient,
    cluster::{LocalCluster, LocalClusterOptions},
    interrupt::Interrupt,
};

/// How often a condition is looked at while it is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What to do.
#[derive(Clone, Debug)]
pub struct SteadyOptions {
    /// For how long.
    pub duration: Duration,
    /// Clients that write, each one write at a time.
    pub clients: usize,
    /// The longest pause of a node.
    pub longest_pause: Duration,
    /// Which nodes are disturbed; at least one kind.
    pub nodes: Vec<Kind>,
    /// Threads that do nothing but take processors.
    pub busy_threads: usize,
    /// Where other files are written and synced, to slow down the disk.
    pub busy_disk: Option<PathBuf>,
    /// How long anything may take.
    pub patience: Duration,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Steady {
    /// For how long nodes were disturbed.
    pub lasted: Duration,
    /// Each takeover, in words.
    pub takeovers: Vec<String>,
    /// The first leader's epoch, and that of the last.
    pub epochs: [Epoch; 2],
    /// How often each kind of node was disturbed, by what.
    pub disturbances: BTreeMap<(&'static str, Disturbance), u64>,
    /// The longest pause. On a busy machine it is longer than was asked for.
    pub longest_pause: Duration,
    /// The slowest sync of the other work on the disk.
    pub slowest_sync: Option<Duration>,
    /// The longest time without an acknowledgement.
    pub longest_gap: Duration,
    /// What clients saw.
    pub answers: Answers,
    /// Acknowledged writes that are missing at the end, in words.
    pub lost: Vec<String>,
}

/// Starts a cluster with a leader and its standby, and disturbs it.
///
/// # Errors
/// When a node fails or does not come back in time; the error shows the end of a log.
pub async fn measure(
    cluster: LocalClusterOptions,
    options: SteadyOptions,
    interrupt: &Interrupt,
    report: impl Fn(&str, Duration),
) -> Result<Steady> {
    let SteadyOptions { duration, clients, longest_pause, nodes, busy_threads, busy_disk, patience } = options;
    let shape = Shape {
        followers: cluster.followers.into(),
        restarts_at_once: (cluster.followers - cluster.write_quorum).into(),
        longest_pause,
        nodes,
    };
    report("starting the cluster", Duration::ZERO);
    let mut cluster = LocalCluster::start(LocalClusterOptions { start_timeout: patience, ..cluster }).await?;
    let (_, standby) = cluster.start_rival().await?;
    settled(&cluster, &standby, patience).await?;
    let client = NodeClient::with(cluster.credentials(), &cluster.leader_url(), 1)?;
    let first = epoch(&client).await?;
    let writers = Writers::start(Servers::Nodes, vec![cluster.leader_url(), standby], cluster.credentials(), clients)?;
    let strain = Strain::start(busy_threads, busy_disk)?;
    let mut disturbed = Disturbed::new(client.clone(), &first);
    let mut rng: SmallRng = rand::make_rng();
    let begun = Instant::now();
    while begun.elapsed() < duration && !interrupt.is_requested() {
        let steps = draw(&shape, &mut rng);
        let words = plan::words(&steps);
        report(&words, begun.elapsed());
        disturbed.round(&mut cluster, &steps).await?;
        disturbed.judge(&mut cluster, &writers, &words, begun, patience).await?;
    }
    let (lasted, longest_gap) = (begun.elapsed(), writers.longest_gap());
    let slowest_sync = strain.stop()?;
    report("reading everything", lasted);
    let leader = client.at(&cluster.leader_url());
    let (answers, last_writes) = writers.finish().await?;
    let lost = last_writes.lost_in(&leader.dump().await?);
    let Disturbed { takeovers, counts, longest_pause, .. } = disturbed;
    Ok(Steady {
        lasted,
        takeovers,
        epochs: [first, epoch(&leader).await?],
        disturbances: counts,
        longest_pause,
        slowest_sync,
        longest_gap,
        answers,
        lost,
    })
}

/// A cluster while it is disturbed.
struct Disturbed {
    client: NodeClient,
    /// Which process leads, by the number that clients know.
    leading: usize,
    epoch: Epoch,
    takeovers: Vec<String>,
    counts: BTreeMap<(&'static str, Disturbance), u64>,
    longest_pause: Duration,
}

impl Disturbed {
    fn new(client: NodeClient, epoch: &Epoch) -> Self {
        let (takeovers, counts) = (Vec::new(), BTreeMap::new());
        Self { client, leading: 0, epoch: epoch.clone(), takeovers, counts, longest_pause: Duration::ZERO }
    }

    /// Does everything of a round. All nodes run afterwards.
    async fn round(&mut self, cluster: &mut LocalCluster, steps: &[Step]) -> Result<()> {
        let begun = Instant::now();
        let mut paused: BTreeMap<Node, Instant> = BTreeMap::new();
        for step in steps {
            sleep_until(begun + step.at()).await;
            match *step {
                Step::Begin { node, disturbance, .. } => {
                    *self.counts.entry((node.kind(), disturbance)).or_default() += 1;
                    match (disturbance, node) {
                        (Disturbance::Pause, _) => {
                            paused.insert(node, Instant::now());
                            pause(cluster, node)?;
                        }
                        (Disturbance::Kill, Node::Follower(index)) => cluster.kill_follower(index)?,
                        (Disturbance::Terminate, Node::Follower(index)) => {
                            cluster.end_follower(index)?;
                        }
                        _ => bail!("failed to restart the {node}: followers alone restart"),
                    }
                }
                Step::End { node, disturbance: Disturbance::Pause, .. } => {
                    resume(cluster, node)?;
                    let lasted = paused.remove(&node).map_or(Duration::ZERO, |since| since.elapsed());
                    self.longest_pause = self.longest_pause.max(lasted);
                }
                Step::End { node: Node::Follower(index), .. } => cluster.launch_follower(index)?,
                Step::End { node, .. } => bail!("failed to start the {node}: it runs"),
            }
        }
        Ok(())
    }

    /// Waits until the cluster is whole again. Counts a takeover, whose loser comes back as the standby.
    async fn judge(
        &mut self,
        cluster: &mut LocalCluster,
        writers: &Writers,
        round: &str,
        begun: Instant,
        patience: Duration,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let leader = self.client.at(&cluster.leader_url());
            let standby = leader.at(writers.url(1 - self.leading));
            let followers = cluster.follower_urls().len();
            let missing = unsettled(&leader, &standby, followers).await;
            let is_replaced = match &missing {
                None => epoch(&leader).await? != self.epoch,
                Some(_) => standby.status().await.is_ok_and(|status| status.state == LeaderState::Open),
            };
            if is_replaced {
                self.takeovers.push(format!("after {:.1} s, in the round: {round}", begun.elapsed().as_secs_f64()));
                cluster.leader_ends().await?;
                cluster.swap_leaders()?;
                cluster.start_rival().await?;
                self.leading = 1 - self.leading;
                settled(cluster, writers.url(1 - self.leading), patience).await?;
                self.epoch = epoch(&self.client.at(&cluster.leader_url())).await?;
                return Ok(());
            }
            match missing {
                None => return Ok(()),
                Some(missing) if Instant::now() > deadline => {
                    bail!("the cluster does not settle within {} s: {missing}", patience.as_secs())
                }
                Some(_) => sleep(POLL_INTERVAL).await,
            }
        }
    }
}

fn pause(cluster: &LocalCluster, node: Node) -> Result<()> {
    match node {
        Node::Leader => cluster.pause_leader(),
        Node::Standby => cluster.pause_rivals(),
        Node::Follower(index) => cluster.pause_follower(index),
    }
}

fn resume(cluster: &LocalCluster, node: Node) -> Result<()> {
    match node {
        Node::Leader => cluster.resume_leader(),
        Node::Standby => cluster.resume_rivals(),
        Node::Follower(index) => cluster.resume_follower(index),
    }
}

async fn epoch(leader: &NodeClient) -> Result<Epoch> {
    leader.status().await?.epoch.context("the leader has no epoch")
}
