//! `POST /incr`.

use std::sync::Arc;
use std::time::Instant;

use axum::http::{HeaderMap, Uri};
use serde::Deserialize;
use serde_json::Value;

use super::answer::{self, Answer};
use super::body::{self, Field, check_lengths, parse};
use super::client_stream::Arriving;
use super::conditions;
use super::error::ApiError;
use super::kv::{self, Settled, Shown};
use super::{LeaderSite, Site};
use crate::deliberate::{self, DeliberateFault};
use crate::protocol::etag::Etag;
use crate::protocol::leader::{Condition, Increment, NoSum, sum};
use crate::protocol::types::{Key, Record};
use crate::replication::coordinator::Placed;

/// How many characters of a value a message shows.
const SHOWN_CHARACTERS: usize = 40;

/// The body of `POST /incr`.
#[derive(Deserialize)]
pub(super) struct IncrBody<'a> {
    #[serde(borrow, default)]
    key: Field<'a>,
    #[serde(default)]
    by: Option<Value>,
    #[serde(borrow, default)]
    if_match: Field<'a>,
    #[serde(default)]
    if_absent: Option<bool>,
    #[serde(borrow, default)]
    idempotency_key: Field<'a>,
}

/// An increment that a client asks for.
pub(super) struct Request {
    pub(super) key: Key,
    by: i64,
    retry_token: Option<Arc<str>>,
}

/// An increment that the leader has accepted or refused.
pub(super) struct Begun {
    by: i64,
    begun: Instant,
    placed: Result<(Placed, Option<i64>), ApiError>,
}

/// `POST /incr`.
pub(super) async fn incr(state: &LeaderSite, request: hyper::Request<Arriving>) -> Result<Answer, ApiError> {
    let (head, body) = request.into_parts();
    let increment = {
        let body = body::read(&state.site, body, state.site.body_bytes_max()).await?;
        Request::of(&state.site, &head.headers, parse(&body)?)?
    };
    increment.begin(state, &head.uri).answer(state).await
}

impl Request {
    /// # Errors
    /// 400 or 413 for a malformed request.
    pub(super) fn of(site: &Site, headers: &HeaderMap, body: IncrBody<'_>) -> Result<Self, ApiError> {
        let IncrBody { key, by, if_match, if_absent, idempotency_key } = body;
        let by = match by {
            None => 1,
            Some(by) => by.as_i64().ok_or_else(|| ApiError::bad(format!("by must be a 64-bit integer, not {by}")))?,
        };
        let key = kv::key_of(key)?;
        check_lengths(site, &key, None)?;
        if conditions::of_request(headers, &if_match, if_absent)? != Condition::Always {
            return Err(ApiError::bad("POST /incr takes no condition"));
        }
        Ok(Self { key: key.into(), by, retry_token: kv::retry_token(headers, idempotency_key)? })
    }

    /// Passes the increment to the leader.
    pub(super) fn begin(self, state: &LeaderSite, uri: &Uri) -> Begun {
        let Self { key, by, retry_token } = self;
        let begun = Instant::now();
        let placed = if state.site.is_draining() {
            Err(ApiError::not_applied("the leader is shutting down"))
        } else {
            let retry_token = retry_token.filter(|_| !deliberate::is_on(DeliberateFault::CountsRetries));
            let increment = Increment { key, by, retry_token, now_us: state.leader.now_us() };
            let placed = state.leader.increment(increment);
            let placed = placed.map(|(placed, sum)| {
                let accepted = deliberate::counted(placed.accepted);
                (Placed { accepted, ..placed }, sum)
            });
            placed.map_err(|refusal| kv::refused(&refusal, uri, ApiError::refused_write))
        };
        Begun { by, begun, placed }
    }
}

impl Begun {
    /// Waits for the outcome.
    ///
    /// # Errors
    /// The answer for the client.
    pub(super) async fn answer(self, state: &LeaderSite) -> Result<Answer, ApiError> {
        let Self { by, begun, placed } = self;
        let (settled, sum) = match placed {
            Ok((placed, sum)) => (kv::settle(state, placed, begun).await, sum),
            Err(refused) => (Err(refused), None),
        };
        kv::count(state, begun, &settled);
        match settled? {
            Settled::Written(written) => {
                let etag = sum.map(|sum| Etag::new(written.seq, Some(sum.to_string().as_bytes())));
                Ok(answer::written(&written.with_sum(sum.map(Shown)), etag))
            }
            Settled::Unmet(found) => Err(no_sum(found.as_deref(), by)),
        }
    }
}

/// 400 with the reason why there is no sum.
fn no_sum(found: Option<&Record>, by: i64) -> ApiError {
    let value = found.and_then(|record| record.value.as_deref());
    let shown = String::from_utf8_lossy(value.unwrap_or(b"0"));
    let message = match sum(value, by) {
        Err(NoSum::NoInteger) => {
            let (more, shown) = match shown.char_indices().nth(SHOWN_CHARACTERS) {
                Some((end, _)) => (" …", &shown[..end]),
                None => ("", &*shown),
            };
            format!("the value {shown:?}{more} is not a decimal 64-bit integer")
        }
        _ => format!("{shown} + {by} is outside of the 64-bit integers"),
    };
    ApiError::bad(message).with("outcome", "not_applied").with_etag(found.map(Etag::of))
}
