//! Where backups are kept: a directory, or a bucket of a store that speaks S3.

use std::{fmt, fs, path::Path as FilePath, sync::Arc, time::SystemTime};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use kv_node::backup::Whole;
use object_store::{
    GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, WriteMultipart, aws::AmazonS3Builder, local::LocalFileSystem,
    path::Path,
};

use super::{
    lines::{self, Checker, Chunks},
    record::{self, DATA, Keep, RECORD, Record},
};
use crate::output::WrongUsage;

mod http;

/// How many bytes go with one request; a store takes 10,000 parts of one object.
const PART_BYTES: usize = 8 << 20;

/// How many requests with parts are under way at once.
const PARTS_AT_ONCE: usize = 4;

/// How many records are read at once.
const RECORDS_AT_ONCE: usize = 8;

/// The longest record.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// After how many days data without a record are those of a backup that failed, not of one that is under way.
const LEFTOVER_DAYS: i64 = 1;

/// A directory or a part of a bucket.
#[derive(Clone)]
pub(crate) struct Place {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// As the user named it.
    named: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.named)
    }
}

/// A backup in a place, with its record.
#[derive(Clone)]
pub(crate) struct Kept {
    place: Place,
    pub record: Record,
    /// Of the data, so that two reads of a restore are of the same.
    data: ObjectMeta,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.record.name, self.place)
    }
}

impl Kept {
    /// Its data.
    ///
    /// # Errors
    /// When they are gone, or were replaced since the place was listed.
    pub(crate) async fn open(&self) -> Result<Chunks> {
        self.place.read(&self.data).await
    }
}

/// What a backup came to.
#[derive(Debug)]
pub(crate) struct Saved {
    pub record: Record,
    /// The names of those that were removed.
    pub removed: Vec<String>,
}

impl Place {
    /// The place of this name: `s3://BUCKET/PREFIX`, or a directory, which is made where `make` is set.
    ///
    /// # Errors
    /// When it cannot be one.
    pub(crate) fn of(named: &str, make: bool) -> Result<Self> {
        match named.split_once("://") {
            Some(("s3", rest)) => Self::bucket(named, rest),
            Some((scheme, _)) => Err(WrongUsage::error(format!(
                "{named} begins with {scheme}://: a place for backups is s3://BUCKET/PREFIX or a directory"
            ))),
            None => Self::directory(FilePath::new(named), make),
        }
    }

    fn bucket(named: &str, rest: &str) -> Result<Self> {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(WrongUsage::error(format!("{named} names no bucket: s3://BUCKET/PREFIX")));
        }
        let prefix = Path::parse(prefix.trim_matches('/')).with_context(|| format!("{named} has no valid prefix"))?;
        let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        let store =
            builder.with_http_connector(http::Connector::new()?).with_retry(http::retries()).with_allow_http(true);
        let store = store.build().with_context(|| format!("failed to prepare for {named}"))?;
        Ok(Self { store: Arc::new(store), prefix, named: named.to_owned() })
    }

    fn directory(path: &FilePath, make: bool) -> Result<Self> {
        if make {
            fs::create_dir_all(path).with_context(|| format!("failed to make the directory {}", path.display()))?;
        }
        let store = LocalFileSystem::new_with_prefix(path);
        let store = store.with_context(|| format!("failed to open the directory {}", path.display()))?.with_fsync(true);
        Ok(Self { store: Arc::new(store), prefix: Path::default(), named: path.display().to_string() })
    }

    fn path(&self, name: &str, end: &str) -> Path {
        self.prefix.clone().join(format!("{name}{end}"))
    }

    async fn read(&self, data: &ObjectMeta) -> Result<Chunks> {
        let options = GetOptions { if_match: data.e_tag.clone(), ..GetOptions::default() };
        let about = format!("failed to read {} of {self}", data.location);
        let result = self.store.get_opts(&data.location, options).await.with_context(|| about.clone())?;
        Ok(result.into_stream().map(move |chunk| chunk.with_context(|| about.clone())).boxed())
    }

    /// Everything in it: the verified backups, from the newest to the oldest, and the data without a record.
    async fn contents(&self) -> Result<(Vec<Kept>, Vec<ObjectMeta>)> {
        let prefix = (self.prefix != Path::default()).then_some(&self.prefix);
        let listed = self.store.list_with_delimiter(prefix).await;
        let objects = listed.with_context(|| format!("failed to list {self}"))?.objects;
        let of_name = |name: &str, end: &str| objects.iter().find(|object| object.location == self.path(name, end));
        let records =
            objects.iter().filter_map(|object| Some((object, object.location.filename()?.strip_suffix(RECORD)?)));
        let read = records.filter(|(object, _)| object.size <= RECORD_BYTES_MAX).map(|(object, name)| async move {
            let bytes = self.store.get(&object.location).await?.bytes().await?;
            anyhow::Ok((name, Record::parse(name, &bytes)?))
        });
        let read: Vec<_> = futures::stream::iter(read).buffered(RECORDS_AT_ONCE).try_collect().await?;
        let mut kept: Vec<Kept> = read
            .into_iter()
            .filter_map(|(name, record)| {
                // Data of another size are not those that were verified.
                let (record, data) = (record?, of_name(name, DATA)?);
                (data.size == record.bytes).then(|| Kept { place: self.clone(), record, data: data.clone() })
            })
            .collect();
        kept.sort_by(|a, b| (&b.record.taken, &b.record.name).cmp(&(&a.record.taken, &a.record.name)));
        let is_leftover = |object: &&ObjectMeta| {
            let name = object.location.filename().and_then(|name| name.strip_suffix(DATA));
            name.is_some_and(|name| of_name(name, RECORD).is_none())
        };
        let leftovers = objects.iter().filter(is_leftover).cloned().collect();
        Ok((kept, leftovers))
    }

    /// The verified backups, of one cluster or of all, from the newest to the oldest.
    ///
    /// # Errors
    /// When the place cannot be listed.
    pub(crate) async fn list(&self, cluster: Option<&str>) -> Result<Vec<Kept>> {
        let (mut kept, _) = self.contents().await?;
        kept.retain(|kept| cluster.is_none() || kept.record.cluster.as_deref() == cluster);
        Ok(kept)
    }

    /// The backup of this name, or else the newest one of the cluster.
    ///
    /// # Errors
    /// When there is none, or it would be chosen among those of several clusters.
    pub(crate) async fn choose(&self, name: Option<&str>, cluster: Option<&str>) -> Result<Kept> {
        let kept = self.list(None).await?;
        if let Some(name) = name {
            let found = kept.into_iter().find(|kept| kept.record.name == name);
            return found.with_context(|| format!("{self} has no verified backup {name}"));
        }
        let mut clusters: Vec<_> =
            kept.iter().map(|kept| kept.record.cluster.as_deref().unwrap_or("(unnamed)")).collect();
        clusters.sort_unstable();
        clusters.dedup();
        if cluster.is_none() && clusters.len() > 1 {
            bail!("{self} has backups of {}: choose by --cluster or --backup", clusters.join(", "));
        }
        let others = clusters.join(", ");
        let mut kept = kept.into_iter().filter(|kept| cluster.is_none() || kept.record.cluster.as_deref() == cluster);
        match (kept.next(), cluster) {
            (Some(newest), _) => Ok(newest),
            (None, Some(cluster)) if !others.is_empty() => bail!("{self} has no backup of {cluster}, only of {others}"),
            (None, _) => bail!("{self} has no verified backup"),
        }
    }

    /// The backup with this digest, whose restore is under way.
    ///
    /// # Errors
    /// When it is not there any more.
    pub(crate) async fn with_digest(&self, digest: &str) -> Result<Kept> {
        let found = self.list(None).await?.into_iter().find(|kept| kept.record.digest == digest);
        found.with_context(|| {
            format!(
                "the restore of the backup with digest {digest} is not finished, and {self} does not have that backup"
            )
        })
    }

    /// Stores a backup, reads it back, and removes those that are not to be kept. One that is not as it was sent does not
    /// count, and nothing is removed then.
    ///
    /// # Errors
    /// When it cannot be stored in full, or comes back differently.
    pub(crate) async fn save(&self, chunks: Chunks, taken: SystemTime, keep: Keep) -> Result<Saved> {
        let (path, name, sent) = self.upload(chunks, taken).await?;
        let record = match self.read_back(&path, &sent).await {
            Ok(()) => Record::new(name, taken, &sent.0, sent.1),
            Err(error) => {
                // Without a record it does not count, whether or not it can be removed.
                let _ = self.store.delete(&path).await;
                return Err(error.context(format!("failed to verify the backup in {self}")));
            }
        };
        let written = self.store.put(&self.path(&record.name, RECORD), record.text().into()).await;
        written.with_context(|| format!("failed to write the record of {} to {self}", record.name))?;
        let removed = self.prune(&record, keep).await.with_context(|| {
            format!("the backup {} is in {self}, and those that are not to be kept could not be removed", record.name)
        })?;
        Ok(Saved { record, removed })
    }

    /// Sends the data. What breaks off leaves no object.
    async fn upload(&self, mut chunks: Chunks, taken: SystemTime) -> Result<(Path, String, (Whole, u64))> {
        let mut checker = Checker::default();
        let mut first = Vec::new();
        // The first line has the name of the cluster.
        while checker.header().is_none() {
            let Some(chunk) = lines::next(&mut chunks).await? else { break };
            checker.pass(&chunk)?;
            first.extend_from_slice(&chunk);
        }
        let cluster = checker.header().and_then(|header| header.cluster.clone());
        let name = record::name(cluster.as_deref(), taken, rand::random());
        let path = self.path(&name, DATA);
        let context = || format!("failed to write {name} to {self}");
        let parts = self.store.put_multipart(&path).await.with_context(context)?;
        let mut upload = WriteMultipart::new_with_chunk_size(parts, PART_BYTES);
        upload.write(&first);
        let sending = async {
            while let Some(chunk) = lines::next(&mut chunks).await? {
                checker.pass(&chunk)?;
                upload.wait_for_capacity(PARTS_AT_ONCE).await.with_context(context)?;
                upload.write(&chunk);
            }
            checker.end()
        };
        match sending.await {
            Ok(sent) => {
                upload.finish().await.with_context(context)?;
                Ok((path, name, sent))
            }
            Err(error) => {
                // A store that does not take this drops the parts by its own rule.
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }

    async fn read_back(&self, path: &Path, (sent, sent_bytes): &(Whole, u64)) -> Result<()> {
        let data = self.store.head(path).await?;
        let (whole, bytes) = lines::check(self.read(&data).await?).await?;
        if (&whole, bytes) != (sent, *sent_bytes) {
            bail!(
                "digest {} of {bytes} bytes came back, and {} of {sent_bytes} bytes were sent",
                whole.digest,
                sent.digest
            );
        }
        Ok(())
    }

    /// Removes what is not to be kept of the cluster of this backup: records before their data, so that half a removal
    /// leaves none that counts.
    async fn prune(&self, newest: &Record, keep: Keep) -> Result<Vec<String>> {
        let (kept, leftovers) = self.contents().await?;
        let records: Vec<Record> =
            kept.iter().map(|kept| kept.record.clone()).filter(|record| record.cluster == newest.cluster).collect();
        let mut removed = Vec::new();
        for surplus in keep.surplus(&records, SystemTime::now()) {
            for end in [RECORD, DATA] {
                self.remove(&self.path(&surplus.name, end)).await?;
            }
            removed.push(surplus.name.clone());
        }
        // By the clock of the store.
        let latest = kept.iter().find(|kept| kept.record.name == newest.name).map(|kept| kept.data.last_modified);
        for data in leftovers {
            let name = data.location.filename().and_then(|name| name.strip_suffix(DATA)).unwrap_or_default();
            let old = latest.is_some_and(|latest| (latest - data.last_modified).num_days() >= LEFTOVER_DAYS);
            if old && record::is_name_of(newest.cluster.as_deref(), name) {
                self.remove(&data.location).await?;
            }
        }
        Ok(removed)
    }

    async fn remove(&self, path: &Path) -> Result<()> {
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("failed to remove {path}")),
        }
    }
}

#[cfg(test)]
mod tests;
