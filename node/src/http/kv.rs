//! The leader's routes for clients.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::Query;
use axum::http::{HeaderMap, StatusCode, Uri};
use hyper::Request;
use serde::{Deserialize, Serialize, Serializer};
use tokio::time::error::Elapsed;

use super::answer::{self, Answer};
use super::body::{self, Field, ValueField, check_lengths, parse};
use super::client_stream::Arriving;
use super::conditions;
use super::error::ApiError;
use super::{LeaderSite, Site};
use crate::metrics::WriteResult;
use crate::protocol::etag::Etag;
use crate::protocol::leader::{Accepted, Condition, NewWrite, ReadOf, Receipt, Refusal};
use crate::protocol::types::{Epoch, Key, Record};
use crate::protocol::value::{Base64, InJson, Value};
use crate::replication::coordinator::{Placed, WriteOutcome};

/// Waits until this moment at most.
async fn timeout_at<T>(until: Instant, wait: impl Future<Output = T>) -> Result<T, Elapsed> {
    tokio::time::timeout_at(until.into(), wait).await
}

/// Longest `Idempotency-Key`, in bytes.
const RETRY_TOKEN_BYTES_MAX: usize = 255;

/// The body of `POST /put`.
#[derive(Deserialize)]
pub(super) struct PutBody<'a> {
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
    #[serde(borrow, default)]
    idempotency_key: Field<'a>,
}

/// The fields of the body of `POST /put`.
pub struct PutFields<'a> {
    /// The key, not empty.
    pub key: Cow<'a, str>,
    /// The value.
    pub value: Cow<'a, [u8]>,
    if_match: Field<'a>,
    if_absent: Option<bool>,
    idempotency_key: Field<'a>,
}

/// The body of `POST /delete`.
#[derive(Deserialize)]
pub(super) struct DeleteBody<'a> {
    #[serde(borrow, default)]
    key: Field<'a>,
    #[serde(borrow, default)]
    if_match: Field<'a>,
    #[serde(default)]
    if_absent: Option<bool>,
    #[serde(borrow, default)]
    idempotency_key: Field<'a>,
}

/// A key alone.
#[derive(Deserialize)]
pub(super) struct KeyBody<'a> {
    #[serde(borrow, default)]
    pub(super) key: Field<'a>,
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
    let write = {
        let body = body::read(&state.site, body, state.site.body_bytes_max()).await?;
        // The write waits for its quorum without the body: only the key and the value stay in memory.
        Write::put(&state.site, &head.headers, put_fields(&body)?)?
    };
    let PutQuery { explain } = query(&head.uri).map_err(ApiError::bad)?;
    Write { explain, ..write }.begin(state, &head.uri).answer(state).await
}

/// Parses the body of `POST /put`.
///
/// # Errors
/// The answer for the client.
pub fn put_fields(body: &[u8]) -> Result<PutFields<'_>, ApiError> {
    parse::<PutBody<'_>>(body)?.fields()
}

impl<'a> PutBody<'a> {
    /// The fields.
    ///
    /// # Errors
    /// 400 when one is missing or is not a string.
    pub(super) fn fields(self) -> Result<PutFields<'a>, ApiError> {
        let Self { key, value, value_base64, if_match, if_absent, idempotency_key } = self;
        match (key, ValueField::of(value, value_base64)?) {
            (Field::Absent, _) | (_, ValueField::Absent) => Err(ApiError::bad("Missing key or value")),
            (Field::Text(key), _) if key.is_empty() => Err(ApiError::bad("Missing key or value")),
            (Field::Text(key), ValueField::Bytes(value)) => {
                Ok(PutFields { key, value, if_match, if_absent, idempotency_key })
            }
            _ => Err(ApiError::bad("key and value must be strings")),
        }
    }
}

/// `POST /delete`.
pub(super) async fn delete(state: &LeaderSite, request: Request<Arriving>) -> Result<Answer, ApiError> {
    let (head, body) = request.into_parts();
    let write = {
        let body = body::read(&state.site, body, state.site.body_bytes_max()).await?;
        Write::delete(&state.site, &head.headers, parse(&body)?)?
    };
    let PutQuery { explain } = query(&head.uri).map_err(ApiError::bad)?;
    Write { explain, ..write }.begin(state, &head.uri).answer(state).await
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

/// A write or a deletion that a client asks for.
pub(super) struct Write {
    pub(super) key: Key,
    /// `None` deletes the key.
    value: Option<Value>,
    condition: Condition,
    retry_token: Option<Arc<str>>,
    explain: bool,
}

/// A write that the leader has accepted or refused.
pub(super) struct BegunWrite {
    key: Key,
    /// What it stores, under any sequence number.
    version: Etag,
    begun: Instant,
    placed: Result<Placed, ApiError>,
}

impl Write {
    /// # Errors
    /// 400 or 413 for a malformed request.
    pub(super) fn put(site: &Site, headers: &HeaderMap, fields: PutFields<'_>) -> Result<Self, ApiError> {
        let PutFields { key, value, if_match, if_absent, idempotency_key } = fields;
        check_lengths(site, &key, Some(&value))?;
        let condition = conditions::of_request(headers, &if_match, if_absent)?;
        let retry_token = retry_token(headers, idempotency_key)?;
        Ok(Self { key: key.into(), value: Some(value.into()), condition, retry_token, explain: false })
    }

    /// # Errors
    /// 400 or 413 for a malformed request.
    pub(super) fn delete(site: &Site, headers: &HeaderMap, body: DeleteBody<'_>) -> Result<Self, ApiError> {
        let DeleteBody { key, if_match, if_absent, idempotency_key } = body;
        let key = key_of(key)?;
        check_lengths(site, &key, None)?;
        let condition = conditions::of_request(headers, &if_match, if_absent)?;
        let retry_token = retry_token(headers, idempotency_key)?;
        Ok(Self { key: key.into(), value: None, condition, retry_token, explain: false })
    }

    /// Bytes of its key and value.
    pub(super) fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, |value| value.len())
    }

    /// Passes the write to the leader. Writes of one key apply in the order of these calls.
    pub(super) fn begin(self, state: &LeaderSite, uri: &Uri) -> BegunWrite {
        let Self { key, value, condition, retry_token, explain } = self;
        let begun = Instant::now();
        let version = Etag::new(0, value.as_deref());
        let placed = if state.site.is_draining() {
            Err(ApiError::not_applied("the leader is shutting down"))
        } else {
            let new = NewWrite { key: key.clone(), value, retry_token, explain, now_us: state.leader.now_us() };
            let placed = state.leader.put_if(new, condition);
            placed.map_err(|refusal| refused(&refusal, uri, ApiError::refused_write))
        };
        BegunWrite { key, version, begun, placed }
    }
}

impl BegunWrite {
    /// Waits for the outcome.
    ///
    /// # Errors
    /// The answer for the client.
    pub(super) async fn answer(self, state: &LeaderSite) -> Result<Answer, ApiError> {
        let Self { key, version, begun, placed } = self;
        let settled = match placed {
            Ok(placed) => settle(state, placed, begun).await,
            Err(refused) => Err(refused),
        };
        count(state, begun, &settled);
        match settled? {
            Settled::Written(written) => {
                let etag = version.at(written.seq);
                Ok(answer::written(&written, Some(etag)))
            }
            Settled::Unmet(found) => conditions::unmet(state, &key, found.as_deref()).await,
        }
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

/// Waits for the outcome of a write that was accepted after `begun`.
///
/// # Errors
/// 500 if it is unknown in time. 503 if the leader does not know in time whether it may refuse the write.
pub(super) async fn settle(state: &LeaderSite, placed: Placed, begun: Instant) -> Result<Settled, ApiError> {
    let Placed { accepted, outcome, epoch, timeout, .. } = placed;
    let outcome = timeout_at(begun + timeout, outcome);
    match accepted {
        Accepted::AlreadyCommitted { seq } => Ok(Settled::Written(Written::new(seq, epoch))),
        Accepted::Pending { seq } => match outcome.await {
            Ok(Ok(WriteOutcome::Committed(receipt))) => {
                let generation = receipt.delays_us.is_some().then(|| state.leader.generation_in_force());
                let explain = explain(&receipt, generation);
                Ok(Settled::Written(Written { explain, ..Written::new(seq, receipt.epoch) }))
            }
            // Too few followers confirmed in time, or another leader took over. The write may still
            // commit.
            _ => Err(ApiError::indeterminate(seq, &epoch.to_string())),
        },
        Accepted::Unmet => match outcome.await {
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

/// The idempotency key of a write, from the head or from the member of its body.
///
/// # Errors
/// 400 if it is malformed, or if both are there.
pub(super) fn retry_token(headers: &HeaderMap, in_body: Field<'_>) -> Result<Option<Arc<str>>, ApiError> {
    let malformed =
        |name: &str| ApiError::bad(format!("{name} must be 1 to {RETRY_TOKEN_BYTES_MAX} visible ASCII characters"));
    let fits = |token: &str| (1..=RETRY_TOKEN_BYTES_MAX).contains(&token.len());
    match (headers.get("idempotency-key"), in_body) {
        (None, Field::Absent) => Ok(None),
        (Some(token), Field::Absent) => match token.to_str() {
            Ok(token) if fits(token) => Ok(Some(token.into())),
            _ => Err(malformed("Idempotency-Key")),
        },
        (None, Field::Text(token)) if fits(&token) && token.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => {
            Ok(Some(token.into()))
        }
        (None, _) => Err(malformed("idempotency_key")),
        (Some(_), _) => Err(ApiError::bad("a write has at most one idempotency key")),
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

/// Waits for a linearizable read that arrived at `begun`.
///
/// # Errors
/// 503 when the leader does not know in time whether it still leads, and the redirect of a standby.
pub(super) async fn in_time<T>(
    state: &LeaderSite,
    uri: &Uri,
    begun: Instant,
    read: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, ApiError> {
    let timeout = state.leader.replication_timeout();
    let read = timeout_at(begun + timeout, read).await.map_err(|_| {
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
        Consistency::Linearizable => (in_time(state, uri, Instant::now(), leader.read(&key)).await?, None),
    };
    got(state, &key, raw, record.as_ref(), committed).await
}

/// The answer to a read that found this record.
async fn got(
    state: &LeaderSite,
    key: &str,
    raw: bool,
    record: Option<&Record>,
    committed: Option<bool>,
) -> Result<Answer, ApiError> {
    let etag = record.map(Etag::of);
    let found = record.and_then(|record| Some((record, record.value.as_ref()?)));
    let Some((Record { version, .. }, value)) = found else {
        return Err(ApiError::read(StatusCode::NOT_FOUND, "Key not found").with_etag(etag));
    };
    if raw {
        return answer::raw(&state.site.answers, value.clone(), etag);
    }
    let got = Got { epoch: Some(Shown(version.epoch)), committed, ..Got::new(key, value, version.seq) };
    answer::read(&state.site.answers, value.len(), &got, etag).await
}

/// A read in the order of requests, see [`Coordinator::read_in_order`](crate::replication::coordinator::Coordinator::read_in_order).
pub(super) struct Read {
    key: Box<str>,
    begun: Instant,
    placed: Result<Placed, Refusal>,
    /// About how many bytes it will return.
    pub(super) bytes: usize,
}

impl Read {
    /// `behind_others`: whether requests before it, whose answers are not known, may be about its key.
    pub(super) fn begin(state: &LeaderSite, key: &str, behind_others: bool) -> Self {
        let of = if behind_others { ReadOf::Accepted } else { ReadOf::Committed };
        let placed = state.leader.read_in_order(key, of);
        let newest = state.leader.latest(key).ok().flatten().and_then(|(record, _)| record.value);
        let bytes = newest.map_or(0, |value| value.len());
        Self { key: key.into(), begun: Instant::now(), placed, bytes }
    }

    /// Waits for the value.
    ///
    /// # Errors
    /// The answer for the client.
    pub(super) async fn answer(self, state: &LeaderSite, uri: &Uri) -> Result<Answer, ApiError> {
        let Self { key, begun, placed, .. } = self;
        let read = async {
            match placed?.outcome.await {
                Ok(WriteOutcome::Unmet(found)) => Ok(found),
                _ => Err(state.leader.local_refusal().err().unwrap_or(Refusal::Recovering)),
            }
        };
        let found = in_time(state, uri, begun, read).await?;
        got(state, &key, false, found.as_deref(), None).await
    }
}
