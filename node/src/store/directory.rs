//! The files of a data directory:
//!
//! ```text
//! lock          locked by the process that uses the directory
//! state/        a follower's state; it is here in full or not at all: it is made as state.new and then renamed
//!   format      text: the number of the format, the follower's id, its cluster, and a checksum
//!   confirmed   the number of the last batch that was confirmed
//!   log/        the segments of the log
//! damaged-1/    a state that was damaged, for people to look at; only the last one is kept
//! ```

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::StoreError;
use super::files::{Files, Listed, OpenFile, read_all, sync_dir};
use crate::protocol::types::FollowerId;

/// The format that this release writes: values are any bytes.
pub(super) const FORMAT: u32 = 3;

/// The earliest format that this release reads. Format 2 has the same bytes, but its values are UTF-8.
/// A release that knows only format 2 would take any other value for damage, hence the new number.
pub(super) const FORMAT_MIN: u32 = 2;

/// Distance of slots. Large enough that a torn write damages only one of them.
const SLOT_BYTES: u64 = 512;

/// A data directory, locked until this is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    files: Arc<dyn Files>,
    path: PathBuf,
    _lock: Box<dyn OpenFile>,
}

/// The content of the file `format`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) number: u32,
    pub(super) id: FollowerId,
    pub(super) cluster: Option<String>,
}

impl Directory {
    /// Locks the directory; creates it if it does not exist.
    pub(super) fn take(files: Arc<dyn Files>, path: &Path) -> Result<Self, StoreError> {
        let failed = |action| move |source| StoreError::Io { action, path: path.to_owned(), source };
        create_all(&*files, path).map_err(failed("create the data directory"))?;
        for Listed { name, .. } in files.list(path).map_err(failed("list the data directory"))? {
            let name = name.to_string_lossy();
            let ours = matches!(&*name, "lock" | "state" | "state.new" | "lost+found") || name.starts_with("damaged-");
            if !ours {
                return Err(StoreError::Foreign { path: path.to_owned(), entry: name.into_owned() });
            }
        }
        match files.lock(&path.join("lock")).map_err(failed("lock the data directory"))? {
            Some(lock) => Ok(Self { files, path: path.to_owned(), _lock: lock }),
            None => Err(StoreError::InUse(path.to_owned())),
        }
    }

    pub(super) fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// Whether there is a state. Syncs the directory, since an earlier process may have ended
    /// between renaming the state and syncing the name.
    pub(super) fn has_state(&self) -> io::Result<bool> {
        let exists = self.files.list(&self.path)?.iter().any(|entry| entry.name == "state");
        if exists {
            sync_dir(&*self.files, &self.path)?;
        }
        Ok(exists)
    }

    /// Creates a state with the given function. The state appears under its name only once it is
    /// complete.
    pub(super) fn create(&self, make: impl FnOnce(&Path) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let new = self.path.join("state.new");
        let io = |action, result: io::Result<()>| {
            result.map_err(|source| StoreError::Io { action, path: new.clone(), source })
        };
        io("remove the unfinished", remove_all(&*self.files, &new))?;
        io("create", self.files.create_dir(&new))?;
        make(&new)?;
        io("sync", sync_dir(&*self.files, &new))?;
        io("sync the directories above", sync_ancestors(&*self.files, &self.path))?;
        io("rename", self.files.rename(&new, &self.state()))?;
        io("sync", sync_dir(&*self.files, &self.path))
    }

    /// Renames a damaged state for inspection, and removes earlier damaged ones, which would fill
    /// the disk.
    pub(super) fn put_aside(&self) -> Result<PathBuf, StoreError> {
        let io = |action, path: &Path, result: io::Result<()>| {
            result.map_err(|source| StoreError::Io { action, path: path.to_owned(), source })
        };
        let mut last = 0;
        for Listed { name, .. } in self.files.list(&self.path).unwrap_or_default() {
            if let Some(number) = name.to_str().and_then(|name| name.strip_prefix("damaged-")?.parse::<u64>().ok()) {
                last = last.max(number);
                let path = self.path.join(name);
                io("remove", &path, remove_all(&*self.files, &path))?;
            }
        }
        let aside = self.path.join(format!("damaged-{}", last + 1));
        io("rename the damaged", &self.state(), self.files.rename(&self.state(), &aside))?;
        io("sync", &self.path, sync_dir(&*self.files, &self.path))?;
        Ok(aside)
    }
}

/// Creates a directory and its missing parents.
fn create_all(files: &dyn Files, path: &Path) -> io::Result<()> {
    match files.create_dir(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).ok_or(error)?;
            create_all(files, parent)?;
            create_all(files, path)
        }
        other => other,
    }
}

/// Syncs all parents of a directory. This process, or one that was killed, may have created any of
/// them. The follower did not create those that it has no permission to sync, so they are durable
/// already.
fn sync_ancestors(files: &dyn Files, path: &Path) -> io::Result<()> {
    use ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    for above in path.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match sync_dir(files, above) {
            Err(error)
                if matches!(error.kind(), InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Removes a directory with its content, or a file. Neither has to exist.
fn remove_all(files: &dyn Files, path: &Path) -> io::Result<()> {
    let entries = match files.list(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => return files.remove_file(path),
        other => other?,
    };
    for Listed { name, is_dir, .. } in entries {
        let path = path.join(name);
        if is_dir { remove_all(files, &path)? } else { files.remove_file(&path)? }
    }
    files.remove_dir(path)
}

impl Format {
    /// Later formats keep the first and the last line, so that an older release can name a newer
    /// format in its error.
    fn to_text(&self) -> String {
        let Self { number, id, cluster } = self;
        let cluster = cluster.as_ref().map(|cluster| format!("cluster {cluster}\n")).unwrap_or_default();
        let text = format!("kvcluster follower, format {number}\nid {id}\n{cluster}");
        let sum = xxh3_64(text.as_bytes());
        format!("{text}sum {sum:016x}\n")
    }

    fn from_text(text: &str) -> Option<Self> {
        let (body, sum) = text.strip_suffix('\n')?.rsplit_once("sum ")?;
        if sum != format!("{:016x}", xxh3_64(body.as_bytes())) {
            return None;
        }
        let mut lines = body.lines();
        let number = lines.next()?.strip_prefix("kvcluster follower, format ")?.parse().ok()?;
        let id = u64::from_str_radix(lines.next()?.strip_prefix("id ")?, 16).ok()?;
        let cluster = lines.next().and_then(|line| line.strip_prefix("cluster ")).map(str::to_owned);
        Some(Self { number, id: FollowerId(id), cluster })
    }

    pub(super) fn write(&self, files: &dyn Files, state: &Path) -> io::Result<()> {
        self.write_as(files, &state.join("format"))
    }

    fn write_as(&self, files: &dyn Files, path: &Path) -> io::Result<()> {
        let file = files.create_new(path)?;
        file.write_all_at(self.to_text().as_bytes(), 0)?;
        file.sync_all()
    }

    /// Replaces the file of an earlier format, so that a crash leaves one of the two.
    pub(super) fn replace(&self, files: &dyn Files, state: &Path) -> io::Result<()> {
        let new = state.join("format.new");
        remove_all(files, &new)?;
        self.write_as(files, &new)?;
        files.rename(&new, &state.join("format"))?;
        sync_dir(files, state)
    }

    /// `None` if the file is missing or damaged.
    pub(super) fn read(files: &dyn Files, state: &Path) -> io::Result<Option<Self>> {
        match files.open(&state.join("format")).and_then(|file| read_all(&*file)) {
            Ok(bytes) => Ok(String::from_utf8(bytes).ok().and_then(|text| Self::from_text(&text))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The number of the last confirmed batch.
///
/// It distinguishes an unfinished batch, which is cut off, from a confirmed batch that is lost. The
/// store writes it after every sync of the log and before the confirmation, so it is exact after a
/// kill. The store syncs it only when idle, so a power failure may set it back to an earlier
/// number.
///
/// Batches write slots 0 and 1 in turn. A power failure may tear both, since neither is synced.
/// Each sync first writes slot 2 or 3 in turn, so that the other of these two is always intact.
#[derive(Debug)]
pub(super) struct Confirmed {
    file: Box<dyn OpenFile>,
    /// The slot that the next sync writes.
    next: u64,
}

impl Confirmed {
    pub(super) fn create(files: &dyn Files, state: &Path, id: FollowerId, batch: u64) -> io::Result<()> {
        let file = files.create_new(&state.join("confirmed"))?;
        file.set_len(4 * SLOT_BYTES)?;
        let mut confirmed = Self { file, next: 2 };
        confirmed.write(id, batch)?;
        confirmed.sync(id, batch)
    }

    /// Opens the file and reads the number; `None` if no slot can be read.
    pub(super) fn open(files: &dyn Files, state: &Path, id: FollowerId) -> io::Result<Option<(Self, u64)>> {
        let file = match files.open(&state.join("confirmed")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut slots = [None; 4];
        for (slot, number) in slots.iter_mut().zip(0..) {
            let mut bytes = [0; 16];
            // A truncated slot does not match.
            file.read_at(&mut bytes, number * SLOT_BYTES)?;
            let batch = u64::from_le_bytes(*bytes.first_chunk().expect("half of sixteen bytes"));
            *slot = (bytes == Self::slot(id, batch)).then_some(batch);
        }
        let next = if slots[2] > slots[3] { 3 } else { 2 };
        Ok(slots.into_iter().max().flatten().map(|batch| (Self { file, next }, batch)))
    }

    pub(super) fn write(&self, id: FollowerId, batch: u64) -> io::Result<()> {
        self.file.write_all_at(&Self::slot(id, batch), batch % 2 * SLOT_BYTES)
    }

    pub(super) fn sync(&mut self, id: FollowerId, batch: u64) -> io::Result<()> {
        self.file.write_all_at(&Self::slot(id, batch), self.next * SLOT_BYTES)?;
        self.next = 5 - self.next;
        self.file.sync_data()
    }

    fn slot(id: FollowerId, batch: u64) -> [u8; 16] {
        let mut text = [0; 16];
        text[..8].copy_from_slice(&batch.to_le_bytes());
        text[8..].copy_from_slice(&id.0.to_le_bytes());
        let sum = xxh3_64(&text);
        text[8..].copy_from_slice(&sum.to_le_bytes());
        text
    }
}
