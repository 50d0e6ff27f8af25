//! Data directories, and what happens to them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kv_node::protocol::follower::{Change, Follower, Kept};
use kv_node::protocol::types::{
    Config, Epoch, FollowerId, Key, Member, Record, RetryMark, Synced, Version, fingerprint,
};
use kv_node::protocol::value::Value;
use kv_node::store::Store;
use kv_node::store::disk::{self, Opened};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

/// A directory in memory where there is one: these tests sync thousands of times, and are not about the disk.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory can be made")
}

/// Waits for a future of the store.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts").block_on(future)
}

/// A follower with its store, and beside it what it should be after a restart.
pub(crate) struct Subject {
    pub(crate) store: Store,
    pub(crate) follower: Follower,
}

impl Subject {
    pub(crate) fn open(path: &Path) -> Self {
        let Opened { store, id, kept, .. } = disk::open(path, None).expect("the directory opens");
        Self { store, follower: rebuild(id, kept) }
    }

    /// Stores one batch, and waits for it.
    pub(crate) fn commit(&mut self, changes: Vec<Change>) {
        for change in &changes {
            self.follower.restore(change.clone());
        }
        wait(self.store.append(changes).wait()).expect("the batch is stored");
    }
}

pub(crate) fn rebuild(id: FollowerId, kept: Kept) -> Follower {
    Follower::with(id, "follower-1".into(), kept)
}

/// Everything of a follower that must come back, in a form that can be compared.
pub(crate) fn facts(follower: &Follower) -> (FollowerId, Epoch, Option<Synced>, Vec<(Key, Record)>) {
    let mut records: Vec<_> = follower.records().iter().map(|(key, record)| (key.clone(), record.clone())).collect();
    records.sort_by(|a, b| a.0.cmp(&b.0));
    (follower.id(), follower.promised(), follower.synced().cloned(), records)
}

pub(crate) fn epoch(term: u64) -> Epoch {
    Epoch { term, leader: 0x1000 + term }
}

pub(crate) fn synced(term: u64) -> Synced {
    let members = vec![Member { name: "follower-1".into(), id: FollowerId(7) }];
    let earlier = Config { generation: term, quorum: 3, size: 5, members: members.clone(), earlier: vec![] };
    let config = Config { generation: term + 1, quorum: 2, size: 5, members, earlier: vec![earlier] };
    Synced { epoch: epoch(term), config }
}

/// Records with every part that there is: deleted keys, empty values, marks of retries.
pub(crate) struct Writer {
    random: StdRng,
    seq: u64,
}

impl Writer {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), seq: 0 }
    }

    pub(crate) fn put(&mut self, term: u64, keys: u32) -> Change {
        self.seq += 1;
        let key: Key = format!("key-{}", self.random.random_range(0..keys)).into();
        let value = match self.random.random_range(0..10) {
            0 => None,
            1 => Some(String::new()),
            _ => Some(format!("value-{}-{}", self.seq, "x".repeat(self.random.random_range(0..150)))),
        };
        let value: Option<Value> = value.map(Into::into);
        let mark = RetryMark { token: "token".into(), seq: self.seq, fingerprint: fingerprint(value.as_deref()) };
        let marks = self.random.random_bool(0.1).then(|| [mark].into());
        Change::Put(key, Record { version: Version { epoch: epoch(term), seq: self.seq }, value, marks })
    }

    pub(crate) fn batch(&mut self, term: u64, keys: u32, records: usize) -> Vec<Change> {
        (0..records).map(|_| self.put(term, keys)).collect()
    }
}

/// Copies a directory. The newest segment is larger than what is in it: only what was written is copied.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the copy can be made");
    for entry in fs::read_dir(from).expect("the original can be listed") {
        let entry = entry.expect("the original can be listed");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("the type is known").is_dir() {
            copy(&entry.path(), &target);
            continue;
        }
        let length = entry.metadata().expect("the length is known").len();
        let file = File::create(&target).expect("a file can be made");
        file.write_all_at(&written(&entry.path()), 0).expect("a file can be written");
        file.set_len(length).expect("a file can be made longer");
    }
}

/// A file without the zeros at its end.
pub(crate) fn written(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = File::open(path).expect("a file can be opened");
    let (mut block, zeros) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut position = 0;
    loop {
        let read = file.read_at(&mut block, position).expect("a file can be read");
        // Nothing stands behind a whole block of zeros.
        if read == 0 || (read == block.len() && block == zeros) {
            break;
        }
        bytes.extend_from_slice(&block[..read]);
        position += read as u64;
    }
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    bytes
}

/// All files below a directory, in a stable order.
pub(crate) fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).expect("the directory can be listed") {
        let path = entry.expect("the directory can be listed").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The segment that is being written.
pub(crate) fn newest(data: &Path) -> PathBuf {
    let segments = files(&data.join("state/log")).into_iter();
    segments.filter(|path| !path.ends_with("next.log")).max().expect("a log has a segment")
}
