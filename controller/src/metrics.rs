//! The operator's metrics, for Prometheus.

use std::time::Duration;

use kvcluster_api::resource::KvClusterStatus;
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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCluster {
    namespace: String,
    name: String,
}

/// What the operator counts.
pub struct Metrics {
    /// 1 while this replica holds the Lease.
    pub leading: Gauge,
    /// How many KvClusters the operator watches.
    pub clusters: Gauge,
    /// How many of them roll out a pod template.
    pub rolling: Gauge,
    /// Looks at clusters in which nothing had changed.
    pub calm: Counter,
    /// Those that were put off, because as many were under way as may be.
    pub postponed: Counter,
    lateness: Histogram,
    ready: Family<OfCluster, Gauge>,
    followers: Family<OfCluster, Gauge>,
    quorums: Family<OfCluster, Gauge>,
    rolled_out: Family<OfCluster, Gauge>,
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
        let (calm, postponed, lateness) = (Counter::default(), Counter::default(), Histogram::new(BUCKETS_S));
        let (ready, followers, quorums, rolled_out) =
            (Family::default(), Family::default(), Family::default(), Family::default());
        let mut registry = Registry::default();
        registry.register_with_unit("process_resident_memory", "Memory in use", Unit::Bytes, resident.clone());
        let ours = registry.sub_registry_with_prefix("kvcluster_operator");
        ours.register("leading", "1 while this replica holds the Lease", leading.clone());
        ours.register("clusters", "KvClusters that are watched", clusters.clone());
        ours.register("rolling_clusters", "KvClusters that roll out a pod template", rolling.clone());
        ours.register("cluster_ready", "1 while the KvCluster accepts writes", ready.clone());
        ours.register("cluster_ready_followers", "Followers that receive new writes", followers.clone());
        ours.register("cluster_write_quorum", "The write quorum in force", quorums.clone());
        ours.register("cluster_rolled_out", "1 while every pod has the newest template", rolled_out.clone());
        ours.register("calm_looks", "Looks at KvClusters in which nothing had changed", calm.clone());
        ours.register("postponed_looks", "Such looks that were put off for others", postponed.clone());
        ours.register_with_unit(
            "calm_look_lateness",
            "Time between when such a look was due and its start",
            Unit::Seconds,
            lateness.clone(),
        );
        ours.register("reconciliations", "Reconciliations, by result", reconciliations.clone());
        ours.register_with_unit(
            "reconciliation_duration",
            "Time of a reconciliation",
            Unit::Seconds,
            durations.clone(),
        );
        ours.register("api_requests", "Requests to the API server; all but GET write", requests.clone());
        Self {
            leading,
            clusters,
            rolling,
            calm,
            postponed,
            lateness,
            ready,
            followers,
            quorums,
            rolled_out,
            reconciliations,
            durations,
            requests,
            resident,
            registry,
        }
    }
}

impl Metrics {
    /// Counts a reconciliation.
    pub fn reconciled(&self, took: Duration, failure: Option<&'static str>) {
        self.reconciliations.get_or_create(&Ended { result: failure.unwrap_or("Succeeded") }).inc();
        self.durations.observe(took.as_secs_f64());
    }

    /// Counts by how much a look began late.
    pub fn late(&self, by: Duration) {
        self.lateness.observe(by.as_secs_f64());
    }

    /// Records the status of a cluster.
    pub fn cluster(&self, namespace: &str, name: &str, status: &KvClusterStatus) {
        let cluster = OfCluster { namespace: namespace.to_owned(), name: name.to_owned() };
        let is_true = |type_: &str| status.conditions.iter().any(|one| one.type_ == type_ && one.status == "True");
        self.ready.get_or_create(&cluster).set(is_true("Ready").into());
        self.followers.get_or_create(&cluster).set(status.ready_replicas.into());
        self.quorums.get_or_create(&cluster).set(status.applied_write_quorum.unwrap_or_default().into());
        self.rolled_out.get_or_create(&cluster).set(is_true("RolledOut").into());
    }

    /// Drops the records of a cluster that no longer exists.
    pub fn forget(&self, namespace: &str, name: &str) {
        let cluster = OfCluster { namespace: namespace.to_owned(), name: name.to_owned() };
        for family in [&self.ready, &self.followers, &self.quorums, &self.rolled_out] {
            family.remove(&cluster);
        }
    }

    /// Drops what only the replica that holds the Lease knows.
    pub fn leads_no_more(&self) {
        for gauge in [&self.leading, &self.clusters, &self.rolling] {
            gauge.set(0);
        }
        for family in [&self.ready, &self.followers, &self.quorums, &self.rolled_out] {
            family.clear();
        }
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
    fn a_cluster_has_its_own_until_it_is_gone() {
        let metrics = Metrics::default();
        let ready = serde_json::json!({"type": "Ready", "status": "True", "reason": "Open", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = KvClusterStatus {
            ready_replicas: 4,
            applied_write_quorum: Some(3),
            conditions: vec![serde_json::from_value(ready).expect("a condition")],
            ..KvClusterStatus::default()
        };
        metrics.cluster("shop", "demo", &status);
        metrics.cluster("shop", "other", &KvClusterStatus::default());
        metrics.forget("shop", "other");
        let text = metrics.text();
        for line in [
            "cluster_ready{namespace=\"shop\",name=\"demo\"} 1",
            "cluster_ready_followers{namespace=\"shop\",name=\"demo\"} 4",
            "cluster_write_quorum{namespace=\"shop\",name=\"demo\"} 3",
            "cluster_rolled_out{namespace=\"shop\",name=\"demo\"} 0",
        ] {
            assert!(text.contains(&format!("kvcluster_operator_{line}")), "{line} is not in\n{text}");
        }
        assert!(!text.contains("name=\"other\""), "{text}");
        metrics.leading.set(1);
        metrics.leads_no_more();
        let text = metrics.text();
        assert!(text.contains("kvcluster_operator_leading 0") && !text.contains("name=\"demo\""), "{text}");
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
