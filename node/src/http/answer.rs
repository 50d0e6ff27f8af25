//! Answers of the routes that bypass the router.

use std::io::Write;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{Either, Full};
use serde::Serialize;

use super::budget::Budget;
use super::error::ApiError;
use crate::protocol::etag::Etag;
use crate::protocol::value::Value;

/// An answer: complete in memory, or the router's body.
pub(crate) type Answer = hyper::Response<Either<Full<Bytes>, Body>>;

/// Returns 200 with `body` as JSON and the version of its key, if it is known.
pub(super) fn written(body: &impl Serialize, etag: Option<Etag>) -> Answer {
    ok(serialize(body), etag)
}

/// Returns 200 with the answer to a read as JSON and the version of its key, if it has one. The answer has `value_bytes`
/// or more.
///
/// # Errors
/// 503 when long answers that other clients have not read use up the budget.
pub(super) async fn read(
    budget: &Budget,
    value_bytes: usize,
    body: &impl Serialize,
    etag: Option<Etag>,
) -> Result<Answer, ApiError> {
    let text = budget.in_turn(value_bytes, || budget.count(serialize(body))).await;
    let text = text.map_err(|error| ApiError::read(StatusCode::SERVICE_UNAVAILABLE, error))?;
    if text.is_long() {
        return Ok(with_head(Bytes::from_owner(text), etag.and_then(header_of)));
    }
    Ok(ok(text.into_inner(), etag))
}

/// Returns 200 with the bytes of a value alone and the version of its key.
///
/// The answer shares the value with the node. Its body is one of those that may contain anything, see
/// [`Activity::sends_anything`](super::activity::Activity::sends_anything).
///
/// # Errors
/// 503 when long answers that other clients have not read use up the budget.
pub(super) fn raw(budget: &Budget, value: Value, etag: Option<Etag>) -> Result<Answer, ApiError> {
    let counted = budget.count(value).map_err(|error| ApiError::read(StatusCode::SERVICE_UNAVAILABLE, error))?;
    let body = Body::from(Bytes::from_owner(counted));
    let mut answer = hyper::Response::new(Either::Right(body));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // A browser must not take the value for a page or a script of this node.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.extend(etag.and_then(header_of).map(|etag| (header::ETAG, etag)));
    Ok(answer)
}

fn serialize(body: &impl Serialize) -> Vec<u8> {
    // 160 bytes fit most answers with their ETag. The types that are serialised here cannot fail to
    // serialise.
    let mut text = Vec::with_capacity(160);
    let _ = serde_json::to_writer(&mut text, body);
    text
}

/// An answer in which body and ETag share one allocation.
fn ok(mut text: Vec<u8>, etag: Option<Etag>) -> Answer {
    let Some(etag) = etag else {
        return with_head(text.into(), None);
    };
    let length = text.len();
    // Writing into a vector cannot fail.
    let _ = write!(text, "\"{etag}\"");
    let mut body = Bytes::from(text);
    let tag = body.split_off(length);
    with_head(body, HeaderValue::from_maybe_shared(tag).ok())
}

fn with_head(body: Bytes, etag: Option<HeaderValue>) -> Answer {
    let mut answer = hyper::Response::new(Either::Left(Full::new(body)));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(etag) = etag {
        answer.headers_mut().insert(header::ETAG, etag);
    }
    answer
}

/// The value of the header `ETag`: the version in quotes.
pub(super) fn header_of(etag: Etag) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("\"{etag}\"")).ok()
}

impl From<ApiError> for Answer {
    fn from(error: ApiError) -> Self {
        Response::map(error.into_response(), Either::Right)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn long_answers_share_a_budget_until_they_are_sent() {
        let budget = Budget::new(250_000);
        let value = "x".repeat(100_000);
        let etag = Some(Etag::new(1, Some(value.as_bytes())));
        let read_value = async || read(&budget, value.len(), &value, etag).await;
        let first = read_value().await.expect("there is room");
        let second = read_value().await.expect("there is room");
        let refused = [read_value().await, raw(&budget, value.as_str().into(), etag)];
        for refused in refused.map(|refused| refused.expect_err("too much").into_response()) {
            assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(refused.headers().contains_key(header::RETRY_AFTER));
        }
        assert!(read(&budget, 5, &"short", etag).await.is_ok(), "a short answer takes nothing");
        drop(first);
        let sent = second.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(sent.len(), 100_002);
        assert!(budget.free() < 250_000, "the connection has the bytes");
        drop(sent);
        assert_eq!(budget.free(), 250_000);
        let bytes = raw(&budget, value.as_str().into(), etag).expect("there is room");
        assert_eq!(budget.free(), 150_000);
        drop(bytes);
        assert_eq!(budget.free(), 250_000);
    }
}
