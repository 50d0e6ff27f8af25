//! A cluster's state as a backup, and back.

use std::{
    fmt,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use futures::{StreamExt, TryStreamExt};
use kv_node::backup::Whole;
use kvcluster_api::status::LeaderState;

use super::lines::{self, Checker, Chunks, KeyLines};
#[cfg(feature = "object-store")]
use super::place::Kept;
use crate::client::{NodeClient, RestoreError, RestoreStep, until_answered};

/// About how many bytes of lines go with one request.
const REQUEST_BYTES: usize = 256 << 10;

/// How many keys go with one request: the leader takes them all at once.
const REQUEST_KEYS: usize = 1_000;

/// How long one request may take; the leader answers earlier, after its replication timeout.
const REQUEST_MAX: Duration = Duration::from_secs(60);

/// A backup that can be read, again and again.
#[derive(Clone)]
pub(crate) enum Source {
    /// A file of this machine.
    File(PathBuf),
    /// One of a directory or a bucket, with a record.
    #[cfg(feature = "object-store")]
    Kept(Box<Kept>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            #[cfg(feature = "object-store")]
            Self::Kept(kept) => write!(f, "{kept}"),
        }
    }
}

impl Source {
    async fn open(&self) -> Result<Chunks> {
        match self {
            Self::File(path) => lines::of_file(path),
            #[cfg(feature = "object-store")]
            Self::Kept(kept) => kept.open().await,
        }
    }

    /// Reads it to its end; returns what it is.
    ///
    /// # Errors
    /// When it is no whole backup, not the one of its record, or of another cluster than `of`.
    pub(crate) async fn check(&self, of: Option<&str>) -> Result<Whole> {
        let (whole, _bytes) = lines::check(self.open().await?).await?;
        #[cfg(feature = "object-store")]
        if let Self::Kept(kept) = self {
            kept.record.compare(&whole, _bytes)?;
        }
        match (of, whole.header.cluster.as_deref()) {
            (Some(of), Some(is)) if of != is => bail!("it is a backup of the cluster {is}, not of {of}"),
            (Some(of), None) => bail!("it does not say of which cluster it is a backup, so not that of {of}"),
            _ => Ok(whole),
        }
    }
}

/// The whole state of a cluster, to be read chunk by chunk.
///
/// # Errors
/// When the leader gives none.
pub(crate) async fn of_leader(client: &NodeClient) -> Result<Chunks> {
    let response = client.backup().await?;
    Ok(response.bytes_stream().map(|chunk| chunk.context("the backup broke off")).boxed())
}

/// Fetches a backup into a file, which is there in full or not at all; returns how many keys it has.
///
/// # Errors
/// When the leader gives none, or not all of it.
pub(crate) async fn save(client: &NodeClient, file: &Path) -> Result<u64> {
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".part");
    let unfinished = Path::new(&unfinished);
    let context = || format!("failed to write {}", unfinished.display());
    let mut chunks = of_leader(client).await?;
    let mut output = BufWriter::new(File::create(unfinished).with_context(context)?);
    // Checked on the way: what is kept is what can be restored.
    let mut checker = Checker::default();
    while let Some(chunk) = chunks.try_next().await? {
        output.write_all(&chunk).with_context(context)?;
        checker.pass(&chunk)?;
    }
    let (Whole { keys, .. }, _) = checker.end()?;
    output.into_inner().context("failed to write the last of the backup")?.sync_all().with_context(context)?;
    fs::rename(unfinished, file).with_context(|| format!("failed to make {}", file.display()))?;
    Ok(keys)
}

/// The digest of the backup whose restore began in this cluster and has not ended. Waits for an open leader for `patience`.
///
/// # Errors
/// When there is none by then.
pub(crate) async fn under_way(client: &NodeClient, patience: Duration) -> Result<Option<String>> {
    let ask = async || {
        let status = client.status().await?;
        match status.state {
            LeaderState::Open => Ok(status.restore.map(|restore| restore.backup)),
            state => Err(anyhow!("the leader is {state}: {}", status.message)),
        }
    };
    until_answered(patience, |_| true, ask).await
}

/// Puts the keys of a backup into a cluster; returns how many. Nothing of one that is not whole, or of another cluster than
/// `of`, is put anywhere. A restore of this backup that was interrupted goes on, and until one ends the cluster shows nothing
/// and takes nothing else.
///
/// What is not taken is sent again for `patience`.
///
/// # Errors
/// When the source is not a whole backup, the cluster has keys (unless `overwrite`), or a key is not taken; then with how far
/// it came.
pub(crate) async fn restore(
    client: &NodeClient,
    source: &Source,
    of: Option<&str>,
    overwrite: bool,
    patience: Duration,
) -> Result<u64> {
    let about = || format!("failed to restore {source}");
    let Whole { keys, digest, .. } = source.check(of).await.with_context(about)?;
    let step = |stage| RestoreStep { backup: Some(&digest), stage, overwrite };
    send(client, step(Some("begin")), String::new(), patience).await.with_context(about)?;

    let mut sent = 0;
    let work = async {
        let mut lines = KeyLines::new(source.open().await?);
        let (mut request, mut count) = (String::new(), 0);
        while let Some(keys) = lines.next().await? {
            for line in keys {
                request.push_str(&line);
                count += 1;
                if request.len() >= REQUEST_BYTES || count >= REQUEST_KEYS {
                    send(client, step(None), std::mem::take(&mut request), patience).await?;
                    sent += std::mem::take(&mut count);
                }
            }
        }
        if count > 0 {
            send(client, step(None), request, patience).await?;
            sent += count;
        }
        send(client, step(Some("end")), String::new(), patience).await?;
        anyhow::Ok(keys)
    };
    work.await.with_context(|| {
        format!(
            "{}: {sent} of its {keys} keys are restored for certain. The cluster serves no client until the same \
             command continues it, or --give-up ends it",
            about()
        )
    })
}

/// Gives up a restore that was interrupted: the cluster serves what it has of it.
///
/// # Errors
/// When the leader does not take it.
pub(crate) async fn give_up(client: &NodeClient, patience: Duration) -> Result<()> {
    let step = RestoreStep { backup: None, stage: Some("give-up"), overwrite: false };
    Ok(send(client, step, String::new(), patience).await?)
}

/// Sends one step until the leader took it: a request that is sent again changes nothing.
async fn send(
    client: &NodeClient,
    step: RestoreStep<'_>,
    lines: String,
    patience: Duration,
) -> Result<(), RestoreError> {
    until_answered(patience, RestoreError::is_temporary, || client.restore(step, lines.clone(), REQUEST_MAX)).await
}
