//! The follower's routes.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{debug, info};

use super::FollowerSite;
use super::answer::{self, Answer};
use super::body::{self, Field, ValueField, parse};
use super::connections::bare;
use super::error::ApiError;
use super::kv::{GetQuery, Got, Shown, the_key};
use crate::protocol::etag::Etag;
use crate::replication::link::LEADER_HEADER;
use crate::replication::replica::Found;
use crate::replication::session::Connection;
use crate::replication::wire::PROTOCOL;

/// Maximum number of connected leaders: the present one, and others that are starting or were
/// replaced.
pub(super) const LEADERS_MAX: usize = 16;

#[derive(Deserialize)]
struct ReplicateBody<'a> {
    #[serde(borrow, default)]
    key: Field<'a>,
    #[serde(borrow, default)]
    value: Field<'a>,
    #[serde(borrow, default)]
    value_base64: Field<'a>,
    #[serde(default)]
    seq: Option<Value>,
}

/// `POST /replicate`: stores one write without the replication protocol.
pub(super) async fn replicate(State(state): State<FollowerSite>, request: Request) -> Result<Response, ApiError> {
    let body = body::read(&state.site, request.into_body(), state.site.body_bytes_max()).await?;
    let ReplicateBody { key, value, value_base64, seq } = parse(&body)?;
    let (key, value, seq) = match (key, ValueField::of(value, value_base64)?, seq) {
        (Field::Absent, ..) | (_, ValueField::Absent, _) | (.., None) => {
            return Err(ApiError::bad("Missing key, value or seq"));
        }
        (Field::Text(key), ..) if key.is_empty() => {
            return Err(ApiError::bad("Missing key, value or seq"));
        }
        (Field::Text(key), ValueField::Bytes(value), Some(seq)) => (key, value, seq),
        _ => return Err(ApiError::bad("key and value must be strings")),
    };
    let Some(seq) = seq.as_u64() else {
        return Err(ApiError::bad(format!("seq must be a whole number of 0 or more, not {seq}")));
    };
    if key.len() > state.site.key_bytes_max || value.len() > state.site.value_bytes_max {
        return Err(ApiError::plain(StatusCode::PAYLOAD_TOO_LARGE, "the key or the value is too long"));
    }
    let taken = state.replica.replicate(&key, &value, seq);
    taken.map_err(|full| ApiError::not_applied(full.to_string()))?;
    Ok(Json(json!({"ok": true})).into_response())
}

/// `GET /replication`: upgrades a connection of a leader to the replication protocol.
pub(super) async fn replication(State(state): State<FollowerSite>, headers: HeaderMap, request: Request) -> Response {
    let asked = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if asked != Some(PROTOCOL) {
        let message = format!("this follower speaks {PROTOCOL}, not {}", asked.unwrap_or("plain HTTP"));
        let mut response = ApiError::plain(StatusCode::UPGRADE_REQUIRED, message).into_response();
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
        return response;
    }
    let leader = headers.get(LEADER_HEADER).and_then(|value| value.to_str().ok()).unwrap_or("unknown");
    let leader: Arc<str> = leader.into();
    let Ok(place) = state.leaders.clone().try_acquire_owned() else {
        return ApiError::not_applied(format!("{LEADERS_MAX} leaders are connected already")).into_response();
    };
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let _place = place;
        let connection = match upgrade.await.map(bare) {
            Ok(Some((stream, read))) => {
                let (reader, writer) = stream.into_split();
                Connection { reader, writer, read }
            }
            Ok(None) => return debug!(%leader, "failed to take over a connection that is not over TCP"),
            Err(error) => return debug!(%leader, %error, "failed to take over a connection"),
        };
        info!(%leader, "leader connected");
        match state.replica.serve(connection, leader.clone()).await {
            Ok(()) => info!(%leader, "leader disconnected"),
            Err(error) => info!(%leader, %error, "leader disconnected"),
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// A route of the leader at a follower: 404 that names the leader.
pub(super) async fn not_the_leader(State(state): State<FollowerSite>, uri: Uri) -> ApiError {
    let (leader, path) = (state.replica.leader(), uri.path());
    let message = match &leader {
        Some(leader) => format!("this node is a follower: {path} goes to the leader at {leader}"),
        None => format!("this node is a follower: {path} goes to the leader"),
    };
    ApiError::plain(StatusCode::NOT_FOUND, message.clone()).with("error", message).with("leader", leader.as_deref())
}

/// An unknown route at a follower: 404 that names the leader, which may be of another version.
pub(super) async fn no_route(State(state): State<FollowerSite>, uri: Uri) -> ApiError {
    ApiError::no_route(uri.path()).with("leader", state.replica.leader().as_deref())
}

/// `GET /get`: the value at this follower, and how stale it may be.
pub(super) async fn get(state: &FollowerSite, uri: &Uri) -> Result<Answer, ApiError> {
    let GetQuery { key, raw, .. } = the_key(uri)?;
    let Found { shown, staleness, restoring } = state.replica.get(&key);
    let staleness_ms = Some(staleness.map(|staleness| staleness.as_secs_f64() * 1e3));
    let found = match shown {
        // Neither a value nor its absence is meaningful until the restore is complete.
        _ if restoring => Err(ApiError::unfinished_restore()),
        Some(found) => Ok(found),
        None => Err(ApiError::read(StatusCode::NOT_FOUND, "Key not found")),
    };
    let found = found.map_err(|error| error.with("staleness_ms", staleness_ms.flatten()))?;
    let etag = Some(Etag::new(found.seq, Some(&found.value)));
    if raw {
        return answer::raw(&state.site.answers, found.value, etag);
    }
    let got = Got { epoch: found.epoch.map(Shown), staleness_ms, ..Got::new(&key, &found.value, found.seq) };
    answer::read(&state.site.answers, found.value.len(), &got, etag).await
}
