//! Connections: how many there are, how long they last, and which service answers their requests.
//!
//! Hyper serves them directly, so that the hot routes do not pass a router and its layers on every call.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use http_body_util::Either;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tracing::warn;

use super::answer::Answer;
use super::error::ApiError;

/// How long a connection may take to send the head of its next request, idle time included.
const HEAD_WITHIN: Duration = Duration::from_secs(300);

/// Pause before the next attempt to accept when no file descriptor is left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);

/// Answers the requests of every connection.
pub(crate) trait Service: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

/// Serves at most `connections_max` connections at once until `closed`, then finishes the requests under way. A
/// connection above the limit is answered with 503.
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
                // An error here only says how the client ended its connection.
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
                // Nagle's algorithm would add a delay to confirmations.
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

/// The answer on a connection above the limit.
fn surplus() -> Answer {
    let error = "too many connections";
    let mut response = ApiError::not_applied(error).with("error", error).into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response.map(Either::Right)
}
