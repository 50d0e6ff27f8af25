//! The wire format between leader and follower: frames on one long-lived connection per follower,
//! which an HTTP upgrade opens.
//!
//! A frame is its length (four bytes, little endian) and a message in
//! [postcard](https://postcard.jamesmunns.com) form. An empty frame is a keep-alive.

mod writes;

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::writes::{WritesFrame, WritesIn};
use self::writes::{append_write, epoch_bytes};
use crate::protocol::messages::{ToFollower, Write};
use crate::protocol::types::Epoch;

/// The name of the protocol in the upgrade. Its number changes with the messages.
pub const PROTOCOL: &str = "kvcluster-replication/7";

/// Longest accepted frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// Longest key and value together that fit a frame, in bytes. The rest of the frame is for the
/// retry marks of the key and for other records in the same part of a state.
pub const RECORD_BYTES_MAX: usize = FRAME_BYTES_MAX - (1 << 20);

/// About how long a frame of writes is, in bytes, before the next one begins.
pub const FRAME_BYTES_TARGET: usize = 256 << 10;

/// Memory that a connection keeps for each direction, in bytes. It frees the additional memory of
/// longer frames.
const BUFFER_BYTES_KEPT: usize = 2 << 20;

/// Minimum space for reading the rest of a frame, in bytes.
const READ_BYTES_MIN: usize = 64 << 10;

const LENGTH_BYTES: usize = 4;

/// Maximum length of what precedes the writes of a frame: the kind of message, an epoch and a number.
const HEAD_BYTES: usize = 32;

const INTO_MEMORY: &str = "messages serialise into memory without fail";

/// The received bytes are not a valid frame.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Longer than [`FRAME_BYTES_MAX`].
    #[error("a frame of {0} bytes is above the limit of {FRAME_BYTES_MAX}")]
    TooLong(usize),
    /// Not a message of this protocol.
    #[error("failed to decode a message: {0}")]
    Malformed(#[from] postcard::Error),
}

/// Removes the next message from the buffer. `Ok(None)` if it is incomplete.
///
/// # Errors
/// [`WireError`], after which the connection is unusable.
pub fn decode<T: DeserializeOwned>(buffer: &mut BytesMut) -> Result<Option<T>, WireError> {
    next(buffer)?.map(|frame| message(&frame)).transpose()
}

/// The message in a frame.
///
/// # Errors
/// [`WireError`].
pub(crate) fn message<T: DeserializeOwned>(frame: &[u8]) -> Result<T, WireError> {
    Ok(postcard::from_bytes(frame)?)
}

/// Removes the next frame with a message from the buffer. `Ok(None)` if it is incomplete.
///
/// # Errors
/// [`WireError`], after which the connection is unusable.
pub(crate) fn next(buffer: &mut BytesMut) -> Result<Option<BytesMut>, WireError> {
    loop {
        let Some(length) = buffer.get(..LENGTH_BYTES) else {
            return Ok(None);
        };
        let length = length.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
        if length > FRAME_BYTES_MAX {
            return Err(WireError::TooLong(length));
        }
        if buffer.len() < LENGTH_BYTES + length {
            // The declared length may be false, so the buffer at most doubles with the bytes that
            // arrived.
            let missing = LENGTH_BYTES + length - buffer.len();
            buffer.reserve(missing.min(buffer.len().max(READ_BYTES_MIN)));
            return Ok(None);
        }
        buffer.advance(LENGTH_BYTES);
        let frame = buffer.split_to(length);
        if length > BUFFER_BYTES_KEPT {
            let mut rest = BytesMut::with_capacity(buffer.len().max(READ_BYTES_MIN));
            rest.extend_from_slice(buffer);
            *buffer = rest;
        }
        if length > 0 {
            return Ok(Some(frame));
        }
    }
}

/// Frees the memory of long messages, once all of them are sent.
pub fn give_back(sent: &mut BytesMut) {
    if sent.is_empty() && sent.capacity() > BUFFER_BYTES_KEPT {
        *sent = BytesMut::new();
    }
}

/// Appends a message.
pub fn encode<T: Serialize>(message: &T, buffer: &mut BytesMut) {
    frame(buffer, |buffer| append(message, buffer));
}

/// Appends a keep-alive.
pub fn encode_alive(buffer: &mut BytesMut) {
    frame(buffer, |_| {});
}

/// Appends a [`ToFollower::Writes`] without first collecting the writes in one vector.
pub fn encode_writes(epoch: Epoch, writes: &[Arc<Write>], buffer: &mut BytesMut) {
    frame(buffer, |buffer| {
        begin_writes(epoch, writes.len(), buffer);
        writes.iter().for_each(|write| buffer.extend_from_slice(write.encoded.get_or_make(|| bytes_of(write))));
    });
}

/// The begin of a [`ToFollower::Writes`] of so many writes.
fn begin_writes(epoch: Epoch, count: usize, buffer: &mut BytesMut) {
    append(&ToFollower::Writes { epoch, writes: Vec::new() }, buffer);
    // The encoding of an empty list ends with its length, one byte. The real length replaces it.
    buffer.truncate(buffer.len() - 1);
    append(&count, buffer);
}

fn bytes_of(write: &Write) -> Vec<u8> {
    let Write { key, record, .. } = write;
    let mut bytes = Vec::with_capacity(key.len() + record.value.as_ref().map_or(0, |value| value.len()) + 48);
    append_write(write, &epoch_bytes(record.version.epoch), &mut bytes);
    bytes
}

fn append<T: Serialize + ?Sized>(value: &T, buffer: &mut BytesMut) {
    struct Sink<'a>(&'a mut BytesMut);
    impl postcard::ser_flavors::Flavor for Sink<'_> {
        type Output = ();
        fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
            self.0.put_u8(byte);
            Ok(())
        }
        fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
        fn finalize(self) -> postcard::Result<()> {
            Ok(())
        }
    }
    postcard::serialize_with_flavor(value, Sink(buffer)).expect(INTO_MEMORY);
}

fn frame(buffer: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = buffer.len();
    buffer.put_u32_le(0);
    body(buffer);
    let length = u32::try_from(buffer.len() - start - LENGTH_BYTES).unwrap_or(u32::MAX);
    buffer[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::ToLeader;
    use crate::protocol::types::{Config, Record, Synced, Version};

    fn write(index: u64) -> Arc<Write> {
        let version = Version { epoch: Epoch { term: 3, leader: u64::MAX - index }, seq: 200 + index };
        let value = Some(format!("value {index} \u{1f511}").into());
        Arc::new(Write::new(index, format!("key{index}").into(), Record { version, value, marks: None }))
    }

    /// `encode_writes` produces the same bytes as encoding the message.
    #[test]
    fn writes_encode_as_their_message() {
        let epoch = Epoch { term: 3, leader: 77 };
        for count in [0, 1, 2, 127, 128, 300] {
            let writes: Vec<_> = (0..count).map(write).collect();
            let mut short = BytesMut::new();
            encode_writes(epoch, &writes, &mut short);
            let mut long = BytesMut::new();
            let owned = writes.iter().map(|write| (**write).clone()).collect();
            encode(&ToFollower::Writes { epoch, writes: owned }, &mut long);
            assert_eq!(short, long, "{count} writes");
        }
    }

    /// Any division of the bytes decodes to the same messages, and keep-alives are skipped.
    #[test]
    fn frames_survive_any_cut() {
        let epoch = Epoch { term: 1, leader: 2 };
        let messages = [ToFollower::Prepare { epoch }, ToFollower::Fetch { epoch, cursor: 300, of: None }];
        let mut bytes = BytesMut::new();
        encode(&messages[0], &mut bytes);
        encode_alive(&mut bytes);
        encode(&messages[1], &mut bytes);
        for cut in 0..bytes.len() {
            let mut buffer = BytesMut::from(&bytes[..cut]);
            let mut seen = Vec::new();
            while let Some(message) = decode::<ToFollower>(&mut buffer).expect("well-formed") {
                seen.push(message);
            }
            buffer.extend_from_slice(&bytes[cut..]);
            while let Some(message) = decode::<ToFollower>(&mut buffer).expect("well-formed") {
                seen.push(message);
            }
            assert_eq!(seen, messages, "cut at {cut}");
        }
    }

    /// Declaring a long frame makes the other end reserve no memory for it.
    #[test]
    fn a_declared_length_reserves_nothing() {
        let mut buffer = BytesMut::from(&(FRAME_BYTES_MAX as u32).to_le_bytes()[..]);
        assert_eq!(decode::<ToFollower>(&mut buffer).expect("a length in range"), None);
        assert!(buffer.capacity() <= 2 * READ_BYTES_MIN, "{} bytes for 4 that arrived", buffer.capacity());
        buffer.extend_from_slice(&vec![0; 1 << 20]);
        assert_eq!(decode::<ToFollower>(&mut buffer).expect("a length in range"), None);
        assert!(buffer.capacity() <= 4 << 20, "{} bytes for 1 MiB that arrived", buffer.capacity());
    }

    /// After a long message a connection uses as little memory as before, in both directions.
    #[test]
    fn memory_of_a_long_message_is_given_back() {
        let epoch = Epoch { term: 1, leader: 2 };
        let version = Version { epoch, seq: 1 };
        let record = Record { version, value: Some("x".repeat(8 << 20).into()), marks: None };
        let mut bytes = BytesMut::new();
        encode(&ToFollower::Install { epoch, records: vec![("key".into(), record)] }, &mut bytes);
        encode(&ToFollower::Prepare { epoch }, &mut bytes);
        let mut sent = bytes.split();
        let mut received = sent.clone();
        assert!(matches!(decode(&mut received), Ok(Some(ToFollower::Install { .. }))));
        assert!(received.capacity() <= BUFFER_BYTES_KEPT, "{} bytes are kept", received.capacity());
        assert_eq!(decode(&mut received).expect("well-formed"), Some(ToFollower::Prepare { epoch }));
        // Room for the next message must not be the memory of the long one.
        received.reserve(READ_BYTES_MIN);
        assert!(received.capacity() <= BUFFER_BYTES_KEPT, "{} bytes are used again", received.capacity());
        sent.clear();
        give_back(&mut sent);
        assert_eq!(sent.capacity(), 0);
    }

    /// Earlier configurations that contain earlier ones, which no leader sends, would use the stack up.
    #[test]
    fn a_configuration_within_configurations_is_refused() {
        let epoch = Epoch { term: 1, leader: 2 };
        let plain = Config { generation: 3, quorum: 1, size: 1, members: Vec::new(), earlier: Vec::new() };
        let promised = |earlier| {
            let config = Config { earlier, ..plain.clone() };
            ToLeader::Promised { epoch, synced: Some(Synced { epoch, config }) }
        };
        let mut bytes = BytesMut::new();
        encode(&promised(vec![plain.clone(); 2]), &mut bytes);
        assert_eq!(decode(&mut bytes).expect("well-formed"), Some(promised(vec![plain.clone(); 2])));
        // A message ends with the number of earlier configurations of its configuration.
        encode(&promised(Vec::new()), &mut bytes);
        let (mut nested, level) = (bytes.split(), [1, 3, 1, 1, 0]);
        assert_eq!(nested.split_off(nested.len() - 1)[..], [0]);
        for _ in 0..1 << 20 {
            nested.extend_from_slice(&level);
        }
        nested.extend_from_slice(&[0]);
        let length = u32::try_from(nested.len() - LENGTH_BYTES).expect("5 MiB");
        nested[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        assert!(matches!(decode::<ToLeader>(&mut nested), Err(WireError::Malformed(_))));
    }

    #[test]
    fn nonsense_is_refused() {
        let mut long = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
        assert!(matches!(decode::<ToFollower>(&mut long), Err(WireError::TooLong(_))));
        let mut unknown = BytesMut::from(&[1, 0, 0, 0, 99][..]);
        assert!(matches!(decode::<ToFollower>(&mut unknown), Err(WireError::Malformed(_))));
    }
}
