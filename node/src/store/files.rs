//! The file operations that the store uses, so that a test can run the store on a simulated disk.
//!
//! [`RealFiles`] is the file system. The store uses files only through [`Files`] and [`OpenFile`],
//! so that a test can fail or interrupt each operation. Compared with a system call, the cost of a
//! virtual call is negligible.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use parking_lot::Mutex;

use super::direct::Direct;

/// A file system.
pub trait Files: Debug + Send + Sync {
    /// Creates a directory; its parent has to exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Creates an empty file and opens it for reading and writing. Fails if the name exists.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
    /// Opens a directory. Only [`OpenFile::sync_all`] is useful: it makes the names in the
    /// directory durable.
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
    /// The entries of a directory, in no particular order.
    fn list(&self, path: &Path) -> io::Result<Vec<Listed>>;
    /// Renames a file or directory within its directory. Replaces a file of the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. An open handle remains usable.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens or creates a file and locks it until the handle is dropped. `None` if another process
    /// has the lock.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn OpenFile>>>;
}

/// An open file. Positions and lengths are in bytes.
pub trait OpenFile: Debug + Send + Sync {
    /// The length.
    fn bytes(&self) -> io::Result<u64>;
    /// Reads up to the length of the buffer. Returns the number of bytes, 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes. After an error, any part of them may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Lets [`Self::write_synced_at`] bypass the page cache, where the file system can do so. Returns
    /// the unit in bytes, 1 or more: from here on the file is for that call alone, whose offsets and
    /// lengths have to be multiples of it.
    fn direct(&self) -> usize {
        1
    }
    /// Writes all bytes and makes them durable, but nothing else of the file. After an error, any
    /// part of them may have been written, and a later call cannot make them durable.
    fn write_synced_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)?;
        self.sync_data()
    }
    /// Truncates the file, or extends it with zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Makes the content durable. After an error, written data may be lost even if a later call
    /// succeeds.
    fn sync_data(&self) -> io::Result<()>;
    /// The same including the metadata; for a directory, the names in it.
    fn sync_all(&self) -> io::Result<()>;
    /// Asks the system to drop the cached pages of a synced part, so that the next read reads the
    /// disk. Only a hint.
    fn forget(&self, offset: u64, bytes: u64);
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name, without the directory.
    pub name: OsString,
    /// Whether it is a directory itself.
    pub is_dir: bool,
    /// The length of a file.
    pub bytes: u64,
}

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl Files for RealFiles {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        opened(OpenOptions::new().read(true).write(true).create_new(true).open(path))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        opened(OpenOptions::new().read(true).write(true).open(path))
    }

    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        opened(File::open(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        let listed = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            let metadata = entry.metadata()?;
            Ok(Listed { name: entry.file_name(), is_dir: metadata.is_dir(), bytes: metadata.len() })
        };
        fs::read_dir(path)?.map(listed).collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn OpenFile>>> {
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => opened(Ok(file)).map(Some),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// A file of this machine.
#[derive(Debug)]
struct RealFile {
    file: File,
    direct: Mutex<Option<Direct>>,
}

fn opened(file: io::Result<File>) -> io::Result<Box<dyn OpenFile>> {
    Ok(Box::new(RealFile { file: file?, direct: Mutex::new(None) }))
}

impl OpenFile for RealFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn direct(&self) -> usize {
        let (direct, unit) = Direct::begin(&self.file).unzip();
        *self.direct.lock() = direct;
        unit.unwrap_or(1)
    }

    fn write_synced_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut direct = self.direct.lock();
        if let Some(known) = &mut *direct {
            if known.write(&self.file, bytes, offset)? {
                return Ok(());
            }
            *direct = None;
        }
        self.file.write_all_at(bytes, offset)?;
        self.file.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn forget(&self, offset: u64, bytes: u64) {
        // If this fails, a read may come from the page cache, and damage on the disk is found
        // later.
        let _ = rustix::fs::fadvise(&self.file, offset, std::num::NonZeroU64::new(bytes), rustix::fs::Advice::DontNeed);
    }
}

/// Reads a file to its end.
pub(super) fn read_all(file: &dyn OpenFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.bytes()?).map_err(|_| io::ErrorKind::FileTooLarge)?];
    let mut end = 0;
    while end < bytes.len() {
        match file.read_at(&mut bytes[end..], end as u64) {
            Ok(0) => break,
            Ok(read) => end += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(end);
    Ok(bytes)
}

/// Whether the process is out of file descriptors or the disk is full. Work that can be delayed is
/// then retried later.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOSPC | Errno::DQUOT))
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(files: &dyn Files, path: &Path) -> io::Result<()> {
    files.open_dir(path)?.sync_all()
}

/// Reads an open file from its beginning.
#[derive(Debug)]
pub(super) struct Reader {
    file: Box<dyn OpenFile>,
    at: u64,
    limit: u64,
}

impl Reader {
    pub(super) fn new(file: Box<dyn OpenFile>, limit: u64) -> Self {
        Self { file, at: 0, limit }
    }

    /// Sets the position, in bytes, where reading ends.
    pub(super) fn limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    pub(super) fn into_file(self) -> Box<dyn OpenFile> {
        self.file
    }
}

impl io::Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.limit.saturating_sub(self.at)).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Goal: the bytes of whole blocks, of several parts, and of a length that no disk takes directly
    // all get to their place. Where the directory of the test does not allow direct writes, the last
    // two are ordinary ones.
    #[test]
    fn synced_writes_of_any_length() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let path = directory.path().join("file");
        let file = RealFiles.create_new(&path).expect("made");
        file.write_all_at(&[0; 8192], 0).and_then(|()| file.sync_all()).expect("written");
        let unit = file.direct();
        let bytes = |length: usize| (0..length).map(|at| (at % 251) as u8 + 1).collect::<Vec<_>>();
        let mut expected = vec![0; 8192];
        for (offset, length) in [(4096, 4096), (4096, 8192), (8192, 600 << 10), (4096, 4096 + 100)] {
            file.write_synced_at(&bytes(length), offset as u64).expect("written");
            expected.resize(expected.len().max(offset + length), 0);
            expected[offset..][..length].copy_from_slice(&bytes(length));
            let found = RealFiles.open(&path).and_then(|file| read_all(&*file)).expect("read");
            assert!(found == expected, "{length} bytes at {offset}, unit {unit}");
        }
    }
}
