//! The effect of a command on one key.

use std::time::Duration;

use super::errors::Error;
use crate::protocol::value::Value;

/// The effect of a command on one key.
#[derive(Debug)]
pub(super) enum Part {
    /// The leader has not decided yet.
    Waiting {
        /// Of its place among the answers of the connection.
        number: u64,
        /// Of a write that the leader accepted.
        seq: Option<u64>,
        /// How long the leader may take.
        timeout: Duration,
    },
    Settled(Settled),
}

/// What the leader decided about one key.
#[derive(Debug)]
pub(super) enum Settled {
    /// The write is committed.
    Written,
    /// The value that a read found, or because of which a write was not accepted.
    Found(Option<Value>),
    Failed(Error),
}
