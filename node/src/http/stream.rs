//! Long answers, made part by part while the client reads them.

use std::convert::Infallible;

use axum::body::Body;
use futures::stream;

/// Streams parts. `next` gets the state that the previous part left and returns a part with the state for the next
/// one, or with nothing after the last part.
pub(super) fn parts<S: Send + 'static>(first: S, next: impl FnMut(S) -> (String, Option<S>) + Send + 'static) -> Body {
    Body::from_stream(stream::unfold((Some(first), next), |(state, mut next)| async move {
        let state = state?;
        // Without this pause a client that reads fast would get part after part while every other task waits.
        tokio::task::yield_now().await;
        let (text, state) = next(state);
        Some((Ok::<_, Infallible>(text), (state, next)))
    }))
}
