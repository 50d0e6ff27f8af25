//! The bearer tokens that guard replication and administration, and those of clients.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::connections::IsNode;
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

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Reads and writes of keys, and whatever has no other purpose.
    Clients,
    /// The stream of a leader to a follower.
    Replication,
    /// A read of one key: clients read, and a leader reads at its followers.
    Reads,
    /// Configuration, backups, recoveries.
    Administration,
    /// What every node answers about itself.
    Anyone,
}

/// Whether only a node may use this route, where nodes have certificates.
pub(super) fn needs_certificate(path: &str) -> bool {
    OF_NODES.contains(&path)
}

/// What a request is for. Every route that is not named here is one of clients, so that a new one is guarded.
pub(super) fn purpose(method: &Method, path: &str) -> Purpose {
    let changes_configuration = path == "/config" && !matches!(*method, Method::GET | Method::HEAD);
    if OF_NODES.contains(&path) {
        Purpose::Replication
    } else if OF_THE_CLUSTER.contains(&path) || changes_configuration {
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

/// The answer to a client that shows no token where clients need one.
pub(super) fn refuse_client<B>(site: &Site, request: &axum::http::Request<B>) -> Option<ApiError> {
    let tokens = site.access.clients.as_ref()?;
    let is_for_clients = matches!(purpose(request.method(), request.uri().path()), Purpose::Clients | Purpose::Reads);
    (is_for_clients && !shows(tokens, request.headers()))
        .then(|| ApiError::early(StatusCode::UNAUTHORIZED, "this route needs the bearer token of a client"))
}

fn shows(tokens: &Tokens, headers: &HeaderMap) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().split_at_checked("Bearer ".len()));
    given.is_some_and(|(scheme, given)| scheme.eq_ignore_ascii_case(b"Bearer ") && tokens.accept(given))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_has_a_purpose_and_what_is_unknown_is_for_clients() {
        use Purpose::{Administration, Anyone, Clients, Reads, Replication};
        for (method, path, purpose) in [
            (Method::POST, "/put", Clients),
            (Method::GET, "/dump", Clients),
            (Method::GET, "/get", Reads),
            (Method::GET, "/what-comes-later", Clients),
            (Method::GET, "/config", Anyone),
            (Method::PATCH, "/config", Administration),
            (Method::POST, "/config", Administration),
            (Method::GET, "/backup", Administration),
            (Method::POST, "/restore", Administration),
            (Method::POST, "/recover", Administration),
            (Method::POST, "/hand-over", Administration),
            (Method::GET, "/auth", Administration),
            (Method::GET, "/replication", Replication),
            (Method::POST, "/replicate", Replication),
            (Method::GET, "/healthz", Anyone),
            (Method::GET, "/status", Anyone),
            (Method::GET, "/metrics", Anyone),
            (Method::GET, "/page/main.js", Anyone),
        ] {
            assert_eq!(super::purpose(&method, path), purpose, "{method} {path}");
        }
    }
}
