//! The events of the leader at `GET /live`, from one leader to the next.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::join_all;
use kvcluster_api::status::LeaderStatus;
use reqwest::{Response, StatusCode, header::LOCATION, redirect::Policy};
use serde::Deserialize;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::cluster::RunningCluster;

/// The leader sends four events a second. After this long without one there is a new connection.
const SILENCE: Duration = Duration::from_secs(4);
const RETRY: Duration = Duration::from_millis(500);
/// How long a follower may take to name its leader.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// An event is not longer, with 60 followers.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// What the leader sends.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Update {
    /// The time on the leader's clock.
    pub at_ms: f64,
    /// As in `GET /status`.
    pub status: LeaderStatus,
    /// The KvCluster that decides the settings, `NAMESPACE/NAME`.
    #[serde(default)]
    pub kvcluster: Option<String>,
    /// Of the writes that were committed since the first page opened.
    pub latency: Latency,
}

/// Latencies of committed writes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Latency {
    /// How many writes.
    pub count: u64,
    /// Of all of them.
    pub sum_ms: f64,
    /// From, to and count of each bucket, in microseconds.
    pub buckets: Vec<(u64, u64, u64)>,
}

/// Something new.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// From the leader at this URL.
    Update(String, Box<Update>),
    /// There is no leader to follow, and why. The feed goes on.
    Lost(String),
}

/// Sends events until the receiver is dropped.
///
/// # Errors
/// When the client's token cannot be sent.
pub async fn follow(cluster: &RunningCluster, events: mpsc::Sender<Event>) -> Result<()> {
    let http = cluster.credentials.builder()?.redirect(Policy::none()).build().context("failed to build a client")?;
    let mut leader = cluster.leader_url.clone();
    let mut followers = cluster.follower_urls.clone();
    loop {
        let named = match listen(&http, &leader, &mut followers, &events).await {
            Ok(Ended::Unwatched) => return Ok(()),
            Ok(Ended::Elsewhere(url)) => Some(url),
            Err(error) => {
                if events.send(Event::Lost(format!("{error:#}"))).await.is_err() {
                    return Ok(());
                }
                leader_of(&http, &followers).await
            }
        };
        sleep(RETRY).await;
        // A URL that was named and does not answer may be one that only nodes can reach.
        leader = named.filter(|url| *url != leader).unwrap_or_else(|| cluster.leader_url.clone());
    }
}

enum Ended {
    /// Nobody receives the events.
    Unwatched,
    /// This node names the leader.
    Elsewhere(String),
}

/// Passes on the events of this leader. Learns its followers.
async fn listen(
    http: &reqwest::Client,
    leader: &str,
    followers: &mut Vec<String>,
    events: &mpsc::Sender<Event>,
) -> Result<Ended> {
    let request = timeout(SILENCE, http.get(format!("{leader}/live")).send()).await;
    let mut response =
        request.with_context(|| format!("{leader} is silent"))?.with_context(|| format!("failed to reach {leader}"))?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::TEMPORARY_REDIRECT => {
            let place = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
            let url = place.and_then(|place| place.strip_suffix("/live")).context("a standby names no leader")?;
            return Ok(Ended::Elsewhere(url.to_owned()));
        }
        StatusCode::UNAUTHORIZED => {
            bail!("{leader} asks for the token of a client: --client-token or --client-token-file")
        }
        status => bail!("{leader} answered {status}: {}", response.text().await.unwrap_or_default()),
    }
    let mut read = Vec::new();
    loop {
        let Some(update) = next(&mut response, &mut read).await? else {
            bail!("{leader} ended the connection");
        };
        for url in update.status.followers.iter().filter_map(|follower| follower.url.as_ref()) {
            if !followers.contains(url) {
                followers.push(url.clone());
            }
        }
        if events.send(Event::Update(leader.to_owned(), Box::new(update))).await.is_err() {
            return Ok(Ended::Unwatched);
        }
    }
}

/// The next event; none at the end of the stream.
async fn next(response: &mut Response, read: &mut Vec<u8>) -> Result<Option<Update>> {
    loop {
        if let Some(end) = read.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = read.drain(..end + 2).collect();
            let data = event.strip_prefix(b"data: ").context("an event without data")?;
            return Ok(Some(serde_json::from_slice(data).context("failed to understand an event")?));
        }
        if read.len() > EVENT_BYTES_MAX {
            bail!("an event is longer than {EVENT_BYTES_MAX} bytes");
        }
        let chunk = timeout(SILENCE, response.chunk()).await.context("the leader is silent")?;
        match chunk.context("the connection broke")? {
            Some(chunk) => read.extend_from_slice(&chunk),
            None => return Ok(None),
        }
    }
}

/// The leader that a follower obeys, the first one that answers with one.
async fn leader_of(http: &reqwest::Client, followers: &[String]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        leader: Option<String>,
    }
    let asked = followers.iter().map(|url| async move {
        let response = http.get(format!("{url}/status")).timeout(ASK_TIMEOUT).send().await.ok()?;
        response.json::<Body>().await.ok()?.leader
    });
    join_all(asked).await.into_iter().flatten().next()
}
