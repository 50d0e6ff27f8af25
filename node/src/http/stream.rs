//! Long answers, made part by part while the client reads them.
//!
//! Memory per answer: one part of about [`PART_BYTES`], or of one value if that is longer, and what the connection has
//! buffered. A client that reads nothing is disconnected, see [`Activity`](super::activity).

use axum::body::Body;
use futures::stream;

/// Keys that one part looks at. Writes wait while a part is collected.
pub(super) const PART_KEYS: usize = 512;

/// Bytes of keys and values in one part: a part ends with the value that exceeds them.
pub(super) const PART_BYTES: usize = 256 << 10;

/// Why an answer ends before its end. The client sees a connection that was closed in the middle.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Interrupted(pub(super) String);

/// Streams parts. `next` gets the state that the previous part left and returns a part with the state for the next
/// one, or with nothing after the last part.
pub(super) fn parts<S: Send + 'static>(
    first: S,
    next: impl FnMut(S) -> Result<(String, Option<S>), Interrupted> + Send + 'static,
) -> Body {
    Body::from_stream(stream::unfold((Some(first), next), |(state, mut next)| async move {
        let state = state?;
        // Without this pause a client that reads fast would get part after part while every other task waits.
        tokio::task::yield_now().await;
        Some(match next(state) {
            Ok((text, state)) => (Ok(text), (state, next)),
            Err(interrupted) => (Err(interrupted), (None, next)),
        })
    }))
}
