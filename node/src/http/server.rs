//! The connections: how many, how long, and to whom each request on them goes.
//!
//! Connections are served with hyper directly, so that the routes that are called a hundred thousand times a second do not
//! pass a router and its layers on every call.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;
use tracing::warn;

use super::error::ApiError;

/// How long a connection may take to send the head of its next request, idle time included.
const HEAD_WITHIN: Duration = Duration::from_secs(300);

/// How long to leave callers waiting when the system has no more file descriptors to give.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);

/// An answer: ready in one piece, or as the router made it.
pub(crate) type Answer = hyper::Response<Either<Full<Bytes>, Body>>;

/// What answers the requests of every connection.
pub(crate) trait Service: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

/// Serves at most `connections_max` connections at once, until `closed`; then finishes what is under way on them. One
/// connection more is answered, with 503, rather than left to wait.
pub(crate) async fn serve(
    listener: TcpListener,
    connections_max: usize,
    service: impl Service,
    closed: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    let connections = watch::Sender::new(());
    let mut closed = pin!(closed);
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = &mut closed => break,
        };
        let (service, place) = (service.clone(), places.clone().try_acquire_owned().ok());
        let answer = service_fn(move |request| {
            let service = place.is_some().then(|| service.clone());
            async move {
                Ok::<_, Infallible>(match service {
                    Some(service) => service.answer(request).await,
                    None => surplus(),
                })
            }
        });
        let connection = http.serve_connection(TokioIo::new(stream), answer).with_upgrades();
        let mut last_request = connections.subscribe();
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            tokio::select! {
                biased;
                // How a client ended its connection is the client's affair.
                _ = connection.as_mut() => return,
                _ = last_request.changed() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        });
    }
    drop(listener);
    connections.send_replace(());
    connections.closed().await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A confirmation that waits for company would be a delay that nobody drew.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                warn!(%error, "failed to accept a connection");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The answer on a connection that got no place.
fn surplus() -> Answer {
    let error = "too many connections";
    let mut response = ApiError::not_applied(error).with("error", error).into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response.map(Either::Right)
}

/// Everything that has no path of its own goes to the router.
pub(super) async fn route(router: &Router, request: Request<Incoming>) -> Answer {
    let response = router.clone().oneshot(request.map(Body::new)).await.unwrap_or_else(|never| match never {});
    response.map(Either::Right)
}

/// 200 with this JSON.
pub(super) fn json(body: &impl Serialize) -> Answer {
    // Most answers fit; what is serialised here always can be.
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

/// Reads a body of at most `bytes_max`.
///
/// # Errors
/// What the client is told.
pub(super) async fn body(body: Incoming, bytes_max: usize) -> Result<Bytes, ApiError> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(ApiError::too_long());
    }
    match Limited::new(body, bytes_max).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_long()),
        Err(error) => Err(ApiError::unreadable(&error)),
    }
}
