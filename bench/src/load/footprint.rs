//! What nodes occupy on this machine: memory, and disk.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::Serialize;

/// What a leader and its followers occupy at one time, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Footprint {
    /// Resident memory of the leader.
    pub leader_bytes: Option<u64>,
    /// Resident memory of the follower that has most.
    pub follower_bytes: Option<u64>,
    /// Disk space of the follower that has most; none where they store nothing.
    pub disk_bytes: Option<u64>,
}

impl Footprint {
    /// Measures these processes and these directories of followers. What cannot be measured (an ended process, no `/proc`)
    /// is left out.
    pub fn now(leader: Option<u32>, followers: &[u32], directories: &[PathBuf]) -> Self {
        Self {
            leader_bytes: leader.and_then(|leader| resident_bytes(leader).ok()),
            follower_bytes: followers.iter().filter_map(|follower| resident_bytes(*follower).ok()).max(),
            // Files come and go while they are counted; the next look counts again.
            disk_bytes: directories.iter().filter_map(|directory| disk_bytes(directory).ok()).max(),
        }
    }

    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            leader_bytes: self.leader_bytes.max(other.leader_bytes),
            follower_bytes: self.follower_bytes.max(other.follower_bytes),
            disk_bytes: self.disk_bytes.max(other.disk_bytes),
        }
    }

    /// By name, in the order of telling.
    pub fn by_name(self) -> [(&'static str, Option<u64>); 3] {
        let Self { leader_bytes, follower_bytes, disk_bytes } = self;
        [
            ("memory of the leader", leader_bytes),
            ("memory of a follower", follower_bytes),
            ("disk of a follower", disk_bytes),
        ]
    }
}

/// What a process has in memory, as Linux counts it.
///
/// # Errors
/// When it does not run, or there is no `/proc`.
pub fn resident_bytes(process_id: u32) -> Result<u64> {
    let path = format!("/proc/{process_id}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("failed to find VmRSS in {path}"))? * 1024)
}

/// What a directory takes on the disk: a file with holes is smaller than it is long.
///
/// # Errors
/// When something in it cannot be looked at, or goes while it is.
pub fn disk_bytes(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    /// `tail` keeps a line for as long as it has no end. Other tests of this process change nothing of its memory.
    #[test]
    fn memory_of_a_process_grows_with_what_it_holds() {
        const HELD_BYTES: u64 = 64 << 20;
        let mut tail = Command::new("tail").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("tail runs");
        let process_id = tail.id();
        let before = Footprint::now(Some(process_id), &[process_id], &[]);
        let mut input = tail.stdin.take().expect("piped");
        input.write_all(&vec![b'1'; HELD_BYTES as usize]).expect("written");
        let after = Footprint::now(Some(process_id), &[u32::MAX, process_id], &[]);
        drop(input);
        tail.wait().expect("ends");
        assert!(after.leader_bytes >= before.leader_bytes.map(|bytes| bytes + HELD_BYTES / 2), "{before:?}, {after:?}");
        assert_eq!(after.follower_bytes, after.leader_bytes, "the one that runs");
        assert_eq!(after.disk_bytes, None);
        assert_eq!(before.max(after), after);
    }

    #[test]
    fn disk_is_counted_with_what_is_below() {
        let directory = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(directory.path().join("below")).expect("created");
        fs::write(directory.path().join("below/file"), vec![7; 100_000]).expect("written");
        let missing = directory.path().join("missing");
        let disk = Footprint::now(None, &[], &[missing, directory.path().to_owned()]).disk_bytes;
        assert!(disk.is_some_and(|bytes| (100_000..200_000).contains(&bytes)), "{disk:?}");
    }
}
