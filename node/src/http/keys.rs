//! `GET /keys`: pages of keys, sorted, with their versions.
//!
//! No index of the keys is sorted: that would cost every first write of a key. A page walks the whole map, part by part,
//! so that other requests are served in between, and keeps the lowest keys that it finds.
//!
//! At the leader each key is as it was committed at one moment after the request arrived. Followers confirm after the walk
//! that this leader still leads, so no other leader had committed anything by then. The moments differ from key to key.

use std::collections::BTreeMap;
use std::time::Instant;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::answer::{self, Answer};
use super::error::ApiError;
use super::kv::{self, Shown};
use super::stream::{PART_BYTES, PART_KEYS};
use super::{FollowerSite, LeaderSite, Site};
use crate::protocol::etag::Etag;
use crate::protocol::types::{Epoch, Key};
use crate::protocol::value::Value;

/// Keys of a page, unless the request asks for another number.
const LIMIT: usize = 1_000;

/// Maximum keys of a page.
const LIMIT_MAX: usize = 10_000;

/// Bytes of keys in one page. It ends earlier with the key that would exceed them.
const PAGE_BYTES: usize = 1 << 20;

/// Pages that a node makes at once.
pub(crate) const PAGES_AT_ONCE: usize = 64;

/// `?prefix=…&after=…&limit=…`.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct KeysQuery {
    prefix: String,
    after: String,
    limit: usize,
}

impl Default for KeysQuery {
    fn default() -> Self {
        Self { prefix: String::new(), after: String::new(), limit: LIMIT }
    }
}

/// The lowest keys found so far.
struct Page {
    query: KeysQuery,
    bytes_max: usize,
    found: BTreeMap<Key, Etag>,
    bytes: usize,
    /// Keys from this one on belong to the next page.
    end: Option<Key>,
}

impl Page {
    fn new(query: KeysQuery, bytes_max: usize) -> Self {
        Self { query, bytes_max, found: BTreeMap::new(), bytes: 0, end: None }
    }

    /// Whether the key may belong to this page.
    fn accepts(&self, key: &str) -> bool {
        key > &*self.query.after
            && key.starts_with(&*self.query.prefix)
            && self.end.as_ref().is_none_or(|end| key < &**end)
    }

    /// Adds a key that the page accepts. Drops the highest keys that no longer fit.
    fn add(&mut self, key: Key, etag: Etag) {
        let bytes = key.len();
        if self.found.insert(key, etag).is_none() {
            self.bytes += bytes;
        }
        while self.found.len() > self.query.limit || (self.bytes > self.bytes_max && self.found.len() > 1) {
            let Some((highest, _)) = self.found.pop_last() else { return };
            self.bytes -= highest.len();
            self.end = Some(highest);
        }
    }

    /// Adds keys with their values. Hashing a value may take long, so that the caller has released every lock.
    fn add_part(&mut self, part: impl IntoIterator<Item = (Key, u64, Value)>) {
        for (key, seq, value) in part {
            if self.accepts(&key) {
                self.add(key, Etag::new(seq, Some(&value)));
            }
        }
    }

    async fn answer(&self, site: &Site, of: Of) -> Result<Answer, ApiError> {
        let listed = |(key, etag): (&Key, &Etag)| Listed { key: key.to_string(), seq: etag.seq, etag: Shown(*etag) };
        let keys: Vec<Listed> = self.found.iter().map(listed).collect();
        let next = self.end.as_ref().and_then(|_| self.found.last_key_value()).map(|(key, _)| &**key);
        // A page is short.
        answer::read(&site.answers, 0, &Body { keys, next, snapshot: false, of }, None).await
    }
}

#[derive(Serialize)]
struct Listed {
    key: String,
    seq: u64,
    etag: Shown<Etag>,
}

#[derive(Serialize)]
struct Body<'a> {
    keys: Vec<Listed>,
    /// The `after` of the next page. Null on the last page.
    next: Option<&'a str>,
    /// Always false: each key is shown as of a moment of its own.
    snapshot: bool,
    #[serde(flatten)]
    of: Of,
}

/// What holds of each key.
#[derive(Serialize)]
#[serde(tag = "consistency", rename_all = "lowercase")]
enum Of {
    Linearizable {
        epoch: Shown<Epoch>,
    },
    Local {
        /// Null while it is unknown.
        staleness_ms: Option<f64>,
    },
}

/// Reads the query and reserves a place.
fn begin(site: &Site, uri: &Uri) -> Result<(Page, OwnedSemaphorePermit), ApiError> {
    let bad = |message: String| ApiError::read(StatusCode::BAD_REQUEST, message);
    let query: KeysQuery = kv::query(uri).map_err(bad)?;
    if !(1..=LIMIT_MAX).contains(&query.limit) {
        return Err(bad(format!("limit ({}) must be from 1 to {LIMIT_MAX}", query.limit)));
    }
    let place = site
        .key_pages
        .clone()
        .try_acquire_owned()
        .map_err(|_| ApiError::read(StatusCode::TOO_MANY_REQUESTS, "too many pages of keys are under way"))?;
    Ok((Page::new(query, PAGE_BYTES), place))
}

/// `GET /keys` at a leader.
pub(super) async fn of_leader(State(state): State<LeaderSite>, uri: Uri) -> Result<Answer, ApiError> {
    let (mut page, _place) = begin(&state.site, &uri)?;
    let begun = Instant::now();
    let leader = &state.leader;
    let epoch = leader.epoch();
    let mut position = Some(0);
    while let Some(from) = position {
        let (mut part, mut bytes) = (Vec::new(), 0);
        let next = leader.for_each_committed(from, PART_KEYS, |key, record, value| {
            if page.accepts(key) {
                bytes += value.len();
                part.push((key.clone(), record.version.seq, value.clone()));
            }
            bytes < PART_BYTES
        });
        position = next.map_err(|refusal| kv::refused(&refusal, &uri, ApiError::refused_read))?;
        page.add_part(part);
        // Other requests are served between two parts.
        tokio::task::yield_now().await;
    }
    kv::in_time(&state, &uri, begun, leader.still_leads()).await?;
    page.answer(&state.site, Of::Linearizable { epoch: Shown(epoch) }).await
}

/// `GET /keys` at a follower: what it has.
pub(super) async fn of_follower(State(state): State<FollowerSite>, uri: Uri) -> Result<Answer, ApiError> {
    let (mut page, _place) = begin(&state.site, &uri)?;
    let replica = &state.replica;
    // It only grows during the walk.
    let staleness = replica.view().staleness;
    let begun = Instant::now();
    let mut position = Some(0);
    while let Some(from) = position {
        let (part, next) = replica.dump_part(from, PART_KEYS, PART_BYTES);
        if replica.is_restoring() {
            return Err(ApiError::unfinished_restore());
        }
        page.add_part(part.into_iter().map(|(key, shown)| (key, shown.seq, shown.value)));
        position = next;
        tokio::task::yield_now().await;
    }
    let staleness_ms = staleness.map(|staleness| (staleness + begun.elapsed()).as_secs_f64() * 1e3);
    page.answer(&state.site, Of::Local { staleness_ms }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(prefix: &str, after: &str, limit: usize, bytes_max: usize, keys: &[&str]) -> (Vec<String>, Option<String>) {
        let query = KeysQuery { prefix: prefix.to_owned(), after: after.to_owned(), limit };
        let mut page = Page::new(query, bytes_max);
        page.add_part(keys.iter().map(|key| (Key::from(*key), 1, Value::from(*key))));
        let next = page.end.as_ref().and_then(|_| page.found.last_key_value()).map(|(key, _)| key.to_string());
        (page.found.keys().map(Key::to_string).collect(), next)
    }

    // Goal: pages that follow `next` list each key once, in order, whatever the order of the map, the limit and the bytes.
    // Method: many orders, limits from one to all, bytes from below one key to all.
    #[test]
    fn pages_follow_one_another_without_a_gap() {
        let keys = ["", "a", "ab", "abc", "b", "ba", "z", "zz", "zzzzzzzz", "é"];
        for (prefix, rotation) in
            ["", "a", "z", "q"].into_iter().flat_map(|prefix| (0..keys.len()).map(move |by| (prefix, by)))
        {
            let mut order = keys;
            order.rotate_left(rotation);
            order[..5].reverse();
            let expected: Vec<&str> =
                keys.into_iter().filter(|key| key.starts_with(prefix) && !key.is_empty()).collect();
            for (limit, bytes) in (1..=keys.len()).flat_map(|limit| [1, 3, 9, 1_000].map(|bytes| (limit, bytes))) {
                let (mut listed, mut after) = (Vec::new(), Some(String::new()));
                while let Some(from) = after {
                    let (keys, next) = page(prefix, &from, limit, bytes, &order);
                    assert!(keys.len() <= limit && (keys.len() <= 1 || keys.concat().len() <= bytes), "{keys:?}");
                    assert!(next.is_none() || next.as_ref() == keys.last());
                    listed.extend(keys);
                    after = next;
                }
                assert_eq!(listed, expected, "{prefix} {limit} {bytes}");
            }
        }
    }
}
