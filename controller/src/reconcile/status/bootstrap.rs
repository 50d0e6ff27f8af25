//! The condition of a cluster that starts from a backup.

use kvcluster_api::resource::BootstrapStatus;

use super::{Finding, Seen, Verdict, finding};
use crate::reconcile::validate::Validated;

/// The reason of an attempt that failed.
pub(super) const FAILED: &str = "RestoreFailed";

/// The reason of nodes that cannot wait for a restore.
pub(super) const IMAGE_TOO_OLD: &str = "ImageTooOld";

/// Whether the backup of the spec is restored. None where the spec has none.
pub(super) fn bootstrapped(cluster: &Validated, seen: &Seen<'_>, status: Option<&BootstrapStatus>) -> Option<Finding> {
    let source = cluster.bootstrap.as_ref()?;
    let not = |reason, message: String| Some(finding("Bootstrapped", Verdict::False, reason, message));
    let status = status.cloned().unwrap_or_default();
    let from = &source.source;
    if let Some(completed) = status.completed {
        let what = match (&status.backup, status.keys) {
            (Some(name), Some(keys)) => format!("the {keys} keys of {name} from {from} are restored"),
            _ => "the volumes have the data of a restore that is complete".to_owned(),
        };
        let message = format!("{what}, as seen at {}", completed.0);
        return Some(finding("Bootstrapped", Verdict::True, "Restored", message));
    }
    if cluster.hibernated {
        return not("Hibernated", format!("the restore from {from} waits until the cluster is awake"));
    }
    let pending = seen.leader.open().map(|leader| leader.status.start_pending);
    if pending == Some(None) {
        let message = "the nodes have an image that cannot wait for a restore: set spec.image to a newer one";
        return not(IMAGE_TOO_OLD, message.to_owned());
    }
    if let Some(failure) = status.last_failure {
        let message = format!("the restore from {from} is tried again: {}: {}", failure.pod, failure.reason);
        return not(FAILED, message);
    }
    match pending {
        Some(_) => not("Restoring", format!("the cluster serves no client until the backup from {from} is restored")),
        None => not("Waiting", format!("the restore from {from} waits for an open leader")),
    }
}
