//! For how long writes stop when the leader is lost, while a standby waits.
//!
//! Clients that know both leader processes write without pause. Each round the one that leads is killed, paused or asked to
//! hand over; then it comes back as the standby of the other. At the end every acknowledged write must be there.

pub mod etcd;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use kvcluster_api::status::{FollowerState, LeaderState};
use rand::RngExt;
use tokio::time::{Instant, sleep};

use super::writers::{Answers, Servers, Writers};
use crate::{
    client::NodeClient,
    cluster::{LocalCluster, LocalClusterOptions},
    interrupt::Interrupt,
    load::recovery::{until, write},
};

/// How often a condition is looked at while it is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Connections that write the further keys, and the size of their values.
const FILL_CONNECTIONS: usize = 64;
const FILL_VALUE_BYTES: usize = 100;

/// How many acknowledgements of the next leader end a round.
const ACKNOWLEDGED_AFTER: usize = 50;

/// How the leading process is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Loss {
    /// kill -9.
    Kill,
    /// SIGSTOP: to all others it looks like a machine that is cut off. It goes on once another one leads.
    Pause,
    /// `POST /hand-over`.
    HandOver,
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct FailoverOptions {
    /// How often the leader is lost.
    pub rounds: u64,
    /// How it is lost.
    pub loss: Loss,
    /// Clients that write, each one write at a time.
    pub clients: usize,
    /// Further keys that are written first.
    pub fill: u64,
    /// How long anything may take.
    pub patience: Duration,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Failover {
    /// Of each round: the longest time without an acknowledgement, in ms.
    pub gaps_ms: Vec<f64>,
    /// What clients saw.
    pub answers: Answers,
    /// Acknowledged writes that are missing at the end, in words.
    pub lost: Vec<String>,
}

/// Starts a cluster with a leader and its standby, and loses the one that leads again and again.
///
/// # Errors
/// When a node fails or no standby takes over in time; the error shows the end of a log.
pub async fn measure(
    cluster: LocalClusterOptions,
    options: FailoverOptions,
    interrupt: &Interrupt,
    report: impl Fn(&str, u64),
) -> Result<Failover> {
    let FailoverOptions { rounds, loss, clients, fill, patience } = options;
    report("starting the cluster", 0);
    let mut cluster = LocalCluster::start(LocalClusterOptions { start_timeout: patience, ..cluster }).await?;
    let client = NodeClient::with(cluster.credentials(), &cluster.leader_url(), FILL_CONNECTIONS)?;
    write(&client, FILL_CONNECTIONS, fill, FILL_VALUE_BYTES, fill_key).await?;
    let (_, standby) = cluster.start_rival().await?;
    let writers = Writers::start(Servers::Nodes, vec![cluster.leader_url(), standby], cluster.credentials(), clients)?;
    let (mut gaps_ms, mut leading) = (Vec::new(), 0);
    for round in 0..rounds {
        settled(&cluster, writers.url(1 - leading), patience).await?;
        if interrupt.is_requested() {
            break;
        }
        report(&format!("round {} of {rounds}", round + 1), round);
        // So that losses meet every moment between two heartbeats.
        sleep(Duration::from_millis(rand::rng().random_range(200..400))).await;
        gaps_ms.push(lose(&mut cluster, &writers, leading, loss, patience).await?.as_secs_f64() * 1e3);
        cluster.start_rival().await?;
        leading = 1 - leading;
    }
    settled(&cluster, writers.url(1 - leading), patience).await?;
    report("reading everything", rounds);
    // Each client ends with an acknowledgement, which may arrive now. The dump has to be later than all of them.
    let (answers, last_writes) = writers.finish().await?;
    let dump = NodeClient::with(cluster.credentials(), &cluster.leader_url(), 1)?.dump().await?;
    let mut lost = last_writes.lost_in(&dump);
    let missing = (0..fill).filter(|number| !dump.contains_key(&fill_key(*number))).count();
    if missing > 0 {
        lost.push(format!("{missing} of the {fill} keys that were written first"));
    }
    Ok(Failover { gaps_ms, answers, lost })
}

/// Loses the leader once. Returns the longest time without an acknowledgement, from the loss until the next leader
/// acknowledged [`ACKNOWLEDGED_AFTER`] writes. The lost process has ended then, and [`LocalCluster::leader_url`] is the next
/// leader's.
async fn lose(
    cluster: &mut LocalCluster,
    writers: &Writers,
    leading: usize,
    loss: Loss,
    patience: Duration,
) -> Result<Duration> {
    writers.begin();
    let begun = Instant::now();
    match loss {
        Loss::Kill => cluster.kill_leader()?,
        Loss::Pause => cluster.pause_leader()?,
        Loss::HandOver => {
            let leader = NodeClient::with(cluster.credentials(), writers.url(leading), 1)?;
            leader.hand_over().await.context("the leader does not hand over")?;
        }
    }
    while writers.acknowledged_by(1 - leading) < ACKNOWLEDGED_AFTER {
        if begun.elapsed() > patience {
            bail!("writes do not go on within {} s after the leader was lost", patience.as_secs());
        }
        sleep(POLL_INTERVAL).await;
    }
    let gap = writers.longest_gap();
    match loss {
        Loss::Kill => {}
        Loss::Pause => {
            cluster.resume_leader()?;
            cluster.leader_ends().await?;
        }
        Loss::HandOver => _ = cluster.leader_ends().await?,
    }
    cluster.swap_leaders()?;
    Ok(gap)
}

/// Waits until one process leads with every follower and the other is its standby.
pub(super) async fn settled(cluster: &LocalCluster, standby: &str, patience: Duration) -> Result<()> {
    let leader = NodeClient::with(cluster.credentials(), &cluster.leader_url(), 1)?;
    let standby = leader.at(standby);
    let followers = cluster.follower_urls().len();
    until("the cluster does not settle", patience, async || unsettled(&leader, &standby, followers).await).await
}

/// What is missing until one process leads with every follower and the other is its standby, in words.
pub(super) async fn unsettled(leader: &NodeClient, standby: &NodeClient, followers: usize) -> Option<String> {
    let (leads, waits) = match (leader.status().await, standby.status().await) {
        (Ok(leads), Ok(waits)) => (leads, waits),
        (Err(error), _) | (_, Err(error)) => return Some(format!("{error:#}")),
    };
    let streaming = leads.followers.iter().filter(|it| it.state == FollowerState::Streaming).count();
    let settled = leads.state == LeaderState::Open && streaming == followers && waits.state == LeaderState::Standby;
    (!settled).then(|| {
        let (leads, waits) = (leads.state, waits.state);
        format!("the leader is {leads} with {streaming} of {followers} followers, the other process is {waits}")
    })
}

fn fill_key(number: u64) -> String {
    format!("fill-{number:09}")
}
