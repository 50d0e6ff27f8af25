//! Writes a Kubernetes event for each transition, once. `kubectl describe kvc demo` shows them.

use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use kvcluster_api::resource::{BackupFailure, BackupStatus, BackupSuccess, BootstrapStatus, KvClusterStatus};

use crate::build::MANAGER;

/// The longest note that the API server accepts, in bytes.
const NOTE_LENGTH_MAX: usize = 1024;

/// Something that happened to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// Whether it needs attention.
    pub warning: bool,
    /// One word.
    pub reason: String,
    /// One sentence.
    pub note: String,
}

fn happened(warning: bool, reason: &str, note: impl Into<String>) -> Happened {
    Happened { warning, reason: reason.to_owned(), note: note.into() }
}

/// What happened between two statuses. Pure.
#[must_use]
pub fn between(before: &KvClusterStatus, after: &KvClusterStatus) -> Vec<Happened> {
    let mut events = Vec::new();
    if let Some(leader) = &after.leader
        && before.leader.as_ref() != Some(leader)
    {
        events.push(happened(false, "LeaderOpen", format!("{leader} leads and takes writes")));
    }
    if let (Some(old), Some(new)) = (before.applied_replicas, after.applied_replicas)
        && old != new
    {
        events.push(happened(false, "Scaled", format!("{new} followers count for a quorum, {old} before")));
    }
    if let (Some(old), Some(new)) = (before.applied_write_quorum, after.applied_write_quorum)
        && old != new
    {
        events.push(happened(false, "QuorumApplied", format!("write quorum {new} is in force, {old} before")));
    }
    if let (Some(old), Some(new)) = (before.applied_delay, after.applied_delay)
        && old != new
    {
        let note =
            format!("delay {}-{} ms is in force, {}-{} ms before", new.min_ms, new.max_ms, old.min_ms, old.max_ms);
        events.push(happened(false, "DelayApplied", note));
    }
    events.extend(backups(before.backup.as_ref(), after.backup.as_ref()));
    events.extend(restore_failed(before.bootstrap.as_ref(), after.bootstrap.as_ref()));
    for condition in &after.conditions {
        let old = before.conditions.iter().find(|old| old.type_ == condition.type_);
        events.extend(transition(condition, old));
    }
    events
}

/// Each backup is news, also the second one in a row that fails.
fn backups(before: Option<&BackupStatus>, after: Option<&BackupStatus>) -> Vec<Happened> {
    let (before, after) = (before.cloned().unwrap_or_default(), after.cloned().unwrap_or_default());
    let success = after.last_success.filter(|success| before.last_success.as_ref() != Some(success));
    let failure = after.last_failure.filter(|failure| before.last_failure.as_ref() != Some(failure));
    let success = success.map(|BackupSuccess { name, keys, bytes, .. }| {
        happened(false, "BackupSucceeded", format!("the backup {name} of {keys} keys and {bytes} bytes was verified"))
    });
    let failure =
        failure.map(|BackupFailure { pod, reason, .. }| happened(true, "BackupFailed", format!("{pod}: {reason}")));
    success.into_iter().chain(failure).collect()
}

/// Each attempt that fails is news.
fn restore_failed(before: Option<&BootstrapStatus>, after: Option<&BootstrapStatus>) -> Option<Happened> {
    let failure = after?.last_failure.as_ref()?;
    let known = before.and_then(|before| before.last_failure.as_ref()) == Some(failure);
    (!known).then(|| happened(true, "RestoreFailed", format!("{}: {}", failure.pod, failure.reason)))
}

fn transition(condition: &Condition, before: Option<&Condition>) -> Option<Happened> {
    let (status, old) = (condition.status.as_str(), before.map(|before| before.status.as_str()));
    let invalid_before = before.is_some_and(|before| before.reason == "InvalidSpec");
    if condition.reason == "InvalidSpec" {
        return (condition.type_ == "Ready" && !invalid_before)
            .then(|| happened(true, "InvalidSpec", &condition.message));
    }
    let news = before.is_none_or(|before| before.reason != condition.reason);
    match (condition.type_.as_str(), condition.reason.as_str()) {
        ("Paused", "Paused") => return news.then(|| happened(false, "Paused", &condition.message)),
        ("Paused", _) => return (old == Some("True")).then(|| happened(false, "Resumed", &condition.message)),
        ("Hibernated", "Awake") => return None,
        ("Hibernated", reason) => return news.then(|| happened(false, reason, &condition.message)),
        // What ends on purpose is no failure.
        (_, "Hibernating" | "Hibernated" | "Waking" | "Paused") => return None,
        _ => {}
    }
    if condition.type_ == "Progressing" && matches!(condition.reason.as_str(), "NameTaken" | "ApplyFailed") {
        return news.then(|| happened(true, &condition.reason, &condition.message));
    }
    if matches!(condition.type_.as_str(), "RolledOut" | "TokenApplied") {
        let news = before.is_some_and(|before| before.reason != condition.reason);
        return news.then(|| by_reason(condition)).flatten();
    }
    if condition.type_ == "Bootstrapped" && condition.reason == "ImageTooOld" {
        return news.then(|| happened(true, &condition.reason, &condition.message));
    }
    if condition.type_ == "VolumesGrown" {
        // A new cluster has them from the start.
        return before.filter(|_| news).and_then(|_| volumes(condition));
    }
    if condition.type_ == "CertificateValid" {
        return news.then(|| certificate(condition, before)).flatten();
    }
    if old == Some(status) {
        return None;
    }
    match (condition.type_.as_str(), status) {
        ("Ready", "True") => Some(happened(false, "Ready", &condition.message)),
        // A cluster that was never ready has not become unready.
        ("Ready", _) => (old == Some("True")).then(|| happened(true, "NotReady", &condition.message)),
        ("QuorumAvailable", "False") => (old == Some("True")).then(|| happened(true, "QuorumLost", &condition.message)),
        ("QuorumAvailable", "True") => old.map(|_| happened(false, "QuorumReached", &condition.message)),
        ("Degraded", "True") => Some(happened(true, "Degraded", &condition.message)),
        ("Degraded", "False") => (old == Some("True")).then(|| happened(false, "Healed", &condition.message)),
        ("Bootstrapped", "True") => Some(happened(false, "Bootstrapped", &condition.message)),
        ("ClientTokensValid", "False") => Some(happened(true, &condition.reason, &condition.message)),
        ("ClientTokensValid", "True") => {
            (old == Some("False")).then(|| happened(false, "ClientTokensValid", &condition.message))
        }
        ("ConfigApplied", "False") if condition.reason == "Refused" => {
            Some(happened(true, "ConfigRefused", &condition.message))
        }
        _ => None,
    }
}

fn certificate(condition: &Condition, before: Option<&Condition>) -> Option<Happened> {
    match (condition.status.as_str(), condition.reason.as_str()) {
        ("False", reason) => Some(happened(true, &format!("Certificate{reason}"), &condition.message)),
        ("True", "ExpiresSoon") => Some(happened(true, "CertificateExpiresSoon", &condition.message)),
        // A new cluster has one from the start.
        ("True", "Valid") => before.map(|_| happened(false, "CertificateValid", &condition.message)),
        _ => None,
    }
}

fn volumes(condition: &Condition) -> Option<Happened> {
    match condition.reason.as_str() {
        "Refused" => Some(happened(true, "VolumesRefused", &condition.message)),
        "Growing" => Some(happened(false, "VolumesGrow", &condition.message)),
        "AsAsked" => Some(happened(false, "VolumesGrown", &condition.message)),
        _ => None,
    }
}

fn by_reason(condition: &Condition) -> Option<Happened> {
    match (condition.status.as_str(), condition.reason.as_str()) {
        ("True", _) => Some(happened(false, &condition.type_, &condition.message)),
        (_, warning @ ("RolloutBlocked" | "MalformedToken")) => Some(happened(true, warning, &condition.message)),
        ("False", reason) => Some(happened(false, reason, &condition.message)),
        _ => None,
    }
}

/// Writes events.
#[derive(Clone)]
pub struct Recorder {
    client: Client,
    instance: String,
}

impl Recorder {
    /// A recorder that names this replica of the operator as the source.
    #[must_use]
    pub fn new(client: Client, instance: String) -> Self {
        Self { client, instance }
    }

    /// Writes an event about an object. A failure is only logged, because the status has the same content.
    pub async fn publish<K: Resource<DynamicType = ()>>(&self, about: &K, event: &Happened, now: Timestamp) {
        let namespace = about.meta().namespace.clone().unwrap_or_default();
        let body = Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", about.name_any())),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(format!("kvcluster.io/{MANAGER}")),
            reporting_instance: Some(self.instance.clone()),
            action: Some("Reconcile".to_owned()),
            reason: Some(event.reason.clone()),
            regarding: Some(about.object_ref(&())),
            note: Some(shortened(&event.note)),
            type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        if let Err(error) = api.create(&PostParams::default(), &body).await {
            tracing::warn!(%error, reason = event.reason, "failed to write an event");
        }
    }
}

fn shortened(note: &str) -> String {
    let end = (0..=NOTE_LENGTH_MAX.min(note.len())).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
    note[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn status(quorum: i32, conditions: &[(&str, &str, &str)]) -> KvClusterStatus {
        let conditions = conditions
            .iter()
            .map(|(type_, status, reason)| Condition {
                type_: (*type_).to_owned(),
                status: (*status).to_owned(),
                reason: (*reason).to_owned(),
                message: format!("{type_} is {status}"),
                observed_generation: Some(1),
                last_transition_time: Time(Timestamp::UNIX_EPOCH),
            })
            .collect();
        KvClusterStatus { applied_write_quorum: Some(quorum), conditions, ..KvClusterStatus::default() }
    }

    fn reasons(before: &KvClusterStatus, after: &KvClusterStatus) -> Vec<(String, bool)> {
        between(before, after).into_iter().map(|event| (event.reason, event.warning)).collect()
    }

    #[test]
    fn each_transition_makes_one_event() {
        let well = status(3, &[("Ready", "True", "Open"), ("Degraded", "False", "AllPresent")]);
        let ill = status(3, &[("Ready", "True", "Open"), ("Degraded", "True", "FollowersMissing")]);
        assert_eq!(reasons(&well, &ill), [("Degraded".to_owned(), true)]);
        assert_eq!(reasons(&ill, &ill), []);
        assert_eq!(reasons(&ill, &well), [("Healed".to_owned(), false)]);
        assert_eq!(reasons(&well, &status(5, &[("Ready", "True", "Open")])), [("QuorumApplied".to_owned(), false)]);
    }

    #[test]
    fn a_new_cluster_has_not_become_unready() {
        let starting = status(3, &[("Ready", "False", "LeaderNotRunning"), ("Degraded", "False", "Creating")]);
        assert_eq!(reasons(&KvClusterStatus::default(), &starting), []);
        let ready = status(3, &[("Ready", "True", "Open"), ("Degraded", "False", "AllPresent")]);
        assert_eq!(reasons(&starting, &ready), [("Ready".to_owned(), false)]);
    }

    #[test]
    fn a_rollout_that_moves_is_blocked_and_ends_makes_an_event_each_time() {
        let of = |status_: &str, reason: &str| status(3, &[("RolledOut", status_, reason)]);
        let steps = [
            ("True", "Current", None),
            ("False", "RollingOut", Some(false)),
            ("False", "RollingOut", None),
            ("False", "RolloutBlocked", Some(true)),
            ("False", "RolloutQueued", Some(false)),
            ("True", "Current", Some(false)),
        ];
        let mut before = KvClusterStatus::default();
        for (status, reason, warning) in steps {
            let after = of(status, reason);
            let expected: Vec<bool> = warning.into_iter().collect();
            let found: Vec<bool> = reasons(&before, &after).into_iter().map(|(_, warning)| warning).collect();
            assert_eq!(found, expected, "{status} {reason}");
            before = after;
        }
    }

    #[test]
    fn a_hibernation_and_a_pause_make_events_and_no_warnings() {
        let well =
            status(3, &[("Ready", "True", "Open"), ("Paused", "False", "NotPaused"), ("Hibernated", "False", "Awake")]);
        let rests = |verdict: &str, reason: &str| {
            status(3, &[("Ready", "False", reason), ("Paused", "False", "NotPaused"), ("Hibernated", verdict, reason)])
        };
        let (ends, asleep) = (rests("False", "Hibernating"), rests("True", "Hibernated"));
        assert_eq!(reasons(&well, &ends), [("Hibernating".to_owned(), false)]);
        assert_eq!(reasons(&ends, &asleep), [("Hibernated".to_owned(), false)]);
        assert_eq!(reasons(&asleep, &rests("False", "Waking")), [("Waking".to_owned(), false)]);
        let paused =
            status(3, &[("Ready", "True", "Open"), ("Paused", "True", "Paused"), ("Hibernated", "False", "Awake")]);
        assert_eq!(reasons(&well, &paused), [("Paused".to_owned(), false)]);
        assert_eq!(reasons(&paused, &well), [("Resumed".to_owned(), false)]);
    }

    #[test]
    fn each_backup_and_each_failure_makes_an_event() {
        let at = |second| Time(Timestamp::from_second(second).expect("a time"));
        let success = |name: &str| Some(BackupSuccess { time: at(1), name: name.to_owned(), keys: 3, bytes: 99 });
        let failure = |second| Some(BackupFailure { time: at(second), pod: "p".to_owned(), reason: "gone".to_owned() });
        let of = |last_success, last_failure| KvClusterStatus {
            backup: Some(BackupStatus { last_success, last_failure }),
            ..KvClusterStatus::default()
        };
        let none = KvClusterStatus::default();
        assert_eq!(reasons(&none, &of(success("a"), None)), [("BackupSucceeded".to_owned(), false)]);
        assert_eq!(reasons(&of(success("a"), None), &of(success("b"), None)), [("BackupSucceeded".to_owned(), false)]);
        assert_eq!(
            reasons(&of(success("b"), None), &of(success("b"), failure(5))),
            [("BackupFailed".to_owned(), true)]
        );
        let again = of(success("b"), failure(6));
        assert_eq!(reasons(&of(success("b"), failure(5)), &again), [("BackupFailed".to_owned(), true)], "each time");
        assert_eq!(reasons(&again, &again), []);
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(shortened(&"ä".repeat(700)).len(), 1024);
        assert_eq!(shortened("short"), "short");
    }
}
