//! Keeps the labels at a replica of the operator that waits for the Lease: from the pods alone, without their KvClusters.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, future, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};

use super::LeadLabels;
use crate::build::{self, Component, INSTANCE, names};
use crate::context::Indexed;
use crate::reconcile::certificates::CA_KEY;
use crate::reconcile::leader_client::LeaderClients;

/// How often it looks for clusters that are gone. A watch that begins anew does not report what went meanwhile.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// What a replica that waits knows.
pub struct Waiting {
    /// The leader pods.
    pub pods: Indexed<Pod>,
    /// The CAs of clusters with TLS, as the replica that reconciles has written them for clients.
    pub authorities: Store<ConfigMap>,
    /// The ways to the leaders.
    pub leaders: Arc<LeaderClients>,
    /// The tasks.
    pub labels: LeadLabels,
    /// For the labels.
    pub client: Client,
}

impl Waiting {
    /// Keeps the labels while these watches report changes of the leader pods and of the CAs.
    pub async fn run<E>(
        &self,
        pods: impl Stream<Item = Result<Pod, E>>,
        authorities: impl Stream<Item = Result<ConfigMap, E>>,
    ) {
        let of_pods = pods.filter_map(|pod| future::ready(pod.ok())).map(|pod| {
            self.pods.notice(&pod);
            cluster_of(&pod)
        });
        let of_authorities = authorities.filter_map(|authority| future::ready(authority.ok().as_ref().map(cluster_of)));
        let mut changed = std::pin::pin!(stream::select(of_pods, of_authorities));
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                changed = changed.next() => match changed {
                    Some(Some((namespace, cluster))) => self.look(&namespace, &cluster),
                    Some(None) => {}
                    None => return,
                },
                _ = sweep.tick() => for (namespace, cluster) in self.labels.clusters() {
                    self.look(&namespace, &cluster);
                },
            }
        }
    }

    /// Keeps the label of a cluster while one of its leader pods may be a standby.
    pub fn look(&self, namespace: &str, cluster: &str) {
        let pods = self.pods.of(namespace, cluster, Component::Leader);
        if !pods.iter().any(|pod| build::may_stand_by(pod)) {
            self.labels.stop(namespace, cluster);
            self.leaders.forget(namespace, cluster);
            self.pods.forget(namespace, cluster);
            return;
        }
        // Those of a cluster all do, or none: it cannot be changed.
        if pods.iter().any(|pod| build::speaks_tls(pod)) {
            let authority = ObjectRef::new(&names::authority(cluster)).within(namespace);
            let authority = self.authorities.get(&authority).and_then(|map| map.data.as_ref()?.get(CA_KEY).cloned());
            if let Err(error) = self.leaders.trust(namespace, cluster, authority.as_deref()) {
                tracing::warn!(%error, namespace, cluster, "failed to use the CA of the nodes");
            }
        } else {
            self.leaders.forget(namespace, cluster);
        }
        self.labels.start(namespace, cluster, &self.pods, &self.client, &self.leaders);
    }
}

/// The namespace and the name of the cluster that an object belongs to.
fn cluster_of<K: ResourceExt>(object: &K) -> Option<(String, String)> {
    Some((object.namespace()?, object.labels().get(INSTANCE)?.clone()))
}
