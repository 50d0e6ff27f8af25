//! The bearer tokens that guard replication and administration, and those of clients.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::connections::IsNode;
use super::doors::{self, Purpose};
use super::error::ApiError;
use super::{Site, openapi};
use crate::tokens::Tokens;

/// What every node answers without a token: its health, what it is doing, the description of its routes, and the
/// files of its page.
const OPEN: [&str; 8] = ["/", "/config", "/healthz", "/leadership", "/metrics", openapi::PATH, "/readyz", "/status"];

/// What [`authorize`] guards. `PATCH /config` is the eighth.
const OF_THE_CLUSTER: [&str; 7] =
    ["/auth", "/backup", "/hand-over", "/recover", "/replicate", "/replication", "/restore"];

/// What stores at a follower without the leader: with TLS it needs the certificate of a node.
const OF_NODES: [&str; 2] = ["/replicate", "/replication"];

/// Whether only a node may use this route, where nodes have certificates.
pub(super) fn needs_certificate(path: &str) -> bool {
    OF_NODES.contains(&path)
}

/// What a request is for. Every route that is not named here is one of clients.
pub(super) fn purpose(method: &Method, path: &str) -> Purpose {
    if OF_NODES.contains(&path) {
        Purpose::Replication
    } else if OF_THE_CLUSTER.contains(&path) || doors::configures(method, path) {
        Purpose::Administration
    } else if OPEN.contains(&path) || path.starts_with("/page/") {
        Purpose::Anyone
    } else if path == "/get" {
        Purpose::Reads
    } else {
        Purpose::Clients
    }
}

/// Answers 403 to a request of a node that shows no certificate, where nodes have them, and 401 to one without a token of
/// the cluster, if it has any.
pub(super) async fn authorize(State(site): State<Site>, request: Request, next: Next) -> Response {
    let is_node = request.extensions().get::<IsNode>().is_some();
    if site.tls.is_some() && !is_node && needs_certificate(request.uri().path()) {
        let message = "this route needs a certificate of the CA of this cluster (TLS_CA_FILE)";
        return ApiError::plain(StatusCode::FORBIDDEN, message).into_response();
    }
    match &site.access.cluster {
        Some(tokens) if !shows(tokens, request.headers()) => {
            let message = "this route needs the bearer token of the cluster";
            ApiError::plain(StatusCode::UNAUTHORIZED, message).into_response()
        }
        _ => next.run(request).await,
    }
}

/// `GET /auth` at every node: behind [`authorize`], so that the answer says whether this node accepts a token yet.
pub(super) async fn accepted() -> Json<Value> {
    Json(json!({"ok": true}))
}

/// The answer to a client that shows no token where clients need one. Every route that is not named here is one of
/// clients, so that a new one is guarded.
pub(super) fn refuse_client<B>(site: &Site, request: &axum::http::Request<B>) -> Option<ApiError> {
    let tokens = site.access.clients.as_ref()?;
    let path = request.uri().path();
    let is_for_clients = !OPEN.contains(&path) && !OF_THE_CLUSTER.contains(&path) && !path.starts_with("/page/");
    (is_for_clients && !shows(tokens, request.headers()))
        .then(|| ApiError::early(StatusCode::UNAUTHORIZED, "this route needs the bearer token of a client"))
}

fn shows(tokens: &Tokens, headers: &HeaderMap) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked("Bearer ".len()));
    given.is_some_and(|(scheme, given)| scheme.eq_ignore_ascii_case(b"Bearer ") && tokens.accept(given))
}
