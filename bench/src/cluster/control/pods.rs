//! The pods of a KvCluster, and how they are taken away from it.

use anyhow::Result;
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::resource::{KvClusterResource, persist};

const COMPONENT: &str = "app.kubernetes.io/component";

/// A pod, and which life of its container it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodState {
    /// Its name; a follower's successor has the same.
    pub name: String,
    /// No other pod ever has it.
    pub uid: String,
    /// Whether it is the leader's. Otherwise it is a follower's.
    pub leads: bool,
    /// How often its container was started again.
    pub restarts: i32,
    /// Whether the kubelet reports it as ready.
    pub ready: bool,
    /// Whether it is on its way out.
    pub leaving: bool,
}

/// The pods of one KvCluster.
#[derive(Clone)]
pub struct Pods {
    pods: Api<Pod>,
    deployments: Api<Deployment>,
    cluster: String,
}

impl Pods {
    /// Those of this KvCluster.
    pub fn new(client: Client, resource: &KvClusterResource) -> Self {
        let KvClusterResource { name, namespace, .. } = resource;
        let deployments = Api::namespaced(client.clone(), namespace);
        Self { pods: Api::namespaced(client, namespace), deployments, cluster: name.clone() }
    }

    /// All nodes that there are, the followers by number.
    ///
    /// # Errors
    /// When they may not be listed, or the API server does not answer.
    pub async fn list(&self) -> Result<Vec<PodState>> {
        let labels = format!(
            "app.kubernetes.io/name=kvcluster,app.kubernetes.io/instance={},app.kubernetes.io/component in (leader,follower)",
            self.cluster
        );
        let parameters = ListParams::default().labels(&labels);
        let listed = persist("list the pods of", &self.cluster, || self.pods.list(&parameters)).await?;
        let mut pods: Vec<PodState> = listed.items.iter().map(PodState::new).collect();
        pods.sort_by_key(|pod| (pod.name.len(), pod.name.clone()));
        Ok(pods)
    }

    /// Deletes a pod: with no time to end, its place is free at once, while its containers may still run for a moment.
    ///
    /// # Errors
    /// When there is none of this name, or it may not be deleted.
    pub async fn delete(&self, name: &str, at_once: bool) -> Result<()> {
        let parameters = if at_once { DeleteParams::default().grace_period(0) } else { DeleteParams::default() };
        persist("delete pod", &name, || self.pods.delete(name, &parameters)).await.map(drop)
    }

    /// Has the leader's Deployment start another pod and end this one, as `kubectl rollout restart` does.
    ///
    /// # Errors
    /// When it may not be changed.
    pub async fn restart_leader(&self) -> Result<()> {
        let name = format!("{}-leader", self.cluster);
        let annotations = json!({"kubectl.kubernetes.io/restartedAt": Timestamp::now().to_string()});
        let patch = Patch::Merge(json!({"spec": {"template": {"metadata": {"annotations": annotations}}}}));
        let parameters = PatchParams::default();
        persist("restart Deployment", &name, || self.deployments.patch(&name, &parameters, &patch)).await.map(drop)
    }
}

impl PodState {
    fn new(pod: &Pod) -> Self {
        let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        Self {
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            leads: pod.labels().get(COMPONENT).is_some_and(|component| component == "leader"),
            restarts: containers.map(|container| container.restart_count).sum(),
            ready: conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            leaving: pod.metadata.deletion_timestamp.is_some(),
        }
    }
}

impl std::fmt::Debug for Pods {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pods").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}
