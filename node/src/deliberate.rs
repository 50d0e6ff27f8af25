//! Rules of the protocol that a test can switch off, to show that a check from the outside detects
//! the violation.
//!
//! This needs the cargo feature `deliberate-faults`, which no released build has. Without the
//! feature there is no setting, and [`is_on`] is the constant `false`.

#[cfg(feature = "deliberate-faults")]
use std::sync::OnceLock;

use crate::protocol::leader::Accepted;
use crate::protocol::messages::{ToFollower, ToLeader};
use crate::protocol::types::{Config, Epoch, Synced};

/// A rule that the node violates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "deliberate-faults", derive(clap::ValueEnum))]
pub enum DeliberateFault {
    /// A follower confirms at once and stores later
    ConfirmsBeforeStored,
    /// A starting leader opens with one promise fewer than N − W + 1
    RecoversWithOneFewer,
    /// A follower confirms to a replaced leader that its writes are stored and that it still leads
    ObeysReplacedLeader,
    /// A leader answers reads without asking whether it still leads
    ReadsWithoutAsking,
    /// A leader answers a refused write at once, with a record that may still be lost
    RefusesBeforeCommit,
    /// A leader counts every retry of an increment
    CountsRetries,
    /// A leader acknowledges an increment at once, with a sum that may still be lost
    CountsBeforeCommit,
    /// A leader panics in the middle of each write
    PanicsInWrite,
}

#[cfg(feature = "deliberate-faults")]
static FAULT: OnceLock<DeliberateFault> = OnceLock::new();

/// Switches a rule off until the process ends.
#[cfg(feature = "deliberate-faults")]
pub fn switch_on(fault: DeliberateFault) {
    tracing::error!(?fault, "this node violates its contract on purpose, to test the checks");
    let _ = FAULT.set(fault);
}

/// Whether the rule is off.
#[cfg(feature = "deliberate-faults")]
pub(crate) fn is_on(fault: DeliberateFault) -> bool {
    FAULT.get() == Some(&fault)
}

/// Whether the rule is off: always `false`.
#[cfg(not(feature = "deliberate-faults"))]
pub(crate) const fn is_on(_: DeliberateFault) -> bool {
    false
}

/// Raises W in a follower's answer, so that the leader requires one promise fewer than N − W + 1.
pub(crate) fn one_promise_fewer(synced: Option<&mut Synced>) {
    let Some(Synced { config, .. }) = synced.filter(|_| is_on(DeliberateFault::RecoversWithOneFewer)) else { return };
    let fewer = |rule: &mut Config| rule.quorum = (rule.quorum + 1).min(rule.size);
    fewer(config);
    config.earlier.iter_mut().for_each(fewer);
}

/// An increment that is answered at once counts as one that is committed already.
pub(crate) fn counted(accepted: Accepted) -> Accepted {
    match accepted {
        Accepted::Pending { seq } if is_on(DeliberateFault::CountsBeforeCommit) => Accepted::AlreadyCommitted { seq },
        accepted => accepted,
    }
}

/// The answer of a follower without the fence to a replaced leader. The follower stores none of
/// that leader's writes.
pub(crate) fn answer_to_replaced_leader(message: &ToFollower, promised: Epoch) -> Option<ToLeader> {
    match message {
        _ if !is_on(DeliberateFault::ObeysReplacedLeader) => None,
        ToFollower::Writes { epoch, writes } if *epoch < promised => {
            let ranges = writes.iter().map(|write| (write.index, write.index)).collect();
            Some(ToLeader::Confirmed { epoch: *epoch, ranges })
        }
        ToFollower::Probe { epoch, round, .. } if *epoch < promised => {
            Some(ToLeader::Probed { epoch: *epoch, round: *round })
        }
        _ => None,
    }
}
