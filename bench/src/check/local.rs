//! Processes on this machine as a cluster that can be broken.

use std::time::Duration;

use anyhow::{Result, bail};
use kvcluster_api::status::LeaderState;
use tokio::sync::watch;

use super::{
    faults::{Fault, Node},
    history::FinalDump,
    target::{self, Breakable, Endpoint, Endpoints, Healing},
};
use crate::{
    client::{ConfigChange, Credentials, NodeClient},
    cluster::{LocalCluster, LocalClusterOptions},
};

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A leader and followers as processes.
#[derive(Debug)]
pub struct LocalTarget {
    cluster: LocalCluster,
    http: reqwest::Client,
    endpoints: watch::Sender<Endpoints>,
    /// What is in force outside of faults.
    settings: ConfigChange,
    heal_timeout: Duration,
    durable: bool,
}

impl LocalTarget {
    /// Starts the cluster and waits until it is open.
    ///
    /// # Errors
    /// As [`LocalCluster::start`].
    pub async fn start(options: LocalClusterOptions, heal_timeout: Duration) -> Result<Self> {
        let LocalClusterOptions { write_quorum, min_delay_ms, max_delay_ms, ref delay, .. } = options;
        let delay = delay.clone();
        let durable = options.data_directory.is_some();
        let cluster = LocalCluster::start(options).await?;
        let followers = cluster.follower_urls().into_iter().enumerate().map(|(index, url)| Endpoint {
            name: Node::Follower(index).to_string().into(),
            url,
            redis: String::new(),
            incarnation: Some(1),
        });
        let leader = Endpoint {
            name: Node::Leader.to_string().into(),
            url: cluster.leader_url(),
            redis: cluster.leader_redis(),
            incarnation: None,
        };
        let endpoints = watch::Sender::new(Endpoints { leaders: vec![leader], followers: followers.collect() });
        let settings = ConfigChange { write_quorum, min_delay_ms, max_delay_ms, delay };
        let http = cluster.credentials().http(4)?;
        Ok(Self { cluster, http, endpoints, settings, heal_timeout, durable })
    }

    fn leader(&self) -> NodeClient {
        NodeClient::new(self.http.clone(), &self.cluster.leader_url(), self.cluster.credentials().auth_token.as_deref())
    }

    /// Its present life ends; clients that ask from here on get no life's answer for certain.
    fn life_ends(&self, follower: usize) -> u32 {
        let mut life = 0;
        self.endpoints.send_modify(|endpoints| life = endpoints.followers[follower].incarnation.take().unwrap_or(0));
        life
    }

    fn life_begins(&self, follower: usize, life: u32) {
        self.endpoints.send_modify(|endpoints| endpoints.followers[follower].incarnation = Some(life));
    }

    async fn start_follower(&mut self, follower: usize) -> Result<()> {
        self.cluster.start_follower(follower).await?;
        // A number that was used before would pass for the same life.
        let life = u32::try_from(self.cluster.starts()).unwrap_or(u32::MAX);
        self.life_begins(follower, life);
        Ok(())
    }

    /// Asks for the quorum and does not wait: a leader that is down or closed takes its own when it opens.
    async fn ask_for_quorum(&self, write_quorum: u16) {
        let change = ConfigChange { write_quorum, ..self.settings.clone() };
        let leader = self.leader();
        let _ = tokio::time::timeout(Duration::from_millis(500), leader.change_config(change, Duration::ZERO)).await;
    }

    /// Clients ask this leader, too.
    fn add_leader(&self, (name, url): (String, String)) {
        let redis = self.cluster.redis_of(&url).unwrap_or_default();
        self.endpoints.send_modify(|endpoints| {
            endpoints.leaders.push(Endpoint { name: name.into(), url, redis, incarnation: None });
        });
    }

    /// Clients ask the leader that is left and no other.
    fn keep_one_leader(&self) {
        let url = self.cluster.leader_url();
        self.endpoints.send_modify(|endpoints| {
            endpoints.leaders.retain(|leader| leader.url == url);
            debug_assert!(!endpoints.leaders.is_empty());
        });
    }

    /// What is not as it should be; nothing when all is well. Writes accepted within `elapsed` may be on their way.
    async fn missing(&self, elapsed: Duration) -> Result<Option<String>> {
        let leader = self.leader();
        let (status, config) = (leader.status().await?, leader.config().await?);
        if status.state == LeaderState::Open && !self.settings.is_in_force(&config) {
            if config.in_force.write_quorum != self.settings.write_quorum && config.pending.is_none() {
                self.ask_for_quorum(self.settings.write_quorum).await;
            }
            return Ok(Some(format!("write quorum {} is in force", config.in_force.write_quorum)));
        }
        Ok(target::missing(&status, self.cluster.follower_urls().len(), elapsed))
    }
}

impl Breakable for LocalTarget {
    fn description(&self) -> String {
        format!("local processes, followers {}", if self.durable { "on disk" } else { "in memory" })
    }

    fn credentials(&self) -> Credentials {
        self.cluster.credentials().clone()
    }

    fn endpoints(&self) -> watch::Receiver<Endpoints> {
        self.endpoints.subscribe()
    }

    async fn strike(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Kill(Node::Leader) => self.cluster.kill_leader(),
            Fault::Kill(Node::Follower(follower)) => {
                self.life_ends(follower);
                self.cluster.kill_follower(follower)
            }
            Fault::Wipe(follower) => {
                self.life_ends(follower);
                self.cluster.kill_follower(follower)?;
                self.cluster.wipe_follower(follower)
            }
            Fault::All => {
                (0..self.cluster.follower_urls().len()).for_each(|follower| {
                    self.life_ends(follower);
                });
                self.cluster.kill_all()
            }
            Fault::Pause(Node::Leader) => self.cluster.pause_leader(),
            Fault::Pause(Node::Follower(follower)) => self.cluster.pause_follower(follower),
            Fault::TwoLeaders { paused } => {
                if paused {
                    self.cluster.pause_leader()?;
                }
                let rival = self.cluster.start_rival().await?;
                self.add_leader(rival);
                Ok(())
            }
            Fault::Rival => {
                let rival = self.cluster.launch_rival()?;
                self.add_leader(rival);
                Ok(())
            }
            Fault::Partition { second } => {
                self.cluster.cut_leader_off()?;
                if second {
                    let rival = self.cluster.start_rival().await?;
                    self.add_leader(rival);
                }
                Ok(())
            }
            Fault::Quorum(quorum) => {
                self.ask_for_quorum(quorum).await;
                Ok(())
            }
            Fault::Delete(_) | Fault::ForceDelete(_) | Fault::Scale(_) => bail!("processes are not pods: {fault}"),
        }
    }

    async fn mend(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Kill(Node::Leader) => self.cluster.start_leader().await,
            Fault::Kill(Node::Follower(follower)) | Fault::Wipe(follower) => self.start_follower(follower).await,
            Fault::All => {
                for follower in 0..self.cluster.follower_urls().len() {
                    self.start_follower(follower).await?;
                }
                self.cluster.start_leader().await
            }
            Fault::Pause(Node::Leader) => self.cluster.resume_leader(),
            Fault::Pause(Node::Follower(follower)) => self.cluster.resume_follower(follower),
            // `heal` decides which leader stays, once everything else runs again.
            Fault::Rival => Ok(()),
            Fault::TwoLeaders { paused } => {
                if paused {
                    self.cluster.resume_leader()?;
                }
                Ok(())
            }
            Fault::Partition { .. } => self.cluster.reconnect_leader(),
            Fault::Quorum(_) => {
                self.ask_for_quorum(self.settings.write_quorum).await;
                Ok(())
            }
            Fault::Delete(_) | Fault::ForceDelete(_) | Fault::Scale(_) => bail!("processes are not pods: {fault}"),
        }
    }

    async fn heal(&mut self) -> Result<()> {
        self.cluster.keep_one_leader(self.heal_timeout).await?;
        self.keep_one_leader();
        let healing = Healing::begin(self.heal_timeout, POLL_INTERVAL);
        loop {
            self.cluster.fail_if_any_exited()?;
            let missing = self.missing(healing.elapsed()).await;
            if healing.is_over(missing).await? {
                return Ok(());
            }
        }
    }

    async fn dumps(&mut self) -> Result<Vec<FinalDump>> {
        let endpoints = self.endpoints.borrow().clone();
        target::dump_all(&endpoints, &self.http, Duration::ZERO).await
    }
}
