//! The leader's routes for clients.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use hyper::Request;
use hyper::body::Incoming;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize as DeserializeDerive, Serialize, Serializer};

use super::error::ApiError;
use super::server::{self, Answer};
use super::{LeaderSite, Site};
use crate::metrics::WriteResult;
use crate::protocol::leader::{Accepted, NewWrite, Receipt};
use crate::protocol::types::{Epoch, Record};
use crate::replication::coordinator::{Placed, WriteOutcome};

/// How many values one part of a dump carries.
pub(super) const DUMP_PART: usize = 512;

/// Longest `Idempotency-Key`, in bytes.
const RETRY_TOKEN_BYTES_MAX: usize = 255;

/// A member of a JSON object that should be a string: told apart from one that is not there, and from one of another type.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Field<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    OtherType,
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Field<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Field::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Field::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Field::Absent)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Field::OtherType)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Field::OtherType)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Field::OtherType)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Field::OtherType)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                while sequence.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Field::OtherType)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Field::OtherType)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[derive(DeserializeDerive)]
struct PutBody<'a> {
    #[serde(borrow, default)]
    key: Field<'a>,
    #[serde(borrow, default)]
    value: Field<'a>,
}

#[derive(DeserializeDerive)]
struct DeleteBody<'a> {
    #[serde(borrow, default)]
    key: Field<'a>,
}

/// `?explain=true` adds to the answer which delays were drawn.
#[derive(Debug, Default, DeserializeDerive)]
pub(super) struct PutQuery {
    #[serde(default)]
    explain: bool,
}

/// A value as it displays.
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

/// Why a write took as long as it did.
#[derive(Serialize)]
struct Explanation {
    write_quorum: u16,
    generation: u64,
    /// The W-th smallest of the delays.
    quorum_delay_ms: f64,
    /// As drawn, one for each follower.
    delays_ms: Vec<f64>,
}

/// What a route of the router got as a body.
pub(super) fn received(body: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_long(),
        _ => ApiError::unreadable(&rejection),
    })
}

/// Reads a JSON object, or says what is wrong with it.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ApiError> {
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| b"[\"tfn-0123456789".contains(byte)) {
        return Err(ApiError::bad("the body must be a JSON object"));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let message = match error.classify() {
            serde_json::error::Category::Data => {
                format!("the body is not the expected JSON object: {error}")
            }
            _ => format!("malformed JSON: {error}"),
        };
        ApiError::bad(message)
    })
}

/// Limits that JSON says nothing about.
pub(super) fn check_lengths(site: &Site, key: &str, value: Option<&str>) -> Result<(), ApiError> {
    let too_long = |what: &str, bytes: usize, most: usize| {
        let message = format!("the {what} has {bytes} bytes (limit {most})");
        Err(ApiError::plain(StatusCode::PAYLOAD_TOO_LARGE, message).with("outcome", "not_applied"))
    };
    if key.len() > site.key_bytes_max {
        return too_long("key", key.len(), site.key_bytes_max);
    }
    match value {
        Some(value) if value.len() > site.value_bytes_max => too_long("value", value.len(), site.value_bytes_max),
        _ => Ok(()),
    }
}

/// `POST /put`.
pub(super) async fn put(state: &LeaderSite, request: Request<Incoming>) -> Result<Answer, ApiError> {
    let (head, body) = request.into_parts();
    let body = server::body(body, state.site.body_bytes_max()).await?;
    let (key, value) = put_fields(&body)?;
    write(state, &head.uri, &head.headers, &key, Some(&value)).await
}

/// Key and value of the body of `POST /put`.
///
/// # Errors
/// What the client is told.
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
pub(super) async fn delete(state: &LeaderSite, request: Request<Incoming>) -> Result<Answer, ApiError> {
    let (head, body) = request.into_parts();
    let body = server::body(body, state.site.body_bytes_max()).await?;
    match parse::<DeleteBody<'_>>(&body)?.key {
        Field::Text(key) if !key.is_empty() => write(state, &head.uri, &head.headers, &key, None).await,
        Field::OtherType => Err(ApiError::bad("key must be a string")),
        _ => Err(ApiError::bad("Missing key")),
    }
}

async fn write(
    state: &LeaderSite,
    uri: &Uri,
    headers: &HeaderMap,
    key: &str,
    value: Option<&str>,
) -> Result<Answer, ApiError> {
    let PutQuery { explain } = query(uri).map_err(ApiError::bad)?;
    check_lengths(&state.site, key, value)?;
    let retry_token = retry_token(headers)?;
    let begun = Instant::now();
    let answer = if state.site.is_draining() {
        Err(ApiError::not_applied("the leader is shutting down"))
    } else {
        let now_us = state.leader.now_us();
        let new = NewWrite { key: key.into(), value: value.map(Into::into), retry_token, explain, now_us };
        replicate(state, new).await
    };
    let outcome = match &answer {
        Ok(_) => WriteResult::Committed,
        Err(error) if error.is_indeterminate() => WriteResult::Indeterminate,
        Err(_) => WriteResult::Refused,
    };
    state.metrics.write(outcome, begun.elapsed().as_secs_f64());
    Ok(server::json(&answer?))
}

/// The settings of a request; those of a request without any are the defaults.
fn query<T: Default + serde::de::DeserializeOwned>(uri: &Uri) -> Result<T, String> {
    if uri.query().is_none() {
        return Ok(T::default());
    }
    Query::try_from_uri(uri).map(|Query(query)| query).map_err(|rejection| rejection.body_text())
}

async fn replicate(state: &LeaderSite, new: NewWrite) -> Result<PutAnswer, ApiError> {
    let leader = &state.leader;
    let Placed { accepted, outcome, epoch, timeout } =
        leader.put(new).map_err(|refusal| ApiError::refused_write(&refusal))?;
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
        // Whether nobody answered in time or another leader took over: the write may still turn up.
        _ => Err(ApiError::indeterminate(seq, &epoch.to_string())),
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
#[derive(Debug, Default, DeserializeDerive)]
pub(super) struct GetQuery {
    #[serde(default)]
    pub(super) key: String,
    #[serde(default)]
    consistency: Consistency,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, DeserializeDerive)]
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
    /// Present, even as null, on a follower alone.
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
            leader.latest(&key).map_or((None, None), |(record, committed)| (Some(record), Some(committed)))
        }
        Consistency::Linearizable => {
            let timeout = leader.replication_timeout();
            let read = tokio::time::timeout(timeout, leader.read(&key)).await.map_err(|_| {
                let message =
                    format!("no write quorum confirmed within {} ms that this leader still leads", timeout.as_millis());
                ApiError::read(StatusCode::SERVICE_UNAVAILABLE, message)
            })?;
            (read.map_err(|refusal| ApiError::refused_read(&refusal))?, None)
        }
    };
    let found = record.as_ref().and_then(|record| Some((record, record.value.as_deref()?)));
    let Some((Record { version, .. }, value)) = found else {
        return Err(ApiError::read(StatusCode::NOT_FOUND, "Key not found"));
    };
    let epoch = Some(Shown(version.epoch));
    Ok(server::json(&Got { key: &key, value, seq: version.seq, epoch, committed, staleness_ms: None }))
}

#[derive(Serialize)]
pub(super) struct Dumped<'a> {
    pub(super) value: &'a str,
    pub(super) seq: u64,
    /// Only where it is false: a value that has no quorum yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) uncommitted: bool,
}

/// `GET /dump`: what this leader accepted, part by part, without holding up anybody.
pub(super) async fn dump(State(state): State<LeaderSite>) -> Response {
    let leader = state.leader;
    stream_dump("leader", move |position, text| {
        leader.for_each_entry(position, DUMP_PART, |key, record, committed| {
            if let Some(value) = &record.value {
                push_entry(text, key, &Dumped { value, seq: record.version.seq, uncommitted: !committed });
            }
        })
    })
}

/// Appends `,"key":{…}`.
pub(super) fn push_entry(text: &mut String, key: &str, entry: &Dumped<'_>) {
    // Strings and numbers always serialise.
    let (key, entry) = (serde_json::to_string(key), serde_json::to_string(entry));
    if let (Ok(key), Ok(entry)) = (key, entry) {
        text.push(',');
        text.push_str(&key);
        text.push(':');
        text.push_str(&entry);
    }
}

/// Streams `{"entries":{…},"role":…}`; `part` appends the entries from a position on and returns the next position.
pub(super) fn stream_dump(
    role: &'static str,
    part: impl FnMut(usize, &mut String) -> Option<usize> + Send + 'static,
) -> Response {
    let parts = stream::unfold((part, Some(0), true), move |(mut part, position, mut first)| async move {
        let position = position?;
        // Whoever reads fast would get one part after the other, and everybody else would wait.
        tokio::task::yield_now().await;
        let mut text = String::new();
        let next = part(position, &mut text);
        // Each entry begins with a comma; the very first one has nothing before it.
        let entries = if first { text.strip_prefix(',').unwrap_or(&text) } else { &text };
        let opening = if position == 0 { "{\"entries\":{" } else { "" };
        let closing = if next.is_none() { format!("}},\"role\":\"{role}\"}}") } else { String::new() };
        let chunk = format!("{opening}{entries}{closing}");
        first &= text.is_empty();
        Some((Ok::<_, std::convert::Infallible>(chunk), (part, next, first)))
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(parts)).into_response()
}
