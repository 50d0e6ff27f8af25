//! The embedded database, as this store uses it: one keyspace, atomic batches, one sync each, and one full read at start.
//!
//! Nothing here is believed: what is read is checked by the [`Ledger`], and a panic of the database over damaged files
//! counts as damage.

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::StoreError;
use super::ledger::{Head, Ledger, Operations, key_of};
use crate::protocol::follower::Change;
use crate::protocol::types::Key;

/// What is read is read once, so that hardly anything is worth caching.
const CACHE_BYTES: u64 = 8 << 20;
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Bounds the journals, which keep every overwrite until their records are in tables.
const JOURNAL_BYTES_MAX: u64 = 128 << 20;

/// One keyspace for everything: an idle second one would keep old journals from being deleted. A record's key has a
/// prefix, so that the head cannot be one.
const HEAD_KEY: &[u8] = b"head";
const RECORD_PREFIX: u8 = b'/';

pub(super) struct Engine {
    database: Database,
    keyspace: Keyspace,
}

/// Why a database could not be opened.
pub(super) enum Trouble {
    /// What is there is not what was stored; the reason.
    Damaged(String),
    /// It may be intact, but cannot be used now.
    Refused(StoreError),
}

/// What an opened database holds.
pub(super) struct Loaded {
    pub(super) engine: Engine,
    pub(super) ledger: Ledger,
    pub(super) changes: Vec<Change>,
    /// How many bytes of a batch that was never finished were cut off.
    pub(super) torn_bytes: u64,
}

impl Engine {
    /// Makes a new database whose head is stored, and closes it.
    pub(super) fn create(path: &Path, ledger: &Ledger) -> Result<(), StoreError> {
        let mut engine = Self::open(path).map_err(|error| StoreError::Failed(error.to_string()))?;
        engine.commit(ledger.head(), Operations::default())
    }

    /// Opens a database and reads it whole.
    pub(super) fn load(path: &Path) -> Result<Loaded, Trouble> {
        catch_unwind(AssertUnwindSafe(|| Self::load_unguarded(path)))
            .unwrap_or_else(|panic| Err(Trouble::Damaged(format!("the database panicked: {}", panic_text(&*panic)))))
    }

    fn load_unguarded(path: &Path) -> Result<Loaded, Trouble> {
        let tail_before = last_written(path).map_err(|error| trouble(path, fjall::Error::Io(error)))?;
        let engine = Self::open(path).map_err(|error| trouble(path, error))?;
        let torn_bytes = match (tail_before, last_written(path)) {
            (Some((journal, before)), Ok(Some((after_journal, after)))) if journal == after_journal => {
                before.saturating_sub(after)
            }
            _ => 0,
        };
        let head = engine.keyspace.get(HEAD_KEY).map_err(|error| trouble(path, error))?;
        let head = head.and_then(|bytes| Head::decode(&bytes));
        let head = head.ok_or_else(|| Trouble::Damaged("the head of the state is missing or cannot be read".into()))?;
        let mut refused = None;
        let records = engine.keyspace.prefix([RECORD_PREFIX]).map(|entry| match entry.into_inner() {
            Ok((key, value)) => read_entry(&key, &value),
            Err(error) => match trouble(path, error) {
                Trouble::Damaged(reason) => Err(reason),
                Trouble::Refused(error) => {
                    let reason = error.to_string();
                    refused = Some(error);
                    Err(reason)
                }
            },
        });
        let restored = Ledger::restore(head, records);
        match (restored, refused) {
            (_, Some(error)) => Err(Trouble::Refused(error)),
            (Err(reason), None) => Err(Trouble::Damaged(reason)),
            (Ok((ledger, changes)), None) => Ok(Loaded { engine, ledger, changes, torn_bytes }),
        }
    }

    fn open(path: &Path) -> fjall::Result<Self> {
        let database = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .worker_threads(1)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .open()?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let keyspace = database.keyspace("state", options)?;
        Ok(Self { database, keyspace })
    }

    /// Stores a batch: all of it or nothing, and synced when this returns.
    pub(super) fn commit(&mut self, head: &Head, operations: Operations) -> Result<(), StoreError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, bytes) in operations {
            let mut stored_key = Vec::with_capacity(1 + key.len());
            stored_key.push(RECORD_PREFIX);
            stored_key.extend_from_slice(key.as_bytes());
            match bytes {
                Some(bytes) => batch.insert(&self.keyspace, stored_key, bytes),
                None => batch.remove(&self.keyspace, stored_key),
            }
        }
        batch.insert(&self.keyspace, HEAD_KEY, head.encode());
        batch.commit().map_err(|error| StoreError::Failed(describe(&error)))
    }

    /// Writes what is only in the journal into a table, anew. After a crash the journal may have been read from memory
    /// that never reached the disk, and after a failed sync the system may hold such memory for clean for ever: only
    /// what is written again can be relied on.
    pub(super) fn rewrite_tail(&self) -> Result<(), StoreError> {
        let failed = |error| StoreError::Failed(describe(&error));
        self.keyspace.rotate_memtable().map_err(failed)?;
        while self.keyspace.sealed_memtable_count() > 0 {
            // Fails once the thread that writes tables has failed.
            self.database.persist(PersistMode::Buffer).map_err(failed)?;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

fn read_entry(key: &[u8], value: &[u8]) -> Result<(Key, Vec<u8>), String> {
    let key = key.split_first().and_then(|(_, key)| key_of(key));
    Ok((key.ok_or_else(|| "a key is not text".to_owned())?, value.to_vec()))
}

/// Whether an error tells of damage, or only that the database cannot be read now.
fn trouble(path: &Path, error: fjall::Error) -> Trouble {
    let io = match error {
        fjall::Error::Locked => return Trouble::Refused(StoreError::InUse(path.to_owned())),
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => error,
        other => return Trouble::Damaged(other.to_string()),
    };
    // A wrong length or offset ends up as one of these; the others are about the machine.
    let damage = matches!(
        io.kind(),
        ErrorKind::NotFound | ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof
    );
    if damage || io.raw_os_error().is_none() {
        return Trouble::Damaged(io.to_string());
    }
    Trouble::Refused(StoreError::Io { action: "read the database in", path: path.to_owned(), source: io })
}

fn describe(error: &fjall::Error) -> String {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => error.to_string(),
        fjall::Error::Poisoned => "the database could not write one of its files (its log lines say which)".to_owned(),
        other => other.to_string(),
    }
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// The newest journal, and where its last byte that is not zero ends: journals are made larger than what is in them.
fn last_written(path: &Path) -> std::io::Result<Option<(u64, u64)>> {
    let mut newest = None;
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".jnl")?.parse::<u64>().ok());
        newest = newest.max(number);
    }
    let Some(number) = newest else {
        return Ok(None);
    };
    let mut file = std::fs::File::open(path.join(format!("{number}.jnl")))?;
    let mut end = file.metadata()?.len();
    let (mut block, zeros) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        // Whole blocks first: most of a journal is a hole.
        if *part != zeros[..part.len()]
            && let Some(position) = part.iter().rposition(|byte| *byte != 0)
        {
            return Ok(Some((number, start + position as u64 + 1)));
        }
        end = start;
    }
    Ok(Some((number, 0)))
}
