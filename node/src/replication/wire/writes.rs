//! Frames of writes, the messages of which there are most: made and read in place, without a message in
//! between.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{FRAME_BYTES_TARGET, HEAD_BYTES, INTO_MEMORY, LENGTH_BYTES, WireError, begin_writes, frame};
use crate::protocol::messages::Write;
use crate::protocol::types::{Epoch, Record, RetryMark, Version};
use crate::protocol::value::Value;

/// The number of `ToFollower::Writes` among the messages to followers.
const KIND: u64 = 6;

/// Maximum bytes of a number.
const NUMBER_BYTES_MAX: usize = 10;

/// A frame of writes that grows, and is then sent to several followers.
#[derive(Debug, Default)]
pub(crate) struct WritesFrame {
    epoch: Epoch,
    /// The encoded epoch, which every write contains once more.
    epoch_bytes: Vec<u8>,
    count: usize,
    writes: Vec<u8>,
}

impl WritesFrame {
    /// About how many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.writes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether a write of this epoch may join those that are there.
    pub(crate) fn takes(&self, epoch: Epoch) -> bool {
        self.is_empty() || self.epoch == epoch
    }

    /// Adds a write. All writes of a frame have one epoch, see [`WritesFrame::takes`].
    pub(crate) fn push(&mut self, write: &Write) {
        let epoch = write.record.version.epoch;
        debug_assert!(self.takes(epoch), "a frame has one epoch");
        if self.epoch != epoch || self.epoch_bytes.is_empty() {
            (self.epoch, self.epoch_bytes) = (epoch, epoch_bytes(epoch));
        }
        append_write(write, &self.epoch_bytes, &mut self.writes);
        self.count += 1;
    }

    /// Ends the frame and begins the next one.
    pub(crate) fn finish(&mut self) -> Bytes {
        let mut buffer = BytesMut::with_capacity(LENGTH_BYTES + HEAD_BYTES + self.writes.len());
        frame(&mut buffer, |buffer| {
            begin_writes(self.epoch, self.count, buffer);
            buffer.extend_from_slice(&self.writes);
        });
        self.count = 0;
        self.writes.clear();
        self.writes.shrink_to(FRAME_BYTES_TARGET);
        buffer.freeze()
    }
}

/// Appends a write, as serde would. `epoch` is the encoded epoch of its version.
pub(super) fn append_write(write: &Write, epoch: &[u8], buffer: &mut Vec<u8>) {
    let Write { index, key, record: Record { version, value, marks }, .. } = write;
    append_number(*index, buffer);
    append_bytes(key.as_bytes(), buffer);
    buffer.extend_from_slice(epoch);
    append_number(version.seq, buffer);
    match value {
        None => buffer.push(0),
        Some(value) => {
            buffer.push(1);
            append_bytes(value, buffer);
        }
    }
    match marks {
        None => buffer.push(0),
        marks => buffer.extend_from_slice(&postcard::to_allocvec(marks).expect(INTO_MEMORY)),
    }
}

pub(super) fn epoch_bytes(epoch: Epoch) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES);
    append_number(epoch.term, &mut bytes);
    append_number(epoch.leader, &mut bytes);
    bytes
}

fn append_bytes(bytes: &[u8], buffer: &mut Vec<u8>) {
    append_number(bytes.len() as u64, buffer);
    buffer.extend_from_slice(bytes);
}

fn append_number(mut number: u64, buffer: &mut Vec<u8>) {
    while number >= 0x80 {
        buffer.push(number as u8 | 0x80);
        number >>= 7;
    }
    buffer.push(number as u8);
}

/// Reads the writes of a `ToFollower::Writes` in place: index, key and record of each.
pub(crate) struct WritesIn<'a> {
    epoch: Epoch,
    left: u64,
    rest: &'a [u8],
    error: Option<postcard::Error>,
}

impl<'a> WritesIn<'a> {
    /// The writes in a frame; `None` if it is another message or begins wrong.
    pub(crate) fn of(frame: &'a [u8]) -> Option<Self> {
        let mut rest = frame;
        if take_number(&mut rest)? != KIND {
            return None;
        }
        let epoch = take_epoch(&mut rest)?;
        let left = take_number(&mut rest)?;
        Some(Self { epoch, left, rest, error: None })
    }

    /// The epoch of the leader.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether every write could be read.
    ///
    /// # Errors
    /// [`WireError`] of the write after the last one that was returned.
    pub(crate) fn end(self) -> Result<(), WireError> {
        self.error.map_or(Ok(()), |error| Err(error.into()))
    }

    fn take(&mut self) -> Result<(u64, &'a str, Record), postcard::Error> {
        let rest = &mut self.rest;
        let end = || postcard::Error::DeserializeUnexpectedEnd;
        let index = take_number(rest).ok_or_else(end)?;
        let key = std::str::from_utf8(take_bytes(rest).ok_or_else(end)?);
        let key = key.map_err(|_| postcard::Error::DeserializeBadUtf8)?;
        let epoch = take_epoch(rest).ok_or_else(end)?;
        let seq = take_number(rest).ok_or_else(end)?;
        let value = match take_byte(rest).ok_or_else(end)? {
            0 => None,
            1 => Some(Value::from(take_bytes(rest).ok_or_else(end)?)),
            _ => return Err(postcard::Error::DeserializeBadOption),
        };
        let marks = match rest.first() {
            Some(0) => {
                *rest = &rest[1..];
                None
            }
            _ => {
                let (marks, after) = postcard::take_from_bytes::<Option<Arc<[RetryMark]>>>(rest)?;
                *rest = after;
                marks
            }
        };
        Ok((index, key, Record { version: Version { epoch, seq }, value, marks }))
    }
}

impl<'a> Iterator for WritesIn<'a> {
    type Item = (u64, &'a str, Record);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        match self.take() {
            Ok(write) => Some(write),
            Err(error) => {
                (self.left, self.error) = (0, Some(error));
                None
            }
        }
    }
}

fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (byte, after) = rest.split_first()?;
    *rest = after;
    Some(*byte)
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_number(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(bytes)
}

fn take_epoch(rest: &mut &[u8]) -> Option<Epoch> {
    Some(Epoch { term: take_number(rest)?, leader: take_number(rest)? })
}

/// A number of at most 64 bits, seven in each byte, the lowest first.
fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for (place, byte) in rest.iter().take(NUMBER_BYTES_MAX).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * place);
        if *byte < 0x80 {
            *rest = &rest[place + 1..];
            // The last byte has room for one bit.
            return (place + 1 < NUMBER_BYTES_MAX || *byte <= 1).then_some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::ToFollower;
    use crate::replication::wire::{encode, next};

    /// A frame of writes is made and read as its message is: also with deleted keys, marks and another epoch than before.
    #[test]
    fn a_growing_frame_encodes_as_its_message() {
        let mark = |seq| RetryMark { token: format!("token {seq}").into(), seq, fingerprint: u64::MAX - seq };
        let mut grows = WritesFrame::default();
        for (term, count) in [(3, 1), (3, 300), (4, 2)] {
            let epoch = Epoch { term, leader: 77 };
            let writes: Vec<Write> = (0..count)
                .map(|index| {
                    let value = (index % 3 > 0).then(|| "v".repeat(index as usize).into());
                    let marks = (index % 5 == 0).then(|| [mark(index), mark(300)].into());
                    let record = Record { version: Version { epoch, seq: 127 + index }, value, marks };
                    Write::new(index << 20, format!("key {index}").into(), record)
                })
                .collect();
            writes.iter().for_each(|write| grows.push(write));
            let mut expected = BytesMut::new();
            encode(&ToFollower::Writes { epoch, writes: writes.clone() }, &mut expected);
            assert_eq!(grows.finish(), expected, "{count} writes of term {term}");
            assert!(grows.is_empty() && grows.takes(Epoch { term: term + 1, leader: 77 }));

            let frame = next(&mut expected).expect("well-formed").expect("whole");
            let mut reads = WritesIn::of(&frame).expect("writes");
            assert_eq!(reads.epoch(), epoch);
            let read = reads.by_ref().map(|(index, key, record)| Write::new(index, key.into(), record));
            assert_eq!(read.collect::<Vec<_>>(), writes);
            reads.end().expect("nothing is wrong");
        }
    }

    /// A frame that ends early or has another byte is read as its message is, or refused as it is.
    #[test]
    fn a_damaged_frame_is_refused_as_its_message_is() {
        let epoch = Epoch { term: 300, leader: u64::MAX };
        let mark = RetryMark { token: "token".into(), seq: 2, fingerprint: u64::MAX };
        let record = |value: Option<&str>, marks| Record {
            version: Version { epoch, seq: 2 },
            value: value.map(Value::from),
            marks,
        };
        let writes = vec![
            Write::new(u64::MAX, "key".into(), record(Some("value"), Some([mark].into()))),
            Write::new(7, "k\u{1f511}".into(), record(None, None)),
        ];
        let mut bytes = BytesMut::new();
        encode(&ToFollower::Writes { epoch, writes }, &mut bytes);
        let whole = next(&mut bytes).expect("well-formed").expect("whole");
        let cut = (0..whole.len()).map(|end| whole[..end].to_vec());
        let changed = (0..whole.len()).flat_map(|at| [0, 1, 2, 0x7f, 0x80, 0xff].map(|byte| (at, byte)));
        let changed = changed.map(|(at, byte)| {
            let mut frame = whole.to_vec();
            frame[at] = byte;
            frame
        });
        for frame in cut.chain(changed) {
            let expected = match postcard::take_from_bytes::<ToFollower>(&frame) {
                Ok((ToFollower::Writes { epoch, writes }, _)) => Some((epoch, writes)),
                _ => None,
            };
            let read = WritesIn::of(&frame).and_then(|mut reads| {
                let epoch = reads.epoch();
                let read = reads.by_ref().map(|(index, key, record)| Write::new(index, key.into(), record));
                let writes = read.collect();
                reads.end().ok().map(|()| (epoch, writes))
            });
            assert_eq!(read, expected, "{frame:02x?}");
        }
    }
}
