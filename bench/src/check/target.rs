//! What a cluster has to offer to be broken: a place for each way of running one.

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use kvcluster_api::status::{FollowerState, LeaderState, LeaderStatus};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{faults::Fault, history::FinalDump};
use crate::client::{Credentials, NodeClient, until_answered};

/// A node as clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name, for people.
    pub name: Arc<str>,
    /// `http://host:port`.
    pub url: String,
    /// Where a leader listens for Redis' protocol, `host:port`.
    pub redis: String,
    /// Which life of its process it is, counted from 1; nothing while it is being ended or started.
    pub incarnation: Option<u32>,
}

/// The nodes that clients may ask at present, whether or not they answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// One, or more while leaders replace each other.
    pub leaders: Vec<Endpoint>,
    /// All followers.
    pub followers: Vec<Endpoint>,
}

/// A cluster that can be broken and mended.
pub trait Breakable: Send {
    /// What it is, for the reports.
    fn description(&self) -> String;

    /// What its nodes ask for.
    fn credentials(&self) -> Credentials;

    /// Where its nodes are; it changes.
    fn endpoints(&self) -> watch::Receiver<Endpoints>;

    /// A fault as this cluster's people would say it.
    fn words(&self, fault: Fault) -> String {
        fault.to_string()
    }

    /// Does it.
    ///
    /// # Errors
    /// When it cannot be done; the check ends there.
    fn strike(&mut self, fault: Fault) -> impl Future<Output = Result<()>> + Send;

    /// Undoes it: what was killed starts, what stood still goes on.
    ///
    /// # Errors
    /// When it cannot be undone.
    fn mend(&mut self, fault: Fault) -> impl Future<Output = Result<()>> + Send;

    /// Waits, once everything is mended, until one leader is open under the quorum that was asked for, every follower
    /// takes part, and each has everything that was accepted before.
    ///
    /// # Errors
    /// When it takes too long or a node ended by itself.
    fn heal(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// The data of every node, the leader's first.
    ///
    /// # Errors
    /// When one does not answer.
    fn dumps(&mut self) -> impl Future<Output = Result<Vec<FinalDump>>> + Send;

    /// Brings back settings that faults changed, where an error kept them from being undone.
    ///
    /// # Errors
    /// When that fails, too.
    fn restore(&mut self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// Takes these keys out of a cluster that stays.
    ///
    /// # Errors
    /// When the leader does not take that.
    fn forget(&mut self, _keys: &[String]) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }
}

/// Everything that each node has, the leaders first. One that does not answer is asked again for as long as `patience`.
pub(super) async fn dump_all(
    endpoints: &Endpoints,
    http: &reqwest::Client,
    patience: Duration,
) -> Result<Vec<FinalDump>> {
    let mut dumps = Vec::new();
    for Endpoint { name, url, .. } in endpoints.leaders.iter().chain(&endpoints.followers) {
        let client = NodeClient::new(http.clone(), url, None);
        let entries = until_answered(patience, |_| true, || client.dump()).await;
        let entries = entries.with_context(|| format!("failed to dump {name}"))?;
        dumps.push(FinalDump { node: name.to_string(), entries });
    }
    Ok(dumps)
}

/// A wait until nothing is missing.
pub(super) struct Healing {
    began: Instant,
    timeout: Duration,
    interval: Duration,
}

impl Healing {
    /// Begins to wait, with a look every `interval`.
    pub(super) fn begin(timeout: Duration, interval: Duration) -> Self {
        Self { began: Instant::now(), timeout, interval }
    }

    /// For how long it has been waited.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether a look found nothing missing. If it did, or had no answer, returns when it is time for the next one.
    ///
    /// # Errors
    /// When it takes too long, with what is missing.
    pub(super) async fn is_over(&self, missing: Result<Option<String>>) -> Result<bool> {
        let Some(missing) = missing.unwrap_or_else(|error| Some(format!("{error:#}"))) else { return Ok(true) };
        if self.elapsed() > self.timeout {
            bail!("the cluster did not heal within {} s: {missing}", self.timeout.as_secs());
        }
        sleep(self.interval).await;
        Ok(false)
    }
}

/// What an open leader of `followers` still lacks; nothing when all take part and have everything that was accepted before
/// the last `elapsed`.
pub(super) fn missing(status: &LeaderStatus, followers: usize, elapsed: Duration) -> Option<String> {
    let LeaderStatus { state, message, .. } = status;
    if *state != LeaderState::Open {
        return Some(format!("the leader is {state}: {message}"));
    }
    let members = status.followers.iter().filter(|follower| follower.member).count();
    if members != followers || status.followers.len() != followers {
        return Some(format!("the leader knows {} followers, {members} of them members", status.followers.len()));
    }
    let lagging = status.followers.iter().find(|follower| {
        let is_late = follower.lag_ms >= elapsed.as_secs_f64() * 1e3;
        follower.state != FollowerState::Streaming || is_late
    });
    lagging.map(|follower| format!("{} is {}, {:.0} ms behind", follower.name, follower.state, follower.lag_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &str, followers: &[(&str, bool, f64)]) -> LeaderStatus {
        let follower = |(state, member, lag_ms): &(&str, bool, f64)| serde_json::json!({"name": "http://f:1", "state": state, "member": member, "lag_ms": lag_ms});
        let followers: Vec<_> = followers.iter().map(follower).collect();
        let status = serde_json::json!({"state": state, "message": "for 2 of 3 promises", "followers": followers, "role": "leader",
            "config": {"generation": 1, "write_quorum": 2, "followers": 2, "min_delay_ms": 0, "max_delay_ms": 0,
                "replication_timeout_ms": 500}});
        serde_json::from_value(status).expect("as a leader says it")
    }

    #[tokio::test]
    async fn what_is_missing_is_waited_for_and_named_in_the_end() {
        let missing = || Ok(Some("pod a is not there".to_owned()));
        let healing = Healing::begin(Duration::from_secs(60), Duration::ZERO);
        assert!(!healing.is_over(missing()).await.expect("there is time"));
        assert!(!healing.is_over(Err(anyhow::anyhow!("no route to host"))).await.expect("there is time"));
        assert!(healing.is_over(Ok(None)).await.expect("well"));
        let error = Healing::begin(Duration::ZERO, Duration::ZERO).is_over(missing()).await.expect_err("no time");
        assert_eq!(error.to_string(), "the cluster did not heal within 0 s: pod a is not there");
    }

    #[test]
    fn a_leader_lacks_what_it_waits_for_and_who_is_late() {
        let missing = |state, followers: &[_]| missing(&status(state, followers), 2, Duration::from_millis(50));
        let (well, late, away) = (("streaming", true, 49.0), ("streaming", true, 50.0), ("connecting", true, 0.0));
        assert_eq!(missing("open", &[well, well]), None);
        for (state, followers, expected) in [
            ("recovering", vec![well, well], "the leader is recovering: for 2 of 3 promises"),
            ("open", vec![well], "the leader knows 1 followers, 1 of them members"),
            ("open", vec![well, ("streaming", false, 0.0)], "the leader knows 2 followers, 1 of them members"),
            ("open", vec![well, well, well], "the leader knows 3 followers, 3 of them members"),
            ("open", vec![well, late], "http://f:1 is streaming, 50 ms behind"),
            ("open", vec![away, well], "http://f:1 is connecting, 0 ms behind"),
        ] {
            assert_eq!(missing(state, &followers).as_deref(), Some(expected));
        }
    }
}
