//! Repairs a damaged batch from the follower's memory: the store writes all records again behind
//! the damage, and then removes every segment before them.
//!
//! The follower appends its records as ordinary changes, and the store counts them
//! ([`Ledger::begin_renewal`]) until none is missing. If the process ends meanwhile, it restarts
//! with a damaged log.

use tracing::{error, info};

use super::StoreError;
use super::batches::Damaged;
use super::ledger::Ledger;
use super::log::Log;

/// The progress of the repair.
#[derive(Debug, Default)]
pub(super) enum Mend {
    #[default]
    Nothing,
    /// Waits for a new segment.
    Begins,
    /// Stores records again, from this batch on.
    Renews(u64),
    /// Removes the segments before this batch.
    Removes(u64),
}

impl Mend {
    /// Begins the repair, unless one is under way.
    pub(super) fn begin(&mut self, Damaged(batch): Damaged) -> bool {
        let begins = matches!(self, Self::Nothing);
        if begins {
            error!(batch, "a batch is damaged on the disk: storing every record again from memory");
            *self = Self::Begins;
        }
        begins
    }

    /// Whether the follower has to store its records again.
    pub(super) fn renews(&self) -> bool {
        matches!(self, Self::Renews(_))
    }

    /// Takes the next step if its condition is met. Returns whether this completed the repair.
    pub(super) fn step(&mut self, log: &mut Log, ledger: &mut Ledger) -> Result<bool, StoreError> {
        match *self {
            Self::Begins if log.rotate_next() => {
                ledger.begin_renewal();
                *self = Self::Renews(ledger.head().batch + 1);
            }
            Self::Renews(from) if ledger.head().batch >= from && ledger.is_renewed() => *self = Self::Removes(from),
            Self::Removes(from) if !log.remove_before(from)? => {
                info!(from, "the damaged batch is repaired: every record is stored again");
                *self = Self::Nothing;
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }
}
