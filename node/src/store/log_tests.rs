//! Goal: after a change of any byte of a log, loading returns a stored state with everything that
//! was confirmed, or reports damage. Method: segments of a few hundred bytes, so that a small log
//! has many of them, is cleaned often, and every byte can be tried.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::files::RealFiles;
use super::ledger::Ledger;
use super::log::{Limits, Log};
use super::replay::LoadError;
use super::replay::{self, Loaded};
use crate::protocol::digest::Buckets;
use crate::protocol::follower::Change;
use crate::protocol::types::{Config, Key};
use crate::protocol::types::{Epoch, FollowerId, Record, Synced, Version};

const SMALL: Limits = Limits { segment: 600, ahead: 100, slack: 1500 };
const ID: FollowerId = FollowerId(77);
const EPOCH: Epoch = Epoch { term: 1, leader: 9 };

struct Subject {
    ledger: Ledger,
    log: Log,
}

/// The stored state in a form that can be compared: the number of the batch, the count and the
/// digest.
type Fact = (u64, u64, u64);

impl Subject {
    fn create(path: &Path) -> Self {
        Log::create(&RealFiles, path, ID, &Ledger::new(ID)).expect("a log can be made");
        Self::open(path).expect("a new log is whole").0
    }

    fn open(path: &Path) -> Result<(Self, u64), String> {
        let Loaded { ledger, torn_bytes, tail, .. } =
            replay::load(&RealFiles, path, ID).map_err(|trouble| match trouble {
                LoadError::Damaged(reason) => reason,
                LoadError::Refused(error) => panic!("refused: {error}"),
            })?;
        let log = tail.resume(Arc::new(RealFiles), path, ID, SMALL).expect("a log can be gone on with");
        Ok((Self { ledger, log }, torn_bytes))
    }

    fn commit(&mut self, changes: Vec<Change>) {
        let operations = self.ledger.apply(changes);
        self.log.commit(&self.ledger, operations).expect("a batch is stored");
        self.log.prepare().expect("the next segment can be made");
    }

    fn fact(&self) -> Fact {
        let head = self.ledger.head();
        (head.batch, head.records, head.digest)
    }
}

fn put(key: u64, seq: u64, term: u64) -> Change {
    let value = Some(format!("value {seq} {}", "y".repeat((seq * 7 % 40) as usize)).into());
    let key: Key = format!("key {key}").into();
    Change::Put(key, Record { version: Version { epoch: Epoch { term, ..EPOCH }, seq }, value, marks: None })
}

/// Half of the keys are written once, the other half again and again.
fn written(path: &Path, batches: u64) -> Subject {
    let mut subject = Subject::create(path);
    for key in 0..10 {
        subject.commit(vec![put(100 + key, key, 1)]);
    }
    for seq in 0..batches {
        subject.commit(vec![put(seq % 7, seq, 1), put(seq % 3, 1000 + seq, 1)]);
    }
    subject
}

fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory can be made")
}

fn files(path: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(path).expect("listed").map(|entry| entry.expect("listed").path()).collect();
    files.retain(|file| file.file_name().is_some_and(|name| name != "next.log"));
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("made");
    for file in files(from) {
        fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("copied");
    }
}

#[test]
fn old_segments_go_and_nothing_that_counts_goes_with_them() {
    let directory = scratch();
    let path = directory.path().join("log");
    let mut subject = written(&path, 0);
    let mut removed = 0;
    for seq in 0..3000 {
        let oldest = files(&path).remove(0);
        subject.commit(vec![put(seq % 7, seq, 1), put(seq % 3, 1000 + seq, 1)]);
        removed += usize::from(!oldest.exists());
        // Twice the newest records, plus a third while old segments are read, plus the constant
        // parts.
        let most =
            2 * subject.ledger.live_bytes() + subject.ledger.live_bytes() / 3 + SMALL.slack + 3 * (SMALL.segment + 300);
        assert!(subject.log.bytes() <= most, "{} bytes for {}", subject.log.bytes(), subject.ledger.live_bytes());
        let on_disk: u64 = files(&path).iter().map(|file| file.metadata().expect("known").len()).sum();
        assert_eq!(on_disk, subject.log.bytes());
    }
    assert!(removed > 100, "{removed} segments went");
    let fact = subject.fact();
    drop(subject);
    assert_eq!(Subject::open(&path).expect("whole").0.fact(), fact);
}

/// A process killed at any moment leaves the batches up to then, and a restarted one can continue
/// to write.
#[test]
fn every_image_of_a_log_that_is_cleaned_opens() {
    let directory = scratch();
    let path = directory.path().join("log");
    let mut subject = written(&path, 0);
    for seq in 0..400 {
        let changes = match seq % 50 {
            // All older records are removed. Later cleaning must not bring them back.
            49 => {
                let config = Config { generation: 1, quorum: 1, size: 1, members: vec![], earlier: vec![] };
                let term = 1 + seq / 50;
                let mut changes: Vec<_> = (0..5).map(|key| put(key + seq, seq, term)).collect();
                changes.push(Change::Synced {
                    synced: Synced { epoch: Epoch { term, ..EPOCH }, config },
                    drop_older: Some(Buckets::all()),
                });
                changes
            }
            _ => vec![put(seq % 17, seq, 1 + seq / 50)],
        };
        subject.commit(changes);
        let image = directory.path().join(format!("image-{seq}"));
        copy(&path, &image);
        let (mut again, torn) = Subject::open(&image).expect("whole");
        assert_eq!((again.fact(), torn), (subject.fact(), 0), "after {seq}");
        again.commit(vec![put(1, 5000, 1 + seq / 50)]);
        let fact = again.fact();
        drop(again);
        assert_eq!(Subject::open(&image).expect("whole").0.fact(), fact, "after {seq}, and one more");
    }
}

/// Tears the last batch at every byte, both inside a segment and as the first one: the rest is
/// missing, is zeros, or only the rest is present, since a disk may write a later part first. Then
/// another batch is written over it.
#[test]
fn a_batch_that_was_never_finished_is_cut_off() {
    let directory = scratch();
    let mut rotations = 0;
    for batches in 40..52 {
        let (path, before_path) =
            (directory.path().join(format!("log-{batches}")), directory.path().join(format!("before-{batches}")));
        let mut subject = written(&path, batches);
        let before = subject.fact();
        copy(&path, &before_path);
        subject.commit(vec![put(3, 7777, 1), put(200, 1, 1)]);
        let after = subject.fact();
        drop(subject);
        let newest = files(&path).pop().expect("a segment");
        let name = newest.file_name().expect("a name");
        let bytes = fs::read(&newest).expect("read");
        let known = fs::read(before_path.join(name)).unwrap_or_default();
        rotations += usize::from(known.is_empty());
        let differs: Vec<_> =
            (0..bytes.len()).filter(|at| known.get(*at).copied().unwrap_or(0) != bytes[*at]).collect();
        let (start, end) = (differs[0], differs[differs.len() - 1] + 1);
        assert!(end - start > 100, "{start} to {end}");
        for cut in start..=end {
            let missing = bytes[..cut].to_vec();
            let mut zeros = bytes.clone();
            zeros[cut..].fill(0);
            let mut rest = bytes.clone();
            rest[start..cut].fill(0);
            for (how, image) in [("missing", missing), ("zeros", zeros), ("only the rest", rest)] {
                let what = format!("{batches} batches, cut at {cut} of {start} to {end}, {how}");
                let harmed = directory.path().join("harmed");
                copy(&before_path, &harmed);
                fs::write(harmed.join(name), &image).expect("written");
                let is_whole = if how == "only the rest" { cut == start } else { cut == end };
                let (mut again, torn) = Subject::open(&harmed).unwrap_or_else(|reason| panic!("{what}: {reason}"));
                assert_eq!(again.fact(), if is_whole { after } else { before }, "{what}");
                assert!(
                    torn <= (end - start) as u64 && (torn > 0 || is_whole || how != "only the rest" || cut == end),
                    "{what}: {torn}"
                );
                again.commit(vec![put(9, 1, 1)]);
                let fact = again.fact();
                drop(again);
                let (again, torn) = Subject::open(&harmed).unwrap_or_else(|reason| panic!("{what}, then: {reason}"));
                assert_eq!((again.fact(), torn), (fact, 0), "{what}, then another batch");
                fs::remove_dir_all(&harmed).expect("removed");
            }
        }
    }
    assert!((1..12).contains(&rotations), "both kinds were tried: {rotations}");
}

/// Flips a bit in every byte of every segment, and removes every segment: loading returns the same
/// state or reports damage. A damaged last batch looks like an unfinished one. Only its number,
/// which is stored elsewhere, shows the difference (or an old segment that was removed after it).
#[test]
fn every_byte_matters() {
    let directory = scratch();
    let (mut same, mut shorter, mut damaged) = (0, 0, 0);
    for batches in 60..64 {
        let path = directory.path().join(format!("log-{batches}"));
        let subject = written(&path, batches);
        let now = subject.fact();
        drop(subject);
        let all = files(&path);
        assert!(all.len() > 3, "{} segments", all.len());
        for file in &all {
            let bytes = fs::read(file).expect("read");
            for at in 0..bytes.len() {
                let mut harmed = bytes.clone();
                harmed[at] ^= 1 << (at % 8);
                fs::write(file, harmed).expect("written");
                let what = format!("byte {at} of {}", file.display());
                match replay::load(&RealFiles, &path, ID) {
                    Ok(Loaded { ledger, torn_bytes, .. }) if ledger.head().batch < now.0 => {
                        assert!(ledger.head().batch == now.0 - 1 && torn_bytes > 0, "{what}: {:?}", ledger.head());
                        assert_eq!(file, &all[all.len() - 1], "{what}");
                        shorter += 1;
                    }
                    Ok(Loaded { ledger, .. }) => {
                        let head = ledger.head();
                        assert_eq!((head.batch, head.records, head.digest), now, "{what}");
                        same += 1;
                    }
                    Err(LoadError::Damaged(_)) => damaged += 1,
                    Err(LoadError::Refused(error)) => panic!("{what}: {error}"),
                }
            }
            fs::remove_file(file).expect("removed");
            // Loading alone cannot detect that the newest segment is missing, nor the oldest if it
            // has no newest records.
            if let Ok(Loaded { ledger, .. }) = replay::load(&RealFiles, &path, ID) {
                let head = ledger.head();
                let is_now = (head.batch, head.records, head.digest) == now;
                let position = all.iter().position(|other| other == file).expect("one of all");
                assert!(if is_now { position == 0 } else { position == all.len() - 1 }, "without {}", file.display());
            }
            fs::write(file, &bytes).expect("written");
        }
        assert_eq!(Subject::open(&path).expect("whole").0.fact(), now);
    }
    println!("{same} times the same, {shorter} times without the last batch, {damaged} times damaged");
    // Only the zeros behind the last batch may change without effect.
    assert!(damaged > 8000 && shorter > 300 && same < 1200, "{same} the same, {shorter} shorter, {damaged} damaged");
}

/// A record that was damaged on the disk must not be written again under a good checksum.
#[test]
fn cleaning_stops_at_damage() {
    let directory = scratch();
    let path = directory.path().join("log");
    let mut subject = written(&path, 20);
    let oldest = files(&path).remove(0);
    let mut bytes = fs::read(&oldest).expect("read");
    let at = bytes
        .windows(7)
        .rposition(|part| part == b"value 9")
        .or_else(|| bytes.windows(5).rposition(|part| part == b"value"));
    bytes[at.expect("a value") + 6] ^= 1;
    fs::write(&oldest, bytes).expect("written");
    for seq in 0..1000 {
        subject.commit(vec![put(1, 9000 + seq, 1)]);
    }
    let damaged = subject.log.damaged().expect("the damage is found");
    assert!(damaged.0 > 0 && damaged.0 < 40, "{damaged:?}");
    drop(subject);
    assert!(oldest.exists());
    assert!(matches!(replay::load(&RealFiles, &path, ID), Err(LoadError::Damaged(_))));
}
