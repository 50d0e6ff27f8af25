//! What the leader pods of a cluster report by their streams of `GET /leadership`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kvcluster_api::status::{LeaderState, Leadership};
use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::pods;
use crate::reconcile::leader_client::{LeaderClient, LeaderClients};

/// How long a stream may be silent. A leader sends a comment each second.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// The first pause before a stream that ended, or did not begin, is opened again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));
/// The longest event that is read. One has some hundred bytes.
const EVENT_BYTES_MAX: usize = 16 << 10;

/// A stream of every running leader pod of one cluster. Dropped, they end.
pub(super) struct Streams {
    cluster: Way,
    open: HashMap<(String, String), Open>,
    changed: Arc<Notify>,
}

/// The way to the pods of a cluster. The CAs that it trusts may change.
#[derive(Clone)]
struct Way {
    leaders: Arc<LeaderClients>,
    namespace: String,
    cluster: String,
}

/// The stream of one pod.
struct Open {
    /// The newest event; none while there is no connection.
    newest: Arc<Mutex<Option<Leadership>>>,
    task: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Streams {
    pub(super) fn new(leaders: Arc<LeaderClients>, namespace: &str, cluster: &str) -> Self {
        let cluster = Way { leaders, namespace: namespace.to_owned(), cluster: cluster.to_owned() };
        Self { cluster, open: HashMap::new(), changed: Arc::default() }
    }

    /// Keeps a stream for each of these pods that runs, and no other.
    pub(super) fn keep(&mut self, pods: &[Arc<Pod>]) {
        let address = |pod: &Arc<Pod>| Some((pod.name_any(), pods::running_address(pod)?.to_owned()));
        let running: Vec<(String, String)> = pods.iter().filter_map(address).collect();
        self.open.retain(|pod, _| running.contains(pod));
        for pod in running {
            let (way, changed) = (&self.cluster, &self.changed);
            self.open.entry(pod).or_insert_with_key(|(_, address)| {
                let newest = Arc::default();
                let follow = follow(way.clone(), address.clone(), Arc::clone(&newest), changed.clone());
                Open { newest, task: tokio::spawn(follow).abort_handle() }
            });
        }
    }

    /// Waits until a pod reports something new, or its stream ends.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether every pod reports at once what it does.
    pub(super) fn are_complete(&self) -> bool {
        self.open.values().all(|open| open.newest.lock().is_some())
    }

    /// Whether this pod reports at once what it does.
    pub(super) fn hear(&self, pod: &str) -> bool {
        self.open.iter().any(|((name, _), open)| name == pod && open.newest.lock().is_some())
    }

    /// The pod that leads with the highest epoch, and this.
    pub(super) fn leader(&self) -> Option<(String, Leadership)> {
        let newest = self.open.iter().filter_map(|((pod, _), open)| Some((pod.clone(), open.newest.lock().clone()?)));
        let leading = newest.filter(|(_, leadership)| leadership.state == LeaderState::Open);
        leading.max_by(|(_, one), (_, other)| one.epoch.cmp(&other.epoch))
    }
}

/// Keeps the newest event of the pod at an address.
async fn follow(way: Way, address: String, newest: Arc<Mutex<Option<Leadership>>>, changed: Arc<Notify>) {
    let mut pause = PAUSES.0;
    loop {
        let opened = Instant::now();
        // Each time: the CA may be another one.
        let leader = way.leaders.of(&way.namespace, &way.cluster);
        let ended = read(&leader, &address, |leadership| {
            *newest.lock() = Some(leadership);
            changed.notify_one();
        });
        if let Err(error) = ended.await {
            tracing::debug!(%error, address, "failed to follow who leads");
        }
        if newest.lock().take().is_some() {
            changed.notify_one();
        }
        pause = next_pause(pause, opened.elapsed());
        // Not in step with the streams of other pods.
        let part = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep(pause.mul_f64(part)).await;
    }
}

/// The pause after a stream that lasted so long. It grows while streams end early, as those of a pod that ends, that is lost
/// or that has none.
fn next_pause(pause: Duration, lasted: Duration) -> Duration {
    let (first, longest) = PAUSES;
    if lasted > longest { first } else { (pause * 2).min(longest) }
}

/// Reads events until the stream ends.
async fn read(leader: &LeaderClient, address: &str, mut on_event: impl FnMut(Leadership)) -> anyhow::Result<()> {
    let mut body = leader.leadership(address).await?;
    let mut text = Vec::new();
    loop {
        let frame = timeout(SILENCE_MAX, body.frame()).await;
        let frame = frame.with_context(|| format!("nothing arrived for {SILENCE_MAX:?}"))?;
        let Some(frame) = frame.transpose()? else { return Ok(()) };
        text.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
        while let Some(end) = text.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = text.drain(..end + 2).collect();
            // Other events are comments.
            let data = event.strip_prefix(b"data: ").and_then(|data| serde_json::from_slice(data).ok());
            data.into_iter().for_each(&mut on_event);
        }
        if text.len() > EVENT_BYTES_MAX {
            bail!("an event is longer than {EVENT_BYTES_MAX} bytes");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_streams_end_early() {
        let (first, longest) = PAUSES;
        let mut pause = first;
        let pauses: Vec<Duration> = (0..6)
            .map(|_| {
                pause = next_pause(pause, Duration::ZERO);
                pause
            })
            .collect();
        assert!(pauses.is_sorted() && pauses[0] > first && pauses[5] == longest, "{pauses:?}");
        assert_eq!(next_pause(longest, longest * 2), first);
    }
}
