//! The routes for operators, probes and machines.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::body::{self, parse};
use super::error::ApiError;
use super::{FollowerSite, LeaderSite};
use crate::config::LiveConfig;
use crate::metrics;
use crate::protocol::leader::RecoveryView;
use crate::protocol::types::Epoch;
use crate::replication::coordinator::{Condition, ConfigView, PlaceView};
use crate::shown::{PendingConfig, ShownConfig};

/// A follower that has not heard from a leader for this long is not ready.
const CONTACT_MAX: Duration = Duration::from_secs(5);

/// Longest `wait_ms`.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// What may be changed; what is absent stays.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigPatch {
    generation: Option<u64>,
    write_quorum: Option<u16>,
    followers: Option<u16>,
    min_delay_ms: Option<u32>,
    max_delay_ms: Option<u32>,
    replication_timeout_ms: Option<u32>,
}

impl ConfigPatch {
    /// The configuration that this patch makes of the newest known one.
    fn apply(&self, known: &LiveConfig, resizable: bool) -> Result<LiveConfig, ApiError> {
        if let Some(followers) = self.followers
            && followers != known.followers
            && !resizable
        {
            let message = format!(
                "the followers are listed by URL ({}): their number changes with the list, not to {followers}",
                known.followers
            );
            return Err(ApiError::bad(message));
        }
        let wanted = LiveConfig {
            generation: self.generation.unwrap_or(known.generation.saturating_add(1)),
            write_quorum: self.write_quorum.unwrap_or(known.write_quorum),
            followers: self.followers.unwrap_or(known.followers),
            min_delay_ms: self.min_delay_ms.unwrap_or(known.min_delay_ms),
            max_delay_ms: self.max_delay_ms.unwrap_or(known.max_delay_ms),
            replication_timeout_ms: self.replication_timeout_ms.unwrap_or(known.replication_timeout_ms),
        };
        if wanted.generation < known.generation || (wanted.generation == known.generation && wanted != *known) {
            let message = format!(
                "generation {} is not above the newest known generation {}",
                wanted.generation, known.generation
            );
            return Err(ApiError::plain(StatusCode::CONFLICT, message));
        }
        Ok(wanted)
    }
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
pub(super) async fn config(State(state): State<LeaderSite>) -> Json<ShownConfig> {
    Json(show_config(state.leader.config(), state.leader.seed()))
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
    let generation = leader.configure(|known| patch.apply(known, state.resizable))?;

    let mut changes = leader.changes();
    let until = Instant::now() + Duration::from_millis(wait_ms).min(WAIT_MAX);
    let in_force = || leader.generation_in_force() >= generation;
    while !in_force() && matches!(timeout_at(until, changes.changed()).await, Ok(Ok(()))) {}
    let status = if in_force() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(show_config(state.leader.config(), state.leader.seed()))).into_response())
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
    warn!("data loss accepted: opening with what the followers that answered hold");
    Ok(Json(json!({"ok": true})).into_response())
}

/// `GET /status` at a leader.
pub(super) async fn leader_status(State(state): State<LeaderSite>) -> Json<Value> {
    let view = state.leader.view();
    let (name, message) = describe(&view.condition, state.site.is_draining());
    let in_force = &view.config.in_force;
    let (n, w) = (u32::from(in_force.followers), u32::from(in_force.write_quorum));
    Json(json!({
        "role": "leader",
        "name": &*state.site.name,
        "version": env!("CARGO_PKG_VERSION"),
        "state": name,
        "message": message,
        "epoch": show_epoch(view.epoch),
        "keys": view.keys,
        "restore": view.restore,
        "writes": {
            "accepted": view.accepted, "committed": view.committed,
            "in_flight": view.in_flight, "backlog": view.backlog,
        },
        "tolerates": {
            "followers_down": n - w, "disks_lost": w - 1, "followers_needed_to_restart": (n - w + 1).max(w),
        },
        "recovery": view.recovery.as_ref().map(show_recovery),
        "followers": view.followers.into_iter().map(show_follower).collect::<Vec<_>>(),
        "config": show_config(view.config, state.leader.seed()),
    }))
}

/// The state of a leader, and in one sentence what it waits for.
fn describe(condition: &Condition, draining: bool) -> (&'static str, String) {
    match condition {
        Condition::Fenced(by) => ("fenced", format!("replaced by the leader of epoch {by}")),
        Condition::Recovering(recovery) => ("recovering", recovery_message(recovery)),
        Condition::Opening(Some((stored, needed))) => {
            ("recovering", format!("installing the recovered state: {stored} followers have it, {needed} are needed"))
        }
        Condition::Opening(None) => ("recovering", "installing the recovered state".to_owned()),
        Condition::Open(_) if draining => ("draining", "shutting down: no new writes".to_owned()),
        Condition::Open(restore) => ("open", restore.as_ref().map_or(String::new(), ToString::to_string)),
    }
}

fn recovery_message(view: &RecoveryView) -> String {
    let RecoveryView { needed, answered, counting, blank, size, opened_before } = view;
    match needed {
        None if *opened_before && answered == blank => format!(
            "this cluster had been open, but {answered} of {size} followers answered and all are blank: its writes are \
             lost, or on followers that are missing. POST /recover {{\"accept_data_loss\":true}} opens it empty"
        ),
        None if answered == blank => format!(
            "waits for all {size} followers: {answered} answered and are blank, and only all of them prove a new cluster"
        ),
        None => format!("waits for followers: {answered} of {size} answered"),
        Some(needed) if counting < needed => format!(
            "waits for {needed} followers that hold state: {counting} of {size} answered ({blank} more are blank); any \
             acknowledged write could be on the missing ones. If they are lost for good, \
             POST /recover {{\"accept_data_loss\":true}} opens without them"
        ),
        Some(_) => format!("merges the state of {counting} followers"),
    }
}

fn show_recovery(view: &RecoveryView) -> Value {
    json!({
        "needed": view.needed, "answered": view.answered, "non_blank": view.counting, "blank": view.blank,
        "message": recovery_message(view),
    })
}

fn show_follower(place: PlaceView) -> Value {
    let PlaceView { follower, url, last_error } = place;
    json!({
        "name": follower.name,
        "url": url,
        "id": follower.id.map(|id| id.to_string()),
        "state": follower.state,
        "member": follower.member,
        "retiring": follower.retired,
        "lag_writes": follower.lag_writes,
        "lag_ms": follower.lag_us as f64 / 1e3,
        "config_generation": follower.generation,
        "last_error": last_error,
    })
}

fn show_epoch(epoch: Epoch) -> Value {
    json!({"term": epoch.term, "leader": format!("{:016x}", epoch.leader)})
}

fn show_config(config: ConfigView, seed: u64) -> ShownConfig {
    let LiveConfig { generation, write_quorum, followers, min_delay_ms, max_delay_ms, replication_timeout_ms } =
        config.in_force;
    let pending = config.pending.map(|(wanted, message)| {
        let LiveConfig { generation, write_quorum, followers, .. } = wanted;
        PendingConfig { generation, write_quorum: write_quorum.into(), followers: followers.into(), message }
    });
    ShownConfig {
        generation,
        write_quorum: write_quorum.into(),
        followers: followers.into(),
        min_delay_ms: min_delay_ms.into(),
        max_delay_ms: max_delay_ms.into(),
        replication_timeout_ms: replication_timeout_ms.into(),
        delay_seed: Some(seed),
        pending,
    }
}

/// `GET /readyz` at a leader: open.
pub(super) async fn leader_ready(State(state): State<LeaderSite>) -> Response {
    let (name, message) = describe(&state.leader.condition(), state.site.is_draining());
    let message = if message.is_empty() { name.to_owned() } else { message };
    ready(name == "open", &message)
}

/// `GET /healthz` at a leader: a replaced one has to be restarted, so it is not well.
pub(super) async fn leader_health(State(state): State<LeaderSite>) -> Response {
    match state.leader.fenced_by() {
        Some(by) => ready(false, &format!("replaced by the leader of epoch {by}")),
        None => Json(json!({"ok": true})).into_response(),
    }
}

/// `GET /metrics` at a leader.
pub(super) async fn leader_metrics(State(state): State<LeaderSite>) -> Response {
    metrics_page(metrics::of_leader(&state.metrics, state.leader.view()))
}

/// `GET /status` at a follower.
pub(super) async fn follower_status(State(state): State<FollowerSite>) -> Json<Value> {
    let view = state.replica.view();
    let hello = &view.hello;
    let found = state.replica.found();
    let synced = hello.synced.as_ref();
    let promised = Some(hello.promised).filter(|promised| *promised > Epoch::default());
    let name = match synced {
        None if promised.is_none() => "blank",
        Some(synced) if synced.epoch == hello.promised => "synced",
        _ => "installing",
    };
    Json(json!({
        "role": "follower",
        "name": &*state.site.name,
        "version": env!("CARGO_PKG_VERSION"),
        "id": hello.id.to_string(),
        "state": name,
        "epoch": synced.map(|synced| show_epoch(synced.epoch)),
        "promised": promised.map(show_epoch),
        "write_quorum": synced.map(|synced| synced.config.quorum),
        "keys": view.keys,
        "durability": if found.is_some() { "disk" } else { "memory" },
        "disk": found.map(|found| json!({"found": found.word(), "message": found.to_string()})),
        "leader": view.leader,
        "staleness_ms": view.staleness.map(|staleness| staleness.as_secs_f64() * 1e3),
    }))
}

/// `GET /readyz` at a follower: it has a leader's whole state, and heard from that leader a moment ago.
pub(super) async fn follower_ready(State(state): State<FollowerSite>) -> Response {
    let view = state.replica.view();
    let synced = view.hello.synced.as_ref().is_some_and(|synced| synced.epoch == view.hello.promised);
    match view.heard {
        _ if state.site.is_draining() => ready(false, "shutting down"),
        _ if !synced => ready(false, "waits for a leader to install its state"),
        Some(heard) if heard <= CONTACT_MAX => ready(true, "synced"),
        _ => ready(false, "nothing was heard from the leader for a while"),
    }
}

/// `GET /healthz` at a follower.
pub(super) async fn follower_health() -> Json<Value> {
    Json(json!({"ok": true}))
}

/// `GET /metrics` at a follower.
pub(super) async fn follower_metrics(State(state): State<FollowerSite>) -> Response {
    metrics_page(metrics::of_follower(&state.replica))
}

fn ready(ok: bool, message: &str) -> Response {
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ok": ok, "message": message}))).into_response()
}

fn metrics_page(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}
