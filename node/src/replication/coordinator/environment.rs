//! The identity, clock and randomness that a leader gets from outside.

use std::io;

use rand::RngExt;

use crate::replication::alarm::Alarm;

/// The identity, the clock and the randomness of a leader process. A simulation replaces them.
pub struct Environment {
    /// The id in this leader's epochs. It must be new at every start.
    pub(super) identity: u64,
    /// Seed of the delays between two attempts to start.
    pub(super) backoff_seed: u64,
    /// Waits for the random delays.
    pub(super) alarm: Alarm,
}

impl Environment {
    /// A random identity, and the clock of the operating system. Must be called inside a runtime.
    ///
    /// # Errors
    /// If the operating system cannot create a timer.
    pub fn system() -> io::Result<Self> {
        let mut rng = rand::rng();
        Ok(Self { identity: rng.random(), backoff_seed: rng.random(), alarm: Alarm::system()? })
    }

    /// A deterministic environment: the seed determines all randomness, and the clock is the
    /// runtime's, in milliseconds.
    pub fn simulated(seed: u64) -> Self {
        Self { identity: seed, backoff_seed: seed, alarm: Alarm::runtime() }
    }
}
