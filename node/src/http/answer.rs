//! Answers of the routes that bypass the router.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{Either, Full};
use serde::Serialize;

use super::error::ApiError;

/// An answer: complete in memory, or a body as the router made it.
pub(crate) type Answer = hyper::Response<Either<Full<Bytes>, Body>>;

/// Returns 200 with `body` as JSON.
pub(super) fn json(body: &impl Serialize) -> Answer {
    // 128 bytes fit most answers. The types that are serialised here cannot fail to serialise.
    let mut text = Vec::with_capacity(128);
    let _ = serde_json::to_writer(&mut text, body);
    let mut answer = hyper::Response::new(Either::Left(Full::new(text.into())));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

impl From<ApiError> for Answer {
    fn from(error: ApiError) -> Self {
        Response::map(error.into_response(), Either::Right)
    }
}
