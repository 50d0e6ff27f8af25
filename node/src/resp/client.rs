//! The state of a client's connection.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::backend::Backend;
use super::slot::Slot;
use crate::replication::coordinator::Answers;

/// Keys of earlier commands among which a command looks for its own. Behind more of them it counts as
/// behind a write of its keys, which is always right and costs at most a wait.
const LOOKED_AT_MAX: usize = 128;

/// A client's connection.
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) backend: Arc<Backend>,
    /// The outcomes of its commands.
    pub(super) answers: Answers,
    pub(super) authenticated: bool,
    /// Whether replies have the types of version 3.
    pub(super) resp3: bool,
    pub(super) name: Vec<u8>,
    /// Whether the connection ends after this command.
    pub(super) quits: bool,
    /// Whether MULTI was refused, and EXEC has not come yet.
    pub(super) in_transaction: bool,
    /// The index behind the last write of this connection.
    pub(super) end: u64,
    /// When the commands that are handled now arrived.
    pub(super) now: Instant,
}

/// The earlier commands of the connection whose replies are not known.
pub(super) struct Under<'a>(pub(super) &'a VecDeque<Slot>);

impl Under<'_> {
    /// Whether one of them may read or write a key with this hash.
    pub(super) fn touches(&self, hash: u64) -> bool {
        let mut looked_at = 0;
        self.0.iter().any(|slot| {
            looked_at += slot.keys();
            looked_at > LOOKED_AT_MAX || slot.touches(hash)
        })
    }
}

impl Client {
    pub(super) fn new(id: u64, backend: Arc<Backend>) -> Self {
        let authenticated = backend.site().access.clients.is_none();
        Self {
            id,
            backend,
            answers: Answers::default(),
            authenticated,
            resp3: false,
            name: Vec::new(),
            quits: false,
            in_transaction: false,
            end: 0,
            now: Instant::now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use smallvec::SmallVec;

    use super::*;
    use crate::resp::part::{Part, Settled};
    use crate::resp::slot::Form;

    fn slot(hashes: impl IntoIterator<Item = u64>) -> Slot {
        let parts: SmallVec<_> = hashes.into_iter().map(|hash| (hash, Part::Settled(Settled::Written))).collect();
        Slot::new(parts, Form::AllOk, true, Instant::now())
    }

    // Goal: a command of many keys behind other commands of many keys takes no quadratic time, and never misses a
    // write before it.
    #[test]
    fn few_keys_are_compared_and_many_count_as_touched() {
        let few = VecDeque::from([slot([1]), slot([2, 3]), slot([])]);
        for (hash, expected) in [(1, true), (3, true), (4, false)] {
            assert_eq!(Under(&few).touches(hash), expected, "{hash}");
        }
        let many = VecDeque::from([slot([1]), slot(0..LOOKED_AT_MAX as u64)]);
        assert!(Under(&many).touches(u64::MAX), "more than it looks at");
        let most = VecDeque::from([slot(0..LOOKED_AT_MAX as u64)]);
        assert!(!Under(&most).touches(u64::MAX));
    }
}
