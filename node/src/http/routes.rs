//! Selects the handler of a request.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Uri, header};
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use http_body_util::Either;
use hyper::Request;
use tokio::sync::{Notify, Semaphore};
use tower::ServiceExt;

use super::answer::Answer;
use super::client_stream::Arriving;
use super::connections::Service;
use super::error::ApiError;
use super::replicas::Replicas;
use super::{
    FollowerSite, LeaderSite, Site, admin, backup, batch, dump, guard, incr, keys, kv, leadership, live, openapi, page,
    replica, replicas, restore, watch,
};
use crate::replication::coordinator::Coordinator;
use crate::replication::dialer::Dialer;
use crate::replication::replica::Replica;

/// What a standby answers about itself. It redirects all other requests to the leader.
const OF_EVERY_LEADER: [&str; 8] =
    ["/", "/auth", "/leadership", "/status", "/readyz", "/healthz", "/metrics", openapi::PATH];

/// The files of the pages, on every node.
const PAGE_FILES: &str = "/page/";

/// What only the leader answers: a follower names the leader.
const OF_THE_LEADER: [&str; 13] = [
    "/put",
    "/delete",
    "/incr",
    "/batch",
    "/config",
    "/leadership",
    "/live",
    "/replicas",
    "/watch",
    "/recover",
    "/hand-over",
    "/backup",
    "/restore",
];

fn is_of_every_leader(path: &str) -> bool {
    OF_EVERY_LEADER.contains(&path) || path.starts_with(PAGE_FILES)
}

/// Answers the requests to a leader.
#[derive(Clone)]
pub struct LeaderService {
    state: LeaderSite,
    others: Router,
}

impl LeaderService {
    /// The service of this leader.
    ///
    /// `POST /hand-over` notifies `hand_over`. `dialer` leads to the followers.
    pub(crate) fn new(
        site: Site,
        leader: Arc<Coordinator>,
        resizable: bool,
        hand_over: Arc<Notify>,
        dialer: Dialer,
    ) -> Self {
        let guard = middleware::from_fn_with_state(site.clone(), guard::authorize);
        let (metrics, backups) = (Arc::default(), Arc::new(Semaphore::new(1)));
        let (pages, replicas) = (Arc::default(), Arc::new(Replicas::new(dialer)));
        let (watches, leaderships) = (watch::places(), leadership::places());
        let state =
            LeaderSite { site, leader, metrics, resizable, backups, hand_over, pages, replicas, watches, leaderships };
        let guarded = Router::new()
            .route("/auth", get(guard::accepted))
            .route("/recover", post(admin::recover))
            .route("/hand-over", post(admin::hand_over))
            .route("/backup", get(backup::backup))
            .route("/restore", post(restore::restore))
            .route("/config", axum::routing::patch(admin::configure))
            .route_layer(guard);
        let open = Router::new()
            .route("/put", any(only_post))
            .route("/delete", any(only_post))
            .route("/incr", any(only_post))
            .route("/batch", any(only_post))
            .route("/get", any(only_get))
            .route("/dump", get(dump::of_leader))
            .route("/keys", get(keys::of_leader))
            .route("/config", get(admin::config))
            .route("/", get(page::of_leader))
            .route("/page/{name}", get(page::file))
            .route(openapi::PATH, get(openapi::openapi))
            .route("/leadership", get(leadership::leadership))
            .route("/live", get(live::live))
            .route("/replicas", get(replicas::replicas))
            .route("/watch", get(watch::watch))
            .route("/status", get(admin::leader_status))
            .route("/readyz", get(admin::leader_ready))
            .route("/healthz", get(admin::leader_health))
            .route("/metrics", get(admin::leader_metrics));
        let others = open.merge(guarded).fallback(no_route).method_not_allowed_fallback(wrong_method);
        Self { others: others.with_state(state.clone()), state }
    }

    /// What its handlers share.
    pub(crate) fn site(&self) -> LeaderSite {
        self.state.clone()
    }
}

impl Service for LeaderService {
    async fn answer(&self, request: Request<Arriving>) -> Answer {
        self.state.site.gate.pass(request, |request| self.handle(request)).await
    }
}

impl LeaderService {
    async fn handle(&self, request: Request<Arriving>) -> Answer {
        if let Some(refusal) = guard::refuse_client(&self.state.site, &request) {
            return refusal.into();
        }
        if !self.state.site.is_draining() {
            return self.dispatch(request).await;
        }
        // So that clients leave before this node does. The next leader is known soon, if there is one.
        let mut answer = match self.state.leader.leads_elsewhere().filter(|_| !is_of_every_leader(request.uri().path()))
        {
            Some(leader) => ApiError::elsewhere(&leader, request.uri()).into(),
            None => self.dispatch(request).await,
        };
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        answer
    }

    async fn dispatch(&self, request: Request<Arriving>) -> Answer {
        let answer = match (request.method(), request.uri().path()) {
            (&Method::POST, "/put") => kv::put(&self.state, request).await,
            (&Method::GET | &Method::HEAD, "/get") => kv::get(&self.state, request.uri()).await,
            (&Method::POST, "/delete") => kv::delete(&self.state, request).await,
            (&Method::POST, "/incr") => incr::incr(&self.state, request).await,
            (&Method::POST, "/batch") => batch::batch(&self.state, request).await,
            (_, path) if !is_of_every_leader(path) => match self.state.leader.leads_elsewhere() {
                Some(leader) => Err(ApiError::elsewhere(&leader, request.uri())),
                None => Ok(route(&self.others, request).await),
            },
            _ => Ok(route(&self.others, request).await),
        };
        answer.unwrap_or_else(Answer::from)
    }
}

/// Answers the requests to a follower.
#[derive(Clone)]
pub struct FollowerService {
    state: FollowerSite,
    others: Router,
}

impl FollowerService {
    /// The service of this follower.
    pub fn new(site: Site, replica: Arc<Replica>) -> Self {
        let guard = middleware::from_fn_with_state(site.clone(), guard::authorize);
        let state = FollowerSite { site, replica, leaders: Arc::new(Semaphore::new(replica::LEADERS_MAX)) };
        let guarded = Router::new()
            .route("/auth", get(guard::accepted))
            .route("/replicate", post(replica::replicate))
            .route("/replication", get(replica::replication))
            .route_layer(guard);
        let mut open = Router::new();
        for path in OF_THE_LEADER {
            open = open.route(path, any(replica::not_the_leader));
        }
        let open = open
            .route("/", get(page::of_follower))
            .route("/page/{name}", get(page::file))
            .route(openapi::PATH, get(openapi::openapi))
            .route("/get", any(only_get))
            .route("/dump", get(dump::of_follower))
            .route("/keys", get(keys::of_follower))
            .route("/status", get(admin::follower_status))
            .route("/readyz", get(admin::follower_ready))
            .route("/healthz", get(admin::follower_health))
            .route("/metrics", get(admin::follower_metrics));
        let others = open.merge(guarded).fallback(replica::no_route).method_not_allowed_fallback(wrong_method);
        Self { others: others.with_state(state.clone()), state }
    }

    /// What its handlers share.
    pub(crate) fn site(&self) -> FollowerSite {
        self.state.clone()
    }
}

impl Service for FollowerService {
    async fn answer(&self, request: Request<Arriving>) -> Answer {
        self.state.site.gate.pass(request, |request| self.handle(request)).await
    }
}

impl FollowerService {
    async fn handle(&self, request: Request<Arriving>) -> Answer {
        if let Some(refusal) = guard::refuse_client(&self.state.site, &request) {
            return refusal.into();
        }
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/get") => {
                replica::get(&self.state, request.uri()).await.unwrap_or_else(Answer::from)
            }
            _ => route(&self.others, request).await,
        }
    }
}

/// Passes a request to the router. [`Service::answer`] calls it for every path that it does not
/// handle itself.
async fn route(router: &Router, request: Request<Arriving>) -> Answer {
    let response = router.clone().oneshot(request.map(Body::new)).await.unwrap_or_else(|never| match never {});
    response.map(Either::Right)
}

/// 404 for an unknown path.
async fn no_route(uri: Uri) -> ApiError {
    ApiError::no_route(uri.path())
}

/// 405 for a path that the router does not serve itself.
async fn only_post(method: Method) -> impl IntoResponse {
    ([(header::ALLOW, "POST")], ApiError::wrong_method(method.as_str()))
}

/// 405 for a path that the router does not serve itself.
async fn only_get(method: Method) -> impl IntoResponse {
    ([(header::ALLOW, "GET,HEAD")], ApiError::wrong_method(method.as_str()))
}

/// 405 for a path of the router, which adds `Allow`.
async fn wrong_method(request: axum::extract::Request) -> ApiError {
    ApiError::wrong_method(request.method().as_str())
}
