//! The binary format of the log: segments of batches of entries. All numbers are little endian.
//!
//! ```text
//! segment   magic (8), number of its first batch (8), checksum (8); batches, each one more than the one before; zeros
//! batch     checksum of all that follows (8), length of the body (4), number (8); body
//! body      length of the head (4), head; entries; a byte that is not zero, so that its end shows among zeros
//! entry     length of the key (4), length of the record (4; all ones: the key is gone), key, record
//! ```
//!
//! Every checksum (XXH3) is seeded with the follower's id, so that a batch of another follower is
//! never valid.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::head::Head;
use crate::protocol::types::FollowerId;

/// Length of the head of a segment.
pub(super) const HEADER_BYTES: usize = 24;
/// Length of the part before the body of a batch.
pub(super) const PREFIX_BYTES: usize = 20;

const MAGIC: [u8; 8] = *b"kvlog/2\n";
const SUM_BYTES: usize = 8;
const GONE: u32 = u32::MAX;
const END: u8 = b'\n';
/// Length of the part after the entries of a batch.
pub(super) const END_BYTES: usize = 1;

/// A batch in a segment whose checksum is correct.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    pub(super) number: u64,
    pub(super) body: &'a [u8],
}

/// An entry of a batch: a key with its encoded record; `None` removes the key.
pub(super) type Entry<'a> = (&'a str, Option<&'a [u8]>);

/// Appends the head of a segment.
pub(super) fn put_header(buffer: &mut Vec<u8>, id: FollowerId, first: u64) {
    let start = buffer.len();
    buffer.extend_from_slice(&MAGIC);
    buffer.extend_from_slice(&first.to_le_bytes());
    let sum = xxh3_64_with_seed(&buffer[start..], id.0);
    buffer.extend_from_slice(&sum.to_le_bytes());
}

/// The number of the first batch, if this is the head of a segment.
pub(super) fn header(bytes: &[u8], id: FollowerId) -> Option<u64> {
    let (body, sum) = bytes.get(..HEADER_BYTES)?.split_last_chunk::<SUM_BYTES>()?;
    let first = body.strip_prefix(&MAGIC)?;
    let intact = xxh3_64_with_seed(body, id.0) == u64::from_le_bytes(*sum);
    intact.then(|| Some(u64::from_le_bytes(first.try_into().ok()?))).flatten()
}

/// Appends a batch, whose entries the function `entries` appends. `None` if the batch is longer
/// than its length field allows.
pub(super) fn put_batch(
    buffer: &mut Vec<u8>,
    id: FollowerId,
    head: &Head,
    entries: impl FnOnce(&mut Vec<u8>),
) -> Option<()> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; SUM_BYTES + 4]);
    buffer.extend_from_slice(&head.batch.to_le_bytes());
    let encoded = head.encode();
    buffer.extend_from_slice(&u32::try_from(encoded.len()).ok()?.to_le_bytes());
    buffer.extend_from_slice(&encoded);
    entries(buffer);
    buffer.push(END);
    let length = u32::try_from(buffer.len() - start - PREFIX_BYTES).ok()?;
    buffer[start + SUM_BYTES..][..4].copy_from_slice(&length.to_le_bytes());
    let sum = xxh3_64_with_seed(&buffer[start + SUM_BYTES..], id.0);
    buffer[start..][..SUM_BYTES].copy_from_slice(&sum.to_le_bytes());
    Some(())
}

/// Appends an entry. A key or a record is at most as long as a message, far below what a length can say.
pub(super) fn put_entry(buffer: &mut Vec<u8>, (key, record): Entry<'_>) {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("shorter than a message");
    buffer.extend_from_slice(&length(key.as_bytes()).to_le_bytes());
    buffer.extend_from_slice(&record.map_or(GONE, length).to_le_bytes());
    buffer.extend_from_slice(key.as_bytes());
    buffer.extend_from_slice(record.unwrap_or_default());
}

/// Length of an entry in bytes.
pub(super) fn entry_bytes(key: &str, record: &[u8]) -> usize {
    8 + key.len() + record.len()
}

/// The length of the body, from the part before it.
pub(super) fn body_bytes(prefix: &[u8; PREFIX_BYTES]) -> usize {
    let length = prefix[SUM_BYTES..].first_chunk().expect("twenty bytes are more than twelve");
    u32::from_le_bytes(*length) as usize
}

/// The batch that begins here, if it is complete and intact.
pub(super) fn batch(bytes: &[u8], id: FollowerId) -> Option<Batch<'_>> {
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX_BYTES>()?;
    let body = rest.get(..body_bytes(prefix))?;
    let (sum, number) = (prefix.first_chunk()?, prefix.last_chunk()?);
    let covered = &bytes[SUM_BYTES..PREFIX_BYTES + body.len()];
    let intact = !body.is_empty() && xxh3_64_with_seed(covered, id.0) == u64::from_le_bytes(*sum);
    intact.then(|| Batch { number: u64::from_le_bytes(*number), body })
}

/// The number of a batch from `expected` on that begins anywhere in these bytes.
pub(super) fn any_batch(bytes: &[u8], id: FollowerId, expected: u64) -> Option<u64> {
    next_batch(bytes, id, expected).map(|(_, batch)| batch.number)
}

/// The first batch from `expected` on that begins anywhere in these bytes, and where.
pub(super) fn next_batch(bytes: &[u8], id: FollowerId, expected: u64) -> Option<(usize, Batch<'_>)> {
    (0..bytes.len()).find_map(|start| {
        let number = bytes.get(start + SUM_BYTES + 4..)?.first_chunk()?;
        // These bytes contain fewer batches than bytes, which bounds the number. The check avoids
        // most checksums.
        let likely = u64::from_le_bytes(*number).checked_sub(expected)? <= bytes.len() as u64;
        likely.then(|| batch(&bytes[start..], id)).flatten().map(|batch| (start, batch))
    })
}

impl<'a> Batch<'a> {
    /// Its length in bytes.
    pub(super) fn bytes(&self) -> usize {
        PREFIX_BYTES + self.body.len()
    }

    /// Its head and entries. `None` if the content is invalid despite a correct checksum.
    pub(super) fn open(&self) -> Option<(Head, Entries<'a>)> {
        let (length, rest) = self.body.strip_suffix(&[END])?.split_first_chunk()?;
        let (head, entries) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let head = Head::decode(head).filter(|head| head.batch == self.number)?;
        Some((head, Entries(entries)))
    }
}

/// Iterates over the entries of a batch.
#[derive(Debug)]
pub(super) struct Entries<'a>(&'a [u8]);

impl<'a> Entries<'a> {
    /// How many bytes remain.
    pub(super) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Continues with the remaining entries of a batch.
    pub(super) fn of(rest: &'a [u8]) -> Self {
        Self(rest)
    }

    fn split(&mut self) -> Option<Entry<'a>> {
        let (key_bytes, rest) = self.0.split_first_chunk()?;
        let (record_bytes, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_bytes) as usize)?;
        let key = std::str::from_utf8(key).ok()?;
        let record_bytes = u32::from_le_bytes(*record_bytes);
        if record_bytes == GONE {
            self.0 = rest;
            return Some((key, None));
        }
        let (record, rest) = rest.split_at_checked(record_bytes as usize)?;
        self.0 = rest;
        Some((key, Some(record)))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self.split();
        if entry.is_none() {
            self.0 = &[];
        }
        Some(entry.ok_or_else(|| "an entry cannot be read".to_owned()))
    }
}
