//! Breaches of the contract: which rule, where, and in words.

use serde::Serialize;

/// What was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// No order of the operations on a key explains what its clients saw.
    Linearizable,
    /// A version shows its own value, always.
    OneValuePerVersion,
    /// A write takes effect once, however often it is sent.
    AppliedOnce,
    /// Versions of a key never go back between operations that do not overlap.
    NeverBack,
    /// What was acknowledged is in every final dump, or below what is there.
    InFinalDumps,
    /// A value that is shown was written, and not refused.
    ValueWritten,
    /// A write with a condition replaces the version that it names, and is refused only by another one.
    ConditionKept,
    /// An increment adds to the version before its own.
    SumOfVersionBefore,
    /// A write of unknown outcome does not appear after a recovery without it.
    NotAfterRecovery,
    /// One life of a follower never shows an older version of a key than before.
    LocalNeverBack,
    /// What a follower shows is no older than it says.
    StalenessBound,
    /// Once everything has drained, all nodes have the same data.
    ReplicasAgree,
}

impl Rule {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Linearizable => "not linearizable",
            Self::OneValuePerVersion => "two values for one version",
            Self::AppliedOnce => "applied twice",
            Self::NeverBack => "went back",
            Self::InFinalDumps => "lost",
            Self::ValueWritten => "never written",
            Self::ConditionKept => "a condition was ignored",
            Self::SumOfVersionBefore => "a wrong sum",
            Self::NotAfterRecovery => "back from the dead",
            Self::LocalNeverBack => "a follower went back",
            Self::StalenessBound => "staler than it says",
            Self::ReplicasAgree => "replicas differ",
        }
    }
}

/// One breach of the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Of which rule.
    pub rule: Rule,
    /// On which key.
    pub key: Option<String>,
    /// Numbers of the operations that show it; the last one is where it came out.
    pub operations: Vec<usize>,
    /// What happened, in one sentence.
    pub text: String,
}
