//! Which write quorums meet targets, and what each costs, by theory alone.
//!
//! Every target is met from some quorum on, or up to one: latency grows with W, as does the number of disks that may be
//! lost; stale reads and the followers that may be down become fewer. So what contradicts itself can be said in words.

mod text;
pub mod trace;

use kvcluster_api::{config::FOLLOWERS_MAX, delay::Delays};
use serde::Serialize;

pub use self::text::text;
use crate::theory::{QuorumDelay, StaleReads};

/// So many followers more are tried where no quorum of those that are there meets the targets.
const MORE_FOLLOWERS: u16 = 8;

/// What a quorum must do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The mean latency of writes is at most this, in ms.
    MeanMs(f64),
    /// Half of the writes take at most this, in ms.
    P50Ms(f64),
    /// 99 of 100 writes take at most this, in ms.
    P99Ms(f64),
    /// At most this share of the reads at a random follower is stale, so many ms after the acknowledgement.
    Stale {
        /// From 0 to 1.
        share: f64,
        /// After the acknowledgement.
        after_ms: f64,
    },
    /// Writes go on with so many followers down.
    FollowersDown(u16),
    /// No acknowledged write is lost with so many disks.
    DisksLost(u16),
}

/// What a write quorum costs and buys.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quorum {
    /// W.
    pub write_quorum: u16,
    /// Mean latency that the delays make, in ms.
    pub mean_ms: f64,
    /// Its median.
    pub p50_ms: f64,
    /// Its 99 % quantile.
    pub p99_ms: f64,
    /// The share of reads that are stale after each time of [`Advice::stale_after_ms`].
    pub stale: Vec<f64>,
    /// Followers that may be down before writes stop: N − W.
    pub followers_down: u16,
    /// Disks that may be lost without losing an acknowledged write: W − 1.
    pub disks_lost: u16,
    /// The targets that it does not meet.
    pub misses: Vec<Target>,
}

/// All quorums of a cluster beside the targets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// N.
    pub followers: u16,
    /// The law of the delays, in words.
    pub delays: String,
    /// What was asked for.
    pub targets: Vec<Target>,
    /// The times after the acknowledgement at which stale reads are shown, in ms.
    pub stale_after_ms: Vec<f64>,
    /// From W = 1 to N.
    pub quorums: Vec<Quorum>,
    /// Where none of them meets the targets: the smallest larger cluster with a quorum that does, as (N, W).
    pub larger: Option<(u16, u16)>,
}

impl Advice {
    /// Sets the quorums of a cluster with these delays beside the targets.
    #[must_use]
    pub fn new(delays: &Delays, name: &str, followers: u16, targets: &[Target]) -> Self {
        let mut stale_after_ms = vec![0.0];
        stale_after_ms.extend(targets.iter().filter_map(|target| match target {
            Target::Stale { after_ms, .. } => Some(*after_ms),
            _ => None,
        }));
        stale_after_ms.sort_by(f64::total_cmp);
        stale_after_ms.dedup();
        let quorums = quorums(delays, followers, targets, &stale_after_ms);
        let mut advice = Self {
            followers,
            delays: name.to_owned(),
            targets: targets.to_vec(),
            stale_after_ms,
            quorums,
            larger: None,
        };
        if advice.suitable().next().is_none() {
            let mut sizes = (followers + 1)..=(followers + MORE_FOLLOWERS).min(FOLLOWERS_MAX);
            advice.larger = sizes.find_map(|size| {
                let quorums = self::quorums(delays, size, targets, &advice.stale_after_ms);
                Some((size, quorums.iter().find(|quorum| quorum.misses.is_empty())?.write_quorum))
            });
        }
        advice
    }

    /// The quorums that meet every target, from the fastest on.
    pub fn suitable(&self) -> impl Iterator<Item = &Quorum> {
        self.quorums.iter().filter(|quorum| quorum.misses.is_empty())
    }
}

fn quorums(delays: &Delays, followers: u16, targets: &[Target], stale_after_ms: &[f64]) -> Vec<Quorum> {
    let reads = StaleReads::new(delays, followers);
    let stale: Vec<Vec<f64>> = stale_after_ms.iter().map(|after_ms| reads.probabilities(*after_ms)).collect();
    let quorum = |write_quorum: u16| {
        let law = QuorumDelay::of(delays, followers, write_quorum)?;
        let mut quorum = Quorum {
            write_quorum,
            mean_ms: law.mean_ms(),
            p50_ms: law.quantile_ms(0.5),
            p99_ms: law.quantile_ms(0.99),
            stale: stale.iter().map(|chances| chances[usize::from(write_quorum) - 1]).collect(),
            followers_down: followers - write_quorum,
            disks_lost: write_quorum - 1,
            misses: Vec::new(),
        };
        let misses = |target: &&Target| !quorum.meets(target, stale_after_ms);
        quorum.misses = targets.iter().filter(misses).copied().collect();
        Some(quorum)
    };
    (1..=followers).filter_map(quorum).collect()
}

impl Quorum {
    fn meets(&self, target: &Target, stale_after_ms: &[f64]) -> bool {
        match target {
            Target::MeanMs(ms) => self.mean_ms <= *ms,
            Target::P50Ms(ms) => self.p50_ms <= *ms,
            Target::P99Ms(ms) => self.p99_ms <= *ms,
            Target::Stale { share, after_ms } => {
                let place = stale_after_ms.iter().position(|ms| ms == after_ms);
                place.is_some_and(|place| self.stale[place] <= *share)
            }
            Target::FollowersDown(count) => self.followers_down >= *count,
            Target::DisksLost(count) => self.disks_lost >= *count,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn advice(law: &str, followers: u16, targets: &[Target]) -> Advice {
        let delays = kv_node::config::parse_delay(law).expect("a law").resolve().expect("a law");
        Advice::new(&delays, law, followers, targets)
    }

    fn suitable(law: &str, targets: &[Target]) -> Vec<u16> {
        advice(law, 5, targets).suitable().map(|quorum| quorum.write_quorum).collect()
    }

    /// The published figures of "yammer": p99 of 4.1, 5.1, 7.3, 223 and 1,226 ms.
    #[test]
    fn each_target_is_met_by_the_quorums_that_meet_it() {
        assert_eq!(suitable("yammer", &[]), [1, 2, 3, 4, 5]);
        assert_eq!(suitable("yammer", &[Target::P99Ms(10.0)]), [1, 2, 3]);
        assert_eq!(suitable("yammer", &[Target::P99Ms(300.0), Target::FollowersDown(1), Target::DisksLost(2)]), [3, 4]);
        assert_eq!(suitable("yammer", &[Target::P50Ms(5.0), Target::MeanMs(20.0)]), [1, 2, 3, 4]);
        let uniform = r#"{"maxMs":200}"#;
        assert_eq!(suitable(uniform, &[Target::Stale { share: 0.15, after_ms: 100.0 }]), [2, 3, 4, 5]);
        assert_eq!(suitable(uniform, &[Target::Stale { share: 0.2, after_ms: 0.0 }]), [4, 5]);
        let both = [Target::Stale { share: 0.2, after_ms: 0.0 }, Target::Stale { share: 0.0, after_ms: 50.0 }];
        assert_eq!(suitable(uniform, &both), [5]);
    }

    #[test]
    fn a_quorum_has_its_figures() {
        let advice = advice(r#"{"maxMs":200}"#, 5, &[Target::Stale { share: 0.5, after_ms: 100.0 }]);
        let third = &advice.quorums[2];
        assert!((third.mean_ms - 100.0).abs() < 1e-6 && (third.p50_ms - 100.0).abs() < 1e-3, "{third:?}");
        assert_eq!(advice.stale_after_ms, [0.0, 100.0]);
        assert!((third.stale[0] - 0.4).abs() < 1e-9 && (third.stale[1] - 0.043_75).abs() < 1e-9, "{third:?}");
        assert_eq!((third.followers_down, third.disks_lost), (2, 2));
    }

    #[test]
    fn a_larger_cluster_is_found_where_there_is_one() {
        let targets = [Target::FollowersDown(3), Target::DisksLost(2)];
        assert_eq!(advice(r#"{"maxMs":200}"#, 5, &targets).larger, Some((6, 3)));
        assert_eq!(advice(r#"{"maxMs":200}"#, 5, &[Target::P99Ms(0.5)]).larger, None);
        assert_eq!(advice(r#"{"maxMs":200}"#, 6, &targets).larger, None, "none is needed");
    }
}
