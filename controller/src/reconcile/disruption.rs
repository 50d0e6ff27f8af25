//! How many followers may be disrupted at once, by a drain for example. Pure.

use kvcluster_api::resource::KvClusterStatus;
use kvcluster_api::tolerance::Tolerance;

use super::leader_client::LeaderSeen;
use super::validate::Validated;

/// A number of followers and a write quorum that count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// N.
    pub followers: u16,
    /// W.
    pub write_quorum: u16,
}

impl Rule {
    /// How many followers writes and a restarting leader need: max(W, N - W + 1).
    #[must_use]
    pub fn needed(self) -> u16 {
        Tolerance::of(self.followers, self.write_quorum).followers_needed_to_restart
    }
}

/// The rules that count: the one of the spec, which the leader gets next, the one that waits at the leader, and the one
/// in force: that which the leader reports, or that in the status while no leader is open.
#[must_use]
pub fn rules(cluster: &Validated, leader: &LeaderSeen, previous: &KvClusterStatus) -> Vec<Rule> {
    let rule = |followers, write_quorum| Rule { followers, write_quorum };
    let mut rules = vec![rule(cluster.live.followers, cluster.live.write_quorum)];
    if let Some(leader) = leader.answered() {
        let config = &leader.status.config;
        rules.push(rule(config.in_force.followers, config.in_force.write_quorum));
        rules.extend(config.pending.iter().map(|pending| rule(pending.followers, pending.write_quorum)));
    }
    if leader.open().is_none()
        && let (Some(followers), Some(write_quorum)) = (previous.applied_replicas, previous.applied_write_quorum)
        && let (Ok(followers), Ok(write_quorum)) = (followers.try_into(), write_quorum.try_into())
    {
        rules.push(rule(followers, write_quorum));
    }
    rules
}

/// The number of followers that may be disrupted at once: N - max(W, N - W + 1), the smallest by all rules that count.
///
/// W followers acknowledge writes, and a restarting leader needs max(W, N - W + 1). With durability Memory this also
/// leaves N - (W - 1) followers, so that at most W - 1 are blank.
#[must_use]
pub fn spare_followers(cluster: &Validated, leader: &LeaderSeen, previous: &KvClusterStatus) -> u16 {
    let rules = rules(cluster, leader, previous);
    rules.into_iter().map(|rule| spare(rule.followers, rule.write_quorum)).min().unwrap_or_default()
}

fn spare(followers: u16, write_quorum: u16) -> u16 {
    followers.saturating_sub(Rule { followers, write_quorum }.needed())
}

/// Why the spec leaves no follower to spare, and what a drain needs. None where it leaves one.
#[must_use]
pub fn needed_for_a_drain(cluster: &Validated) -> Option<String> {
    let (followers, write_quorum) = (cluster.live.followers, cluster.live.write_quorum);
    if spare(followers, write_quorum) > 0 {
        return None;
    }
    let change = match followers {
        // With fewer, each quorum needs every follower.
        0..=2 => "at least 3 replicas with writeQuorum 2".to_owned(),
        3 => "writeQuorum 2".to_owned(),
        more => format!("a writeQuorum from 2 to {}", more - 1),
    };
    let why = if write_quorum == followers { "writes need" } else { "a restarting leader needs" };
    Some(format!(
        "writeQuorum {write_quorum} of {followers} replicas leaves no follower to spare, because {why} every one: a drain \
         needs {change}, or disruptionBudget.enabled: false, which lets a drain stop writes"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::validated;

    // Goal: a drain leaves what writes and a restarting leader need. Method: every quorum of up to nine followers.
    #[test]
    fn the_spare_followers_leave_a_quorum_and_one_of_each_quorum_and_at_most_w_minus_1_blank() {
        for followers in 1..=9_u16 {
            for write_quorum in 1..=followers {
                let spare = spare(followers, write_quorum);
                let left = followers - spare;
                assert!(left >= write_quorum, "N {followers} W {write_quorum}: {left} left to acknowledge");
                assert!(left > followers - write_quorum, "N {followers} W {write_quorum}: {left} left to recover from");
                assert!(spare < write_quorum, "N {followers} W {write_quorum}: {spare} blank");
                let one_more = left - 1;
                assert!(one_more < write_quorum || one_more <= followers - write_quorum, "one more could be spared");
            }
        }
    }

    #[test]
    fn a_quorum_without_a_spare_follower_says_what_a_drain_needs() {
        let needed = |replicas: u16, quorum: u16| {
            needed_for_a_drain(&validated(&format!("{{replicas: {replicas}, writeQuorum: {quorum}}}")))
        };
        assert_eq!(needed(5, 3), None);
        for (replicas, quorum, words) in [
            (5, 5, "because writes need every one: a drain needs a writeQuorum from 2 to 4, or"),
            (5, 1, "because a restarting leader needs every one: a drain needs a writeQuorum from 2 to 4, or"),
            (3, 3, "a drain needs writeQuorum 2, or disruptionBudget.enabled: false"),
            (2, 1, "a drain needs at least 3 replicas with writeQuorum 2, or"),
        ] {
            let message = needed(replicas, quorum).expect("no follower to spare");
            assert!(message.contains(words), "{message}");
        }
    }
}
