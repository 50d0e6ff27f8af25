//! Updates as a leader sends them.

use serde_json::json;

use super::{
    feed::{Event, Update},
    model::Model,
};

/// W = 2 of 3, where f2 is down and f3 confirms late.
pub(super) fn update(at_ms: f64, committed: u64, buckets: &[(u64, u64, u64)]) -> Update {
    let count: u64 = buckets.iter().map(|bucket| bucket.2).sum();
    let sum_ms: f64 = buckets.iter().map(|bucket| (bucket.0 + bucket.1) as f64 / 2e3 * bucket.2 as f64).sum();
    let follower = |name: &str, state: &str, lag_writes: u64, error: Option<&str>| {
        json!({"name": format!("http://{name}"), "state": state, "member": true, "lag_writes": lag_writes, "lag_ms": 1234.4,
            "last_error": error})
    };
    let body = json!({
        "at_ms": at_ms,
        "kvcluster": "shop/demo",
        "latency": {"count": count, "sum_ms": sum_ms, "buckets": buckets},
        "writes": [],
        "status": {
            "role": "leader", "name": "leader", "state": "open", "epoch": {"term": 3, "leader": "0"}, "keys": 42,
            "writes": {"accepted": committed + 4, "committed": committed, "in_flight": 4, "backlog": 7},
            "tolerates": {"followers_down": 1, "disks_lost": 1, "followers_needed_to_restart": 2},
            "followers": [follower("f1:8001", "streaming", 0, None), follower("f2:8002", "unreachable", 9, Some("connection refused")),
                follower("f3:8003", "streaming", 2, None)],
            "config": {"generation": 1, "write_quorum": 2, "followers": 3, "min_delay_ms": 0, "max_delay_ms": 200,
                "replication_timeout_ms": 5000}
        }
    });
    serde_json::from_value(body).expect("as the leader writes it")
}

/// What is known after these.
pub(super) fn after(updates: impl IntoIterator<Item = Update>) -> Model {
    let mut model = Model::default();
    for update in updates {
        model.apply(Event::Update("http://leader:8000".to_owned(), Box::new(update)));
    }
    model
}
