//! What a follower remembers, and where.
//!
//! The seam between the pure [`Follower`](crate::protocol::follower::Follower) and a disk: changes go in, in the order in
//! which they were decided, and come back as [`Stored`] once they cannot be lost. No reply may leave before.
//!
//! From the outside in: [`disk`] opens a data directory and reports what it found; `committer` is the one thread that
//! stores, everything queued with one sync; `ledger` keeps the count and the digest that prove a state complete; `log` is
//! what is written, `segment` its bytes, `batches` reads them, `replay` at start, `cleaner` for what still counts in the
//! oldest part, `scrub` to find damage, which `mend` mends; `directory` has the files around it. Everything goes through
//! [`files`], so that a test can take the place of the disk. `docs/storage.md` says why it is so.

mod batches;
mod cleaner;
mod committer;
mod directory;
pub mod disk;
pub mod files;
mod ledger;
mod log;
#[cfg(test)]
mod log_tests;
mod mend;
mod replay;
mod scrub;
mod segment;

use std::path::PathBuf;

use tokio::sync::watch;

pub use self::committer::Stepped;
use self::committer::{Committer, Progress};
use crate::protocol::follower::Change;

/// The store cannot be opened, or cannot go on. One line, for people.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("the data directory {0} is in use by another process")]
    InUse(PathBuf),
    /// A later release wrote it.
    #[error("the data directory {path} has format {found}, and this release reads format {known}: run a newer release")]
    NewerFormat {
        /// Where.
        path: PathBuf,
        /// As the directory says.
        found: u32,
        /// What can be read.
        known: u32,
    },
    /// An earlier release wrote it.
    #[error(
        "the data directory {path} has format {found}, and this release reads format {known}: give it an empty directory, \
         one follower after the other"
    )]
    OlderFormat {
        /// Where.
        path: PathBuf,
        /// As the directory says.
        found: u32,
        /// What can be read.
        known: u32,
    },
    /// It holds something else.
    #[error("the data directory {path} holds {entry:?}, which is not of a follower: give it an empty directory")]
    Foreign {
        /// Where.
        path: PathBuf,
        /// A name found there.
        entry: String,
    },
    /// It belongs to followers of another cluster.
    #[error("the data directory {path} belongs to the cluster {found:?}, and this follower is of {wanted:?}")]
    OtherCluster {
        /// Where.
        path: PathBuf,
        /// As the directory says.
        found: String,
        /// As the settings say.
        wanted: String,
    },
    /// The operating system refused.
    #[error("failed to {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Changes could not be stored. Nothing is stored after it: what a sync that is tried again says cannot be trusted.
    #[error("failed to store: {0}")]
    Failed(String),
}

/// How the disk is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// How many bytes of the log were read again since the start, and were as they were stored.
    pub checked_bytes: u64,
    /// How many times a damaged batch was found.
    pub damaged: u64,
    /// How many of these times it is mended.
    pub mended: u64,
    /// The number of the batch that was found last.
    pub damaged_batch: Option<u64>,
    /// The follower has to hand its records over ([`Renewal`]).
    pub renews: bool,
}

/// Says when a store needs all records once more: what it has of them on its disk is damaged.
#[derive(Debug)]
pub struct Renewal(Option<watch::Receiver<Progress>>);

/// Where changes go.
#[derive(Debug)]
pub enum Store {
    /// Nowhere: the follower's memory is all there is, and a restart makes it blank.
    Memory,
    /// A data directory.
    Disk(Committer),
}

/// Resolves once the changes of one [`Store::append`], and all before them, are as durable as the store makes them.
#[derive(Debug)]
#[must_use = "a reply must not leave before its changes are stored"]
pub struct Stored(Option<(u64, watch::Receiver<Progress>)>);

/// Resolves when the store can no longer keep anything.
#[derive(Debug)]
pub struct StoreFailure(Option<watch::Receiver<Progress>>);

impl Store {
    /// Takes changes in their order. Cheap: whoever needs them to be durable waits for the result. Without changes, the
    /// result waits for what others gave before: a reply may rest on that.
    pub fn append(&self, changes: Vec<Change>) -> Stored {
        match self {
            Self::Memory => Stored(None),
            Self::Disk(committer) => Stored(Some(committer.append(changes))),
        }
    }

    /// How the disk is doing, where there is one.
    pub fn health(&self) -> Option<Health> {
        match self {
            Self::Memory => None,
            Self::Disk(committer) => Some(committer.progress().borrow().health),
        }
    }

    /// What to watch to hand records over when the store needs them again.
    pub fn renewal(&self) -> Renewal {
        match self {
            Self::Memory => Renewal(None),
            Self::Disk(committer) => Renewal(Some(committer.progress())),
        }
    }

    /// What to watch beside everything else: a follower whose store failed has to end.
    pub fn failure(&self) -> StoreFailure {
        match self {
            Self::Memory => StoreFailure(None),
            Self::Disk(committer) => StoreFailure(Some(committer.progress())),
        }
    }
}

impl Stored {
    /// Waits.
    ///
    /// # Errors
    /// [`StoreError::Failed`]: the changes may be lost, and no reply may leave any more.
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
    /// Waits until the store needs all records. Never, where nothing is damaged.
    pub async fn wanted(&mut self) {
        if let Some(progress) = &mut self.0
            && progress.wait_for(|progress| progress.health.renews).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    /// Whether the store still needs some.
    pub fn is_wanted(&self) -> bool {
        self.0.as_ref().is_some_and(|progress| progress.borrow().health.renews)
    }
}

impl StoreFailure {
    /// Waits, for ever where nothing fails.
    pub async fn wait(mut self) -> StoreError {
        if let Some(progress) = &mut self.0
            && let Ok(progress) = progress.wait_for(|progress| progress.failed.is_some()).await
        {
            return StoreError::Failed(progress.failed.as_deref().unwrap_or_default().to_owned());
        }
        std::future::pending().await
    }
}
