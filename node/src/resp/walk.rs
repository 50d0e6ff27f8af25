//! Commands about all keys: DBSIZE, KEYS, SCAN and RANDOMKEY.
//!
//! They read what the node has, part by part, so that other clients are served in between. None of
//! them is a snapshot.

use std::task::{Context, Poll};

use super::backend::Backend;
use super::errors::Error;
use super::glob::matches;
use super::output::Output;
use crate::protocol::types::Key;

/// Keys that one part examines. Writes wait meanwhile.
const PART_KEYS: usize = 512;

/// Bytes of keys that KEYS returns at most. SCAN returns any number in parts.
const KEYS_BYTES_MAX: usize = 16 << 20;

/// A walk over the keys of a node.
#[derive(Debug)]
pub(super) struct Walk {
    of: Of,
    /// Positions of the node's map before this one are done.
    position: usize,
    /// Why it ended early.
    error: Option<Error>,
}

#[derive(Debug)]
enum Of {
    Count(i64),
    All { pattern: Vec<u8>, found: Vec<Key>, bytes: usize },
    Some { pattern: Option<Vec<u8>>, left: usize, tag: u16, next: u64, found: Vec<Key> },
    Any { begun: usize, wrapped: bool, found: Option<Key> },
}

/// A cursor names a position of one node's map: another node has other positions. The low bits say
/// which node it is of.
const TAG_BITS: u32 = 16;

impl Walk {
    /// DBSIZE.
    pub(super) fn count() -> Self {
        Self::from(0, Of::Count(0))
    }

    /// KEYS.
    pub(super) fn all(pattern: &[u8]) -> Self {
        Self::from(0, Of::All { pattern: pattern.to_vec(), found: Vec::new(), bytes: 0 })
    }

    /// SCAN: about `count` positions from the cursor on.
    ///
    /// # Errors
    /// The reply, if the cursor is of another node.
    pub(super) fn some(cursor: u64, count: usize, pattern: Option<Vec<u8>>, backend: &Backend) -> Result<Self, Error> {
        let tag = backend.tag();
        if cursor != 0 && cursor as u16 != tag {
            return Err(Error::wrong("the cursor is of another node or another leader: scan again from 0"));
        }
        let position = usize::try_from(cursor >> TAG_BITS).unwrap_or(usize::MAX);
        Ok(Self::from(position, Of::Some { pattern, left: count, tag, next: 0, found: Vec::new() }))
    }

    /// RANDOMKEY: the first key from this position on.
    pub(super) fn any(position: usize) -> Self {
        Self::from(position, Of::Any { begun: position, wrapped: false, found: None })
    }

    fn from(position: usize, of: Of) -> Self {
        Self { of, position, error: None }
    }

    /// Goes on by one part.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, backend: &Backend) -> Poll<()> {
        let Self { of, position, error } = self;
        let part = if let Of::Some { left, .. } = of { (*left).min(PART_KEYS) } else { PART_KEYS };
        let next = backend.keys(*position, part, |key| match of {
            Of::Count(keys) => *keys += 1,
            Of::All { pattern, found, bytes } => {
                if *bytes <= KEYS_BYTES_MAX && matches(pattern, key.as_bytes()) {
                    *bytes += key.len();
                    found.push(key.clone());
                }
            }
            Of::Some { pattern, found, .. } => {
                if pattern.as_ref().is_none_or(|pattern| matches(pattern, key.as_bytes())) {
                    found.push(key.clone());
                }
            }
            Of::Any { found, .. } => _ = found.get_or_insert_with(|| key.clone()),
        });
        match (next, of) {
            (Err(refused), _) => {
                *error = Some(refused);
                return Poll::Ready(());
            }
            (Ok(_), Of::All { bytes, .. }) if *bytes > KEYS_BYTES_MAX => {
                let text = format!("the keys have more than {KEYS_BYTES_MAX} bytes: SCAN returns them in parts");
                *error = Some(Error::limit(text));
                return Poll::Ready(());
            }
            (Ok(_), Of::Any { found: Some(_), .. }) => return Poll::Ready(()),
            (Ok(Some(next)), Of::Some { left, next: cursor, tag, .. }) => {
                *left -= part;
                *position = next;
                *cursor = (next as u64) << TAG_BITS | u64::from(*tag);
                if *left == 0 {
                    return Poll::Ready(());
                }
            }
            (Ok(None), Of::Some { next: cursor, .. }) => {
                *cursor = 0;
                return Poll::Ready(());
            }
            (Ok(None), Of::Any { wrapped, .. }) if !*wrapped => (*wrapped, *position) = (true, 0),
            (Ok(Some(next)), Of::Any { begun, wrapped, .. }) => {
                *position = next;
                if *wrapped && next >= *begun {
                    return Poll::Ready(());
                }
            }
            (Ok(Some(next)), _) => *position = next,
            (Ok(None), _) => return Poll::Ready(()),
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes the reply.
    pub(super) fn reply(self, out: &mut Output) {
        if let Some(error) = self.error {
            return out.error(error.text());
        }
        let list = |found: Vec<Key>, out: &mut Output| {
            out.array(found.len());
            found.iter().for_each(|key| out.bulk(key.as_bytes()));
        };
        match self.of {
            Of::Count(keys) => out.integer(keys),
            Of::All { found, .. } => list(found, out),
            Of::Some { found, next, .. } => {
                out.array(2);
                out.bulk(next.to_string().as_bytes());
                list(found, out);
            }
            Of::Any { found, .. } => match found {
                Some(key) => out.bulk(key.as_bytes()),
                None => out.null(),
            },
        }
    }
}
