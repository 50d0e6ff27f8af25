//! A cluster's state as a file, and back.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use kv_node::backup::Reader;

use crate::client::NodeClient;

/// About how many bytes of lines go with one request.
const REQUEST_BYTES: usize = 256 << 10;

/// How many keys go with one request: the leader takes them all at once.
const REQUEST_KEYS: usize = 1_000;

/// How often a request that may not have been applied is sent again.
const ATTEMPTS_MAX: u32 = 10;

/// Fetches a backup into a file, which is there in full or not at all; returns how many keys it has.
///
/// # Errors
/// When the leader gives none, or not all of it.
pub async fn save(client: &NodeClient, file: &Path) -> Result<u64> {
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
    let (_, keys) = reader.end()?;
    output.into_inner().context("failed to write the last of the backup")?.sync_all().with_context(context)?;
    fs::rename(unfinished, file).with_context(|| format!("failed to make {}", file.display()))?;
    Ok(keys)
}

/// Puts the keys of a file into a cluster; returns how many. Nothing of a file that is not whole is put anywhere.
///
/// # Errors
/// When the file is not a whole backup, the cluster has keys (unless `overwrite`), or a key is not taken.
pub async fn restore(client: &NodeClient, file: &Path, overwrite: bool, wait: Duration) -> Result<u64> {
    let about = || format!("failed to restore {}", file.display());
    let keys = check(file).with_context(about)?;
    let there = client.status().await?.keys;
    if there > 0 && !overwrite {
        bail!(
            "the cluster at {} has {there} keys already: restore into an empty one, or say --overwrite (which goes on with \
             a restore that was interrupted, too)",
            client.url()
        );
    }
    let (mut reader, mut lines, mut count) = (Reader::default(), String::new(), 0);
    let mut input = BufReader::new(File::open(file).with_context(about)?);
    while let Some(line) = next_line(&mut input).with_context(about)? {
        if reader.line(&line).with_context(about)?.is_some() {
            lines.push_str(&line);
            count += 1;
        }
        if lines.len() >= REQUEST_BYTES || count >= REQUEST_KEYS {
            send(client, std::mem::take(&mut lines), overwrite, wait).await?;
            count = 0;
        }
    }
    if count > 0 {
        send(client, lines, overwrite, wait).await?;
    }
    reader.end().with_context(about)?;
    Ok(keys)
}

/// Sends some keys until the leader has them: a request that is sent again changes nothing.
async fn send(client: &NodeClient, lines: String, overwrite: bool, wait: Duration) -> Result<()> {
    for attempt in 1.. {
        match client.restore(lines.clone(), overwrite, wait).await {
            Ok(()) => break,
            Err(error) if attempt == ATTEMPTS_MAX || !error.is_temporary() => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
    Ok(())
}

/// Reads a whole backup; returns how many keys it has.
///
/// # Errors
/// What is wrong with it.
pub fn check(file: &Path) -> Result<u64> {
    let mut reader = Reader::default();
    let mut input = BufReader::new(File::open(file).with_context(|| format!("failed to open {}", file.display()))?);
    while let Some(line) = next_line(&mut input)? {
        reader.line(&line)?;
    }
    Ok(reader.end()?.1)
}

fn next_line(input: &mut impl BufRead) -> Result<Option<String>> {
    let mut line = String::new();
    let read = input.read_line(&mut line).context("failed to read the next line")?;
    Ok((read > 0).then_some(line))
}
