//! What the pods of backups came to, as far as the watch still has them. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kvcluster_api::resource::{BackupFailure, BackupStatus, BackupSuccess};
use serde::Deserialize;

use crate::build::BACKUP_CONTAINER;
use crate::pods;

/// The longest reason of a failure, in bytes: the log of a pod may have more.
const REASON_BYTES_MAX: usize = 700;

/// What `kvctl backup --report` writes.
#[derive(Deserialize)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) keys: i64,
    bytes: i64,
}

/// The last success and the last failure: those before, or what a pod came to since.
#[must_use]
pub fn latest(pods: &[Arc<Pod>], before: Option<&BackupStatus>) -> BackupStatus {
    let mut latest = before.cloned().unwrap_or_default();
    for pod in pods {
        match outcome(pod) {
            Some(Ok(success)) if latest.last_success.as_ref().is_none_or(|last| last.time.0 < success.time.0) => {
                latest.last_success = Some(success);
            }
            Some(Err(failure)) if latest.last_failure.as_ref().is_none_or(|last| last.time.0 < failure.time.0) => {
                latest.last_failure = Some(failure);
            }
            _ => {}
        }
    }
    latest
}

/// None while a pod runs.
fn outcome(pod: &Pod) -> Option<Result<BackupSuccess, BackupFailure>> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let states = statuses.filter(|container| container.name == BACKUP_CONTAINER).filter_map(|one| one.state.as_ref());
    if let Some(ended) = states.filter_map(|state| state.terminated.as_ref()).next() {
        let time = ended.finished_at.clone()?;
        return Some(match record(ended) {
            Some(Record { name, keys, bytes }) => Ok(BackupSuccess { time, name, keys, bytes }),
            None => Err(failure(pod, time, &words(ended))),
        });
    }
    cannot_start(pod).map(Err)
}

/// A pod that is made once, and may wait for good.
pub(super) fn cannot_start(pod: &Pod) -> Option<BackupFailure> {
    let time = pod.metadata.creation_timestamp.clone()?;
    let problem = pods::problem(pod).filter(|_| pods::cannot_run(pod))?;
    let prefix = format!("{}: ", pod.name_any());
    Some(failure(pod, time, &format!("it cannot start: {}", problem.strip_prefix(&prefix).unwrap_or(&problem))))
}

pub(super) fn failure(pod: &Pod, time: Time, reason: &str) -> BackupFailure {
    BackupFailure { time, pod: pod.name_any(), reason: shortened(reason).to_owned() }
}

pub(super) fn record(ended: &ContainerStateTerminated) -> Option<Record> {
    let message = ended.message.as_deref().filter(|_| ended.exit_code == 0)?;
    serde_json::from_str(message).ok()
}

/// The last words of the log.
pub(super) fn words(ended: &ContainerStateTerminated) -> String {
    let log = ended.message.as_deref().unwrap_or_default().trim();
    // At the start of a line: libraries have errors that name themselves, such as `Generic S3 error: …`.
    let last =
        log.rsplit_once("\nerror: ").map(|(_, last)| last).or_else(|| log.strip_prefix("error: ")).unwrap_or(log);
    match (last, ended.reason.as_deref()) {
        ("", Some(reason)) => format!("ended with code {} ({reason})", ended.exit_code),
        ("", None) => format!("ended with code {}", ended.exit_code),
        (last, _) => last.to_owned(),
    }
}

fn shortened(reason: &str) -> &str {
    let end = (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    &reason[..end]
}

/// When the last attempt was, and whether it succeeded.
#[must_use]
pub fn last_attempt(status: &BackupStatus) -> Option<(bool, &Time)> {
    let success = status.last_success.as_ref().map(|success| &success.time);
    let failure = status.last_failure.as_ref().map(|failure| &failure.time);
    match (success, failure) {
        (Some(success), Some(failure)) if failure.0 > success.0 => Some((false, failure)),
        (Some(success), _) => Some((true, success)),
        (None, failure) => failure.map(|failure| (false, failure)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, state: Value) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": name, "creationTimestamp": "2026-11-27T02:29:00Z"},
            "status": {"phase": "Pending", "containerStatuses": [
                {"name": "kvctl", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state},
                {"name": "injected", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                    "state": {"terminated": {"exitCode": 7, "finishedAt": "2026-11-27T02:59:00Z"}}}]}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn ended(code: i32, minute: u32, message: &str) -> Value {
        json!({"terminated": {"exitCode": code, "finishedAt": format!("2026-11-27T02:{minute}:00Z"), "message": message, "reason": "Error"}})
    }

    const RECORD: &str = r#"{"kvcluster_backup_record":1,"name":"shop.demo-20261127T023000Z-04f2","cluster":"shop/demo",
        "taken":"2026-11-27T02:30:00Z","keys":41,"bytes":7007,"digest":"1ba62d6a2cbe21ec"}"#;

    #[test]
    fn the_newest_success_and_the_newest_failure_stay_when_their_pods_are_gone() {
        let failed = "some line\nerror: failed to list s3://b: Generic S3 error: NoSuchBucket\n";
        let pods =
            [pod("a", ended(0, 31, RECORD)), pod("b", ended(1, 33, failed)), pod("c", ended(1, 32, "error: earlier"))];
        let status = latest(&pods, None);
        let success = status.last_success.as_ref().expect("one");
        assert_eq!((success.name.as_str(), success.keys, success.bytes), ("shop.demo-20261127T023000Z-04f2", 41, 7007));
        assert_eq!(success.time.0.to_string(), "2026-11-27T02:31:00Z");
        let failure = status.last_failure.as_ref().expect("one");
        assert_eq!(
            (failure.pod.as_str(), failure.reason.as_str()),
            ("b", "failed to list s3://b: Generic S3 error: NoSuchBucket")
        );
        assert_eq!(last_attempt(&status).map(|(succeeded, _)| succeeded), Some(false));
        assert_eq!(latest(&[], Some(&status)), status);
        assert_eq!(latest(&pods[..1], Some(&status)), status, "an older pod changes nothing");
        let later = latest(&[pod("d", ended(0, 40, RECORD))], Some(&status));
        assert_eq!(last_attempt(&later).map(|(succeeded, _)| succeeded), Some(true));
        assert_eq!(later.last_failure, status.last_failure);
    }

    #[test]
    fn an_end_without_a_record_is_no_backup() {
        for (code, message, expected) in [
            (0, "", "ended with code 0 (Error)"),
            (0, "900 keys", "900 keys"),
            (137, "", "ended with code 137 (Error)"),
            // Whatever it wrote before.
            (1, RECORD, RECORD),
        ] {
            let status = latest(&[pod("a", ended(code, 31, message))], None);
            assert_eq!(status.last_success, None, "{code} {message}");
            assert_eq!(status.last_failure.expect("a failure").reason, expected);
        }
        assert_eq!(latest(&[pod("a", json!({"running": {}}))], None), BackupStatus::default());
    }

    #[test]
    fn a_pod_that_cannot_start_is_a_failure_and_one_that_starts_is_not() {
        let waits = |reason: &str| json!({"waiting": {"reason": reason, "message": "secret \"s3\" not found"}});
        let status = latest(&[pod("a", waits("CreateContainerConfigError"))], None);
        let failure = status.last_failure.expect("a failure");
        assert_eq!(failure.reason, "it cannot start: CreateContainerConfigError secret \"s3\" not found");
        assert_eq!(failure.time.0.to_string(), "2026-11-27T02:29:00Z");
        assert_eq!(latest(&[pod("a", waits("ContainerCreating"))], None), BackupStatus::default());
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let status = latest(&[pod("a", ended(1, 31, &format!("error: {}", "ä".repeat(900))))], None);
        assert_eq!(status.last_failure.expect("a failure").reason.len(), 700);
    }
}
