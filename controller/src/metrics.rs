//! What the operator counts, in the text format of Prometheus. No name of a cluster is in a label.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

const BUCKETS_S: [f64; 8] = [0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];

/// What the operator counts.
#[derive(Default)]
pub struct Metrics {
    /// Whether this replica holds the Lease.
    pub leading: AtomicBool,
    /// How many KvClusters it watches.
    pub clusters: AtomicU64,
    succeeded: AtomicU64,
    failed: Mutex<BTreeMap<&'static str, u64>>,
    durations: Mutex<([u64; BUCKETS_S.len()], u64, f64)>,
    requests: Mutex<BTreeMap<(String, String), u64>>,
}

impl Metrics {
    /// Counts a reconciliation.
    pub fn reconciled(&self, took: Duration, failure: Option<&'static str>) {
        match failure {
            None => {
                self.succeeded.fetch_add(1, Relaxed);
            }
            Some(reason) => *self.failed.lock().entry(reason).or_default() += 1,
        }
        let seconds = took.as_secs_f64();
        let mut durations = self.durations.lock();
        for (count, bound) in durations.0.iter_mut().zip(BUCKETS_S) {
            *count += u64::from(seconds <= bound);
        }
        durations.1 += 1;
        durations.2 += seconds;
    }

    /// Counts a request to the API server.
    pub fn requested(&self, method: &str, path: &str) {
        *self.requests.lock().entry((method.to_owned(), resource(path).to_owned())).or_default() += 1;
    }

    /// Everything, as `/metrics` shows it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("writing to a String cannot fail");
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        head(out, "leading", "gauge", "Whether this replica holds the lease.")?;
        writeln!(out, "kvcluster_operator_leading {}", u8::from(self.leading.load(Relaxed)))?;
        head(out, "clusters", "gauge", "KvClusters that are watched.")?;
        writeln!(out, "kvcluster_operator_clusters {}", self.clusters.load(Relaxed))?;
        head(out, "reconciliations_total", "counter", "Reconciliations, by how they ended.")?;
        writeln!(
            out,
            "kvcluster_operator_reconciliations_total{{result=\"Succeeded\"}} {}",
            self.succeeded.load(Relaxed)
        )?;
        for (reason, count) in self.failed.lock().iter() {
            writeln!(out, "kvcluster_operator_reconciliations_total{{result=\"{reason}\"}} {count}")?;
        }
        head(out, "reconciliation_duration_seconds", "histogram", "How long reconciliations take.")?;
        let (buckets, count, sum) = *self.durations.lock();
        for (bound, count) in BUCKETS_S.iter().zip(buckets) {
            writeln!(out, "kvcluster_operator_reconciliation_duration_seconds_bucket{{le=\"{bound}\"}} {count}")?;
        }
        writeln!(out, "kvcluster_operator_reconciliation_duration_seconds_bucket{{le=\"+Inf\"}} {count}")?;
        writeln!(out, "kvcluster_operator_reconciliation_duration_seconds_sum {sum}")?;
        writeln!(out, "kvcluster_operator_reconciliation_duration_seconds_count {count}")?;
        head(out, "api_requests_total", "counter", "Requests to the API server; all but GET write.")?;
        for ((method, resource), count) in self.requests.lock().iter() {
            writeln!(
                out,
                "kvcluster_operator_api_requests_total{{method=\"{method}\",resource=\"{resource}\"}} {count}"
            )?;
        }
        if let Some(bytes) = resident_bytes() {
            writeln!(
                out,
                "# HELP process_resident_memory_bytes Memory in use.\n# TYPE process_resident_memory_bytes gauge"
            )?;
            writeln!(out, "process_resident_memory_bytes {bytes}")?;
        }
        Ok(())
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP kvcluster_operator_{name} {help}\n# TYPE kvcluster_operator_{name} {kind}")
}

// `/api/v1/namespaces/shop/pods/x` and `/apis/apps/v1/namespaces/shop/deployments`: the resource, with its subresource.
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

// The second number of statm is the resident size in pages, of 4 KiB on every machine this is built for.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split_whitespace().nth(1)?.parse::<u64>().ok()? * 4096)
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
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
