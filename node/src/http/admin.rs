//! The routes for operators, probes and monitoring.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use kvcluster_api::config::{ConfigPatch, ConfigView, LiveConfig};
use kvcluster_api::status::{FollowerStatus, LeaderState, LeaderStatus};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::body::{self, parse};
use super::error::ApiError;
use super::{FollowerSite, LeaderSite, status};
use crate::metrics;
use crate::replication::coordinator::Condition;

/// A follower that has not heard from a leader for this long is not ready.
const CONTACT_MAX: Duration = Duration::from_secs(5);

/// Longest `wait_ms`.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// The newest known configuration with the values of `patch`.
fn patched(patch: &ConfigPatch, known: &LiveConfig, resizable: bool) -> Result<LiveConfig, ApiError> {
    if let Some(followers) = patch.followers
        && followers != known.followers
        && !resizable
    {
        let message = format!(
            "the followers are listed by URL ({}): their number changes with the list, not to {followers}",
            known.followers
        );
        return Err(ApiError::bad(message));
    }
    let wanted = patch.applied_to(known)?;
    if wanted.generation < known.generation || (wanted.generation == known.generation && wanted != *known) {
        let message =
            format!("generation {} is not above the newest known generation {}", wanted.generation, known.generation);
        return Err(ApiError::plain(StatusCode::CONFLICT, message));
    }
    Ok(wanted)
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct WaitQuery {
    #[serde(default)]
    wait_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecoverBody {
    accept_data_loss: bool,
}

/// `GET /config`.
pub(super) async fn config(State(state): State<LeaderSite>) -> Json<ConfigView> {
    Json(state.leader.config())
}

/// `PATCH /config`.
pub(super) async fn configure(
    State(state): State<LeaderSite>,
    query: Result<Query<WaitQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(WaitQuery { wait_ms }) = query.map_err(|rejection| ApiError::bad(rejection.body_text()))?;
    let body = body::read(&state.site, request.into_body(), state.site.body_bytes_max()).await?;
    let patch: ConfigPatch = parse(&body)?;
    let leader = &state.leader;
    let generation = leader.configure(|known| patched(&patch, known, state.resizable))?;

    let mut changes = leader.changes();
    let until = Instant::now() + Duration::from_millis(wait_ms).min(WAIT_MAX);
    let in_force = || leader.generation_in_force() >= generation;
    while !in_force() && matches!(timeout_at(until, changes.changed()).await, Ok(Ok(()))) {}
    let status = if in_force() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(state.leader.config())).into_response())
}

/// `POST /recover`.
pub(super) async fn recover(State(state): State<LeaderSite>, request: Request) -> Result<Response, ApiError> {
    let body = body::read(&state.site, request.into_body(), state.site.body_bytes_max()).await?;
    let RecoverBody { accept_data_loss } = parse(&body)?;
    if !accept_data_loss {
        return Err(ApiError::bad("nothing to do: accept_data_loss is false"));
    }
    if !state.leader.accept_loss() {
        return Err(ApiError::plain(StatusCode::CONFLICT, "the leader is not recovering"));
    }
    warn!("data loss accepted: opening with the state of the followers that answered");
    Ok(Json(json!({"ok": true})).into_response())
}

/// `POST /hand-over`: the leader answers what is under way, reports to its followers that it stops, and ends. A standby
/// takes over at once.
pub(super) async fn hand_over(State(state): State<LeaderSite>) -> Result<Response, ApiError> {
    if !matches!(state.leader.condition(), Condition::Open(_) | Condition::CutOff(_)) {
        return Err(ApiError::plain(StatusCode::CONFLICT, "this node does not lead"));
    }
    state.hand_over.notify_one();
    Ok((StatusCode::ACCEPTED, Json(json!({"ok": true, "message": "handing over"}))).into_response())
}

/// `GET /status` at a leader.
pub(super) async fn leader_status(State(state): State<LeaderSite>) -> Json<LeaderStatus> {
    Json(status::of_leader(&state))
}

/// `GET /readyz` at a leader: 200 while it is open, and while it is a standby whose copy of the state is complete.
pub(super) async fn leader_ready(State(state): State<LeaderSite>) -> Response {
    let condition = state.leader.condition();
    let (now, message) = status::describe(&condition, state.site.is_draining());
    let message = if message.is_empty() { now.to_string() } else { message };
    let works = match &condition {
        Condition::CutOff(_) => false,
        Condition::Candidate(candidate, _) => candidate.leader.is_some() && candidate.copied,
        _ => now == LeaderState::Open,
    };
    ready(works, &message)
}

/// `GET /healthz` at a leader: 503 once another leader replaced it, since it has to be restarted.
pub(super) async fn leader_health(State(state): State<LeaderSite>) -> Response {
    match state.leader.fenced_by() {
        Some(by) => ready(false, &format!("replaced by the leader of epoch {by}")),
        None => Json(json!({"ok": true})).into_response(),
    }
}

/// `GET /metrics` at a leader.
pub(super) async fn leader_metrics(State(state): State<LeaderSite>) -> Response {
    metrics_page(metrics::of_leader(&state.metrics, state.leader.view(), state.site.files()))
}

/// `GET /status` at a follower.
pub(super) async fn follower_status(State(state): State<FollowerSite>) -> Json<FollowerStatus> {
    Json(status::of_follower(&state))
}

/// `GET /readyz` at a follower: 200 when it has the whole state of a leader that it heard within [`CONTACT_MAX`].
pub(super) async fn follower_ready(State(state): State<FollowerSite>) -> Response {
    let view = state.replica.view();
    let synced = view.hello.synced.as_ref().is_some_and(|synced| synced.epoch == view.hello.promised);
    match view.heard {
        _ if state.site.is_draining() => ready(false, "shutting down"),
        _ if !synced => ready(false, "waiting for a leader to install its state"),
        Some(heard) if heard <= CONTACT_MAX => ready(true, "synced"),
        _ => ready(false, "no message of the leader arrived for a while"),
    }
}

/// `GET /healthz` at a follower.
pub(super) async fn follower_health() -> Json<Value> {
    Json(json!({"ok": true}))
}

/// `GET /metrics` at a follower.
pub(super) async fn follower_metrics(State(state): State<FollowerSite>) -> Response {
    metrics_page(metrics::of_follower(&state.replica, state.site.files()))
}

fn ready(ok: bool, message: &str) -> Response {
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ok": ok, "message": message}))).into_response()
}

fn metrics_page(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}
