//! The errors that clients receive: a status, a JSON body, and `Retry-After` if a retry helps.

use axum::Json;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use kvcluster_api::config::ConfigError;
use kvcluster_api::error::{ErrorBody, Outcome};
use serde_json::{Value, json};

use super::answer;
use crate::protocol::etag::Etag;
use crate::protocol::leader::Refusal;

/// An answer other than success.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    body: Value,
    /// Where the client has to send its request instead.
    location: Option<Box<str>>,
    /// The version of the key.
    etag: Option<Etag>,
}

impl ApiError {
    fn with_body(status: StatusCode, body: Value) -> Self {
        Self { status, body, location: None, etag: None }
    }

    /// 307: the node with the URL `leader` leads, and not this one.
    pub fn elsewhere(leader: &str, uri: &Uri) -> Self {
        let message = format!("this node does not lead: {leader} leads");
        let location = format!("{leader}{}", uri.path_and_query().map_or("/", PathAndQuery::as_str));
        let refusal = Self::early(StatusCode::TEMPORARY_REDIRECT, message).with("leader", leader);
        Self { location: Some(location.into()), ..refusal }
    }

    /// `{"ok":false,"message":…}`.
    pub fn plain(status: StatusCode, message: impl Into<String>) -> Self {
        Self::with_body(status, json!(ErrorBody::refusal(message, None)))
    }

    /// `{"error":…}`, the form of the answers to reads.
    pub fn read(status: StatusCode, error: impl Into<String>) -> Self {
        Self::with_body(status, json!(ErrorBody::read(error)))
    }

    /// An error before a handler receives the request, with [`early_body`].
    pub fn early(status: StatusCode, message: impl Into<String>) -> Self {
        Self::with_body(status, early_body(message))
    }

    /// 400.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::plain(StatusCode::BAD_REQUEST, message)
    }

    /// 413: the body is longer than the limits of key and value allow.
    pub fn too_long() -> Self {
        Self::plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than any key and value may be")
            .with("outcome", json!(Outcome::NotApplied))
    }

    /// 400: the body did not arrive completely.
    pub fn unreadable(error: &dyn std::fmt::Display) -> Self {
        Self::bad(format!("failed to read the body: {error}")).with("outcome", json!(Outcome::NotApplied))
    }

    /// 408: the body did not arrive in time.
    pub fn late_body(within: std::time::Duration) -> Self {
        let message = format!("the body did not arrive within {} ms", within.as_millis());
        Self::plain(StatusCode::REQUEST_TIMEOUT, message).with("outcome", "not_applied")
    }

    /// 408: the next line of a batch did not arrive in time.
    pub fn late_line(within: std::time::Duration) -> Self {
        let message = format!("no whole line arrived within {} ms", within.as_millis());
        Self::plain(StatusCode::REQUEST_TIMEOUT, message).with("outcome", "not_applied")
    }

    /// 404 for an unknown path.
    pub fn no_route(path: &str) -> Self {
        let error = format!("no such route: {path}");
        Self::with_body(StatusCode::NOT_FOUND, json!({"ok": false, "message": error, "error": error}))
    }

    /// 405 for a method that the path does not support.
    pub fn wrong_method(method: &str) -> Self {
        let error = format!("the method {method} is not allowed here");
        Self::with_body(StatusCode::METHOD_NOT_ALLOWED, json!({"ok": false, "message": error, "error": error}))
    }

    /// Nothing was assigned: a retry is safe.
    pub fn not_applied(message: impl Into<String>) -> Self {
        let body = json!(ErrorBody::refusal(message, Some(Outcome::NotApplied)));
        Self::with_body(StatusCode::SERVICE_UNAVAILABLE, body)
    }

    /// The quorum was missed: the write may commit later.
    pub fn indeterminate(seq: u64, epoch: &str) -> Self {
        let body = json!(ErrorBody::refusal("quorum not reached", Some(Outcome::Indeterminate)));
        Self::with_body(StatusCode::INTERNAL_SERVER_ERROR, body).with("seq", seq).with("epoch", epoch)
    }

    /// A refused write.
    pub fn refused_write(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::TokenReused { .. } => Self::plain(StatusCode::UNPROCESSABLE_ENTITY, refusal.to_string()),
            Refusal::Exists { .. } | Refusal::NotEmpty { .. } | Refusal::NotRestoring { .. } => {
                Self::plain(StatusCode::CONFLICT, refusal.to_string())
            }
            Refusal::SequenceTooHigh { .. } => Self::bad(refusal.to_string()),
            _ => Self::not_applied(refusal.to_string()),
        }
    }

    /// 503: this node has only a part of a backup, since a restore is unfinished.
    pub fn unfinished_restore() -> Self {
        Self::read(StatusCode::SERVICE_UNAVAILABLE, "a restore is not finished")
    }

    /// A refused read.
    pub fn refused_read(refusal: &Refusal) -> Self {
        Self::read(StatusCode::SERVICE_UNAVAILABLE, refusal.to_string())
    }

    /// Whether this answers a write whose outcome is unknown.
    pub(super) fn is_indeterminate(&self) -> bool {
        self.status == StatusCode::INTERNAL_SERVER_ERROR
    }

    /// Adds the version of the key.
    #[must_use]
    pub fn with_etag(self, etag: Option<Etag>) -> Self {
        Self { etag, ..self }
    }

    /// Adds a field to the body.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        if let Value::Object(fields) = &mut self.body {
            fields.insert(name.to_owned(), value.into());
        }
        self
    }
}

/// `{"ok":false,"message":…,"error":…,"outcome":"not_applied"}`.
pub(super) fn early_body(message: impl Into<String>) -> Value {
    let message = message.into();
    let mut body = json!(ErrorBody::refusal(message.clone(), Some(Outcome::NotApplied)));
    body["error"] = message.into();
    body
}

impl From<ConfigError> for ApiError {
    fn from(error: ConfigError) -> Self {
        Self::bad(error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if let Some(location) = self.location.and_then(|location| HeaderValue::try_from(&*location).ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        if let Some(etag) = self.etag.and_then(answer::header_of) {
            response.headers_mut().insert(header::ETAG, etag);
        }
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
