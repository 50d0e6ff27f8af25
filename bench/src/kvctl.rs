//! `kvctl`: commands for those who operate a cluster. A program of its own, in the package that has the client of a node.

pub(crate) mod backup;
mod lines;
#[cfg(feature = "object-store")]
mod place;
#[cfg(feature = "object-store")]
mod record;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use self::backup::Source;
#[cfg(feature = "object-store")]
use self::{
    place::{Kept, Place, Saved},
    record::Keep,
};
use crate::{
    client::{AdministratorArguments, Credentials, NodeClient, Passage, TlsArguments},
    output::{WrongUsage, exit_code, print, run},
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
    /// Write everything that a cluster has into a backup, as it is at one moment
    #[command(after_help = PLACES)]
    Backup(BackupArguments),
    /// Put a backup into an empty cluster
    #[command(after_help = PLACES)]
    Restore(RestoreArguments),
    /// Print the verified backups of a place, the newest first
    #[command(after_help = PLACES)]
    List(ListArguments),
    /// Read a backup to its end, and check that it is whole and unchanged
    #[command(after_help = PLACES)]
    Verify(VerifyArguments),
}

const AFTER_HELP: &str = "Exit codes: 0 done; 1 failed, with the reason; 2 wrong usage.";

const PLACES: &str = "Places for backups:
  FILE                  one backup; it needs no more than this file
  DIRECTORY             any number of backups: one that exists, or a name that ends with /
  s3://BUCKET/PREFIX    the same in a store that speaks S3

For S3, the usual variables count: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL \
for a store other than Amazon's, AWS_CA_BUNDLE for its authority, and those of roles (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN).";

/// The program: reads the command line and runs what it asks for.
pub fn main() -> ExitCode {
    exit_code(match Arguments::parse().command {
        Command::Backup(arguments) => save(&arguments),
        Command::Restore(arguments) => restore(&arguments),
        Command::List(arguments) => list(&arguments),
        Command::Verify(arguments) => verify(&arguments),
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

    /// The file, which replaces one that is there once it is complete; or a directory or s3://BUCKET/PREFIX, where the
    /// backup gets a name of its own and counts once it was read back
    #[arg(long, value_name = "PLACE")]
    to: String,

    /// In a directory or bucket: how many backups of this cluster are kept, with this one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,

    /// In a directory or bucket: for how many days backups of this cluster are kept; the newest one always is
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    keep_days: Option<u32>,

    /// In a directory or bucket: a file for the record of the backup, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Which backup.
#[derive(Clone, Debug, Args)]
struct BackupChoice {
    /// The name of a backup in a directory or bucket [default: the newest one]
    #[arg(long, value_name = "NAME")]
    backup: Option<String>,

    /// The cluster that it has to be a backup of, NAMESPACE/NAME of a KvCluster
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
}

/// The settings of a restore.
#[derive(Clone, Debug, Args)]
struct RestoreArguments {
    #[command(flatten)]
    cluster: ClusterArguments,

    /// The file, directory or s3://BUCKET/PREFIX. A restore of a backup that was interrupted goes on, also where the
    /// place has newer ones by then
    #[arg(long, value_name = "PLACE", required_unless_present = "give_up")]
    from: Option<String>,

    #[command(flatten)]
    choice: BackupChoice,

    /// Also where there are keys: those of the backup replace them, others stay
    #[arg(long)]
    overwrite: bool,

    /// For how long a request is sent again while the leader is away or has no write quorum, in s
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    patience_s: u64,

    /// Give up a restore that was interrupted: the cluster serves again, with what it has of the backup
    #[arg(long, conflicts_with_all = ["from", "backup", "cluster", "overwrite", "report"])]
    give_up: bool,

    /// From a directory or bucket: a file for the record of the backup that was restored, as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// The settings of a list.
#[derive(Clone, Debug, Args)]
struct ListArguments {
    /// The directory or s3://BUCKET/PREFIX
    #[arg(long, value_name = "PLACE")]
    from: String,

    /// Those of this cluster alone
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
}

/// The settings of a verification.
#[derive(Clone, Debug, Args)]
struct VerifyArguments {
    /// The file, directory or s3://BUCKET/PREFIX
    #[arg(long, value_name = "PLACE")]
    from: String,

    #[command(flatten)]
    choice: BackupChoice,
}

fn save(arguments: &BackupArguments) -> Result<u8> {
    if is_place(&arguments.to) {
        return save_in_place(arguments);
    }
    let BackupArguments { cluster, to, keep, keep_days, report } = arguments;
    if keep.is_some() || keep_days.is_some() || report.is_some() {
        return Err(WrongUsage::error(format!(
            "--keep, --keep-days and --report need a place with records, and {to} is a file: a directory ends with /"
        )));
    }
    let keys = run(async {
        let (client, _passage) = cluster.client().await?;
        backup::save(&client, to.as_ref()).await
    })?;
    print(&format!("{keys} keys in {to}\n"));
    Ok(0)
}

fn restore(arguments: &RestoreArguments) -> Result<u8> {
    let RestoreArguments { cluster, from, choice, overwrite, patience_s, give_up: _, report } = arguments;
    let patience = Duration::from_secs(*patience_s);
    let text = run(async {
        let (client, _passage) = cluster.client().await?;
        let Some(from) = from else {
            backup::give_up(&client, patience).await?;
            return Ok("no restore is under way\n".to_owned());
        };
        if report.is_some() && !is_place(from) {
            return Err(WrongUsage::error(format!("--report needs a place with records, and {from} is a file")));
        }
        let names_none = choice.backup.is_none() && is_place(from);
        let under_way = if names_none { backup::under_way(&client, patience).await? } else { None };
        let source = match choice.source(from, under_way.as_deref()).await {
            Err(_) if *overwrite && under_way.is_some() => choice.source(from, None).await?,
            source => source?,
        };
        let keys = backup::restore(&client, &source, choice.cluster.as_deref(), *overwrite, patience).await?;
        if let Some(report) = report {
            write_report(report, &source)?;
        }
        Ok(format!("{keys} keys of {source} restored\n"))
    })?;
    print(&text);
    Ok(0)
}

fn verify(arguments: &VerifyArguments) -> Result<u8> {
    let VerifyArguments { from, choice } = arguments;
    let text = run(async {
        let source = choice.source(from, None).await?;
        let whole = source.check(choice.cluster.as_deref()).await.with_context(|| format!("{source} is no good"))?;
        let of = whole.header.cluster.map(|cluster| format!(" of {cluster}")).unwrap_or_default();
        Ok(format!("{source} is whole: {} keys{of}, digest {}\n", whole.keys, whole.digest))
    })?;
    print(&text);
    Ok(0)
}

/// Whether this names a directory or a bucket, and not a file.
fn is_place(named: &str) -> bool {
    named.contains("://") || named.ends_with('/') || std::path::Path::new(named).is_dir()
}

#[cfg(feature = "object-store")]
fn save_in_place(arguments: &BackupArguments) -> Result<u8> {
    let BackupArguments { cluster, to, keep, keep_days, report } = arguments;
    let text = run(async {
        let place = Place::of(to, true)?;
        let (client, _passage) = cluster.client().await?;
        let taken = std::time::SystemTime::now();
        let chunks = backup::of_leader(&client).await?;
        let Saved { record, removed } = place.save(chunks, taken, Keep { newest: *keep, days: *keep_days }).await?;
        if let Some(report) = report {
            record.write(report)?;
        }
        let removed: String = removed.iter().map(|name| format!("removed {name}\n")).collect();
        Ok(format!("{} keys in {} of {place}, verified\n{removed}", record.keys, record.name))
    })?;
    print(&text);
    Ok(0)
}

#[cfg(feature = "object-store")]
fn list(arguments: &ListArguments) -> Result<u8> {
    let ListArguments { from, cluster } = arguments;
    let kept = run(async { Place::of(from, false)?.list(cluster.as_deref()).await })?;
    print(&table(&kept));
    Ok(0)
}

#[cfg(feature = "object-store")]
fn write_report(report: &std::path::Path, source: &Source) -> Result<()> {
    match source {
        Source::Kept(kept) => kept.record.write(report),
        Source::File(_) => Ok(()),
    }
}

#[cfg(not(feature = "object-store"))]
fn write_report(_: &std::path::Path, source: &Source) -> Result<()> {
    Err(without_places(&source.to_string()))
}

#[cfg(feature = "object-store")]
fn table(kept: &[Kept]) -> String {
    let width =
        |text: fn(&Kept) -> &str, least: usize| kept.iter().map(|kept| text(kept).len()).fold(least, usize::max);
    let cluster = |kept: &Kept| kept.record.cluster.clone().unwrap_or_default();
    let names = width(|kept| &kept.record.name, 4);
    let clusters = width(|kept| kept.record.cluster.as_deref().unwrap_or_default(), 7);
    let mut text =
        format!("{:names$}  {:clusters$}  {:20}  {:>10}  {:>14}\n", "NAME", "CLUSTER", "TAKEN", "KEYS", "BYTES");
    for one in kept {
        let record = &one.record;
        text.push_str(&format!(
            "{:names$}  {:clusters$}  {:20}  {:>10}  {:>14}\n",
            record.name,
            cluster(one),
            record.taken,
            record.keys,
            record.bytes
        ));
    }
    text
}

#[cfg(not(feature = "object-store"))]
fn save_in_place(arguments: &BackupArguments) -> Result<u8> {
    Err(without_places(&arguments.to))
}

#[cfg(not(feature = "object-store"))]
fn list(arguments: &ListArguments) -> Result<u8> {
    Err(without_places(&arguments.from))
}

#[cfg(not(feature = "object-store"))]
fn without_places(named: &str) -> anyhow::Error {
    WrongUsage::error(format!(
        "this kvctl was built without directories and S3, which {named} needs: cargo build --release -p kv-bench \
         --features object-store"
    ))
}

impl BackupChoice {
    /// The backup in this place, or this file. Without a name it is the one whose restore is under way, by its digest, or else
    /// the newest one.
    async fn source(&self, from: &str, under_way: Option<&str>) -> Result<Source> {
        if !is_place(from) {
            return match &self.backup {
                Some(name) => {
                    Err(WrongUsage::error(format!("--backup {name} needs a place with records, and {from} is a file")))
                }
                None => Ok(Source::File(from.into())),
            };
        }
        #[cfg(feature = "object-store")]
        {
            let (place, cluster) = (Place::of(from, false)?, self.cluster.as_deref());
            let kept = match (self.backup.as_deref(), under_way) {
                (None, Some(digest)) => place.with_digest(digest).await?,
                (name, _) => place.choose(name, cluster).await?,
            };
            Ok(Source::Kept(Box::new(kept)))
        }
        #[cfg(not(feature = "object-store"))]
        {
            let _ = under_way;
            Err(without_places(from))
        }
    }
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
