//! `GET /leadership`: whether this process leads, now and at each change, as server-sent events.
//!
//! It is for what has to send clients to the leader, such as the operator: it hears of a takeover within milliseconds
//! without asking again and again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures::stream;
use kvcluster_api::status::{LeaderState, Leadership};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::error::ApiError;
use super::stream::of_events;
use super::{LeaderSite, status};

/// Streams that are open at once.
const STREAMS_MAX: usize = 64;

/// A comment is sent after so long without an event, so that the other end notices a connection that is lost.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// How often the state is looked at that nothing reports: a standby that loses its leader, and a node that shuts down.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Places for streams.
pub(super) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(STREAMS_MAX))
}

/// `GET /leadership`.
pub(super) async fn leadership(State(state): State<LeaderSite>) -> Result<Response, ApiError> {
    let place = state.leaderships.clone().try_acquire_owned();
    let place =
        place.map_err(|_| ApiError::not_applied(format!("{STREAMS_MAX} streams of this kind are open already")))?;
    let changes = state.leader.changes();
    let events = Events { state, changes, reported: None, sent: Instant::now(), _place: place };
    Ok(of_events(Body::from_stream(stream::unfold(events, Events::next))))
}

/// The events of one stream.
struct Events {
    state: LeaderSite,
    changes: watch::Receiver<u64>,
    reported: Option<Leadership>,
    sent: Instant,
    _place: OwnedSemaphorePermit,
}

impl Events {
    /// The next part of the answer. Nothing follows after the end of this leader: it would delay the end of its process.
    async fn next(mut self) -> Option<(Result<String, Infallible>, Self)> {
        let ends = |state| matches!(state, LeaderState::Draining | LeaderState::Fenced);
        if self.reported.as_ref().is_some_and(|reported| ends(reported.state)) {
            return None;
        }
        loop {
            // Before the look, so that no later change is missed.
            self.changes.mark_unchanged();
            let now = status::leadership(&self.state);
            let text = if self.reported.as_ref() != Some(&now) {
                // Strings and numbers cannot fail to serialise, and JSON has no line breaks.
                format!("data: {}\n\n", serde_json::to_string(self.reported.insert(now)).unwrap_or_default())
            } else if self.sent.elapsed() >= ALIVE_EVERY {
                ": alive\n\n".to_owned()
            } else {
                let _ = timeout(LOOK_EVERY, self.changes.changed()).await;
                continue;
            };
            self.sent = Instant::now();
            return Some((Ok(text), self));
        }
    }
}
