//! Reads the batches of a segment in order and checks each.

use std::io::{BufReader, Read};
use std::ops::Range;

use super::files::{OpenFile, Reader};
use super::segment::{self, HEADER_BYTES, PREFIX_BYTES};
use crate::protocol::types::FollowerId;

const READ_BYTES: usize = 64 << 10;

/// The batch with this number differs from what was stored, or cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged(pub(super) u64);

/// A segment that is being read.
#[derive(Debug)]
pub(super) struct Batches {
    reader: BufReader<Reader>,
    batch: Vec<u8>,
    /// The number of the next batch.
    next: u64,
}

impl Batches {
    /// Opens the segment whose first batch is `first`. `end` is its written length in bytes.
    pub(super) fn open(file: Box<dyn OpenFile>, id: FollowerId, first: u64, end: u64) -> Result<Self, Damaged> {
        let mut reader = BufReader::with_capacity(READ_BYTES, Reader::new(file, end));
        let mut header = [0; HEADER_BYTES];
        let read = reader.read_exact(&mut header);
        let intact = read.is_ok() && segment::header(&header, id) == Some(first);
        intact.then_some(Self { reader, batch: Vec::new(), next: first }).ok_or(Damaged(first))
    }

    /// The number of the next batch.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Reads the next batch. Returns the range of its entries in [`Self::bytes`].
    pub(super) fn read(&mut self, id: FollowerId) -> Result<Range<usize>, Damaged> {
        let damaged = Damaged(self.next);
        let mut prefix = [0; PREFIX_BYTES];
        self.batch.clear();
        self.reader.read_exact(&mut prefix).map_err(|_| damaged)?;
        self.batch.extend_from_slice(&prefix);
        let body = segment::body_bytes(&prefix) as u64;
        (&mut self.reader).take(body).read_to_end(&mut self.batch).map_err(|_| damaged)?;
        let batch = segment::batch(&self.batch, id).filter(|batch| batch.number == self.next);
        let (_, entries) = batch.and_then(|batch| batch.open()).ok_or(damaged)?;
        let end = self.batch.len() - segment::END_BYTES;
        self.next += 1;
        Ok(end - entries.bytes()..end)
    }

    /// All bytes of the batch that was read last.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.batch
    }

    /// Sets a new written length, in bytes.
    pub(super) fn extend(&mut self, end: u64) {
        self.reader.get_mut().limit(end);
    }

    pub(super) fn into_file(self) -> Box<dyn OpenFile> {
        self.reader.into_inner().into_file()
    }
}
