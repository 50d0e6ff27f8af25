//! A simulated disk: what a machine that stops, a process that ends and a disk that fails may leave behind.
//!
//! Deterministic: the seed and the order of the calls decide everything. What it does:
//!
//! - Written bytes are in memory until they are synced. When the machine stops, each write since then is lost, kept or
//!   torn ([`Unsynced`]): a part of its bytes up to any byte, or any of its sectors.
//! - Names that were made, changed or removed are lost the same way unless the directory was synced.
//! - Operations are numbered. A [`Fault`] makes one, or all from one on, fail.
//! - After a failed sync of a file some of its bytes are on the disk; the others count as synced and are not. A later
//!   sync succeeds, reads return the bytes, and they are gone when the machine stops. Names are kept in a journal, which a
//!   real file system does not forget: a directory can be synced again.
//! - Each process uses its own [`SimDisk::files`]. Those of earlier processes fail and change nothing.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use kv_node::store::files::{Files, Listed, OpenFile};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const SECTOR_BYTES: usize = 512;

/// The unit of direct writes. No divisor of the lengths that the tests give to segments.
const UNIT_BYTES: usize = 64;

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Input/output error: any operation. A write may have been done in part, a sync as well.
    Eio,
    /// No space left: operations that need space. A write may have been done in part.
    Enospc,
    /// Too many open files: operations that open one.
    Emfile,
    /// The process ends at this operation, which may have been done in part: it and all later ones fail.
    Stop,
}

/// Which operations fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The number of the first one, counted from 0 ([`SimDisk::operations`]).
    pub(crate) at: u64,
    /// Whether all from there on fail.
    pub(crate) lasts: bool,
    /// How. Operations that cannot fail this way succeed.
    pub(crate) failure: Failure,
}

/// What becomes of unsynced bytes and names when the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsynced {
    /// All are lost.
    Lost,
    /// All are kept.
    Kept,
    /// Of each write and name one or the other, or a part of the bytes.
    Torn,
}

/// A disk. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

struct State {
    random: StdRng,
    /// The running process.
    process: u64,
    operations: u64,
    fault: Option<Fault>,
    /// Files that the running process has open.
    open: usize,
    open_max: usize,
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    locked: HashSet<u64>,
    /// Whether a sync says that it is done, and does nothing.
    syncs_in_vain: bool,
}

#[derive(Default)]
struct Node {
    directory: Option<Names>,
    cached: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Write>,
}

#[derive(Default)]
struct Names {
    cached: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
    unsynced: Vec<Naming>,
}

#[derive(Clone)]
enum Write {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone)]
enum Naming {
    Set(OsString, u64),
    Removed(OsString),
    Renamed(OsString, OsString),
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        let root = Node { directory: Some(Names::default()), ..Node::default() };
        Self(Arc::new(Mutex::new(State {
            random: StdRng::seed_from_u64(seed),
            process: 0,
            operations: 0,
            fault: None,
            open: 0,
            open_max: usize::MAX,
            nodes: [(0, root)].into(),
            next_node: 1,
            locked: HashSet::new(),
            syncs_in_vain: false,
        })))
    }

    /// From now on this disk says that it has synced, and has not.
    pub(crate) fn sync_in_vain(&self) {
        self.state().syncs_in_vain = true;
    }

    /// What a process that starts now uses. Use [`Self::kill`] or [`Self::crash`] before the next one starts.
    pub(crate) fn files(&self) -> Arc<dyn Files> {
        Arc::new(Process { disk: self.clone(), number: self.state().process })
    }

    /// How many operations there were.
    pub(crate) fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Replaces the planned fault.
    pub(crate) fn plan(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// The running process may have no more files open than it has now.
    pub(crate) fn exhaust_descriptors(&self) {
        let mut state = self.state();
        state.open_max = state.open;
    }

    /// The process ends, the machine goes on: nothing is lost, locks are free, and no fault is planned any more.
    pub(crate) fn kill(&self) {
        self.state().end_process();
    }

    /// The machine stops.
    pub(crate) fn crash(&self, unsynced: Unsynced) {
        let state = &mut *self.state();
        state.end_process();
        for node in state.nodes.values_mut() {
            for write in std::mem::take(&mut node.unsynced) {
                land(&mut node.durable, &write, unsynced, &mut state.random);
            }
            node.cached.clone_from(&node.durable);
            if let Some(names) = &mut node.directory {
                names.land(unsynced, &mut state.random);
                names.cached.clone_from(&names.durable);
            }
        }
        // What has no name any more is gone.
        let mut reached = HashSet::from([0]);
        let mut left = vec![0];
        while let Some(node) = left.pop() {
            let names = state.nodes[&node].directory.iter().flat_map(|names| names.cached.values());
            left.extend(names.filter(|node| reached.insert(**node)));
        }
        state.nodes.retain(|node, _| reached.contains(node));
    }

    /// Every file with its content as it is read now, by path.
    pub(crate) fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state();
        let mut found = BTreeMap::new();
        let mut left = vec![(PathBuf::from("/"), 0)];
        while let Some((path, node)) = left.pop() {
            match &state.nodes[&node].directory {
                Some(names) => left.extend(names.cached.iter().map(|(name, node)| (path.join(name), *node))),
                None => _ = found.insert(path, state.nodes[&node].cached.clone()),
            }
        }
        found
    }

    /// Flips a bit of a file, on the disk and in memory.
    pub(crate) fn damage(&self, path: &Path, byte: usize, bit: u32) {
        let mut state = self.state();
        let node = state.find(path).expect("the file exists");
        let node = state.nodes.get_mut(&node).expect("the file exists");
        for bytes in [&mut node.cached, &mut node.durable] {
            if let Some(byte) = bytes.get_mut(byte) {
                *byte ^= 1 << bit;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk")
    }
}

/// What an operation does, as far as it decides which failures are possible.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Opens,
    Creates,
    NeedsSpace,
    Other,
}

impl State {
    /// Counts an operation of a process. Returns how it fails, where it does.
    fn operation(&mut self, process: u64, kind: Kind) -> Option<Failure> {
        if process != self.process {
            return Some(Failure::Eio);
        }
        let number = self.operations;
        self.operations += 1;
        let opens = matches!(kind, Kind::Opens | Kind::Creates);
        if opens && self.open >= self.open_max {
            return Some(Failure::Emfile);
        }
        let fault = self.fault.filter(|fault| if fault.lasts { number >= fault.at } else { number == fault.at })?;
        let fits = match fault.failure {
            Failure::Eio | Failure::Stop => true,
            Failure::Enospc => matches!(kind, Kind::Creates | Kind::NeedsSpace),
            Failure::Emfile => opens,
        };
        if fits && fault.failure == Failure::Stop {
            // Whatever the process still does is in vain.
            self.process += 1;
        }
        fits.then_some(fault.failure)
    }

    fn end_process(&mut self) {
        self.process += 1;
        self.fault = None;
        (self.open, self.open_max) = (0, usize::MAX);
        self.locked.clear();
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut node = 0;
        for part in path.components() {
            match part {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => {
                    let names = self.nodes[&node].directory.as_ref().ok_or(ErrorKind::NotADirectory)?;
                    node = *names.cached.get(name).ok_or(ErrorKind::NotFound)?;
                }
                _ => return Err(ErrorKind::InvalidInput.into()),
            }
        }
        Ok(node)
    }

    fn parent(&mut self, path: &Path) -> io::Result<(&mut Names, OsString)> {
        let name = path.file_name().ok_or(ErrorKind::AlreadyExists)?.to_owned();
        let parent = self.find(path.parent().unwrap_or(Path::new("/")))?;
        let names = self.nodes.get_mut(&parent).and_then(|node| node.directory.as_mut());
        Ok((names.ok_or(ErrorKind::NotADirectory)?, name))
    }

    fn make(&mut self, path: &Path, node: Node) -> io::Result<u64> {
        let number = self.next_node;
        let (names, name) = self.parent(path)?;
        if names.cached.contains_key(&name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        names.change(Naming::Set(name, number));
        self.next_node += 1;
        self.nodes.insert(number, node);
        Ok(number)
    }
}

impl Names {
    fn change(&mut self, naming: Naming) {
        apply_naming(&mut self.cached, &naming);
        self.unsynced.push(naming);
    }

    fn land(&mut self, unsynced: Unsynced, random: &mut StdRng) {
        for naming in std::mem::take(&mut self.unsynced) {
            let kept = match unsynced {
                Unsynced::Lost => false,
                Unsynced::Kept => true,
                Unsynced::Torn => random.random_bool(0.5),
            };
            if kept {
                apply_naming(&mut self.durable, &naming);
            }
        }
    }
}

fn apply_naming(names: &mut BTreeMap<OsString, u64>, naming: &Naming) {
    match naming {
        Naming::Set(name, node) => _ = names.insert(name.clone(), *node),
        Naming::Removed(name) => _ = names.remove(name),
        Naming::Renamed(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

fn apply(bytes: &mut Vec<u8>, write: &Write) {
    match write {
        Write::Length(length) => bytes.resize(*length, 0),
        Write::Bytes(offset, written) => {
            let end = offset + written.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset..end].copy_from_slice(written);
        }
    }
}

fn land(durable: &mut Vec<u8>, write: &Write, unsynced: Unsynced, random: &mut StdRng) {
    match (unsynced, write) {
        (Unsynced::Lost, _) => {}
        (Unsynced::Kept, _) => apply(durable, write),
        (Unsynced::Torn, Write::Bytes(offset, bytes)) => match random.random_range(0..4) {
            0 => {}
            1 => apply(durable, write),
            2 => apply(durable, &Write::Bytes(*offset, bytes[..random.random_range(0..=bytes.len())].to_vec())),
            _ => {
                let mut at = 0;
                while at < bytes.len() {
                    // To the end of the sector.
                    let end = ((offset + at) / SECTOR_BYTES + 1) * SECTOR_BYTES - offset;
                    let end = end.min(bytes.len());
                    if random.random_bool(0.5) {
                        apply(durable, &Write::Bytes(offset + at, bytes[at..end].to_vec()));
                    }
                    at = end;
                }
            }
        },
        (Unsynced::Torn, Write::Length(_)) => {
            if random.random_bool(0.5) {
                apply(durable, write);
            }
        }
    }
}

fn error(failure: Failure) -> io::Error {
    io::Error::from_raw_os_error(match failure {
        Failure::Eio | Failure::Stop => 5,
        Failure::Enospc => 28,
        Failure::Emfile => 24,
    })
}

/// The disk as one process has it.
#[derive(Debug)]
struct Process {
    disk: SimDisk,
    number: u64,
}

#[derive(Debug)]
struct Open {
    disk: SimDisk,
    process: u64,
    node: u64,
    locks: bool,
}

impl Process {
    fn begin(&self, kind: Kind) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.disk.state();
        match state.operation(self.number, kind) {
            Some(failure) => Err(error(failure)),
            None => Ok(state),
        }
    }

    fn handle(&self, state: &mut State, node: u64, locks: bool) -> Box<dyn OpenFile> {
        state.open += 1;
        Box::new(Open { disk: self.disk.clone(), process: self.number, node, locks })
    }
}

impl Files for Process {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let directory = Node { directory: Some(Names::default()), ..Node::default() };
        self.begin(Kind::NeedsSpace)?.make(path, directory).map(|_| ())
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        let mut state = self.begin(Kind::Creates)?;
        let node = state.make(path, Node::default())?;
        Ok(self.handle(&mut state, node, false))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        let mut state = self.begin(Kind::Opens)?;
        let node = state.find(path)?;
        if state.nodes[&node].directory.is_some() {
            return Err(ErrorKind::IsADirectory.into());
        }
        Ok(self.handle(&mut state, node, false))
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        let mut state = self.begin(Kind::Opens)?;
        let node = state.find(path)?;
        Ok(self.handle(&mut state, node, false))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        let state = self.begin(Kind::Opens)?;
        let node = state.find(path)?;
        let names = state.nodes[&node].directory.as_ref().ok_or(ErrorKind::NotADirectory)?;
        let listed = names.cached.iter().map(|(name, node)| {
            let node = &state.nodes[node];
            Listed { name: name.clone(), is_dir: node.directory.is_some(), bytes: node.cached.len() as u64 }
        });
        Ok(listed.collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.begin(Kind::NeedsSpace)?;
        if from.parent() != to.parent() {
            return Err(ErrorKind::CrossesDevices.into());
        }
        let to = to.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
        let (names, from) = state.parent(from)?;
        if !names.cached.contains_key(&from) {
            return Err(ErrorKind::NotFound.into());
        }
        names.change(Naming::Renamed(from, to));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.begin(Kind::Other)?;
        state.find(path)?;
        let (names, name) = state.parent(path)?;
        names.change(Naming::Removed(name));
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.begin(Kind::Other)?;
        let node = state.find(path)?;
        let names = state.nodes[&node].directory.as_ref().ok_or(ErrorKind::NotADirectory)?;
        if !names.cached.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        let (names, name) = state.parent(path)?;
        names.change(Naming::Removed(name));
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn OpenFile>>> {
        let mut state = self.begin(Kind::Creates)?;
        let node = match state.find(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => state.make(path, Node::default())?,
            other => other?,
        };
        let locked = state.locked.insert(node);
        Ok(locked.then(|| self.handle(&mut state, node, true)))
    }
}

impl Open {
    /// Does an operation on the file; one that fails or stops in the middle may have been done in part.
    fn with<T>(
        &self,
        kind: Kind,
        whole: impl FnOnce(&mut Node) -> T,
        part: impl FnOnce(&mut Node, Failure, &mut StdRng),
    ) -> io::Result<T> {
        let state = &mut *self.disk.state();
        let current = self.process == state.process;
        let failure = state.operation(self.process, kind);
        let node = state.nodes.get_mut(&self.node).ok_or_else(|| error(Failure::Eio))?;
        match failure {
            None => Ok(whole(node)),
            Some(failure) => {
                if current {
                    part(node, failure, &mut state.random);
                }
                Err(error(failure))
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let in_vain = self.disk.state().syncs_in_vain;
        let whole = |node: &mut Node| {
            if in_vain {
                return;
            }
            node.unsynced.drain(..).for_each(|write| apply(&mut node.durable, &write));
            if let Some(names) = &mut node.directory {
                names.unsynced.clear();
                names.durable.clone_from(&names.cached);
            }
        };
        let part = |node: &mut Node, failure: Failure, random: &mut StdRng| {
            if failure == Failure::Stop {
                return;
            }
            for write in std::mem::take(&mut node.unsynced) {
                land(&mut node.durable, &write, Unsynced::Torn, random);
            }
        };
        self.with(Kind::Other, whole, part)
    }

    fn change(&self, write: Write) -> io::Result<()> {
        let torn = write.clone();
        let whole = |node: &mut Node| {
            apply(&mut node.cached, &write);
            node.unsynced.push(write);
        };
        let part = |node: &mut Node, _: Failure, random: &mut StdRng| {
            let Write::Bytes(offset, bytes) = torn else { return };
            let done = Write::Bytes(offset, bytes[..random.random_range(0..=bytes.len())].to_vec());
            apply(&mut node.cached, &done);
            node.unsynced.push(done);
        };
        self.with(Kind::NeedsSpace, whole, part)
    }
}

impl OpenFile for Open {
    fn bytes(&self) -> io::Result<u64> {
        self.with(Kind::Other, |node| node.cached.len() as u64, |_, _, _| ())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = |node: &mut Node| {
            let from = (offset as usize).min(node.cached.len());
            let read = buffer.len().min(node.cached.len() - from);
            buffer[..read].copy_from_slice(&node.cached[from..][..read]);
            read
        };
        self.with(Kind::Other, read, |_, _, _| ())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Write::Bytes(offset as usize, bytes.to_vec()))
    }

    fn direct(&self) -> usize {
        UNIT_BYTES
    }

    fn write_synced_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        assert!(offset.is_multiple_of(UNIT_BYTES as u64) && bytes.len().is_multiple_of(UNIT_BYTES), "no whole blocks");
        self.write_all_at(bytes, offset)?;
        self.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.change(Write::Length(bytes as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    /// The next read is one of the disk, unless something is still to be synced.
    fn forget(&self, _offset: u64, _bytes: u64) {
        let mut state = self.disk.state();
        let number = self.node;
        if let Some(node) = state.nodes.get_mut(&number).filter(|node| node.unsynced.is_empty()) {
            node.cached.clone_from(&node.durable);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if self.process == state.process {
            state.open -= 1;
            if self.locks {
                state.locked.remove(&self.node);
            }
        }
    }
}
