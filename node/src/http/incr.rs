//! `POST /incr`.

use std::time::Instant;

use hyper::Request;
use serde::Deserialize;
use serde_json::Value;

use super::LeaderSite;
use super::answer::{self, Answer};
use super::body::{self, Field, check_lengths, parse};
use super::client_stream::Arriving;
use super::conditions;
use super::error::ApiError;
use super::kv::{self, Settled, Shown};
use crate::protocol::etag::Etag;
use crate::protocol::leader::{Condition, Increment, NoSum, sum};
use crate::protocol::types::{Key, Record};

/// How many characters of a value a message shows.
const SHOWN_CHARACTERS: usize = 40;

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    key: Field<'a>,
    #[serde(default)]
    by: Option<Value>,
}

/// `POST /incr`.
pub(super) async fn incr(state: &LeaderSite, request: Request<Arriving>) -> Result<Answer, ApiError> {
    let (head, body) = request.into_parts();
    let (key, by) = {
        let body = body::read(&state.site, body, state.site.body_bytes_max()).await?;
        let Body { key, by } = parse(&body)?;
        let by = match by {
            None => 1,
            Some(by) => by.as_i64().ok_or_else(|| ApiError::bad(format!("by must be a 64-bit integer, not {by}")))?,
        };
        let key = kv::key_of(key)?;
        check_lengths(&state.site, &key, None)?;
        (Key::from(key), by)
    };
    if conditions::of_request(&head.headers, &Field::Absent, None)? != Condition::Always {
        return Err(ApiError::bad("POST /incr takes no condition"));
    }
    let retry_token = kv::retry_token(&head.headers)?;
    let begun = Instant::now();
    let (settled, sum) = if state.site.is_draining() {
        (Err(ApiError::not_applied("the leader is shutting down")), None)
    } else {
        let increment = Increment { key, by, retry_token, now_us: state.leader.now_us() };
        match state.leader.increment(increment) {
            Ok((placed, sum)) => (kv::settle(state, placed).await, sum),
            Err(refusal) => (Err(kv::refused(&refusal, &head.uri, ApiError::refused_write)), None),
        }
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
