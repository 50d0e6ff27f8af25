//! Long answers, which the node makes in parts while the client reads them.
//!
//! Memory per answer: one part of about [`PART_BYTES`], or of one value if that is longer, plus the
//! buffer of the connection. The node disconnects a client that reads nothing, see
//! [`Activity`](super::activity).

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::stream;

/// Maximum keys that one part examines. Writes wait while the node collects a part.
pub(super) const PART_KEYS: usize = 512;

/// Bytes of keys and values in one part: a part ends with the value that exceeds them.
pub(super) const PART_BYTES: usize = 256 << 10;

/// Why an answer is incomplete. The client sees that the connection closes in the middle.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Interrupted(pub(super) String);

/// Answers with server-sent events.
pub(super) fn of_events(events: Body) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, events).into_response()
}

/// Streams parts. `next` gets the state that the previous call returned. It returns a part and the
/// state for the next one, or `None` with the last part.
pub(super) fn parts<S: Send + 'static>(
    first: S,
    next: impl FnMut(S) -> Result<(String, Option<S>), Interrupted> + Send + 'static,
) -> Body {
    Body::from_stream(stream::unfold((Some(first), next), |(state, mut next)| async move {
        let state = state?;
        // Without this yield, a fast client would receive part after part while every other task
        // waits.
        tokio::task::yield_now().await;
        Some(match next(state) {
            Ok((text, state)) => (Ok(text), (state, next)),
            Err(interrupted) => (Err(interrupted), (None, next)),
        })
    }))
}
