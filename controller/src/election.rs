//! Which of the operator's replicas reconciles: the one that holds a Lease.
//!
//! The election never compares the clocks of two machines. A replica takes the Lease over after it has seen the record
//! unchanged for the whole lease duration. A holder that cannot renew it in less time stops reconciling.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use rand::RngExt;
use thiserror::Error;

/// How long a Lease counts after its last renewal.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long a holder goes on without a renewal: less than the lease duration, after which another replica begins.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often the holder renews it, and the other replicas read it.
const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// How long one request may take: several fit into the deadline.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// The Lease was lost: another replica may be reconciling already.
#[derive(Debug, Error)]
pub enum Lost {
    /// Another replica has it.
    #[error("lost the lease to {0}")]
    Taken(String),
    /// It was not renewed in time.
    #[error("lost the lease: failed to renew it for {seconds} s: {source}")]
    Expired {
        /// How long ago the last renewal was.
        seconds: u64,
        /// Why the last attempt failed.
        source: AttemptError,
    },
}

/// Why the Lease could not be read or written.
#[derive(Debug, Error)]
pub enum AttemptError {
    /// The API server refused or could not be reached.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The API server did not answer in time.
    #[error("no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
}

/// Competes for a Lease.
pub struct Election {
    leases: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    /// The record as it was read last, and when it was first read with this content.
    observed: Option<(LeaseSpec, Instant)>,
}

/// The result of one attempt to take or renew the Lease.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Mine,
    Held(String),
}

impl Election {
    /// Competes for the Lease `name` as `identity`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            observed: None,
        }
    }

    /// Waits until this replica holds the Lease. Calls `looked` after each attempt.
    pub async fn acquire(&mut self, looked: impl Fn()) {
        let mut holder_before = None;
        loop {
            let turn = self.attempt_in_time().await;
            looked();
            match turn {
                Ok(Turn::Mine) => {
                    tracing::info!(lease = self.name, identity = self.identity, "leading");
                    return;
                }
                Ok(Turn::Held(holder)) => {
                    if holder_before.as_ref() != Some(&holder) {
                        tracing::info!(lease = self.name, holder, "another replica leads");
                        holder_before = Some(holder);
                    }
                }
                Err(error) => tracing::warn!(%error, lease = self.name, "failed to read the lease"),
            }
            let pause = RETRY_PERIOD.mul_f64(rand::rng().random_range(1.0..1.2));
            tokio::time::sleep(pause).await;
        }
    }

    /// Renews the Lease until that fails, and returns why. Calls `looked` after each attempt.
    pub async fn keep(&mut self, looked: impl Fn()) -> Lost {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RETRY_PERIOD).await;
            let turn = self.attempt_in_time().await;
            looked();
            match turn {
                Ok(Turn::Mine) => renewed = Instant::now(),
                Ok(Turn::Held(holder)) => return Lost::Taken(holder),
                Err(source) if renewed.elapsed() >= RENEW_DEADLINE => {
                    return Lost::Expired { seconds: renewed.elapsed().as_secs(), source };
                }
                Err(error) => tracing::warn!(%error, lease = self.name, "failed to renew the lease"),
            }
        }
    }

    /// Releases the Lease, so that another replica can take it at once.
    pub async fn release(&mut self) {
        let released = tokio::time::timeout(REQUEST_TIMEOUT, async {
            let mut lease = self.leases.get(&self.name).await?;
            let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
            else {
                return Ok(());
            };
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            self.leases.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
        });
        match released.await {
            Ok(Ok(())) => tracing::info!(lease = self.name, "released the lease"),
            Ok(Err(error)) => tracing::warn!(%error, lease = self.name, "failed to release the lease"),
            Err(_) => tracing::warn!(lease = self.name, "failed to release the lease in time"),
        }
    }

    async fn attempt_in_time(&mut self) -> Result<Turn, AttemptError> {
        match tokio::time::timeout(REQUEST_TIMEOUT, self.attempt()).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(AttemptError::Timeout),
        }
    }

    async fn attempt(&mut self) -> Result<Turn, kube::Error> {
        let now = Timestamp::now();
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            let metadata = ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            };
            let new = Lease { metadata, spec: Some(self.taken(None, now)) };
            let created = self.leases.create(&PostParams::default(), &new).await?;
            self.observe(created.spec.unwrap_or_default());
            return Ok(Turn::Mine);
        };
        let found = lease.spec.clone().unwrap_or_default();
        let since = self.observe(found.clone());
        if let Some(holder) = held_by_another(&found, &self.identity, since.elapsed()) {
            return Ok(Turn::Held(holder));
        }
        // With the version that was read, so that the API server refuses one of two replicas that write at once.
        lease.spec = Some(self.taken(Some(found), now));
        let written = self.leases.replace(&self.name, &PostParams::default(), &lease).await?;
        self.observe(written.spec.unwrap_or_default());
        Ok(Turn::Mine)
    }

    fn observe(&mut self, spec: LeaseSpec) -> Instant {
        match &self.observed {
            Some((before, since)) if *before == spec => *since,
            _ => {
                let now = Instant::now();
                self.observed = Some((spec, now));
                now
            }
        }
    }

    fn taken(&self, before: Option<LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let before = before.unwrap_or_default();
        let renewal = before.holder_identity.as_ref() == Some(&self.identity);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            renew_time: Some(MicroTime(now)),
            acquire_time: if renewal { before.acquire_time } else { Some(MicroTime(now)) },
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!renewal)),
            ..LeaseSpec::default()
        }
    }
}

/// The other replica that holds the Lease, unless the Lease has expired.
fn held_by_another(lease: &LeaseSpec, me: &str, unchanged_for: Duration) -> Option<String> {
    let holder = lease.holder_identity.as_deref().filter(|holder| !holder.is_empty() && *holder != me)?;
    let duration = lease
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(LEASE_DURATION, Duration::from_secs);
    (unchanged_for < duration).then(|| holder.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(holder: &str) -> LeaseSpec {
        LeaseSpec { holder_identity: Some(holder.to_owned()), lease_duration_seconds: Some(15), ..LeaseSpec::default() }
    }

    #[test]
    fn a_lease_is_taken_over_only_after_it_stayed_unchanged_for_its_whole_duration() {
        assert_eq!(held_by_another(&held("b"), "a", Duration::from_secs(14)).as_deref(), Some("b"));
        assert_eq!(held_by_another(&held("b"), "a", Duration::from_secs(15)), None);
        assert_eq!(held_by_another(&held("a"), "a", Duration::ZERO), None, "it is ours");
        assert_eq!(held_by_another(&held(""), "a", Duration::ZERO), None, "it was released");
    }
}
