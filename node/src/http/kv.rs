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
use super::body::{self, Field, ValueField, check_lengths, parse};
use super::client_stream::Arriving;
use super::conditions;
use super::error::ApiError;
use crate::metrics::WriteResult;
use crate::protocol::etag::Etag;
use crate::protocol::leader::{Accepted, Condition, NewWrite, Receipt, Refusal};
use crate::protocol::types::{Epoch, Key, Record};
use crate::protocol::value::{Base64, InJson, Value};
use crate::replication::coordinator::{Placed, WriteOutcome};

/// Longest `Idempotency-Key`, in bytes.
const RETRY_TOKEN_BYTES_MAX: usize = 255;

#[derive(Deserialize)]
struct PutBody<'a> {
    #[serde(borrow, default)]
    key: Field<'a>,
    #[serde(borrow, default)]
    value: Field<'a>,
    #[serde(borrow, default)]
    value_base64: Field<'a>,
    #[serde(borrow, default)]
    if_match: Field<'a>,
    #[serde(default)]
    if_absent: Option<bool>,
}

/// The fields of the body of `POST /put`.
pub struct PutFields<'a> {
    /// The key, not empty.
    pub key: Cow<'a, str>,
    /// The value.
    pub value: Cow<'a, [u8]>,
    if_match: Field<'a>,
    if_absent: Option<bool>,
}

#[derive(Deserialize)]
struct DeleteBody<'a> {
    #[serde(borrow, default)]
    key: Field<'a>,
    #[serde(borrow, default)]
    if_match: Field<'a>,
    #[serde(default)]
    if_absent: Option<bool>,
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

/// The answer to a write that is committed.
#[derive(Serialize)]
pub(super) struct Written {
    ok: bool,
    pub(super) seq: u64,
    message: &'static str,
    epoch: Shown<Epoch>,
    /// The sum that an increment stored, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Shown<i64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<Explanation>,
}

impl Written {
    fn new(seq: u64, epoch: Epoch) -> Self {
        let message = "committed (quorum reached)";
        Self { ok: true, seq, message, epoch: Shown(epoch), value: None, explain: None }
    }

    pub(super) fn with_sum(self, sum: Option<Shown<i64>>) -> Self {
        Self { value: sum, ..self }
    }
}

/// What a leader that still leads decided about a write.
pub(super) enum Settled {
    Written(Written),
    /// This committed record refused it; `None` if the key had no record.
    Unmet(Option<Box<Record>>),
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
    let (key, value, condition) = {
        let body = body::read(&state.site, body, state.site.body_bytes_max()).await?;
        let PutFields { key, value, if_match, if_absent } = put_fields(&body)?;
        check_lengths(&state.site, &key, Some(&value))?;
        let condition = conditions::of_request(&head.headers, &if_match, if_absent)?;
        // The write waits for its quorum without the body: only the key and the value stay in memory.
        (Key::from(key), Value::from(value), condition)
    };
    write(state, &head.uri, &head.headers, key, Some(value), condition).await
}

/// Parses the body of `POST /put`.
///
/// # Errors
/// The answer for the client.
pub fn put_fields(body: &[u8]) -> Result<PutFields<'_>, ApiError> {
    let PutBody { key, value, value_base64, if_match, if_absent } = parse(body)?;
    match (key, ValueField::of(value, value_base64)?) {
        (Field::Absent, _) | (_, ValueField::Absent) => Err(ApiError::bad("Missing key or value")),
        (Field::Text(key), _) if key.is_empty() => Err(ApiError::bad("Missing key or value")),
        (Field::Text(key), ValueField::Bytes(value)) => Ok(PutFields { key, value, if_match, if_absent }),
        _ => Err(ApiError::bad("key and value must be strings")),
    }
}

/// `POST /delete`.
pub(super) async fn delete(state: &LeaderSite, request: Request<Arriving>) -> Result<Answer, ApiError> {
    let (head, body) = request.into_parts();
    let (key, condition) = {
        let body = body::read(&state.site, body, state.site.body_bytes_max()).await?;
        let DeleteBody { key, if_match, if_absent } = parse(&body)?;
        let key = key_of(key)?;
        check_lengths(&state.site, &key, None)?;
        (Key::from(key), conditions::of_request(&head.headers, &if_match, if_absent)?)
    };
    write(state, &head.uri, &head.headers, key, None, condition).await
}

/// The key of a body without a value.
///
/// # Errors
/// 400 when it is absent, empty, or not a string.
pub(super) fn key_of(key: Field<'_>) -> Result<Cow<'_, str>, ApiError> {
    match key {
        Field::Text(key) if !key.is_empty() => Ok(key),
        Field::OtherType => Err(ApiError::bad("key must be a string")),
        _ => Err(ApiError::bad("Missing key")),
    }
}

async fn write(
    state: &LeaderSite,
    uri: &Uri,
    headers: &HeaderMap,
    key: Key,
    value: Option<Value>,
    condition: Condition,
) -> Result<Answer, ApiError> {
    let PutQuery { explain } = query(uri).map_err(ApiError::bad)?;
    let retry_token = retry_token(headers)?;
    let begun = Instant::now();
    let version = Etag::new(0, value.as_deref());
    let settled = if state.site.is_draining() {
        Err(ApiError::not_applied("the leader is shutting down"))
    } else {
        let new = NewWrite { key: key.clone(), value, retry_token, explain, now_us: state.leader.now_us() };
        match state.leader.put_if(new, condition) {
            Ok(placed) => settle(state, placed).await,
            Err(refusal) => Err(refused(&refusal, uri, ApiError::refused_write)),
        }
    };
    count(state, begun, &settled);
    match settled? {
        Settled::Written(written) => {
            let etag = version.at(written.seq);
            Ok(answer::written(&written, Some(etag)))
        }
        Settled::Unmet(found) => conditions::unmet(state, &key, found.as_deref()),
    }
}

/// Counts the answer to a write that arrived at `begun`.
pub(super) fn count(state: &LeaderSite, begun: Instant, settled: &Result<Settled, ApiError>) {
    let outcome = match settled {
        Ok(Settled::Written(_)) => WriteResult::Committed,
        Err(error) if error.is_indeterminate() => WriteResult::Indeterminate,
        Ok(Settled::Unmet(_)) | Err(_) => WriteResult::Refused,
    };
    state.metrics.write(outcome, begun.elapsed().as_secs_f64());
}

/// Parses the query of a URL. A URL without one yields the defaults.
pub(super) fn query<T: Default + serde::de::DeserializeOwned>(uri: &Uri) -> Result<T, String> {
    if uri.query().is_none() {
        return Ok(T::default());
    }
    Query::try_from_uri(uri).map(|Query(query)| query).map_err(|rejection| rejection.body_text())
}

/// Waits for the outcome of an accepted write.
///
/// # Errors
/// 500 if it is unknown in time. 503 if the leader does not know in time whether it may refuse the write.
pub(super) async fn settle(state: &LeaderSite, placed: Placed) -> Result<Settled, ApiError> {
    let Placed { accepted, outcome, epoch, timeout, .. } = placed;
    match accepted {
        Accepted::AlreadyCommitted { seq } => Ok(Settled::Written(Written::new(seq, epoch))),
        Accepted::Pending { seq } => match tokio::time::timeout(timeout, outcome).await {
            Ok(Ok(WriteOutcome::Committed(receipt))) => {
                let generation = receipt.delays_us.is_some().then(|| state.leader.generation_in_force());
                let explain = explain(&receipt, generation);
                Ok(Settled::Written(Written { explain, ..Written::new(seq, receipt.epoch) }))
            }
            // Too few followers confirmed in time, or another leader took over. The write may still
            // commit.
            _ => Err(ApiError::indeterminate(seq, &epoch.to_string())),
        },
        Accepted::Unmet => match tokio::time::timeout(timeout, outcome).await {
            Ok(Ok(WriteOutcome::Unmet(found))) => Ok(Settled::Unmet(found)),
            // The record that refused the write may be lost, or another leader has a newer one.
            _ => Err(ApiError::not_applied(format!(
                "no write quorum confirmed within {} ms that this leader still leads and that the newest value is committed",
                timeout.as_millis()
            ))),
        },
    }
}

/// The answer to a refused request. A standby names the leader.
pub(super) fn refused(refusal: &Refusal, uri: &Uri, otherwise: impl Fn(&Refusal) -> ApiError) -> ApiError {
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

pub(super) fn retry_token(headers: &HeaderMap) -> Result<Option<Arc<str>>, ApiError> {
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

/// `?key=…&consistency=linearizable|local&raw=true`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct GetQuery {
    #[serde(default)]
    pub(super) key: String,
    #[serde(default)]
    consistency: Consistency,
    /// Whether the answer is the bytes of the value alone.
    #[serde(default)]
    pub(super) raw: bool,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value_base64: Option<Base64<'a>>,
    pub(super) seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epoch: Option<Shown<Epoch>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) committed: Option<bool>,
    /// Only a follower returns it; null while it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) staleness_ms: Option<Option<f64>>,
}

impl<'a> Got<'a> {
    pub(super) fn new(key: &'a str, value: &'a [u8], seq: u64) -> Self {
        let InJson { text, base64 } = value.into();
        Self { key, value: text, value_base64: base64, seq, epoch: None, committed: None, staleness_ms: None }
    }
}

pub(super) fn the_key(uri: &Uri) -> Result<GetQuery, ApiError> {
    let query: GetQuery = query(uri).map_err(|error| ApiError::read(StatusCode::BAD_REQUEST, error))?;
    if query.key.is_empty() {
        return Err(ApiError::read(StatusCode::BAD_REQUEST, "Missing key parameter"));
    }
    Ok(query)
}

/// Waits for a linearizable read.
///
/// # Errors
/// 503 when the leader does not know in time whether it still leads, and the redirect of a standby.
pub(super) async fn in_time<T>(
    state: &LeaderSite,
    uri: &Uri,
    read: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, ApiError> {
    let timeout = state.leader.replication_timeout();
    let read = tokio::time::timeout(timeout, read).await.map_err(|_| {
        let message =
            format!("no write quorum confirmed within {} ms that this leader still leads", timeout.as_millis());
        ApiError::read(StatusCode::SERVICE_UNAVAILABLE, message)
    })?;
    read.map_err(|refusal| refused(&refusal, uri, ApiError::refused_read))
}

/// `GET /get`.
pub(super) async fn get(state: &LeaderSite, uri: &Uri) -> Result<Answer, ApiError> {
    let GetQuery { key, consistency, raw } = the_key(uri)?;
    let leader = &state.leader;
    let (record, committed) = match consistency {
        Consistency::Local => {
            let latest = leader.latest(&key).map_err(|refusal| refused(&refusal, uri, ApiError::refused_read))?;
            latest.map_or((None, None), |(record, committed)| (Some(record), Some(committed)))
        }
        Consistency::Linearizable => (in_time(state, uri, leader.read(&key)).await?, None),
    };
    let etag = record.as_ref().map(Etag::of);
    let found = record.as_ref().and_then(|record| Some((record, record.value.as_ref()?)));
    let Some((Record { version, .. }, value)) = found else {
        return Err(ApiError::read(StatusCode::NOT_FOUND, "Key not found").with_etag(etag));
    };
    if raw {
        return answer::raw(&state.site.answers, value.clone(), etag);
    }
    let got = Got { epoch: Some(Shown(version.epoch)), committed, ..Got::new(&key, value, version.seq) };
    answer::read(&state.site.answers, &got, etag)
}
