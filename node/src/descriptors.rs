//! The limit of file descriptors, and how many of them connections of clients may use.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::http::SPARE_CONNECTIONS;
use crate::protocol::leader::FOLLOWERS_MAX;

/// For the store's log, its segments and its directory, the runtime's pollers and timers, and standard streams.
const STORE_AND_RUNTIME: usize = 32;

/// For a connection to each follower, and for attempts to connect to addresses that DNS still lists.
const REPLICATION: usize = FOLLOWERS_MAX + 32;

/// Descriptors that connections of clients never use.
pub const KEPT: usize = STORE_AND_RUNTIME + REPLICATION + SPARE_CONNECTIONS;

/// Raises the soft limit of descriptors to the hard limit, as far as the system allows. Returns the
/// limit in force; `None` if there is no limit.
pub fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    if raised { maximum } else { current }
}

/// How many of the wanted connections of clients a limit of descriptors allows.
pub fn connections(wanted: usize, limit: Option<u64>) -> usize {
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return wanted };
    // A very low limit cannot cover the reserve; clients then get a quarter of the limit.
    wanted.min(limit.saturating_sub(KEPT).max(limit / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_what_the_node_itself_needs() {
        assert_eq!(connections(16_384, None), 16_384);
        assert_eq!(connections(16_384, Some(1 << 20)), 16_384);
        assert_eq!(connections(16_384, Some(1_024)), 1_024 - KEPT);
        assert_eq!(connections(100, Some(1_024)), 100);
        assert_eq!(connections(16_384, Some(100)), 25);
    }
}
