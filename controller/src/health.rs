//! `/healthz`, `/readyz` and `/metrics`. An operator is healthy while it makes progress; an open port is not enough.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;

use crate::context::Unlisted;
use crate::metrics::Metrics;

/// Whether the operator makes progress.
pub struct Health {
    stuck_after: Duration,
    lease: Mutex<Instant>,
    reconciled: Mutex<Instant>,
    /// The watches that have not listed yet.
    pub unlisted: Unlisted,
    metrics: Arc<Metrics>,
}

impl Health {
    /// Healthy from now on, for as long as something happens every `stuck_after`.
    #[must_use]
    pub fn new(stuck_after: Duration, metrics: Arc<Metrics>) -> Self {
        let now = Instant::now();
        Self {
            stuck_after,
            lease: Mutex::new(now),
            reconciled: Mutex::new(now),
            unlisted: Unlisted::default(),
            metrics,
        }
    }

    /// Records that the Lease was read, whichever replica holds it.
    pub fn lease_seen(&self) {
        *self.lease.lock() = Instant::now();
    }

    /// Records that a reconciliation ended, or that this replica began to lead. A failure counts too: it is retried, and a
    /// restart does not help against an API server that refuses.
    pub fn reconciled(&self) {
        *self.reconciled.lock() = Instant::now();
    }

    /// # Errors
    /// What is stuck, and since when.
    pub fn check(&self, now: Instant) -> Result<(), String> {
        let since = |at: &Mutex<Instant>| now.saturating_duration_since(*at.lock());
        let lease = since(&self.lease);
        if lease > self.stuck_after {
            return Err(format!("the lease was not read for {} s", lease.as_secs()));
        }
        // A watch that never lists holds up every reconciliation, also of KvClusters that are not known yet.
        let unlisted = self.unlisted.kinds();
        let began = since(&self.reconciled);
        if self.metrics.leading.get() == 1 && !unlisted.is_empty() && began > self.stuck_after {
            return Err(format!("the watches of {} have not listed for {} s", unlisted.join(", "), began.as_secs()));
        }
        // The operator reconciles every KvCluster at least twice a minute.
        let busy = self.metrics.leading.get() == 1 && self.metrics.clusters.get() > 0;
        let idle = since(&self.reconciled);
        if busy && idle > self.stuck_after {
            return Err(format!("no reconciliation ended for {} s", idle.as_secs()));
        }
        Ok(())
    }
}

#[derive(Clone)]
struct Shared {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

/// The routes.
pub fn router(health: Arc<Health>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(healthz))
        .route("/metrics", get(metrics_text))
        .with_state(Shared { health, metrics })
}

/// Serves the routes until the program ends.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(address: SocketAddr, health: Arc<Health>, metrics: Arc<Metrics>) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, router(health, metrics)).await
}

async fn healthz(State(shared): State<Shared>) -> impl IntoResponse {
    match shared.health.check(Instant::now()) {
        Ok(()) => (StatusCode::OK, Json(json!({"ok": true}))),
        Err(message) => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"ok": false, "message": message}))),
    }
}

async fn metrics_text(State(shared): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], shared.metrics.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(leading: bool, clusters: i64) -> Health {
        let metrics = Arc::new(Metrics::default());
        metrics.leading.set(leading.into());
        metrics.clusters.set(clusters);
        Health::new(Duration::from_secs(120), metrics)
    }

    #[test]
    fn a_leading_replica_whose_reconciling_is_stuck_is_not_healthy() {
        let health = health(true, 1);
        let later = Instant::now() + Duration::from_secs(121);
        *health.lease.lock() = later;
        assert!(health.check(Instant::now()).is_ok());
        assert_eq!(health.check(later), Err("no reconciliation ended for 121 s".to_owned()));
    }

    // Goal: an operator whose watch never lists is restarted, also if it knows no KvCluster. Method: a list that never ends.
    #[tokio::test]
    async fn a_watch_that_never_lists_is_not_healthy_and_is_named() {
        let health = health(true, 0);
        let later = Instant::now() + Duration::from_secs(121);
        *health.lease.lock() = later;
        assert!(health.check(later).is_ok());
        let (done, listed) = tokio::sync::oneshot::channel::<()>();
        let unlisted = health.unlisted.clone();
        let watch = tokio::spawn(async move { unlisted.until::<k8s_openapi::api::core::v1::Pod>(listed).await });
        tokio::task::yield_now().await;
        assert!(health.check(Instant::now()).is_ok(), "it may take a while");
        assert_eq!(health.check(later), Err("the watches of Pod have not listed for 121 s".to_owned()));
        done.send(()).expect("it waits");
        watch.await.expect("it ends");
        assert!(health.check(later).is_ok());
    }

    #[test]
    fn nothing_to_do_is_healthy_as_long_as_the_lease_is_looked_at() {
        let later = Instant::now() + Duration::from_secs(500);
        for idle in [health(true, 0), health(false, 7)] {
            *idle.lease.lock() = later;
            assert!(idle.check(later).is_ok());
        }
        assert!(health(false, 0).check(later).is_err(), "the lease was not looked at");
    }
}
