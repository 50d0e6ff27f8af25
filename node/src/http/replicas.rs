//! `GET /replicas`: what every follower has of one key, read there now. It shows stale reads where they happen.
//!
//! The leader reads the newest committed value, and then asks each follower as a client of it would, with the token that
//! this client showed. A page of the leader could not ask them itself: a browser keeps the origins of nodes apart, and the
//! followers may be out of its reach.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::LeaderSite;
use super::error::ApiError;
use super::kv;
use crate::protocol::etag::Etag;
use crate::replication::dialer::{Dialer, Read};

/// Requests that are answered at once: each opens a connection to every follower.
const AT_ONCE: usize = 4;

/// A follower that does not answer for so long has an error instead of a value.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of a value that the answer shows.
const SHOWN_BYTES: usize = 200;

/// What the followers are asked with.
#[derive(Debug)]
pub(crate) struct Replicas {
    places: Semaphore,
    dialer: Dialer,
}

impl Replicas {
    /// `dialer` leads to the followers of this leader.
    pub(crate) fn new(dialer: Dialer) -> Self {
        Self { places: Semaphore::new(AT_ONCE), dialer }
    }
}

/// `?key=…`, and nothing else: the followers get it as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KeyQuery {
    key: String,
}

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Everywhere {
    key: String,
    /// The newest committed version at the begin of the request; null where the key was never written.
    seq: Option<u64>,
    /// The begin of its value; null where it has none.
    value: Option<String>,
    replicas: Vec<Replica>,
}

/// What one follower has.
#[derive(Debug, Serialize)]
struct Replica {
    follower: String,
    /// Null where it shows no value.
    seq: Option<u64>,
    value: Option<String>,
    /// Whether it shows an older state than the committed one. Null where it did not answer.
    stale: Option<bool>,
    /// When it answered, after the leader read the committed value.
    after_ms: f64,
    /// Why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// `GET /replicas`.
pub(super) async fn replicas(State(state): State<LeaderSite>, request: Request) -> Result<Json<Everywhere>, ApiError> {
    let (head, _) = request.into_parts();
    let (uri, authorization) = (&head.uri, head.headers.get(header::AUTHORIZATION));
    let KeyQuery { key } = kv::query(uri).map_err(|error| ApiError::read(StatusCode::BAD_REQUEST, error))?;
    if key.is_empty() {
        return Err(ApiError::read(StatusCode::BAD_REQUEST, "Missing key parameter"));
    }
    let Ok(_place) = state.replicas.places.try_acquire() else {
        let message = format!("{AT_ONCE} requests ask the followers already");
        return Err(ApiError::plain(StatusCode::TOO_MANY_REQUESTS, message));
    };
    let record = kv::in_time(&state, uri, Instant::now(), state.leader.read(&key)).await?;
    let newest = record.as_ref().map(|record| (record.version.seq, record.value.is_some()));
    let value = record.as_ref().and_then(|record| record.value.as_deref()).map(shown);
    let (dialer, begun) = (&state.replicas.dialer, Instant::now());
    let places = state.leader.view().followers.into_iter().filter(|place| !place.follower.retired);
    let asked = places.map(move |place| async move {
        let answer = match &place.url {
            Some(url) => timeout(PATIENCE, ask(dialer, url, uri, authorization)).await,
            None => Ok(Err("its address is not known yet".to_owned())),
        };
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())));
        Replica::of(place.follower.name, newest, answer, begun.elapsed())
    });
    let replicas = join_all(asked).await;
    Ok(Json(Everywhere { key, seq: newest.map(|(seq, _)| seq), value, replicas }))
}

/// The version and the value at a follower; `None` where it shows no value.
type Found = Option<(u64, String)>;

async fn ask(dialer: &Dialer, url: &str, uri: &Uri, authorization: Option<&HeaderValue>) -> Result<Found, String> {
    let path = format!("/get?{}&raw=true", uri.query().unwrap_or_default());
    let Read { status, etag, body } =
        dialer.read(url, &path, authorization, SHOWN_BYTES).await.map_err(|error| error.to_string())?;
    let etag = etag.as_deref().and_then(|etag| etag.trim_matches('"').parse::<Etag>().ok());
    match (status, etag) {
        (StatusCode::OK, Some(etag)) => Ok(Some((etag.seq, shown(&body)))),
        (StatusCode::NOT_FOUND, _) => Ok(None),
        _ => Err(format!("it answered {}: {}", status.as_u16(), shown(&body))),
    }
}

impl Replica {
    /// `newest` is the committed version, and whether it has a value.
    fn of(follower: String, newest: Option<(u64, bool)>, answer: Result<Found, String>, after: Duration) -> Self {
        let after_ms = after.as_secs_f64() * 1e3;
        match answer {
            Ok(found) => {
                let stale = match (newest, &found) {
                    (Some((newest, _)), Some((seq, _))) => *seq < newest,
                    (Some((_, has_value)), None) => has_value,
                    (None, _) => false,
                };
                let (seq, value) = found.unzip();
                Self { follower, seq, value, stale: Some(stale), after_ms, message: None }
            }
            Err(message) => Self { follower, seq: None, value: None, stale: None, after_ms, message: Some(message) },
        }
    }
}

/// The begin of a value, as text.
fn shown(value: &[u8]) -> String {
    String::from_utf8_lossy(&value[..value.len().min(SHOWN_BYTES)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_is_stale_where_it_shows_an_older_state() {
        let found = |seq: u64| Some((seq, "value".to_owned()));
        for (newest, found, stale) in [
            (Some((7, true)), found(6), true),
            (Some((7, true)), found(7), false),
            // Not committed yet.
            (Some((7, true)), found(8), false),
            (Some((7, true)), None, true),
            // Deleted: a follower that shows the value is stale.
            (Some((7, false)), found(6), true),
            (Some((7, false)), None, false),
            (None, None, false),
            (None, found(1), false),
        ] {
            let replica = Replica::of("f".to_owned(), newest, Ok(found.clone()), Duration::ZERO);
            assert_eq!(replica.stale, Some(stale), "{newest:?} {found:?}");
        }
        let silent = Replica::of("f".to_owned(), Some((7, true)), Err("no answer".to_owned()), Duration::ZERO);
        assert_eq!((silent.stale, silent.message.as_deref()), (None, Some("no answer")));
    }
}
