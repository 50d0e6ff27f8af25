//! `POST /restore`: a backup, in again.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::LeaderSite;
use super::body::{check_lengths, parse};
use super::error::ApiError;
use crate::protocol::leader::{Accepted, Part, Refusal, Saved, Unfinished};
use crate::replication::coordinator::{Coordinator, Taken, WriteOutcome};

/// Bytes that the lines of one request may have, beside one line of the longest key and value.
pub(super) const RESTORE_BYTES_MAX: usize = 8 << 20;

/// `?backup=DIGEST&stage=begin|end|give-up&overwrite=true`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct RestoreQuery {
    /// Digest of the backup that the keys belong to.
    backup: Option<String>,
    stage: Option<Stage>,
    #[serde(default)]
    overwrite: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Stage {
    Begin,
    End,
    GiveUp,
}

/// `POST /restore`: some of the keys of a backup, one per line. The answer comes once all of them are committed; a
/// repeated request changes nothing. With a stage, the request begins or ends the restore of a whole backup; between the
/// two, the leader serves no other client.
pub(super) async fn restore(
    State(state): State<LeaderSite>,
    query: Result<Query<RestoreQuery>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(RestoreQuery { backup, stage, overwrite }) =
        query.map_err(|rejection| ApiError::bad(rejection.body_text()))?;
    let body = body.map_err(|rejection| ApiError::plain(rejection.status(), rejection.body_text()))?;
    if state.site.is_draining() {
        return Err(ApiError::not_applied("the leader is shutting down"));
    }
    let mut keys = Vec::new();
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        let saved: Saved = parse(line)?;
        if saved.key.is_empty() || saved.seq == 0 {
            return Err(ApiError::bad(format!("no key, or no sequence number: {:?}, {}", saved.key, saved.seq)));
        }
        check_lengths(&state.site, &saved.key, saved.value.as_deref())?;
        keys.push(saved);
    }
    let (leader, part) = (&state.leader, backup.as_deref().map_or(Part::Alone { overwrite }, Part::Of));
    let taken = match stage {
        None => leader.restore(keys, part),
        Some(_) if !keys.is_empty() => return Err(ApiError::bad("a request with a stage brings no keys")),
        Some(stage) => pass(leader, stage, backup.as_deref(), overwrite)?.map(|taken| vec![taken]),
    };
    let taken = taken.map_err(|refusal| match (&refusal, part) {
        // A retry does not help: another restore is under way.
        (Refusal::Restoring(_), Part::Of(_)) => ApiError::plain(StatusCode::CONFLICT, refusal.to_string()),
        _ => ApiError::refused_write(&refusal),
    })?;
    let (timeout, epoch) = (leader.replication_timeout(), leader.epoch());
    let deadline = tokio::time::Instant::now() + timeout;
    let (mut restored, mut there) = (0, 0);
    for (accepted, outcome) in taken {
        let seq = match accepted {
            Accepted::AlreadyCommitted { .. } => {
                there += 1;
                continue;
            }
            Accepted::Pending { seq } => seq,
        };
        match tokio::time::timeout_at(deadline, outcome).await {
            Ok(Ok(WriteOutcome::Committed(_))) => restored += 1,
            _ => return Err(ApiError::indeterminate(seq, &epoch.to_string())),
        }
    }
    Ok(Json(json!({"ok": true, "restored": restored, "there_already": there})))
}

/// Moves a restore to its next stage.
fn pass(
    leader: &Arc<Coordinator>,
    stage: Stage,
    backup: Option<&str>,
    overwrite: bool,
) -> Result<Result<Taken, Refusal>, ApiError> {
    let taken = match (stage, backup) {
        (Stage::GiveUp, None) => leader.end_restore(None),
        (Stage::GiveUp, Some(_)) => {
            return Err(ApiError::bad("whichever restore there is, is given up: name no backup"));
        }
        (_, None) => return Err(ApiError::bad("of which backup? its digest is missing")),
        (Stage::Begin, Some(backup)) => leader.begin_restore(&Unfinished { backup: backup.into(), overwrite }),
        (Stage::End, Some(backup)) => leader.end_restore(Some(backup)),
    };
    if taken.is_ok() {
        match stage {
            Stage::Begin => info!(backup, overwrite, "restore begins"),
            Stage::End => info!(backup, "restore ends"),
            Stage::GiveUp => warn!("restore given up: what is there of it stays"),
        }
    }
    Ok(taken)
}
