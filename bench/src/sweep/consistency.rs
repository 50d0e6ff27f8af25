//! After the writes: waits until replication has drained, then compares every follower's data with the leader's.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::sleep;

use crate::client::{Dump, NodeClient};

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What the comparison found.
#[derive(Clone, Debug, Serialize)]
pub struct ConsistencyReport {
    /// How long it took until every follower had confirmed every write, in ms; absent when the time was up before.
    pub drained_after_ms: Option<f64>,
    /// Why it is not known to have drained.
    pub not_drained: Option<String>,
    /// Each follower beside the leader, in order.
    pub followers: Vec<FollowerCheck>,
}

/// One follower's data beside the leader's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FollowerCheck {
    /// Where the follower is.
    pub url: String,
    /// Number of the follower's keys.
    pub keys: usize,
    /// Number of the leader's keys.
    pub leader_keys: usize,
    /// Number of the leader's keys that the follower does not have.
    pub missing: usize,
    /// Number of keys that both have with different sequence numbers or values, or that only the follower has.
    pub mismatches: usize,
    /// Why the data could not be compared.
    pub error: Option<String>,
}

impl ConsistencyReport {
    /// Whether every follower has the same data as the leader.
    pub fn is_consistent(&self) -> bool {
        self.followers.iter().all(FollowerCheck::is_consistent)
    }
}

impl FollowerCheck {
    /// Whether it has the same data as the leader.
    pub fn is_consistent(&self) -> bool {
        self.error.is_none() && self.missing == 0 && self.mismatches == 0
    }

    /// "10/10 keys, 0 mismatches".
    pub fn words(&self) -> String {
        match &self.error {
            Some(error) => error.clone(),
            None => format!("{}/{} keys, {} mismatches", self.keys, self.leader_keys, self.mismatches),
        }
    }

    fn failed(url: &str, error: String) -> Self {
        Self { url: url.to_owned(), keys: 0, leader_keys: 0, missing: 0, mismatches: 0, error: Some(error) }
    }

    fn compare(url: &str, leader: &Dump, follower: &Dump) -> Self {
        let differing = leader.iter().filter(|(key, entry)| follower.get(*key).is_some_and(|held| held != *entry));
        let surplus = follower.keys().filter(|key| !leader.contains_key(*key));
        Self {
            url: url.to_owned(),
            keys: follower.len(),
            leader_keys: leader.len(),
            missing: leader.keys().filter(|key| !follower.contains_key(*key)).count(),
            mismatches: differing.count() + surplus.count(),
            error: None,
        }
    }
}

/// Waits up to `drain_timeout` for an empty backlog, then compares.
pub async fn check(leader: &NodeClient, followers: &[NodeClient], drain_timeout: Duration) -> ConsistencyReport {
    let (drained_after_ms, not_drained) = match drain(leader, drain_timeout).await {
        Ok(waited) => (Some(waited.as_secs_f64() * 1e3), None),
        Err(why) => (None, Some(why)),
    };
    let mut checks = Vec::with_capacity(followers.len());
    match leader.dump().await {
        Ok(leader_dump) => {
            for follower in followers {
                checks.push(match follower.dump().await {
                    Ok(dump) => FollowerCheck::compare(follower.url(), &leader_dump, &dump),
                    Err(error) => FollowerCheck::failed(follower.url(), format!("{error:#}")),
                });
            }
        }
        Err(error) => checks.push(FollowerCheck::failed(leader.url(), format!("{error:#}"))),
    }
    ConsistencyReport { drained_after_ms, not_drained, followers: checks }
}

async fn drain(leader: &NodeClient, timeout: Duration) -> Result<Duration, String> {
    let began = Instant::now();
    loop {
        let backlog = leader.status().await.map_err(|error| format!("{error:#}"))?.writes.backlog;
        if backlog == 0 {
            return Ok(began.elapsed());
        }
        if began.elapsed() > timeout {
            return Err(format!("{backlog} writes still lacked a follower after {} s", timeout.as_secs()));
        }
        sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Entry;

    fn dump(entries: &[(&str, &str, u64)]) -> Dump {
        let entry = |value: &str, seq| Entry { value: value.into(), seq };
        entries.iter().map(|(key, value, seq)| ((*key).to_owned(), entry(value, *seq))).collect()
    }

    #[test]
    fn the_seed_s_line_counts_keys_and_mismatches() {
        let leader = dump(&[("key0", "a", 4), ("key1", "b", 7), ("key2", "c", 2)]);
        let same = FollowerCheck::compare("http://f", &leader, &leader.clone());
        assert!(same.is_consistent());
        assert_eq!(same.words(), "3/3 keys, 0 mismatches");

        let other = dump(&[("key0", "a", 3), ("key1", "x", 7), ("key9", "z", 1)]);
        let check = FollowerCheck::compare("http://f", &leader, &other);
        assert_eq!((check.missing, check.mismatches), (1, 3), "older seq, other value, surplus key; key2 is missing");
        assert!(!check.is_consistent());

        let behind = FollowerCheck::compare("http://f", &leader, &dump(&[("key1", "b", 7)]));
        assert_eq!(behind.words(), "1/3 keys, 0 mismatches");
        assert!(!behind.is_consistent(), "a missing key is a difference too");
    }
}
