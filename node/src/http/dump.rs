//! `GET /dump`: every value of a node, streamed in parts.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::error::ApiError;
use super::stream::{Interrupted, PART_BYTES, PART_KEYS, parts};
use super::{FollowerSite, LeaderSite, Site};
use crate::protocol::types::RESTORE_MARK;
use crate::protocol::value::{Base64, InJson, Value};

/// The value of a key in a dump.
#[derive(Serialize)]
struct Dumped<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<Base64<'a>>,
    seq: u64,
    /// Shown only when true: the value has no quorum yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    uncommitted: bool,
}

/// One entry of a part, shared with the node's state and not serialised yet.
struct Entry {
    key: Arc<str>,
    value: Value,
    seq: u64,
    uncommitted: bool,
}

/// Entries, and the position of the next part, if there is one.
type Part = (Vec<Entry>, Option<usize>);

/// `GET /dump` at a leader: the newest accepted value of each key. Answers 503 while the leader is
/// closed or a restore is unfinished.
pub(super) async fn of_leader(State(state): State<LeaderSite>) -> Result<Response, ApiError> {
    let permit = place(&state.site)?;
    let leader = state.leader;
    leader.local_refusal().map_err(|refusal| ApiError::refused_read(&refusal))?;
    let part = move |position| {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let next = leader.for_each_entry(position, PART_KEYS, |key, record, committed| {
            if let Some(value) = record.value.clone().filter(|_| **key != *RESTORE_MARK) {
                bytes += key.len() + value.len();
                let seq = record.version.seq;
                entries.push(Entry { key: key.clone(), value, seq, uncommitted: !committed });
            }
            bytes < PART_BYTES
        });
        next.map(|next| (entries, next)).map_err(|refusal| Interrupted(refusal.to_string()))
    };
    Ok(dump("leader", permit, part))
}

/// `GET /dump` at a follower. Answers 503 while a restore is unfinished.
pub(super) async fn of_follower(State(state): State<FollowerSite>) -> Result<Response, ApiError> {
    let permit = place(&state.site)?;
    let replica = state.replica;
    if replica.is_restoring() {
        return Err(ApiError::unfinished_restore());
    }
    let part = move |position| {
        let (part, next) = replica.dump_part(position, PART_KEYS, PART_BYTES);
        if replica.is_restoring() {
            return Err(Interrupted("a restore began".to_owned()));
        }
        let entry = |(key, shown): (_, crate::replication::replica::Shown)| Entry {
            key,
            value: shown.value,
            seq: shown.seq,
            uncommitted: false,
        };
        Ok((part.into_iter().map(entry).collect(), next))
    };
    Ok(dump("follower", permit, part))
}

/// Reserves one of the places for dumps.
fn place(site: &Site) -> Result<OwnedSemaphorePermit, ApiError> {
    site.dumps.clone().try_acquire_owned().map_err(|_| {
        let error = "too many dumps are under way";
        ApiError::plain(StatusCode::TOO_MANY_REQUESTS, error).with("error", error)
    })
}

/// Streams `{"entries":{…},"role":…}`. `part` returns the entries from a position on.
fn dump(
    role: &'static str,
    permit: OwnedSemaphorePermit,
    part: impl Fn(usize) -> Result<Part, Interrupted> + Send + 'static,
) -> Response {
    let body = parts((0, true, permit), move |(position, mut first, permit)| {
        let (entries, next) = part(position)?;
        let mut text = if position == 0 { "{\"entries\":{".to_owned() } else { String::new() };
        for entry in entries {
            if !std::mem::take(&mut first) {
                text.push(',');
            }
            push_entry(&mut text, &entry);
        }
        if next.is_none() {
            text.push_str(&format!("}},\"role\":\"{role}\"}}"));
        }
        Ok((text, next.map(|next| (next, first, permit))))
    });
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Appends `"key":{…}`.
fn push_entry(text: &mut String, entry: &Entry) {
    let Entry { key, value, seq, uncommitted } = entry;
    let InJson { text: value, base64: value_base64 } = InJson::from(&**value);
    let dumped = Dumped { value, value_base64, seq: *seq, uncommitted: *uncommitted };
    // Strings and numbers cannot fail to serialise.
    if let (Ok(key), Ok(dumped)) = (serde_json::to_string(key), serde_json::to_string(&dumped)) {
        text.push_str(&key);
        text.push(':');
        text.push_str(&dumped);
    }
}
