//! Serves one connection of HTTP/1.1 to its end.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tokio::time::Instant;

use super::activity::{Activity, Verdict};
use super::answer::Answer;
use super::client_stream::{Arriving, ClientStream, Leaving};
use super::connections::{Client, READ_AHEAD_BYTES, Service};
use crate::tls::Stream;

/// The settings of all connections.
pub(super) fn builder() -> http1::Builder {
    let mut http = http1::Builder::new();
    // `Activity` enforces the time limits. A client that closes its sending half still gets its
    // answer.
    http.header_read_timeout(None::<Duration>).half_close(true).max_buf_size(READ_AHEAD_BYTES);
    http
}

/// Serves a connection of which `begun` was read before.
pub(super) async fn serve(
    http: http1::Builder,
    stream: Stream,
    begun: Bytes,
    client: Client<impl Service>,
    mut last_request: watch::Receiver<()>,
) {
    let activity = Arc::new(Activity::since(client.opened));
    let (client, activity, limits) = (&client, &activity, client.times);
    let answer = service_fn(move |request: Request<Incoming>| {
        activity.answering();
        let request = request.map(|body| Arriving::new(body, activity));
        async move {
            let mut answer = client.answer(request).await;
            if client.is_spare || activity.ends() {
                close_after(&mut answer);
            }
            Ok::<_, Infallible>(leave(answer, activity))
        }
    });
    let stream = TokioIo::new(ClientStream::new(stream, begun, activity.clone()));
    let mut connection = pin!(http.serve_connection(stream, answer).with_upgrades());
    let mut check = pin!(tokio::time::sleep(Duration::ZERO));
    let (mut finishing, mut ends) = (false, false);
    loop {
        tokio::select! {
            biased;
            // An error only reports how the client ended its connection.
            _ = connection.as_mut() => return,
            () = check.as_mut() => {
                let verdict = activity.next(&limits);
                match verdict {
                    Verdict::Keep(until) => check.as_mut().reset(until),
                    Verdict::Finish if !finishing => {}
                    Verdict::Finish | Verdict::Close => return,
                }
                if !finishing && (ends || verdict == Verdict::Finish) {
                    finishing = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
            _ = last_request.changed(), if !ends => {
                ends = true;
                activity.end();
                // Hyper would close it at once.
                let wait = if activity.awaits_request() { limits.last } else { Duration::ZERO };
                check.as_mut().reset(Instant::now() + wait);
            }
        }
    }
}

/// Records the end of an answer: immediately if it is complete in memory, otherwise when its body
/// ends.
fn leave(answer: Answer, activity: &Arc<Activity>) -> hyper::Response<Either<Full<Bytes>, Leaving>> {
    answer.map(|body| match body {
        Either::Left(whole) => {
            activity.answered();
            Either::Left(whole)
        }
        Either::Right(parts) => {
            activity.sends_anything();
            Either::Right(Leaving::new(parts, activity.clone()))
        }
    })
}

/// Announces that the connection is closed after this answer.
fn close_after(answer: &mut Answer) {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}
