//! What a leader takes from the machine that it runs on.

use std::io;

use rand::RngExt;

use crate::replication::alarm::Alarm;

/// The identity, the clock and the randomness of a leader process. A simulation replaces them.
pub struct Environment {
    /// The id in this leader's epochs. It must be new at every start.
    pub(super) identity: u64,
    /// Seed of the pauses between two attempts to start.
    pub(super) backoff_seed: u64,
    /// Waits for the random delays.
    pub(super) alarm: Alarm,
}

impl Environment {
    /// A random identity, and the clock of the operating system. Must be called inside a runtime.
    ///
    /// # Errors
    /// When the operating system gives no timer.
    pub fn system() -> io::Result<Self> {
        let mut rng = rand::rng();
        Ok(Self { identity: rng.random(), backoff_seed: rng.random(), alarm: Alarm::system()? })
    }

    /// Everything random follows from the seed, and the time is that of the runtime, to the millisecond.
    pub fn simulated(seed: u64) -> Self {
        Self { identity: seed, backoff_seed: seed, alarm: Alarm::runtime() }
    }
}
