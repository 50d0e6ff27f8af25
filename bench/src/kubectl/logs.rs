//! The logs of all nodes of a KvCluster, side by side.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::LogParams};
use kvcluster_api::resource::NODE_CONTAINER;
use tokio::{task::JoinSet, time::sleep};

use super::target::Target;
use crate::output::print;

/// How often to look for pods that have started since.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The settings of `logs`.
#[derive(Clone, Debug, Args)]
pub(super) struct LogsArguments {
    /// The KvCluster
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Go on with what the nodes log from now on, also those that start later
    #[arg(long, short)]
    pub follow: bool,

    /// Only the last lines of each node
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(i64).range(0..))]
    pub tail: Option<i64>,

    /// Only lines of the last seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(1..))]
    pub since_s: Option<i64>,

    /// The logs of the containers before their last restart
    #[arg(long, conflicts_with = "follow")]
    pub previous: bool,
}

/// Prints the logs: pod by pod, or as they come.
///
/// # Errors
/// When the pods cannot be listed, or none of them has a log.
pub(super) async fn print_all(target: &Target, arguments: &LogsArguments) -> Result<()> {
    let api = target.pods_api();
    if !arguments.follow {
        let mut failed = None;
        for pod in target.pods().await? {
            // One pod without a log, because it has not started, keeps the others from nothing.
            if let Err(error) = copy(&api, &pod.name_any(), arguments).await {
                eprintln!("{}: {error:#}", pod.name_any());
                failed = Some(error);
            }
        }
        return failed.map_or(Ok(()), Err);
    }
    let (mut followed, mut streams) = (HashSet::new(), JoinSet::new());
    loop {
        for pod in target.pods().await?.into_iter().filter(runs) {
            if followed.insert(life(&pod)) {
                let (api, name, arguments) = (api.clone(), pod.name_any(), arguments.clone());
                streams.spawn(async move {
                    if let Err(error) = copy(&api, &name, &arguments).await {
                        eprintln!("{name}: {error:#}");
                    }
                });
            }
        }
        while streams.try_join_next().is_some() {}
        sleep(LOOK_EVERY).await;
    }
}

/// Which life of its container it is.
fn life(pod: &Pod) -> (Option<String>, i32) {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let node = containers.filter(|container| container.name == NODE_CONTAINER).map(|node| node.restart_count);
    (pod.uid(), node.max().unwrap_or_default())
}

fn runs(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
}

async fn copy(api: &Api<Pod>, pod: &str, arguments: &LogsArguments) -> Result<()> {
    let parameters = LogParams {
        container: Some(NODE_CONTAINER.to_owned()),
        follow: arguments.follow,
        tail_lines: arguments.tail,
        since_seconds: arguments.since_s,
        previous: arguments.previous,
        ..LogParams::default()
    };
    let mut lines = api.log_stream(pod, &parameters).await.context("failed to read the log")?.lines();
    while let Some(line) = lines.try_next().await.context("the log broke off")? {
        print(&format!("{pod} {line}\n"));
    }
    Ok(())
}
