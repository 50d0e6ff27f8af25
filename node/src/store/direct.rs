//! Writes that are on the disk when they return, past the page cache.
//!
//! One call writes and syncs, and the kernel copies nothing. A disk with a volatile cache that takes
//! forced unit access stores the bytes with one command in place of a write and a flush.

use std::fs::File;
use std::io::{self, IoSlice};

use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};

/// Offset and length of a direct write are multiples of this, and so is its address in memory. Every
/// disk takes it.
const BLOCK_BYTES: usize = 4096;

/// The longest write that is one call.
const PART_BYTES: usize = 256 << 10;

/// Memory that a device can read from.
#[derive(Debug)]
pub(super) struct Direct(Box<[u8]>);

impl Direct {
    /// Switches the file to direct writes. `None` where that is impossible, or where it is unknown
    /// whether the file system syncs what it is asked to: a driver in user space or a remote server
    /// may ignore the flag, and only knows a sync of the file.
    pub(super) fn begin(file: &File) -> Option<(Self, usize)> {
        const EXT4: u32 = 0xEF53;
        const XFS: u32 = 0x5846_5342;
        let known = matches!(u32::try_from(rustix::fs::fstatfs(file).ok()?.f_type), Ok(EXT4 | XFS));
        let begun = known && rustix::fs::fcntl_setfl(file, OFlags::DIRECT).is_ok();
        begun.then(|| (Self(vec![0; PART_BYTES + BLOCK_BYTES].into()), BLOCK_BYTES))
    }

    /// Writes whole blocks. Returns whether they are on the disk; if not, the file system refused
    /// them, and the file is an ordinary one again.
    pub(super) fn write(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<bool> {
        // A sync of one part does not include another one.
        let flags = if bytes.len() <= PART_BYTES { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        let mut offset = offset;
        for part in bytes.chunks(PART_BYTES) {
            match self.write_part(file, part, offset, flags) {
                Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                    rustix::fs::fcntl_setfl(file, OFlags::empty())?;
                    return Ok(false);
                }
                other => other?,
            }
            offset += part.len() as u64;
        }
        if flags.is_empty() {
            file.sync_data()?;
        }
        Ok(true)
    }

    fn write_part(&mut self, file: &File, part: &[u8], mut offset: u64, flags: ReadWriteFlags) -> Result<(), Errno> {
        let start = self.0.as_ptr().align_offset(BLOCK_BYTES);
        let mut left = &mut self.0[start..start + part.len()];
        left.copy_from_slice(part);
        while !left.is_empty() {
            match rustix::io::pwritev2(file, &[IoSlice::new(left)], offset, flags) {
                Err(Errno::INTR) => {}
                Ok(0) => return Err(Errno::IO),
                other => {
                    // The rest begins with a whole block: the one that was written in part is written again.
                    let written = other? / BLOCK_BYTES * BLOCK_BYTES;
                    left = &mut left[written..];
                    offset += written as u64;
                }
            }
        }
        Ok(())
    }
}
