//! A cluster that runs, as a sweep sees it.

use anyhow::Result;

use super::{
    control::Control,
    local::{LocalCluster, LocalClusterOptions},
};

/// A running cluster to measure. What keeps it running is released when this is dropped.
pub struct RunningCluster {
    /// What it is, for the reports: "local processes", "docker compose", …
    pub description: String,
    /// Where the leader is, `http://host:port`.
    pub leader_url: String,
    /// Where the followers are; empty when their answers are not to be compared.
    pub follower_urls: Vec<String>,
    /// Bearer token for changing settings, where the cluster asks for one.
    pub token: Option<String>,
    /// Where a sweep asks for a quorum.
    pub control: Control,
    /// Processes, tunnels and the like; dropping it ends them.
    kept: Option<Box<dyn Send>>,
}

impl RunningCluster {
    /// A cluster that runs by itself; its leader takes settings from everyone who has the token.
    pub fn new(description: &str, leader_url: String, follower_urls: Vec<String>, token: Option<String>) -> Self {
        let control = Control::Leader;
        Self { description: description.to_owned(), leader_url, follower_urls, token, control, kept: None }
    }

    /// The same cluster; `control` sets its quorum and delays.
    pub fn controlled_by(self, control: Control) -> Self {
        Self { control, ..self }
    }

    /// The same cluster, which drops `guard` after what it keeps already.
    pub fn keeping(self, guard: impl Send + 'static) -> Self {
        let earlier = self.kept;
        Self { kept: Some(Box::new((earlier, guard))), ..self }
    }
}

impl std::fmt::Debug for RunningCluster {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RunningCluster")
            .field("description", &self.description)
            .field("leader_url", &self.leader_url)
            .field("follower_urls", &self.follower_urls)
            .field("control", &self.control)
            .field("kept", &self.kept.is_some())
            .finish_non_exhaustive()
    }
}

/// Starts a leader and followers as processes on this machine, and waits until they take writes. They end with the value.
///
/// # Errors
/// As [`LocalCluster::start`].
pub async fn local(options: LocalClusterOptions) -> Result<RunningCluster> {
    let cluster = LocalCluster::start(options).await?;
    let running = RunningCluster::new("local processes", cluster.leader_url(), cluster.follower_urls(), None);
    Ok(running.keeping(cluster))
}

/// The cluster of `deploy/docker-compose.yml`, which must be up already: leader on port 8000, followers on 8001-8005.
pub fn compose(token: Option<String>) -> RunningCluster {
    let followers = (8001..=8005).map(|port| format!("http://localhost:{port}")).collect();
    RunningCluster::new("docker compose", "http://localhost:8000".to_owned(), followers, token)
}

/// The cluster of the leader at `leader_url`; without followers their answers are not compared.
pub fn remote(leader_url: String, follower_urls: Vec<String>, token: Option<String>) -> RunningCluster {
    let description = format!("cluster at {leader_url}");
    RunningCluster::new(&description, leader_url, follower_urls, token)
}
