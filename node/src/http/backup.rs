//! The state out, as one file, and in again.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tracing::{info, warn};

use super::LeaderSite;
use super::error::ApiError;
use super::kv::{check_lengths, parse};
use crate::backup::Writer;
use crate::protocol::leader::{Accepted, Part, Refusal, Saved, Unfinished};
use crate::replication::coordinator::{Coordinator, Taken, WriteOutcome};

/// How many keys one part of the stream carries. Writes wait while one is made.
const PART_KEYS: usize = 512;

/// How long the lines of one request may be together, beside one of the longest key and value.
pub(super) const RESTORE_BYTES_MAX: usize = 8 << 20;

/// `GET /backup`: everything that is committed, as it is at one moment after the request arrived.
///
/// The state is looked at part by part, and the leader keeps what was there where a write is committed meanwhile that the
/// backup has yet to come to: for each of those, until then. It holds every write that was acknowledged before the request,
/// because W followers confirm, after it arrived, that this leader still leads; and of writes acknowledged meanwhile none
/// without those that were acknowledged before it was begun.
pub(super) async fn backup(State(state): State<LeaderSite>) -> Result<Response, ApiError> {
    let Ok(permit) = state.backups.clone().try_acquire_owned() else {
        return Err(ApiError::plain(StatusCode::TOO_MANY_REQUESTS, "another backup is under way"));
    };
    let leader = &state.leader;
    let timeout = leader.replication_timeout();
    let led = tokio::time::timeout(timeout, leader.read("")).await.map_err(|_| {
        let message =
            format!("no write quorum confirmed within {} ms that this leader still leads", timeout.as_millis());
        ApiError::not_applied(message)
    })?;
    led.map_err(|refusal| ApiError::refused_write(&refusal))?;
    let (epoch, keys) = leader.begin_backup();
    let saving = Saving { leader: leader.clone(), _permit: permit };

    let mut writer = Writer::default();
    let header = writer.header(epoch.to_string(), keys as u64);
    let parts = stream::unfold(Some((header, writer, saving)), |state| async move {
        let (mut text, mut writer, saving) = state?;
        // Whoever reads fast would get one part after the other, and everybody else would wait.
        tokio::task::yield_now().await;
        let next = match saving.leader.backup_part(PART_KEYS) {
            Some(part) => {
                part.iter().for_each(|saved| text.push_str(&writer.key(saved)));
                Some((String::new(), writer, saving))
            }
            None => {
                text.push_str(&writer.trailer());
                None
            }
        };
        Some((Ok::<_, std::convert::Infallible>(text), next))
    });
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], Body::from_stream(parts)).into_response())
}

/// A backup that is under way. Whether it was read to its end or not, the leader keeps nothing for it afterwards.
struct Saving {
    leader: Arc<Coordinator>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Saving {
    fn drop(&mut self) {
        self.leader.end_backup();
    }
}

/// `?backup=DIGEST&stage=begin|end|give-up&overwrite=true`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct RestoreQuery {
    /// Of which backup the keys are a part.
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

/// `POST /restore`: some of the keys of a backup, a line each. Answered once all of them are committed; a request that is
/// sent again changes nothing. With a stage, it begins or ends the restore of a whole backup; between the two, clients are
/// shown nothing.
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
        // Waiting does not help: it is another restore.
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

/// From one stage of a restore to the next.
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
