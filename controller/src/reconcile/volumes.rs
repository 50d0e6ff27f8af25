//! Part of step 6 (client): which of the followers' volumes go when the KvCluster is deleted.
//!
//! With `storage.onDelete: Delete` the KvCluster owns the claims of its followers, so the garbage collector deletes them
//! after it. The StatefulSet never owns them: it may be deleted by hand while the cluster lives, and comes back with
//! the same volumes.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use kvcluster_api::resource::VolumePolicy;
use serde_json::json;

use super::applier::ApplyError;
use super::validate::Validated;
use crate::build::{MANAGER, names};
use crate::context::Context;

/// Adds the KvCluster to the owners of its followers' claims, or removes it, as the spec asks for.
///
/// It runs before the StatefulSet shrinks. With `storage.onScaleDown: Delete` the claims of followers that leave have
/// their pods as owners, and the garbage collector deletes a claim only after its last owner.
///
/// # Errors
/// [`ApplyError`] when the API server refuses or does not answer.
pub async fn own(cluster: &Validated, follower_pods: i32, context: &Context) -> Result<(), ApplyError> {
    for claim in context.stores.claims_of(&cluster.namespace, &cluster.name) {
        let Some(ordinal) = ordinal(cluster, &claim) else { continue };
        let owned = claim.owner_references().iter().any(|owner| owner.uid == cluster.owner.uid);
        if owned != is_to_be_owned(cluster, ordinal, follower_pods, owned) {
            patch(cluster, &claim, !owned, context).await?;
        }
    }
    Ok(())
}

/// A claim without a pod may be left from an earlier KvCluster, which wanted it to stay. It never becomes owned.
fn is_to_be_owned(cluster: &Validated, ordinal: i32, follower_pods: i32, owned: bool) -> bool {
    let storage = &cluster.storage;
    storage.on_delete == VolumePolicy::Delete
        && (ordinal < follower_pods || (owned && storage.on_scale_down == VolumePolicy::Retain))
}

/// Which follower has the claim.
pub(super) fn ordinal(cluster: &Validated, claim: &PersistentVolumeClaim) -> Option<i32> {
    claim.name_any().strip_prefix(&names::claim_prefix(&cluster.name))?.parse().ok()
}

async fn patch(
    cluster: &Validated,
    claim: &PersistentVolumeClaim,
    own: bool,
    context: &Context,
) -> Result<(), ApplyError> {
    let name = claim.name_any();
    // Not as the controller: the StatefulSet's controller leaves claims that another controller owns alone.
    let owner = OwnerReference { controller: None, block_owner_deletion: None, ..cluster.owner.clone() };
    let owners = if own { vec![owner] } else { Vec::new() };
    let body = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        // With the uid, so that the API server neither creates a claim nor changes a newer one of the same name.
        "metadata": {"name": name, "uid": claim.uid(), "ownerReferences": owners},
    });
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &cluster.namespace);
    match api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body)).await {
        Ok(_) => {
            tracing::info!(name, namespace = cluster.namespace, own, "changed the owner of a volume");
            Ok(())
        }
        // It is gone. The watch delivers a new one.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(source) => {
            let kind = "PersistentVolumeClaim".to_owned();
            Err(ApplyError::Api { action: "apply", kind, name, source: Box::new(source) })
        }
    }
}
