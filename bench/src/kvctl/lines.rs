//! The bytes of a backup as they arrive, and its lines.

use std::{fs::File, io::Read, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};
#[cfg(feature = "object-store")]
use kv_node::backup::Header;
use kv_node::backup::{Reader, Whole};
use tokio::time::timeout;

/// How many bytes of a file are read at once.
const FILE_CHUNK_BYTES: usize = 256 << 10;

/// The longest line: some times the longest value that a node can be made to accept.
const LINE_BYTES_MAX: usize = 1 << 30;

/// For how long what sends a backup may send nothing.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// The bytes of a backup, in order.
pub(crate) type Chunks = BoxStream<'static, Result<Bytes>>;

/// Those of a file.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn of_file(path: &Path) -> Result<Chunks> {
    let file = File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
    let path = path.to_owned();
    Ok(stream::try_unfold((file, path), async |(mut file, path)| {
        let mut chunk = vec![0; FILE_CHUNK_BYTES];
        let read = file.read(&mut chunk).with_context(|| format!("failed to read {}", path.display()))?;
        chunk.truncate(read);
        Ok((read > 0).then(|| (Bytes::from(chunk), (file, path))))
    })
    .boxed())
}

/// The next bytes; none at the end.
///
/// # Errors
/// When they do not come, or not in time.
pub(crate) async fn next(chunks: &mut Chunks) -> Result<Option<Bytes>> {
    let next = timeout(IDLE_MAX, chunks.next()).await;
    next.with_context(|| format!("nothing came for {} s", IDLE_MAX.as_secs()))?.transpose()
}

/// Cuts bytes into lines.
#[derive(Default)]
struct Cut {
    rest: Vec<u8>,
    /// How much of the rest is known to have no line break.
    searched: usize,
}

impl Cut {
    fn push(&mut self, chunk: &[u8]) -> Result<()> {
        if self.rest.len() > LINE_BYTES_MAX {
            bail!("it has a line of more than {LINE_BYTES_MAX} bytes, so it is no backup of kvcluster");
        }
        self.rest.extend_from_slice(chunk);
        Ok(())
    }

    /// The bytes of whole lines; what is left begins a line.
    fn whole(&mut self) -> Result<Option<String>> {
        let Some(last) = self.rest[self.searched..].iter().rposition(|byte| *byte == b'\n') else {
            self.searched = self.rest.len();
            return Ok(None);
        };
        let rest = self.rest.split_off(self.searched + last + 1);
        self.searched = 0;
        text(std::mem::replace(&mut self.rest, rest)).map(Some)
    }
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).ok().context("the backup is not text")
}

/// Checks a backup while its bytes pass.
#[derive(Default)]
pub(crate) struct Checker {
    reader: Reader,
    cut: Cut,
    bytes: u64,
}

impl Checker {
    /// The next bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn pass(&mut self, chunk: &[u8]) -> Result<()> {
        self.bytes += chunk.len() as u64;
        self.cut.push(chunk)?;
        if let Some(lines) = self.cut.whole()? {
            for line in lines.split_inclusive('\n') {
                self.reader.line(line)?;
            }
        }
        Ok(())
    }

    /// The first line, once it has passed.
    #[cfg(feature = "object-store")]
    pub(crate) fn header(&self) -> Option<&Header> {
        self.reader.header()
    }

    /// What it was, and of how many bytes.
    ///
    /// # Errors
    /// When that was no whole backup.
    pub(crate) fn end(mut self) -> Result<(Whole, u64)> {
        if !self.cut.rest.is_empty() {
            self.reader.line(&text(self.cut.rest)?)?;
        }
        Ok((self.reader.end()?, self.bytes))
    }
}

/// Reads a backup to its end; returns what it is, and of how many bytes.
///
/// # Errors
/// What is wrong with it.
pub(crate) async fn check(mut chunks: Chunks) -> Result<(Whole, u64)> {
    let mut checker = Checker::default();
    while let Some(chunk) = next(&mut chunks).await? {
        checker.pass(&chunk)?;
    }
    checker.end()
}

/// Reads the lines of the keys of a backup, in parts, and checks them on the way.
pub(crate) struct KeyLines {
    chunks: Chunks,
    cut: Cut,
    reader: Reader,
}

impl KeyLines {
    pub(crate) fn new(chunks: Chunks) -> Self {
        Self { chunks, cut: Cut::default(), reader: Reader::default() }
    }

    /// The next lines, with how many they are; none at the end of a whole backup.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<String>>> {
        while let Some(chunk) = next(&mut self.chunks).await? {
            self.cut.push(&chunk)?;
            let Some(lines) = self.cut.whole()? else { continue };
            let mut keys = Vec::new();
            for line in lines.split_inclusive('\n') {
                if self.reader.line(line)?.is_some() {
                    keys.push(line.to_owned());
                }
            }
            return Ok(Some(keys));
        }
        if !self.cut.rest.is_empty() {
            self.reader.line(&text(std::mem::take(&mut self.cut.rest))?)?;
        }
        std::mem::take(&mut self.reader).end()?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use kv_node::{backup::Writer, protocol::leader::Saved};

    use super::*;

    fn backup() -> String {
        let mut writer = Writer::of_cluster(Some("shop/demo"));
        let mut text = writer.header("4.01".to_owned(), 3);
        for (number, value) in ["one", "", "three \u{1f511}"].into_iter().enumerate() {
            let key = format!("key {number}").into();
            text.push_str(&writer.key(&Saved { key, seq: 7, value: Some(value.into()), marks: None }));
        }
        text + &writer.trailer()
    }

    fn chunks(text: &str, size: usize) -> Chunks {
        let chunks: Vec<_> = text.as_bytes().chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        stream::iter(chunks).boxed()
    }

    // Lines and characters are cut anywhere.
    #[tokio::test]
    async fn a_backup_is_the_same_in_chunks_of_any_size() {
        let text = backup();
        for size in 1..=text.len() {
            let (whole, bytes) = check(chunks(&text, size)).await.expect("whole");
            assert_eq!((whole.keys, bytes, whole.header.cluster.as_deref()), (3, text.len() as u64, Some("shop/demo")));
            let (mut lines, mut found) = (KeyLines::new(chunks(&text, size)), Vec::new());
            while let Some(some) = lines.next().await.expect("whole") {
                found.extend(some);
            }
            let expected: Vec<_> = text.split_inclusive('\n').skip(1).take(3).collect();
            assert_eq!(found, expected, "chunks of {size}");
        }
    }

    #[tokio::test]
    async fn no_part_of_a_backup_passes_for_the_whole() {
        let text = backup();
        for cut in 0..text.len() {
            let part = &text.as_bytes()[..cut];
            let part = stream::iter([Ok(Bytes::copy_from_slice(part))]).boxed();
            assert!(check(part).await.is_err(), "cut at {cut}");
        }
    }
}
