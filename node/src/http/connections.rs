//! Accepts connections, bounds their number and duration, and passes their requests to a service.
//!
//! Hyper serves them directly, so that the hot routes do not pass a router and its layers on every call: by [`http1`], or
//! by [`http2`] for a client that begins with that version.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use bytes::BytesMut;
use hyper::Request;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::activity::TimeLimits;
use super::answer::Answer;
use super::client_stream::{Arriving, ClientStream};
use super::error::ApiError;
use super::first::{self, Version};
use super::{guard, http1, http2, listen};
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

/// What is known of a connection, whichever version of HTTP it speaks.
pub(super) struct Client<S> {
    is_node: bool,
    /// Whether the connection is beyond the limit, and has one request.
    pub(super) is_spare: bool,
    /// When the time for its first head began.
    pub(super) opened: Instant,
    pub(super) times: TimeLimits,
    service: S,
}

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
    let http = http1::builder();
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
        let (mut times, mut last_request) = (limits.times, connections.subscribe());
        if is_spare {
            times.head = times.head.min(SPARE_HEAD_MAX);
        }
        tokio::spawn(async move {
            if let Some(stream) = open(stream, tls.as_deref(), &times, PLAIN_HTTP).await {
                let (is_node, opened) = (stream.is_authenticated(), Instant::now());
                let client = Client { is_node, is_spare, opened, times, service };
                match first::read(stream, &client, &mut last_request).await {
                    Some((stream, begun, Version::Http1)) => {
                        http1::serve(http, stream, begun, client, last_request).await;
                    }
                    Some((stream, begun, Version::Http2)) => http2::serve(stream, begun, client, last_request).await,
                    None => {}
                }
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

impl<S: Service> Client<S> {
    /// Answers one request.
    pub(super) async fn answer(&self, mut request: Request<Arriving>) -> Answer {
        // Every other route ignores it, and an extension is an allocation.
        if self.is_node && guard::needs_certificate(request.uri().path()) {
            request.extensions_mut().insert(IsNode);
        }
        if !self.is_spare || is_operation(request.method(), request.uri().path()) {
            return self.service.answer(request).await;
        }
        let error = "too many connections";
        ApiError::not_applied(error).with("error", error).into()
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
    use bytes::Bytes;
    use http_body_util::{Either, Full};
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
        server_of(Answering, last, 100).await
    }

    /// The same with so many places, and spare ones.
    async fn server_of(
        service: impl Service,
        last: Duration,
        connections: usize,
    ) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let long = Duration::from_secs(600);
        let times = TimeLimits { head: long, idle: long, stall: long, linger: long, last };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (end, ended) = oneshot::channel();
        let places = |count| Arc::new(Semaphore::new(count));
        let limits = ConnectionLimits { places: places(connections), spare: places(10), times, tls: None };
        let task = tokio::spawn(serve(listener, limits, service, async {
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

    /// Counts requests, and answers each once it may.
    #[derive(Clone)]
    struct Waiting {
        arrived: Arc<Semaphore>,
        may_answer: Arc<Semaphore>,
    }

    impl Service for Waiting {
        async fn answer(&self, _: Request<Arriving>) -> Answer {
            self.arrived.add_permits(1);
            self.may_answer.acquire().await.expect("open").forget();
            "here".into_response().map(Either::Right)
        }
    }

    /// A connection of HTTP/2 whose requests are under way when the node ends, and one without any.
    #[tokio::test]
    async fn requests_of_http2_that_are_under_way_are_answered_before_the_connection_closes() {
        let [arrived, may_answer] = [(); 2].map(|()| Arc::new(Semaphore::new(0)));
        let service = Waiting { arrived: arrived.clone(), may_answer: may_answer.clone() };
        let (address, end, task) = server_of(service, Duration::from_millis(5), 100).await;
        let (mut busy, busy_connection) = http2_client(address).await;
        let (_idle, idle_connection) = http2_client(address).await;
        let answers: Vec<_> = (0..3).map(|_| busy.send_request(get())).collect();
        let answers = tokio::spawn(futures::future::join_all(answers));
        arrived.acquire_many(3).await.expect("open").forget();
        end.send(()).expect("it runs");
        idle_connection.await.expect("no panic").expect("closed in order");
        assert!(!task.is_finished() && !busy_connection.is_finished());
        may_answer.add_permits(3);
        for answer in answers.await.expect("no panic") {
            assert_eq!(answer.expect("an answer").status(), 200);
        }
        task.await.expect("it ends");
    }

    /// A connection beyond the limit has one request, whichever version of HTTP it speaks.
    #[tokio::test]
    async fn a_connection_of_http2_beyond_the_limit_has_one_request() {
        let (address, _end, _task) = server_of(Answering, Duration::from_secs(600), 0).await;
        let (mut client, connection) = http2_client(address).await;
        assert_eq!(client.send_request(get()).await.expect("an answer").status(), 503);
        let closed = timeout(Duration::from_secs(60), connection).await.expect("the node closes it");
        closed.expect("no panic").expect("closed in order");
    }

    fn get() -> Request<Full<Bytes>> {
        Request::get("http://node/").body(Full::default()).expect("a request")
    }

    type Http2 = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

    async fn http2_client(address: SocketAddr) -> (Http2, JoinHandle<hyper::Result<()>>) {
        let stream = TokioIo::new(TcpStream::connect(address).await.expect("connected"));
        let executor = hyper_util::rt::TokioExecutor::new();
        let (requests, connection) = hyper::client::conn::http2::handshake(executor, stream).await.expect("HTTP/2");
        (requests, tokio::spawn(connection))
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
