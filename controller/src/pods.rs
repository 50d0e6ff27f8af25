//! What a pod's status reports, as text for a condition.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kvcluster_api::resource::NODE_CONTAINER;

use crate::build::{ADMIN, LEADS};

/// The address of a running pod.
#[must_use]
pub fn running_address(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let runs = status.phase.as_deref() == Some("Running");
    status.pod_ip.as_deref().filter(|ip| runs && !ip.is_empty())
}

/// The port for administration of a node that has one of its own.
#[must_use]
pub fn admin_port(pod: &Pod) -> Option<u16> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.filter(|one| one.name == NODE_CONTAINER).flat_map(|one| one.ports.iter().flatten());
    let port = ports.find(|port| port.name.as_deref() == Some(ADMIN))?;
    u16::try_from(port.container_port).ok()
}

/// Whether the pod's files may have been written already: its containers run, or may start with them.
#[must_use]
pub fn may_have_files(pod: &Pod) -> bool {
    let ended = matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Failed" | "Succeeded"));
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) && !ended
}

/// Whether Services send clients to the pod.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|(status, _)| status == "True") && pod.metadata.deletion_timestamp.is_none()
}

/// Whether the pod cannot run with its template: no machine suits it, its image or a part of its settings is missing, or it
/// ends again and again. A pod on a lost machine is none of these.
#[must_use]
pub fn cannot_run(pod: &Pod) -> bool {
    const WAITS: [&str; 8] = [
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    ];
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut waits = containers.filter_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    condition(pod, "PodScheduled").is_some_and(|(status, _)| status == "False") || waits.any(|r| WAITS.contains(&r))
}

/// Whether the pod has the label of the one that leads.
#[must_use]
pub fn is_labelled_as_leader(pod: &Pod) -> bool {
    pod.labels().get(LEADS).is_some_and(|value| value == "true")
}

/// Why a pod does not run, as `NAME: REASON`. None when no problem is known.
#[must_use]
pub fn problem(pod: &Pod) -> Option<String> {
    let name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(format!("{name}: is being deleted"));
    }
    let status = pod.status.as_ref()?;
    if let Some(("False", message)) = condition(pod, "PodScheduled") {
        return Some(format!("{name}: cannot be scheduled: {message}"));
    }
    for container in status.container_statuses.iter().flatten() {
        let Some(state) = &container.state else { continue };
        if let Some(waiting) = &state.waiting {
            let reason = waiting.reason.as_deref().unwrap_or("waits");
            // The message of a crash loop counts seconds, and would change the status each time.
            let message = waiting.message.as_deref().filter(|_| reason != "CrashLoopBackOff").unwrap_or_default();
            return Some(format!("{name}: {reason} {message}").trim_end().to_owned());
        }
        if let Some(ended) = &state.terminated {
            return Some(format!("{name}: ended with code {}", ended.exit_code));
        }
    }
    match status.phase.as_deref() {
        Some("Running") | None => None,
        Some(phase) => {
            Some(format!("{name}: {phase}{}", status.reason.as_deref().map_or(String::new(), |r| format!(" ({r})"))))
        }
    }
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<(&'a str, &'a str)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((found.status.as_str(), found.message.as_deref().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "demo-follower-2"}, "status": status})).expect("a pod")
    }

    #[test]
    fn a_problem_names_the_pod_and_the_reason() {
        let pull = pod(
            json!({"phase": "Pending", "containerStatuses": [{"name": "kv-node", "image": "x", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": "ErrImageNeverPull", "message": "image is not present"}}}]}),
        );
        assert_eq!(problem(&pull).as_deref(), Some("demo-follower-2: ErrImageNeverPull image is not present"));
        let unscheduled = pod(json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]}));
        assert_eq!(
            problem(&unscheduled).as_deref(),
            Some("demo-follower-2: cannot be scheduled: 0/3 nodes are available")
        );
        assert_eq!(problem(&pod(json!({"phase": "Running"}))), None);
        assert!(cannot_run(&pull) && cannot_run(&unscheduled) && !cannot_run(&pod(json!({"phase": "Running"}))));
        let starts = json!({"phase": "Pending", "containerStatuses": [{"name": "kv-node", "image": "x", "imageID": "",
            "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}]});
        assert!(!cannot_run(&pod(starts)));
    }

    #[test]
    fn a_crash_loop_reads_the_same_each_time() {
        let crash = |back_off: &str| {
            problem(&pod(
                json!({"phase": "Running", "containerStatuses": [{"name": "kv-node", "image": "x", "imageID": "", "ready": false,
                "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": back_off}}}]}),
            ))
        };
        assert_eq!(crash("back-off 10s").as_deref(), Some("demo-follower-2: CrashLoopBackOff"));
        assert_eq!(crash("back-off 10s"), crash("back-off 20s"));
    }

    #[test]
    fn only_a_running_pod_with_an_address_is_asked() {
        assert_eq!(running_address(&pod(json!({"phase": "Running", "podIP": "10.1.2.3"}))), Some("10.1.2.3"));
        assert_eq!(running_address(&pod(json!({"phase": "Pending", "podIP": "10.1.2.3"}))), None);
        assert_eq!(running_address(&pod(json!({"phase": "Running"}))), None);
    }
}
