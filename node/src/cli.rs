//! The program: parses arguments and runs a node until a signal stops it.

use std::future::{Future, pending, ready};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use futures::future;
use rand::RngExt;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, Semaphore, watch};
use tracing::{error, info, warn};

use crate::config::{self, Followers, HEARTBEAT_MS, LogFormat, Role, Settings, TlsSettings};
use crate::descriptors;
use crate::http::{
    self, Apart, Behind, ConnectionLimits, FollowerService, LeaderService, Purpose, SPARE_CONNECTIONS, Site,
};
use crate::protocol::follower::Follower;
use crate::protocol::types::FollowerId;
use crate::replication::coordinator::Coordinator;
use crate::replication::dialer::Dialer;
use crate::replication::discovery::{follow_dns, follow_url};
use crate::replication::replica::Replica;
use crate::resp::{self, Backend};
use crate::shutdown::{self, Shutdown};
use crate::store::disk::{self, Found, Opened};
use crate::store::{Store, StoreError};
use crate::tls::{self, Tls};
use crate::tokens::Tokens;

/// A node of kvcluster: the leader, or one of its followers
#[derive(Parser)]
#[command(name = "kv-node", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum Command {
    /// Asks a node whether it is ready; exits with 0 or 1. For health checks without a shell
    Healthcheck {
        /// URL to ask [default: /readyz of this machine at PORT]
        #[arg(long)]
        url: Option<String>,
        /// Port of the node on this machine
        #[arg(long, env = "PORT", default_value_t = 8000)]
        port: u16,
        #[command(flatten)]
        files: TlsSettings,
    },
}

/// How long a node may take to answer whether it is ready.
const HEALTH_MAX: Duration = Duration::from_secs(2);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs the node that the arguments and the environment of this process describe.
pub fn main() -> ExitCode {
    main_from(std::env::args_os())
}

/// Runs the node with the given arguments; the first is the program's name.
pub fn main_from(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return refuse(&first_line(&error.to_string())),
        Err(help) => {
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let runtime = match runtime(cli.settings.worker_threads) {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&format!("failed to start the runtime: {error}")),
    };
    let ended = match cli.command {
        Some(Command::Healthcheck { url, port, files }) => runtime.block_on(healthcheck(url, port, &files)),
        None => {
            end_on_panic();
            runtime.block_on(run(cli.settings))
        }
    };
    // Open connections must not delay the exit.
    runtime.shutdown_background();
    match ended {
        Ok(code) => code,
        Err(error) => refuse(&error.to_string()),
    }
}

/// Ends the process at the first panic, with SIGABRT. A panic in the middle of a step leaves a state
/// that no rule of the protocol describes, and the runtime would go on with it.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        error!("the node ends: a panic left a state that may be wrong");
        std::process::abort();
    }));
}

/// With one thread no task moves between threads, and the leader sends the writes of many clients
/// to a follower together. On few cores that is faster than two threads (see docs/performance.md).
fn runtime(worker_threads: u16) -> std::io::Result<Runtime> {
    match worker_threads {
        0 | 1 => Builder::new_current_thread().enable_all().build(),
        threads => Builder::new_multi_thread().worker_threads(threads.into()).enable_all().build(),
    }
}

fn refuse(message: &str) -> ExitCode {
    eprintln!("kv-node: {message}");
    ExitCode::from(2)
}

/// The first line of an error of clap, without the advice that follows.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

async fn healthcheck(url: Option<String>, port: u16, settings: &TlsSettings) -> Result<ExitCode, Failure> {
    let files = settings.files()?;
    let scheme = if files.is_some() { "https" } else { "http" };
    let url = url.unwrap_or_else(|| format!("{scheme}://127.0.0.1:{port}/readyz"));
    let (ok, answer) = match tokio::time::timeout(HEALTH_MAX, tls::ask(&url, files.as_ref())).await {
        Ok(Ok((status, body))) => (status.is_success(), body),
        Ok(Err(error)) => (false, format!("failed to reach {url}: {error}")),
        Err(_) => (false, format!("{url} did not answer within {} s", HEALTH_MAX.as_secs())),
    };
    println!("{answer}");
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(settings: Settings) -> Result<ExitCode, Failure> {
    // Rejects contradictory settings before it starts anything.
    settings.http.check()?;
    settings.check_ports()?;
    let leader = if settings.role == Role::Leader { Some(settings.leader()?) } else { None };
    let access = settings.access()?;
    let tls = settings.tls.files()?.map(Tls::new).transpose()?;
    let data_dir = if leader.is_none() { settings.data_dir()?.map(Path::to_owned) } else { None };
    start_log(&settings)?;
    #[cfg(feature = "deliberate-faults")]
    settings.deliberate_fault.into_iter().for_each(crate::deliberate::switch_on);
    if let Some(path) = settings.data_dir.as_deref().filter(|path| !path.is_empty() && data_dir.is_none()) {
        info!(path, "DATA_DIR is not used: only followers keep their state, and only with durability disk");
    }
    let address = SocketAddr::new(settings.bind_address, settings.port);
    let listener = http::listen(address).map_err(|error| format!("failed to listen on {address}: {error}"))?;
    let address = listener.local_addr()?;
    let redis = listen_at(&settings, settings.resp_port(), "RESP_PORT")?;
    if let Some(redis) = &redis {
        info!(address = %redis.local_addr()?, "listens for Redis' protocol");
    }
    let replication = listen_at(&settings, settings.replication_port(), "REPLICATION_PORT")?;
    let administration = listen_at(&settings, settings.admin_port(), "ADMIN_PORT")?;
    for (what, listener) in [("replication", &replication), ("administration", &administration)] {
        if let Some(listener) = listener {
            info!(address = %listener.local_addr()?, "listens for {what} alone");
        }
    }
    let apart = [(Purpose::Replication, replication), (Purpose::Administration, administration)];
    let apart = apart.into_iter().filter_map(|(purpose, listener)| Some((purpose, listener?))).collect();
    let site = Site {
        name: settings.name(),
        access,
        tls: tls.clone(),
        key_bytes_max: settings.http.key_bytes_max,
        value_bytes_max: settings.http.value_bytes_max,
        bodies: settings.http.bodies(),
        answers: settings.http.answers(),
        dumps: Arc::new(Semaphore::new(settings.http.dumps_max.min(Semaphore::MAX_PERMITS))),
        key_pages: Arc::new(Semaphore::new(http::PAGES_AT_ONCE)),
        gate: Arc::new(settings.http.gate()?),
        draining: Arc::new(AtomicBool::new(false)),
        kvcluster: settings.kvcluster().map(Into::into),
        cluster: settings.cluster().or(settings.kvcluster()).map(Into::into),
    };
    for tokens in [&site.access.cluster, &site.access.clients].into_iter().flatten() {
        tokio::spawn(Tokens::follow(Arc::downgrade(tokens)));
    }
    tls.iter().for_each(|tls| drop(tokio::spawn(Tls::follow(Arc::downgrade(tls)))));
    let shutdown = Shutdown::start()?;
    match leader {
        Some((followers, live)) => {
            info!(%address, name = %site.name, quorum = live.write_quorum, followers = live.followers, "leader starts");
            let seed = settings.delay_seed.unwrap_or_else(|| rand::rng().random());
            let leader = Coordinator::start(live, settings.limits()?, seed)?;
            if settings.cluster_opened {
                leader.expect_state();
            }
            if settings.await_restore {
                leader.await_restore();
            }
            let resizable = matches!(followers, Followers::Dns { .. });
            let dialer = dialer(&followers, &settings, address.port(), &site);
            find(&leader, followers, dialer.clone())?;
            let hand_over = Arc::new(Notify::new());
            let service = LeaderService::new(site.clone(), leader.clone(), resizable, hand_over.clone(), dialer);
            let stops = async {
                tokio::select! {
                    () = hand_over.notified() => (ExitCode::SUCCESS, "handing over".to_owned()),
                    // Its supervisor starts it again, as a standby.
                    by = leader.replaced(), if settings.takeover_after_ms > 0 => {
                        (ExitCode::FAILURE, format!("replaced by the leader of epoch {by}"))
                    }
                }
            };
            let ports = Ports { http: listener, apart, redis, backend: Backend::Leader(service.site()) };
            serve(ports, service, &site, shutdown, stops, resign(&leader, &settings), &settings).await
        }
        None => {
            let replica = match data_dir {
                Some(path) => {
                    let (name, cluster) = (site.name.clone(), settings.cluster().map(str::to_owned));
                    let options =
                        disk::Options { scrub_bytes_per_s: settings.scrub_bytes_per_s, ..disk::Options::default() };
                    tokio::task::spawn_blocking(move || restore(&path, cluster.as_deref(), name, options)).await??
                }
                None => {
                    let blank = Follower::blank(FollowerId(rand::rng().random()), site.name.clone());
                    Replica::new(blank, Store::Memory, None)
                }
            };
            replica.limit_foreign(settings.http.foreign());
            if settings.await_restore {
                replica.await_restore();
            }
            let view = replica.view();
            info!(%address, name = %site.name, id = %view.hello.id, keys = view.keys, "follower starts");
            let failure = replica.store_failure();
            tokio::spawn(Replica::renew(Arc::downgrade(&replica)));
            let service = FollowerService::new(site.clone(), replica);
            let ports = Ports { http: listener, apart, redis, backend: Backend::Follower(service.site()) };
            tokio::select! {
                ended = serve(ports, service, &site, shutdown, pending(), ready(()), &settings) => ended,
                // The follower must confirm nothing more: a sync after a failed one may succeed
                // without storing the data.
                failure = failure.wait() => {
                    error!("ended at once: {failure}. nothing was confirmed that is not stored");
                    Ok(ExitCode::FAILURE)
                }
            }
        }
    }
}

/// Stops leading, within the time limit, and sends clients to the next leader for a moment.
async fn resign(leader: &Arc<Coordinator>, settings: &Settings) {
    let is_standby = leader.is_candidate();
    let limit_ms = settings.drain_timeout_ms;
    if tokio::time::timeout(Duration::from_millis(limit_ms.into()), leader.resign()).await.is_err() {
        error!(limit_ms, "ends with writes under way: their outcome is unknown");
    } else if settings.takeover_after_ms > 0 && !is_standby {
        leader.send_clients_on().await;
    }
}

/// Listens on an optional port.
fn listen_at(settings: &Settings, port: Option<u16>, setting: &str) -> Result<Option<TcpListener>, Failure> {
    let Some(port) = port else { return Ok(None) };
    let address = SocketAddr::new(settings.bind_address, port);
    let listener = http::listen(address);
    Ok(Some(listener.map_err(|error| format!("failed to listen on {address} ({setting}): {error}"))?))
}

/// Opens the data directory of a follower.
fn restore(
    path: &Path,
    cluster: Option<&str>,
    name: Arc<str>,
    options: disk::Options,
) -> Result<Arc<Replica>, StoreError> {
    let begun = Instant::now();
    let Opened { store, id, kept, found } = disk::open_with(path, cluster, options)?.start()?;
    let follower = Follower::with(id, name, kept);
    let (keys, elapsed_ms) = (follower.records().len(), begun.elapsed().as_millis());
    match &found {
        Found::Damage { .. } => error!(directory = %path.display(), elapsed_ms, "{found}"),
        _ => info!(directory = %path.display(), keys, elapsed_ms, "{found}"),
    }
    Ok(Replica::new(follower, store, Some(found)))
}

/// The way to the followers.
fn dialer(followers: &Followers, settings: &Settings, port: u16, site: &Site) -> Dialer {
    let advertised = settings.advertise_url.clone().filter(|url| !url.is_empty());
    let advertised = advertised
        .unwrap_or_else(|| format!("{}://{}:{port}", if site.tls.is_some() { "https" } else { "http" }, site.name));
    let dialer = Dialer::new(advertised, site.access.cluster.clone(), site.tls.clone());
    match followers {
        Followers::Urls(_) => dialer,
        Followers::Dns { host, .. } => dialer.of_service(host),
    }
}

/// Starts the discovery of followers.
fn find(leader: &Arc<Coordinator>, followers: Followers, dialer: Dialer) -> Result<(), Failure> {
    tokio::spawn(Coordinator::beat(Arc::downgrade(leader), Duration::from_millis(HEARTBEAT_MS.into())));
    match followers {
        Followers::Urls(urls) => {
            for url in urls {
                let slot = leader.declare(&config::name_of(&url)).ok_or("too many followers")?;
                tokio::spawn(follow_url(leader.clone(), dialer.clone(), slot, url));
            }
        }
        Followers::Dns { host, port } => {
            tokio::spawn(follow_dns(leader.clone(), dialer, host, port));
        }
    }
    Ok(())
}

/// Where a node listens.
struct Ports {
    http: TcpListener,
    /// For one purpose alone.
    apart: Vec<(Purpose, TcpListener)>,
    /// For Redis' protocol.
    redis: Option<TcpListener>,
    /// The node behind `redis`.
    backend: Backend,
}

/// Serves until the first signal, or until `stops` returns an exit code and a reason. Then answers until
/// `drain` is done, finishes requests under way, and exits. A second signal exits immediately.
async fn serve(
    ports: Ports,
    service: impl http::Service,
    site: &Site,
    mut shutdown: Shutdown,
    stops: impl Future<Output = (ExitCode, String)>,
    drain: impl Future<Output = ()>,
    settings: &Settings,
) -> Result<ExitCode, Failure> {
    let (close, mut closed) = watch::channel(());
    let limits = connection_limits(settings, site.tls.clone());
    let Ports { http: listener, apart: others, redis, backend } = ports;
    let mut apart = Apart::default();
    for (purpose, listener) in &others {
        let port = Some(listener.local_addr()?.port());
        match purpose {
            Purpose::Replication => apart.replication = port,
            _ => apart.administration = port,
        }
    }
    let doors = std::iter::once((Purpose::Clients, listener)).chain(others);
    let http = future::join_all(doors.map(|(door, listener)| {
        let mut closed = closed.clone();
        http::serve(listener, limits.clone(), Behind::new(service.clone(), door, apart), async move {
            let _ = closed.changed().await;
        })
    }));
    let redis = async move {
        if let Some(listener) = redis {
            let closed = async move {
                let _ = closed.changed().await;
            };
            resp::serve(listener, limits, backend, closed).await;
        }
    };
    let redis = tokio::spawn(redis);
    let mut server = tokio::spawn(async move {
        http.await;
        let _ = redis.await;
    });
    let (code, reason) = tokio::select! {
        ended = &mut server => {
            ended?;
            return Err("the server ended by itself".into());
        }
        reason = shutdown.next() => (ExitCode::SUCCESS, reason.to_owned()),
        stops = stops => stops,
    };
    info!(reason, "shutting down: finishing what is under way");
    site.draining.store(true, Ordering::Relaxed);
    let limit = Duration::from_millis(settings.drain_timeout_ms.into());
    let finish = async {
        drain.await;
        close.send_replace(());
        let _ = tokio::time::timeout(shutdown::LINGER_MAX.min(limit), &mut server).await;
    };
    tokio::select! {
        () = finish => info!("ended"),
        reason = shutdown.next() => {
            error!(reason, "second signal: ended at once");
            return Ok(ExitCode::from(130));
        }
    }
    Ok(code)
}

/// The limits of the connections, reduced to what the system allows.
fn connection_limits(settings: &Settings, tls: Option<Arc<Tls>>) -> ConnectionLimits {
    let (wanted, limit) = (settings.http.connections_max, descriptors::raise_limit());
    let connections = descriptors::connections(wanted, limit);
    if connections < wanted {
        warn!(
            connections_max = wanted,
            open_files_max = limit,
            kept = descriptors::KEPT,
            connections,
            "CONNECTIONS_MAX is above what the limit of open files allows, and is lowered"
        );
    }
    let places = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
    ConnectionLimits { places, spare: Arc::new(Semaphore::new(SPARE_CONNECTIONS)), times: settings.http.times(), tls }
}

fn start_log(settings: &Settings) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(&settings.log_level)
        .map_err(|error| format!("LOG_LEVEL={} is no filter: {error}", settings.log_level))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second node in one process (a test) keeps the log of the first.
    let _ = match settings.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    Ok(())
}
