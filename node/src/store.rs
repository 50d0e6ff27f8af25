//! Stores a follower's changes, in memory or in a data directory.
//!
//! The store connects the pure [`Follower`](crate::protocol::follower::Follower) with a disk. The
//! caller appends changes in the order of the decisions and gets a [`Stored`], which resolves once
//! the changes are durable. The caller must not send a reply before.
//!
//! The modules: [`disk`] opens a data directory and reports its condition. `committer` is the one
//! thread that stores; it writes everything that is queued with one sync. `ledger` keeps the count
//! and the digest that prove a state complete. `log` writes the log, `segment` defines its bytes,
//! and `batches` reads them: `replay` at start, `cleaner` to copy the newest records out of the
//! oldest segment, `scrub` to find damage, which `mend` repairs. `directory` has the other files.
//! All of them use [`files`], so that a test can replace the disk; `direct` writes past the page
//! cache. `docs/storage.md` explains the design.

mod batches;
mod cleaner;
mod committer;
mod direct;
mod directory;
pub mod disk;
pub mod files;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod head;
mod ledger;
mod log;
#[cfg(test)]
mod log_tests;
mod mend;
mod replay;
mod scrub;
mod segment;
mod signal;

use std::path::PathBuf;

pub use self::committer::Stepped;
use self::committer::{Committer, Condition, Progress};
use self::signal::Receiver;
use crate::protocol::follower::Change;

/// Why the store cannot be opened or cannot continue. One line, for operators.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process uses the directory.
    #[error("the data directory {0} is in use by another process")]
    InUse(PathBuf),
    /// A later release wrote it.
    #[error("the data directory {path} has format {found}, but this release reads format {known}: run a newer release")]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// The format of the directory.
        found: u32,
        /// The format of this release.
        known: u32,
    },
    /// An earlier release wrote it.
    #[error(
        "the data directory {path} has format {found}, but this release reads format {known}: give it an empty directory, \
         one follower after the other"
    )]
    OlderFormat {
        /// The directory.
        path: PathBuf,
        /// The format of the directory.
        found: u32,
        /// The format of this release.
        known: u32,
    },
    /// The directory contains files that are not a follower's.
    #[error(
        "the data directory {path} contains {entry:?}, which is not a file of a follower: give it an empty directory"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// A name found there.
        entry: String,
    },
    /// The directory belongs to another cluster.
    #[error("the data directory {path} belongs to the cluster {found:?}, but this follower belongs to {wanted:?}")]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// The cluster of the directory.
        found: String,
        /// The cluster in the settings.
        wanted: String,
    },
    /// An operation of the file system failed.
    #[error("failed to {action} {path}: {source}")]
    Io {
        /// The operation.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The error.
        source: std::io::Error,
    },
    /// Changes could not be stored. The store stores nothing after it, since the result of a
    /// repeated sync cannot be trusted.
    #[error("failed to store: {0}")]
    Failed(String),
}

/// The condition of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// How many bytes of the log were read again since the start and found intact.
    pub checked_bytes: u64,
    /// How many damaged batches were found.
    pub damaged: u64,
    /// How many of these are repaired.
    pub mended: u64,
    /// The number of the damaged batch found last.
    pub damaged_batch: Option<u64>,
    /// Whether the follower has to store all its records again ([`Renewal`]).
    pub renews: bool,
}

/// Reports when a store needs all records again because its log is damaged.
#[derive(Debug)]
pub struct Renewal(Option<Receiver<Condition>>);

/// The place where changes are stored.
#[derive(Debug)]
pub enum Store {
    /// No disk: the state is only in the follower's memory, and a restart makes the follower blank.
    Memory,
    /// A data directory.
    Disk(Committer),
}

/// Resolves once the changes of one [`Store::append`], and all earlier ones, are stored.
#[derive(Debug)]
#[must_use = "a reply must not leave before its changes are stored"]
pub struct Stored(Option<(u64, Receiver<Progress>)>);

/// Resolves when the store has failed.
#[derive(Debug)]
pub struct StoreFailure(Option<Receiver<Condition>>);

impl Store {
    /// Appends changes in order. Does not block; the caller waits for the result. Without changes,
    /// the result waits for the earlier ones, on which a reply may depend.
    pub fn append(&self, changes: Vec<Change>) -> Stored {
        match self {
            Self::Memory => Stored(None),
            Self::Disk(committer) => Stored(Some(committer.append(changes))),
        }
    }

    /// The condition of the disk; `None` for a store in memory.
    pub fn health(&self) -> Option<Health> {
        match self {
            Self::Memory => None,
            Self::Disk(committer) => Some(committer.condition().borrow().health),
        }
    }

    /// Reports when the follower has to store all its records again.
    pub fn renewal(&self) -> Renewal {
        match self {
            Self::Memory => Renewal(None),
            Self::Disk(committer) => Renewal(Some(committer.condition())),
        }
    }

    /// Reports a failure of the store, after which the follower has to exit.
    pub fn failure(&self) -> StoreFailure {
        match self {
            Self::Memory => StoreFailure(None),
            Self::Disk(committer) => StoreFailure(Some(committer.condition())),
        }
    }
}

impl Stored {
    /// Waits until the changes are stored.
    ///
    /// # Errors
    /// [`StoreError::Failed`]: the changes may be lost, and the caller may send no more replies.
    pub async fn wait(&mut self) -> Result<(), StoreError> {
        let Some((position, progress)) = &mut self.0 else {
            return Ok(());
        };
        let position = *position;
        match progress.wait_for(|progress| progress.failed.is_some() || progress.stored >= position).await {
            Ok(progress) if progress.stored >= position => Ok(()),
            Ok(progress) => Err(StoreError::Failed(progress.failed.as_deref().unwrap_or_default().to_owned())),
            Err(_) => Err(StoreError::Failed("the store was closed".to_owned())),
        }
    }
}

impl Renewal {
    /// Waits until the store needs all records. Never resolves if nothing is damaged.
    pub async fn wanted(&mut self) {
        if let Some(condition) = &mut self.0
            && condition.wait_for(|condition| condition.health.renews).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    /// Whether the store still needs records.
    pub fn is_wanted(&self) -> bool {
        self.0.as_ref().is_some_and(|condition| condition.borrow().health.renews)
    }
}

impl StoreFailure {
    /// Waits for the failure. Never resolves if nothing fails.
    pub async fn wait(mut self) -> StoreError {
        if let Some(condition) = &mut self.0
            && let Ok(condition) = condition.wait_for(|condition| condition.failed.is_some()).await
        {
            return StoreError::Failed(condition.failed.as_deref().unwrap_or_default().to_owned());
        }
        std::future::pending().await
    }
}
