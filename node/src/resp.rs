//! Redis' protocol, versions 2 and 3, on a port of its own.
//!
//! - [`session`] serves a connection: it reads commands with [`frames`], begins all of those that are
//!   there, and sends their replies in order. [`slot`] is a command whose reply is not known yet,
//!   [`part`] its effect on one key, [`output`] the replies on their way.
//! - [`client`] is the state of a connection. [`commands`] selects the command; [`strings`] reads and writes
//!   keys, [`walk`] looks at all of them (with [`glob`] for patterns), [`about`] describes the node.
//!   [`table`] has every command, [`errors`] every error.
//! - [`backend`] is the leader or the follower behind them. A command takes the same way through the
//!   [`Coordinator`](crate::replication::coordinator::Coordinator) as a request over HTTP.

mod about;
mod backend;
mod client;
mod commands;
mod errors;
mod frames;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod glob;
mod output;
mod part;
mod session;
mod slot;
mod strings;
mod table;
mod walk;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::yield_now;
use tokio::time::timeout;

pub(crate) use self::backend::Backend;
use self::errors::Error;
use self::frames::FrameLimits;
use self::session::{Session, SessionLimits};
use crate::http::{ConnectionLimits, SPARE_CONNECTIONS, Site, TimeLimits, accept, open};

/// Longest command beyond one key and one value, in bytes: MSET and MGET have many.
const COMMAND_BYTES: usize = 8 << 20;

/// The error for a client that does not speak TLS, on a port that speaks TLS alone.
const PLAIN: &[u8] = b"-ERR this port speaks TLS\r\n";

/// How long a connection beyond the limit may take to receive its error.
const REFUSED_MAX: Duration = Duration::from_secs(1);

/// How long a peer is silent before the system asks whether it is there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(120);

/// Serves connections until `closed`, then finishes the commands under way.
///
/// The connections share their places with those of HTTP. Beyond them a client gets an error.
pub(crate) async fn serve(
    listener: TcpListener,
    limits: ConnectionLimits,
    backend: Backend,
    closed: impl Future<Output = ()>,
) {
    let ConnectionLimits { places, times, tls, .. } = limits;
    let backend = Arc::new(backend);
    let session_limits = session_limits(backend.site(), &times);
    let refusals = Arc::new(Semaphore::new(SPARE_CONNECTIONS));
    let connections = watch::Sender::new(());
    let mut closed = pin!(closed);
    for id in 1.. {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = &mut closed => break,
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            // A handshake would cost more than the refusal says.
            if let (None, Ok(place)) = (&tls, refusals.clone().try_acquire_owned()) {
                tokio::spawn(async move {
                    let _ = timeout(REFUSED_MAX, refuse(stream)).await;
                    drop(place);
                });
            }
            continue;
        };
        keep_alive(&stream);
        let (backend, tls, last) = (backend.clone(), tls.clone(), connections.subscribe());
        tokio::spawn(async move {
            if let Some(stream) = open(stream, tls.as_deref(), &times, PLAIN).await {
                run(Session::new(stream, id, backend, session_limits), last, times.linger).await;
            }
            drop(place);
        });
    }
    drop(listener);
    connections.send_replace(());
    connections.closed().await;
}

fn session_limits(site: &Site, times: &TimeLimits) -> SessionLimits {
    let argument = site.key_bytes_max.max(site.value_bytes_max);
    let frames = FrameLimits { argument, command: site.key_bytes_max + site.value_bytes_max + COMMAND_BYTES };
    SessionLimits { frames, stall: times.stall, command: site.bodies.within() }
}

/// Serves one connection to its end.
async fn run(mut session: Session, mut last: watch::Receiver<()>, linger: Duration) {
    tokio::select! {
        biased;
        () = poll_fn(|cx| session.poll(cx)) => {}
        _ = last.changed() => {
            session.finish();
            poll_fn(|cx| session.poll(cx)).await;
        }
    }
    // Closing with unread bytes would reset the connection, and the client could lose its last reply.
    if let Some(mut stream) = session.into_stream() {
        let rest = async {
            stream.shutdown().await?;
            let mut discarded = [0; 4096];
            // One part a turn: a client that sends without an end would use the time of all others.
            while stream.read(&mut discarded).await? > 0 {
                yield_now().await;
            }
            std::io::Result::Ok(())
        };
        let _ = timeout(linger, rest).await;
    }
}

async fn refuse(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(format!("-{}\r\n", Error::TOO_MANY_CONNECTIONS.text()).as_bytes()).await?;
    stream.shutdown().await
}

/// Idle connections stay, as clients with pools expect. The system notices those whose peer is gone.
fn keep_alive(stream: &TcpStream) {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle};
    // Without it the connection only lasts longer.
    let _ = set_socket_keepalive(stream, true).and_then(|()| set_tcp_keepidle(stream, KEEPALIVE_AFTER));
}
