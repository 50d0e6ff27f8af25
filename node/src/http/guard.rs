//! The bearer token that guards replication and administration.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Site;
use super::error::ApiError;

/// Answers 401 to a request without the token, if a token is set.
pub(super) async fn authorize(State(site): State<Site>, request: Request, next: Next) -> Response {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if site.token.is_none() || given.is_some_and(|given| site.is_token(given.as_bytes())) {
        return next.run(request).await;
    }
    ApiError::plain(StatusCode::UNAUTHORIZED, "this route needs the bearer token of the cluster").into_response()
}
