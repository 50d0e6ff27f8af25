//! What can be done to a cluster, and to which node.

use std::fmt;

use clap::ValueEnum;

/// Kinds of faults, as on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum FaultKind {
    /// kill -9 of the leader or of a follower, which starts again
    Kill,
    /// SIGSTOP of the leader or of a follower, and SIGCONT after a while
    Pause,
    /// kill -9 of a follower, which starts again with an empty disk
    Wipe,
    /// The pod of the leader or of a follower is deleted (with --kube, as the two that follow)
    Delete,
    /// The same with no time to end, so that the next pod may start beside it
    ForceDelete,
    /// Another number of followers, and back
    Scale,
    /// kill -9 of all nodes at once; of a KvCluster all pods deleted with no time to end
    All,
    /// A second leader over the same followers, the first one paused meanwhile or not; of a KvCluster a restart of the
    /// leader's Deployment
    TwoLeaders,
    /// The leader and its followers hear nothing of each other, while clients reach all; a second leader starts meanwhile or
    /// not
    Partition,
    /// Another write quorum, and back
    Quorum,
    /// Two or three leaders that start together in place of the first one, while a follower restarts and the others
    /// pause for moments
    LeaderRace,
}

impl FaultKind {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Wipe => "wipe",
            Self::Delete => "delete",
            Self::ForceDelete => "force-delete",
            Self::Scale => "scale",
            Self::All => "all",
            Self::TwoLeaders => "two-leaders",
            Self::Partition => "partition",
            Self::Quorum => "quorum",
            Self::LeaderRace => "leader-race",
        }
    }
}

/// What a node is, and so what can be done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A process on this machine.
    Process,
    /// A pod, which its owner replaces.
    Pod,
}

impl Place {
    /// What can be done there.
    pub fn kinds(self) -> &'static [FaultKind] {
        use FaultKind::{
            All, Delete, ForceDelete, Kill, LeaderRace, Partition, Pause, Quorum, Scale, TwoLeaders, Wipe,
        };
        match self {
            Self::Process => &[Kill, Pause, Wipe, All, TwoLeaders, Partition, Quorum, LeaderRace],
            Self::Pod => &[Delete, ForceDelete, Scale, All, TwoLeaders, Quorum],
        }
    }
}

/// Which node it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// The leader.
    Leader,
    /// The follower with this index, from 0.
    Follower(usize),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => write!(f, "leader"),
            Self::Follower(index) => write!(f, "follower{}", index + 1),
        }
    }
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed.
    Kill(Node),
    /// The process is stopped for a while.
    Pause(Node),
    /// The follower is killed and its disk emptied.
    Wipe(usize),
    /// The pod is deleted.
    Delete(Node),
    /// The pod is deleted with no time to end.
    ForceDelete(Node),
    /// There are so many followers.
    Scale(u16),
    /// All nodes are killed.
    All,
    /// A second leader starts.
    TwoLeaders {
        /// Whether the first one is stopped meanwhile, and learns afterwards that it was replaced.
        paused: bool,
    },
    /// The leader is cut off from its followers.
    Partition {
        /// Whether a second leader, which is not cut off, starts meanwhile.
        second: bool,
    },
    /// The quorum is another one.
    Quorum(u16),
    /// One more leader starts; only the end of the round decides which one stays.
    Rival,
}

impl Fault {
    /// Of which kind it is.
    pub fn kind(self) -> FaultKind {
        match self {
            Self::Kill(_) => FaultKind::Kill,
            Self::Pause(_) => FaultKind::Pause,
            Self::Wipe(_) => FaultKind::Wipe,
            Self::Delete(_) => FaultKind::Delete,
            Self::ForceDelete(_) => FaultKind::ForceDelete,
            Self::Scale(_) => FaultKind::Scale,
            Self::All => FaultKind::All,
            Self::TwoLeaders { .. } => FaultKind::TwoLeaders,
            Self::Partition { .. } => FaultKind::Partition,
            Self::Quorum(_) => FaultKind::Quorum,
            Self::Rival => FaultKind::LeaderRace,
        }
    }

    /// The one node that it hits.
    pub fn node(self) -> Option<Node> {
        match self {
            Self::Kill(node) | Self::Pause(node) | Self::Delete(node) | Self::ForceDelete(node) => Some(node),
            Self::Wipe(follower) => Some(Node::Follower(follower)),
            Self::TwoLeaders { .. } | Self::Partition { .. } => Some(Node::Leader),
            Self::All | Self::Quorum(_) | Self::Scale(_) | Self::Rival => None,
        }
    }

    /// Whether both would act on the same node, or on settings that depend on each other: the quorum and the number of
    /// followers.
    pub fn collides(self, other: Self) -> bool {
        let is_setting = |fault: Self| matches!(fault, Self::Quorum(_) | Self::Scale(_));
        match (self, other) {
            (Self::All, _) | (_, Self::All) => true,
            _ if is_setting(self) && is_setting(other) => true,
            (Self::Scale(followers), hit) | (hit, Self::Scale(followers)) => {
                matches!(hit.node(), Some(Node::Follower(index)) if index >= followers as usize)
            }
            _ => self.node().is_some() && self.node() == other.node(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(node) => write!(f, "{node} killed"),
            Self::Pause(node) => write!(f, "{node} paused"),
            Self::Wipe(follower) => write!(f, "{} killed and wiped", Node::Follower(*follower)),
            Self::Delete(node) => write!(f, "{node} deleted"),
            Self::ForceDelete(node) => write!(f, "{node} deleted by force"),
            Self::Scale(followers) => write!(f, "{followers} followers"),
            Self::All => write!(f, "all nodes killed"),
            Self::TwoLeaders { paused: false } => write!(f, "second leader"),
            Self::TwoLeaders { paused: true } => write!(f, "second leader, the first paused"),
            Self::Partition { second: false } => write!(f, "leader cut off"),
            Self::Partition { second: true } => write!(f, "second leader, the first cut off"),
            Self::Quorum(quorum) => write!(f, "write quorum {quorum}"),
            Self::Rival => write!(f, "one more leader"),
        }
    }
}
