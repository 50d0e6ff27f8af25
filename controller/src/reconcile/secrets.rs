//! The Secrets of a cluster, read by name: the operator may not list Secrets, so no watch has them.
//!
//! Every complete reconciliation reads them. In a calm cluster the operator looks now and then whether they have changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use kvcluster_api::resource::{KvCluster, Tls};
use serde_json::json;

use super::Error;
use super::validate::Validated;
use crate::build::{MANAGER, names};
use crate::context::Context;

/// How long after they were read the Secrets of a calm cluster are looked at again.
pub const READ_EVERY: Duration = Duration::from_secs(30);
/// The annotation of a pod with the version of the Secret that its kubelet is to write.
const WRITTEN: &str = "kvcluster.io/auth-version";

/// The Secrets of a cluster.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// The token that users see.
    pub wanted: Option<Arc<Secret>>,
    /// The tokens that the nodes accept.
    pub accepted: Option<Arc<Secret>>,
    /// The tokens of clients, where the spec names a Secret.
    pub clients: Option<Arc<Secret>>,
    /// The operator's CA of the cluster, where it has one.
    pub authority: Option<Arc<Secret>>,
    /// The certificate of the nodes, where they have one.
    pub certificate: Option<Arc<Secret>>,
    /// When the certificates change by themselves.
    pub due: Option<Timestamp>,
    /// When they were read.
    pub read_at: Instant,
}

#[cfg(test)]
impl Secrets {
    /// Those of a cluster that has none yet.
    pub(super) fn none() -> Self {
        Self {
            wanted: None,
            accepted: None,
            clients: None,
            authority: None,
            certificate: None,
            due: None,
            read_at: Instant::now(),
        }
    }
}

/// Reads the Secrets.
///
/// # Errors
/// [`Error::Api`] when one cannot be read.
pub async fn read(cluster: &Validated, context: &Context) -> Result<Secrets, Error> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &cluster.namespace);
    let (wanted, accepted) = (names::secret(&cluster.name), names::accepted_tokens(&cluster.name));
    let named = |name: Option<String>| {
        let api = &api;
        async move {
            match name {
                Some(name) => api.get_opt(&name).await,
                None => Ok(None),
            }
        }
    };
    let of_clients = named(cluster.auth.as_ref().map(|auth| auth.secret_name.clone()));
    let (authority, certificate) = of_tls(cluster.tls.as_ref(), &cluster.name);
    let (authority, certificate) = (named(authority), named(certificate));
    let (wanted, accepted, clients, authority, certificate) =
        tokio::try_join!(api.get_opt(&wanted), api.get_opt(&accepted), of_clients, authority, certificate)
            .map_err(Error::api("read the Secrets"))?;
    let [wanted, accepted, clients, authority, certificate] =
        [wanted, accepted, clients, authority, certificate].map(|secret| secret.map(Arc::new));
    Ok(Secrets { wanted, accepted, clients, authority, certificate, due: None, read_at: Instant::now() })
}

/// The Secrets of a calm cluster, if they are as they were. Looks now and then: the kubelets take up to a minute to write a
/// change.
pub async fn look(resource: &KvCluster, before: Secrets, context: &Context) -> Option<Secrets> {
    if before.read_at.elapsed() < READ_EVERY {
        return Some(before);
    }
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &resource.namespace()?);
    if before.due.is_some_and(|due| due <= Timestamp::now()) {
        return None;
    }
    let (wanted, accepted) = (names::secret(&resource.name_any()), names::accepted_tokens(&resource.name_any()));
    let clients = resource.spec.auth.as_ref().map(|auth| auth.secret_name.clone());
    let (authority, certificate) = of_tls(resource.spec.tls.as_ref(), &resource.name_any());
    let all = [
        (Some(wanted), &before.wanted),
        (Some(accepted), &before.accepted),
        (clients, &before.clients),
        (authority, &before.authority),
        (certificate, &before.certificate),
    ];
    for (name, before) in all {
        let Some(name) = name else { continue };
        let now = api.get_metadata_opt(&name).await.ok()?;
        if now.and_then(|now| now.resource_version()) != before.as_ref().and_then(|before| before.resource_version()) {
            return None;
        }
    }
    Some(Secrets { read_at: Instant::now(), ..before })
}

/// The names of the Secrets with the operator's CA and with the nodes' certificate, where there are any.
fn of_tls(tls: Option<&Tls>, cluster: &str) -> (Option<String>, Option<String>) {
    match tls {
        None => (None, None),
        Some(Tls { secret_name: Some(name) }) => (None, Some(name.clone())),
        Some(Tls { secret_name: None }) => (Some(names::authority(cluster)), Some(names::certificate(cluster))),
    }
}

/// Whether the tokens of clients or the certificate are others than when they were read before.
#[must_use]
pub fn mounted_changed(before: Option<&Secrets>, now: &Secrets) -> bool {
    let version = |secret: &Option<Arc<Secret>>| secret.as_ref().and_then(|secret| secret.resource_version());
    let changed =
        |before: &Option<Arc<Secret>>, now: &Option<Arc<Secret>>| before.is_some() && version(before) != version(now);
    before
        .is_some_and(|before| changed(&before.clients, &now.clients) || changed(&before.certificate, &now.certificate))
}

/// Makes the kubelets write the newest files of tokens and certificates now. They look at the Secrets of a pod whenever the pod changes, and
/// otherwise once a minute. A failure costs that minute.
pub async fn hurry(pods: &[&Arc<Pod>], secrets: &Secrets, context: &Context) {
    let versions = [&secrets.accepted, &secrets.clients, &secrets.certificate]
        .map(|secret| secret.as_ref().and_then(|s| s.resource_version()));
    let version = versions.into_iter().flatten().collect::<Vec<_>>().join("-");
    let parameters = &PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let patch = &Patch::Merge(json!({"metadata": {"annotations": {WRITTEN: version}}}));
    let behind = pods.iter().filter(|pod| pod.annotations().get(WRITTEN) != Some(&version));
    let patches =
        behind.map(|pod| (pod.name_any(), pod.namespace().unwrap_or_default())).map(|(pod, namespace)| async move {
            let api: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
            if let Err(error) = api.patch_metadata(&pod, parameters, patch).await {
                tracing::debug!(%error, pod, namespace, "failed to annotate a pod");
            }
        });
    join_all(patches).await;
}
