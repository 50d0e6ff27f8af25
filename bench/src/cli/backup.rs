//! `kv-bench backup` and `kv-bench restore`.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Args;

use super::run;
use crate::{backup, client::NodeClient};

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

    /// The file. A restore of it that was interrupted goes on
    #[arg(long, value_name = "FILE", required_unless_present = "give_up")]
    from: Option<PathBuf>,

    /// Also where there are keys: those of the backup replace them, others stay
    #[arg(long)]
    overwrite: bool,

    /// For how long a request is sent again while the leader is away or has no write quorum, in s
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    patience_s: u64,

    /// Give up a restore that was interrupted: the cluster serves again, with what it has of the backup
    #[arg(long, conflicts_with_all = ["from", "overwrite"])]
    give_up: bool,
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
    let RestoreArguments { cluster, from, overwrite, patience_s, give_up: _ } = arguments;
    let (client, patience) = (cluster.client()?, Duration::from_secs(*patience_s));
    match from {
        Some(from) => {
            let keys = run(backup::restore(&client, from, *overwrite, patience))?;
            println!("{keys} keys of {} restored", from.display());
        }
        None => {
            run(backup::give_up(&client, patience))?;
            println!("no restore is under way any more");
        }
    }
    Ok(0)
}

impl ClusterArguments {
    fn client(&self) -> Result<NodeClient> {
        Ok(NodeClient::new(NodeClient::http(1)?, &self.leader, self.auth_token.as_deref()))
    }
}
