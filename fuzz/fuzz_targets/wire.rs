//! Frames of replication, in both directions: however the bytes are cut, they are the same messages, and each message
//! is encoded as it was read.
#![no_main]

use bytes::BytesMut;
use kv_node::protocol::messages::{ToFollower, ToLeader};
use kv_node::replication::wire;
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The messages in bytes that arrive in parts of this length, and whether an error ends them.
fn messages<T: DeserializeOwned>(bytes: &[u8], part: usize) -> (Vec<T>, bool) {
    let (mut buffer, mut messages) = (BytesMut::new(), Vec::new());
    for part in bytes.chunks(part) {
        buffer.extend_from_slice(part);
        loop {
            match wire::decode(&mut buffer) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return (messages, true),
            }
        }
        // The next read has room; a declared length gets none.
        assert!(buffer.capacity() <= 2 * bytes.len() + (256 << 10), "{} bytes for {}", buffer.capacity(), bytes.len());
    }
    (messages, false)
}

fn check<T: Serialize + DeserializeOwned + std::fmt::Debug + PartialEq>(bytes: &[u8], part: usize) {
    let (whole, malformed) = messages::<T>(bytes, bytes.len());
    assert_eq!((&whole, malformed), (&messages(bytes, part).0, messages::<T>(bytes, part).1));
    for message in whole {
        let mut encoded = BytesMut::new();
        wire::encode(&message, &mut encoded);
        assert_eq!(wire::decode::<T>(&mut encoded).ok().flatten().as_ref(), Some(&message));
        assert!(encoded.is_empty());
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((switch, bytes)) = data.split_first() else { return };
    if bytes.is_empty() {
        return;
    }
    // A frame around the bytes, so that a length has not to be found, or the bytes as they are.
    let framed;
    let bytes = if switch & 2 == 0 {
        framed = [&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()[..], bytes].concat();
        &framed[..]
    } else {
        bytes
    };
    let part = usize::from(switch >> 2) + 1;
    if switch & 1 == 0 { check::<ToFollower>(bytes, part) } else { check::<ToLeader>(bytes, part) }
});
