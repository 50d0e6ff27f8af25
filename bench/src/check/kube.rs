//! A KvCluster as a cluster that can be broken: pods are deleted, and their owner recreates them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    faults::{Fault, Node, Place},
    history::FinalDump,
    plan::Shape,
    target::{self, Breakable, Endpoint, Endpoints, Healing},
};
use crate::{
    client::{Credentials, NodeClient, until_answered},
    cluster::{
        Way,
        control::{Access, Asked, KvClusterResource, PodState, Pods, Size},
    },
};

const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How long to wait for a change of the spec while other faults may delay it.
const IN_FORCE_WAIT: Duration = Duration::from_secs(15);
/// How long a leader that is just being replaced may take to accept a deletion, and to have a pod at all.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// A KvCluster.
#[derive(Debug)]
pub struct KubeTarget {
    resource: KvClusterResource,
    pods: Pods,
    way: Way,
    /// Without idle connections: each request goes to the present pod.
    http: reqwest::Client,
    credentials: Credentials,
    endpoints: watch::Sender<Endpoints>,
    /// What its spec says outside of faults.
    asked: Asked,
    /// Whether a fault changed the spec.
    resized: bool,
    /// Pods that have to be gone before all is well.
    doomed: BTreeSet<String>,
    /// The pod behind each follower and how often it was restarted, as of the last time that all was well.
    lives: Vec<(String, i32)>,
    /// How many lives of followers were counted.
    lives_seen: u32,
    heal_timeout: Duration,
}

impl KubeTarget {
    /// Waits until the KvCluster is ready and answers.
    ///
    /// # Errors
    /// When there is none, it does not get ready or cannot be reached, or its pods may not be listed.
    pub async fn reach(
        access: &Access,
        resource: KvClusterResource,
        credentials: Credentials,
        heal_timeout: Duration,
    ) -> Result<Self> {
        resource.ready().await?;
        let asked = resource.asked().await?;
        // Clients count what did not reach its pod.
        let way = Way::open(access, &resource, asked.size.replicas, |_| {}).await?;
        let endpoint = |name: String, url: &String| Endpoint {
            name: name.into(),
            url: url.clone(),
            redis: String::new(),
            incarnation: None,
        };
        let leaders = vec![Endpoint { redis: way.redis.clone(), ..endpoint(resource.name.clone(), &way.leader) }];
        let followers = way.followers.iter().enumerate();
        let followers = followers.map(|(index, url)| endpoint(pod_name(&resource.name, Node::Follower(index)), url));
        let endpoints = watch::Sender::new(Endpoints { leaders, followers: followers.collect() });
        let mut target = Self {
            pods: Pods::new(access.client.clone(), &resource),
            resource,
            way,
            http: credentials.http(0)?,
            credentials,
            endpoints,
            asked,
            resized: false,
            doomed: BTreeSet::new(),
            lives: Vec::new(),
            lives_seen: 0,
            heal_timeout,
        };
        target.heal().await?;
        Ok(target)
    }

    /// What the spec says outside of faults.
    pub fn asked(&self) -> Asked {
        self.asked
    }

    /// What may be done to it.
    pub fn shape(&self) -> Shape {
        let Asked { size: Size { replicas, write_quorum }, durable, .. } = self.asked;
        Shape::new(Place::Pod, replicas, write_quorum, durable)
    }

    fn leader(&self) -> NodeClient {
        NodeClient::new(self.http.clone(), &self.way.leader, None)
    }

    /// The pods at which a fault is aimed; of leaders those that are there to stay.
    async fn aimed_at(&self, fault: Fault) -> Result<Vec<PodState>> {
        let began = Instant::now();
        loop {
            let pods: Vec<PodState> = self
                .pods
                .list()
                .await?
                .into_iter()
                .filter(|pod| is_aimed_at(&self.resource.name, fault, pod))
                .collect();
            if !pods.is_empty() {
                return Ok(pods);
            }
            if began.elapsed() > WRITE_TIMEOUT {
                bail!("failed to find a pod for: {}", self.words(fault));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// From here on it is unknown which life of these followers answers.
    fn lives_end(&self, pods: &[PodState]) {
        self.endpoints.send_modify(|endpoints| {
            let ends = |follower: &&mut Endpoint| pods.iter().any(|pod| *pod.name == *follower.name);
            endpoints.followers.iter_mut().filter(ends).for_each(|follower| follower.incarnation = None);
        });
    }

    async fn delete(&mut self, fault: Fault, at_once: bool) -> Result<()> {
        let pods = self.aimed_at(fault).await?;
        self.lives_end(&pods);
        self.doomed.extend(pods.iter().map(|pod| pod.uid.clone()));
        let deleted = pods.iter().map(|pod| self.pods.delete(&pod.name, at_once));
        futures::future::try_join_all(deleted).await.map(drop)
    }

    /// Asks for another size, and waits until it is in force, or until that has to wait for the end of other faults.
    async fn resize(&mut self, size: Size) -> Result<()> {
        self.resized = true;
        self.resource.resize(size).await?;
        let began = Instant::now();
        while self.resource.missing_size(size).await?.is_some() && began.elapsed() < IN_FORCE_WAIT {
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// What is not as it should be; nothing when all is well. Writes accepted within `elapsed` may be on their way.
    async fn missing(&self, elapsed: Duration, pods: &[PodState]) -> Result<Option<String>> {
        let size = self.asked.size;
        if let Some(missing) = missing_pods(&self.resource.name, size, &self.doomed, pods) {
            return Ok(Some(missing));
        }
        if let Some(missing) = self.resource.missing_anything(size).await? {
            return Ok(Some(missing));
        }
        let (status, config) = (self.leader().status().await?, self.leader().config().await?);
        if (config.in_force.write_quorum, config.pending.is_some()) != (size.write_quorum, false) {
            return Ok(Some(format!("write quorum {} is in force", config.in_force.write_quorum)));
        }
        Ok(target::missing(&status, usize::from(size.replicas), elapsed))
    }

    /// All is well: what followers show from here on is of these lives.
    fn lives_begin(&mut self, pods: &[PodState]) -> Result<()> {
        let followers = pods.iter().filter(|pod| !pod.leads);
        let lives: Vec<(String, i32)> = followers.map(|pod| (pod.uid.clone(), pod.restarts)).collect();
        // Without a volume, a pod that is deleted by force may go on answering beside the next one of its name. With a volume
        // only one of them can lock the directory.
        if !self.asked.durable {
            return Ok(());
        }
        let mut restarted = None;
        self.endpoints.send_modify(|endpoints| {
            for (index, follower) in endpoints.followers.iter_mut().enumerate() {
                if follower.incarnation.is_none() {
                    self.lives_seen += 1;
                    follower.incarnation = Some(self.lives_seen);
                } else if self.lives.get(index) != lives.get(index) {
                    restarted = Some(follower.name.clone());
                }
            }
        });
        self.lives = lives;
        restarted.map_or(Ok(()), |name| bail!("pod {name} was restarted, and not by this check"))
    }
}

impl Breakable for KubeTarget {
    fn description(&self) -> String {
        format!("{}, followers {}", self.way.description, if self.asked.durable { "on disk" } else { "in memory" })
    }

    fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    fn endpoints(&self) -> watch::Receiver<Endpoints> {
        self.endpoints.subscribe()
    }

    fn words(&self, fault: Fault) -> String {
        let pod = |node| match node {
            Node::Leader => "pod of the leader".to_owned(),
            Node::Follower(_) => format!("pod {}", pod_name(&self.resource.name, node)),
        };
        match fault {
            Fault::Delete(node) => format!("{} deleted", pod(node)),
            Fault::ForceDelete(node) => format!("{} deleted by force", pod(node)),
            Fault::All => "all pods deleted by force".to_owned(),
            Fault::TwoLeaders { .. } => "leader's Deployment restarted".to_owned(),
            fault => fault.to_string(),
        }
    }

    async fn strike(&mut self, fault: Fault) -> Result<()> {
        let size = self.asked.size;
        match fault {
            Fault::Delete(_) => self.delete(fault, false).await,
            Fault::ForceDelete(_) | Fault::All => self.delete(fault, true).await,
            Fault::TwoLeaders { .. } => {
                let replaced = self.aimed_at(fault).await?;
                self.doomed.extend(replaced.into_iter().map(|pod| pod.uid));
                self.pods.restart_leader().await
            }
            Fault::Quorum(write_quorum) => self.resize(Size { write_quorum, ..size }).await,
            Fault::Scale(replicas) => {
                if replicas < size.replicas {
                    self.lives_end(&self.aimed_at(fault).await?);
                }
                self.resize(Size { replicas, ..size }).await
            }
            Fault::Kill(_) | Fault::Pause(_) | Fault::Wipe(_) | Fault::Partition { .. } | Fault::Rival => {
                bail!("pods are no processes: {fault}")
            }
        }
    }

    async fn mend(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Quorum(_) | Fault::Scale(_) => self.resource.resize(self.asked.size).await,
            // The owner of the pods recreates them.
            _ => Ok(()),
        }
    }

    async fn heal(&mut self) -> Result<()> {
        let healing = Healing::begin(self.heal_timeout, POLL_INTERVAL);
        loop {
            let pods = self.pods.list().await?;
            let missing = self.missing(healing.elapsed(), &pods).await;
            if healing.is_over(missing).await? {
                self.doomed.clear();
                self.resized = false;
                return self.lives_begin(&pods);
            }
        }
    }

    async fn dumps(&mut self) -> Result<Vec<FinalDump>> {
        let endpoints = self.endpoints.borrow().clone();
        // A leader's pod may still be replaced when all is well already: by a restart of its Deployment that was asked for
        // before the pod was made.
        target::dump_all(&endpoints, &self.http, self.heal_timeout).await
    }

    async fn restore(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.resized) {
            return Ok(());
        }
        let Size { replicas, write_quorum } = self.asked.size;
        self.resource.resize(self.asked.size).await.with_context(|| {
            format!("failed to restore {replicas} replicas and write quorum {write_quorum} of {}", self.resource)
        })
    }

    async fn forget(&mut self, keys: &[String]) -> Result<()> {
        let leader = self.leader();
        for key in keys {
            let deleted = until_answered(self.heal_timeout, |_| true, || leader.delete(key, WRITE_TIMEOUT)).await;
            deleted.with_context(|| format!("failed to delete {key}, the check's own key"))?;
        }
        Ok(())
    }
}

fn pod_name(cluster: &str, node: Node) -> String {
    match node {
        Node::Leader => format!("{cluster}-leader"),
        Node::Follower(index) => format!("{cluster}-follower-{index}"),
    }
}

fn is_aimed_at(cluster: &str, fault: Fault, pod: &PodState) -> bool {
    match (fault, fault.node()) {
        (Fault::All, _) => true,
        (Fault::Scale(replicas), _) => pod.name == pod_name(cluster, Node::Follower(usize::from(replicas))),
        (_, Some(Node::Leader)) => pod.leads && !pod.leaving,
        (_, Some(node)) => pod.name == pod_name(cluster, node),
        (_, None) => false,
    }
}

/// Which pods are not there yet, or still there.
fn missing_pods(cluster: &str, size: Size, doomed: &BTreeSet<String>, pods: &[PodState]) -> Option<String> {
    if let Some(pod) = pods.iter().find(|pod| pod.leaving || doomed.contains(&pod.uid)) {
        return Some(format!("pod {} is still there", pod.name));
    }
    let names: BTreeMap<&str, &PodState> = pods.iter().map(|pod| (pod.name.as_str(), pod)).collect();
    let mut followers = (0..usize::from(size.replicas)).map(|index| pod_name(cluster, Node::Follower(index)));
    if let Some(name) = followers.find(|name| !names.contains_key(name.as_str())) {
        return Some(format!("pod {name} is not there"));
    }
    let leaders = pods.iter().filter(|pod| pod.leads).count();
    let followers = pods.len() - leaders;
    if (leaders, followers) != (1, usize::from(size.replicas)) {
        return Some(format!("there are {leaders} leaders' pods and {followers} followers'"));
    }
    // A pod that was deleted by force may still run and answer under its name. Until it ends, its successor cannot open the
    // data directory, and the container of the successor restarts. No such restart follows once the successor is ready.
    pods.iter().find(|pod| !pod.ready).map(|pod| format!("pod {} is not ready", pod.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> PodState {
        let (leads, uid) = (name.contains("leader"), format!("uid of {name}"));
        PodState { name: name.to_owned(), uid, leads, restarts: 0, ready: true, leaving: false }
    }

    fn whole() -> Vec<PodState> {
        ["demo-leader-85bb-nn74p", "demo-follower-0", "demo-follower-1", "demo-follower-2"].map(pod).to_vec()
    }

    #[test]
    fn a_fault_is_aimed_at_its_pods_alone() {
        let leaving = PodState { leaving: true, ..pod("demo-leader-85bb-old") };
        let pods: Vec<PodState> = whole().into_iter().chain([leaving]).collect();
        let aimed_at = |fault| -> Vec<&str> {
            pods.iter().filter(|pod| is_aimed_at("demo", fault, pod)).map(|pod| pod.name.as_str()).collect()
        };
        assert_eq!(aimed_at(Fault::Delete(Node::Leader)), ["demo-leader-85bb-nn74p"], "the other one goes already");
        assert_eq!(aimed_at(Fault::TwoLeaders { paused: false }), ["demo-leader-85bb-nn74p"]);
        assert_eq!(aimed_at(Fault::ForceDelete(Node::Follower(1))), ["demo-follower-1"]);
        assert_eq!(aimed_at(Fault::Scale(2)), ["demo-follower-2"], "the one that leaves");
        assert_eq!(aimed_at(Fault::All).len(), 5);
        assert!(aimed_at(Fault::Quorum(1)).is_empty());
    }

    // Goal: nothing counts as whole before what was taken away is gone and replaced. Method: for each way to lack
    // something the pods that the API server would list.
    #[test]
    fn pods_are_missing_until_each_was_replaced() {
        let size = Size { replicas: 3, write_quorum: 2 };
        let missing = |doomed: &[&str], pods: &[PodState]| {
            missing_pods("demo", size, &doomed.iter().map(|uid| (*uid).to_owned()).collect(), pods)
        };
        assert_eq!(missing(&["uid of another"], &whole()), None);
        let mut leaving = whole();
        leaving[2].leaving = true;
        let mut starting = whole();
        starting[3].ready = false;
        let mut second = whole();
        second.push(pod("demo-leader-97aa-x4x4x"));
        let mut scaled = whole();
        scaled.push(pod("demo-follower-3"));
        for (doomed, pods, expected) in [
            (&["uid of demo-follower-1"][..], whole(), "pod demo-follower-1 is still there"),
            (&[], leaving, "pod demo-follower-1 is still there"),
            (&[], whole()[..3].to_vec(), "pod demo-follower-2 is not there"),
            (&[], whole()[1..].to_vec(), "there are 0 leaders' pods and 3 followers'"),
            (&[], starting, "pod demo-follower-2 is not ready"),
            (&[], second, "there are 2 leaders' pods and 3 followers'"),
            (&[], scaled, "there are 1 leaders' pods and 4 followers'"),
        ] {
            assert_eq!(missing(doomed, &pods).as_deref(), Some(expected));
        }
    }
}
