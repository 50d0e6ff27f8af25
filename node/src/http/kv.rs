//! The leader's routes for clients.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode, Uri};
use hyper::Request;
use serde::{Deserialize, Serialize, Serializer};

use super::LeaderSite;
use super::answer::{self, Answer};
use super::body::{self, Field, check_lengths, parse};
use super::client_stream::Arriving;
use super::error::ApiError;
use crate::metrics::WriteResult;
use crate::protocol::etag::Etag;
use crate::protocol::leader::{Accepted, NewWrite, Receipt, Refusal};
use crate::protocol::types::{Epoch, Key, Record};
use crate::replication::coordinator::{Placed, WriteOutcome};

/// Longest `Idempotency-Key`, in bytes.
const RETRY_TOKEN_BYTES_MAX: usize = 255;

#[derive(Deserialize)]
struct PutBody<'a> {
    #[serde(borrow, default)]
    key: Field<'a>,
    #[serde(borrow, default)]
    value: Field<'a>,
}

#[derive(Deserialize)]
struct DeleteBody<'a> {
    #[serde(borrow, default)]
    key: Field<'a>,
}

/// `?explain=true` adds the drawn delays to the answer.
#[derive(Debug, Default, Deserialize)]
pub(super) struct PutQuery {
    #[serde(default)]
    explain: bool,
}

/// Serialises a value as its `Display` text.
pub(super) struct Shown<T>(pub(super) T);

impl<T: fmt::Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[derive(Serialize)]
struct PutAnswer {
    ok: bool,
    seq: u64,
    message: &'static str,
    epoch: Shown<Epoch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<Explanation>,
}

/// The delays of a write.
#[derive(Serialize)]
struct Explanation {
    write_quorum: u16,
    generation: u64,
    /// The W-th smallest of the delays.
    quorum_delay_ms: f64,
    /// The drawn delays, one per follower.
    delays_ms: Vec<f64>,
}

/// `POST /put`.
pub(super) async fn put(state: &LeaderSite, request: Request<Arriving>) -> Result<Answer, ApiError> {
    let (head, body) = request.into_parts();
    let (key, value) = {
        let body = body::read(&state.site, body, state.site.body_bytes_max()).await?;
        let (key, value) = put_fields(&body)?;
        check_lengths(&state.site, &key, Some(&value))?;
        // The write waits for its quorum without the body: only the key and the value stay in memory.
        (Key::from(key), Arc::from(value))
    };
    write(state, &head.uri, &head.headers, key, Some(value)).await
}

/// Key and value of the body of `POST /put`.
///
/// # Errors
/// The answer for the client.
pub fn put_fields(body: &[u8]) -> Result<(Cow<'_, str>, Cow<'_, str>), ApiError> {
    let PutBody { key, value } = parse(body)?;
    match (key, value) {
        (Field::Absent, _) | (_, Field::Absent) => Err(ApiError::bad("Missing key or value")),
        (Field::Text(key), _) if key.is_empty() => Err(ApiError::bad("Missing key or value")),
        (Field::Text(key), Field::Text(value)) => Ok((key, value)),
        _ => Err(ApiError::bad("key and value must be strings")),
    }
}

/// `POST /delete`.
pub(super) async fn delete(state: &LeaderSite, request: Request<Arriving>) -> Result<Answer, ApiError> {
    let (head, body) = request.into_parts();
    let key = {
        let body = body::read(&state.site, body, state.site.body_bytes_max()).await?;
        match parse::<DeleteBody<'_>>(&body)?.key {
            Field::Text(key) if !key.is_empty() => {
                check_lengths(&state.site, &key, None)?;
                Key::from(key)
            }
            Field::OtherType => return Err(ApiError::bad("key must be a string")),
            _ => return Err(ApiError::bad("Missing key")),
        }
    };
    write(state, &head.uri, &head.headers, key, None).await
}

async fn write(
    state: &LeaderSite,
    uri: &Uri,
    headers: &HeaderMap,
    key: Key,
    value: Option<Arc<str>>,
) -> Result<Answer, ApiError> {
    let PutQuery { explain } = query(uri).map_err(ApiError::bad)?;
    let retry_token = retry_token(headers)?;
    let begun = Instant::now();
    let version = Etag::new(0, value.as_deref());
    let answer = if state.site.is_draining() {
        Err(ApiError::not_applied("the leader is shutting down"))
    } else {
        let now_us = state.leader.now_us();
        let new = NewWrite { key, value, retry_token, explain, now_us };
        replicate(state, uri, new).await
    };
    let outcome = match &answer {
        Ok(_) => WriteResult::Committed,
        Err(error) if error.is_indeterminate() => WriteResult::Indeterminate,
        Err(_) => WriteResult::Refused,
    };
    state.metrics.write(outcome, begun.elapsed().as_secs_f64());
    let answer = answer?;
    Ok(answer::written(&answer, version.at(answer.seq)))
}

/// Parses the query of a URL. A URL without one yields the defaults.
fn query<T: Default + serde::de::DeserializeOwned>(uri: &Uri) -> Result<T, String> {
    if uri.query().is_none() {
        return Ok(T::default());
    }
    Query::try_from_uri(uri).map(|Query(query)| query).map_err(|rejection| rejection.body_text())
}

async fn replicate(state: &LeaderSite, uri: &Uri, new: NewWrite) -> Result<PutAnswer, ApiError> {
    let leader = &state.leader;
    let Placed { accepted, outcome, epoch, timeout } =
        leader.put(new).map_err(|refusal| refused(&refusal, uri, ApiError::refused_write))?;
    let message = "committed (quorum reached)";
    let seq = match accepted {
        Accepted::AlreadyCommitted { seq } => {
            return Ok(PutAnswer { ok: true, seq, message, epoch: Shown(epoch), explain: None });
        }
        Accepted::Pending { seq } => seq,
    };
    match tokio::time::timeout(timeout, outcome).await {
        Ok(Ok(WriteOutcome::Committed(receipt))) => {
            let generation = receipt.delays_us.is_some().then(|| leader.generation_in_force());
            let explain = explain(&receipt, generation);
            Ok(PutAnswer { ok: true, seq, message, epoch: Shown(receipt.epoch), explain })
        }
        // Too few followers confirmed in time, or another leader took over. The write may still
        // commit.
        _ => Err(ApiError::indeterminate(seq, &epoch.to_string())),
    }
}

/// The answer to a refused request. A standby names the leader.
fn refused(refusal: &Refusal, uri: &Uri, otherwise: impl Fn(&Refusal) -> ApiError) -> ApiError {
    match refusal {
        Refusal::Standby { leader } => ApiError::elsewhere(leader, uri),
        _ => otherwise(refusal),
    }
}

fn explain(receipt: &Receipt, generation: Option<u64>) -> Option<Explanation> {
    let delays_us = receipt.delays_us.as_ref()?;
    let mut sorted = delays_us.clone();
    sorted.sort_unstable();
    let quorum_delay_us = sorted.get(usize::from(receipt.quorum).saturating_sub(1)).copied().unwrap_or_default();
    let milliseconds = |us: &u32| f64::from(*us) / 1000.0;
    Some(Explanation {
        write_quorum: receipt.quorum,
        generation: generation.unwrap_or_default(),
        quorum_delay_ms: milliseconds(&quorum_delay_us),
        delays_ms: delays_us.iter().map(milliseconds).collect(),
    })
}

fn retry_token(headers: &HeaderMap) -> Result<Option<Arc<str>>, ApiError> {
    let Some(token) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    match token.to_str() {
        Ok(token) if !token.is_empty() && token.len() <= RETRY_TOKEN_BYTES_MAX => Ok(Some(token.into())),
        _ => {
            Err(ApiError::bad(format!("Idempotency-Key must be 1 to {RETRY_TOKEN_BYTES_MAX} visible ASCII characters")))
        }
    }
}

/// `?key=…&consistency=linearizable|local`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct GetQuery {
    #[serde(default)]
    pub(super) key: String,
    #[serde(default)]
    consistency: Consistency,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Consistency {
    #[default]
    Linearizable,
    Local,
}

#[derive(Serialize)]
pub(super) struct Got<'a> {
    pub(super) key: &'a str,
    pub(super) value: &'a str,
    pub(super) seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epoch: Option<Shown<Epoch>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) committed: Option<bool>,
    /// Only a follower returns it; null while it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) staleness_ms: Option<Option<f64>>,
}

pub(super) fn the_key(uri: &Uri) -> Result<GetQuery, ApiError> {
    let query: GetQuery = query(uri).map_err(|error| ApiError::read(StatusCode::BAD_REQUEST, error))?;
    if query.key.is_empty() {
        return Err(ApiError::read(StatusCode::BAD_REQUEST, "Missing key parameter"));
    }
    Ok(query)
}

/// `GET /get`.
pub(super) async fn get(state: &LeaderSite, uri: &Uri) -> Result<Answer, ApiError> {
    let GetQuery { key, consistency } = the_key(uri)?;
    let leader = &state.leader;
    let (record, committed) = match consistency {
        Consistency::Local => {
            let latest = leader.latest(&key).map_err(|refusal| refused(&refusal, uri, ApiError::refused_read))?;
            latest.map_or((None, None), |(record, committed)| (Some(record), Some(committed)))
        }
        Consistency::Linearizable => {
            let timeout = leader.replication_timeout();
            let read = tokio::time::timeout(timeout, leader.read(&key)).await.map_err(|_| {
                let message =
                    format!("no write quorum confirmed within {} ms that this leader still leads", timeout.as_millis());
                ApiError::read(StatusCode::SERVICE_UNAVAILABLE, message)
            })?;
            (read.map_err(|refusal| refused(&refusal, uri, ApiError::refused_read))?, None)
        }
    };
    let etag = record.as_ref().map(Etag::of);
    let found = record.as_ref().and_then(|record| Some((record, record.value.as_deref()?)));
    let (Some((Record { version, .. }, value)), Some(etag)) = (found, etag) else {
        return Err(ApiError::read(StatusCode::NOT_FOUND, "Key not found").with_etag(etag));
    };
    let epoch = Some(Shown(version.epoch));
    let got = Got { key: &key, value, seq: version.seq, epoch, committed, staleness_ms: None };
    answer::read(&state.site.answers, &got, etag)
}
