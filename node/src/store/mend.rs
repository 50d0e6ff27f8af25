//! A damaged batch is mended from the follower's memory: all records are stored once more, behind the damage, and then
//! every segment up to there is removed.
//!
//! The store counts which records came ([`Ledger::begin_renewal`]); the follower hands them over, as ordinary changes, until
//! none is missing. A process that ends meanwhile starts as one with a damaged log.

use tracing::{error, info};

use super::StoreError;
use super::batches::Damaged;
use super::ledger::Ledger;
use super::log::Log;

/// How far the mending is.
#[derive(Debug, Default)]
pub(super) enum Mend {
    #[default]
    Nothing,
    /// Waits for a segment that nothing damaged is in.
    Begins,
    /// Records are stored again, from this batch on.
    Renews(u64),
    /// What is before this batch is removed.
    Removes(u64),
}

impl Mend {
    /// Begins, unless it is under way.
    pub(super) fn begin(&mut self, Damaged(batch): Damaged) -> bool {
        let begins = matches!(self, Self::Nothing);
        if begins {
            error!(batch, "a batch is damaged on the disk: every record is stored again from memory");
            *self = Self::Begins;
        }
        begins
    }

    /// Whether the follower has to hand its records over.
    pub(super) fn renews(&self) -> bool {
        matches!(self, Self::Renews(_))
    }

    /// Does the next step, if it is time. Returns whether the mending is complete just now.
    pub(super) fn step(&mut self, log: &mut Log, ledger: &mut Ledger) -> Result<bool, StoreError> {
        match *self {
            Self::Begins if log.rotate_next() => {
                ledger.begin_renewal();
                *self = Self::Renews(ledger.head().batch + 1);
            }
            Self::Renews(from) if ledger.head().batch >= from && ledger.is_renewed() => *self = Self::Removes(from),
            Self::Removes(from) if !log.remove_before(from)? => {
                info!(from, "the damaged batch is gone from the disk, and every record is there");
                *self = Self::Nothing;
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }
}
