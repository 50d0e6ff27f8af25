//! What a follower remembers, and where.
//!
//! The seam between the pure [`Follower`](crate::protocol::follower::Follower) and a disk: changes go in, in the order in
//! which they were decided, and come back as [`Stored`] once they cannot be lost. No reply may leave before.

use crate::protocol::follower::Change;

/// Where changes go.
#[derive(Debug)]
pub enum Store {
    /// Nowhere: the follower's memory is all there is, and a restart makes it blank.
    Memory,
}

/// Resolves once the changes of one [`Store::append`] are as durable as the store makes them.
#[derive(Debug)]
#[must_use = "a reply must not leave before its changes are stored"]
pub struct Stored(());

impl Store {
    /// Takes changes in their order. Cheap: whoever needs them to be durable waits for the result.
    pub fn append(&self, _changes: &[Change]) -> Stored {
        match self {
            Self::Memory => Stored(()),
        }
    }
}

impl Stored {
    /// Waits.
    pub async fn wait(self) {}
}
