//! `GET /live`: what the live page shows, as server-sent events.
//!
//! One task makes an update every [`UPDATE_EVERY`] and every open page gets it. A page that reads
//! slowly skips updates: the node keeps only the newest one. The task ends, and nothing is recorded
//! any more, once no page is open.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use kvcluster_api::status::LeaderStatus;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::MissedTickBehavior;

use super::error::ApiError;
use super::stream::of_events;
use super::{LeaderSite, status};
use crate::metrics::LatencyCounts;
use crate::replication::coordinator::SampledWrite;

/// How often a page gets an update.
const UPDATE_EVERY: Duration = Duration::from_millis(250);

/// Pages that may be open at once.
const PAGES_MAX: usize = 16;

/// The open pages.
#[derive(Debug)]
pub(crate) struct Pages {
    places: Arc<Semaphore>,
    /// The newest update, while a page is open.
    updates: Mutex<Option<watch::Sender<Bytes>>>,
}

impl Default for Pages {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(PAGES_MAX)), updates: Mutex::default() }
    }
}

/// One update of the page.
#[derive(Serialize)]
struct Update<'a> {
    /// On the leader's clock, in milliseconds.
    at_ms: f64,
    /// As in `GET /status`.
    status: LeaderStatus,
    /// The KvCluster that decides the configuration, `NAMESPACE/NAME`.
    kvcluster: Option<&'a str>,
    /// Latencies of the writes that were committed since the first page opened.
    latency: LatencyCounts,
    /// A sample of the writes that ended since the last update.
    writes: Vec<SampledWrite>,
}

/// `GET /live`.
pub(super) async fn live(State(state): State<LeaderSite>) -> Result<Response, ApiError> {
    if state.site.is_draining() {
        return Err(ApiError::not_applied("the leader is shutting down"));
    }
    let place = state.pages.places.clone().try_acquire_owned();
    let place = place.map_err(|_| ApiError::not_applied(format!("{PAGES_MAX} live pages are open already")))?;
    let updates = subscribe(&state);
    Ok(of_events(stream_of(updates, place)))
}

/// Starts the task that makes updates, unless it runs.
fn subscribe(state: &LeaderSite) -> watch::Receiver<Bytes> {
    let mut updates = state.pages.updates.lock();
    let sender = updates.get_or_insert_with(|| {
        state.leader.sample(true);
        state.metrics.latencies.switch(true);
        tokio::spawn(publish(state.clone()));
        watch::Sender::new(update(state))
    });
    let mut receiver = sender.subscribe();
    receiver.mark_changed();
    receiver
}

async fn publish(state: LeaderSite) {
    let mut ticks = tokio::time::interval(UPDATE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is immediate, and the first update exists already.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let mut updates = state.pages.updates.lock();
        let Some(sender) = updates.as_ref().filter(|sender| sender.receiver_count() > 0) else {
            return end(&state, &mut updates);
        };
        sender.send_replace(update(&state));
        // The pages would delay the shutdown. Without a sender their streams end.
        if state.site.is_draining() {
            return end(&state, &mut updates);
        }
    }
}

fn end(state: &LeaderSite, updates: &mut Option<watch::Sender<Bytes>>) {
    state.leader.sample(false);
    state.metrics.latencies.switch(false);
    *updates = None;
}

fn update(state: &LeaderSite) -> Bytes {
    let update = Update {
        at_ms: state.leader.now_us() as f64 / 1e3,
        status: status::of_leader(state),
        kvcluster: state.site.kvcluster.as_deref(),
        latency: state.metrics.latencies.counts(),
        writes: state.leader.take_samples(),
    };
    // Numbers and strings cannot fail to serialise, and JSON has no line breaks.
    format!("data: {}\n\n", serde_json::to_string(&update).unwrap_or_default()).into()
}

fn stream_of(updates: watch::Receiver<Bytes>, place: OwnedSemaphorePermit) -> Body {
    Body::from_stream(stream::unfold((updates, place), |(mut updates, place)| async move {
        updates.changed().await.ok()?;
        let newest = updates.borrow_and_update().clone();
        Some((Ok::<_, std::convert::Infallible>(newest), (updates, place)))
    }))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::super::Site;
    use super::super::replicas::Replicas;
    use super::*;
    use crate::replication::coordinator::Coordinator;
    use crate::replication::dialer::Dialer;

    fn site() -> LeaderSite {
        LeaderSite {
            site: Site::for_tests(),
            leader: Coordinator::for_tests(),
            metrics: Arc::default(),
            resizable: false,
            backups: Arc::new(Semaphore::new(1)),
            hand_over: Arc::default(),
            pages: Arc::default(),
            replicas: Arc::new(Replicas::new(Dialer::new(String::new(), None, None))),
            watches: Arc::new(Semaphore::new(1)),
            leaderships: Arc::new(Semaphore::new(1)),
        }
    }

    /// Writes are recorded from the first page to the last one, and from nothing for the next.
    #[tokio::test(start_paused = true)]
    async fn nothing_is_recorded_while_no_page_is_open() {
        let state = site();
        let latencies = &state.metrics.latencies;
        let counted = |expected: u64, when: &str| {
            latencies.observe(0.1);
            assert_eq!((latencies.counts().count, state.leader.is_sampling()), (expected, expected > 0), "{when}");
        };
        counted(0, "before the first page");
        let (first, second) = (subscribe(&state), subscribe(&state));
        counted(1, "with two pages");
        drop(first);
        tokio::time::sleep(UPDATE_EVERY * 3).await;
        counted(2, "with one page");
        drop(second);
        tokio::time::sleep(UPDATE_EVERY * 3).await;
        assert!(!state.leader.is_sampling() && state.pages.updates.lock().is_none(), "after the last page");
        counted_nothing_more(latencies);
        let _third = subscribe(&state);
        counted(1, "from nothing with the next page");
    }

    fn counted_nothing_more(latencies: &crate::metrics::Latencies) {
        let before = latencies.counts();
        latencies.observe(0.1);
        assert_eq!(latencies.counts(), before);
    }

    /// A page that reads nothing for a while costs the memory of one update, and continues with the newest.
    #[tokio::test]
    async fn a_slow_page_gets_the_newest_update() {
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a place");
        let sender = watch::Sender::new(Bytes::from_static(b"0"));
        let mut body = stream_of(sender.subscribe(), place);
        (1..=1000).for_each(|update| drop(sender.send_replace(update.to_string().into())));
        let first = body.frame().await.expect("an update").expect("no error").into_data().expect("data");
        assert_eq!(first, "1000");
        sender.send_replace(Bytes::from_static(b"last"));
        drop(sender);
        assert_eq!(body.collect().await.expect("an end").to_bytes(), "last");
    }
}
