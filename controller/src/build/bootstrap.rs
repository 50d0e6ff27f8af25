//! The Job that restores the backup with which a new cluster starts, and the NetworkPolicy of its pods.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ObjectMeta;

use super::backup::{Run, labels_of, place, pod_of, policy_of, words};
use crate::build::{Inputs, TEMPLATE, metadata, names};
use crate::hash::fnv1a;
use crate::reconcile::validate::Validated;

/// The value of `app.kubernetes.io/component` on the pods of the restore.
pub const BOOTSTRAP: &str = "bootstrap";

pub(super) fn job(cluster: &Validated, inputs: &Inputs) -> Option<Job> {
    let source = cluster.bootstrap.as_ref().filter(|_| inputs.bootstraps)?;
    let claim = source.claim();
    let mut args = words(["--from", &place(&source.source, claim)]);
    for (flag, value) in [("--backup", &source.backup), ("--cluster", &source.cluster)] {
        args.extend(value.iter().flat_map(|value| words([flag, value])));
    }
    let secret = source.secret_name.as_deref();
    // The same pod tries again, later each time: the source may be repaired, and a restore that was interrupted goes on.
    let run =
        Run { component: BOOTSTRAP, command: "restore", args, claim, read_only: true, secret, restart: "OnFailure" };
    let template = pod_of(cluster, &run);
    let hash = fnv1a(serde_json::to_string(&template).unwrap_or_default().as_bytes());
    Some(Job {
        metadata: ObjectMeta {
            labels: Some(labels_of(cluster, BOOTSTRAP)),
            annotations: Some(BTreeMap::from([(TEMPLATE.to_owned(), hash)])),
            ..metadata(cluster, names::bootstrap(&cluster.name), None)
        },
        spec: Some(JobSpec { backoff_limit: Some(i32::MAX), template, ..JobSpec::default() }),
        status: None,
    })
}

/// Lets the pods of the restore reach the store, wherever that is.
pub(super) fn policy(cluster: &Validated, inputs: &Inputs) -> Option<NetworkPolicy> {
    let from_a_store = cluster.bootstrap.as_ref().is_some_and(|source| source.claim().is_none());
    (from_a_store && inputs.bootstraps).then(|| policy_of(cluster, names::bootstrap(&cluster.name), BOOTSTRAP))?
}
