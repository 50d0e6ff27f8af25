//! The bearer token that guards replication and administration.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Site;
use super::error::ApiError;

/// Answers 401 to a request without the token, where a token is set.
pub(super) async fn authorize(State(site): State<Site>, request: Request, next: Next) -> Response {
    let Some(token) = &site.token else {
        return next.run(request).await;
    };
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if given.is_some_and(|given| equal(given.as_bytes(), token.as_bytes())) {
        return next.run(request).await;
    }
    ApiError::plain(StatusCode::UNAUTHORIZED, "this route needs the bearer token of the cluster").into_response()
}

/// Compares in constant time: the time must not reveal how much of a guess was right.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
