//! The default: a leader and followers as processes on this machine, which end with the bench.

use anyhow::Result;

use super::Target;
use crate::cluster::{LocalCluster, LocalClusterOptions};

/// Starts the cluster and waits until it takes writes.
///
/// # Errors
/// As [`LocalCluster::start`].
pub async fn local(options: LocalClusterOptions) -> Result<Target> {
    let cluster = LocalCluster::start(options).await?;
    let target = Target::standing("local processes", cluster.leader_url(), cluster.follower_urls(), None);
    Ok(target.holding(cluster))
}
