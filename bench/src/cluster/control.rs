//! Who puts a quorum in force: the leader itself, by its admin route, or the operator, by the KvCluster resource.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kvcluster_api::config::ConfigView;
use tokio::time::sleep;

#[cfg(feature = "kubernetes")]
pub use self::{
    pods::{PodState, Pods},
    resource::{Access, Asked, KvClusterResource, Size},
};
use crate::client::{ConfigChange, NodeClient};

#[cfg(feature = "kubernetes")]
mod pods;
#[cfg(feature = "kubernetes")]
mod resource;

/// How long a change of settings may take to be in force.
const IN_FORCE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the leader may wait within one request for that.
const LEADER_WAIT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Where a sweep asks for a quorum and for delays.
#[derive(Clone, Debug)]
pub enum Control {
    /// The leader.
    Leader,
    /// The KvCluster. Its operator sends the spec to the leader, and reverts what others set at the leader directly.
    #[cfg(feature = "kubernetes")]
    Resource(KvClusterResource),
}

impl Control {
    /// What is to be brought back after the sweep: what the KvCluster asks for, or else what is in force.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn original(&self, in_force: &ConfigView) -> Result<ConfigChange> {
        match self {
            Self::Leader => Ok(ConfigChange::from(in_force)),
            #[cfg(feature = "kubernetes")]
            Self::Resource(resource) => resource.asked_for().await,
        }
    }

    /// Sets the values and returns once they are in force: the leader says so, and of a KvCluster its status too.
    ///
    /// # Errors
    /// When they are refused, or are not in force in time.
    pub async fn apply(&self, leader: &NodeClient, change: ConfigChange) -> Result<()> {
        let began = Instant::now();
        let asked = self.ask(leader, change.clone()).await;
        let asked = asked.with_context(|| format!("failed to set write quorum {}", change.write_quorum))?;
        let change = match self {
            Self::Leader => change,
            #[cfg(feature = "kubernetes")]
            Self::Resource(_) => change.of_kvcluster(),
        };
        while let Some(reason) = self.missing(leader, &change, asked).await? {
            if began.elapsed() > IN_FORCE_TIMEOUT {
                let seconds = IN_FORCE_TIMEOUT.as_secs();
                bail!("failed to bring write quorum {} into force within {seconds} s: {reason}", change.write_quorum);
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Brings back what was there before, unless it still is.
    ///
    /// # Errors
    /// As [`Control::apply`].
    pub async fn restore(&self, leader: &NodeClient, original: ConfigChange) -> Result<()> {
        if let (Self::Leader, Ok(config)) = (self, leader.config().await)
            && original.is_in_force(&config)
        {
            return Ok(());
        }
        let ConfigChange { write_quorum, min_delay_ms, max_delay_ms, delay: _ } = original;
        self.apply(leader, original).await.with_context(|| {
            format!("failed to restore write quorum {write_quorum} and delays of {min_delay_ms}-{max_delay_ms} ms")
        })
    }

    /// Returns the generation of the spec that says so, where there is one.
    async fn ask(&self, leader: &NodeClient, change: ConfigChange) -> Result<Option<i64>> {
        match self {
            Self::Leader => leader.change_config(change, LEADER_WAIT).await.map(|()| None),
            #[cfg(feature = "kubernetes")]
            Self::Resource(resource) => resource.ask_for(change).await.map(Some),
        }
    }

    /// What is still missing, in words; nothing once the change is in force.
    async fn missing(&self, leader: &NodeClient, change: &ConfigChange, asked: Option<i64>) -> Result<Option<String>> {
        let config = leader.config().await;
        let config = match self {
            Self::Leader => config?,
            #[cfg(feature = "kubernetes")]
            // The resource keeps the request, and the next leader carries it out: worth waiting for.
            Self::Resource(_) => match config {
                Ok(config) => config,
                Err(error) => return Ok(Some(format!("{error:#}"))),
            },
        };
        if !change.is_in_force(&config) {
            let told = config.pending.map(|pending| pending.message);
            return Ok(Some(
                told.unwrap_or_else(|| format!("write quorum {} is in force", config.in_force.write_quorum)),
            ));
        }
        match (self, asked) {
            #[cfg(feature = "kubernetes")]
            (Self::Resource(resource), Some(generation)) => Ok(resource.missing(change, generation).await),
            _ => Ok(None),
        }
    }
}
