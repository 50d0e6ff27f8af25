//! `kv-bench backup` and `kv-bench restore`.

use std::{future::Future, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Args;

use crate::{backup, client::NodeClient};

/// How long one request of a restore may take; the leader answers earlier, after its replication timeout.
const REQUEST_MAX: Duration = Duration::from_secs(600);

/// Which cluster.
#[derive(Debug, Clone, Args)]
struct ClusterArguments {
    /// The leader, http://HOST:PORT
    #[arg(long, value_name = "URL")]
    leader: String,

    /// Bearer token, where the cluster asks for one
    #[arg(long, env = "AUTH_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    auth_token: Option<String>,
}

/// The settings of a backup.
#[derive(Debug, Clone, Args)]
pub struct BackupArguments {
    #[command(flatten)]
    cluster: ClusterArguments,

    /// The file; one that is there is replaced once the new one is complete
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

/// The settings of a restore.
#[derive(Debug, Clone, Args)]
pub struct RestoreArguments {
    #[command(flatten)]
    cluster: ClusterArguments,

    /// The file
    #[arg(long, value_name = "FILE")]
    from: PathBuf,

    /// Also where there are keys: those of the backup replace them, others stay
    #[arg(long)]
    overwrite: bool,
}

/// # Errors
/// When there is no whole backup in the end.
pub(super) fn save(arguments: &BackupArguments) -> Result<u8> {
    let BackupArguments { cluster, to } = arguments;
    let keys = run(backup::save(&cluster.client()?, to))?;
    println!("{keys} keys in {}", to.display());
    Ok(0)
}

/// # Errors
/// When not everything was restored.
pub(super) fn restore(arguments: &RestoreArguments) -> Result<u8> {
    let RestoreArguments { cluster, from, overwrite } = arguments;
    let keys = run(backup::restore(&cluster.client()?, from, *overwrite, REQUEST_MAX))?;
    println!("{keys} keys of {} restored", from.display());
    Ok(0)
}

fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Runtime::new().context("failed to start the runtime")?.block_on(work)
}

impl ClusterArguments {
    fn client(&self) -> Result<NodeClient> {
        Ok(NodeClient::new(NodeClient::http(1)?, &self.leader, self.auth_token.as_deref()))
    }
}
