//! Speaks HTTP with leaders: asks one for its status, and sends it its configuration.
//!
//! Requests go to the pods directly. The Service leaves out a leader that is not open, and the status of that one matters
//! most. While two leader pods overlap, the operator asks both, and the one with the higher epoch counts.
//! Pods have no names of their own in certificates, so each has to show the name of the leader's Service.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use http::StatusCode;
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kvcluster_api::config::{ConfigPatch, ConfigView, LiveConfig};
use kvcluster_api::error::ErrorBody;
use kvcluster_api::status::{Epoch, LeaderState, LeaderStatus, WriteCounts};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::time::timeout;

use super::certificates;
use super::requests::{Answer, RequestError, Requests};
use super::tokens::{Question, Said};
use crate::build::PORT;
use crate::pods;

/// How long the operator repeats requests that no leader answers.
const PERSISTENCE: Duration = Duration::from_millis(1500);
/// How long a leader may wait within one request until a change of the configuration is in force.
const IN_FORCE_WAIT_MS: u64 = 700;

/// What is known of the leader.
#[derive(Debug)]
pub enum LeaderSeen {
    /// No leader pod runs, with the reason.
    NotRunning(String),
    /// A pod runs and does not answer.
    Unreachable {
        /// The name of the pod.
        pod: String,
        /// Why there is no answer.
        error: LeaderError,
    },
    /// It answered.
    Answered(Box<Leader>),
}

/// Why a leader gave no usable answer.
#[derive(Debug, Error)]
pub enum LeaderError {
    /// There was no answer.
    #[error(transparent)]
    NoAnswer(#[from] RequestError),
    /// It answered with an error.
    #[error("the leader answered {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The leader's message.
        message: String,
    },
    /// Its answer is not the expected document.
    #[error("the leader's answer is not a {expected}: {source}")]
    Malformed {
        /// The expected document.
        expected: &'static str,
        /// Why it could not be read.
        source: serde_json::Error,
    },
}

/// A leader that answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Leader {
    /// Its pod.
    pub pod: String,
    /// Its base URL, `http://ADDRESS:PORT` or `https://ADDRESS:PORT`.
    pub url: String,
    /// Whether the Service sends it clients: its pod is ready, or labelled as the one that leads.
    pub reached: bool,
    /// Its answer.
    pub status: LeaderStatus,
}

impl Leader {
    /// The answer without what changes while nothing happens that the status of a cluster depends on.
    #[must_use]
    pub fn essence(&self) -> Self {
        let mut leader = self.clone();
        leader.status.keys = 0;
        leader.status.writes = WriteCounts::default();
        for follower in &mut leader.status.followers {
            follower.lag_writes = 0;
            follower.lag_ms = 0.0;
        }
        leader
    }
}

impl LeaderSeen {
    /// The leader, where it answered.
    #[must_use]
    pub fn answered(&self) -> Option<&Leader> {
        match self {
            Self::Answered(leader) => Some(leader),
            Self::NotRunning(_) | Self::Unreachable { .. } => None,
        }
    }

    /// The leader, where it takes writes.
    #[must_use]
    pub fn open(&self) -> Option<&Leader> {
        self.answered().filter(|leader| leader.status.state == LeaderState::Open)
    }
}

/// The answer to a change of the configuration.
#[derive(Debug)]
pub enum Configured {
    /// There was nothing to change.
    Unchanged,
    /// The leader accepted it. Its configuration afterwards.
    Accepted(ConfigView),
    /// The leader refused it, or gave no answer.
    Failed(LeaderError),
}

/// The ways to the leaders of all clusters.
#[derive(Debug)]
pub struct LeaderClients {
    plain: LeaderClient,
    /// By namespace and name, those of clusters with TLS, each with the CAs that it trusts.
    over_tls: Mutex<HashMap<(String, String), (String, LeaderClient)>>,
}

impl LeaderClients {
    /// For leaders that listen on the usual port.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new() -> Result<Self, rustls::Error> {
        Self::on_port(u16::try_from(PORT).unwrap_or(8000))
    }

    /// For leaders that listen on this port.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn on_port(port: u16) -> Result<Self, rustls::Error> {
        Ok(Self { plain: LeaderClient { http: Requests::plain()?, port }, over_tls: Mutex::default() })
    }

    /// From now on the nodes of this cluster speak TLS, with certificates of these CAs. What was trusted before stays in use
    /// while no CA is known; without any, no node is trusted.
    ///
    /// # Errors
    /// When the CAs cannot be used.
    pub fn trust(&self, namespace: &str, cluster: &str, trusted: Option<&str>) -> Result<(), rustls::Error> {
        let mut clients = self.over_tls.lock();
        let known = clients.get(&(namespace.to_owned(), cluster.to_owned()));
        if known.is_some_and(|(before, _)| trusted.is_none_or(|trusted| trusted == before)) {
            return Ok(());
        }
        let trusted = trusted.unwrap_or_default();
        let http = Requests::over_tls(trusted, &certificates::server_name(namespace, cluster))?;
        let client = LeaderClient { http, port: self.plain.port };
        clients.insert((namespace.to_owned(), cluster.to_owned()), (trusted.to_owned(), client));
        Ok(())
    }

    /// The nodes of this cluster speak without TLS, or it is gone.
    pub fn forget(&self, namespace: &str, cluster: &str) {
        self.over_tls.lock().remove(&(namespace.to_owned(), cluster.to_owned()));
    }

    /// The way to the leaders of a cluster.
    #[must_use]
    pub fn of(&self, namespace: &str, cluster: &str) -> LeaderClient {
        let clients = self.over_tls.lock();
        clients.get(&(namespace.to_owned(), cluster.to_owned())).map_or(&self.plain, |(_, client)| client).clone()
    }
}

/// Speaks HTTP with the leaders of one cluster.
#[derive(Clone, Debug)]
pub struct LeaderClient {
    http: Requests,
    port: u16,
}

impl LeaderClient {
    /// Asks the leader pods of a cluster, and returns what is known of its leader.
    ///
    /// Requests without an answer are repeated for a moment: a NetworkPolicy admits a new operator only after a while,
    /// and the refusals until then say nothing about the leader. So are those that only standbys answer: one of them leads
    /// soon, and until then it knows less of the cluster than a leader.
    ///
    /// `patient` is false where no leader answered the last time either: then one request is enough.
    pub async fn observe(&self, leader_pods: &[Arc<Pod>], patient: bool) -> LeaderSeen {
        let started = Instant::now();
        loop {
            let seen = self.observe_once(leader_pods).await;
            let repeats = match &seen {
                LeaderSeen::Unreachable { .. } => true,
                LeaderSeen::Answered(leader) => leader.status.state == LeaderState::Standby,
                LeaderSeen::NotRunning(_) => false,
            };
            if !repeats || !patient || started.elapsed() > PERSISTENCE {
                return seen;
            }
            tokio::time::sleep(PERSISTENCE / 5).await;
        }
    }

    /// Asks the leader pods of a cluster, and returns the open leader with the highest epoch of those that answer within
    /// `patience`.
    pub async fn find_open(&self, leader_pods: &[Arc<Pod>], patience: Duration) -> Option<Leader> {
        let asked = running(leader_pods).map(|(pod, address)| timeout(patience, self.ask(pod, address)));
        let answered = join_all(asked).await.into_iter().flatten().flatten();
        let open = answered.filter(|leader| leader.status.state == LeaderState::Open);
        open.reduce(|best, leader| if rank(&leader) > rank(&best) { leader } else { best })
    }

    async fn observe_once(&self, leader_pods: &[Arc<Pod>]) -> LeaderSeen {
        let running: Vec<(&Pod, &str)> = running(leader_pods).collect();
        let answers = join_all(running.iter().map(|(pod, address)| self.ask(pod, address))).await;
        let mut unreachable = None;
        let mut best: Option<Leader> = None;
        for ((pod, _), answer) in running.iter().zip(answers) {
            match answer {
                Ok(leader) if best.as_ref().is_none_or(|best| rank(&leader) > rank(best)) => best = Some(leader),
                Ok(_) => {}
                // What Kubernetes reports of the pod says more than a refused connection.
                Err(error) => {
                    unreachable = Some(match pods::problem(pod) {
                        Some(problem) => LeaderSeen::NotRunning(problem),
                        None => LeaderSeen::Unreachable { pod: pod.name_any(), error },
                    });
                }
            }
        }
        best.map(|leader| LeaderSeen::Answered(Box::new(leader))).or(unreachable).unwrap_or_else(|| {
            let reason = leader_pods.iter().find_map(|pod| pods::problem(pod));
            LeaderSeen::NotRunning(reason.unwrap_or_else(|| "no leader pod runs".to_owned()))
        })
    }

    /// Opens the stream of the leader pod at an address: a [`Leadership`](kvcluster_api::status::Leadership) now and at each
    /// change.
    ///
    /// # Errors
    /// When it has none, or does not answer.
    pub async fn leadership(&self, address: &str) -> Result<Incoming, LeaderError> {
        let (head, body) =
            self.http.open(&format!("{}/leadership", self.url_at(address, self.port))).await?.into_parts();
        if head.status.is_success() {
            return Ok(body);
        }
        let message = "it has no stream of who leads".to_owned();
        Err(LeaderError::Refused { status: head.status.as_u16(), message })
    }

    /// Where this node is administered. Its health and its status are there too.
    fn url(&self, pod: &Pod, address: &str) -> String {
        self.url_at(address, pods::admin_port(pod).unwrap_or(self.port))
    }

    fn url_at(&self, address: &str, port: u16) -> String {
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        format!("{}://{host}:{port}", self.http.scheme())
    }

    async fn ask(&self, pod: &Pod, address: &str) -> Result<Leader, LeaderError> {
        let url = self.url(pod, address);
        let status = read(self.http.get(&format!("{url}/status"), None).await?, "leader's status")?;
        let reached = pods::is_ready(pod) || pods::is_labelled_as_leader(pod);
        Ok(Leader { pod: pod.name_any(), url, reached, status })
    }

    /// Asks a node, leader or follower, which tokens it accepts.
    pub async fn says(&self, pod: &Pod, question: &Question) -> Said {
        let name = pod.name_any();
        let unknown = |why: &dyn Display| Said::Nothing(format!("{name}: {why}"));
        let Some(address) = pods::running_address(pod) else {
            return Said::Nothing(pods::problem(pod).unwrap_or_else(|| format!("{name}: does not run yet")));
        };
        let url = format!("{}/auth", self.url(pod, address));
        let tokens = match question {
            Question::Accepts(token) => std::slice::from_ref(token),
            Question::Refuse(tokens) => tokens,
        };
        for token in tokens {
            match self.http.get(&url, Some(token)).await {
                Ok(answer) if answer.status.is_success() => return Said::Accepts,
                Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => {}
                Ok(answer) => return unknown(&format!("answers {} to GET /auth", answer.status.as_u16())),
                Err(error) => return unknown(&LeaderError::from(error)),
            }
        }
        Said::Refuses
    }

    /// Sends the leader the values that it should use, unless they are in force or pending there already. The leader may not
    /// have read the first token yet, so it is shown the next one where it refuses.
    pub async fn configure(&self, leader: &Leader, wanted: &LiveConfig, tokens: &[String]) -> Configured {
        let newest = leader.status.config.newest();
        if newest.has_values_of(wanted) || leader.status.state < LeaderState::Recovering {
            return Configured::Unchanged;
        }
        // The generation of the resource, so that what is in force can be traced to it. A higher one where someone
        // changed the leader's configuration directly.
        let generation = wanted.generation.max(newest.generation + 1);
        let patch = ConfigPatch::from(LiveConfig { generation, ..wanted.clone() });
        let url = format!("{}/config?wait_ms={IN_FORCE_WAIT_MS}", leader.url);
        let mut tokens = tokens.iter().peekable();
        loop {
            let token = tokens.next().map(String::as_str).unwrap_or_default();
            let answer = self.http.patch(&url, token, &patch).await.map_err(LeaderError::from);
            match answer.and_then(|answer| read(answer, "configuration")) {
                Ok(view) => return Configured::Accepted(view),
                Err(LeaderError::Refused { status: 401, .. }) if tokens.peek().is_some() => {}
                Err(error) => return Configured::Failed(error),
            }
        }
    }
}

/// The running pods, each with its address.
fn running(leader_pods: &[Arc<Pod>]) -> impl Iterator<Item = (&Pod, &str)> {
    leader_pods.iter().filter_map(|pod| Some((pod.as_ref(), pods::running_address(pod)?)))
}

/// Reads the document that answers a request.
fn read<T: DeserializeOwned>(answer: Answer, expected: &'static str) -> Result<T, LeaderError> {
    let Answer { status, body } = answer;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|source| LeaderError::Malformed { expected, source });
    }
    let body: ErrorBody = serde_json::from_slice(&body).unwrap_or_default();
    let message = body.sentence().unwrap_or("no message").to_owned();
    Err(LeaderError::Refused { status: status.as_u16(), message })
}

/// An open leader counts more than one that is not, then the higher epoch.
fn rank(leader: &Leader) -> (LeaderState, Option<&Epoch>) {
    (leader.status.state, leader.status.epoch.as_ref())
}
