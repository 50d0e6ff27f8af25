//! A cluster's state as a file, and back.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use kv_node::backup::{Reader, Whole};

use crate::client::{NodeClient, RestoreError, RestoreStep, until_answered};

/// About how many bytes of lines go with one request.
const REQUEST_BYTES: usize = 256 << 10;

/// How many keys go with one request: the leader takes them all at once.
const REQUEST_KEYS: usize = 1_000;

/// How long one request may take; the leader answers earlier, after its replication timeout.
const REQUEST_MAX: Duration = Duration::from_secs(60);

/// Fetches a backup into a file, which is there in full or not at all; returns how many keys it has.
///
/// # Errors
/// When the leader gives none, or not all of it.
pub(crate) async fn save(client: &NodeClient, file: &Path) -> Result<u64> {
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".part");
    let unfinished = Path::new(&unfinished);
    let context = || format!("failed to write {}", unfinished.display());
    let mut response = client.backup().await?;
    let mut output = BufWriter::new(File::create(unfinished).with_context(context)?);
    // Checked on the way: what is kept is what can be restored.
    let (mut reader, mut rest) = (Reader::default(), Vec::new());
    while let Some(chunk) = response.chunk().await.context("the backup broke off")? {
        output.write_all(&chunk).with_context(context)?;
        rest.extend_from_slice(&chunk);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let lines = std::str::from_utf8(&rest[..whole]).context("the backup is not text")?;
        for line in lines.split_inclusive('\n') {
            reader.line(line)?;
        }
        rest.drain(..whole);
    }
    let keys = reader.end()?.keys;
    output.into_inner().context("failed to write the last of the backup")?.sync_all().with_context(context)?;
    fs::rename(unfinished, file).with_context(|| format!("failed to make {}", file.display()))?;
    Ok(keys)
}

/// Puts the keys of a file into a cluster; returns how many. Nothing of a file that is not whole is put anywhere. A restore
/// of this file that was interrupted goes on, and until one ends the cluster shows nothing and takes nothing else.
///
/// What is not taken is sent again for `patience`.
///
/// # Errors
/// When the file is not a whole backup, the cluster has keys (unless `overwrite`), or a key is not taken; then with how far
/// it came.
pub(crate) async fn restore(client: &NodeClient, file: &Path, overwrite: bool, patience: Duration) -> Result<u64> {
    let about = || format!("failed to restore {}", file.display());
    let Whole { keys, digest, .. } = check(file).with_context(about)?;
    let step = |stage| RestoreStep { backup: Some(&digest), stage, overwrite };
    send(client, step(Some("begin")), String::new(), patience).await.with_context(about)?;

    let mut sent = 0;
    let work = async {
        let (mut reader, mut lines, mut count) = (Reader::default(), String::new(), 0);
        let mut input = BufReader::new(File::open(file)?);
        while let Some(line) = next_line(&mut input)? {
            if reader.line(&line)?.is_some() {
                lines.push_str(&line);
                count += 1;
            }
            if lines.len() >= REQUEST_BYTES || count >= REQUEST_KEYS {
                send(client, step(None), std::mem::take(&mut lines), patience).await?;
                sent += std::mem::take(&mut count);
            }
        }
        if count > 0 {
            send(client, step(None), lines, patience).await?;
            sent += count;
        }
        reader.end()?;
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

/// Reads a whole backup; returns what it is.
///
/// # Errors
/// What is wrong with it.
fn check(file: &Path) -> Result<Whole> {
    let mut reader = Reader::default();
    let mut input = BufReader::new(File::open(file).with_context(|| format!("failed to open {}", file.display()))?);
    while let Some(line) = next_line(&mut input)? {
        reader.line(&line)?;
    }
    Ok(reader.end()?)
}

fn next_line(input: &mut impl BufRead) -> Result<Option<String>> {
    let mut line = String::new();
    let read = input.read_line(&mut line).context("failed to read the next line")?;
    Ok((read > 0).then_some(line))
}
