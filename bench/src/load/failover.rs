//! For how long writes stop when the leader is lost, while a standby waits.
//!
//! Clients that know both leader processes write without pause. Each round the one that leads is killed, paused or asked to
//! hand over; then it comes back as the standby of the other. At the end every acknowledged write must be there.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use kvcluster_api::status::{FollowerState, LeaderState};
use rand::RngExt;
use reqwest::{StatusCode, redirect::Policy};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    client::NodeClient,
    cluster::{LocalCluster, LocalClusterOptions},
    interrupt::Interrupt,
    load::recovery::{until, write},
};

/// How often a condition is looked at while it is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A client gives up on a leader that does not answer for this long, and asks the other one.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// The pause before a client asks again after it was refused.
const RETRY_PAUSE: Duration = Duration::from_millis(2);

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
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Answers that the write was not applied: 503, and 307 to the other process.
    pub refused: u64,
    /// Answers that the outcome is unknown: 500.
    pub indeterminate: u64,
    /// Requests without an answer.
    pub unanswered: u64,
    /// Acknowledged writes that are missing at the end, in words.
    pub lost: Vec<String>,
}

/// An acknowledged write.
#[derive(Clone, Copy)]
struct Acknowledged {
    at: Instant,
    /// Which process acknowledged it.
    by: usize,
}

#[derive(Default)]
struct Counts {
    acknowledged: AtomicU64,
    refused: AtomicU64,
    indeterminate: AtomicU64,
    unanswered: AtomicU64,
}

/// What the clients share.
struct Shared {
    urls: [String; 2],
    http: reqwest::Client,
    counts: Counts,
    recent: Mutex<Vec<Acknowledged>>,
    stop: AtomicBool,
}

impl Shared {
    fn recent(&self) -> std::sync::MutexGuard<'_, Vec<Acknowledged>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one key again and again; returns its last acknowledged value, which is also how often it was written.
    async fn write(&self, client: usize) -> u64 {
        let (mut place, mut written) = (0, 0);
        while !self.stop.load(Ordering::Relaxed) {
            let value = written + 1;
            match self.attempt(place, client, value).await {
                Some(StatusCode::OK) => {
                    written = value;
                    self.counts.acknowledged.fetch_add(1, Ordering::Relaxed);
                    self.recent().push(Acknowledged { at: Instant::now(), by: place });
                    continue;
                }
                Some(StatusCode::INTERNAL_SERVER_ERROR) => &self.counts.indeterminate,
                Some(_) => &self.counts.refused,
                None => &self.counts.unanswered,
            }
            .fetch_add(1, Ordering::Relaxed);
            place = 1 - place;
            sleep(RETRY_PAUSE).await;
        }
        written
    }

    /// Sends a write once; `None` without an answer.
    async fn attempt(&self, place: usize, client: usize, value: u64) -> Option<StatusCode> {
        let body = serde_json::json!({"key": key_of(client), "value": value.to_string()}).to_string();
        let request = self.http.post(format!("{}/put", self.urls[place])).body(body);
        let answer = request.header("idempotency-key", format!("{client}-{value}")).send().await.ok()?;
        let status = answer.status();
        // Read to its end, so that the connection can be used again.
        answer.bytes().await.ok()?;
        Some(status)
    }
}

fn key_of(client: usize) -> String {
    format!("client-{client}")
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
    let http = cluster.credentials().builder()?.redirect(Policy::none()).timeout(ANSWER_TIMEOUT).build()?;
    let shared = Arc::new(Shared {
        urls: [cluster.leader_url(), standby],
        http,
        counts: Counts::default(),
        recent: Mutex::default(),
        stop: AtomicBool::new(false),
    });
    let mut writers = JoinSet::new();
    for client in 0..clients {
        let shared = shared.clone();
        writers.spawn(async move { (client, shared.write(client).await) });
    }
    let (mut gaps_ms, mut leading) = (Vec::new(), 0);
    for round in 0..rounds {
        settled(&cluster, &shared.urls[1 - leading], patience).await?;
        if interrupt.is_requested() {
            break;
        }
        report(&format!("round {} of {rounds}", round + 1), round);
        // So that losses meet every moment between two heartbeats.
        sleep(Duration::from_millis(rand::rng().random_range(200..400))).await;
        gaps_ms.push(lose(&mut cluster, &shared, leading, loss, patience).await?);
        cluster.start_rival().await?;
        leading = 1 - leading;
    }
    settled(&cluster, &shared.urls[1 - leading], patience).await?;
    shared.stop.store(true, Ordering::Relaxed);
    report("reading everything", rounds);
    // Each client ends with an acknowledgement, which may arrive now. The dump has to be later than all of them.
    let mut last_written = Vec::new();
    while let Some(written) = writers.join_next().await {
        last_written.push(written.context("a client panicked")?);
    }
    let dump = NodeClient::with(cluster.credentials(), &cluster.leader_url(), 1)?.dump().await?;
    let mut lost = Vec::new();
    for (client, written) in last_written {
        let found = dump.get(&key_of(client)).and_then(|entry| entry.value.as_text()?.parse::<u64>().ok()).unwrap_or(0);
        if found < written {
            lost.push(format!("{}: {written} was acknowledged, and {found} is there", key_of(client)));
        }
    }
    let missing = (0..fill).filter(|number| !dump.contains_key(&fill_key(*number))).count();
    if missing > 0 {
        lost.push(format!("{missing} of the {fill} keys that were written first"));
    }
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let Counts { acknowledged, refused, indeterminate, unanswered } = &shared.counts;
    Ok(Failover {
        gaps_ms,
        acknowledged: read(acknowledged),
        refused: read(refused),
        indeterminate: read(indeterminate),
        unanswered: read(unanswered),
        lost,
    })
}

/// Loses the leader once. Returns the longest time without an acknowledgement, in ms, from the loss until the next leader
/// acknowledged [`ACKNOWLEDGED_AFTER`] writes. The lost process has ended then, and [`LocalCluster::leader_url`] is the next
/// leader's.
async fn lose(
    cluster: &mut LocalCluster,
    shared: &Shared,
    leading: usize,
    loss: Loss,
    patience: Duration,
) -> Result<f64> {
    shared.recent().clear();
    let begun = Instant::now();
    match loss {
        Loss::Kill => cluster.kill_leader()?,
        Loss::Pause => cluster.pause_leader()?,
        Loss::HandOver => {
            let answer = shared.http.post(format!("{}/hand-over", shared.urls[leading])).send().await;
            answer.and_then(reqwest::Response::error_for_status).context("the leader does not hand over")?;
        }
    }
    let next = 1 - leading;
    let times = loop {
        let recent = shared.recent().clone();
        if recent.iter().filter(|it| it.by == next).count() >= ACKNOWLEDGED_AFTER {
            break recent;
        }
        if begun.elapsed() > patience {
            bail!("writes do not go on within {} s after the leader was lost", patience.as_secs());
        }
        sleep(POLL_INTERVAL).await;
    };
    match loss {
        Loss::Kill => {}
        Loss::Pause => {
            cluster.resume_leader()?;
            cluster.leader_ends().await?;
        }
        Loss::HandOver => _ = cluster.leader_ends().await?,
    }
    cluster.swap_leaders()?;
    Ok(longest_gap_ms(begun, &times))
}

/// The longest time between two acknowledgements, from `begun` on.
fn longest_gap_ms(begun: Instant, acknowledged: &[Acknowledged]) -> f64 {
    let mut times: Vec<Instant> = acknowledged.iter().map(|it| it.at).filter(|at| *at >= begun).collect();
    times.push(begun);
    times.sort_unstable();
    let gaps = times.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_secs_f64() * 1e3);
    gaps.fold(0.0, f64::max)
}

/// Waits until one process leads with every follower and the other is its standby.
async fn settled(cluster: &LocalCluster, standby: &str, patience: Duration) -> Result<()> {
    let leader = NodeClient::with(cluster.credentials(), &cluster.leader_url(), 1)?;
    let standby = leader.at(standby);
    let followers = cluster.follower_urls().len();
    until("the cluster does not settle", patience, async || {
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
    })
    .await
}

fn fill_key(number: u64) -> String {
    format!("fill-{number:09}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_found_among_what_came_after_the_loss() {
        let begun = Instant::now() + Duration::from_secs(1);
        let after = |ms: u64| Acknowledged { at: begun + Duration::from_millis(ms), by: 0 };
        let before = Acknowledged { at: begun - Duration::from_millis(900), by: 0 };
        assert!((longest_gap_ms(begun, &[before, after(730), after(10), after(731)]) - 720.0).abs() < 1e-6);
        assert!((longest_gap_ms(begun, &[after(500), after(600)]) - 500.0).abs() < 1e-6);
    }
}
