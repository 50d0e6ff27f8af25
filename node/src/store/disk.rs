//! A follower's data directory: opened, checked, and said in words.
//!
//! Three things are checked, each against what another one says: the head of the state against its own checksum; the
//! records against the count and the digest in the head; the head against the number of the last confirmed batch, which
//! stands outside the log. Where they agree, the state is what was stored, up to the last confirmed batch at least.
//! Where they do not, it is put aside and the follower starts blank, under a new id: a leader then knows that this disk
//! forgot what it confirmed. Nothing is repaired.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvcluster_api::status::DiskState;
use rand::RngExt;

use super::committer::{Committer, Sink, Stepped};
use super::directory::{Confirmed, Directory, FORMAT, Format};
use super::files::{Files, RealFiles};
use super::ledger::Ledger;
use super::log::Log;
use super::replay::{self, Loaded};
use super::{Store, StoreError};
use crate::protocol::follower::{Change, Kept};
use crate::protocol::types::FollowerId;

pub use super::log::Limits;

/// How a data directory is used. The default suits a follower on a real disk.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file system.
    pub files: Arc<dyn Files>,
    /// Sizes of the log.
    pub limits: Limits,
    /// The id of the follower, should it be blank.
    pub new_id: FollowerId,
}

impl Default for Options {
    fn default() -> Self {
        Self { files: Arc::new(RealFiles), limits: Limits::default(), new_id: FollowerId(rand::rng().random()) }
    }
}

/// A store on a disk, and what it holds.
#[derive(Debug)]
pub struct Opened {
    /// Where changes go from now on.
    pub store: Store,
    /// The id of the follower, made with its state.
    pub id: FollowerId,
    /// What was stored before.
    pub kept: Kept,
    /// What was found at start.
    pub found: Found,
}

/// What a data directory held when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: the follower is new.
    Nothing,
    /// A whole state.
    State {
        /// How many bytes of a batch that was never finished, and so never confirmed, were cut off.
        torn_bytes: u64,
    },
    /// A damaged state: the follower is blank, and has another id.
    Damage {
        /// What is wrong with it.
        reason: String,
        /// Where it is now.
        aside: PathBuf,
    },
}

impl Found {
    /// The condition of the directory, without details.
    pub fn state(&self) -> DiskState {
        match self {
            Self::Nothing => DiskState::New,
            Self::State { .. } => DiskState::Restored,
            Self::Damage { .. } => DiskState::Damaged,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "the data directory was empty"),
            Self::State { torn_bytes: 0 } => write!(f, "the state was restored"),
            Self::State { torn_bytes } => {
                write!(f, "the state was restored; {torn_bytes} bytes of a batch that was never confirmed were cut off")
            }
            Self::Damage { reason, aside } => {
                write!(f, "the state was damaged ({reason}) and is now in {}: blank, under a new id", aside.display())
            }
        }
    }
}

/// A data directory that was opened and checked, and is not written to yet.
#[derive(Debug)]
pub struct Ready {
    /// The id of the follower, made with its state.
    pub id: FollowerId,
    /// What was stored before.
    pub kept: Kept,
    /// What was found at start.
    pub found: Found,
    path: PathBuf,
    disk: Disk,
}

/// Opens a data directory and starts to store. It stays locked until the store is dropped. Reads all of it: call it
/// where that may block.
///
/// # Errors
/// As [`open_with`]; and where no thread can be started.
pub fn open(path: &Path, cluster: Option<&str>) -> Result<Opened, StoreError> {
    open_with(path, cluster, Options::default())?.start()
}

/// Opens a data directory. Reads all of it.
///
/// # Errors
/// Why it cannot be used: it is in use, of another format, of another cluster, not a follower's, or cannot be read or
/// written. Damage is none of these.
pub fn open_with(path: &Path, cluster: Option<&str>, options: Options) -> Result<Ready, StoreError> {
    let directory = Directory::take(options.files.clone(), path)?;
    let exists = directory.has_state().map_err(|source| failed("list", path, source))?;
    if exists {
        match load(&directory.state(), cluster, &options) {
            Ok(loaded) => {
                let torn_bytes = loaded.torn_bytes;
                return Ok(ready(directory, loaded, Found::State { torn_bytes }));
            }
            Err(Trouble::Refused(error)) => return Err(error),
            Err(Trouble::Damaged(reason)) => {
                let aside = directory.put_aside()?;
                return blank(directory, cluster, &options, Found::Damage { reason, aside });
            }
        }
    }
    blank(directory, cluster, &options, Found::Nothing)
}

impl Ready {
    /// Starts the thread that stores.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(self) -> Result<Opened, StoreError> {
        let Self { id, kept, found, path, disk } = self;
        let committer = Committer::start(disk).map_err(|source| failed("start a thread for", &path, source))?;
        Ok(Opened { store: Store::Disk(committer), id, kept, found })
    }

    /// The same without a thread: the caller steps the store, for simulations.
    pub fn stepped(self) -> (Opened, Stepped) {
        let Self { id, kept, found, disk, .. } = self;
        let (committer, stepped) = Committer::stepped(disk);
        (Opened { store: Store::Disk(committer), id, kept, found }, stepped)
    }
}

/// Why a state cannot be taken up.
#[derive(Debug)]
pub(super) enum Trouble {
    /// What is there is not what was stored; the reason.
    Damaged(String),
    /// It may be intact, but cannot be used now.
    Refused(StoreError),
}

struct State {
    id: FollowerId,
    log: Log,
    ledger: Ledger,
    confirmed: Confirmed,
    kept: Kept,
    torn_bytes: u64,
}

fn load(state: &Path, cluster: Option<&str>, options: &Options) -> Result<State, Trouble> {
    let Options { files, limits, .. } = options;
    let refused = |action| move |source| Trouble::Refused(failed(action, state, source));
    let damaged = |reason: &str| Trouble::Damaged(reason.to_owned());
    let format = Format::read(&**files, state).map_err(refused("read the format of"))?;
    let Format { number, id, cluster: found } =
        format.ok_or_else(|| damaged("the file `format` is missing or cannot be read"))?;
    if number > FORMAT {
        let error = StoreError::NewerFormat { path: state.to_owned(), found: number, known: FORMAT };
        return Err(Trouble::Refused(error));
    }
    if number < FORMAT {
        let error = StoreError::OlderFormat { path: state.to_owned(), found: number, known: FORMAT };
        return Err(Trouble::Refused(error));
    }
    if let (Some(found), Some(wanted)) = (found, cluster)
        && found != wanted
    {
        let error = StoreError::OtherCluster { path: state.to_owned(), found, wanted: wanted.to_owned() };
        return Err(Trouble::Refused(error));
    }
    let confirmed = Confirmed::open(&**files, state, id).map_err(refused("read the confirmed batch of"))?;
    let (confirmed, last) = confirmed.ok_or_else(|| damaged("the file `confirmed` is missing or cannot be read"))?;
    let Loaded { ledger, kept, torn_bytes, tail } = replay::load(&**files, &state.join("log"), id)?;
    let head = ledger.head();
    if head.id != id {
        return Err(damaged("the log is of another follower"));
    }
    if head.batch < last {
        return Err(Trouble::Damaged(format!("batch {last} was confirmed, and the state ends with {}", head.batch)));
    }
    let log = tail.resume(files.clone(), &state.join("log"), id, *limits).map_err(refused("write the log of"))?;
    confirmed.write(id, head.batch).and_then(|()| confirmed.sync()).map_err(refused("write the confirmed batch of"))?;
    Ok(State { id, log, ledger, confirmed, kept, torn_bytes })
}

fn blank(directory: Directory, cluster: Option<&str>, options: &Options, found: Found) -> Result<Ready, StoreError> {
    let Options { files, new_id: id, .. } = options;
    let (files, id) = (&**files, *id);
    directory.create(|state| {
        let format = Format { number: FORMAT, id, cluster: cluster.map(str::to_owned) };
        format.write(files, state).map_err(|source| failed("write the format of", state, source))?;
        let ledger = Ledger::new(id);
        let log = Log::create(files, &state.join("log"), id, &ledger);
        log.map_err(|source| failed("write the log of", state, source))?;
        let confirmed = Confirmed::create(files, state, id, ledger.head().batch);
        confirmed.map_err(|source| failed("write the confirmed batch of", state, source))
    })?;
    match load(&directory.state(), cluster, options) {
        Ok(loaded) => Ok(ready(directory, loaded, found)),
        Err(Trouble::Refused(error)) => Err(error),
        Err(Trouble::Damaged(reason)) => Err(StoreError::Failed(format!("a state made just now is damaged: {reason}"))),
    }
}

fn ready(directory: Directory, state: State, found: Found) -> Ready {
    let State { id, log, ledger, confirmed, kept, .. } = state;
    let path = directory.state();
    Ready { id, kept, found, path, disk: Disk { log, ledger, confirmed, id, _directory: directory } }
}

fn failed(action: &'static str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io { action, path: path.to_owned(), source }
}

/// What the committer writes to. The lock goes last.
#[derive(Debug)]
struct Disk {
    log: Log,
    ledger: Ledger,
    confirmed: Confirmed,
    id: FollowerId,
    _directory: Directory,
}

impl Sink for Disk {
    fn commit(&mut self, changes: Vec<Change>) -> Result<(), StoreError> {
        let operations = self.ledger.apply(changes);
        self.log.commit(&self.ledger, operations)?;
        self.confirmed.write(self.id, self.ledger.head().batch).map_err(confirmed_failed)
    }

    fn idle(&mut self) -> Result<(), StoreError> {
        self.confirmed.sync().map_err(confirmed_failed)
    }
}

fn confirmed_failed(error: std::io::Error) -> StoreError {
    StoreError::Failed(format!("the number of the confirmed batch: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_format_is_refused() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let opened = open(directory.path(), None).expect("new");
        let id = opened.id;
        drop(opened);
        let state = directory.path().join("state");
        let path = state.display();
        for (number, advice) in [
            (
                1,
                format!(
                    "the data directory {path} has format 1, and this release reads format 2: give it an empty directory, one follower after the other"
                ),
            ),
            (
                3,
                format!("the data directory {path} has format 3, and this release reads format 2: run a newer release"),
            ),
        ] {
            std::fs::remove_file(state.join("format")).expect("removed");
            Format { number, id, cluster: None }.write(&RealFiles, &state).expect("written");
            let error = open(directory.path(), None).expect_err("another format");
            assert_eq!(error.to_string(), advice);
            assert!(state.join("log").is_dir(), "nothing was put aside");
        }
    }
}
