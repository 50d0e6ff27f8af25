//! How long a cluster with many keys needs to be itself again: a restarted leader, an emptied follower, everything at once.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use kvcluster_api::status::{FollowerState, LeaderState};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    client::NodeClient,
    cluster::{LocalCluster, LocalClusterOptions},
    load::footprint::{disk_bytes, resident_bytes},
};

/// How often a condition is looked at while it is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A write that is not answered by then has failed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Size of a key, as `key_name` makes them.
pub(crate) const KEY_SIZE_BYTES: u64 = 13;

fn key_name(number: u64) -> String {
    format!("key-{number:09}")
}

/// How large the cluster is that recovers.
#[derive(Clone, Copy, Debug)]
pub struct RecoveryOptions {
    /// Keys to write first.
    pub keys: u64,
    /// Size of each value.
    pub value_size_bytes: usize,
    /// Connections that write, each one write at a time.
    pub connections: usize,
    /// Writes to random keys at the end.
    pub overwrites: u64,
    /// How long anything may take.
    pub patience: Duration,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recovery {
    /// Time until every key was acknowledged.
    pub fill: Duration,
    /// Resident memory of the leader.
    pub leader_bytes: u64,
    /// Resident memory of the follower that has most.
    pub follower_bytes: u64,
    /// Disk space of one follower.
    pub disk_bytes: u64,
    /// From the start of a new leader process until it takes writes.
    pub leader_restart: Duration,
    /// From then on until every follower takes part again.
    pub leader_settles: Duration,
    /// From the start of a follower with an emptied disk until it takes part.
    pub follower_refill: Duration,
    /// From the start of all processes, after a kill -9 of all, until the leader takes writes.
    pub cluster_restart: Duration,
    /// The most disk space that one follower had while keys were overwritten.
    pub disk_bytes_overwriting_max: u64,
    /// Time for the overwrites.
    pub overwrite: Duration,
}

/// Starts the cluster, fills it, and takes it down piece by piece.
///
/// # Errors
/// When a node fails or does not come back in time; the error says which, and shows the end of its log.
pub async fn measure(cluster: LocalClusterOptions, options: RecoveryOptions, say: impl Fn(&str)) -> Result<Recovery> {
    let data = cluster.data_directory.clone().context("recovery is measured with followers that have a disk")?;
    let mut cluster = LocalCluster::start(LocalClusterOptions { start_timeout: options.patience, ..cluster }).await?;
    let client = NodeClient::with(cluster.credentials(), &cluster.leader_url(), options.connections)?;
    let followers = cluster.follower_urls().len();
    let first = data.join("follower1");
    let mut result = Recovery::default();

    say("writing every key");
    let RecoveryOptions { connections, value_size_bytes, .. } = options;
    result.fill = write(&client, connections, options.keys, value_size_bytes, key_name).await?;
    settled(&client, followers, options.patience).await?;
    let (leader, others) = match &cluster.process_ids()[..] {
        [leader, others @ ..] => (*leader, others.to_vec()),
        [] => bail!("no node runs"),
    };
    result.leader_bytes = resident_bytes(leader)?;
    result.follower_bytes =
        others.into_iter().map(resident_bytes).collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(0);
    result.disk_bytes = disk_bytes(&first)?;

    say("restarting the leader");
    cluster.kill_leader()?;
    let begun = Instant::now();
    cluster.start_leader().await?;
    open(&client, options.patience).await?;
    result.leader_restart = begun.elapsed();
    settled(&client, followers, options.patience).await?;
    result.leader_settles = begun.elapsed() - result.leader_restart;

    say("emptying a follower");
    cluster.kill_follower(0)?;
    fs::remove_dir_all(&first).with_context(|| format!("failed to empty {}", first.display()))?;
    let begun = Instant::now();
    cluster.start_follower(0).await?;
    settled(&client, followers, options.patience).await?;
    result.follower_refill = begun.elapsed();

    say("restarting everything");
    cluster.kill_leader()?;
    (0..followers).try_for_each(|index| cluster.kill_follower(index))?;
    let begun = Instant::now();
    cluster.start_all().await?;
    open(&client, options.patience).await?;
    result.cluster_restart = begun.elapsed();
    settled(&client, followers, options.patience).await?;

    say("overwriting random keys");
    let watched = first.clone();
    let most = Arc::new(AtomicU64::new(0));
    let seen = most.clone();
    let watch = tokio::spawn(async move {
        loop {
            // Files come and go while they are counted; the next look counts again.
            seen.fetch_max(disk_bytes(&watched).unwrap_or(0), Ordering::Relaxed);
            sleep(Duration::from_millis(200)).await;
        }
    });
    let keys = options.keys;
    let scattered = move |number: u64| key_name((number ^ (number >> 7)).wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys);
    result.overwrite = write(&client, connections, options.overwrites, value_size_bytes, scattered).await?;
    watch.abort();
    result.disk_bytes_overwriting_max = most.load(Ordering::Relaxed).max(disk_bytes(&first)?);
    Ok(result)
}

/// Writes so many values over so many connections, each to the key with the name of its number; returns how long that took.
pub(super) async fn write(
    client: &NodeClient,
    connections: usize,
    writes: u64,
    value_size_bytes: usize,
    key: impl Fn(u64) -> String + Copy + Send + 'static,
) -> Result<Duration> {
    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let value: Arc<str> = "v".repeat(value_size_bytes).into();
    let mut writers = JoinSet::new();
    for _ in 0..connections {
        let (client, next, value) = (client.clone(), next.clone(), value.clone());
        writers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= writes {
                    return anyhow::Ok(());
                }
                client.write(&key(number), &value, WRITE_TIMEOUT).await?;
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.context("a writer panicked")??;
    }
    Ok(begun.elapsed())
}

/// Waits until the leader takes writes.
async fn open(client: &NodeClient, patience: Duration) -> Result<()> {
    until("the leader does not open", patience, async || match client.status().await {
        Ok(status) if status.state == LeaderState::Open => None,
        Ok(status) => Some(status.message),
        Err(error) => Some(format!("{error:#}")),
    })
    .await
}

/// Waits until every follower takes part and has everything.
async fn settled(client: &NodeClient, followers: usize, patience: Duration) -> Result<()> {
    until("not all followers take part", patience, async || match client.status().await {
        Ok(status) => {
            let streaming =
                status.followers.iter().filter(|follower| follower.state == FollowerState::Streaming).count();
            let backlog = status.writes.backlog;
            (streaming < followers || backlog > 0).then(|| format!("{streaming} of {followers}, backlog {backlog}"))
        }
        Err(error) => Some(format!("{error:#}")),
    })
    .await
}

/// Waits until nothing is missing any more.
pub(super) async fn until(what: &str, patience: Duration, missing: impl AsyncFn() -> Option<String>) -> Result<()> {
    let deadline = Instant::now() + patience;
    while let Some(missing) = missing().await {
        if Instant::now() > deadline {
            bail!("{what} within {} s: {missing}", patience.as_secs());
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}
