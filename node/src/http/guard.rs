//! The bearer token that guards replication and administration.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::Site;
use super::error::ApiError;

/// Answers 401 to a request without the token, if a token is set.
pub(super) async fn authorize(State(site): State<Site>, request: Request, next: Next) -> Response {
    let Some(token) = &site.token else {
        return next.run(request).await;
    };
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    // In constant time: the time must not reveal how much of a guess was right.
    if given.is_some_and(|given| given.as_bytes().ct_eq(token.as_bytes()).into()) {
        return next.run(request).await;
    }
    ApiError::plain(StatusCode::UNAUTHORIZED, "this route needs the bearer token of the cluster").into_response()
}
