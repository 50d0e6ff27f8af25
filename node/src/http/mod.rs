//! How the world reaches a node: JSON over HTTP, errors included.

mod admin;
mod backup;
pub mod error;
mod kv;
mod replica;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header::AUTHORIZATION;
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use hyper::Request;
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use self::error::ApiError;
pub use self::kv::put_fields;
use self::server::{Answer, route};
pub(crate) use self::server::{Service, serve};
use crate::metrics::LeaderMetrics;
use crate::replication::coordinator::Coordinator;
use crate::replication::replica::Replica;

/// What every handler needs besides the node itself.
#[derive(Clone, Debug)]
pub struct Site {
    /// Name of this node.
    pub name: Arc<str>,
    /// Guards replication and administration.
    pub token: Option<Arc<str>>,
    /// Longest key, in bytes.
    pub key_bytes_max: usize,
    /// Longest value, in bytes.
    pub value_bytes_max: usize,
    /// Set once this node is shutting down.
    pub draining: Arc<AtomicBool>,
}

impl Site {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// JSON may escape every byte of a string to six.
    fn body_bytes_max(&self) -> usize {
        (self.key_bytes_max + self.value_bytes_max) * 6 + 1024
    }
}

/// The state of a leader's handlers.
#[derive(Clone)]
pub struct LeaderSite {
    pub(crate) site: Site,
    pub(crate) leader: Arc<Coordinator>,
    pub(crate) metrics: Arc<LeaderMetrics>,
    /// Whether the number of followers can change: it cannot where they are listed by URL.
    pub(crate) resizable: bool,
    /// One backup at a time: each holds a list of all keys.
    pub(crate) backups: Arc<Semaphore>,
}

/// The state of a follower's handlers.
#[derive(Clone)]
pub struct FollowerSite {
    pub(crate) site: Site,
    pub(crate) replica: Arc<Replica>,
}

/// Everything that a leader answers.
#[derive(Clone)]
pub struct LeaderService {
    state: LeaderSite,
    others: Router,
}

impl LeaderService {
    /// The service of this leader.
    pub fn new(site: Site, leader: Arc<Coordinator>, resizable: bool) -> Self {
        let guard = middleware::from_fn_with_state(site.clone(), authorize);
        let limit = site.body_bytes_max();
        let (metrics, backups) = (Arc::default(), Arc::new(Semaphore::new(1)));
        let state = LeaderSite { site, leader, metrics, resizable, backups };
        let guarded = Router::new()
            .route("/recover", post(admin::recover))
            .route("/backup", get(backup::backup))
            .route("/restore", post(backup::restore).layer(DefaultBodyLimit::max(limit + backup::RESTORE_BYTES_MAX)))
            .route("/config", axum::routing::patch(admin::configure))
            .route_layer(guard);
        let open = Router::new()
            .route("/put", any(wrong_method))
            .route("/delete", any(wrong_method))
            .route("/get", any(wrong_method))
            .route("/dump", get(kv::dump))
            .route("/config", get(admin::config))
            .route("/status", get(admin::leader_status))
            .route("/readyz", get(admin::leader_ready))
            .route("/healthz", get(admin::leader_health))
            .route("/metrics", get(admin::leader_metrics));
        Self { others: finish(open.merge(guarded), limit).with_state(state.clone()), state }
    }
}

impl Service for LeaderService {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let answer = match (request.method(), request.uri().path()) {
            (&Method::POST, "/put") => kv::put(&self.state, request).await,
            (&Method::GET | &Method::HEAD, "/get") => kv::get(&self.state, request.uri()).await,
            (&Method::POST, "/delete") => kv::delete(&self.state, request).await,
            _ => Ok(route(&self.others, request).await),
        };
        answer.unwrap_or_else(Answer::from)
    }
}

/// Everything that a follower answers.
#[derive(Clone)]
pub struct FollowerService {
    state: FollowerSite,
    others: Router,
}

impl FollowerService {
    /// The service of this follower.
    pub fn new(site: Site, replica: Arc<Replica>) -> Self {
        let guard = middleware::from_fn_with_state(site.clone(), authorize);
        let limit = site.body_bytes_max();
        let state = FollowerSite { site, replica };
        let guarded = Router::new()
            .route("/replicate", post(replica::replicate))
            .route("/replication", get(replica::replication))
            .route_layer(guard);
        let open = Router::new()
            .route("/put", any(replica::not_the_leader))
            .route("/get", any(wrong_method))
            .route("/dump", get(replica::dump))
            .route("/status", get(admin::follower_status))
            .route("/readyz", get(admin::follower_ready))
            .route("/healthz", get(admin::follower_health))
            .route("/metrics", get(admin::follower_metrics));
        Self { others: finish(open.merge(guarded), limit).with_state(state.clone()), state }
    }
}

impl Service for FollowerService {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/get") => {
                replica::get(&self.state, request.uri()).unwrap_or_else(Answer::from)
            }
            _ => route(&self.others, request).await,
        }
    }
}

fn finish<S: Clone + Send + Sync + 'static>(router: Router<S>, body_bytes_max: usize) -> Router<S> {
    router
        .fallback(async |request: axum::extract::Request| ApiError::no_route(request.uri().path()))
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(body_bytes_max))
}

async fn wrong_method(request: axum::extract::Request) -> ApiError {
    ApiError::wrong_method(request.method().as_str())
}

/// Lets nobody past without the token, where one is set.
async fn authorize(
    axum::extract::State(site): axum::extract::State<Site>,
    request: axum::extract::Request,
    next: Next,
) -> Response {
    let Some(token) = &site.token else {
        return next.run(request).await;
    };
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if given.is_some_and(|given| equal(given.as_bytes(), token.as_bytes())) {
        return next.run(request).await;
    }
    ApiError::plain(StatusCode::UNAUTHORIZED, "this route needs the bearer token of the cluster").into_response()
}

/// Compares in a time that does not tell how much of a guess was right.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
