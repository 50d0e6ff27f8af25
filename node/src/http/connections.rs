//! Accepts connections, bounds their number and duration, and passes their requests to a service.
//!
//! Hyper serves them directly, so that the hot routes do not pass a router and its layers on every call.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, Method, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::{Either, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::activity::{Activity, TimeLimits, Verdict};
use super::answer::Answer;
use super::client_stream::{Arriving, ClientStream, Leaving};
use super::error::ApiError;
use super::{guard, listen};
use crate::tls::{self, Greeting, Stream, Tls};

/// Connections beyond the limit that the node still reads, to answer 503 or to serve operations:
/// probes, administration and replication.
pub(crate) const SPARE_CONNECTIONS: usize = 48;

/// How long a connection beyond the limit may take for its request. Short, because there are few such places.
const SPARE_HEAD_MAX: Duration = Duration::from_secs(1);

/// Pause before the next attempt to accept when no file descriptor is left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);

/// The answer to a client that does not speak TLS, on a port that speaks TLS alone.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/json\r\n\
    content-length: 128\r\n\r\n\
    {\"ok\":false,\"message\":\"this port speaks TLS: use https://\",\"outcome\":\"not_applied\",\
    \"error\":\"this port speaks TLS: use https://\"}";

/// Bytes that hyper reads ahead of what it parses, and longest head of a request.
pub(super) const READ_AHEAD_BYTES: usize = 64 << 10;

/// Limits of the connections.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimits {
    /// Places for those that are served at once.
    pub(crate) places: Arc<Semaphore>,
    /// Places for those beyond, at all ports together.
    pub(crate) spare: Arc<Semaphore>,
    /// How long each may take.
    pub(crate) times: TimeLimits,
    /// The certificate of this node.
    pub(crate) tls: Option<Arc<Tls>>,
}

/// The other end of the connection showed a certificate of the cluster's CA.
#[derive(Clone, Copy, Debug)]
pub(super) struct IsNode;

/// Answers the requests of every connection.
pub(crate) trait Service: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, request: Request<Arriving>) -> impl Future<Output = Answer> + Send;
}

/// Serves connections until `closed`, then finishes the requests under way and those on their way.
///
/// A connection above the limit takes a spare place: an operation is served there, any other request is answered with
/// 503. When the spare places are taken too, a new connection is closed at once.
pub(crate) async fn serve(
    listener: TcpListener,
    limits: ConnectionLimits,
    service: impl Service,
    closed: impl Future<Output = ()>,
) {
    let ConnectionLimits { places: clients, spare, .. } = limits.clone();
    let mut http = http1::Builder::new();
    // `Activity` enforces the time limits. A client that closes its sending half still gets its
    // answer.
    http.header_read_timeout(None::<Duration>).half_close(true).max_buf_size(READ_AHEAD_BYTES);
    let connections = watch::Sender::new(());
    let mut closed = pin!(closed);
    let admit = |stream: TcpStream| {
        let (place, is_spare) = match clients.clone().try_acquire_owned() {
            Ok(place) => (place, false),
            Err(_) => match spare.clone().try_acquire_owned() {
                Ok(place) => (place, true),
                Err(_) => return,
            },
        };
        let (http, tls, service) = (http.clone(), limits.tls.clone(), service.clone());
        let (mut times, last_request) = (limits.times, connections.subscribe());
        if is_spare {
            times.head = times.head.min(SPARE_HEAD_MAX);
        }
        tokio::spawn(async move {
            if let Some(stream) = open(stream, tls.as_deref(), &times, PLAIN_HTTP).await {
                keep(http, stream, is_spare, times, service, last_request).await;
            }
            drop(place);
        });
    };
    loop {
        tokio::select! {
            stream = accept(&listener) => admit(stream),
            () = &mut closed => break,
        }
    }
    // The clients of these are connected, and may have sent a request.
    waiting(listener).for_each(admit);
    connections.send_replace(());
    connections.closed().await;
}

/// Serves one connection to its end.
async fn keep(
    http: http1::Builder,
    stream: Stream,
    is_spare: bool,
    limits: TimeLimits,
    service: impl Service,
    mut last_request: watch::Receiver<()>,
) {
    let activity = Arc::new(Activity::new());
    let (service, activity) = (&service, &activity);
    let is_node = stream.is_authenticated();
    let answer = service_fn(move |request: Request<Incoming>| {
        activity.answering();
        let mut request = request.map(|body| Arriving::new(body, activity));
        // Every other route ignores it, and an extension is an allocation.
        if is_node && guard::needs_certificate(request.uri().path()) {
            request.extensions_mut().insert(IsNode);
        }
        async move {
            let mut answer =
                if is_spare { answer_spare(service, request).await } else { service.answer(request).await };
            if activity.ends() {
                close_after(&mut answer);
            }
            Ok::<_, Infallible>(leave(answer, activity))
        }
    });
    let stream = TokioIo::new(ClientStream::new(stream, activity.clone()));
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

/// Answers the one request of a connection beyond the limit.
async fn answer_spare(service: &impl Service, request: Request<Arriving>) -> Answer {
    let mut answer = if is_operation(request.method(), request.uri().path()) {
        service.answer(request).await
    } else {
        let error = "too many connections";
        Answer::from(ApiError::not_applied(error).with("error", error))
    };
    close_after(&mut answer);
    answer
}

/// Announces that the connection is closed after this answer.
fn close_after(answer: &mut Answer) {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Whether a request is for operation of the cluster: administration, a probe, or replication.
fn is_operation(method: &Method, path: &str) -> bool {
    match path {
        "/auth" | "/healthz" | "/leadership" | "/readyz" | "/status" | "/metrics" | "/replication" => {
            *method == Method::GET
        }
        "/config" | "/recover" => true,
        _ => false,
    }
}

/// Opens a connection that was accepted: with TLS, where the node has a certificate. A client that does not speak TLS
/// then gets `plain`. `None` if there is no session within the time for a head.
pub(crate) async fn open(stream: TcpStream, tls: Option<&Tls>, limits: &TimeLimits, plain: &[u8]) -> Option<Stream> {
    let Some(tls) = tls else { return Some(Stream::Plain(stream)) };
    match timeout(limits.head, tls::greet(stream, tls)).await {
        Ok(Ok(Greeting::Session(stream))) => return Some(stream),
        Ok(Ok(Greeting::Plain(stream))) => {
            // The client may be gone.
            let _ = timeout(limits.linger, tls::answer_plainly(stream, plain)).await;
        }
        Ok(Err(error)) => debug!(%error, "failed to open a session"),
        Err(_) => debug!("failed to open a session in time"),
    }
    None
}

/// Accepts the next connection.
pub(crate) async fn accept(listener: &TcpListener) -> TcpStream {
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

/// The connections that the system has already accepted for this listener, which then accepts no more.
fn waiting(listener: TcpListener) -> impl Iterator<Item = TcpStream> {
    let listener = listener.into_std();
    let next = move || {
        let (stream, _) = listener.as_ref().ok()?.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        let _ = stream.set_nodelay(true);
        TcpStream::from_std(stream).ok()
    };
    std::iter::from_fn(next).take(listen::BACKLOG as usize)
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The connection under an upgraded one, and the bytes already read from it. `None` for a
/// connection that [`serve`] did not create.
pub(super) fn bare(upgraded: Upgraded) -> Option<(Stream, BytesMut)> {
    let parts = upgraded.downcast::<TokioIo<ClientStream>>().ok()?;
    Some((parts.io.into_inner().into_inner(), BytesMut::from(&parts.read_buf[..])))
}

#[cfg(test)]
mod tests {
    //! Goal: no request that a client may have sent stays without an answer because the node ends. Method: a service that
    //! answers everything, real sockets, and an end while requests are on their way.

    use std::net::SocketAddr;

    use axum::response::IntoResponse;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    #[derive(Clone)]
    struct Answering;

    impl Service for Answering {
        async fn answer(&self, _: Request<Arriving>) -> Answer {
            "here".into_response().map(Either::Right)
        }
    }

    /// A server, what ends it, and its task. Once it ends, it waits for the last request for so long.
    async fn server(last: Duration) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let long = Duration::from_secs(600);
        let times = TimeLimits { head: long, idle: long, stall: long, linger: long, last };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (end, ended) = oneshot::channel();
        let places = |count| Arc::new(Semaphore::new(count));
        let limits = ConnectionLimits { places: places(100), spare: places(0), times, tls: None };
        let task = tokio::spawn(serve(listener, limits, Answering, async {
            let _ = ended.await;
        }));
        (address, end, task)
    }

    async fn send(client: &mut TcpStream) {
        client.write_all(b"GET / HTTP/1.1\r\nhost: node\r\n\r\n").await.expect("sent");
    }

    /// The next answer in lower case, or nothing after the end of the connection.
    async fn answer(client: &mut TcpStream) -> String {
        let mut read = Vec::new();
        while !read.ends_with(b"here") {
            match client.read_u8().await {
                Ok(byte) => read.push(byte.to_ascii_lowercase()),
                Err(_) => break,
            }
        }
        String::from_utf8(read).expect("text")
    }

    /// Returns once the server refuses connections and its tasks have run.
    async fn has_begun_to_end(address: SocketAddr) {
        while TcpStream::connect(address).await.is_ok() {
            yield_now().await;
        }
        for _ in 0..100 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_request_on_its_way_while_the_node_ends_is_the_last_one_of_its_connection() {
        let (address, end, task) = server(Duration::from_secs(600)).await;
        let mut client = TcpStream::connect(address).await.expect("connected");
        send(&mut client).await;
        assert!(!answer(&mut client).await.contains("connection: close"));
        end.send(()).expect("it runs");
        has_begun_to_end(address).await;
        send(&mut client).await;
        let last = answer(&mut client).await;
        assert!(last.starts_with("http/1.1 200") && last.contains("connection: close"), "{last:?}");
        assert_eq!(answer(&mut client).await, "", "the server closed it");
        task.await.expect("it ends");
    }

    #[tokio::test]
    async fn a_connection_without_a_request_is_closed_soon_after_the_node_ends() {
        let (address, end, task) = server(Duration::from_millis(5)).await;
        let mut client = TcpStream::connect(address).await.expect("connected");
        send(&mut client).await;
        answer(&mut client).await;
        end.send(()).expect("it runs");
        assert_eq!(answer(&mut client).await, "");
        task.await.expect("it ends");
    }

    #[tokio::test]
    async fn clients_that_were_connected_before_the_node_ended_are_answered() {
        let (address, end, task) = server(Duration::from_secs(600)).await;
        yield_now().await;
        // Without a turn of the server, which accepts none of them meanwhile.
        let mut clients = Vec::new();
        for _ in 0..20 {
            let client = std::net::TcpStream::connect(address).expect("connected");
            client.set_nonblocking(true).expect("set");
            clients.push(client);
        }
        end.send(()).expect("it runs");
        for client in clients {
            let mut client = TcpStream::from_std(client).expect("a stream");
            send(&mut client).await;
            let answer = answer(&mut client).await;
            assert!(answer.starts_with("http/1.1 200"), "{answer:?}");
        }
        task.await.expect("it ends");
    }
}
