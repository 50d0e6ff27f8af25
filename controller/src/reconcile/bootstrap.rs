//! How far the restore is with which a new cluster starts. Pure.
//!
//! The leader decides: it serves no client until a restore has ended, and its followers keep the proof of that. The Job
//! only carries the backup. So nothing is restored twice, whatever the operator has forgotten.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerState, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kvcluster_api::resource::{BackupFailure, BootstrapStatus, KvClusterStatus};

use super::backups::{self, Record};
use super::leader_client::LeaderSeen;
use super::validate::Validated;
use crate::build::BACKUP_CONTAINER;

/// Whether the cluster is open for clients, or was: with a backup to start from, not before that is restored.
#[must_use]
pub fn opened(previous: &KvClusterStatus, leader: &LeaderSeen) -> bool {
    previous.opened || leader.open().is_some_and(|leader| leader.status.start_pending != Some(true))
}

/// Whether the Job has to be there now. It begins once the leader waits for it, and stays while no leader answers.
#[must_use]
pub fn runs(cluster: &Validated, previous: &KvClusterStatus, leader: &LeaderSeen, job_exists: bool) -> bool {
    let completed = previous.bootstrap.as_ref().is_some_and(|status| status.completed.is_some());
    if cluster.bootstrap.is_none() || cluster.hibernated || completed {
        return false;
    }
    job_exists || leader.open().is_some_and(|leader| leader.status.start_pending == Some(true))
}

/// What is known of the restore: what was before, and what its pods came to since. None where the spec has none.
#[must_use]
pub fn status(
    cluster: &Validated,
    pods: &[Arc<Pod>],
    leader: &LeaderSeen,
    before: Option<&BootstrapStatus>,
    now: Timestamp,
) -> Option<BootstrapStatus> {
    cluster.bootstrap.as_ref()?;
    let mut status = before.cloned().unwrap_or_default();
    if status.completed.is_some() {
        return Some(status);
    }
    let outcomes: Vec<Outcome> = pods.iter().map(|pod| outcome(pod)).collect();
    for outcome in &outcomes {
        match outcome {
            Outcome::Restored(Record { name, keys, .. }) => {
                (status.backup, status.keys) = (Some(name.clone()), Some(*keys));
            }
            Outcome::Failed(failure)
                if status.last_failure.as_ref().is_none_or(|last| last.time.0 < failure.time.0) =>
            {
                status.last_failure = Some(failure.clone());
            }
            Outcome::Failed(_) | Outcome::Runs => {}
        }
    }
    let open = leader.open().is_some_and(|leader| leader.status.start_pending == Some(false));
    // A pod that runs is about to report the name of the backup.
    if open && !pods.iter().any(|pod| is_running(pod)) {
        status.completed = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
    }
    Some(status)
}

enum Outcome {
    /// It runs, or starts.
    Runs,
    Restored(Record),
    Failed(BackupFailure),
}

fn states(pod: &Pod) -> impl Iterator<Item = (Option<&ContainerState>, Option<&ContainerState>)> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses
        .filter(|container| container.name == BACKUP_CONTAINER)
        .map(|container| (container.state.as_ref(), container.last_state.as_ref()))
}

fn is_running(pod: &Pod) -> bool {
    states(pod).any(|(now, _)| now.is_some_and(|state| state.running.is_some()))
}

/// The pod tries again after a failure, so the last one may be that of the container before.
fn outcome(pod: &Pod) -> Outcome {
    let ended = states(pod).find_map(|(now, before)| {
        let of = |state: Option<&ContainerState>| state.and_then(|state| state.terminated.clone());
        of(now).or_else(|| of(before))
    });
    let Some(ended) = ended else { return backups::cannot_start(pod).map_or(Outcome::Runs, Outcome::Failed) };
    match (backups::record(&ended), ended.finished_at.clone()) {
        (Some(record), _) => Outcome::Restored(record),
        // The kubelet killed it, or its node went: the next attempt says more.
        (None, Some(time)) => Outcome::Failed(backups::failure(pod, time, &backups::words(&ended))),
        (None, None) => Outcome::Runs,
    }
}

#[cfg(test)]
mod tests {
    use kvcluster_api::status::LeaderStatus;
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures::validated;
    use crate::reconcile::leader_client::Leader;

    const SPEC: &str = "{bootstrap: {fromBackup: {source: 'pvc://archive/of/old'}}}";

    fn leader(state: &str, start_pending: Option<bool>) -> LeaderSeen {
        let config = json!({"generation": 4, "write_quorum": 3, "followers": 5, "min_delay_ms": 0, "max_delay_ms": 200,
            "replication_timeout_ms": 5000, "pending": null});
        let status = json!({"role": "leader", "state": state, "config": config, "start_pending": start_pending});
        let status: LeaderStatus = serde_json::from_value(status).expect("a status");
        let (pod, url) = ("demo-leader-x".to_owned(), "http://10.1.2.3:8000".to_owned());
        LeaderSeen::Answered(Box::new(Leader { pod, url, reached: true, status }))
    }

    fn pod(state: Value, last: Value) -> Vec<Arc<Pod>> {
        let pod = json!({"metadata": {"name": "demo-bootstrap-x", "creationTimestamp": "2026-11-27T02:29:00Z"},
            "status": {"phase": "Running", "containerStatuses": [{"name": "kvctl", "ready": false, "restartCount": 1,
                "image": "", "imageID": "", "state": state, "lastState": last}]}});
        vec![Arc::new(serde_json::from_value(pod).expect("a pod"))]
    }

    fn ended(code: i32, minute: u32, message: &str) -> Value {
        json!({"terminated": {"exitCode": code, "finishedAt": format!("2026-11-27T02:{minute}:00Z"), "message": message}})
    }

    fn previous(status: Option<&BootstrapStatus>) -> KvClusterStatus {
        KvClusterStatus { bootstrap: status.cloned(), ..KvClusterStatus::default() }
    }

    fn seen(pods: &[Arc<Pod>], leader: &LeaderSeen, before: Option<&BootstrapStatus>) -> BootstrapStatus {
        let now = Timestamp::from_second(9_000).expect("a time");
        status(&validated(SPEC), pods, leader, before, now).expect("the spec has a backup")
    }

    const RECORD: &str = r#"{"kvcluster_backup_record":1,"name":"shop.old-20261127T023000Z-04f2","cluster":"shop/old",
        "taken":"2026-11-27T02:30:00Z","keys":41,"bytes":7007,"digest":"1ba62d6a2cbe21ec"}"#;

    // Goal: the restore begins once the leader waits for it, goes on whatever the leader does, and never comes again. Method:
    // every state of the leader, the Job and the status.
    #[test]
    fn the_job_runs_from_when_the_leader_waits_until_the_restore_is_recorded() {
        let cluster = validated(SPEC);
        let (none, waits, done) = (previous(None), leader("open", Some(true)), leader("open", Some(false)));
        let away = LeaderSeen::NotRunning("no pod".to_owned());
        assert!(!runs(&cluster, &none, &away, false), "no leader could take it");
        assert!(!runs(&cluster, &none, &leader("recovering", Some(true)), false), "what it knows means nothing yet");
        assert!(runs(&cluster, &none, &waits, false));
        assert!(runs(&cluster, &none, &away, true), "the next leader goes on");
        assert!(!runs(&cluster, &none, &done, false), "the volumes had it: of the cluster before, for example");
        assert!(!runs(&cluster, &none, &leader("open", None), false), "these nodes would serve clients meanwhile");
        let recorded = previous(Some(&seen(&[], &done, None)));
        for leader in [&away, &waits, &done] {
            assert!(!runs(&cluster, &recorded, leader, true), "never again");
        }
        let asleep = validated("{hibernated: true, bootstrap: {fromBackup: {source: 'pvc://archive/of/old'}}}");
        assert!(!runs(&asleep, &none, &waits, true));
        assert!(!runs(&validated("{}"), &none, &waits, false));
        assert!(!opened(&none, &waits) && opened(&none, &done) && opened(&none, &leader("open", None)));
    }

    #[test]
    fn the_restore_is_complete_when_the_leader_says_so_and_keeps_the_name_of_the_backup() {
        let (waits, done) = (leader("open", Some(true)), leader("open", Some(false)));
        let success = pod(ended(0, 31, RECORD), json!({}));
        assert_eq!(seen(&success, &waits, None).completed, None, "the leader has not seen its end");
        assert_eq!(seen(&pod(json!({"running": {}}), json!({})), &done, None).completed, None, "its name is to come");
        let status = seen(&success, &done, None);
        assert_eq!(status.completed.as_ref().map(|time| time.0.as_second()), Some(9_000));
        assert_eq!((status.backup.as_deref(), status.keys), (Some("shop.old-20261127T023000Z-04f2"), Some(41)));
        assert_eq!(seen(&pod(ended(1, 40, "error: later"), json!({})), &waits, Some(&status)), status, "for good");
    }

    #[test]
    fn a_failure_stays_known_while_the_pod_tries_again() {
        let waits = leader("open", Some(true));
        let failed = ended(1, 33, "a line\nerror: s3://b has no verified backup\n");
        for now in [json!({"waiting": {"reason": "CrashLoopBackOff"}}), json!({"running": {}})] {
            let failure = seen(&pod(now, failed.clone()), &waits, None).last_failure.expect("a failure");
            assert_eq!(
                (failure.pod.as_str(), failure.reason.as_str()),
                ("demo-bootstrap-x", "s3://b has no verified backup")
            );
        }
        let missing =
            json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"s3\" not found"}});
        let failure = seen(&pod(missing, json!({})), &waits, None).last_failure.expect("a failure");
        assert_eq!(failure.reason, "it cannot start: CreateContainerConfigError secret \"s3\" not found");
        assert_eq!(seen(&pod(json!({"running": {}}), json!({})), &waits, None), BootstrapStatus::default());
    }
}
