//! `kvctl`: commands for those who operate a cluster. A program of its own, in the package that has the client of a node.

pub(crate) mod backup;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::{
    client::{AdministratorArguments, Credentials, NodeClient, Passage, TlsArguments},
    output::{exit_code, print, run},
};

/// Operates a kvcluster: saves its state and restores it
#[derive(Debug, Parser)]
#[command(name = "kvctl", version, arg_required_else_help = true, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write everything that a cluster has into a file, as it is at one moment
    Backup(BackupArguments),
    /// Put a backup into an empty cluster
    Restore(RestoreArguments),
}

const AFTER_HELP: &str = "Exit codes: 0 done; 1 failed, with the reason; 2 wrong usage.";

/// The program: reads the command line and runs what it asks for.
pub fn main() -> ExitCode {
    exit_code(match Arguments::parse().command {
        Command::Backup(arguments) => save(&arguments),
        Command::Restore(arguments) => restore(&arguments),
    })
}

/// Which cluster.
#[derive(Clone, Debug, Args)]
struct ClusterArguments {
    /// The leader, http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "URL")]
    leader: String,

    #[command(flatten)]
    administrator: AdministratorArguments,

    #[command(flatten)]
    tls: TlsArguments,
}

/// The settings of a backup.
#[derive(Clone, Debug, Args)]
struct BackupArguments {
    #[command(flatten)]
    cluster: ClusterArguments,

    /// The file; one that is there is replaced once the new one is complete
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

/// The settings of a restore.
#[derive(Clone, Debug, Args)]
struct RestoreArguments {
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

fn save(arguments: &BackupArguments) -> Result<u8> {
    let BackupArguments { cluster, to } = arguments;
    let keys = run(async {
        let (client, _passage) = cluster.client().await?;
        backup::save(&client, to).await
    })?;
    print(&format!("{keys} keys in {}\n", to.display()));
    Ok(0)
}

fn restore(arguments: &RestoreArguments) -> Result<u8> {
    let RestoreArguments { cluster, from, overwrite, patience_s, give_up: _ } = arguments;
    let patience = Duration::from_secs(*patience_s);
    let keys = run(async {
        let (client, _passage) = cluster.client().await?;
        match from {
            Some(from) => backup::restore(&client, from, *overwrite, patience).await.map(Some),
            None => backup::give_up(&client, patience).await.map(|()| None),
        }
    })?;
    print(&match from.as_ref().zip(keys) {
        Some((from, keys)) => format!("{keys} keys of {} restored\n", from.display()),
        None => "no restore is under way\n".to_owned(),
    });
    Ok(0)
}

impl ClusterArguments {
    /// A client, and the way to its node where that speaks TLS.
    async fn client(&self) -> Result<(NodeClient, Option<Passage>)> {
        let credentials = Credentials { auth_token: self.administrator.token()?, ..Credentials::default() };
        let mut passage = self.tls.passage(std::iter::once(self.leader.as_str()))?;
        let leader = match &mut passage {
            Some(passage) => passage.url(&self.leader).await?,
            None => self.leader.clone(),
        };
        Ok((NodeClient::with(&credentials, &leader, 1)?, passage))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
