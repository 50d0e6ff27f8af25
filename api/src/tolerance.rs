//! Which failures a cluster survives.

use serde::{Deserialize, Serialize};

/// Which failures a cluster of N followers with write quorum W survives.
///
/// It describes the declared cluster. A leader that recovers computes its own, finer rule from the followers that
/// are members by then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tolerance {
    /// How many followers may be down before writes stop: N - W.
    pub followers_down: u16,
    /// How many disks may be lost without losing an acknowledged write: W - 1.
    pub disks_lost: u16,
    /// How many followers a restarting leader needs: the greater of N - W + 1, which include one that confirmed any
    /// acknowledged write, and W, which have to store what the leader recovered.
    pub followers_needed_to_restart: u16,
}

impl Tolerance {
    /// The tolerance of `followers` (N) with `write_quorum` (W). Expects 1 <= W <= N, and clamps
    /// other values.
    #[must_use]
    pub fn of(followers: u16, write_quorum: u16) -> Self {
        let followers_down = followers.saturating_sub(write_quorum);
        Self {
            followers_down,
            disks_lost: write_quorum.saturating_sub(1),
            followers_needed_to_restart: followers_down.saturating_add(1).max(write_quorum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tolerance;

    #[test]
    fn a_restart_at_five_followers_needs_5_4_3_4_5() {
        let needed: Vec<u16> = (1..=5).map(|quorum| Tolerance::of(5, quorum).followers_needed_to_restart).collect();
        assert_eq!(needed, [5, 4, 3, 4, 5]);
    }

    #[test]
    fn each_number_follows_its_formula() {
        let expected = Tolerance { followers_down: 4, disks_lost: 2, followers_needed_to_restart: 5 };
        assert_eq!(Tolerance::of(7, 3), expected);
        assert_eq!(Tolerance::of(0, 0), Tolerance { followers_down: 0, disks_lost: 0, followers_needed_to_restart: 1 });
    }
}
