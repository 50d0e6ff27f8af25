//! The operator's metrics, for Prometheus. No label contains the name of a cluster.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

const BUCKETS_S: [f64; 8] = [0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Requested {
    method: String,
    resource: String,
}

/// What the operator counts.
pub struct Metrics {
    /// 1 while this replica holds the Lease.
    pub leading: Gauge,
    /// How many KvClusters the operator watches.
    pub clusters: Gauge,
    /// How many of them roll out a pod template.
    pub rolling: Gauge,
    reconciliations: Family<Ended, Counter>,
    durations: Histogram,
    requests: Family<Requested, Counter>,
    resident: Gauge,
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        let (leading, clusters) = (Gauge::default(), Gauge::default());
        let (rolling, resident) = (Gauge::default(), Gauge::default());
        let (reconciliations, requests) = (Family::default(), Family::default());
        let durations = Histogram::new(BUCKETS_S);
        let mut registry = Registry::default();
        registry.register_with_unit("process_resident_memory", "Memory in use", Unit::Bytes, resident.clone());
        let ours = registry.sub_registry_with_prefix("kvcluster_operator");
        ours.register("leading", "1 while this replica holds the Lease", leading.clone());
        ours.register("clusters", "KvClusters that are watched", clusters.clone());
        ours.register("rolling_clusters", "KvClusters that roll out a pod template", rolling.clone());
        ours.register("reconciliations", "Reconciliations, by result", reconciliations.clone());
        ours.register_with_unit(
            "reconciliation_duration",
            "Time of a reconciliation",
            Unit::Seconds,
            durations.clone(),
        );
        ours.register("api_requests", "Requests to the API server; all but GET write", requests.clone());
        Self { leading, clusters, rolling, reconciliations, durations, requests, resident, registry }
    }
}

impl Metrics {
    /// Counts a reconciliation.
    pub fn reconciled(&self, took: Duration, failure: Option<&'static str>) {
        self.reconciliations.get_or_create(&Ended { result: failure.unwrap_or("Succeeded") }).inc();
        self.durations.observe(took.as_secs_f64());
    }

    /// Counts a request to the API server.
    pub fn requested(&self, method: &str, path: &str) {
        let labels = Requested { method: method.to_owned(), resource: resource(path).to_owned() };
        self.requests.get_or_create(&labels).inc();
    }

    /// Everything, in the OpenMetrics text format.
    #[must_use]
    pub fn text(&self) -> String {
        if let Some(bytes) = resident_bytes() {
            self.resident.set(bytes);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }
}

/// The resource in a path such as `/api/v1/namespaces/shop/pods/x` or `/apis/apps/v1/namespaces/shop/deployments`.
fn resource(path: &str) -> &str {
    let path = path.split('?').next().unwrap_or_default();
    let mut parts = path.trim_matches('/').split('/');
    match parts.next() {
        Some("api") => drop(parts.next()),
        Some("apis") => drop((parts.next(), parts.next())),
        _ => return "other",
    }
    match (parts.next(), parts.next(), parts.next()) {
        (Some("namespaces"), Some(_), Some(resource)) | (Some(resource), _, _) => resource,
        _ => "discovery",
    }
}

/// The second number of statm is the resident size in pages, which have 4 KiB on every supported machine.
fn resident_bytes() -> Option<i64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split_whitespace().nth(1)?.parse::<i64>().ok()? * 4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_resource_without_names() {
        for (path, expected) in [
            ("/api/v1/namespaces/shop/secrets/demo-auth?x=1", "secrets"),
            ("/apis/apps/v1/namespaces/shop/statefulsets", "statefulsets"),
            ("/apis/kvcluster.io/v1alpha1/kvclusters?watch=true", "kvclusters"),
            ("/api/v1/pods", "pods"),
            ("/apis", "discovery"),
            ("/version", "other"),
        ] {
            assert_eq!(resource(path), expected, "{path}");
        }
    }

    #[test]
    fn the_text_has_what_was_counted() {
        let metrics = Metrics::default();
        metrics.leading.set(1);
        metrics.clusters.set(3);
        metrics.reconciled(Duration::from_millis(20), None);
        metrics.reconciled(Duration::from_millis(300), Some("ApplyFailed"));
        metrics.requested("PATCH", "/api/v1/namespaces/shop/configmaps/demo-config");
        let text = metrics.text();
        for line in [
            "kvcluster_operator_reconciliations_total{result=\"Succeeded\"} 1",
            "kvcluster_operator_reconciliations_total{result=\"ApplyFailed\"} 1",
            "kvcluster_operator_reconciliation_duration_seconds_bucket{le=\"0.025\"} 1",
            "kvcluster_operator_reconciliation_duration_seconds_bucket{le=\"+Inf\"} 2",
            "kvcluster_operator_api_requests_total{method=\"PATCH\",resource=\"configmaps\"} 1",
            "kvcluster_operator_leading 1",
            "kvcluster_operator_clusters 3",
            "# TYPE process_resident_memory_bytes gauge",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
