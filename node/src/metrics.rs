//! Metrics in the text format of Prometheus. Labels are bounded: no label contains a key.

mod latencies;

use std::sync::atomic::AtomicU64;

use kvcluster_api::status::FollowerState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

pub(crate) use self::latencies::{Latencies, LatencyCounts};
use crate::protocol::leader::{CandidateView, FollowerView};
use crate::replication::coordinator::{Condition, LeaderView, PlaceView};
use crate::replication::replica::Replica;
use crate::tokens::FileState;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFollower {
    follower: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSetting {
    setting: &'static str,
}

/// The outcome of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteResult {
    Committed,
    Indeterminate,
    Refused,
}

/// Counters of a leader. Gauges are read anew for each page.
#[derive(Debug)]
pub struct LeaderMetrics {
    writes: Family<OutcomeLabel, Counter>,
    committed: Counter,
    seconds: Histogram,
    /// For the live page.
    pub(crate) latencies: Latencies,
}

impl Default for LeaderMetrics {
    fn default() -> Self {
        let writes = Family::<OutcomeLabel, Counter>::default();
        let committed = writes.get_or_create(&OutcomeLabel { outcome: "committed" }).clone();
        // 0.1 ms to 13 s.
        let seconds = Histogram::new(exponential_buckets(1e-4, 2.0, 18));
        Self { writes, committed, seconds, latencies: Latencies::default() }
    }
}

impl LeaderMetrics {
    /// Records the answer to a write.
    pub(crate) fn write(&self, result: WriteResult, seconds: f64) {
        let outcome = match result {
            WriteResult::Committed => {
                self.committed.inc();
                self.latencies.observe(seconds);
                return self.seconds.observe(seconds);
            }
            WriteResult::Indeterminate => "indeterminate",
            WriteResult::Refused => "refused",
        };
        self.writes.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: f64) {
    let gauge = Gauge::<f64, AtomicU64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter = Counter::<u64>::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}

fn unusable(registry: &mut Registry, files: Vec<FileState>) {
    let unusable = Family::<OfSetting, Gauge>::default();
    let help = "1 while a file that the node reads again cannot be used, and what it had before stays in force";
    registry.register("setting_file_unusable", help, unusable.clone());
    for FileState { setting, trouble } in files {
        unusable.get_or_create(&OfSetting { setting }).set(i64::from(trouble.is_some()));
    }
}

/// The metrics page of a leader.
pub(crate) fn of_leader(metrics: &LeaderMetrics, leader: LeaderView, files: Vec<FileState>) -> String {
    let mut registry = Registry::with_prefix("kvcluster");
    unusable(&mut registry, files);
    registry.register("writes", "Writes answered, by outcome", metrics.writes.clone());
    registry.register("write_seconds", "Time to commit a write", metrics.seconds.clone());
    let LeaderView { condition, config, epoch, keys, in_flight, backlog, serving, followers, audit, .. } = leader;
    let (quorum, generation) = (config.in_force.write_quorum, config.in_force.generation);
    let registry_ = &mut registry;
    gauge(registry_, "leader_open", "1 while writes and reads are served", f64::from(u8::from(serving)));
    let standby =
        f64::from(u8::from(matches!(condition, Condition::Candidate(CandidateView { leader: Some(_), .. }, _))));
    gauge(registry_, "leader_standby", "1 while another leader is at work", standby);
    gauge(registry_, "keys", "Keys, deleted ones included", keys as f64);
    gauge(registry_, "writes_in_flight", "Writes without their quorum", in_flight as f64);
    gauge(registry_, "backlog_writes", "Writes that some follower has not confirmed", backlog as f64);
    gauge(registry_, "epoch_term", "Term of the epoch", epoch.term as f64);
    gauge(registry_, "write_quorum", "Write quorum in force", f64::from(quorum));
    gauge(registry_, "config_generation", "Generation of the configuration in force", generation as f64);
    counter(registry_, "audits", "Comparisons of one follower with the leader that were completed", audit.completed);
    counter(registry_, "audit_mended_buckets", "Buckets of keys that differed and were sent again", audit.mended);
    let help = "Buckets of keys that differed again after they were sent again";
    counter(registry_, "audit_unmended_buckets", help, audit.unmended);
    let (up, lag, age) = (
        Family::<OfFollower, Gauge>::default(),
        Family::<OfFollower, Gauge>::default(),
        Family::<OfFollower, Gauge<f64, AtomicU64>>::default(),
    );
    registry.register("follower_streaming", "1 while the follower takes single writes", up.clone());
    registry.register("follower_lag_writes", "Writes that the follower has not confirmed", lag.clone());
    registry.register("follower_lag_seconds", "Age of the oldest of them", age.clone());
    for PlaceView { follower: FollowerView { name, state, lag_writes, lag_us, .. }, .. } in followers {
        let label = OfFollower { follower: name };
        up.get_or_create(&label).set(i64::from(state == FollowerState::Streaming));
        lag.get_or_create(&label).set(i64::try_from(lag_writes).unwrap_or(i64::MAX));
        age.get_or_create(&label).set(lag_us as f64 / 1e6);
    }
    text(&registry)
}

/// The metrics page of a follower.
pub(crate) fn of_follower(replica: &Replica, files: Vec<FileState>) -> String {
    let mut registry = Registry::with_prefix("kvcluster");
    unusable(&mut registry, files);
    let view = replica.view();
    gauge(&mut registry, "keys", "Keys, deleted ones included", view.keys as f64);
    let synced = f64::from(u8::from(view.hello.synced.is_some()));
    gauge(&mut registry, "follower_synced", "0 while blank", synced);
    gauge(&mut registry, "epoch_term", "Term of the promised epoch", view.hello.promised.term as f64);
    if let Some(health) = replica.disk_health() {
        counter(&mut registry, "disk_checked_bytes", "Bytes of the log read again and intact", health.checked_bytes);
        counter(&mut registry, "disk_damaged_batches", "Damaged batches found while running", health.damaged);
        counter(&mut registry, "disk_mended_batches", "Of these, mended from memory", health.mended);
    }
    if let Some(staleness) = view.staleness {
        gauge(&mut registry, "staleness_seconds", "Upper bound of the age of the state", staleness.as_secs_f64());
    }
    text(&registry)
}

fn text(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing into a string cannot fail.
    let _ = encode(&mut text, registry);
    text
}
