//! One KvCluster, and what is done to it: by its resource, or at its leader with the token of its Secret.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::{Pod, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, ObjectMeta, PostParams},
};
use kvcluster_api::resource::{KvCluster, KvClusterStatus};
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    client::NodeClient,
    cluster::{
        Way,
        control::{Access, KvClusterResource, Size},
    },
};

const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// One KvCluster.
#[derive(Debug)]
pub(super) struct Target {
    access: Access,
    resource: KvClusterResource,
    patience: Duration,
}

/// Its leader.
pub(super) struct Leader {
    pub client: NodeClient,
    /// The forwarded connections.
    _way: Way,
}

impl Target {
    /// The KvCluster of this name. Whether there is one shows in the first request.
    ///
    /// # Errors
    /// When no Kubernetes cluster is known.
    pub(super) async fn open(
        name: &str,
        namespace: Option<&str>,
        context: Option<&str>,
        patience: Duration,
    ) -> Result<Self> {
        let access = Access::of_context(context).await?;
        let resource = KvClusterResource::new(access.client.clone(), name, namespace);
        Ok(Self { access, resource, patience })
    }

    pub(super) async fn get(&self) -> Result<KvCluster> {
        self.resource.get().await
    }

    /// The pods in the cluster's namespace.
    pub(super) fn pods_api(&self) -> Api<Pod> {
        Api::namespaced(self.access.client.clone(), &self.resource.namespace)
    }

    /// The pods of its nodes: the leader's first.
    pub(super) async fn pods(&self) -> Result<Vec<Pod>> {
        let labels = format!(
            "app.kubernetes.io/name=kvcluster,app.kubernetes.io/instance={},app.kubernetes.io/component in (leader,follower)",
            self.resource.name
        );
        let listed = self.pods_api().list(&ListParams::default().labels(&labels)).await;
        let mut pods = listed.with_context(|| format!("failed to list the pods of {}", self.resource))?.items;
        let is_follower =
            |pod: &Pod| pod.labels().get("app.kubernetes.io/component").is_some_and(|it| it == "follower");
        pods.sort_by_key(|pod| (is_follower(pod), pod.name_any().len(), pod.name_any()));
        Ok(pods)
    }

    /// The leader, with the token that administrators need.
    pub(super) async fn leader(&self) -> Result<Leader> {
        let name = format!("{}-auth", self.resource.name);
        let secrets: Api<Secret> = Api::namespaced(self.access.client.clone(), &self.resource.namespace);
        let secret = secrets.get(&name).await.with_context(|| format!("failed to read the token in Secret {name}"))?;
        let token = secret.data.unwrap_or_default().remove("token").map(|token| token.0).unwrap_or_default();
        let token = String::from_utf8(token).with_context(|| format!("the token in Secret {name} is not text"))?;
        self.resource.leader().await?;
        let failed = |error| eprintln!("a forwarded connection ended: {error:#}");
        let way = Way::open(&self.access, &self.resource, 0, failed).await?;
        // Of several tokens the first is the one in use.
        let token = token.lines().map(str::trim).find(|line| !line.is_empty());
        Ok(Leader { client: NodeClient::new(NodeClient::http(1)?, &way.administration, token), _way: way })
    }

    /// Asks for this quorum, and waits until it is in force.
    pub(super) async fn set_quorum(&self, write_quorum: u16) -> Result<String> {
        let size = Size { write_quorum, ..self.resource.asked().await?.size };
        self.resource.resize(size).await?;
        let began = Instant::now();
        while let Some(missing) = self.resource.missing_size(size).await? {
            if began.elapsed() > self.patience {
                bail!("writeQuorum {write_quorum} is asked for and not in force: {missing}");
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(format!("write quorum {write_quorum} of {} followers is in force\n", size.replicas))
    }

    /// Changes the spec, and waits until a condition of that spec has this status.
    pub(super) async fn set(&self, spec: Value, type_: &str, wanted: &str) -> Result<String> {
        let generation = self.resource.patch(spec).await?.metadata.generation;
        self.until(|cluster| {
            let status = cluster.status.clone().unwrap_or_default();
            let found = status.conditions.iter().find(|condition| condition.type_ == type_);
            let current = found.filter(|found| found.observed_generation >= generation);
            match current {
                Some(found) if found.status == wanted => Ok(format!("{}: {}\n", self.resource, found.message)),
                Some(found) => Err(format!("{type_} is {}: {}", found.status, found.message)),
                None => Err("the operator has not reported on this spec yet".to_owned()),
            }
        })
        .await
    }

    /// Makes a backup as the schedule does, and waits until its Job has ended.
    pub(super) async fn backup_now(&self) -> Result<String> {
        let (client, namespace) = (&self.access.client, &self.resource.namespace);
        let name = format!("{}-backup", self.resource.name);
        let cron_jobs: Api<CronJob> = Api::namespaced(client.clone(), namespace);
        let schedule = cron_jobs.get_opt(&name).await.with_context(|| format!("failed to read CronJob {name}"))?;
        let schedule = schedule.with_context(|| format!("{} has no spec.backup", self.resource))?;
        let template = schedule.spec.map(|spec| spec.job_template).unwrap_or_default();
        let job = Job {
            metadata: ObjectMeta {
                generate_name: Some(format!("{name}-now-")),
                annotations: Some([("cronjob.kubernetes.io/instantiate".to_owned(), "manual".to_owned())].into()),
                labels: template.metadata.and_then(|metadata| metadata.labels),
                ..ObjectMeta::default()
            },
            spec: template.spec,
            status: None,
        };
        let last =
            |cluster: &KvCluster| cluster.status.clone().unwrap_or_default().backup.and_then(|it| it.last_success);
        let before = last(&self.get().await?);
        let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
        let job = jobs.create(&PostParams::default(), &job).await.context("failed to create a Job")?.name_any();
        let began = Instant::now();
        loop {
            let conditions = jobs.get(&job).await?.status.and_then(|status| status.conditions).unwrap_or_default();
            let is = |type_: &str| conditions.iter().any(|one| one.type_ == type_ && one.status == "True");
            // The operator reports each attempt by itself.
            if is("Complete") {
                return self
                    .until(|cluster| {
                        let success = last(cluster).filter(|success| before.as_ref() != Some(success));
                        let success = success.ok_or("the operator has not reported on the backup yet")?;
                        Ok(format!("the backup {} of {} keys was verified\n", success.name, success.keys))
                    })
                    .await;
            }
            if is("Failed") || began.elapsed() > self.patience {
                let status = self.get().await?.status.unwrap_or_default().backup.unwrap_or_default();
                let reason =
                    status.last_failure.map_or_else(|| "it has not ended".to_owned(), |failure| failure.reason);
                bail!("Job {job}: {reason}");
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Has the leader hand over to a standby.
    pub(super) async fn promote(&self) -> Result<String> {
        let cluster = self.get().await?;
        if cluster.spec.leader.standbys < 1 {
            bail!("{} has no standby: set spec.leader.standbys to 1 or more first", self.resource);
        }
        let before = self.resource.leader().await?;
        self.leader().await?.client.hand_over().await?;
        self.until(|cluster| match cluster.status.clone().unwrap_or_default() {
            KvClusterStatus { leader: Some(leader), .. } if leader != before => Ok(format!("{leader} leads\n")),
            KvClusterStatus { message, .. } => Err(format!("{before} led, and no other pod leads yet: {message}")),
        })
        .await
    }

    /// Waits until `look` finds what was asked for. Its error says what is missing.
    async fn until(&self, look: impl Fn(&KvCluster) -> Result<String, String>) -> Result<String> {
        let began = Instant::now();
        loop {
            match look(&self.get().await?) {
                Ok(found) => return Ok(found),
                Err(missing) if began.elapsed() > self.patience => {
                    bail!("{} after {} s: {missing}", self.resource, self.patience.as_secs());
                }
                Err(_) => sleep(POLL_INTERVAL).await,
            }
        }
    }
}
