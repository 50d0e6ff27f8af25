//! Part of step 6 (client): the followers' volumes grow with `storage.size`, while the pods run on.
//!
//! First the claims ask for more, which the API server refuses where their StorageClass does not allow it. Then the
//! StatefulSet is replaced: the size in its template, which later followers get, cannot change. It is deleted without its
//! pods, and the one that takes its place adopts them.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::applier::ApplyError;
use super::validate::Validated;
use super::volumes;
use crate::build::{MANAGER, names};
use crate::context::{Context, cached};

const STORAGE: &str = "storage";
/// The API server's answers to a claim that may not grow: of admission, and of validation.
const REFUSALS: [u16; 2] = [403, 422];

/// What happens to the StatefulSet.
pub enum Fit {
    /// It can be applied.
    Applies(Box<StatefulSet>),
    /// It is being deleted without its pods, and stays as it is until then.
    Goes(Arc<StatefulSet>),
}

/// Asks for the size of the spec, claim by claim, up to the first that is refused. Returns why.
///
/// # Errors
/// [`ApplyError`] when the API server does not answer.
pub async fn grow(cluster: &Validated, follower_pods: i32, context: &Context) -> Result<Option<String>, ApplyError> {
    let size = &cluster.storage.size;
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &cluster.namespace);
    for claim in context.stores.claims_of(&cluster.namespace, &cluster.name) {
        let in_use = volumes::ordinal(cluster, &claim).is_some_and(|ordinal| ordinal < follower_pods);
        // One that is not bound yet cannot change.
        if !in_use || !is_bound(&claim) || !is_less(requested(&claim), size) {
            continue;
        }
        let name = claim.name_any();
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let body = json!({"metadata": {"uid": claim.uid()}, "spec": {"resources": {"requests": {STORAGE: size}}}});
        match api.patch(&name, &parameters, &Patch::Merge(&body)).await {
            Ok(_) => tracing::info!(name, namespace = cluster.namespace, size, "a volume grows"),
            // It is gone. The watch delivers a new one.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            Err(kube::Error::Api(status)) if REFUSALS.contains(&status.code) => {
                let has = requested(&claim).unwrap_or_default();
                return Ok(Some(format!("{name} cannot grow from {has} to {size}: {}", status.message)));
            }
            Err(source) => {
                let kind = "PersistentVolumeClaim".to_owned();
                return Err(ApplyError::Api { action: "patch", kind, name, source: Box::new(source) });
            }
        }
    }
    Ok(None)
}

/// Makes the desired StatefulSet one that the API server accepts in place of the existing one. Where the size in its template
/// is to grow and `may_go` is true, the existing one is deleted without its pods.
///
/// It stays while the cluster is hibernated or changes its size: what it says of its pods is then needed.
///
/// # Errors
/// [`ApplyError`] when the API server refuses or does not answer.
pub async fn fit(
    mut desired: StatefulSet,
    may_go: bool,
    cluster: &Validated,
    context: &Context,
) -> Result<Fit, ApplyError> {
    let name = names::followers(&cluster.name);
    let live = cached(&context.stores.stateful_sets, &cluster.namespace, &name);
    let Some(live) = live.filter(|live| is_less(size_of(live).map(String::as_str), &cluster.storage.size)) else {
        return Ok(Fit::Applies(Box::new(desired)));
    };
    if live.metadata.deletion_timestamp.is_some() {
        return Ok(Fit::Goes(live));
    }
    let ours = live.owner_references().iter().any(|owner| owner.uid == cluster.owner.uid);
    if !may_go || !ours || cluster.hibernated || replicas(&live) != replicas(&desired) {
        if let (Some(to), Some(from)) = (size_mut(&mut desired), size_of(&live)) {
            to.clone_from(from);
        }
        return Ok(Fit::Applies(Box::new(desired)));
    }
    let api: Api<StatefulSet> = Api::namespaced(context.client.clone(), &cluster.namespace);
    let parameters = DeleteParams {
        preconditions: Some(Preconditions { uid: live.uid(), resource_version: None }),
        propagation_policy: Some(PropagationPolicy::Orphan),
        ..DeleteParams::default()
    };
    match api.delete(&name, &parameters).await {
        Ok(_) => {
            tracing::info!(name, namespace = cluster.namespace, "replaces a StatefulSet whose volumes grow");
            Ok(Fit::Goes(live))
        }
        // It is gone, or another one is there. The watch delivers that.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(Fit::Goes(live)),
        Err(source) => {
            Err(ApplyError::Api { action: "delete", kind: "StatefulSet".to_owned(), name, source: Box::new(source) })
        }
    }
}

/// Which volumes of followers do not have the size of the spec yet.
#[must_use]
pub fn growing(cluster: &Validated, claims: &[Arc<PersistentVolumeClaim>]) -> Vec<String> {
    let size = &cluster.storage.size;
    let followers = i32::from(cluster.live.followers);
    let in_use =
        |claim: &&Arc<PersistentVolumeClaim>| volumes::ordinal(cluster, claim).is_some_and(|own| own < followers);
    let describe = |claim: &Arc<PersistentVolumeClaim>| {
        let capacity = claim.status.as_ref()?.capacity.as_ref()?.get(STORAGE)?;
        let less = is_bound(claim) && is_less(Some(&capacity.0), size);
        less.then(|| format!("{} has {} of {size}", claim.name_any(), capacity.0))
    };
    claims.iter().filter(in_use).filter_map(describe).collect()
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

fn requested(claim: &PersistentVolumeClaim) -> Option<&str> {
    Some(&claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get(STORAGE)?.0)
}

fn replicas(set: &StatefulSet) -> Option<i32> {
    set.spec.as_ref()?.replicas
}

/// The size in the template of claims. None without one.
fn size_of(set: &StatefulSet) -> Option<&String> {
    let claim = set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?;
    Some(&claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get(STORAGE)?.0)
}

fn size_mut(set: &mut StatefulSet) -> Option<&mut String> {
    let claim = set.spec.as_mut()?.volume_claim_templates.as_mut()?.first_mut()?;
    let Quantity(size) = claim.spec.as_mut()?.resources.as_mut()?.requests.as_mut()?.get_mut(STORAGE)?;
    Some(size)
}

/// Whether one size is known to be below another.
fn is_less(size: Option<&str>, other: &str) -> bool {
    size.and_then(bytes).zip(bytes(other)).is_some_and(|(size, other)| size < other)
}

/// The bytes of a quantity such as `1Gi`, `1.5G` or `2e9`. Exact up to 8Pi.
fn bytes(quantity: &str) -> Option<f64> {
    let end = quantity.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(end);
    let number: f64 = number.parse().ok()?;
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|known| *known == suffix);
    let decimal = ["", "k", "M", "G", "T", "P", "E"].iter().position(|known| *known == suffix);
    let factor = match (binary, decimal, suffix) {
        (Some(power), ..) => 1024_f64.powi(i32::try_from(power).ok()? + 1),
        (_, Some(power), _) => 1000_f64.powi(i32::try_from(power).ok()?),
        (_, _, "m") => 1e-3,
        (_, _, "u") => 1e-6,
        (_, _, "n") => 1e-9,
        _ => 10_f64.powi(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures::validated;

    #[test]
    fn sizes_compare_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("64Mi", 67_108_864.0),
            ("1Gi", 1_073_741_824.0),
            ("1.5G", 1.5e9),
            ("2e9", 2e9),
            ("3E", 3e18),
            ("3E3", 3000.0),
            ("67108865", 67_108_865.0),
            ("7000m", 7.0),
            ("512k", 512_000.0),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        assert_eq!(bytes("much"), None);
        assert!(is_less(Some("1G"), "1Gi") && is_less(Some("1023Mi"), "1Gi"));
        assert!(!is_less(Some("1024Mi"), "1Gi") && !is_less(Some("2Gi"), "1Gi") && !is_less(None, "1Gi"));
    }

    #[test]
    fn a_volume_grows_until_it_has_the_size_and_only_where_a_follower_uses_it() {
        let cluster = validated("{replicas: 3, writeQuorum: 2, storage: {size: 128Mi}}");
        let claim = |ordinal: i32, phase: &str, status: Value| -> Arc<PersistentVolumeClaim> {
            let name = format!("data-demo-follower-{ordinal}");
            let claim = json!({"metadata": {"name": name}, "spec": {"resources": {"requests": {"storage": "128Mi"}}},
                "status": {"phase": phase, "capacity": status}});
            Arc::new(serde_json::from_value(claim).expect("a claim"))
        };
        let claims = [
            claim(0, "Bound", json!({"storage": "64Mi"})),
            claim(1, "Bound", json!({"storage": "256Mi"})),
            claim(2, "Pending", json!({})),
            claim(3, "Bound", json!({"storage": "65Mi"})),
        ];
        assert_eq!(growing(&cluster, &claims), ["data-demo-follower-0 has 64Mi of 128Mi"]);
    }
}
