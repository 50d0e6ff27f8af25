//! The files of a data directory:
//!
//! ```text
//! lock          held by the process that uses the directory
//! state/        a follower's state; it is here in full or not at all, since it was made elsewhere and renamed
//!   format      text: the number of the format, the follower's id, its cluster, and a checksum
//!   confirmed   the number of the last batch that was confirmed to anybody
//!   log/        the segments of the log
//! damaged-1/    a state that was found damaged, for people to look at; only the last one is kept
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::StoreError;
use crate::protocol::types::FollowerId;

/// What this release writes and reads.
pub(super) const FORMAT: u32 = 2;

/// A slot is overwritten while the other one stays: a torn write costs one of them.
const SLOT_BYTES: u64 = 512;

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

/// What `format` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) number: u32,
    pub(super) id: FollowerId,
    pub(super) cluster: Option<String>,
}

impl Directory {
    /// Takes the directory; makes it where it is missing.
    pub(super) fn take(path: &Path) -> Result<Self, StoreError> {
        let failed = |action| move |source| StoreError::Io { action, path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed("create the data directory"))?;
        for entry in fs::read_dir(path).map_err(failed("list the data directory"))? {
            let entry = entry.map_err(failed("list the data directory"))?.file_name();
            let entry = entry.to_string_lossy();
            let ours =
                matches!(&*entry, "lock" | "state" | "state.new" | "lost+found") || entry.starts_with("damaged-");
            if !ours {
                return Err(StoreError::Foreign { path: path.to_owned(), entry: entry.into_owned() });
            }
        }
        let lock = OpenOptions::new().create(true).write(true).truncate(false).open(path.join("lock"));
        let lock = lock.map_err(failed("open the lock of the data directory"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed("lock the data directory")(source)),
        }
    }

    pub(super) fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// Makes a state with the given function, out of sight until it is complete.
    pub(super) fn create(&self, make: impl FnOnce(&Path) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let new = self.path.join("state.new");
        let io = |action, result: std::io::Result<()>| {
            result.map_err(|source| StoreError::Io { action, path: new.clone(), source })
        };
        io("remove the unfinished", remove(&new))?;
        io("create", fs::create_dir(&new))?;
        make(&new)?;
        io("sync", sync_directory(&new))?;
        io("rename", fs::rename(&new, self.state()))?;
        io("sync", sync_directory(&self.path))
    }

    /// Puts a damaged state aside, where people find it, and removes the one before it: two would fill the disk.
    pub(super) fn put_aside(&self) -> Result<PathBuf, StoreError> {
        let io = |action, path: &Path, result: std::io::Result<()>| {
            result.map_err(|source| StoreError::Io { action, path: path.to_owned(), source })
        };
        let mut last = 0;
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if let Some(number) = name.to_str().and_then(|name| name.strip_prefix("damaged-")?.parse::<u64>().ok()) {
                last = last.max(number);
                io("remove", &entry.path(), remove(&entry.path()))?;
            }
        }
        let aside = self.path.join(format!("damaged-{}", last + 1));
        io("rename the damaged", &self.state(), fs::rename(self.state(), &aside))?;
        io("sync", &self.path, sync_directory(&self.path))?;
        Ok(aside)
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub(super) fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

impl Format {
    /// First and last line stay as they are in every format to come, so that an older release can name a newer one.
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

    pub(super) fn write(&self, state: &Path) -> std::io::Result<()> {
        let mut file = File::create_new(state.join("format"))?;
        file.write_all(self.to_text().as_bytes())?;
        file.sync_all()
    }

    /// Nothing where the file is damaged.
    pub(super) fn read(state: &Path) -> std::io::Result<Option<Self>> {
        match fs::read(state.join("format")) {
            Ok(bytes) => Ok(String::from_utf8(bytes).ok().and_then(|text| Self::from_text(&text))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The number of the last batch that was confirmed to anybody.
///
/// It tells a batch that was never finished, which is cut off, from one that was and is gone. It is written after every
/// sync and before the confirmation, and synced itself only now and then: what a process leaves behind by being killed
/// always has it, and after a power failure it is behind by as much as was confirmed in the last moment.
#[derive(Debug)]
pub(super) struct Confirmed(File);

impl Confirmed {
    pub(super) fn create(state: &Path, id: FollowerId, batch: u64) -> std::io::Result<()> {
        let file = File::create_new(state.join("confirmed"))?;
        file.set_len(2 * SLOT_BYTES)?;
        let confirmed = Self(file);
        confirmed.write(id, batch)?;
        confirmed.0.sync_all()
    }

    /// The number; nothing where no slot can be read.
    pub(super) fn open(state: &Path, id: FollowerId) -> std::io::Result<Option<(Self, u64)>> {
        let file = match OpenOptions::new().read(true).write(true).open(state.join("confirmed")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut newest = None;
        for slot in 0..2 {
            let mut bytes = [0; 16];
            match file.read_exact_at(&mut bytes, slot * SLOT_BYTES) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => continue,
                other => other?,
            }
            let batch = u64::from_le_bytes(*bytes.first_chunk().expect("half of sixteen bytes"));
            if bytes == Self::slot(id, batch) && batch % 2 == slot {
                newest = newest.max(Some(batch));
            }
        }
        Ok(newest.map(|batch| (Self(file), batch)))
    }

    pub(super) fn write(&self, id: FollowerId, batch: u64) -> std::io::Result<()> {
        self.0.write_all_at(&Self::slot(id, batch), batch % 2 * SLOT_BYTES)
    }

    pub(super) fn sync(&self) -> std::io::Result<()> {
        self.0.sync_data()
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
