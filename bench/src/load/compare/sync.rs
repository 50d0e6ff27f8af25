//! How long the disk of all systems takes for one write and its sync, which no write that is stored can undercut.

use std::{
    fs::File,
    io::Result,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

/// Writes of one measurement.
const WRITES: usize = 300;
/// Bytes of each, the least that a disk stores.
pub(super) const WRITE_BYTES: usize = 4096;

/// The durations of writes that each are synced before the next one, in order of their length. The file has its space on
/// the disk before, as the logs of databases that reuse theirs.
///
/// # Errors
/// Those of the file system.
pub(super) fn measure(directory: &Path) -> Result<Vec<Duration>> {
    let path = directory.join("bare-sync");
    let file = File::create(&path)?;
    file.write_all_at(&vec![1; WRITES * WRITE_BYTES], 0)?;
    file.sync_all()?;
    let block = [2; WRITE_BYTES];
    let mut took = Vec::with_capacity(WRITES);
    for number in 0..WRITES {
        let begun = Instant::now();
        file.write_all_at(&block, (number * WRITE_BYTES) as u64)?;
        file.sync_data()?;
        took.push(begun.elapsed());
    }
    std::fs::remove_file(&path)?;
    took.sort();
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_is_counted_and_nothing_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let took = measure(directory.path()).expect("a disk");
        assert_eq!(took.len(), WRITES);
        assert!(took.is_sorted() && took[0] > Duration::ZERO);
        assert_eq!(std::fs::read_dir(directory.path()).expect("it is there").count(), 0);
        measure(&directory.path().join("nothing")).expect_err("no such directory");
    }
}
