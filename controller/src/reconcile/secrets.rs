//! The Secrets of a cluster, read by name: the operator may not list Secrets, so no watch has them.
//!
//! Every complete reconciliation reads them. In a calm cluster the operator looks now and then whether they have changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use kvcluster_api::resource::KvCluster;
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
    /// When they were read.
    pub read_at: Instant,
}

/// Reads the Secrets.
///
/// # Errors
/// [`Error::Api`] when one cannot be read.
pub async fn read(cluster: &Validated, context: &Context) -> Result<Secrets, Error> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &cluster.namespace);
    let (wanted, accepted) = (names::secret(&cluster.name), names::accepted_tokens(&cluster.name));
    let of_clients = async {
        match &cluster.auth {
            Some(auth) => api.get_opt(&auth.secret_name).await,
            None => Ok(None),
        }
    };
    let (wanted, accepted, clients) = tokio::try_join!(api.get_opt(&wanted), api.get_opt(&accepted), of_clients)
        .map_err(Error::api("read the tokens"))?;
    let [wanted, accepted, clients] = [wanted, accepted, clients].map(|secret| secret.map(Arc::new));
    Ok(Secrets { wanted, accepted, clients, read_at: Instant::now() })
}

/// The Secrets of a calm cluster, if they are as they were. Looks now and then: the kubelets take up to a minute to write a
/// change.
pub async fn look(resource: &KvCluster, before: Secrets, context: &Context) -> Option<Secrets> {
    if before.read_at.elapsed() < READ_EVERY {
        return Some(before);
    }
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &resource.namespace()?);
    let (wanted, accepted) = (names::secret(&resource.name_any()), names::accepted_tokens(&resource.name_any()));
    let clients = resource.spec.auth.as_ref().map(|auth| auth.secret_name.as_str());
    let all = [
        (Some(wanted.as_str()), &before.wanted),
        (Some(accepted.as_str()), &before.accepted),
        (clients, &before.clients),
    ];
    for (name, before) in all {
        let Some(name) = name else { continue };
        let now = api.get_metadata_opt(name).await.ok()?;
        if now.and_then(|now| now.resource_version()) != before.as_ref().and_then(|before| before.resource_version()) {
            return None;
        }
    }
    Some(Secrets { read_at: Instant::now(), ..before })
}

/// Whether the tokens of clients are others than when they were read before.
#[must_use]
pub fn clients_changed(before: Option<&Secrets>, now: &Secrets) -> bool {
    let version = |secrets: &Secrets| secrets.clients.as_ref().and_then(|secret| secret.resource_version());
    before.is_some_and(|before| before.clients.is_some() && version(before) != version(now))
}

/// Makes the kubelets write the newest file of tokens now. They look at the Secrets of a pod whenever the pod changes, and
/// otherwise once a minute. A failure costs that minute.
pub async fn hurry(pods: &[&Arc<Pod>], secrets: &Secrets, context: &Context) {
    let versions =
        [&secrets.accepted, &secrets.clients].map(|secret| secret.as_ref().and_then(|s| s.resource_version()));
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
