//! Rules of the protocol that a test may switch off, to see that whoever checks the node from outside notices.
//!
//! Only with the cargo feature `deliberate-faults`, which no build for use has: without it there is no setting, and
//! [`is_on`] is the constant `false`.

#[cfg(feature = "deliberate-faults")]
use std::sync::OnceLock;

use crate::protocol::types::{Config, Epoch, Synced, ToFollower, ToLeader};

/// A rule that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "deliberate-faults", derive(clap::ValueEnum))]
pub enum DeliberateFault {
    /// A follower confirms at once and stores later
    ConfirmsBeforeStored,
    /// A starting leader does with one promise fewer than N − W + 1
    RecoversWithOneFewer,
    /// A follower tells a replaced leader that its writes are stored, and that it still leads
    ObeysReplacedLeader,
    /// A leader answers reads without asking whether it still leads
    ReadsWithoutAsking,
}

#[cfg(feature = "deliberate-faults")]
static FAULT: OnceLock<DeliberateFault> = OnceLock::new();

/// Switches a rule off until the process ends.
#[cfg(feature = "deliberate-faults")]
pub fn switch_on(fault: DeliberateFault) {
    tracing::error!(?fault, "this node breaks its contract on purpose: for tests of those who check it");
    let _ = FAULT.set(fault);
}

/// Whether the rule is off.
#[cfg(feature = "deliberate-faults")]
pub(crate) fn is_on(fault: DeliberateFault) -> bool {
    FAULT.get() == Some(&fault)
}

/// Whether the rule is off: never.
#[cfg(not(feature = "deliberate-faults"))]
pub(crate) const fn is_on(_: DeliberateFault) -> bool {
    false
}

/// What a leader without the rule on promises would read from a follower's answer: N − W + 1 is one smaller.
pub(crate) fn one_promise_fewer(synced: Option<&mut Synced>) {
    let Some(Synced { config, .. }) = synced.filter(|_| is_on(DeliberateFault::RecoversWithOneFewer)) else { return };
    let fewer = |rule: &mut Config| rule.quorum = (rule.quorum + 1).min(rule.size);
    fewer(config);
    config.earlier.iter_mut().for_each(fewer);
}

/// What a follower without the fence answers to a leader that was replaced: nothing of what that one sends is stored.
pub(crate) fn told_to_a_replaced_leader(message: &ToFollower, promised: Epoch) -> Option<ToLeader> {
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
