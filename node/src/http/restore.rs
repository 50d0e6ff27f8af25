//! `POST /restore`: restores a backup.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::body::{self, check_lengths, parse};
use super::error::ApiError;
use super::stream::PART_BYTES;
use super::{LeaderSite, Site};
use crate::protocol::leader::{Accepted, Part, Refusal, Saved, Unfinished};
use crate::replication::coordinator::{Coordinator, Taken, WriteOutcome};

/// Maximum bytes of the lines of one request, in addition to one line with the longest key and
/// value.
pub(crate) const RESTORE_BYTES_MAX: usize = 8 << 20;

/// Maximum keys that one step passes to the leader. Other writes wait during a step.
const STEP_KEYS: usize = 256;

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

/// `POST /restore`: restores keys of a backup, one per line. The node answers once all of them are
/// committed; repeating the request changes nothing. With a stage, the request begins or ends the
/// restore of a whole backup. Between the two, the leader serves no other client.
pub(super) async fn restore(
    State(state): State<LeaderSite>,
    query: Result<Query<RestoreQuery>, QueryRejection>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let Query(RestoreQuery { backup, stage, overwrite }) =
        query.map_err(|rejection| ApiError::bad(rejection.body_text()))?;
    let keys = {
        let limit = state.site.body_bytes_max() + RESTORE_BYTES_MAX;
        let body = body::read(&state.site, request.into_body(), limit).await?;
        if state.site.is_draining() {
            return Err(ApiError::not_applied("the leader is shutting down"));
        }
        parse_lines(&state.site, &body).await?
    };
    let (leader, part) = (&state.leader, backup.as_deref().map_or(Part::Alone { overwrite }, Part::Of));
    let taken = match stage {
        None => take(leader, keys, part).await,
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
            // A restore sets no condition, so no record refuses it this way.
            Accepted::Unmet => return Err(ApiError::not_applied("another record of the key is in the way")),
        };
        match tokio::time::timeout_at(deadline, outcome).await {
            Ok(Ok(WriteOutcome::Committed(_))) => restored += 1,
            _ => return Err(ApiError::indeterminate(seq, &epoch.to_string())),
        }
    }
    Ok(Json(json!({"ok": true, "restored": restored, "there_already": there})))
}

/// Parses one key per line. Yields to other tasks in between.
async fn parse_lines(site: &Site, body: &[u8]) -> Result<Vec<Saved>, ApiError> {
    let (mut keys, mut step_bytes) = (Vec::new(), 0);
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        let saved: Saved = parse(line)?;
        if saved.key.is_empty() || saved.seq == 0 {
            return Err(ApiError::bad(format!("no key, or no sequence number: {:?}, {}", saved.key, saved.seq)));
        }
        check_lengths(site, &saved.key, saved.value.as_deref())?;
        keys.push(saved);
        step_bytes += line.len();
        if step_bytes >= PART_BYTES {
            step_bytes = 0;
            tokio::task::yield_now().await;
        }
    }
    Ok(keys)
}

/// Passes keys to the leader in steps. The leader serves other requests between the steps.
async fn take(leader: &Arc<Coordinator>, keys: Vec<Saved>, part: Part<'_>) -> Result<Vec<Taken>, Refusal> {
    let mut taken = Vec::with_capacity(keys.len());
    for step in steps(keys) {
        taken.extend(leader.restore(step, part)?);
        tokio::task::yield_now().await;
    }
    Ok(taken)
}

/// Cuts keys into steps of at most [`STEP_KEYS`], each up to the key that exceeds [`PART_BYTES`].
fn steps(keys: Vec<Saved>) -> impl Iterator<Item = Vec<Saved>> {
    let mut keys = keys.into_iter();
    std::iter::from_fn(move || {
        let (mut step, mut bytes) = (Vec::new(), 0);
        while step.len() < STEP_KEYS && bytes < PART_BYTES {
            let Some(saved) = keys.next() else { break };
            bytes += saved.key.len() + saved.value.as_ref().map_or(0, |value| value.len());
            step.push(saved);
        }
        (!step.is_empty()).then_some(step)
    })
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
            return Err(ApiError::bad("stage=give-up takes no query parameter `backup`"));
        }
        (_, None) => return Err(ApiError::bad("missing query parameter `backup`")),
        (Stage::Begin, Some(backup)) => leader.begin_restore(&Unfinished { backup: backup.into(), overwrite }),
        (Stage::End, Some(backup)) => leader.end_restore(Some(backup)),
    };
    if taken.is_ok() {
        match stage {
            Stage::Begin => info!(backup, overwrite, "restore begins"),
            Stage::End => info!(backup, "restore ends"),
            Stage::GiveUp => warn!("restore given up: the keys restored so far remain"),
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_in_small_steps() {
        let saved = |number: u64, bytes: usize| Saved {
            key: format!("key {number}").into(),
            seq: number,
            value: Some("x".repeat(bytes).into()),
            marks: None,
        };
        let keys: Vec<Saved> =
            (1..=1_000).map(|number| saved(number, if number % 10 == 0 { 100_000 } else { 1 })).collect();
        let steps: Vec<Vec<Saved>> = steps(keys.clone()).collect();
        for step in &steps {
            let bytes: usize =
                step.iter().skip(1).map(|saved| saved.value.as_ref().map_or(0, |value| value.len())).sum();
            assert!(step.len() <= STEP_KEYS && bytes <= PART_BYTES + 100_000, "{} keys of {bytes} bytes", step.len());
        }
        assert!(steps.len() >= 1_000 * 10_000 / (PART_BYTES + 100_000));
        assert_eq!(steps.concat(), keys);
    }
}
