//! A cluster that runs, as a sweep sees it.

use anyhow::Result;

use super::{
    control::Control,
    local::{LocalCluster, LocalClusterOptions},
};
use crate::client::{Credentials, Passage};

/// Where nodes listen for Redis' protocol unless they are set up otherwise.
pub(super) const REDIS_PORT: u16 = 6379;

/// A running cluster to measure. What keeps it running is released when this is dropped.
pub struct RunningCluster {
    /// What it is, for the reports: "local processes", "docker compose", …
    pub description: String,
    /// Where the leader is, `http://host:port`.
    pub leader_url: String,
    /// Where the followers are; empty when their answers are not to be compared.
    pub follower_urls: Vec<String>,
    /// Where the leader listens for Redis' protocol, `host:port`; whether it does is for the caller to see.
    pub leader_redis: String,
    /// What its nodes ask for.
    pub credentials: Credentials,
    /// Where a sweep asks for a quorum.
    pub control: Control,
    /// Processes, tunnels and the like; dropping it ends them.
    kept: Option<Box<dyn Send>>,
}

impl RunningCluster {
    /// A cluster that runs by itself; its leader takes settings from everyone who has its token, and speaks Redis' protocol
    /// at the usual port.
    pub fn new(description: &str, leader_url: String, follower_urls: Vec<String>, credentials: Credentials) -> Self {
        let leader_redis = format!("{}:{REDIS_PORT}", host(&leader_url));
        let (description, control) = (description.to_owned(), Control::Leader);
        Self { description, leader_url, follower_urls, leader_redis, credentials, control, kept: None }
    }

    /// The same cluster, whose leader listens for Redis' protocol at `leader_redis`.
    pub fn with_redis(self, leader_redis: String) -> Self {
        Self { leader_redis, ..self }
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
            .field("leader_redis", &self.leader_redis)
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
    let credentials = cluster.credentials().clone();
    let running = RunningCluster::new("local processes", cluster.leader_url(), cluster.follower_urls(), credentials);
    Ok(running.with_redis(cluster.leader_redis()).keeping(cluster))
}

/// The cluster of `deploy/docker-compose.yml`, which must be up already: leader on port 8000, followers on 8001-8005, Redis'
/// protocol where `REDIS_PORT` puts it.
pub fn compose(credentials: Credentials) -> RunningCluster {
    let followers = (8001..=8005).map(|port| format!("http://localhost:{port}")).collect();
    let running = RunningCluster::new("docker compose", "http://localhost:8000".to_owned(), followers, credentials);
    match std::env::var("REDIS_PORT").ok().filter(|port| !port.is_empty()) {
        Some(port) => running.with_redis(format!("localhost:{port}")),
        None => running,
    }
}

/// The cluster of the leader at `leader_url`; without followers their answers are not compared.
pub fn remote(leader_url: String, follower_urls: Vec<String>, credentials: Credentials) -> RunningCluster {
    let description = format!("cluster at {leader_url}");
    RunningCluster::new(&description, leader_url, follower_urls, credentials)
}

/// The same where nodes speak TLS: `passage` leads to them. Redis' protocol at the leader is left to the caller.
///
/// # Errors
/// When there is no session with one of them.
pub async fn remote_over_tls(
    mut passage: Passage,
    leader_url: &str,
    follower_urls: &[String],
    credentials: Credentials,
) -> Result<RunningCluster> {
    let leader = passage.url(leader_url).await?;
    let mut followers = Vec::with_capacity(follower_urls.len());
    for url in follower_urls {
        followers.push(passage.url(url).await?);
    }
    let description = format!("cluster at {leader_url}");
    let running = RunningCluster::new(&description, leader, followers, credentials);
    Ok(running.with_redis(format!("{}:{REDIS_PORT}", host(leader_url))).keeping(passage))
}

/// The host of `http://host:port`, as it stands there.
fn host(url: &str) -> &str {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(authority, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_for_redis_is_at_the_host_of_the_leader() {
        for (url, expected) in [
            ("http://leader:8000", "leader:6379"),
            ("http://leader/", "leader:6379"),
            ("http://[::1]:8000", "[::1]:6379"),
            ("http://[::1]", "[::1]:6379"),
        ] {
            assert_eq!(remote(url.to_owned(), Vec::new(), Credentials::default()).leader_redis, expected);
        }
    }
}
