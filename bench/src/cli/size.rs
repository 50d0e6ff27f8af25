//! How large a cluster to start, for the subcommands that start one of their own.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use super::cluster::{DEFAULT_FOLLOWERS, node_program};
use crate::cluster::LocalClusterOptions;

/// The size of a cluster.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct SizeArguments {
    /// Followers to start
    #[arg(long, value_name = "N", default_value_t = DEFAULT_FOLLOWERS, value_parser = clap::value_parser!(u16).range(1..=60))]
    pub follower_count: u16,

    /// Followers that confirm a write
    #[arg(long, alias = "write-quorum", value_name = "W", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub quorum: u16,
}

impl SizeArguments {
    /// Processes to start, without delays. Followers keep their state in `data`, where it is given, and logs go below `out`.
    ///
    /// # Errors
    /// When no write could reach the quorum, or this program's own file cannot be found.
    pub(super) fn options(self, data: Option<PathBuf>, out: &Path) -> Result<LocalClusterOptions> {
        let Self { follower_count, quorum } = self;
        super::require_possible(quorum, follower_count)?;
        Ok(LocalClusterOptions {
            followers: follower_count,
            write_quorum: quorum,
            max_delay_ms: 0,
            data_directory: data,
            ..LocalClusterOptions::new(node_program(None)?, out.join("logs"))
        })
    }
}

/// A leader process with its standby, and clients that write to both.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct PairArguments {
    /// Clients that write, each one write at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub clients: u16,

    #[command(flatten)]
    pub size: SizeArguments,

    /// TAKEOVER_AFTER_MS of both leader processes
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(300..))]
    pub takeover_after_ms: u32,
}

impl PairArguments {
    /// As [`SizeArguments::options`]; every leader process waits so long before it takes over.
    ///
    /// # Errors
    /// The same.
    pub(super) fn options(self, data: Option<PathBuf>, out: &Path) -> Result<LocalClusterOptions> {
        let environment = vec![("TAKEOVER_AFTER_MS".to_owned(), self.takeover_after_ms.to_string())];
        Ok(LocalClusterOptions { environment, ..self.size.options(data, out)? })
    }
}
