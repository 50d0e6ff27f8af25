//! Asks a leader how it is, and hands it its configuration. Talks to pods, not to Kubernetes.
//!
//! It goes to the pods directly: the Service leaves out a leader that is not open yet, and that one has the most to say.
//! While two leader pods overlap, both are asked, and the one with the higher epoch counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kvcluster_api::config::{ConfigPatch, ConfigView, LiveConfig};
use kvcluster_api::error::ErrorBody;
use kvcluster_api::status::{Epoch, LeaderState, LeaderStatus};

use crate::build::PORT;
use crate::pods;

/// How long a leader may take to answer.
const TIMEOUT: Duration = Duration::from_millis(1500);
/// For how long a leader that does not answer is asked again, where refusals come at once.
const PERSISTENCE: Duration = Duration::from_millis(1500);
/// How long a change of the configuration may take to be in force before it is reported as pending.
const IN_FORCE_WAIT_MS: u64 = 700;

/// What is known of the leader.
#[derive(Clone, Debug, PartialEq)]
pub enum LeaderSeen {
    /// There is no leader pod, or none that runs; with the reason.
    NotRunning(String),
    /// A pod runs and does not answer; with its name and the error.
    Unreachable(String, String),
    /// It answered.
    Answered(Box<Leader>),
}

/// A leader that answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Leader {
    /// Its pod.
    pub pod: String,
    /// Where it answers, as `http://ADDRESS:PORT`.
    pub url: String,
    /// Whether Kubernetes sends it clients.
    pub ready: bool,
    /// What it says.
    pub status: LeaderStatus,
}

impl LeaderSeen {
    /// The leader, where it answered.
    #[must_use]
    pub fn answered(&self) -> Option<&Leader> {
        match self {
            Self::Answered(leader) => Some(leader),
            Self::NotRunning(_) | Self::Unreachable(..) => None,
        }
    }

    /// The leader, where it takes writes.
    #[must_use]
    pub fn open(&self) -> Option<&Leader> {
        self.answered().filter(|leader| leader.status.state == LeaderState::Open)
    }
}

/// The answer to a change of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Configured {
    /// There was nothing to change.
    Unchanged,
    /// Accepted; the leader's configuration afterwards.
    Accepted(ConfigView),
    /// Refused, in the leader's words, or not delivered.
    Failed(String),
}

/// Speaks HTTP with leaders.
#[derive(Clone, Debug)]
pub struct LeaderClient {
    http: reqwest::Client,
    port: u16,
}

impl LeaderClient {
    /// A client for leaders that listen on the usual port.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn new() -> Result<Self, reqwest::Error> {
        Self::on_port(u16::try_from(PORT).unwrap_or(8000))
    }

    /// A client for leaders that listen on this port.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn on_port(port: u16) -> Result<Self, reqwest::Error> {
        // A pooled connection to a pod that is gone would be noticed by a timeout only.
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            .pool_idle_timeout(Duration::from_secs(10))
            .build()?;
        Ok(Self { http, port })
    }

    /// Asks the leader pods of a cluster, and tells what is known of its leader.
    ///
    /// A refused connection is tried again for a moment: a NetworkPolicy admits an operator that has just started only
    /// after a while, and that is no news about the leader.
    pub async fn observe(&self, leader_pods: &[Arc<Pod>]) -> LeaderSeen {
        let started = Instant::now();
        loop {
            let seen = self.observe_once(leader_pods).await;
            if !matches!(seen, LeaderSeen::Unreachable(..)) || started.elapsed() > PERSISTENCE {
                return seen;
            }
            tokio::time::sleep(PERSISTENCE / 5).await;
        }
    }

    async fn observe_once(&self, leader_pods: &[Arc<Pod>]) -> LeaderSeen {
        let running: Vec<(&Pod, &str)> =
            leader_pods.iter().filter_map(|pod| Some((pod.as_ref(), pods::running_address(pod)?))).collect();
        let answers = join_all(running.iter().map(|(pod, address)| self.ask(pod, address))).await;
        let mut silent = None;
        let mut best: Option<Leader> = None;
        for ((pod, _), answer) in running.iter().zip(answers) {
            match answer {
                Ok(leader) if best.as_ref().is_none_or(|best| rank(&leader) > rank(best)) => best = Some(leader),
                Ok(_) => {}
                // What Kubernetes knows of the pod says more than a refused connection.
                Err(error) => {
                    silent = Some(match pods::problem(pod) {
                        Some(problem) => LeaderSeen::NotRunning(problem),
                        None => LeaderSeen::Unreachable(pod.name_any(), error),
                    });
                }
            }
        }
        best.map(|leader| LeaderSeen::Answered(Box::new(leader))).or(silent).unwrap_or_else(|| {
            let reason = leader_pods.iter().find_map(|pod| pods::problem(pod));
            LeaderSeen::NotRunning(reason.unwrap_or_else(|| "no leader pod runs".to_owned()))
        })
    }

    async fn ask(&self, pod: &Pod, address: &str) -> Result<Leader, String> {
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let url = format!("http://{host}:{}", self.port);
        let response = self.http.get(format!("{url}/status")).send().await.map_err(|error| brief(&error))?;
        if !response.status().is_success() {
            return Err(format!("/status answered {}", response.status()));
        }
        let status =
            response.json().await.map_err(|error| format!("/status is not that of a leader: {}", brief(&error)))?;
        Ok(Leader { pod: pod.name_any(), url, ready: pods::is_ready(pod), status })
    }

    /// Sends the leader the values that it should use, unless they are in force or pending there already.
    pub async fn configure(&self, leader: &Leader, wanted: &LiveConfig, token: &str) -> Configured {
        let newest = leader.status.config.newest();
        if newest.has_values_of(wanted) || leader.status.state < LeaderState::Recovering {
            return Configured::Unchanged;
        }
        // The generation of the resource, so that what is in force can be traced to it. A higher one where someone
        // changed the leader's configuration directly.
        let generation = wanted.generation.max(newest.generation + 1);
        let patch = ConfigPatch::from(LiveConfig { generation, ..*wanted });
        let url = format!("{}/config?wait_ms={IN_FORCE_WAIT_MS}", leader.url);
        let response = match self.http.patch(url).bearer_auth(token).json(&patch).send().await {
            Ok(response) => response,
            Err(error) => return Configured::Failed(brief(&error)),
        };
        let status = response.status();
        if status.is_success() {
            return match response.json().await {
                Ok(view) => Configured::Accepted(view),
                Err(error) => {
                    Configured::Failed(format!("the leader's answer is not a configuration: {}", brief(&error)))
                }
            };
        }
        let body: ErrorBody = response.json().await.unwrap_or_default();
        let sentence = body.sentence().unwrap_or("no message");
        Configured::Failed(format!("the leader answered {}: {sentence}", status.as_u16()))
    }
}

// An open leader before one that is not, then the higher epoch.
fn rank(leader: &Leader) -> (LeaderState, Option<&Epoch>) {
    (leader.status.state, leader.status.epoch.as_ref())
}

// The innermost cause says what happened; the outer ones name a URL that the reader knows.
fn brief(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if error.is_timeout() { format!("no answer within {} ms", TIMEOUT.as_millis()) } else { cause.to_string() }
}
