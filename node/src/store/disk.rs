//! Opens and checks a follower's data directory, and reports its condition.
//!
//! Three checks: the head of the state against its own checksum; the records against the count and
//! the digest in the head; the head against the number of the last confirmed batch, which is
//! outside the log. If all agree, the state includes at least the last confirmed batch. If not, the
//! follower moves the state aside and starts blank with a new id. A leader then knows that this
//! disk may miss confirmed writes. The follower keeps the records that it can still read as a hint:
//! a leader compares them with its own and sends only the differences.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvcluster_api::status::DiskState;
use rand::RngExt;

use super::committer::{Committer, Sink, Stepped};
use super::directory::{Confirmed, Directory, FORMAT, FORMAT_MIN, Format};
use super::files::{Files, RealFiles};
use super::ledger::Ledger;
use super::log::Log;
use super::mend::Mend;
use super::replay::{self, Hint, LoadError, Loaded};
use super::scrub::Scrub;
use super::{Health, Store, StoreError};
use crate::protocol::follower::{Change, Kept};
use crate::protocol::types::FollowerId;

pub use super::log::Limits;

/// Options for a data directory. The default suits a follower on a real disk.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file system.
    pub files: Arc<dyn Files>,
    /// Sizes of the log.
    pub limits: Limits,
    /// The id of the follower, if it starts blank.
    pub new_id: FollowerId,
    /// Maximum bytes per second that the follower reads again to find damage; 0 disables it.
    pub scrub_bytes_per_s: u64,
    /// Returns the present time. Simulations replace it.
    pub clock: fn() -> Instant,
}

/// How much of the log the follower reads again by default, in bytes per second.
pub const SCRUB_BYTES_PER_S: u64 = 1 << 20;

impl Default for Options {
    fn default() -> Self {
        Self {
            files: Arc::new(RealFiles),
            limits: Limits::default(),
            new_id: FollowerId(rand::rng().random()),
            scrub_bytes_per_s: SCRUB_BYTES_PER_S,
            clock: Instant::now,
        }
    }
}

/// An opened store on a disk, and its state.
#[derive(Debug)]
pub struct Opened {
    /// The store for further changes.
    pub store: Store,
    /// The id of the follower, created with its state.
    pub id: FollowerId,
    /// The stored state.
    pub kept: Kept,
    /// The condition of the directory at the start.
    pub found: Found,
}

/// The condition of a data directory when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was empty: the follower is new.
    Nothing,
    /// It had a complete state.
    State {
        /// How many bytes of an unfinished, and so never confirmed, batch were cut off.
        torn_bytes: u64,
    },
    /// It had a damaged state: the follower starts blank with a new id.
    Damage {
        /// The reason.
        reason: String,
        /// The path of the damaged state now.
        aside: PathBuf,
        /// How many of its records could be read and are kept as a hint.
        hints: usize,
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
            Self::Damage { reason, aside, hints } => {
                let aside = aside.display();
                write!(f, "the state was damaged ({reason}) and is now in {aside}: blank, under a new id")?;
                if *hints > 0 {
                    write!(f, "; {hints} of its records are readable, and a leader sends the differences")?;
                }
                Ok(())
            }
        }
    }
}

/// A data directory that is opened and checked. The store has not started.
#[derive(Debug)]
pub struct Ready {
    /// The id of the follower, created with its state.
    pub id: FollowerId,
    /// The stored state.
    pub kept: Kept,
    /// The condition of the directory at the start.
    pub found: Found,
    path: PathBuf,
    disk: Disk,
}

/// Opens a data directory and starts its store. The directory is locked until the store is dropped.
/// Blocks while it reads the whole directory.
///
/// # Errors
/// Those of [`open_with`] and [`Ready::start`].
pub fn open(path: &Path, cluster: Option<&str>) -> Result<Opened, StoreError> {
    open_with(path, cluster, Options::default())?.start()
}

/// Opens a data directory. Blocks while it reads the whole directory.
///
/// # Errors
/// [`StoreError`] if the directory is in use, of another format or cluster, not a follower's, or
/// cannot be read or written. Damage is not an error.
pub fn open_with(path: &Path, cluster: Option<&str>, options: Options) -> Result<Ready, StoreError> {
    let directory = Directory::take(options.files.clone(), path)?;
    let exists = directory.has_state().map_err(|source| failed("list", path, source))?;
    if exists {
        match load(&directory.state(), cluster, &options) {
            Ok(loaded) => {
                let torn_bytes = loaded.torn_bytes;
                return Ok(ready(directory, loaded, Found::State { torn_bytes }, &options));
            }
            Err(LoadError::Refused(error)) => return Err(error),
            Err(LoadError::Damaged(reason)) => {
                let hint = salvage(&directory.state(), &options);
                let aside = directory.put_aside()?;
                let hints = hint.records.len();
                return blank(directory, cluster, &options, Found::Damage { reason, aside, hints }, hint);
            }
        }
    }
    blank(directory, cluster, &options, Found::Nothing, Hint::default())
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

    /// Starts the store without a thread, for simulations: the caller steps it.
    pub fn stepped(self) -> (Opened, Stepped) {
        let Self { id, kept, found, disk, .. } = self;
        let (committer, stepped) = Committer::stepped(disk);
        (Opened { store: Store::Disk(committer), id, kept, found }, stepped)
    }
}

struct State {
    id: FollowerId,
    log: Log,
    ledger: Ledger,
    confirmed: Confirmed,
    kept: Kept,
    torn_bytes: u64,
}

fn load(state: &Path, cluster: Option<&str>, options: &Options) -> Result<State, LoadError> {
    let Options { files, limits, .. } = options;
    let refused = |action| move |source| LoadError::Refused(failed(action, state, source));
    let damaged = |reason: &str| LoadError::Damaged(reason.to_owned());
    let format = Format::read(&**files, state).map_err(refused("read the format of"))?;
    let Format { number, id, cluster: found } =
        format.ok_or_else(|| damaged("the file `format` is missing or cannot be read"))?;
    if number > FORMAT {
        let error = StoreError::NewerFormat { path: state.to_owned(), found: number, known: FORMAT };
        return Err(LoadError::Refused(error));
    }
    if number < FORMAT_MIN {
        let error = StoreError::OlderFormat { path: state.to_owned(), found: number, known: FORMAT };
        return Err(LoadError::Refused(error));
    }
    if let (Some(found), Some(wanted)) = (&found, cluster)
        && found != wanted
    {
        let (found, wanted) = (found.clone(), wanted.to_owned());
        let error = StoreError::OtherCluster { path: state.to_owned(), found, wanted };
        return Err(LoadError::Refused(error));
    }
    let confirmed = Confirmed::open(&**files, state, id).map_err(refused("read the confirmed batch of"))?;
    let (mut confirmed, last) =
        confirmed.ok_or_else(|| damaged("the file `confirmed` is missing or cannot be read"))?;
    let Loaded { ledger, kept, torn_bytes, tail } = replay::load(&**files, &state.join("log"), id)?;
    let head = ledger.head();
    if head.id != id {
        return Err(damaged("the log is of another follower"));
    }
    if head.batch < last {
        return Err(LoadError::Damaged(format!("batch {last} was confirmed, and the state ends with {}", head.batch)));
    }
    if number < FORMAT {
        // Before anything is stored that an earlier release cannot read.
        let format = Format { number: FORMAT, id, cluster: found };
        format.replace(&**files, state).map_err(refused("write the format of"))?;
    }
    let log = tail.resume(files.clone(), &state.join("log"), id, *limits).map_err(refused("write the log of"))?;
    let written = confirmed.write(id, head.batch).and_then(|()| confirmed.sync(id, head.batch));
    written.map_err(refused("write the confirmed batch of"))?;
    Ok(State { id, log, ledger, confirmed, kept, torn_bytes })
}

/// Reads what is still readable of a damaged state. Any of it may be wrong.
fn salvage(state: &Path, options: &Options) -> Hint {
    let format = Format::read(&*options.files, state).ok().flatten();
    format.map(|format| replay::salvage(&*options.files, &state.join("log"), format.id)).unwrap_or_default()
}

fn blank(
    directory: Directory,
    cluster: Option<&str>,
    options: &Options,
    found: Found,
    hint: Hint,
) -> Result<Ready, StoreError> {
    let Options { files, new_id: id, limits, .. } = options;
    let id = *id;
    directory.create(|state| {
        let format = Format { number: FORMAT, id, cluster: cluster.map(str::to_owned) };
        format.write(&**files, state).map_err(|source| failed("write the format of", state, source))?;
        let (path, mut ledger) = (state.join("log"), Ledger::new(id));
        let create = Log::create(&**files, &path, id, &ledger);
        create.map_err(|source| failed("write the log of", state, source))?;
        if hint.promised > ledger.head().promised || !hint.records.is_empty() {
            let log =
                replay::load(&**files, &path, id).map(|loaded| loaded.tail.resume(files.clone(), &path, id, *limits));
            let log = log.map_err(|_| StoreError::Failed("a new log cannot be read".to_owned()))?;
            let mut log = log.map_err(|source| failed("write the log of", state, source))?;
            for changes in hint.into_changes() {
                let operations = ledger.apply(changes);
                log.commit(&ledger, operations)?;
                log.prepare()?;
            }
        }
        let confirmed = Confirmed::create(&**files, state, id, ledger.head().batch);
        confirmed.map_err(|source| failed("write the confirmed batch of", state, source))
    })?;
    match load(&directory.state(), cluster, options) {
        Ok(loaded) => Ok(ready(directory, loaded, found, options)),
        Err(LoadError::Refused(error)) => Err(error),
        Err(LoadError::Damaged(reason)) => Err(StoreError::Failed(format!("a new state is damaged: {reason}"))),
    }
}

fn ready(directory: Directory, state: State, found: Found, options: &Options) -> Ready {
    let State { id, log, ledger, confirmed, kept, .. } = state;
    let path = directory.state();
    let scrub = Scrub::new(options.scrub_bytes_per_s, (options.clock)());
    let disk = Disk {
        synced: ledger.head().batch,
        log,
        ledger,
        confirmed,
        id,
        scrub,
        mend: Mend::default(),
        health: Health::default(),
        clock: options.clock,
        _directory: directory,
    };
    Ready { id, kept, found, path, disk }
}

fn failed(action: &'static str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io { action, path: path.to_owned(), source }
}

/// The committer's target. `_directory` is the last field, so that the lock is released last.
#[derive(Debug)]
struct Disk {
    log: Log,
    ledger: Ledger,
    confirmed: Confirmed,
    /// The last synced number of the confirmed batch.
    synced: u64,
    id: FollowerId,
    scrub: Scrub,
    mend: Mend,
    health: Health,
    clock: fn() -> Instant,
    _directory: Directory,
}

/// Time until the store tries again after a shortage.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);

impl Disk {
    /// Does the work for which no confirmation has to wait.
    fn tend(&mut self) -> Result<(), StoreError> {
        self.log.prepare()?;
        let damaged = match self.log.damaged() {
            Some(damaged) => Some(damaged),
            None => self.scrub.step((self.clock)(), &self.log, self.ledger.head().batch).err(),
        };
        if let Some(damaged) = damaged
            && self.mend.begin(damaged)
        {
            self.log.stop_cleaning(damaged);
            self.health.damaged += 1;
            self.health.damaged_batch = Some(damaged.0);
        }
        self.health.mended += u64::from(self.mend.step(&mut self.log, &mut self.ledger)?);
        self.health.renews = self.mend.renews();
        self.health.checked_bytes = self.scrub.bytes;
        Ok(())
    }
}

impl Sink for Disk {
    fn commit(&mut self, changes: Vec<Change>) -> Result<(), StoreError> {
        let operations = self.ledger.apply(changes);
        self.log.commit(&self.ledger, operations)?;
        self.confirmed.write(self.id, self.ledger.head().batch).map_err(confirmed_failed)
    }

    fn after(&mut self) -> Result<(), StoreError> {
        self.tend()
    }

    fn idle(&mut self) -> Result<Option<Duration>, StoreError> {
        let batch = self.ledger.head().batch;
        if self.synced != batch {
            self.confirmed.sync(self.id, batch).map_err(confirmed_failed)?;
            self.synced = batch;
        }
        self.tend()?;
        Ok(match self.mend {
            Mend::Nothing => self.scrub.due((self.clock)()),
            Mend::Begins => Some(SHORTAGE_PAUSE),
            Mend::Renews(_) => None,
            Mend::Removes(_) => Some(Duration::ZERO),
        })
    }

    fn health(&self) -> Health {
        self.health
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
                    "the data directory {path} has format 1, but this release reads format 3: give it an empty directory, one follower after the other"
                ),
            ),
            (
                4,
                format!("the data directory {path} has format 4, but this release reads format 3: run a newer release"),
            ),
        ] {
            std::fs::remove_file(state.join("format")).expect("removed");
            Format { number, id, cluster: None }.write(&RealFiles, &state).expect("written");
            let error = open(directory.path(), None).expect_err("another format");
            assert_eq!(error.to_string(), advice);
            assert!(state.join("log").is_dir(), "nothing was put aside");
        }
    }

    // Goal: a directory of a release whose values were text is read, and that release refuses it from
    // then on instead of taking the first value that is not text for damage. A crash of an earlier
    // attempt may have left half of the new file.
    #[test]
    fn the_format_before_is_read_and_replaced() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let opened = open(directory.path(), Some("shop")).expect("new");
        let id = opened.id;
        drop(opened);
        let state = directory.path().join("state");
        std::fs::remove_file(state.join("format")).expect("removed");
        Format { number: 2, id, cluster: Some("shop".to_owned()) }.write(&RealFiles, &state).expect("written");
        std::fs::write(state.join("format.new"), "kvcluster follower, for").expect("written");
        let opened = open(directory.path(), Some("shop")).expect("read");
        assert_eq!((opened.id, opened.found), (id, Found::State { torn_bytes: 0 }));
        let format = Format::read(&RealFiles, &state).expect("read");
        assert_eq!(format, Some(Format { number: FORMAT, id, cluster: Some("shop".to_owned()) }));
    }
}
