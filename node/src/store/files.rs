//! The file operations that the store uses, so that a test can run the store on a simulated disk.
//!
//! [`RealFiles`] is the file system. Every operation of the store goes through [`Files`] and [`OpenFile`]; each call of
//! the store is one call here, so that a test can fail or interrupt each of them. The calls are virtual: beside a system
//! call that costs nothing.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file system.
pub trait Files: Debug + Send + Sync {
    /// Makes a directory; its parent has to exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes an empty file and opens it to be read and written. Fails where the name exists.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
    /// Opens a file to be read and written.
    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
    /// Opens a directory, of which only [`OpenFile::sync_all`] is of use: it makes the names in the directory durable.
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
    /// What a directory contains, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<Listed>>;
    /// Gives a file or directory another name in the same directory. Replaces a file of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. One that is open can be used on.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens a file, makes it where it is missing, and locks it until the handle is dropped. None: another one has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn OpenFile>>>;
}

/// An open file. Positions and lengths are in bytes.
pub trait OpenFile: Debug + Send + Sync {
    /// The length.
    fn bytes(&self) -> io::Result<u64>;
    /// Reads as much as is there, up to the length of the buffer. 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of it. After an error, any part of it may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts the file off, or makes it longer by zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Makes the content durable. After an error, what was written may be lost though a later call succeeds.
    fn sync_data(&self) -> io::Result<()>;
    /// The same with everything that is stored about the file; for a directory, the names in it.
    fn sync_all(&self) -> io::Result<()>;
    /// Lets the system forget what it has in memory of a synced part, so that the next read is one of the disk. A hint.
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

fn opened(file: io::Result<File>) -> io::Result<Box<dyn OpenFile>> {
    Ok(Box::new(file?))
}

impl OpenFile for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn forget(&self, offset: u64, bytes: u64) {
        // Where it is not possible, a read may come from memory: then damage on the disk shows later.
        let _ = rustix::fs::fadvise(self, offset, std::num::NonZeroU64::new(bytes), rustix::fs::Advice::DontNeed);
    }
}

/// Reads a file as far as it goes.
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

/// Whether the process has too many files open, or the disk no room: what can be done later may wait.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOSPC | Errno::DQUOT))
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(files: &dyn Files, path: &Path) -> io::Result<()> {
    files.open_dir(path)?.sync_all()
}

/// Reads an open file from its beginning on.
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

    /// Ends there, in bytes, until another limit is set.
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
