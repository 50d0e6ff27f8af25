//! `GET /watch`: the values of a key, or of all keys with a prefix, and then each committed change, as server-sent events.
//!
//! The node keeps no events for a client that reads slowly, see [`Watch`](crate::protocol::watch::Watch): only one part of
//! about [`PART_BYTES`] is on its way.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::LeaderSite;
use super::error::ApiError;
use super::kv::{self, Shown};
use super::stream::{PART_BYTES, PART_KEYS, of_events};
use crate::protocol::etag::Etag;
use crate::protocol::types::{Epoch, Key, Record};
use crate::protocol::value::{Base64, InJson};
use crate::protocol::watch::Watched;
use crate::replication::coordinator::Watching;

/// Watches that are open at once.
const WATCHES_MAX: usize = 256;

/// A comment is sent after so long without an event, so that nothing between node and client closes the connection.
const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// How often a watch looks whether this node shuts down or serves no more.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How soon a browser connects again, in milliseconds.
const RETRY_MS: u32 = 1_000;

/// Places for watches.
pub(super) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(WATCHES_MAX))
}

#[derive(Default, Deserialize)]
struct WatchQuery {
    key: Option<String>,
    prefix: Option<String>,
}

/// What a key has, or that it is deleted.
#[derive(Serialize)]
struct Event<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<Base64<'a>>,
    seq: u64,
    etag: Shown<Etag>,
    deleted: bool,
}

/// `GET /watch`.
pub(super) async fn watch(State(state): State<LeaderSite>, uri: Uri) -> Result<Response, ApiError> {
    let begun = std::time::Instant::now();
    let bad = |message: String| ApiError::read(StatusCode::BAD_REQUEST, message);
    let watched = match kv::query(&uri).map_err(bad)? {
        WatchQuery { key: Some(key), prefix: None } if !key.is_empty() => Watched::Key(key.into()),
        WatchQuery { key: None, prefix: Some(prefix) } => Watched::Prefix(prefix.into()),
        _ => return Err(bad("a watch has either key or prefix".to_owned())),
    };
    if state.site.is_draining() {
        return Err(ApiError::not_applied("the leader is shutting down"));
    }
    let place = state.watches.clone().try_acquire_owned();
    let place = place.map_err(|_| ApiError::not_applied(format!("{WATCHES_MAX} watches are open already")))?;
    // What a leader that was replaced has may be older than what a client knows.
    kv::in_time(&state, &uri, begun, state.leader.still_leads()).await?;
    let events = Events::new(state, watched, place);
    Ok(of_events(Body::from_stream(stream::unfold(events, Events::next))))
}

/// The events of one watch.
struct Events {
    state: LeaderSite,
    /// Absent once the last event is sent.
    watching: Option<Watching>,
    epoch: Epoch,
    text: String,
    sent: Instant,
    _place: OwnedSemaphorePermit,
}

impl Events {
    fn new(state: LeaderSite, watched: Watched, place: OwnedSemaphorePermit) -> Self {
        let (epoch, watching) = (state.leader.epoch(), Some(state.leader.watch(watched)));
        let text = format!("retry: {RETRY_MS}\n\n");
        Self { state, watching, epoch, text, sent: Instant::now(), _place: place }
    }

    /// The next part of the answer.
    async fn next(mut self) -> Option<(Result<String, std::convert::Infallible>, Self)> {
        loop {
            let Some(watching) = &mut self.watching else { return None };
            let part = if self.state.site.is_draining() {
                Err("the leader is shutting down".to_owned())
            } else {
                watching.next_part(PART_KEYS, PART_BYTES).map_err(|refusal| refusal.to_string())
            };
            let mut more = false;
            match part {
                Err(message) => {
                    self.text.push_str(&format!("event: end\ndata: {}\n\n", json!({ "message": message })));
                    self.watching = None;
                }
                Ok(part) => {
                    part.changes.iter().for_each(|(key, record)| push_event(&mut self.text, key, record));
                    if part.is_current {
                        let data = json!({"epoch": self.epoch.to_string()});
                        self.text.push_str(&format!("event: current\ndata: {data}\n\n"));
                    }
                    more = part.more;
                }
            }
            if self.text.is_empty() && self.sent.elapsed() >= ALIVE_EVERY {
                self.text.push_str(": alive\n\n");
            }
            if !self.text.is_empty() {
                self.sent = Instant::now();
                // A fast client must not hold up other tasks.
                tokio::task::yield_now().await;
                return Some((Ok(std::mem::take(&mut self.text)), self));
            }
            if more {
                tokio::task::yield_now().await;
            } else if let Some(watching) = &mut self.watching {
                // The time that passes shows whether the node still serves.
                let _ = tokio::time::timeout(LOOK_EVERY, watching.wait()).await;
            }
        }
    }
}

fn push_event(text: &mut String, key: &Key, record: &Record) {
    let value = record.value.as_deref().map(InJson::from);
    let event = Event {
        key,
        value: value.and_then(|value| value.text),
        value_base64: value.and_then(|value| value.base64),
        seq: record.version.seq,
        etag: Shown(Etag::of(record)),
        deleted: record.value.is_none(),
    };
    // Strings and numbers cannot fail to serialise, and JSON has no line breaks.
    text.push_str(&format!("data: {}\n\n", serde_json::to_string(&event).unwrap_or_default()));
}
