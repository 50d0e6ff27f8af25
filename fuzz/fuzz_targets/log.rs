//! The segments of a follower's log, with batches whose checksums are right and bytes behind them: reading never panics, and
//! what was written whole is not lost.
#![no_main]

use std::io;
use std::path::Path;

use kv_node::store::files::{Files, Listed, OpenFile};
use libfuzzer_sys::fuzz_target;

const ID: u64 = 7;

/// A directory with one file, for reading.
#[derive(Clone, Debug)]
struct OneFile(String, Vec<u8>);

fn unsupported<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Files for OneFile {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        unsupported()
    }
    fn create_new(&self, _: &Path) -> io::Result<Box<dyn OpenFile>> {
        unsupported()
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        assert!(path.ends_with(&self.0));
        Ok(Box::new(self.clone()))
    }
    fn open_dir(&self, _: &Path) -> io::Result<Box<dyn OpenFile>> {
        unsupported()
    }
    fn list(&self, _: &Path) -> io::Result<Vec<Listed>> {
        Ok(vec![Listed { name: self.0.clone().into(), is_dir: false, bytes: self.1.len() as u64 }])
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        unsupported()
    }
    fn remove_file(&self, _: &Path) -> io::Result<()> {
        unsupported()
    }
    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        unsupported()
    }
    fn lock(&self, _: &Path) -> io::Result<Option<Box<dyn OpenFile>>> {
        unsupported()
    }
}

impl OpenFile for OneFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.1.len() as u64)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.1.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        unsupported()
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        unsupported()
    }
    fn sync_data(&self) -> io::Result<()> {
        unsupported()
    }
    fn sync_all(&self) -> io::Result<()> {
        unsupported()
    }
    fn forget(&self, _: u64, _: u64) {}
}

fuzz_target!(|data: &[u8]| {
    // How many batches, how many records their heads name, how many bytes are behind them, what comes first.
    let Some(([batches, records, behind, kind], rest)) = data.split_first_chunk() else { return };
    let (entries, behind) = rest.split_at(rest.len().saturating_sub((*behind).into()));
    let first = u64::from(kind >> 1) << if kind & 1 == 0 { 0 } else { 48 };
    let length = entries.len().div_ceil(usize::from(*batches).max(1)).max(1);
    let (name, mut bytes) = kv_node::fuzz::framed(ID, first, u64::from(*records), entries.chunks(length));
    let whole = kv_node::fuzz::load(&OneFile(name.clone(), bytes.clone()), Path::new("log"), ID);
    bytes.extend_from_slice(behind);
    let longer = kv_node::fuzz::load(&OneFile(name, bytes), Path::new("log"), ID);
    // Bytes behind the last batch are an unfinished one, or damage; they change nothing before them.
    if let (Ok(whole), Ok(longer)) = (&whole, &longer) {
        assert_eq!((whole.records, whole.batch), (longer.records, longer.batch));
        assert!(longer.torn_bytes <= behind.len() as u64);
    }
    if let Err(why) = &whole {
        assert!(longer.is_err(), "{why}, and not with more behind it");
    }
});
