//! `GET /backup`: the whole state as one file.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::OwnedSemaphorePermit;

use super::LeaderSite;
use super::error::ApiError;
use super::stream::{PART_BYTES, PART_KEYS, parts};
use crate::backup::Writer;
use crate::replication::coordinator::Coordinator;

/// `GET /backup`: everything that is committed, as it is at one moment after the request arrived.
///
/// The leader reads the state part by part. Where a write commits at a key that a later part will read, the leader keeps
/// the earlier value until then. The backup contains every write that was acknowledged before the request, because W
/// followers confirm, after it arrived, that this leader still leads. Of the writes acknowledged meanwhile it contains
/// none without those that were acknowledged before that moment.
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

    let mut writer = Writer::of_cluster(state.site.cluster.as_deref());
    let header = writer.header(epoch.to_string(), keys as u64);
    let body = parts((header, writer, saving), |(mut text, mut writer, saving)| {
        Ok(match saving.leader.backup_part(PART_KEYS, PART_BYTES) {
            Some(part) => {
                part.iter().for_each(|saved| text.push_str(&writer.key(saved)));
                (text, Some((String::new(), writer, saving)))
            }
            None => {
                text.push_str(&writer.trailer());
                (text, None)
            }
        })
    });
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

/// A backup under way. When it is dropped, at its end or before, the leader drops the values that it kept for it.
struct Saving {
    leader: Arc<Coordinator>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Saving {
    fn drop(&mut self) {
        self.leader.end_backup();
    }
}
