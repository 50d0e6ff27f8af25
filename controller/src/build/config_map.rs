//! The settings of the next leader that starts. A running leader receives the same values through `PATCH /config`. The
//! pod template does not depend on them, so a change restarts no pod.

use k8s_openapi::api::core::v1::ConfigMap;
use kvcluster_api::config::LiveConfig;

use crate::build::{Component, metadata, names};
use crate::reconcile::validate::Validated;

pub(super) fn config_map(cluster: &Validated, opened: bool) -> ConfigMap {
    let LiveConfig {
        generation: _,
        followers,
        write_quorum,
        min_delay_ms,
        max_delay_ms,
        delay,
        replication_timeout_ms,
    } = cluster.live.clone();
    // A node takes either a law or its bounds.
    let delay = match delay.map(|law| serde_json::to_string(&*law)) {
        Some(Ok(law)) => vec![("DELAY", law)],
        Some(Err(_)) | None => {
            vec![("MIN_DELAY_MS", min_delay_ms.to_string()), ("MAX_DELAY_MS", max_delay_ms.to_string())]
        }
    };
    let data = [
        ("FOLLOWER_COUNT", followers.to_string()),
        ("WRITE_QUORUM", write_quorum.to_string()),
        ("REPLICATION_TIMEOUT_MS", replication_timeout_ms.to_string()),
        ("CLUSTER_OPENED", opened.to_string()),
        // Without standbys the leader's new pod takes over from the old one, which ends once the new one is ready. Pods
        // of a cluster with standbys have another value.
        ("TAKEOVER_AFTER_MS", "0".to_owned()),
    ];
    ConfigMap {
        metadata: metadata(cluster, names::config(&cluster.name), Some(Component::Leader)),
        data: Some(data.into_iter().chain(delay).map(|(key, value)| (key.to_owned(), value)).collect()),
        ..ConfigMap::default()
    }
}
