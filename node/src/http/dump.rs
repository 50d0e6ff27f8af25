//! `GET /dump`: every value of a node, streamed in parts.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::stream::parts;
use super::{FollowerSite, LeaderSite};

/// Keys per part. Writes wait while a part is collected.
const PART_KEYS: usize = 512;

/// The value of a key in a dump.
#[derive(Serialize)]
struct Dumped<'a> {
    value: &'a str,
    seq: u64,
    /// Shown only when true: the value has no quorum yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    uncommitted: bool,
}

/// `GET /dump` at a leader: the newest accepted value of each key.
pub(super) async fn of_leader(State(state): State<LeaderSite>) -> Response {
    let leader = state.leader;
    dump("leader", move |position, text| {
        leader.for_each_entry(position, PART_KEYS, |key, record, committed| {
            if let Some(value) = &record.value {
                push_entry(text, key, &Dumped { value, seq: record.version.seq, uncommitted: !committed });
            }
        })
    })
}

/// `GET /dump` at a follower.
pub(super) async fn of_follower(State(state): State<FollowerSite>) -> Response {
    let replica = state.replica;
    dump("follower", move |position, text| {
        let (part, next) = replica.dump_part(position, PART_KEYS);
        for (key, shown) in part {
            push_entry(text, &key, &Dumped { value: &shown.value, seq: shown.seq, uncommitted: false });
        }
        next
    })
}

/// Appends `,"key":{…}`.
fn push_entry(text: &mut String, key: &str, entry: &Dumped<'_>) {
    // Strings and numbers cannot fail to serialise.
    let (key, entry) = (serde_json::to_string(key), serde_json::to_string(entry));
    if let (Ok(key), Ok(entry)) = (key, entry) {
        text.push(',');
        text.push_str(&key);
        text.push(':');
        text.push_str(&entry);
    }
}

/// Streams `{"entries":{…},"role":…}`. `part` appends the entries from a position on and returns the next position.
fn dump(role: &'static str, mut part: impl FnMut(usize, &mut String) -> Option<usize> + Send + 'static) -> Response {
    let body = parts((0, true), move |(position, first)| {
        let mut text = String::new();
        let next = part(position, &mut text);
        // Each entry begins with a comma. The first one must not.
        let entries = if first { text.strip_prefix(',').unwrap_or(&text) } else { &text };
        let opening = if position == 0 { "{\"entries\":{" } else { "" };
        let closing = if next.is_none() { format!("}},\"role\":\"{role}\"}}") } else { String::new() };
        let chunk = format!("{opening}{entries}{closing}");
        let first = first && text.is_empty();
        (chunk, next.map(|next| (next, first)))
    });
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
